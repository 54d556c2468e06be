"""What a change of the graph writes: the edge, the job about the follower's stored feed, a refusal.

    follow      followed already             nothing
                one blocks the other         NotPermitted
                FOLLOWEES_MAX are followed   InvalidField
                pushed, has posts            the edge, and a BACKFILL of those posts
                pulled, or has no posts      the edge
    unfollow    not followed                 nothing
                has posts                    the edge goes, and a REMOVE of those posts
                has none                     the edge goes
    block       ends both follows; PREFERENCES_PER_USER_MAX bounds only what is new
    import      edges against a block are left out; one REBUILD a follower stands for all backfills

Where another team has the graph, every follow that it acknowledges is a BACKFILL, every unfollow a
REMOVE, also if it says that nothing has changed (`services.graph`).

"Has posts" means posts that feeds may hold. A store that cannot read these facts and write the edge
in one transaction reads them again after the edge is written (`late_backfill`): a publish queues
its fan-out without looking for followers (`publish_plan`), so one of the two sees the other.

Not for reading facts or writing rows: that is the stores'.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from feedcore.domain.jobs import JobKind
from feedcore.domain.policy import Mode
from feedcore.errors import InvalidField, NotPermitted
from feedcore.limits import FOLLOWEES_MAX, PREFERENCES_PER_USER_MAX, USER_ID_MAX


class EdgeFacts(NamedTuple):
    """Of a follower and the followee, as a store knows them before a follow."""

    followed: bool
    blocked: bool  # by either of the two
    followees: int  # of the follower
    mode: int  # of the followee
    has_posts: bool  # of the followee


class EdgePlan(NamedTuple):
    """`changes`: the edge is written, or goes; `job` about it comes in the same commit."""

    changes: bool
    job: JobKind | None = None


UNCHANGED = EdgePlan(False)


def plan_follow(facts: EdgeFacts) -> EdgePlan:
    """Raises NotPermitted, InvalidField."""
    if facts.followed:
        return UNCHANGED
    if facts.blocked:
        raise blocked_error()
    check_followees(facts.followees + 1)
    return EdgePlan(True, _backfill(facts))


def late_backfill(planned: EdgePlan, facts: EdgeFacts) -> JobKind | None:
    """BACKFILL if the first post came between the plan and the edge. `facts` are read after."""
    return None if planned.job else _backfill(facts)


def _backfill(facts: EdgeFacts) -> JobKind | None:
    return JobKind.BACKFILL if facts.has_posts and facts.mode != Mode.PULL else None


def plan_unfollow(*, followed: bool, has_posts: bool) -> EdgePlan:
    """Pulled authors' posts are removed, too: those of before they were pulled may be stored."""
    if not followed:
        return UNCHANGED
    return EdgePlan(True, JobKind.REMOVE if has_posts else None)


def new_followees(
    wanted: AbstractSet[int], followed: AbstractSet[int], blocked: AbstractSet[int], followees: int
) -> set[int]:
    """What an import adds to a user who follows `followees`, of whom `followed` are asked for
    again. Raises InvalidField.
    """
    new = set(wanted) - followed - blocked
    if new:
        check_followees(followees + len(new))
    return new


def wanted_followees(edges: Sequence[tuple[int, int]]) -> dict[int, set[int]]:
    """An import by follower, ascending. Raises InvalidField."""
    wanted: dict[int, set[int]] = {}
    for follower_id, followee_id in edges:
        check_pair(follower_id, followee_id)
        wanted.setdefault(follower_id, set()).add(followee_id)
    return dict(sorted(wanted.items()))


def blocked_error() -> NotPermitted:
    """For who follows across a block."""
    return NotPermitted("followee_id: one of the two blocks the other; unblock first")


def check_pair(follower_id: int, followee_id: int) -> None:
    """Two ids of different users. Raises InvalidField."""
    for name, value in (("follower_id", follower_id), ("followee_id", followee_id)):
        if not 1 <= value <= USER_ID_MAX:
            raise InvalidField(name, str(value), f"must be 1 to {USER_ID_MAX}")
    if follower_id == followee_id:
        raise InvalidField("followee_id", f"{followee_id}, the user itself", "must be another user")


def check_followees(count: int) -> None:
    """How many a user would follow. Raises InvalidField."""
    if count > FOLLOWEES_MAX:
        raise InvalidField(
            "followee_id", f"{count} accounts are followed", f"at most {FOLLOWEES_MAX}"
        )


def check_room(count: int) -> None:
    """`count` preferences and blocks are set, and one more is to be. Raises InvalidField."""
    if count >= PREFERENCES_PER_USER_MAX:
        raise InvalidField(
            "target_user_id",
            f"{PREFERENCES_PER_USER_MAX} preferences are set",
            f"at most {PREFERENCES_PER_USER_MAX} a user",
        )
