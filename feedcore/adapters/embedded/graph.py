"""GraphSource: follows as one packed row a follower, and reversed as rows for continuations;
blocks.

An edge is in both or in none. A new edge of a pushed author comes with its BACKFILL job, an ended
one with its REMOVE job, in the same commit.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.embedded.database import Connection, Writer
from feedcore.adapters.embedded.feeds import insert_user_job, queue_rebuild
from feedcore.adapters.embedded.sqlids import MASK, ascending, from_sql, pack, signed_ids, to_sql
from feedcore.domain.policy import Mode
from feedcore.errors import InvalidField, NotPermitted
from feedcore.limits import (
    FOLLOWEES_MAX,
    INACTIVE_AFTER_MS,
    PREFERENCES_PER_USER_MAX,
    USER_ID_MAX,
)
from feedcore.ports import GraphPage, JobKind, Lane

# kinds in `relations`, beside PreferenceKind 1 to 4
BLOCK = 10
BLOCKED_BY = 11

SAMPLE_LISTED_MAX = (
    100_000  # graphs up to here are listed whole for a sample; larger ones are probed
)
_FOLLOWERS = (
    "SELECT follower_id FROM followers WHERE followee_id = ?"
    " AND follower_id BETWEEN ? AND ? ORDER BY follower_id LIMIT ?"
)
_FOLLOWEES = "SELECT packed FROM followees WHERE user_id = ?"
_BLOCKED = "SELECT 1 FROM relations WHERE user_id = ? AND kind IN (10, 11) AND target_id = ?"


class EmbeddedGraphSource:
    """See `ports.graph.GraphSource`."""

    def __init__(self, conn: sqlite3.Connection, writer: Writer) -> None:
        self._conn = conn
        self._writer = writer

    async def followees(self, user_id: int) -> bytes:
        """One row, as it is stored."""
        return _packed(self._conn, user_id)

    async def follower_count(self, user_id: int) -> int:
        """Kept beside the author's mode."""
        sql = "SELECT followers FROM authors WHERE author_id = ?"
        row = self._conn.execute(sql, (to_sql(user_id),)).fetchone()
        return row[0] if row else 0

    async def audience(self, author_id: int) -> int:
        """The same count."""
        return await self.follower_count(author_id)

    async def followers(self, user_id: int, after: int, limit: int) -> GraphPage:
        """A range of the reverse rows."""
        found = ascending(self._conn, _FOLLOWERS, (to_sql(user_id),), after, limit)
        return GraphPage(pack(found), from_sql(found[-1]) if len(found) == limit else 0)

    async def followee_page(self, user_id: int, after: int, limit: int) -> GraphPage:
        """A slice of the packed row."""
        ids = memoryview(_packed(self._conn, user_id)).cast("Q")
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if ids[middle] <= after:
                low = middle + 1
            else:
                high = middle
        part = ids[low : low + limit]
        more = low + limit < len(ids)
        return GraphPage(part.tobytes(), part[-1] if more else 0)

    async def push_recipients(
        self,
        author_id: int,
        after: int,
        limit: int,
        lane: int,
        recent_since_ms: int,
        recent_until_ms: int = USER_ID_MAX,
    ) -> GraphPage:
        """`limit` followers are looked at; inactive ones, and those of the other lane, are left
        out.
        """
        author = to_sql(author_id)
        found = ascending(self._conn, _FOLLOWERS, (author,), after, limit)
        if not found:
            return GraphPage(b"", 0)
        next_after = from_sql(found[-1]) if len(found) == limit else 0
        skip = self._skipped(author, found, lane, (recent_since_ms, recent_until_ms))
        if skip:
            found = [one for one in found if one not in skip]
        return GraphPage(pack(found), next_after)

    def _skipped(
        self, author: int, found: list[int], lane: int, recent: tuple[int, int]
    ) -> set[int]:
        conn = self._conn
        skip: set[int] = set()
        # an id array in ascending unsigned order is at most two ascending signed ranges
        ranges = [part for part in (_range(found, False), _range(found, True)) if part]
        for low, high in ranges:
            within = (
                "SELECT f.follower_id FROM followers f {} WHERE f.followee_id = ?1"
                " AND f.follower_id BETWEEN ?2 AND ?3 {}"
            )
            if conn.execute("SELECT EXISTS (SELECT 1 FROM inactive_users)").fetchone()[0]:
                sql = within.format("JOIN inactive_users i ON i.user_id = f.follower_id", "")
                skip.update(row[0] for row in conn.execute(sql, (author, low, high)))
            if lane == Lane.ALL:
                continue
            test = "BETWEEN ?4 AND ?5" if lane == Lane.REST else "< ?4"
            sql = within.format(
                "LEFT JOIN viewers v ON v.user_id = f.follower_id",
                f"AND coalesce(v.last_seen_ms, 0) {test}",
            )
            bounds = recent if lane == Lane.REST else recent[:1]
            rows = conn.execute(sql, (author, low, high, *bounds))
            skip.update(row[0] for row in rows)
        return skip

    async def sample_users(self, count: int, seed: int) -> list[int]:
        """Drawn from all if they can be listed, else by probing random places."""
        chance = random.Random(seed)
        sql = "SELECT user_id FROM followees ORDER BY user_id LIMIT ?"
        listed = [from_sql(row[0]) for row in self._conn.execute(sql, (SAMPLE_LISTED_MAX + 1,))]
        if len(listed) <= SAMPLE_LISTED_MAX:
            return sorted(chance.sample(listed, min(count, len(listed))))
        bounds = "SELECT min(user_id), max(user_id) FROM followees"
        low, high = self._conn.execute(bounds).fetchone()
        found: set[int] = set()
        for _ in range(4 * count):
            probe = "SELECT user_id FROM followees WHERE user_id >= ? ORDER BY user_id LIMIT 1"
            row = self._conn.execute(probe, (chance.randint(low, high),)).fetchone()
            found.add(from_sql(row[0]))
            if len(found) == count:
                break
        return sorted(found)

    async def follow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """Both rows, the count, and the backfill."""
        _check_pair(follower_id, followee_id)
        return await self._writer.run(lambda conn: _follow(conn, follower_id, followee_id, now_ms))

    async def unfollow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """In force with the next read; storage follows."""
        return await self._writer.run(
            lambda conn: _unfollow(conn, follower_id, followee_id, now_ms)
        )

    async def block(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Two rows, so that either side's filters are one range."""
        _check_pair(blocker_id, blocked_id)

        def work(conn: Connection) -> bool:
            sql = "INSERT OR IGNORE INTO relations VALUES (?, ?, ?, 0, ?)"
            blocker, blocked = to_sql(blocker_id), to_sql(blocked_id)
            check_relation_room(conn, blocker)
            new = conn.execute(sql, (blocker, BLOCK, blocked, now_ms)).rowcount == 1
            conn.execute(sql, (blocked, BLOCKED_BY, blocker, now_ms))
            _unfollow(conn, blocker_id, blocked_id, now_ms)
            _unfollow(conn, blocked_id, blocker_id, now_ms)
            conn.changes.viewers += (blocker_id, blocked_id)
            return new

        return await self._writer.run(work)

    async def unblock(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Ends this direction only."""

        def work(conn: Connection) -> bool:
            sql = "DELETE FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?"
            blocker, blocked = to_sql(blocker_id), to_sql(blocked_id)
            conn.execute(sql, (blocked, BLOCKED_BY, blocker))
            conn.changes.viewers += (blocker_id, blocked_id)
            return conn.execute(sql, (blocker, BLOCK, blocked)).rowcount == 1

        return await self._writer.run(work)

    async def import_follows(self, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
        """One packed write a follower; where posts exist, one rebuild a follower, not a backfill an
        edge.
        """
        return await self._writer.run(lambda conn: _import(conn, edges, now_ms))

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        """Moves users not seen for INACTIVE_AFTER_MS to the inactive ones; how many."""

        def work(conn: Connection) -> int:
            sql = (
                "INSERT INTO inactive_users SELECT user_id FROM viewers WHERE last_seen_ms < ?1"
                " AND NOT EXISTS (SELECT 1 FROM inactive_users i WHERE i.user_id = viewers.user_id)"
                " ORDER BY last_seen_ms LIMIT ?2 RETURNING user_id"
            )
            gone = conn.execute(sql, (now_ms - INACTIVE_AFTER_MS, limit)).fetchall()
            conn.changes.viewers.extend(from_sql(row[0]) for row in gone)
            return len(gone)

        return await self._writer.run(work, replicated=False)


def _range(found: list[int], negative: bool) -> tuple[int, int] | None:
    """First and last of the signed ids of one sign; `found` has all non-negative ones first."""
    part = [one for one in found if (one < 0) == negative] if found[-1] < 0 else found
    if found[-1] >= 0 and negative:
        return None
    return (part[0], part[-1]) if part else None


def _check_pair(user_id: int, target_id: int) -> None:
    if user_id == target_id:
        raise InvalidField("followee_id", f"{target_id}, the user itself", "must be another user")
    for name, value in (("follower_id", user_id), ("followee_id", target_id)):
        if not 0 < value <= MASK:
            raise InvalidField(name, str(value), "1 to 2^64 - 1")


def check_relation_room(conn: sqlite3.Connection, user: int) -> None:
    """Raises InvalidField if the user's filter sets are full."""
    sql = "SELECT count(*) FROM relations WHERE user_id = ? AND kind <> 11"
    if conn.execute(sql, (user,)).fetchone()[0] >= PREFERENCES_PER_USER_MAX:
        raise InvalidField(
            "target_user_id",
            f"{PREFERENCES_PER_USER_MAX} preferences are set",
            f"at most {PREFERENCES_PER_USER_MAX} a user",
        )


def _packed(conn: sqlite3.Connection, user_id: int) -> bytes:
    row = conn.execute(_FOLLOWEES, (to_sql(user_id),)).fetchone()
    return row[0] if row else b""


def _store_packed(conn: Connection, user_id: int, packed: bytes) -> None:
    user = to_sql(user_id)
    conn.changes.viewers.append(user_id)
    if packed:
        conn.execute("INSERT OR REPLACE INTO followees VALUES (?, ?)", (user, packed))
    else:
        conn.execute("DELETE FROM followees WHERE user_id = ?", (user,))


def _check_followees(packed: bytes) -> None:
    if len(packed) // 8 > FOLLOWEES_MAX:
        raise InvalidField(
            "followee_id", f"{len(packed) // 8} accounts are followed", f"at most {FOLLOWEES_MAX}"
        )


def _count_follower(conn: sqlite3.Connection, followee: int, change: int) -> int:
    """Changes the count; returns the author's mode."""
    sql = (
        "INSERT INTO authors (author_id, followers) VALUES (?1, ?2)"
        " ON CONFLICT DO UPDATE SET followers = followers + ?2 RETURNING mode"
    )
    return conn.execute(sql, (followee, change)).fetchone()[0]


def _follow(conn: Connection, follower_id: int, followee_id: int, now_ms: int) -> bool:
    follower, followee = to_sql(follower_id), to_sql(followee_id)
    packed = _packed(conn, follower_id)
    if native.ids_contain(packed, followee_id):
        return False
    if conn.execute(_BLOCKED, (follower, followee)).fetchone():
        raise NotPermitted("followee_id: one of the two blocks the other; unblock first")
    packed = native.ids_insert(packed, followee_id)
    _check_followees(packed)
    _store_packed(conn, follower_id, packed)
    conn.execute("INSERT INTO followers VALUES (?, ?)", (followee, follower))
    mode = _count_follower(conn, followee, 1)
    conn.execute("INSERT OR IGNORE INTO viewers VALUES (?, ?)", (follower, now_ms))
    published = "SELECT 1 FROM author_outbox WHERE author_id = ? LIMIT 1"
    if mode != Mode.PULL and conn.execute(published, (followee,)).fetchone():
        insert_user_job(conn, JobKind.BACKFILL, followee_id, follower_id, now_ms)
    return True


def _unfollow(conn: Connection, follower_id: int, followee_id: int, now_ms: int) -> bool:
    follower, followee = to_sql(follower_id), to_sql(followee_id)
    packed = _packed(conn, follower_id)
    if not native.ids_contain(packed, followee_id):
        return False
    _store_packed(conn, follower_id, native.ids_remove(packed, followee_id))
    sql = "DELETE FROM followers WHERE followee_id = ? AND follower_id = ?"
    conn.execute(sql, (followee, follower))
    _count_follower(conn, followee, -1)
    published = "SELECT 1 FROM author_outbox WHERE author_id = ? LIMIT 1"
    if conn.execute(published, (followee,)).fetchone():
        insert_user_job(conn, JobKind.REMOVE, followee_id, follower_id, now_ms)
    return True


def _import(conn: Connection, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
    wanted: dict[int, list[int]] = {}
    for follower_id, followee_id in edges:
        _check_pair(follower_id, followee_id)
        wanted.setdefault(follower_id, []).append(followee_id)
    has_posts = conn.execute("SELECT EXISTS (SELECT 1 FROM author_outbox)").fetchone()[0]
    counts: dict[int, int] = {}
    new_rows: list[tuple[int, int]] = []
    for follower_id in sorted(wanted):
        follower = to_sql(follower_id)
        before = _packed(conn, follower_id)
        sql = "SELECT target_id FROM relations WHERE user_id = ? AND kind IN (10, 11)"
        blocked = [from_sql(row[0]) for row in conn.execute(sql, (follower,))]
        asked = native.U64Set(wanted[follower_id])
        for one in native.ids_intersect(before, asked):
            asked.discard(one)
        for one in blocked:
            asked.discard(one)
        new = native.pack_ids(asked)
        if not new:
            continue
        after = native.ids_union(before, new)
        _check_followees(after)
        _store_packed(conn, follower_id, after)
        for followee in signed_ids(new):
            new_rows.append((followee, follower))
            counts[followee] = counts.get(followee, 0) + 1
        conn.execute("INSERT OR IGNORE INTO viewers VALUES (?, ?)", (follower, now_ms))
        if has_posts:
            queue_rebuild(conn, follower_id, now_ms)
    conn.executemany("INSERT INTO followers VALUES (?, ?)", sorted(new_rows))
    for followee in sorted(counts):
        _count_follower(conn, followee, counts[followee])
    return len(new_rows)
