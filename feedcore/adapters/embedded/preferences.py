"""PreferenceStore: relations of one user in one key range, and when users were last seen."""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable, Sequence

from feedcore import native
from feedcore.adapters.common.seen_users import SeenUsers
from feedcore.adapters.common.write_behind import WriteBehind
from feedcore.adapters.embedded.database import Connection, Writer, write_pairs
from feedcore.adapters.embedded.graph import BLOCKED_BY, relations_of
from feedcore.domain.follow_plan import check_room
from feedcore.domain.preference_list import as_listed
from feedcore.ports import Preference, PreferenceKind, ViewerFilters

_RELATIONS = "SELECT kind, target_id, until_ms FROM relations WHERE user_id = ?"
_SEEN = (
    "INSERT INTO viewers SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')"
    " FROM json_each(?) WHERE true"
    " ON CONFLICT DO UPDATE SET last_seen_ms = max(last_seen_ms, excluded.last_seen_ms)"
)
_AFFINITY = "SELECT shares FROM affinity WHERE user_id = ?"


class EmbeddedPreferenceStore:
    """See `ports.preferences.PreferenceStore`."""

    def __init__(self, conn: sqlite3.Connection, writer: Writer, behind: WriteBehind) -> None:
        self._conn = conn
        self._writer = writer
        self._seen = SeenUsers(self._write_seen, behind.touch)

    async def filters(self, user_id: int, now_ms: int) -> ViewerFilters:
        """Two queries: the range of relations, the affinity row."""
        rows = self._conn.execute(_RELATIONS, (user_id,)).fetchall()
        row = self._conn.execute(_AFFINITY, (user_id,)).fetchone()
        return filters_of(rows, row[0] if row else b"", now_ms)

    async def all_of(self, user_id: int, now_ms: int) -> list[Preference]:
        """One query."""
        sql = (
            "SELECT kind, target_id, until_ms, set_at_ms FROM relations WHERE user_id = ?"
            " AND kind <= 4"
        )
        rows = self._conn.execute(sql, (user_id,))
        return as_listed((Preference(PreferenceKind(kind), *rest) for kind, *rest in rows), now_ms)

    async def put(self, user_id: int, preference: Preference) -> bool:
        """Setting again with another end of a snooze is a change."""
        return await self._writer.run(
            lambda conn: set_preference(conn, user_id, preference), replicated=False
        )

    async def clear(self, user_id: int, kind: PreferenceKind, target_id: int) -> bool:
        """One row."""
        return await self._writer.run(
            lambda conn: clear_preference(conn, user_id, kind, target_id), replicated=False
        )

    async def import_preferences(self, rows: Sequence[tuple[int, Preference]]) -> int:
        """In one commit."""
        return await self._writer.run(
            lambda conn: sum(set_preference(conn, user_id, one) for user_id, one in rows),
            replicated=False,
        )

    def seen(self, user_id: int, now_ms: int) -> None:
        """Remembered here, written by `write_seen`."""
        self._seen.note(user_id, now_ms)

    async def write_seen(self) -> int:
        """Writes what waits; how many users."""
        return await self._seen.flush()

    async def _write_seen(self, seen: Iterable[tuple[int, int]]) -> None:
        rows = list(seen)
        await self._writer.run(lambda conn: write_pairs(conn, _SEEN, rows), replicated=False)


def filters_of(
    relations: Sequence[tuple[int, int, int]], affinity: bytes, now_ms: int
) -> ViewerFilters:
    """Of rows (kind, target_id, until_ms), those of one kind ascending by target."""
    if not relations:
        return ViewerFilters(b"", b"", b"", b"", b"", affinity)
    sets: dict[int, list[int]] = {1: [], 2: [], 3: [], 4: [], 10: []}
    for kind, target, until_ms in relations:
        if kind == PreferenceKind.SNOOZE and until_ms <= now_ms:
            continue
        sets[10 if kind == BLOCKED_BY else kind].append(target)
    # targets of one kind ascend, as its key range has them; blocks are of two kinds
    blocked = native.pack_ids(sets.pop(10))
    muted, snoozed, see_less, hidden = (array("q", one).tobytes() for one in sets.values())
    return ViewerFilters(muted, snoozed, see_less, hidden, blocked, affinity)


def set_preference(conn: Connection, user_id: int, preference: Preference) -> bool:
    """False if exactly this is set."""
    key = (user_id, int(preference.kind), preference.target_id)
    sql = "SELECT until_ms FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?"
    row = conn.execute(sql, key).fetchone()
    if row is not None and row[0] == preference.until_ms:
        return False
    if row is None:
        check_room(relations_of(conn, user_id))
    conn.changes.viewers.append(user_id)
    conn.execute(
        "INSERT OR REPLACE INTO relations VALUES (?, ?, ?, ?, ?)",
        (*key, preference.until_ms, preference.set_at_ms),
    )
    return True


def is_set(conn: Connection, user_id: int, kind: PreferenceKind, target_id: int) -> bool:
    """Whether there is such a row."""
    sql = "SELECT 1 FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?"
    return conn.execute(sql, (user_id, int(kind), target_id)).fetchone() is not None


def clear_preference(conn: Connection, user_id: int, kind: PreferenceKind, target_id: int) -> bool:
    """False if it was not set."""
    sql = "DELETE FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?"
    conn.changes.viewers.append(user_id)
    return conn.execute(sql, (user_id, int(kind), target_id)).rowcount == 1
