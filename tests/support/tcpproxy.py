"""A TCP proxy in front of a real server, for what a test may not do to a server that it shares:
die, come back, and fall silent.

Not for load: one loop carries every byte.
"""

from __future__ import annotations

import asyncio

CHUNK = 65_536


class Proxy:
    """`async with Proxy(host, port) as proxy:` listens on `proxy.port`, the same one throughout."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()
        self.port = 0
        self.accepted = 0

    async def __aenter__(self) -> Proxy:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listens, again after `stop`."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Resets every connection; new ones are refused."""
        self._flows.set()
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        while self._tasks:  # aborted, so that they end by themselves
            await asyncio.wait(self._tasks)

    def stall(self) -> None:
        """Connections stay, nothing comes through."""
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            behind_reader, behind = await asyncio.open_connection(*self._to)
            self._writers.add(behind)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, behind))
                group.create_task(self._pump(behind_reader, writer))
        except (OSError, ExceptionGroup):
            return  # a connection that ended, as this proxy is for
        finally:
            for one in (writer, *([behind] if "behind" in locals() else [])):
                one.transport.abort()
                self._writers.discard(one)
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            await self._flows.wait()
            writer.write(data)
            await writer.drain()
        writer.transport.abort()
