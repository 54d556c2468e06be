"""A TCP proxy between a client and an engine, which a test makes slow, silent or gone.

Bytes keep their order and arrive whole; a delay moves them, it does not thin them out. Clients of
Kafka, a Redis cluster or three Cassandra nodes learn the engines' own addresses and go around it:
for Kafka listen on `Node.ports["proxied"] + 10` and forward to `ports["proxied"]`. Not for
changing what is said.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from types import TracebackType

CHUNK_BYTES = 65_536
# Chunks on their way in one direction of one connection; beyond that the sender has to wait.
CHUNKS_MAX = 256


# Linger for no time: closing sends RST, not FIN.
RESET = struct.pack("ii", 1, 0)


def reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection.fileno() >= 0:  # else it is closed already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


class Proxy:
    """Listens on loopback and forwards; `async with Proxy(host, port) as proxy`. With `tls` it is
    an engine that wants TLS: what goes on to the target is plain.
    """

    def __init__(
        self, host: str, port: int, listen_port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.target = (host, port)
        self.port = listen_port
        self._tls = tls
        # Seconds that bytes take more, each direction; may be changed at any time.
        self.to_target_s = 0.0
        self.to_client_s = 0.0
        # New connections are closed at once: as an engine that is down.
        self.refusing = False
        self.accepted = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._served: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        self.drop()
        await asyncio.gather(*self._served, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._served)

    def slow(self, delay_s: float) -> None:
        """Both directions, so that a call takes twice as much longer."""
        self.to_target_s = self.to_client_s = delay_s

    def pause(self) -> None:
        """Connections stay open and nothing moves: as an engine that hangs."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def drop(self) -> None:
        """Resets every open connection."""
        for task, writers in list(self._served.items()):
            for writer in writers:
                reset(writer)
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self.refusing:
            reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        writers = self._served[task] = [writer]
        try:
            target_reader, target_writer = await asyncio.open_connection(*self.target)
            writers.append(target_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, target_writer, "to_target_s"))
                both.create_task(self._carry(target_reader, writer, "to_client_s"))
        except* OSError:
            # One side is gone: the other learns it by the close below.
            pass
        except* asyncio.CancelledError:
            # drop(); the server's own callback would report it as an error.
            pass
        finally:
            for one in writers:
                one.close()
            del self._served[task]

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: str
    ) -> None:
        """One direction: what is read now is written after the delay of now."""
        clock = asyncio.get_running_loop().time
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=CHUNKS_MAX)

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(due - clock(), 0.0))
                await self._flowing.wait()
                if not data:
                    writer.write_eof() if writer.can_write_eof() else writer.close()
                    return
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as pair:
            pair.create_task(write())
            data = b"."
            while data:
                data = await reader.read(CHUNK_BYTES)
                await waiting.put((clock() + getattr(self, delay), data))
