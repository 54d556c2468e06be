"""The breaker's table, and what holds whatever is reported in whichever order."""

from __future__ import annotations

import itertools

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from feedcore.resilience.breaker import Breaker, BreakerState
from tests.unit.resilience.simulated import Moment

FAILURES_MAX, OPEN_S, OPEN_MAX_S = 3, 1.0, 4.0


def breaker(now: Moment, **options: float) -> Breaker:
    bounds = {"failures_max": FAILURES_MAX, "open_s": OPEN_S, "open_max_s": OPEN_MAX_S}
    return Breaker("shard 1", now=now, **{**bounds, **options})


def opened(now: Moment) -> Breaker:
    one = breaker(now)
    for _ in range(FAILURES_MAX):
        one.failed(one.admit())
    assert one.state is BreakerState.OPEN
    return one


def test_failures_in_a_row_open_it_and_a_success_in_between_does_not() -> None:
    now = Moment()
    one = breaker(now, calls_min=1_000)
    for _ in range(10):
        one.failed(one.admit())
        one.failed(one.admit())
        one.succeeded(one.admit())
    assert one.state is BreakerState.CLOSED
    for _ in range(FAILURES_MAX):
        one.failed(one.admit())
    assert one.state is BreakerState.OPEN and not one.admit()


def test_a_share_of_failures_opens_it_once_there_are_enough_calls() -> None:
    now = Moment()
    one = breaker(now, calls_min=20)
    for made in range(2, 22, 2):
        one.succeeded(one.admit())
        assert one.admit(), f"after {made - 1} calls"
        one.failed(one.admit())
    assert one.state is BreakerState.OPEN


def test_what_is_older_than_the_window_is_forgotten() -> None:
    now = Moment()
    one = breaker(now, calls_min=10, window_s=10.0, failures_max=100)
    for _ in range(9):
        one.failed(one.admit())
    now.at += 10.1
    one.failed(one.admit())
    assert one.state is BreakerState.CLOSED
    for _ in range(9):
        one.failed(one.admit())
    assert one.state is BreakerState.OPEN


def test_one_probe_then_closed_or_open_for_twice_as_long() -> None:
    now = Moment()
    one = opened(now)
    pauses = []
    for _ in range(4):
        begun = now.at
        while not (probe := one.admit()):
            now.at += 0.25
        pauses.append(now.at - begun)
        assert one.state is BreakerState.HALF_OPEN and not one.admit()
        one.failed(probe)
        assert one.state is BreakerState.OPEN
    assert pauses == [1.0, 2.0, 4.0, 4.0]
    now.at += 4.0
    one.succeeded(one.admit())
    assert one.state is BreakerState.CLOSED and one.admit() and one.admit()
    for _ in range(FAILURES_MAX):
        one.failed(one.admit())
    now.at += OPEN_S
    assert one.admit(), "the pause is short again"


def test_a_withdrawn_probe_makes_room_and_a_silent_one_does_later() -> None:
    now = Moment()
    one = opened(now)
    now.at += OPEN_S
    first = one.admit()
    one.withdrawn(first)
    second = one.admit()
    assert second and second != first and not one.admit()
    now.at += OPEN_S
    third = one.admit()
    assert third and not one.admit(), "the second said nothing for so long that it is lost"
    one.failed(second)
    assert one.state is BreakerState.HALF_OPEN, "who is lost has no say"
    one.succeeded(third)
    assert one.state is BreakerState.CLOSED


def test_who_was_admitted_before_it_opened_has_no_say_after() -> None:
    now = Moment()
    one = breaker(now)
    late = one.admit()
    for _ in range(FAILURES_MAX):
        one.failed(one.admit())
    one.succeeded(late)
    assert one.state is BreakerState.OPEN
    now.at += OPEN_S
    probe = one.admit()
    one.failed(late)
    assert one.state is BreakerState.HALF_OPEN
    one.succeeded(probe)
    assert one.state is BreakerState.CLOSED


def test_reports_without_admissions_are_of_the_present_state() -> None:
    now = Moment()
    one = breaker(now)
    for _ in range(FAILURES_MAX):
        assert one.admit()
        one.failed()
    one.succeeded()
    one.failed()
    assert one.state is BreakerState.OPEN
    now.at += OPEN_S
    assert one.admit()
    one.succeeded()
    assert one.state is BreakerState.CLOSED


class Machine(RuleBasedStateMachine):
    """Calls begin, end in any order or never, and time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = Moment()
        self.states: list[BreakerState] = []
        self.one = Breaker(
            "any",
            failures_max=FAILURES_MAX,
            open_s=OPEN_S,
            open_max_s=OPEN_MAX_S,
            calls_min=6,
            now=self.now,
            changed=self.states.append,
        )
        self.out: list[tuple[int, BreakerState]] = []  # admission, and the state that it was for
        self.opened_at = self.probed_at = 0.0

    @rule()
    def admit(self) -> None:
        before = self.one.state
        admission = self.one.admit()
        if before is BreakerState.CLOSED:
            assert admission
        if admission and before is not BreakerState.CLOSED:
            since = self.opened_at if before is BreakerState.OPEN else self.probed_at
            withdrawn = before is BreakerState.HALF_OPEN and self.probed_at == -1.0
            assert withdrawn or self.now.at - since >= OPEN_S
            assert self.one.state is BreakerState.HALF_OPEN
            self.probed_at = self.now.at
        if admission:
            self.out.append((admission, self.one.state))

    def _end(self, data: st.DataObject) -> tuple[int, bool]:
        place = data.draw(st.integers(0, len(self.out) - 1))
        admission, _ = self.out.pop(place)
        newest = max((one for one, _ in self.out), default=0)
        return admission, admission > newest

    @precondition(lambda self: self.out)
    @rule(data=st.data(), outcome=st.sampled_from(["succeeded", "failed", "withdrawn"]))
    def end(self, data: st.DataObject, outcome: str) -> None:
        before = self.one.state
        admission, newest = self._end(data)
        getattr(self.one, outcome)(admission)
        after = self.one.state
        if before is BreakerState.OPEN:
            assert after is BreakerState.OPEN, "only time ends it"
        if before is BreakerState.HALF_OPEN and not newest:
            assert after is before, "only the probe has a say"
        if before is BreakerState.HALF_OPEN and newest:
            wanted = {"succeeded": BreakerState.CLOSED, "failed": BreakerState.OPEN}
            assert after is wanted.get(outcome, BreakerState.HALF_OPEN)
            if outcome == "withdrawn":
                self.probed_at = -1.0
        if after is BreakerState.OPEN and before is not BreakerState.OPEN:
            assert outcome == "failed"
            self.opened_at = self.now.at

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 2.5, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.now.at += seconds

    @rule()
    def is_asked_long_enough(self) -> None:
        for _ in range(int(OPEN_MAX_S) + 1):
            before = self.one.state
            if admission := self.one.admit():
                if before is not BreakerState.CLOSED:
                    self.probed_at = self.now.at
                self.out.append((admission, self.one.state))
                return
            self.now.at += 1.0
        raise AssertionError("nobody was admitted")

    @invariant()
    def states_follow_the_table(self) -> None:
        allowed = {
            (BreakerState.CLOSED, BreakerState.OPEN),
            (BreakerState.OPEN, BreakerState.HALF_OPEN),
            (BreakerState.HALF_OPEN, BreakerState.OPEN),
            (BreakerState.HALF_OPEN, BreakerState.CLOSED),
        }
        walked = [BreakerState.CLOSED, *self.states]
        assert all(step in allowed for step in itertools.pairwise(walked))
        assert walked[-1] is self.one.state


TestMachine = Machine.TestCase
