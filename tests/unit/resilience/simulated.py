"""Runs a coroutine in virtual time: waiting costs nothing, timers may be late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

from tests.support.simloop import SimLoop

T = TypeVar("T")


def simulate(main: Coroutine[Any, Any, T], *, seed: int = 0, late_s: float = 0.0) -> T:
    """The coroutine's result. Fails if a task is left, or the loop had to report a fault."""
    loop = SimLoop(random.Random(seed), late_s)
    try:
        result = loop.run_until_complete(main)
        left = asyncio.all_tasks(loop)
        assert not left, f"left behind: {left}"
        assert not loop.faults, loop.faults
        return result
    finally:
        loop.close()


async def pause(seconds: float) -> None:
    """Comes back when so much virtual time has passed."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    await loop.after(seconds)


class Moment:
    """A clock moved by hand."""

    def __init__(self, at: float = 1_000.0) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at
