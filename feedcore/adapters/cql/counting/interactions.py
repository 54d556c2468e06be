"""Interactions: what a user set or took back, and the marks to count it.

`user_interactions` keeps the last state of each (user, content, kind), also when it was taken back,
with when as its timestamp; `interactions` has only what is set, to be counted. Both rows, the key
and a hide go in one logged batch, whose timestamp is later than what was read: so a change that
follows another comes after it whatever the clocks of two nodes say. Marks are set when the batch is
durable, and again when nothing changed: who made the change may have died before the mark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.dirty import DirtyMarks, Kind
from feedcore.domain.follow_plan import check_room
from feedcore.domain.interaction_plan import plan_interaction
from feedcore.errors import NotFound
from feedcore.ports import Interaction, InteractionKind
from feedcore.resilience.gather import gather_all, gather_bounded

_KEY = Statement("SELECT changed FROM interaction_keys WHERE user_id = ? AND key = ?")
_AUTHOR = Statement("SELECT author_id, entry FROM posts WHERE content_id = ?")
_STATE = Statement(
    "SELECT active, WRITETIME(active) FROM user_interactions"
    " WHERE user_id = ? AND content_id = ? AND kind = ?"
)
_HIDDEN = Statement(
    "SELECT extra, WRITETIME(extra) FROM viewer WHERE user_id = ? AND kind = ? AND target_id = ?"
)
_USE_KEY = Statement(
    "INSERT INTO interaction_keys (user_id, key, changed) VALUES (?, ?, ?) USING TIMESTAMP ?"
)
_SET_STATE = Statement(
    "INSERT INTO user_interactions (user_id, content_id, kind, author_id, active)"
    " VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_SET = Statement(
    "INSERT INTO interactions (content_id, kind, user_id, at_ms) VALUES (?, ?, ?, ?)"
    " USING TIMESTAMP ?"
)
_TAKE_BACK = Statement(
    "DELETE FROM interactions USING TIMESTAMP ? WHERE content_id = ? AND kind = ? AND user_id = ?"
)


class _Known(NamedTuple):
    """What is stored of one interaction. `author_id` 0: there is no such post."""

    author_id: int
    active: bool
    hidden: bool
    written_us: int


class Interactions:
    """One a process."""

    def __init__(self, session: Session, marks: DirtyMarks, stamps: Stamps) -> None:
        self._session = session
        self._marks = marks
        self._stamps = stamps

    async def record(self, one: Interaction) -> bool:
        """See the port; announcing a hide is the caller's."""
        if one.idempotency_key:
            key = (one.user_id, one.idempotency_key)
            used, known = await gather_all(self._session.read(_KEY, key), self._known(one))
            if used:
                await self._marks.mark(_marks_of(one))
                return used[0][0]
        else:
            known = await self._known(one)
        if not known.author_id:
            raise NotFound("content_id: no such post")
        changed = await self._apply(one, known)
        await self._marks.mark(_marks_of(one))
        return changed

    async def import_all(self, rows: Sequence[Interaction]) -> int:
        """As `record`, without keys; the number that were new. Unknown posts are left out."""
        groups: dict[tuple[int, int, int], list[Interaction]] = {}
        for one in rows:
            groups.setdefault((one.user_id, one.content_id, one.kind), []).append(one)
        kept: list[Interaction] = []

        async def apply(group: list[Interaction]) -> int:
            new = 0
            for one in group:
                known = await self._known(one)
                if known.author_id:
                    new += await self._apply(one._replace(idempotency_key=""), known)
                    kept.append(one)
            return new

        new = sum(await gather_bounded(list(groups.values()), apply))
        await self._marks.mark(mark for one in kept for mark in _marks_of(one))
        return new

    async def _known(self, one: Interaction) -> _Known:
        user, kind = one.user_id, int(one.kind)
        calls = [
            self._session.read(_AUTHOR, (one.content_id,)),
            self._session.read(_STATE, (user, one.content_id, kind)),
        ]
        if one.kind == InteractionKind.HIDE:
            key = (user, int(viewer.Kind.HIDE), one.content_id)
            calls.append(self._session.read(_HIDDEN, key))
        post, state, *rest = await gather_all(*calls)
        hidden = rest[0] if rest else []
        there = bool(post) and post[0][1] is not None
        times = [rows[0][1] or 0 for rows in (state, hidden) if rows]
        return _Known(
            author_id=post[0][0] if there else 0,
            active=bool(state) and bool(state[0][0]),
            hidden=bool(hidden),
            written_us=max(times, default=0),
        )

    async def _apply(self, one: Interaction, known: _Known) -> bool:
        """Whether anything changed."""
        is_hide = one.kind == InteractionKind.HIDE
        plan = plan_interaction(
            one.on, was_on=known.active, is_hide=is_hide, was_hidden=known.hidden
        )
        if plan.hides and one.on:
            rows = await self._session.read(viewer.ROOM, (one.user_id,))
            check_room(rows[0][0])
        stamp = self._stamps.new_stamp(known.written_us)
        user, kind = one.user_id, int(one.kind)
        writes = []
        if plan.counts:
            author = known.author_id
            writes.append(Write(_SET_STATE, (user, one.content_id, kind, author, one.on, stamp)))
            if one.on:
                writes.append(Write(_SET, (one.content_id, kind, user, one.at_ms, stamp)))
            else:
                writes.append(Write(_TAKE_BACK, (stamp, one.content_id, kind, user)))
        if plan.hides:
            hide = (one.user_id, viewer.Kind.HIDE, one.content_id)
            if one.on:
                at = viewer.set_at_value(one.at_ms)
                writes.append(viewer.put(*hide, 0, stamp, at))
            else:
                writes.append(viewer.drop(*hide, stamp))
        if one.idempotency_key:
            writes.append(Write(_USE_KEY, (user, one.idempotency_key, plan.changes, stamp)))
        if writes:
            await self._session.batch(writes, logged=True)
        return plan.changes


def _marks_of(one: Interaction) -> list[tuple[Kind, int]]:
    return [(Kind.CONTENT, one.content_id), (Kind.AFFINITY, one.user_id)]
