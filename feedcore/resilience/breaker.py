"""Circuit breaker of one endpoint or shard: an endpoint that fails is left alone for a while, then
probed once.

    state      admits          ends by
    closed     everybody       failures_max failures in a row, or failures_ratio of at least
                               calls_min calls within window_s                        -> open
    open       nobody          open_s later the next caller is the probe              -> half-open
    half-open  nobody (one     the probe succeeds                                     -> closed
               probe is out)   it fails: open_s doubles, at most open_max_s           -> open
                               it reports nothing for open_s: it is lost, and the
                               next caller is the probe                               -> half-open

Each change begins a new generation, and an admission is the number of its generation: an outcome
reported for an older one changes nothing. So a call that was begun before the breaker opened
neither closes nor prolongs it.

Invariants: one probe at a time; an open breaker admits nobody before its time is up; a breaker that
is asked again and again admits somebody within open_max_s. Not for deciding what a failure is: the
caller (`stack`) reports outcomes.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from feedcore.resilience.deadline import loop_now

# A dead endpoint fails five calls in a row at once; a live one that fails one call in a hundred
# does so once in 10^10 calls.
FAILURES_MAX = 5
FAILURES_RATIO = 0.5  # of calls that fail: above it retries cost more than the endpoint carries
CALLS_MIN = 20  # below it a ratio says little
WINDOW_S = 10.0
WINDOW_SLOTS = 10  # the window moves on by a tenth
OPEN_S = 1.0  # a restarted process is back within seconds
OPEN_MAX_S = 8.0  # bounds how long a healthy endpoint stays unused


class BreakerState(StrEnum):
    """See the table above."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """See the table above. `changed` is called with each state; `now` is the clock, in seconds."""

    def __init__(
        self,
        name: str,
        *,
        failures_max: int = FAILURES_MAX,
        failures_ratio: float = FAILURES_RATIO,
        calls_min: int = CALLS_MIN,
        window_s: float = WINDOW_S,
        open_s: float = OPEN_S,
        open_max_s: float = OPEN_MAX_S,
        now: Callable[[], float] = loop_now,
        changed: Callable[[BreakerState], None] | None = None,
    ) -> None:
        self.name = name
        self._failures_max = failures_max
        self._window = _Window(window_s, calls_min, failures_ratio)
        self._open_s = open_s
        self._open_max_s = max(open_s, open_max_s)
        self._now = now
        self._changed = changed
        self._state = BreakerState.CLOSED
        self._generation = 1
        self._failures = 0  # in a row
        self._pause_s = open_s
        self._until = 0.0  # open: nobody before; half-open: the probe is lost then

    @property
    def state(self) -> BreakerState:
        """As of the last call of a method: time alone changes nothing."""
        return self._state

    @property
    def ready(self) -> bool:
        """Whether it would admit somebody now."""
        return self._state is BreakerState.CLOSED or self._now() >= self._until

    @property
    def ready_in_s(self) -> float:
        """How long it admits nobody from now on."""
        return 0.0 if self.ready else self._until - self._now()

    def admit(self) -> int:
        """A number to report the outcome with if a call may be made, else 0."""
        if self._state is BreakerState.CLOSED:
            return self._generation
        if not self.ready:
            return 0
        self._until = self._now() + self._pause_s
        self._enter(BreakerState.HALF_OPEN)
        return self._generation

    def succeeded(self, admission: int | None = None) -> None:
        """The endpoint answered. Without `admission` it is taken for one of the present state."""
        if self._is_past(admission):
            return
        if self._state is BreakerState.CLOSED:
            self._failures = 0
            self._window.add(self._now(), failed=False)
        elif self._state is BreakerState.HALF_OPEN:
            self._failures = 0
            self._pause_s = self._open_s
            self._window.clear()
            self._enter(BreakerState.CLOSED)

    def failed(self, admission: int | None = None) -> None:
        """It did not answer, or failed, or was too slow."""
        if self._is_past(admission):
            return
        now = self._now()
        if self._state is BreakerState.CLOSED:
            self._failures += 1
            too_often = self._window.add(now, failed=True)
            if self._failures >= self._failures_max or too_often:
                self._open(now)
        elif self._state is BreakerState.HALF_OPEN:
            self._pause_s = min(self._pause_s * 2, self._open_max_s)
            self._open(now)

    def withdrawn(self, admission: int | None = None) -> None:
        """The call ended before it could show anything: if it was the probe, the next caller is
        the probe.
        """
        if self._state is BreakerState.HALF_OPEN and not self._is_past(admission):
            self._until = self._now()

    def _is_past(self, admission: int | None) -> bool:
        return admission is not None and admission != self._generation

    def _open(self, now: float) -> None:
        self._until = now + self._pause_s
        self._enter(BreakerState.OPEN)

    def _enter(self, state: BreakerState) -> None:
        was, self._state = self._state, state
        self._generation += 1
        if self._changed is not None and state is not was:
            self._changed(state)


class _Window:
    """Calls and failures of the last seconds, in slots that are used again and again."""

    __slots__ = ("_calls", "_calls_min", "_failures", "_ratio", "_slot_s", "_slots")

    def __init__(self, window_s: float, calls_min: int, ratio: float) -> None:
        self._slot_s = window_s / WINDOW_SLOTS
        self._calls_min = calls_min
        self._ratio = ratio
        self.clear()

    def clear(self) -> None:
        self._slots = [0] * WINDOW_SLOTS  # which slot of time each holds
        self._calls = [0] * WINDOW_SLOTS
        self._failures = [0] * WINDOW_SLOTS

    def add(self, now: float, *, failed: bool) -> bool:
        """Whether, with this call, too many of the window's have failed."""
        slot = int(now / self._slot_s)
        index = slot % WINDOW_SLOTS
        if self._slots[index] != slot:
            self._slots[index], self._calls[index], self._failures[index] = slot, 0, 0
        self._calls[index] += 1
        if not failed:
            return False  # what succeeds opens nothing
        self._failures[index] += 1
        oldest = slot - WINDOW_SLOTS
        calls = failures = 0
        for at, made, bad in zip(self._slots, self._calls, self._failures, strict=True):
            if at > oldest:
                calls += made
                failures += bad
        return calls >= self._calls_min and failures >= self._ratio * calls
