"""Work behind calls leaves the loop to calls: how long it rests follows from what it took."""

from __future__ import annotations

import asyncio
import time

import pytest

from feedcore.resilience.pacing import Pace

SLICE_S = 0.004


def work(seconds: float) -> None:
    until_s = time.thread_time() + seconds
    while time.thread_time() < until_s:
        pass


async def rests(monkeypatch: pytest.MonkeyPatch, share: float) -> list[float]:
    """What three slices ask for; nothing waits for it."""
    asked: list[float] = []

    async def sleep(seconds: float) -> None:
        asked.append(seconds)

    pace = Pace(share)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    for _ in range(3):
        work(SLICE_S)
        await pace.rest()
    monkeypatch.undo()
    return asked


async def test_a_quarter_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = await rests(monkeypatch, 0.25)
    assert len(asked) == 3 and all(seconds >= 3 * SLICE_S for seconds in asked)


async def test_all_of_the_time_still_lets_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await rests(monkeypatch, 1.0) == [0.0, 0.0, 0.0]
