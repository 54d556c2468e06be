"""Bounded concurrency: several awaitables at once, of a bounded number.

Invariant: the first error is raised after everything that was begun has ended, and nothing is begun
after it, so that no work goes on behind a finished call. Not for work that outlives its caller
(`resilience.tasks`), nor for sharing one load between callers (`resilience.coalescing`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

WIDTH = 32  # calls under way for one caller: enough to hide a round trip, few of a connection's


async def gather_bounded(
    items: Sequence[T], work: Callable[[T], Awaitable[R]], width: int = WIDTH
) -> list[R]:
    """`work(item)` for each, at most `width` at once; results in the order of the items."""
    if len(items) == 1:
        return [await work(items[0])]
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


async def gather_all(*calls: Awaitable[Any]) -> list[Any]:
    """All of a few calls at once."""
    return await gather_bounded(calls, _itself, len(calls))


async def _itself(call: Awaitable[Any]) -> Any:
    return await call
