"""When reads are refused: by work, not by time, and never while the worker can follow."""

from __future__ import annotations

import pytest

pytest.importorskip("feedcore._native.h2", reason="the native transport is not built")

from feedcore_server.transports.native.pressure import Pressure  # noqa: E402


class Loop:
    """A loop whose laps and work are moved by hand."""

    def __init__(self) -> None:
        self.now_s = self.worked_s = 0.0
        self.soon: list = []
        self.pressure = Pressure(0.02, self.soon.append, lambda: self.worked_s)

    def work(self, seconds: float) -> None:
        self.now_s += seconds
        self.worked_s += seconds

    def shedding(self) -> bool:
        return self.pressure.shedding(self.now_s)

    def end_lap(self) -> None:
        done, self.soon[:] = list(self.soon), []
        for one in done:
            one()


def test_a_long_lap_is_shed_from_the_bound_on() -> None:
    loop = Loop()
    loop.shedding()
    loop.end_lap()
    seen = []
    for _ in range(30):
        seen.append(loop.shedding())
        loop.work(0.0009)
    assert seen == [False] * 23 + [True] * 7


def test_requests_waited_through_the_lap_before_too() -> None:
    loop = Loop()
    for _ in range(2):
        loop.shedding()
        loop.work(0.015)
        loop.end_lap()
    assert not loop.shedding(), "15 ms of the lap before"
    loop.work(0.006)
    assert loop.shedding(), "and 6 of this one"
    loop.end_lap()
    assert not loop.shedding(), "the pile is gone"


def test_sleep_is_no_work() -> None:
    loop = Loop()
    for _ in range(5):
        assert not loop.shedding()
        loop.work(0.001)
        loop.end_lap()
        loop.now_s += 10
