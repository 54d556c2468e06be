"""Verdicts: every filter, their order, own items, audiences. One row a case."""

from __future__ import annotations

import pytest

from feedcore import native
from feedcore.domain import entry
from feedcore.domain.entry import Visibility
from feedcore.native import Audience, Verdict

VIEWER, FRIEND, STRANGER = 1, 2, 3
ITEM = 77
NOTHING = Audience(VIEWER, native.pack_ids([FRIEND]), b"", b"", b"", b"", True)


def verdict(author: int, audience: Audience, flags: int = 0, deleted: bool = False) -> Verdict:
    tombstones = native.U64Set([ITEM] if deleted else [])
    (one,) = native.judge(entry.pack(ITEM, author, 1.0, flags), audience, tombstones)
    return Verdict(one)


def having(author: int, *names: str) -> Audience:
    """NOTHING with the author (or the item, for hidden) in these sets."""
    sets = {n: native.pack_ids([ITEM if n == "hidden" else author]) for n in names}
    return NOTHING._replace(**sets)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), Verdict.KEEP),
        (("hidden",), Verdict.HIDDEN),
        (("hidden", "snoozed"), Verdict.SNOOZED),
        (("hidden", "snoozed", "muted"), Verdict.MUTED),
        (("hidden", "snoozed", "muted", "blocked"), Verdict.BLOCKED),
    ],
)
def test_the_first_that_applies(names: tuple[str, ...], expected: Verdict) -> None:
    assert verdict(FRIEND, having(FRIEND, *names)) == expected
    assert verdict(FRIEND, having(FRIEND, *names), deleted=True) == Verdict.DELETED


def test_unfollowed_comes_after_blocked_and_before_muted() -> None:
    assert verdict(STRANGER, having(STRANGER, "muted")) == Verdict.UNFOLLOWED
    assert verdict(STRANGER, having(STRANGER, "blocked")) == Verdict.BLOCKED
    assert verdict(STRANGER, NOTHING._replace(require_follow=False)) == Verdict.KEEP


def test_own_items_can_be_deleted_or_hidden_only() -> None:
    audience = having(VIEWER, "muted", "snoozed", "blocked")
    for flags in Visibility:
        assert verdict(VIEWER, audience, flags) == Verdict.KEEP
    assert verdict(VIEWER, having(VIEWER, "hidden")) == Verdict.HIDDEN
    assert verdict(VIEWER, NOTHING, deleted=True) == Verdict.DELETED


@pytest.mark.parametrize("require_follow", [True, False])
def test_private_and_unknown_audiences(require_follow: bool) -> None:
    audience = NOTHING._replace(require_follow=require_follow)
    assert verdict(FRIEND, audience, Visibility.PRIVATE) == Verdict.AUDIENCE
    assert verdict(FRIEND, audience, 3) == Verdict.AUDIENCE
    assert verdict(FRIEND, audience, Visibility.FOLLOWERS) == Verdict.KEEP
    assert verdict(FRIEND, audience, entry.FLAG_MEDIA) == Verdict.KEEP


def test_followers_only_of_a_stranger() -> None:
    audience = NOTHING._replace(require_follow=False)
    assert verdict(STRANGER, audience, Visibility.FOLLOWERS) == Verdict.AUDIENCE


def test_many_followees() -> None:
    followees = native.pack_ids(range(10, 100_000, 3))
    entries = native.sort_entries(b"".join(entry.pack(i, i) for i in range(1, 2_000)))
    verdicts = native.judge(entries, NOTHING._replace(followees=followees), native.U64Set())
    for one, seen in zip(entry.unpack(entries), verdicts, strict=True):
        followed = one.author_id >= 10 and (one.author_id - 10) % 3 == 0
        kept = followed or one.author_id == VIEWER
        assert seen == (Verdict.KEEP if kept else Verdict.UNFOLLOWED)


def test_broken_input_is_refused() -> None:
    with pytest.raises(ValueError, match="entries"):
        native.judge(b"123", NOTHING, native.U64Set())
    with pytest.raises(ValueError, match="id array"):
        native.judge(b"", NOTHING._replace(muted=b"123"), native.U64Set())
