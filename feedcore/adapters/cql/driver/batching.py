"""BatchingSession: what the sessions of both drivers do alike. Calls that are many requests are
made of those that are one; a statement is prepared once, also when many ask for it at the same
time; a session ends when nothing of it is under way.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from feedcore.adapters.cql.driver.options import (
    MANY_AT_ONCE,
    PACKED_IN_FLIGHT_MAX,
    PREPARED_MAX,
    CqlSettings,
)
from feedcore.adapters.cql.driver.session import Consistency, Statement, Write
from feedcore.errors import StoreError, Unavailable
from feedcore.resilience.bulkhead import Bulkhead
from feedcore.resilience.gather import gather_bounded

ID_BYTES = 8


def strongest(writes: Sequence[Write]) -> Consistency:
    """What a batch of them needs."""
    quorum = any(write.statement.consistency is Consistency.QUORUM for write in writes)
    return Consistency.QUORUM if quorum else Consistency.ONE


class BatchingSession(ABC):
    """`read`, `write`, `_prepare_now` and `_end` are the driver's."""

    def __init__(self, settings: CqlSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._flight = Bulkhead(
            "the CQL session", active_max=settings.in_flight_max, waiting_max=settings.waiting_max
        )
        # who waits is bounded by who calls: each has PACKED_IN_FLIGHT_MAX tasks at most
        self._packed = Bulkhead(
            "packed writes", active_max=PACKED_IN_FLIGHT_MAX, waiting_max=sys.maxsize
        )
        self._prepared: dict[Statement, Any] = {}
        self._preparing: dict[str, asyncio.Task[Any]] = {}
        self._closed = False

    @abstractmethod
    async def read(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[tuple]: ...

    @abstractmethod
    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None: ...

    @abstractmethod
    async def _prepare_now(self, cql: str) -> Any:
        """What the driver makes of a statement's text."""

    @abstractmethod
    async def _end(self) -> None:
        """Ends the connections: nothing is under way."""

    async def read_many(
        self, statement: Statement, parameters: Sequence[Sequence[Any]]
    ) -> list[list[tuple]]:
        return await gather_bounded(parameters, partial(self.read, statement), MANY_AT_ONCE)

    async def write_many(self, writes: Sequence[Write]) -> None:
        await gather_bounded(writes, lambda one: self.write(*one), MANY_AT_ONCE)

    async def write_packed(
        self, statement: Statement, ids: bytes, parameters: Sequence[Any]
    ) -> None:
        if len(ids) % ID_BYTES:
            raise ValueError(f"id array: {len(ids)} bytes; a multiple of {ID_BYTES}")
        rest = tuple(parameters)

        async def run(place: int) -> None:
            at = place * ID_BYTES
            one = int.from_bytes(ids[at : at + ID_BYTES], "little")
            async with self._packed:
                await self.write(statement, (one, *rest))

        await gather_bounded(range(len(ids) // ID_BYTES), run, PACKED_IN_FLIGHT_MAX)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._flight.emptied()
        for task in list(self._preparing.values()):
            await asyncio.wait([task])
        await self._end()

    def _take_prepared(self, statement: Statement, made: Any) -> Any:
        """What is kept for the statement, of what was made of its text."""
        return made

    async def _prepare(self, statement: Statement) -> Any:
        if self._closed:
            raise Unavailable("the CQL session is closed")
        task = self._preparing.get(statement.cql)
        if task is None:
            if len(self._prepared) >= PREPARED_MAX:
                raise StoreError(
                    f"prepared statements: more than {PREPARED_MAX}; values belong in parameters:"
                    f" {statement.cql[:80]}"
                )
            task = self._loop.create_task(self._prepare_now(statement.cql))
            self._preparing[statement.cql] = task
            task.add_done_callback(partial(self._forget_preparing, statement.cql))
        prepared = self._take_prepared(statement, await asyncio.shield(task))
        self._prepared[statement] = prepared
        return prepared

    def _forget_preparing(self, cql: str, task: asyncio.Task[Any]) -> None:
        del self._preparing[cql]
        if not task.cancelled():
            task.exception()  # who waited has it; who was cancelled does not need it


def pack_values(values: Sequence[Any], statement: Statement) -> bytes:
    """What `Session.read_packed` gives, of decoded values."""
    try:
        return b"".join([value for value in values if value is not None])
    except TypeError:
        return b"".join([_wire(value, statement) for value in values if value is not None])


def _wire(value: Any, statement: Statement) -> bytes:
    """The bytes that a blob or a bigint came as; other types do not say how long they were."""
    if type(value) is int:
        return value.to_bytes(8, "big", signed=True)
    if type(value) is not bytes:
        raise StoreError(f"CQL: packed reads are of blob and bigint columns: {statement.cql}")
    return value
