"""What a change of the graph writes, over all facts."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.domain.follow_plan import (
    UNCHANGED,
    EdgeFacts,
    EdgePlan,
    check_pair,
    check_room,
    late_backfill,
    new_followees,
    plan_follow,
    plan_unfollow,
    wanted_followees,
)
from feedcore.domain.jobs import JobKind
from feedcore.domain.policy import Mode
from feedcore.errors import InvalidField, NotPermitted
from feedcore.limits import FOLLOWEES_MAX, PREFERENCES_PER_USER_MAX, USER_ID_MAX

FACTS = [
    EdgeFacts(*row)
    for row in product(
        (False, True), (False, True), (0, FOLLOWEES_MAX - 1, FOLLOWEES_MAX), Mode, (False, True)
    )
]


@pytest.mark.parametrize("facts", FACTS)
def test_a_follow(facts: EdgeFacts) -> None:
    if facts.followed:
        assert plan_follow(facts) == UNCHANGED
    elif facts.blocked:
        with pytest.raises(NotPermitted, match="unblock first"):
            plan_follow(facts)
    elif facts.followees >= FOLLOWEES_MAX:
        with pytest.raises(InvalidField, match=f"at most {FOLLOWEES_MAX}"):
            plan_follow(facts)
    else:
        plan = plan_follow(facts)
        wanted = facts.has_posts and facts.mode is not Mode.PULL
        assert plan == EdgePlan(True, JobKind.BACKFILL if wanted else None)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize(("before", "after"), [*product((False, True), repeat=2)])
def test_a_post_that_comes_with_the_follow_is_filled_in_once(
    mode: Mode, before: bool, after: bool
) -> None:
    facts = EdgeFacts(False, False, 0, mode, before)
    plan = plan_follow(facts)
    late = late_backfill(plan, facts._replace(has_posts=after))
    jobs = [job for job in (plan.job, late) if job]
    pushed = mode is not Mode.PULL
    assert jobs == ([JobKind.BACKFILL] if pushed and (before or after) else [])


def test_an_unfollow() -> None:
    assert plan_unfollow(followed=False, has_posts=True) == UNCHANGED
    assert plan_unfollow(followed=True, has_posts=True) == EdgePlan(True, JobKind.REMOVE)
    assert plan_unfollow(followed=True, has_posts=False) == EdgePlan(True, None)


ids = st.integers(1, 12)


@given(st.sets(ids), st.sets(ids), st.sets(ids))
def test_an_import_adds_what_is_new_and_not_blocked(
    wanted: set[int], followed: set[int], blocked: set[int]
) -> None:
    new = new_followees(wanted, followed & wanted, blocked, len(followed))
    assert new <= wanted
    assert not new & (followed | blocked)
    assert new | followed | blocked >= wanted


def test_an_import_is_bounded_by_what_is_new() -> None:
    assert new_followees({1}, {1}, set(), FOLLOWEES_MAX) == set()
    assert new_followees({1, 2}, {1}, set(), FOLLOWEES_MAX - 1) == {2}
    with pytest.raises(InvalidField, match="followee_id"):
        new_followees({1, 2}, set(), set(), FOLLOWEES_MAX - 1)


@given(st.lists(st.tuples(ids, ids).filter(lambda pair: pair[0] != pair[1])))
def test_an_import_by_follower(edges: list[tuple[int, int]]) -> None:
    wanted = wanted_followees(edges)
    assert list(wanted) == sorted(wanted)
    assert {(one, two) for one, many in wanted.items() for two in many} == set(edges)


@pytest.mark.parametrize("pair", [(0, 9), (9, 0), (USER_ID_MAX + 1, 9), (9, 2**64 - 1), (5, 5)])
def test_a_pair_is_two_ids_of_63_bits(pair: tuple[int, int]) -> None:
    with pytest.raises(InvalidField):
        check_pair(*pair)
    check_pair(1, USER_ID_MAX)


def test_room() -> None:
    check_room(PREFERENCES_PER_USER_MAX - 1)
    with pytest.raises(InvalidField, match="at most"):
        check_room(PREFERENCES_PER_USER_MAX)
