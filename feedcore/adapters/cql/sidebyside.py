"""BatchingSession: the calls of a Session that are many requests, made of those that are one."""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from feedcore.adapters.cql.flight import Flight
from feedcore.adapters.cql.session import Consistency, Statement, Write
from feedcore.adapters.cql.settings import MANY_AT_ONCE, PACKED_IN_FLIGHT_MAX

ID_BYTES = 8


async def side_by_side(count: int, run: Callable[[int], Awaitable[None]], at_once: int) -> None:
    """run(0) to run(count - 1), at most `at_once` at a time. After an error none is begun any
    more, and it is raised when those under way have ended: what is left would most likely fail,
    too, and the caller repeats everything.
    """
    if count == 1:
        await run(0)
        return
    places = iter(range(count))
    failed: Exception | None = None

    async def work() -> None:
        nonlocal failed
        for place in places:
            if failed is not None:
                return
            try:
                await run(place)
            except Exception as error:
                failed = failed or error

    async with asyncio.TaskGroup() as group:
        for _ in range(min(count, at_once)):
            group.create_task(work())
    if failed is not None:
        raise failed


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

        await side_by_side(len(parameters), run, MANY_AT_ONCE)
        return answers

    async def write_many(self, writes: Sequence[Write]) -> None:
        async def run(place: int) -> None:
            await self.write(*writes[place])

        await side_by_side(len(writes), run, MANY_AT_ONCE)

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

        await side_by_side(len(ids) // ID_BYTES, run, PACKED_IN_FLIGHT_MAX)
