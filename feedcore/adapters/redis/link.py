"""Link: one connection to one Redis node, made when it is needed, and never used after a failure.

A connection is made behind the calls, which fail within their own deadline: the next ones find it.
Not for deciding what waits, nor how long (batcher).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.nodes import Nodes
from feedcore.errors import Unavailable

CONNECT_S = 1.0
CANCEL_AGAIN_S = 0.1
_INFO = ("INFO", "server")
Command = tuple[Any, ...]


class Link:
    """`node`: HOST:PORT."""

    def __init__(self, nodes: Nodes, detector: FailureDetector, node: str) -> None:
        self._nodes = nodes
        self._detector = detector
        self._node = node
        self._connection: Any = None
        self._connecting: asyncio.Task[None] | None = None

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """A reply a command; a refusal is a ResponseError among them. Raises what a connection
        does. One that was idle may have been closed by the server: once more on a new one, since
        everything that is asked or told may be repeated.
        """
        if self._connection is not None:
            try:
                return await self._send(self._connection, commands)
            except (RedisConnectionError, OSError, EOFError):
                await self.drop()
        return await self._send(await self._connect(), commands)

    async def drop(self) -> None:
        """Nothing more comes over this connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Also one that is being made."""
        await end_task(self._connecting)
        await self.drop()

    async def _send(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        return [await _read(connection) for _ in commands]

    async def _connect(self) -> Any:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(
                self._make_connection(), name="redis connection"
            )
            self._connecting.add_done_callback(ignore_failure)
        await asyncio.shield(self._connecting)
        return self._connection

    async def _make_connection(self) -> None:
        connection = self._nodes.connection(self._node)
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()
                await connection.send_command(*_INFO)
                info = await connection.read_response(disable_decoding=True)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            self._connecting = None
        self._detector.connected(self._node, _incarnation_of(info))
        self._connection = connection


async def _read(connection: Any) -> Any:
    try:
        return await connection.read_response(disable_decoding=True)
    except ResponseError as refusal:
        return refusal


def _incarnation_of(info: bytes) -> bytes:
    """8 bytes of the server's run id, which differs for each start."""
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return bytes.fromhex(line[7:23].decode())
    raise Unavailable("redis: INFO server has no run_id")


async def end_task(task: asyncio.Task[Any] | None) -> None:
    """Cancels it until it is over: a client library may lose a cancellation that comes while it
    lets a connection go.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_AGAIN_S)


def ignore_failure(task: asyncio.Task[None]) -> None:
    """A failure that nobody waits for any more was the business of calls that are over."""
    if not task.cancelled():
        task.exception()
