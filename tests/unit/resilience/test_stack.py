"""The stack's table, and its promises under whatever dependencies and callers do."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.errors import BadAnswer, NotFound, Overloaded, Unavailable
from feedcore.resilience import deadline
from feedcore.resilience.breaker import Breaker, BreakerState
from feedcore.resilience.budget import RetryBudget
from feedcore.resilience.bulkhead import Bulkhead
from feedcore.resilience.stack import OUTCOMES, Endpoint, Stack
from tests.unit.resilience.simulated import pause, simulate

DEADLINE_S = 0.1
ERRORS = {
    "away": lambda: Unavailable("shard: away"),
    "bad": lambda: BadAnswer("shard: nonsense"),
    "busy": lambda: Overloaded("shard", "1 call", retry_after_ms=20),
    "none": lambda: NotFound("no such thing"),
    "fault": lambda: KeyError("a fault of ours"),
    "late": lambda: TimeoutError(),
}


class Heard:
    """A listener that remembers."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []
        self.others: Counter[str] = Counter()

    def ended(self, outcome: str, seconds: float) -> None:
        assert outcome in OUTCOMES and seconds >= 0
        self.outcomes.append(outcome)

    def retried(self) -> None:
        self.others["retried"] += 1

    def budget_exhausted(self) -> None:
        self.others["exhausted"] += 1

    def fell_back(self) -> None:
        self.others["fell back"] += 1


class Dependency:
    """Endpoints that do, attempt after attempt, what a script says: (seconds, "" or an error)."""

    def __init__(self, script: list[tuple[float, str]], endpoints: int = 1, **options: Any) -> None:
        self.script = list(script)
        self.asked: list[int] = []
        self.at_work = self.most_at_work = 0
        self.heard = Heard()
        self.budget = options.pop("budget", None) or RetryBudget(0.1, 10)
        self.bulkhead = options.pop("bulkhead", None) or Bulkhead(
            "shard", active_max=4, waiting_max=4
        )
        bounds = {
            name: options.pop(name) for name in ("failures_max", "calls_min") if name in options
        }
        self.breakers = [Breaker(f"shard {number}", **bounds) for number in range(endpoints)]
        self.stack: Stack[int] = Stack(
            "shard",
            [Endpoint(number, breaker) for number, breaker in enumerate(self.breakers)],
            bulkhead=self.bulkhead,
            budget=self.budget,
            deadline_s=DEADLINE_S,
            listener=self.heard,
            **options,
        )

    async def attempt(self, number: int) -> int:
        self.asked.append(number)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            seconds, error = self.script.pop(0) if self.script else (0.0, "")
            if seconds:
                await pause(seconds)
            if error:
                raise ERRORS[error]()
            return number
        finally:
            self.at_work -= 1

    async def call(self, **options: Any) -> int:
        return await self.stack.call(self.attempt, **options)


def test_each_call_goes_to_the_next_endpoint() -> None:
    async def main() -> None:
        three = Dependency([], endpoints=3)
        assert sorted([await three.call() for _ in range(6)]) == [0, 0, 1, 1, 2, 2]
        assert three.heard.outcomes == ["ok"] * 6

    simulate(main())


def test_a_retry_goes_to_another_endpoint() -> None:
    async def main() -> None:
        two = Dependency([(0.0, "away"), (0.0, "")], endpoints=2)
        assert await two.call() == two.asked[1] != two.asked[0]
        assert two.heard.outcomes == ["ok"] and two.heard.others == {"retried": 1}

    simulate(main())


@pytest.mark.parametrize(
    ("error", "attempts", "outcome"),
    [("away", 3, "failed"), ("bad", 1, "failed"), ("none", 1, "refused"), ("fault", 1, "fault")],
)
def test_only_what_is_retriable_is_retried(error: str, attempts: int, outcome: str) -> None:
    async def main() -> None:
        one = Dependency([(0.0, error)] * 9)
        with pytest.raises(type(ERRORS[error]())):
            await one.call()
        assert len(one.asked) == attempts and one.heard.outcomes == [outcome]

    simulate(main())


def test_fallback_is_for_failures_not_for_answers() -> None:
    async def main() -> None:
        one = Dependency([(0.0, "bad"), (0.0, "none"), (0.0, "fault")])
        assert await one.call(fallback=lambda error: -len(str(error))) == -len("shard: nonsense")
        with pytest.raises(NotFound):
            await one.call(fallback=lambda _: -1)
        with pytest.raises(KeyError):
            await one.call(fallback=lambda _: -1)
        assert one.heard.outcomes == ["failed", "refused", "fault"]
        assert one.heard.others == {"fell back": 1}

    simulate(main())


def test_the_deadline_ends_a_call_and_leaves_the_caller_some_of_its_own() -> None:
    async def main() -> None:
        one = Dependency([(9.0, "")] * 9)
        begun = deadline.loop_now()
        with pytest.raises(Unavailable, match="shard: no answer within 100 ms"):
            await one.call()
        assert deadline.loop_now() - begun == pytest.approx(DEADLINE_S)
        deadline.begin(deadline.loop_now() + 0.05)
        with pytest.raises(Unavailable, match="no answer within 40 ms"):
            await one.call()
        assert deadline.remaining_s(1.0) == pytest.approx(0.01)
        await pause(1.0)
        asked = len(one.asked)
        assert await one.call(fallback=lambda _: -1) == -1
        assert len(one.asked) == asked, "nobody waits for it"
        assert one.heard.outcomes == ["late"] * 3 and one.at_work == 0

    simulate(main())


def test_an_endpoint_is_not_blamed_for_callers_in_a_hurry() -> None:
    async def main() -> None:
        one = Dependency([(9.0, "")] * 99, failures_max=1)
        for _ in range(9):
            with deadline.within(0.02), pytest.raises(Unavailable):
                await one.call()
        assert one.breakers[0].state is BreakerState.CLOSED
        with pytest.raises(Unavailable):
            await one.call()
        assert one.breakers[0].state is BreakerState.OPEN

    simulate(main())


def test_one_that_is_left_out_is_not_asked_and_none_left_is_said_at_once() -> None:
    async def main() -> None:
        two = Dependency([], endpoints=2)
        for _ in range(5):
            two.breakers[0].failed()
        assert {await two.call() for _ in range(5)} == {1}
        for _ in range(5):
            two.breakers[1].failed()
        asked, begun = len(two.asked), deadline.loop_now()
        with pytest.raises(Unavailable, match="no endpoint of 2 answers") as said:
            await two.call()
        assert said.value.retry_after_ms == 1_000  # when the first one is asked again
        assert len(two.asked) == asked and deadline.loop_now() == begun
        assert two.heard.outcomes[-1] == "broken"
        await pause(1.5)
        await two.call()
        await two.call()
        assert {breaker.state for breaker in two.breakers} == {BreakerState.CLOSED}

    simulate(main())


def test_a_probe_whose_caller_leaves_does_not_lock_the_endpoint_out() -> None:
    async def main() -> None:
        one = Dependency([(0.01, "")])
        for _ in range(5):
            one.breakers[0].failed()
        await pause(1.5)
        probe = asyncio.ensure_future(one.call())
        await pause(0.001)
        assert one.breakers[0].state is BreakerState.HALF_OPEN
        probe.cancel()
        await asyncio.wait([probe])
        assert await one.call() == 0 and one.breakers[0].state is BreakerState.CLOSED
        assert one.heard.outcomes == ["cancelled", "ok"]

    simulate(main())


def test_who_is_overloaded_is_asked_again_when_it_said() -> None:
    async def main() -> None:
        one = Dependency([(0.0, "busy")])
        begun = deadline.loop_now()
        assert await one.call() == 0
        assert 0.02 <= deadline.loop_now() - begun < 0.03

    simulate(main())


def test_a_retry_that_would_come_too_late_is_neither_waited_for_nor_paid() -> None:
    async def main() -> None:
        one = Dependency([(0.09, "busy")])
        with pytest.raises(Overloaded):
            await one.call()
        assert one.budget.retries == 10 and one.heard.outcomes == ["full"]

    simulate(main())


def test_nobody_is_left_to_retry_with() -> None:
    async def main() -> None:
        one = Dependency([(0.0, "away")], failures_max=1)
        with pytest.raises(Unavailable, match="away"):
            await one.call()
        assert one.budget.retries == 10

    simulate(main())


def test_others_calls_in_between_do_not_bring_a_retry_back_to_who_failed() -> None:
    async def main() -> None:
        two = Dependency([(0.0, "away"), (0.0, "")], endpoints=2, pause_s=0.05, dice=lambda: 1.0)
        retried = asyncio.ensure_future(two.call())
        await pause(0.01)
        await two.call()
        await retried
        assert two.asked[2] != two.asked[0]

    simulate(main())


def test_faults_of_ours_are_not_the_endpoints() -> None:
    async def main() -> None:
        one = Dependency([(0.0, "fault")], failures_max=1)
        with pytest.raises(KeyError):
            await one.call()
        assert one.breakers[0].state is BreakerState.CLOSED

    simulate(main())


def test_an_attempt_knows_how_long_it_has() -> None:
    async def main() -> None:
        one = Dependency([])

        async def look(_: int) -> float:
            return deadline.remaining_s(9.0)

        seen = await one.stack.call(look)
        assert seen == pytest.approx(DEADLINE_S)

    simulate(main())


def test_a_crowd_waits_in_the_bulkhead_and_the_rest_is_refused() -> None:
    async def main() -> None:
        one = Dependency([(0.04, "")] * 20)
        results = await asyncio.gather(*(one.call() for _ in range(10)), return_exceptions=True)
        assert results[:8] == [0] * 8 and one.most_at_work == 4
        assert all(isinstance(result, Overloaded) for result in results[8:])
        assert Counter(one.heard.outcomes) == {"ok": 8, "full": 2}

    simulate(main())


def test_when_everything_fails_one_call_in_ten_is_made_twice() -> None:
    async def main() -> None:
        one = Dependency([(0.0, "away")] * 5_000, failures_max=10**9, calls_min=10**9)
        for _ in range(1_000):
            with pytest.raises(Unavailable):
                await one.call()
        retried = one.heard.others["retried"]
        assert 100 <= retried <= 110 and len(one.asked) == 1_000 + retried
        assert one.heard.others["exhausted"] > 800

    simulate(main())


calls = st.tuples(
    st.sampled_from([0.0, 0.0, 0.01, 0.2, 2.0]),  # comes so long after the one before
    st.sampled_from([None, None, 0.01, 0.05, 0.3]),  # the caller's deadline
    st.sampled_from([None, None, 0.0, 0.005, 0.08]),  # is cancelled so long after coming
)
attempts = st.tuples(
    st.sampled_from([0.0, 0.001, 0.03, 0.08, 9.0]), st.sampled_from(["", "", *ERRORS])
)


@given(
    st.lists(calls, max_size=25),
    st.lists(attempts, max_size=40),
    st.integers(1, 3),
    st.integers(0, 100),
)
def test_promises(
    callers: list[tuple[float, float | None, float | None]],
    script: list[tuple[float, str]],
    endpoints: int,
    seed: int,
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        dependency = Dependency(script, endpoints, budget=RetryBudget(0.1, 2), failures_max=2)
        tasks = []

        async def call(callers_s: float | None) -> int:
            begun = loop.time()
            if callers_s is not None:
                deadline.begin(begun + callers_s)
            try:
                return await dependency.call()
            finally:
                limit = DEADLINE_S if callers_s is None else min(DEADLINE_S, callers_s)
                assert loop.time() - begun <= limit + 1e-6, "by its deadline"

        for after, callers_s, cancelled in callers:
            if after:
                await pause(after)
            task = asyncio.ensure_future(call(callers_s))
            if cancelled is not None:
                loop.call_later(cancelled, task.cancel)
            tasks.append(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        ended = Counter(dependency.heard.outcomes)
        assert ended.total() == len([t for t in tasks if t.done()]) - _never_begun(
            dependency, tasks
        )
        assert dependency.at_work == 0 and dependency.bulkhead.active == 0, "nothing goes on"
        assert dependency.most_at_work <= 4
        retried = dependency.heard.others["retried"]
        assert retried <= 2 + 0.1 * len(callers)
        assert len(dependency.asked) <= len(callers) + retried
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, (Unavailable, Overloaded, NotFound, KeyError)), error

    simulate(main(), seed=seed)


def _never_begun(dependency: Dependency, tasks: list[asyncio.Task[int]]) -> int:
    """Tasks that were cancelled before their first step."""
    cancelled = sum(task.cancelled() for task in tasks)
    return cancelled - dependency.heard.outcomes.count("cancelled")
