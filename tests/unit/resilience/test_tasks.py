"""A task behind the calls that fails is told of at once, not when its owner ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from feedcore.resilience import tasks


async def _fails(after: asyncio.Event) -> None:
    await after.wait()
    raise ZeroDivisionError("nobody expected this")


@pytest.mark.parametrize("end", ["cancelled", "returned", "failed"])
async def test_only_a_failure_is_told_and_at_once(end: str) -> None:
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: told.append(context))
    go = asyncio.Event()

    async def returns() -> None:
        await go.wait()

    task = tasks.start(_fails(go) if end == "failed" else returns(), "the ledger")
    if end == "cancelled":
        task.cancel()
    go.set()
    await asyncio.wait([task])
    assert len(told) == (end == "failed")
    if told:
        assert told[0][tasks.FATAL] and "the ledger" in told[0]["message"]
        assert isinstance(told[0]["exception"], ZeroDivisionError)
