"""A session that tries again: a copy of hours must not end because a node was busy for a second.

Every statement is idempotent, and so is each call here as a whole. Not for serving: callers there
have deadlines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.errors import Unavailable

ATTEMPTS_MAX = 6
PAUSE_FIRST_S = 0.5  # doubled each time: 15 s in all, twice what a node takes to be left out

R = TypeVar("R")


class PatientSession:
    """See `adapters.cql.session.Session`."""

    def __init__(self, session: Session, pause_s: float = PAUSE_FIRST_S) -> None:
        self._session = session
        self._pause_s = pause_s

    async def read(
        self, statement: Statement, parameters: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        return await self._try(lambda: self._session.read(statement, parameters))

    async def read_many(
        self, statement: Statement, parameters: Sequence[Sequence[Any]]
    ) -> list[list[tuple[Any, ...]]]:
        return await self._try(lambda: self._session.read_many(statement, parameters))

    async def read_packed(self, statement: Statement, parameters: Sequence[Any] = ()) -> bytes:
        return await self._try(lambda: self._session.read_packed(statement, parameters))

    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None:
        await self._try(lambda: self._session.write(statement, parameters))

    async def write_many(self, writes: Sequence[Write]) -> None:
        await self._try(lambda: self._session.write_many(writes))

    async def write_packed(
        self, statement: Statement, ids: bytes, parameters: Sequence[Any]
    ) -> None:
        await self._try(lambda: self._session.write_packed(statement, ids, parameters))

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        await self._try(lambda: self._session.batch(writes, logged=logged))

    async def insert_if_absent(
        self, statement: Statement, parameters: Sequence[Any] = ()
    ) -> dict[str, Any] | None:
        return await self._try(lambda: self._session.insert_if_absent(statement, parameters))

    async def close(self) -> None:
        await self._session.close()

    async def _try(self, call: Callable[[], Awaitable[R]]) -> R:
        for attempt in range(ATTEMPTS_MAX - 1):
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(self._pause_s * 2**attempt)
        return await call()
