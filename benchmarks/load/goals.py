"""What is wanted of each scenario, as data, and the verdict on what was measured.

A goal names a value of the results by its key. Without a bound it is shown and not judged. Not for
correctness: wrong answers fail a run whatever its speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

MET, SHORT, NOT_MEASURED, SHOWN = "met", "short", "not measured", "-"


class Goal(NamedTuple):
    """`bound` in `unit`; at least it if `at_least`, else at most. None: shown only."""

    scenario: str
    what: str
    key: str
    unit: str
    bound: float | None = None
    at_least: bool = True


class Verdict(NamedTuple):
    """`state`: MET, SHORT, NOT_MEASURED or SHOWN; `text` says by how much it is short."""

    goal: Goal
    measured: float | None
    state: str
    text: str


GOALS = (
    Goal("hot", "first page of 20 items, full view, closed loop", "hot.rate", "loads/s", 60_000),
    Goal("hot", "p50 at 50,000/s, open loop", "hot.p50_ms", "ms", 1, False),
    Goal("hot", "p99 at 50,000/s, open loop", "hot.p99_ms", "ms", 10, False),
    Goal("hot", "p99 of 60 s of it, merging under way", "hot.merging_p99_ms", "ms", 10, False),
    Goal("hot", "p99 of the worst second of these", "hot.merging_worst_ms", "ms"),
    Goal("hot", "against the same service on grpc.aio, same run", "hot.times_aio", "x", 25),
    Goal("mixed", "closed loop", "mixed.rate", "calls/s", 20_000),
    Goal("mixed", "p99 at 80 % of the rate", "mixed.p99_ms", "ms", 20, False),
    Goal("mixed", "pages answered from the page cache", "mixed.page_hits", "%"),
    Goal("mixed", "pages answered by the fast handler", "mixed.fast", "%"),
    Goal("warm", "window 500, 20 pulled authors, 20 items", "warm.rate", "loads/s", 8_000),
    Goal("warm", "p99 at 80 % of the rate", "warm.p99_ms", "ms", 10, False),
    Goal("cold", "nothing resident", "cold.rate", "loads/s", 4_000),
    Goal("cold", "p99 at 80 % of the rate", "cold.p99_ms", "ms", 50, False),
    Goal("stampede", "p99 of 10,000 first loads after a post", "stampede.p99_ms", "ms"),
    Goal("stampede", "that p99 against the same burst, warm", "stampede.times_warm", "x", 2, False),
    Goal("stampede", "contents loaded for each one shown, cold", "stampede.fetches", "x", 1, False),
    Goal("visible", "post to visible, mixed at half rate", "visible.p99_ms", "ms", 500, False),
    Goal("fanout", "burst, durable", "fanout.burst", "deliveries/s", 300_000),
    Goal("fanout", "sustained, merged", "fanout.sustained", "deliveries/s", 100_000),
    Goal("overload", "goodput at twice the ceiling", "overload.goodput", "x ceiling", 0.9),
    Goal("overload", "p99 of admitted calls", "overload.p99_ms", "ms", 50, False),
    Goal("memory", "resident per active user, window cached", "memory.user_kb", "KB", 6, False),
    Goal("memory", "per cached page", "memory.page_bytes", "bytes"),
    Goal("soak", "growth of the worker's RSS, second half", "soak.growth", "%"),
    Goal("workers", "two workers against one", "workers.times", "x"),
    Goal("size", "10 K users", "size.10000.rate", "loads/s"),
    Goal("size", "100 K users", "size.100000.rate", "loads/s"),
    Goal("size", "1 M users", "size.1000000.rate", "loads/s"),
    Goal("ceiling", "the generator against nghttpd", "ceiling.rate", "calls/s"),
    Goal("ceiling", "what its core can offer, by CPU a call", "ceiling.core", "calls/s"),
    Goal("ceiling", "against h2load on the same nghttpd", "ceiling.times_h2load", "x"),
)  # fmt: skip


# Of one core for the API worker; the others share the second one of a small machine.
CLUSTER_GOALS = (
    Goal("hot", "pages of the shared cache, closed loop", "hot.rate", "loads/s", 15_000),
    Goal("hot", "the same by the worker's CPU: a core", "hot.core", "loads/s", 15_000),
    Goal("hot", "p99 at 80 % of the rate", "hot.p99_ms", "ms"),
    Goal("hot", "pages that the worker keeps", "hot.kept_rate", "loads/s"),
    Goal("hot", "the same by the worker's CPU: a core", "hot.kept_core", "loads/s"),
    Goal("mixed", "closed loop", "mixed.rate", "calls/s"),
    Goal("mixed", "p99 at 80 % of the rate", "mixed.p99_ms", "ms"),
    Goal("mixed", "pages answered from the worker's page cache", "mixed.page_hits", "%"),
    Goal("warm", "made from what the worker keeps", "warm.rate", "loads/s"),
    Goal("warm", "the same by the worker's CPU: a core", "warm.core", "loads/s"),
    Goal("warm", "p99 at 80 % of the rate", "warm.p99_ms", "ms"),
    Goal("cold", "all from the tables", "cold.rate", "loads/s"),
    Goal("cold", "the same by the worker's CPU: a core", "cold.core", "loads/s"),
    Goal("cold", "p99 of a closed loop", "cold.p99_ms", "ms"),
    Goal("visible", "post to visible, mixed at half rate", "visible.p99_ms", "ms", 1_000, False),
    Goal("fanout", "rows in the tables at quorum", "fanout.rate", "deliveries/s"),
    Goal("fanout", "the same by the process's CPU: a core", "fanout.core", "deliveries/s"),
)  # fmt: skip
BY_PROFILE = {"embedded": GOALS, "cluster": CLUSTER_GOALS}


def number(value: float) -> str:
    """For people: thousands without decimals, small ones with three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def wanted(goal: Goal) -> str:
    """The bound, for tables."""
    if goal.bound is None:
        return ""
    sign = "at least" if goal.at_least else "at most"
    return f"{sign} {number(goal.bound)} {goal.unit}"


def judge(
    values: Mapping[str, float],
    spoiled: Mapping[str, str] = MappingProxyType({}),
    profile: str = "embedded",
) -> list[Verdict]:
    """A verdict for each goal, in their order. `spoiled`: keys of goals that were missed whatever
    the value, and why."""
    wanted_of = BY_PROFILE[profile]
    return [_judge(goal, values.get(goal.key), spoiled.get(goal.key)) for goal in wanted_of]


def _judge(goal: Goal, value: float | None, why: str | None) -> Verdict:
    if value is None:
        return Verdict(goal, None, NOT_MEASURED, "not measured")
    if why is not None:
        return Verdict(goal, value, SHORT, why)
    if goal.bound is None:
        return Verdict(goal, value, SHOWN, "")
    if value >= goal.bound if goal.at_least else value <= goal.bound:
        return Verdict(goal, value, MET, "ok")
    times = goal.bound / value if goal.at_least and value else value / goal.bound
    return Verdict(goal, value, SHORT, f"short of it by {times:.2f}x")
