"""SignalStore: interactions and a log of their changes; the log is folded into counters exactly
once.

Folding is one transaction: log rows go as counters, affinity and trending weight change. The
engagement map gets absolute values, so that doing it again after a crash is the same.
"""

from __future__ import annotations

import logging
import sqlite3
import struct
from collections.abc import Sequence
from typing import Any

from feedcore import native
from feedcore.adapters.common.write_behind import WriteBehind
from feedcore.adapters.embedded.database import Connection, Writer, bump, write_pairs
from feedcore.adapters.embedded.engagement import EngagementMap
from feedcore.adapters.embedded.preferences import clear_preference, is_set, set_preference
from feedcore.domain import entry as entries_of
from feedcore.domain import ids
from feedcore.domain.engagement import WEIGHTS, pack_shares, strongest
from feedcore.domain.interaction_plan import plan_interaction
from feedcore.domain.trending import TRENDING_CANDIDATES, filled_up, heaviest, oldest_id
from feedcore.errors import NotFound
from feedcore.limits import IMPRESSION_BUFFER_MAX, TRENDING_ENTRIES
from feedcore.ports import ImportedCounts, Interaction, InteractionKind, Preference, PreferenceKind

_COLUMNS = ("likes", "comments", "shares", "clicks", "hides")  # by InteractionKind - 1
_WEIGHT = " + ".join(f"{weight} * {name}" for weight, name in zip(WEIGHTS, _COLUMNS, strict=True))
_IMPRESSIONS = (
    "INSERT INTO post_counts (content_id, impressions)"
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)"
    " WHERE EXISTS (SELECT 1 FROM posts WHERE content_id = json_extract(value, '$[0]'))"
    " ON CONFLICT DO UPDATE SET impressions = impressions + excluded.impressions"
)
_PAIR_F64 = struct.Struct("<Qd")

log = logging.getLogger(__name__)


class EmbeddedSignalStore:
    """See `ports.signals.SignalStore`."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        writer: Writer,
        engagement: EngagementMap,
        behind: WriteBehind,
    ) -> None:
        self._conn = conn
        self._writer = writer
        self._behind = behind
        self._engagement = engagement
        self._impressions: dict[int, int] = {}
        self._buffered = 0
        self.impressions_dropped = 0

    async def record(self, interaction: Interaction) -> bool:
        """One row, and one in the log."""

        def work(conn: Connection) -> bool:
            user, key = interaction.user_id, interaction.idempotency_key
            if key:
                sql = "SELECT changed FROM interaction_keys WHERE user_id = ? AND key = ?"
                row = conn.execute(sql, (user, key)).fetchone()
                if row is not None:
                    return bool(row[0])
            if not _post_exists(conn, interaction.content_id):
                raise NotFound("content_id: no such post")
            changed = _apply(conn, interaction)
            if key:
                row = (user, key, int(changed), interaction.at_ms)
                conn.execute("INSERT INTO interaction_keys VALUES (?, ?, ?, ?)", row)
            return changed

        return await self._writer.run(work, replicated=False)

    async def import_counts(self, rows: Sequence[ImportedCounts]) -> None:
        """What the post had elsewhere is kept apart from what is counted here."""

        def work(conn: Connection) -> None:
            for content_id, likes, comments, shares in rows:
                if not _post_exists(conn, content_id):
                    continue
                conn.execute(
                    "INSERT OR IGNORE INTO post_counts (content_id) VALUES (?)", (content_id,)
                )
                conn.execute(
                    "UPDATE post_counts SET likes = likes + ?2 - base_likes,"
                    " comments = comments + ?3 - base_comments, shares = shares + ?4 - base_shares,"
                    " base_likes = ?2, base_comments = ?3, base_shares = ?4 WHERE content_id = ?1",
                    (content_id, likes, comments, shares),
                )
                self._weigh(conn, content_id)
                conn.changes.contents.append(content_id)

        await self._writer.run(work, replicated=False)

    async def import_interactions(self, rows: Sequence[Interaction]) -> int:
        """As `record`, without keys."""

        def work(conn: Connection) -> int:
            return sum(_apply(conn, one) for one in rows if _post_exists(conn, one.content_id))

        return await self._writer.run(work, replicated=False)

    def impressions(self, content_ids: Sequence[int], times: int = 1) -> None:
        """Added up in memory until `write_impressions`."""
        if self._buffered + len(content_ids) > IMPRESSION_BUFFER_MAX:
            self.impressions_dropped += len(content_ids) * times
            return
        self._buffered += len(content_ids)
        counts = self._impressions
        for content_id in content_ids:
            counts[content_id] = counts.get(content_id, 0) + times
        self._behind.touch()

    async def write_impressions(self) -> int:
        """Writes what is buffered; how many items. If that fails they are dropped, and counted as
        dropped.
        """
        if not self._impressions:
            return 0
        rows = list(self._impressions.items())
        dropped = self._buffered
        self._impressions = {}
        self._buffered = 0

        def work(conn: sqlite3.Connection) -> None:
            write_pairs(conn, _IMPRESSIONS, rows)

        try:
            await self._writer.run(work, replicated=False)
        except BaseException:
            self.impressions_dropped += dropped
            raise
        return len(rows)

    async def apply_counters(self, limit: int, now_ms: int) -> int:
        """Oldest first. Asking costs one read if nothing waits."""
        if self._conn.execute("SELECT 1 FROM counter_log LIMIT 1").fetchone() is None:
            return 0
        return await self._writer.run(lambda conn: self._fold(conn, limit), replicated=False)

    def engagement(self, entries: bytes) -> bytes:
        """From the shared map."""
        return self._engagement.lookup(entries)

    async def refresh_trending(self, now_ms: int) -> None:
        """Weight halves every TRENDING_HALF_LIFE_MS; without any, the newest public posts."""
        value = _trending(self._conn, now_ms)

        def work(conn: Connection) -> None:
            conn.execute("INSERT OR REPLACE INTO blobs VALUES ('trending', ?)", (value,))
            bump(conn, "trending")

        row = self._conn.execute("SELECT value FROM blobs WHERE name = 'trending'").fetchone()
        if (row[0] if row else b"") != value:
            await self._writer.run(work)

    def _fold(self, conn: Connection, limit: int) -> int:
        sql = "SELECT seq, user_id, content_id, kind, delta FROM counter_log ORDER BY seq LIMIT ?"
        rows = conn.execute(sql, (limit,)).fetchall()
        if not rows:
            return 0
        counts: dict[int, list[int]] = {}
        tastes: dict[int, dict[int, float]] = {}
        authors: dict[int, int] = {}
        for seq, user, content, kind, delta in rows:
            if not _is_readable(user, content, kind, delta):
                log.error("row %d of counter_log cannot be read and is left out", seq)
                continue
            if content not in authors:
                row = conn.execute(
                    "SELECT author_id FROM posts WHERE content_id = ?", (content,)
                ).fetchone()
                authors[content] = row[0] if row else 0
            if not authors[content]:
                continue  # deleted meanwhile: nobody asks for its counts any more
            counts.setdefault(content, [0] * len(_COLUMNS))[kind - 1] += delta
            weight = WEIGHTS[kind - 1] * delta
            if weight and authors[content] != user:
                taste = tastes.setdefault(user, {})
                taste[authors[content]] = taste.get(authors[content], 0.0) + weight
        sets = ", ".join(f"{name} = max({name} + ?, 0)" for name in _COLUMNS)
        for content, changes in counts.items():
            conn.execute("INSERT OR IGNORE INTO post_counts (content_id) VALUES (?)", (content,))
            conn.execute(f"UPDATE post_counts SET {sets} WHERE content_id = ?", (*changes, content))
            self._weigh(conn, content)
            conn.changes.contents.append(content)
        for user, taste in tastes.items():
            _add_affinity(conn, user, taste)
            conn.changes.viewers.append(user)
        conn.execute("DELETE FROM counter_log WHERE seq <= ?", (rows[-1][0],))
        return len(rows)

    def _weigh(self, conn: sqlite3.Connection, content: int) -> None:
        sql = f"UPDATE post_counts SET weight = {_WEIGHT} WHERE content_id = ? RETURNING weight"
        row = conn.execute(sql, (content,)).fetchone()
        self._engagement.store(content, row[0])


def _post_exists(conn: sqlite3.Connection, content_id: int) -> bool:
    sql = "SELECT 1 FROM posts WHERE content_id = ?"
    return conn.execute(sql, (content_id,)).fetchone() is not None


def _apply(conn: Connection, one: Interaction) -> bool:
    key = (one.content_id, one.user_id, int(one.kind))
    where = "WHERE content_id = ? AND user_id = ? AND kind = ?"
    row = conn.execute(f"SELECT 1 FROM interactions {where}", key).fetchone()
    is_hide = one.kind == InteractionKind.HIDE
    plan = plan_interaction(
        one.on,
        was_on=row is not None,
        is_hide=is_hide,
        was_hidden=is_hide and is_set(conn, one.user_id, PreferenceKind.HIDE, one.content_id),
    )
    if plan.counts:
        if one.on:
            conn.execute("INSERT INTO interactions VALUES (?, ?, ?, ?)", (*key, one.at_ms))
        else:
            conn.execute(f"DELETE FROM interactions {where}", key)
        conn.execute(
            "INSERT INTO counter_log (user_id, content_id, kind, delta) VALUES (?, ?, ?, ?)",
            (key[1], key[0], key[2], 1 if one.on else -1),
        )
    if plan.hides and one.on:
        hide = Preference(PreferenceKind.HIDE, one.content_id, 0, one.at_ms)
        set_preference(conn, one.user_id, hide)
    elif plan.hides:
        clear_preference(conn, one.user_id, PreferenceKind.HIDE, one.content_id)
    return plan.changes


def _add_affinity(conn: sqlite3.Connection, user: int, changes: dict[int, float]) -> None:
    row = conn.execute("SELECT weights FROM affinity WHERE user_id = ?", (user,)).fetchone()
    weights = dict(_PAIR_F64.iter_unpack(row[0])) if row else {}
    for author_id, change in changes.items():
        weights[author_id] = weights.get(author_id, 0.0) + change
    strong = strongest(weights)
    packed = b"".join(_PAIR_F64.pack(*one) for one in strong)
    sql = "INSERT OR REPLACE INTO affinity VALUES (?, ?, ?)"
    conn.execute(sql, (user, pack_shares(strong), packed))


def _trending(conn: sqlite3.Connection, now_ms: int) -> bytes:
    columns = "SELECT p.content_id, p.author_id"
    public = int(entries_of.Visibility.PUBLIC)
    rows = conn.execute(
        f"{columns}, c.weight FROM post_counts c JOIN posts p USING (content_id)"
        " WHERE c.weight > 0 AND c.content_id >= ? AND p.visibility = ?"
        " ORDER BY c.weight DESC LIMIT ?",
        (oldest_id(now_ms), public, TRENDING_CANDIDATES),
    ).fetchall()
    authors = {content_id: author for content_id, author, _ in rows}
    best = heaviest([(row[0], row[2]) for row in rows], now_ms, TRENDING_ENTRIES)
    if len(best) < TRENDING_ENTRIES:
        sql = f"{columns} FROM posts p WHERE p.visibility = ? ORDER BY p.content_id DESC LIMIT ?"
        newest = dict(conn.execute(sql, (public, TRENDING_ENTRIES)))
        authors |= newest
        best = filled_up(best, newest, now_ms)
    # flags and quality are in the outbox; a trending entry needs them as they were made
    packed = [_stored_entry(conn, content_id, authors[content_id]) for content_id in best]
    return native.sort_entries(b"".join(packed))


def _stored_entry(conn: sqlite3.Connection, content_id: int, author: int) -> bytes:
    sql = "SELECT entries FROM author_outbox WHERE author_id = ? AND day = ?"
    row = conn.execute(sql, (author, ids.day(content_id))).fetchone()
    if row is None:
        return b""  # older than retention
    at = row[0].find(entries_of.order_key(content_id))
    return row[0][at : at + entries_of.ENTRY_BYTES] if at % entries_of.ENTRY_BYTES == 0 else b""


def _is_readable(user: Any, content: Any, kind: Any, delta: Any) -> bool:
    """What is not must not stop the rows behind it."""
    numbers = all(isinstance(one, int) for one in (user, content, kind, delta))
    return numbers and 1 <= kind <= len(_COLUMNS)
