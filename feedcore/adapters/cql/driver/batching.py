"""BatchingSession: the calls of a Session that are many requests, made of those that are one."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from feedcore.adapters.cql.driver.in_flight import Flight
from feedcore.adapters.cql.driver.options import MANY_AT_ONCE, PACKED_IN_FLIGHT_MAX
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement, Write
from feedcore.errors import StoreError
from feedcore.resilience.gather import gather_bounded

ID_BYTES = 8
READ_BATCH = 256  # keys of one `read_many`: a window's worth goes in two, and others get between


def strongest(writes: Sequence[Write]) -> Consistency:
    """What a batch of them needs."""
    quorum = any(write.statement.consistency is Consistency.QUORUM for write in writes)
    return Consistency.QUORUM if quorum else Consistency.ONE


class BatchingSession(ABC):
    """`read` and `write` are the driver's."""

    def __init__(self) -> None:
        # who waits is bounded by who calls: each has PACKED_IN_FLIGHT_MAX tasks at most
        self._packed = Flight("packed writes", PACKED_IN_FLIGHT_MAX, sys.maxsize)

    @abstractmethod
    async def read(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[tuple]: ...

    @abstractmethod
    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None: ...

    async def read_many(
        self, statement: Statement, parameters: Sequence[Sequence[Any]]
    ) -> list[list[tuple]]:
        answers: list[list[tuple]] = [[]] * len(parameters)

        async def run(place: int) -> None:
            answers[place] = await self.read(statement, parameters[place])

        await gather_bounded(range(len(parameters)), run, MANY_AT_ONCE)
        return answers

    async def write_many(self, writes: Sequence[Write]) -> None:
        async def run(place: int) -> None:
            await self.write(*writes[place])

        await gather_bounded(range(len(writes)), run, MANY_AT_ONCE)

    async def write_packed(
        self, statement: Statement, ids: bytes, parameters: Sequence[Any]
    ) -> None:
        if len(ids) % ID_BYTES:
            raise ValueError(f"id array: {len(ids)} bytes; a multiple of {ID_BYTES}")
        rest = tuple(parameters)

        async def run(place: int) -> None:
            at = place * ID_BYTES
            one = int.from_bytes(ids[at : at + ID_BYTES], "little")
            await self._packed.admit()
            try:
                await self.write(statement, (one, *rest))
            finally:
                self._packed.land()

        await gather_bounded(range(len(ids) // ID_BYTES), run, PACKED_IN_FLIGHT_MAX)


async def read_each(
    session: Session, statement: Statement, parameters: Sequence[Sequence[Any]]
) -> list[list[tuple]]:
    """`Session.read_many` of any number of keys."""
    found: list[list[tuple]] = []
    for start in range(0, len(parameters), READ_BATCH):
        found += await session.read_many(statement, parameters[start : start + READ_BATCH])
    return found


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
