"""Retries stay a share of calls over any run of them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from feedcore.resilience.budget import RetryBudget


def test_one_in_ten_after_the_burst() -> None:
    budget = RetryBudget(ratio=0.1, burst=3)
    assert [budget.spend() for _ in range(4)] == [True, True, True, False]
    spent = 0
    for _ in range(1_000):
        budget.earn()
        spent += budget.spend()
    assert spent == 100


@given(st.lists(st.booleans(), max_size=400), st.sampled_from([0.01, 0.1, 0.3, 1.0]))
def test_any_run_of_calls_is_within_the_share(steps: list[bool], ratio: float) -> None:
    burst = 5
    budget = RetryBudget(ratio, burst)
    history: list[tuple[int, int]] = [(0, 0)]
    for earns in steps:
        calls, retries = history[-1]
        if earns:
            budget.earn()
            calls += 1
        else:
            retries += budget.spend()
        assert 0 <= budget.retries <= burst
        history.append((calls, retries))
    worst = 0.0
    owed = 0.0  # the largest of retries - ratio * calls over the runs that end here
    for (calls, retries), (later_calls, later_retries) in itertools.pairwise(history):
        owed = max(0.0, owed + (later_retries - retries) - ratio * (later_calls - calls))
        worst = max(worst, owed)
    assert worst <= burst + 1e-6
