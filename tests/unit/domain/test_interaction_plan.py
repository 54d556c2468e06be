"""What an interaction changes, for each state its user may be in."""

from __future__ import annotations

import pytest

from feedcore.domain.interaction_plan import plan_interaction


@pytest.mark.parametrize(
    ("on", "was_on", "counts"),
    [(True, False, True), (True, True, False), (False, True, True), (False, False, False)],
)
def test_what_is_so_already_changes_nothing(on: bool, was_on: bool, counts: bool) -> None:
    plan = plan_interaction(on, was_on=was_on)
    assert (plan.counts, plan.hides, plan.changes) == (counts, False, counts)


@pytest.mark.parametrize("was_hidden", [False, True])
def test_a_hide_is_looked_at_by_itself(was_hidden: bool) -> None:
    for on in (False, True):
        plan = plan_interaction(on, was_on=on, is_hide=True, was_hidden=was_hidden)
        assert not plan.counts
        assert plan.hides is plan.changes is (on != was_hidden)
