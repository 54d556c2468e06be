"""When reads are refused: by work, not by time; for a rate that lasts, not for a pause."""

from __future__ import annotations

import pytest

pytest.importorskip("feedcore._native.http2.h2", reason="the native transport is not built")

from feedcore_server.transports.native.pressure import Pressure


class Loop:
    """A loop whose laps and work are moved by hand."""

    def __init__(self) -> None:
        self.now_s = self.worked_s = self.read_s = 0.0
        self.soon: list = []
        self.pressure = Pressure(0.03, 1.0, 5.0, self.soon.append, lambda: self.worked_s)

    def lap(self, turns: int, seconds: float) -> list[bool]:
        """So many turns of so much work; whether each was refused."""
        refused = []
        read_s, self.read_s = self.read_s, self.now_s  # one socket, with something in each turn
        for _ in range(turns):
            refused.append(self.pressure.shedding(self.now_s, read_s))
            self.now_s += seconds
            self.worked_s += seconds
        done, self.soon[:] = list(self.soon), []
        for one in done:
            one()
        return refused

    def overloaded_for(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.lap(45, 0.001)


def test_a_crowd_and_a_pause_are_served() -> None:
    loop = Loop()
    assert not any(loop.lap(900, 0.001)), "0.9 s of work at once"
    for _ in range(5):
        loop.lap(10, 0.001)
    assert not any(loop.lap(1, 0.4)), "a collection of garbage"
    for _ in range(200):
        assert not any(loop.lap(10, 0.0009)), "a busy worker that can follow"


def test_what_lasts_is_refused_from_the_bound_on() -> None:
    loop = Loop()
    loop.overloaded_for(1.2)
    assert loop.pressure.pressed
    assert all(loop.lap(3, 0.001)), "45 ms of the lap before lie in front of these"
    for _ in range(3):
        loop.lap(9, 0.001)
    refused = loop.lap(60, 0.001)
    assert not any(refused[:4]) and all(refused[14:]), "two thirds of 30 ms, while pressed"


def test_a_socket_that_was_read_a_moment_ago_has_kept_nobody_waiting() -> None:
    loop = Loop()
    loop.overloaded_for(1.2)
    assert loop.pressure.pressed
    assert not loop.pressure.shedding(loop.now_s, loop.now_s - 0.019)
    assert loop.pressure.shedding(loop.now_s, loop.now_s - 0.03)


def test_pressure_goes_when_nothing_waited_for_a_while() -> None:
    loop = Loop()
    loop.overloaded_for(1.2)
    for _ in range(600):
        loop.lap(10, 0.001)
    assert not loop.pressure.pressed
    assert not any(loop.lap(100, 0.001))


def test_bursts_with_sleep_between_are_no_overload() -> None:
    loop = Loop()
    for _ in range(20):
        assert not any(loop.lap(60, 0.001))
        loop.now_s += 0.5


def test_sleep_is_no_work() -> None:
    loop = Loop()
    for _ in range(50):
        assert loop.lap(1, 0.001) == [False]
        loop.now_s += 10
