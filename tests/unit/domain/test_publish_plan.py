"""What a publish makes, over all modes, visibilities, sizes and ages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.domain import entry, ids
from feedcore.domain.entry import Visibility
from feedcore.domain.jobs import Lane
from feedcore.domain.policy import Mode
from feedcore.domain.publish_plan import NewPost, check_replay, deletion_refused, plan_publish
from feedcore.errors import IdempotencyConflict, NotFound, NotPermitted
from feedcore.limits import LANE_SPLIT_FOLLOWERS, RETENTION_MS

NOW_MS = 1_780_000_000_000
ONE_PASS, TWO_PASSES = (Lane.ALL,), (Lane.ACTIVE, Lane.REST)


def new_post(
    *,
    visibility: int = 0,
    followers: int = 0,
    age_ms: int = 0,
    author: int = 9,
    media: bool = False,
) -> NewPost:
    made = ids.make(NOW_MS - age_ms, 0, 1, 0)
    return NewPost(made, author, b"c", b"d", visibility, 1.1, "", media, followers)


posts = st.builds(
    new_post,
    visibility=st.sampled_from(Visibility),
    followers=st.sampled_from([0, 1, LANE_SPLIT_FOLLOWERS, LANE_SPLIT_FOLLOWERS + 1, 10**9]),
    age_ms=st.sampled_from([-5_000, 0, RETENTION_MS, RETENTION_MS + 1, 40 * RETENTION_MS]),
    author=st.integers(1, 2**63 - 1),
    media=st.booleans(),
)


@pytest.mark.parametrize(
    ("mode", "visibility", "followers", "lanes", "reach", "finished"),
    [
        # nobody is known to follow: somebody may be about to
        (Mode.PUSH, Visibility.PUBLIC, 0, ONE_PASS, 0, False),
        (Mode.PUSH, Visibility.FOLLOWERS, LANE_SPLIT_FOLLOWERS, ONE_PASS, 0, False),
        (Mode.PUSH, Visibility.PUBLIC, LANE_SPLIT_FOLLOWERS + 1, TWO_PASSES, 0, False),
        (Mode.PUSH, Visibility.PRIVATE, 50, (), 0, True),
        (Mode.DRAINING, Visibility.PUBLIC, 50, ONE_PASS, 0, False),
        (Mode.DRAINING, Visibility.PRIVATE, 50, (), 0, True),
        (Mode.PULL, Visibility.PUBLIC, 50_000, (), 50_000, False),
        (Mode.PULL, Visibility.PRIVATE, 50_000, (), 0, False),
    ],
)
def test_the_table(
    mode: Mode, visibility: int, followers: int, lanes: tuple, reach: int, finished: bool
) -> None:
    new = new_post(visibility=visibility, followers=followers)
    plan = plan_publish(new, new.content_id, mode, NOW_MS)
    assert (plan.lanes, plan.reach, plan.mode) == (lanes, reach, mode)
    assert plan.finished_ms == (NOW_MS if finished else 0)
    assert plan.pulled == (mode is Mode.PULL)
    assert plan.kept


@given(posts, st.sampled_from(Mode))
def test_every_plan(new: NewPost, mode: Mode) -> None:
    plan = plan_publish(new, new.content_id + 1, mode, NOW_MS)
    (made,) = entry.unpack(plan.entry)
    assert (made.content_id, made.author_id) == (new.content_id + 1, new.author_id)
    assert made.visibility == new.visibility
    assert bool(made.flags & entry.FLAG_MEDIA) == new.has_media
    private = new.visibility == Visibility.PRIVATE
    assert plan.kept == (ids.time_ms(new.content_id) >= NOW_MS - RETENTION_MS)
    assert plan.queued == (mode is not Mode.PULL and plan.kept and not private)
    assert plan.queued == bool(plan.lanes)
    # a post is delivered by jobs, pulled by readers, or done with: one of the three
    assert [plan.queued, plan.pulled, plan.finished_ms > 0].count(True) == 1
    # all followers are served, each by one lane
    assert plan.lanes in ((), ONE_PASS, TWO_PASSES)
    assert plan.reach in (0, new.followers)
    assert plan.reach == 0 or plan.pulled
    assert plan.discoverable == (plan.kept and new.visibility == Visibility.PUBLIC)


def test_a_key_is_used_for_one_request() -> None:
    check_replay(new_post(), b"d")
    with pytest.raises(IdempotencyConflict, match="idempotency_key"):
        check_replay(new_post(), b"other")


def test_who_may_not_delete_hears_why() -> None:
    assert isinstance(deletion_refused(author_known=True), NotPermitted)
    assert isinstance(deletion_refused(author_known=False), NotFound)
