"""GraphSource: follows as one packed row a follower, and reversed as rows for continuations;
blocks.

An edge is in both or in none. What a change writes is `domain.follow_plan`'s decision; the facts
are read, and the plan carried out, in one commit.
"""

from __future__ import annotations

import random
import sqlite3
from array import array
from bisect import bisect_right
from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.embedded.database import Connection, Writer
from feedcore.adapters.embedded.feeds import insert_user_job, queue_rebuild
from feedcore.domain.follow_plan import (
    EdgeFacts,
    EdgePlan,
    check_pair,
    check_room,
    new_followees,
    plan_follow,
    plan_unfollow,
    wanted_followees,
)
from feedcore.domain.policy import Mode
from feedcore.limits import DAY_MS, INACTIVE_AFTER_MS, RETENTION_MS, USER_ID_MAX
from feedcore.ports import Followees, GraphPage, Lane

# kinds in `relations`, beside PreferenceKind 1 to 4
BLOCK = 10
BLOCKED_BY = 11

SAMPLE_LISTED_MAX = (
    100_000  # graphs up to here are listed whole for a sample; larger ones are probed
)
_FOLLOWERS = (
    "SELECT follower_id FROM followers WHERE followee_id = ? AND follower_id > ?"
    " ORDER BY follower_id LIMIT ?"
)
_FOLLOWEES = "SELECT packed FROM followees WHERE user_id = ?"
_BLOCKED = "SELECT 1 FROM relations WHERE user_id = ? AND kind IN (10, 11) AND target_id = ?"
# of the followers between two ids, those to leave out of a push
_ANY_INACTIVE = "SELECT EXISTS (SELECT 1 FROM inactive_users)"
_INACTIVE = (
    "SELECT f.follower_id FROM followers f JOIN inactive_users i ON i.user_id = f.follower_id"
    " WHERE f.followee_id = ? AND f.follower_id BETWEEN ? AND ?"
)
_SEEN_WITHIN = (
    "SELECT f.follower_id FROM followers f LEFT JOIN viewers v ON v.user_id = f.follower_id"
    " WHERE f.followee_id = ? AND f.follower_id BETWEEN ? AND ?"
    " AND coalesce(v.last_seen_ms, 0) BETWEEN ? AND ?"
)


class EmbeddedGraphSource:
    """See `ports.graph.GraphSource`."""

    def __init__(self, conn: sqlite3.Connection, writer: Writer) -> None:
        self._conn = conn
        self._writer = writer

    async def followees(self, user_id: int) -> Followees:
        """One row, as it is stored."""
        return Followees(_packed(self._conn, user_id))

    async def follower_count(self, user_id: int) -> int:
        """Kept beside the author's mode."""
        sql = "SELECT followers FROM authors WHERE author_id = ?"
        row = self._conn.execute(sql, (user_id,)).fetchone()
        return row[0] if row else 0

    async def audience(self, author_id: int) -> int:
        """The same count."""
        return await self.follower_count(author_id)

    async def followers(self, user_id: int, after: int, limit: int) -> GraphPage:
        """A range of the reverse rows."""
        rows = self._conn.execute(_FOLLOWERS, (user_id, after, limit))
        found = array("q", [row[0] for row in rows])
        return GraphPage(found.tobytes(), found[-1] if len(found) == limit else 0)

    async def followee_page(self, user_id: int, after: int, limit: int) -> GraphPage:
        """A slice of the packed row."""
        ids = memoryview(_packed(self._conn, user_id)).cast("Q")
        low = bisect_right(ids, after)
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
        page = await self.followers(author_id, after, limit)
        if not page.ids:
            return page
        found = memoryview(page.ids).cast("Q")
        within = (author_id, found[0], found[-1])
        skip: set[int] = set()
        if self._conn.execute(_ANY_INACTIVE).fetchone()[0]:
            skip.update(row[0] for row in self._conn.execute(_INACTIVE, within))
        other_lane = {
            Lane.ACTIVE: (0, recent_since_ms - 1),
            Lane.REST: (recent_since_ms, recent_until_ms),
        }.get(Lane(lane))
        if other_lane:
            seen = self._conn.execute(_SEEN_WITHIN, (*within, *other_lane))
            skip.update(row[0] for row in seen)
        if not skip:
            return page
        left = array("q", [one for one in found if one not in skip])
        return page._replace(ids=left.tobytes())

    async def sample_users(self, count: int, seed: int) -> list[int]:
        """Drawn from all if they can be listed, else by probing random places."""
        chance = random.Random(seed)
        sql = "SELECT user_id FROM followees ORDER BY user_id LIMIT ?"
        listed = [row[0] for row in self._conn.execute(sql, (SAMPLE_LISTED_MAX + 1,))]
        if len(listed) <= SAMPLE_LISTED_MAX:
            return sorted(chance.sample(listed, min(count, len(listed))))
        bounds = "SELECT min(user_id), max(user_id) FROM followees"
        low, high = self._conn.execute(bounds).fetchone()
        found: set[int] = set()
        for _ in range(4 * count):
            probe = "SELECT user_id FROM followees WHERE user_id >= ? ORDER BY user_id LIMIT 1"
            row = self._conn.execute(probe, (chance.randint(low, high),)).fetchone()
            found.add(row[0])
            if len(found) == count:
                break
        return sorted(found)

    async def follow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """Both rows, the count, and the backfill."""
        check_pair(follower_id, followee_id)
        return await self._writer.run(lambda conn: _follow(conn, follower_id, followee_id, now_ms))

    async def unfollow(self, follower_id: int, followee_id: int, now_ms: int) -> bool:
        """In force with the next read; storage follows."""
        return await self._writer.run(
            lambda conn: _unfollow(conn, follower_id, followee_id, now_ms)
        )

    async def block(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Two rows, so that either side's filters are one range."""
        check_pair(blocker_id, blocked_id)

        def work(conn: Connection) -> bool:
            new = not conn.execute(
                "SELECT 1 FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?",
                (blocker_id, BLOCK, blocked_id),
            ).fetchone()
            if new:
                check_room(relations_of(conn, blocker_id))
                sql = "INSERT OR IGNORE INTO relations VALUES (?, ?, ?, 0, ?)"
                conn.execute(sql, (blocker_id, BLOCK, blocked_id, now_ms))
                conn.execute(sql, (blocked_id, BLOCKED_BY, blocker_id, now_ms))
            _unfollow(conn, blocker_id, blocked_id, now_ms)
            _unfollow(conn, blocked_id, blocker_id, now_ms)
            conn.changes.viewers += (blocker_id, blocked_id)
            return new

        return await self._writer.run(work)

    async def unblock(self, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
        """Ends this direction only."""

        def work(conn: Connection) -> bool:
            sql = "DELETE FROM relations WHERE user_id = ? AND kind = ? AND target_id = ?"
            conn.execute(sql, (blocked_id, BLOCKED_BY, blocker_id))
            conn.changes.viewers += (blocker_id, blocked_id)
            return conn.execute(sql, (blocker_id, BLOCK, blocked_id)).rowcount == 1

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
            conn.changes.viewers.extend(row[0] for row in gone)
            return len(gone)

        return await self._writer.run(work, replicated=False)


def relations_of(conn: sqlite3.Connection, user_id: int) -> int:
    """How many preferences and blocks the user has set."""
    sql = "SELECT count(*) FROM relations WHERE user_id = ? AND kind <> 11"
    return conn.execute(sql, (user_id,)).fetchone()[0]


def _packed(conn: sqlite3.Connection, user_id: int) -> bytes:
    row = conn.execute(_FOLLOWEES, (user_id,)).fetchone()
    return row[0] if row else b""


def _store_packed(conn: Connection, user_id: int, packed: bytes) -> None:
    conn.changes.viewers.append(user_id)
    if packed:
        conn.execute("INSERT OR REPLACE INTO followees VALUES (?, ?)", (user_id, packed))
    else:
        conn.execute("DELETE FROM followees WHERE user_id = ?", (user_id,))


def _count_follower(conn: sqlite3.Connection, followee_id: int, change: int) -> None:
    sql = (
        "INSERT INTO authors (author_id, followers) VALUES (?1, ?2)"
        " ON CONFLICT DO UPDATE SET followers = followers + ?2"
    )
    conn.execute(sql, (followee_id, change))


def _mode_of(conn: sqlite3.Connection, author_id: int) -> int:
    row = conn.execute("SELECT mode FROM authors WHERE author_id = ?", (author_id,)).fetchone()
    return row[0] if row else Mode.PUSH


def _has_posts(conn: sqlite3.Connection, author_id: int, now_ms: int) -> bool:
    sql = "SELECT 1 FROM author_outbox WHERE author_id = ? AND day >= ? LIMIT 1"
    oldest_day = (now_ms - RETENTION_MS) // DAY_MS
    return conn.execute(sql, (author_id, oldest_day)).fetchone() is not None


def _follow(conn: Connection, follower_id: int, followee_id: int, now_ms: int) -> bool:
    packed = _packed(conn, follower_id)
    facts = EdgeFacts(
        followed=native.ids_contain(packed, followee_id),
        blocked=conn.execute(_BLOCKED, (follower_id, followee_id)).fetchone() is not None,
        followees=len(packed) // 8,
        mode=_mode_of(conn, followee_id),
        has_posts=_has_posts(conn, followee_id, now_ms),
    )
    plan = plan_follow(facts)
    if plan.changes:
        _store_packed(conn, follower_id, native.ids_insert(packed, followee_id))
        conn.execute("INSERT INTO followers VALUES (?, ?)", (followee_id, follower_id))
        _count_follower(conn, followee_id, 1)
        conn.execute("INSERT OR IGNORE INTO viewers VALUES (?, ?)", (follower_id, now_ms))
    return _finish(conn, plan, follower_id, followee_id, now_ms)


def _unfollow(conn: Connection, follower_id: int, followee_id: int, now_ms: int) -> bool:
    packed = _packed(conn, follower_id)
    plan = plan_unfollow(
        followed=native.ids_contain(packed, followee_id),
        has_posts=_has_posts(conn, followee_id, now_ms),
    )
    if plan.changes:
        _store_packed(conn, follower_id, native.ids_remove(packed, followee_id))
        sql = "DELETE FROM followers WHERE followee_id = ? AND follower_id = ?"
        conn.execute(sql, (followee_id, follower_id))
        _count_follower(conn, followee_id, -1)
    return _finish(conn, plan, follower_id, followee_id, now_ms)


def _finish(
    conn: Connection, plan: EdgePlan, follower_id: int, followee_id: int, now_ms: int
) -> bool:
    if plan.job is not None:
        insert_user_job(conn, plan.job, followee_id, follower_id, now_ms)
    return plan.changes


def _import(conn: Connection, edges: Sequence[tuple[int, int]], now_ms: int) -> int:
    has_posts = conn.execute("SELECT EXISTS (SELECT 1 FROM author_outbox)").fetchone()[0]
    counts: dict[int, int] = {}
    new_rows: list[tuple[int, int]] = []
    for follower_id, wanted in wanted_followees(edges).items():
        before = _packed(conn, follower_id)
        followed = set(native.ids_intersect(before, native.U64Set(wanted)))
        sql = "SELECT target_id FROM relations WHERE user_id = ? AND kind IN (10, 11)"
        blocked = {row[0] for row in conn.execute(sql, (follower_id,))}
        new = new_followees(wanted, followed, blocked, len(before) // 8)
        if not new:
            continue
        _store_packed(conn, follower_id, native.ids_union(before, native.pack_ids(new)))
        for followee_id in new:
            new_rows.append((followee_id, follower_id))
            counts[followee_id] = counts.get(followee_id, 0) + 1
        conn.execute("INSERT OR IGNORE INTO viewers VALUES (?, ?)", (follower_id, now_ms))
        if has_posts:
            queue_rebuild(conn, follower_id, now_ms)
    conn.executemany("INSERT INTO followers VALUES (?, ?)", sorted(new_rows))
    for followee_id in sorted(counts):
        _count_follower(conn, followee_id, counts[followee_id])
    return len(new_rows)
