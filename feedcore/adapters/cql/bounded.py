"""Several calls to the cluster at once, of a bounded number: the first error is raised after all
that were begun have ended, so that nothing goes on behind a call that is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from feedcore.adapters.cql.session import Session, Statement

T = TypeVar("T")
R = TypeVar("R")

WIDTH = 32  # calls under way for one caller: enough to hide a round trip, few of what a session has
READ_BATCH = 256  # keys of one `read_many`: a window's worth goes in two, and others get between


async def each(
    items: Sequence[T], work: Callable[[T], Awaitable[R]], width: int = WIDTH
) -> list[R]:
    """`work(item)` for each, at most `width` at once; results in the order of the items."""
    results: list[Any] = [None] * len(items)
    errors: list[Exception] = []
    waiting: Iterator[tuple[int, T]] = iter(enumerate(items))

    async def run() -> None:
        for index, item in waiting:
            try:
                results[index] = await work(item)
            except Exception as error:  # raised below, when the others have ended
                errors.append(error)
            if errors:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(min(width, len(items))):
            group.create_task(run())
    if errors:
        raise errors[0]
    return results


async def together(*calls: Awaitable[Any]) -> list[Any]:
    """All of a few calls at once."""
    return await each(calls, _itself, len(calls))


async def read_each(
    session: Session, statement: Statement, parameters: Sequence[Sequence[Any]]
) -> list[list[tuple]]:
    """`Session.read_many` of any number of keys."""
    found: list[list[tuple]] = []
    for start in range(0, len(parameters), READ_BATCH):
        found += await session.read_many(statement, parameters[start : start + READ_BATCH])
    return found


async def _itself(call: Awaitable[Any]) -> Any:
    return await call
