"""All reasons that keep one item out: the page's verdict, asked again without those it gave."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.domain import entry as entries_of
from feedcore.domain.entry import Visibility
from feedcore.domain.visibility import Audience, Verdict
from feedcore.services.explain import all_reasons

VIEWER, AUTHOR, CONTENT = 1, 2, 77
SETS = ("followees", "muted", "snoozed", "blocked", "hidden")


@given(st.sets(st.sampled_from(SETS)), st.booleans(), st.booleans(), st.sampled_from(Visibility))
def test_every_reason_is_told(
    inside: set[str], own: bool, deleted: bool, visibility: Visibility
) -> None:
    author = VIEWER if own else AUTHOR
    member = {name: CONTENT if name == "hidden" else author for name in SETS}
    arrays = [native.pack_ids([member[name]] if name in inside else []) for name in SETS]
    audience = Audience(VIEWER, *arrays, require_follow=True)
    tombstones = native.U64Set([CONTENT] if deleted else [])
    entry = entries_of.pack(CONTENT, author, flags=visibility)
    follows = "followees" in inside
    shown = visibility == Visibility.PUBLIC or (visibility == Visibility.FOLLOWERS and follows)
    expected = {
        Verdict.DELETED: deleted,
        Verdict.BLOCKED: not own and "blocked" in inside,
        Verdict.UNFOLLOWED: not own and not follows,
        Verdict.MUTED: not own and "muted" in inside,
        Verdict.SNOOZED: not own and "snoozed" in inside,
        Verdict.HIDDEN: "hidden" in inside,
        Verdict.AUDIENCE: not own and not shown,
    }
    found = all_reasons(entry, audience, tombstones)
    assert found == {verdict for verdict, applies in expected.items() if applies}
    first = Verdict(native.judge(entry, audience, tombstones)[0])
    assert first == min(found, default=Verdict.KEEP), "the page's is the first of them"
