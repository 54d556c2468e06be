"""The stack that every call to a dependency goes through, outermost first:

    deadline    the stack's own, or a share of what the caller has left if that is less
    bulkhead    a place among those who call, or a short queue for one
    breaker     an endpoint that is not left out: in turn, those not tried yet first
    attempt     the call itself
    retry       if the error allows it, attempts, budget and deadline do, after a jittered pause
    fallback    what the caller makes of a failure, if it gave one

    an attempt                                      is for its breaker       for the call
    returns                                         a success                its result
    raises an error that is not the dependency's    a success: it answered   its error, at once
    raises one that is (retriable, or DEPENDENCY)   a failure                retried, or failed
    runs out of time, or is cancelled, after        a failure                failed, or cancelled
      SLOW_SHARE of the stack's deadline
    ... sooner: it was given too little             nothing                  failed, or cancelled
    raises anything else: a fault of ours           nothing                  that, no fallback

Invariants: a call ends once, by its deadline, with a result or one error; it runs in its caller's
task, so that when the caller is cancelled nothing of it goes on; at most `active_max` calls are
at work; retries are within the budget; an endpoint that is left out is not called. Not for knowing
what it calls: adapters turn their library's errors into feedcore's, and time-outs into
TimeoutError.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

from feedcore.errors import Fault, FeedcoreError, Overloaded, Unavailable
from feedcore.resilience import deadline
from feedcore.resilience.breaker import Breaker
from feedcore.resilience.budget import RetryBudget
from feedcore.resilience.bulkhead import Bulkhead
from feedcore.resilience.deadline import loop_now

T = TypeVar("T")
R = TypeVar("R")

DEADLINE_S = 0.1  # a page's ceiling is 200 ms: a dependency may cost half of it
# Of what the caller has left: the rest is for the fallback, and for the page around it.
CALLERS_SHARE = 0.8
SLOW_SHARE = 0.5  # of the stack's deadline: who had less has shown nothing
ATTEMPTS_MAX = 3  # the first, another endpoint, and one more
# Pauses are drawn from 0 to this, doubled each time: long enough that those who failed together do
# not come back together, short beside the deadline.
PAUSE_S = 0.005


class Endpoint(NamedTuple, Generic[T]):
    """One of those that can answer, and what is known of it."""

    target: T
    breaker: Breaker


class Listener(Protocol):
    """Hears what happens, for metrics. `outcome` is one of OUTCOMES."""

    def ended(self, outcome: str, seconds: float) -> None: ...

    def retried(self) -> None: ...

    def budget_exhausted(self) -> None: ...

    def fell_back(self) -> None: ...


OUTCOMES = (
    "ok",  # a result
    "refused",  # an answer that the caller's request brought about
    "failed",
    "late",  # the deadline passed
    "full",  # no place in the bulkhead
    "broken",  # every endpoint is left out
    "cancelled",  # by the caller
    "fault",  # of ours
)


class _Late(Unavailable):
    """Ours; callers see Unavailable."""


class _Broken(Unavailable):
    """Ours; callers see Unavailable."""


class Stack(Generic[T]):
    """One dependency. `endpoints` share the bulkhead and the budget."""

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint[T]],
        *,
        bulkhead: Bulkhead,
        budget: RetryBudget,
        listener: Listener,
        deadline_s: float = DEADLINE_S,
        attempts_max: int = ATTEMPTS_MAX,
        pause_s: float = PAUSE_S,
        dice: Callable[[], float] = random.random,
    ) -> None:
        if not endpoints:
            raise ValueError(f"{name}: no endpoints; at least one")
        self.name = name
        self.endpoints = tuple(endpoints)
        self._bulkhead = bulkhead
        self._budget = budget
        self._deadline_s = deadline_s
        self._slow_s = deadline_s * SLOW_SHARE
        self._attempts_max = attempts_max
        self._pause_s = pause_s
        self._listener = listener
        self._dice = dice
        self._turn = 0

    async def call(
        self,
        attempt: Callable[[T], Awaitable[R]],
        fallback: Callable[[FeedcoreError], R] | None = None,
    ) -> R:
        """What an attempt returned. `fallback` makes the result of a failure, or raises; without
        it that is raised: Unavailable, or Overloaded. Errors that are answers come as they are.
        """
        begun_s = loop_now()
        outcome = "fault"
        try:
            result = await self._within_deadline(attempt)
            outcome = "ok"
            return result
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except FeedcoreError as error:
            outcome = _outcome_of(error)
            if fallback is None or not is_failure(error):
                raise
            self._listener.fell_back()
            return fallback(error)
        finally:
            self._listener.ended(outcome, loop_now() - begun_s)

    async def _within_deadline(self, attempt: Callable[[T], Awaitable[R]]) -> R:
        limit_s = min(self._deadline_s, deadline.remaining_s(float("inf")) * CALLERS_SHARE)
        late = f"{self.name}: no answer within {limit_s * 1_000:.0f} ms"
        if limit_s <= 0:
            raise _Late(late)
        try:
            with deadline.within(limit_s):
                async with asyncio.timeout(limit_s) as timer, self._bulkhead:
                    return await self._attempts(attempt, loop_now() + deadline.remaining_s(limit_s))
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise _Late(late) from error

    async def _attempts(self, attempt: Callable[[T], Awaitable[R]], until_s: float) -> R:
        self._budget.earn()
        tried: set[int] = set()
        number = 0
        failure: FeedcoreError = _Broken(
            f"{self.name}: no endpoint of {len(self.endpoints)} answers; all are left out for now"
        )
        while True:
            index, admission = self._pick(tried)
            if not admission:
                ready_s = min(endpoint.breaker.ready_in_s for endpoint in self.endpoints)
                failure.retry_after_ms = math.ceil(ready_s * 1_000) or None
                raise failure
            if number:
                self._listener.retried()
            number += 1
            tried.add(index)
            try:
                return await self._try(self.endpoints[index], admission, attempt)
            except FeedcoreError as error:
                pause_s = self._pause_before(number, error)
                if not self._may_retry(number, error, loop_now() + pause_s < until_s):
                    raise
                failure = error
            await asyncio.sleep(pause_s)

    async def _try(
        self, endpoint: Endpoint[T], admission: int, attempt: Callable[[T], Awaitable[R]]
    ) -> R:
        """One attempt, and what its breaker hears of it."""
        breaker, begun_s = endpoint.breaker, loop_now()
        report: Callable[[int | None], None] = breaker.withdrawn
        try:
            result = await attempt(endpoint.target)
            report = breaker.succeeded
            return result
        except asyncio.CancelledError:
            report = self._silence_of(breaker, begun_s)
            raise
        except TimeoutError as error:
            report = self._silence_of(breaker, begun_s)
            raise _Late(f"{self.name}: {breaker.name} did not answer in time") from error
        except FeedcoreError as error:
            report = breaker.failed if is_failure(error) else breaker.succeeded
            raise
        finally:
            report(admission)

    def _silence_of(self, breaker: Breaker, begun_s: float) -> Callable[[int | None], None]:
        had_time = loop_now() - begun_s >= self._slow_s
        return breaker.failed if had_time else breaker.withdrawn

    def _pick(self, tried: set[int]) -> tuple[int, int]:
        """An endpoint and its admission, which is 0 if there is none: in turn, those not tried yet
        first.
        """
        count = len(self.endpoints)
        self._turn = (self._turn + 1) % count
        turns = [(self._turn + step) % count for step in range(count)]
        for again in (False, True):
            for index in turns:
                if (index in tried) is again:
                    if admission := self.endpoints[index].breaker.admit():
                        return index, admission
        return 0, 0

    def _may_retry(self, number: int, error: FeedcoreError, in_time: bool) -> bool:
        if not error.retriable or number >= self._attempts_max or not in_time:
            return False
        if not any(endpoint.breaker.ready for endpoint in self.endpoints):
            return False
        if self._budget.spend():
            return True
        self._listener.budget_exhausted()
        return False

    def _pause_before(self, number: int, error: FeedcoreError) -> float:
        pause_s: float = self._pause_s * 2 ** (number - 1) * self._dice()
        if isinstance(error, Overloaded):  # it says itself when to come back
            pause_s += error.retry_after_ms / 1_000
        return pause_s


def is_failure(error: FeedcoreError) -> bool:
    """Whether the dependency failed, rather than answered."""
    return error.retriable or error.fault is Fault.DEPENDENCY


def _outcome_of(error: FeedcoreError) -> str:
    if isinstance(error, _Late):
        return "late"
    if isinstance(error, _Broken):
        return "broken"
    if isinstance(error, Overloaded):
        return "full"
    return "failed" if is_failure(error) else "refused"
