"""PostStore: a post is one logged batch: its row, its entry in the author's timeline, and
a row for each fan-out job.

Invariants: what repeats a publish writes the same rows with the same timestamp (the time of the
id), and deletions are later than that: so a publish may be repeated by anybody at any time, and
never brings back what was deleted. An idempotency key is claimed before the batch; who finds it
claimed answers with the id that it names, and repeats the batch if the post is not there, as a
publisher may have died between the two.

A publish without a key that got no answer is not repeated here: it may have happened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from feedcore import native
from feedcore.adapters.contracts.announcements import Deleted
from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores.author_timelines import AuthorTimelines, retained_days
from feedcore.adapters.cql.stores.node_ids import NodeIds
from feedcore.adapters.cql.stores.publishing import Publisher
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.domain.publish_plan import NO_SUCH_POST, deletion_refused
from feedcore.errors import NotFound
from feedcore.limits import HOUR_MS, POST_AGE_MAX_MS
from feedcore.ports import NewPost, Post, PostStats, Published, Timelines
from feedcore.resilience.gather import gather_all

_POST = Statement(
    "SELECT author_id, content, visibility, entry, pulled, lanes, reach, deleted_ms,"
    " WRITETIME(author_id) FROM posts WHERE content_id = ?"
)
_COUNTS = Statement(
    "SELECT likes, comments, shares, clicks, hides FROM post_counts WHERE content_id = ?",
    Consistency.ONE,
)
_FANOUT = Statement(
    "SELECT reach, finished_ms FROM post_fanout WHERE content_id = ?", Consistency.ONE
)
_SHOWN = Statement("SELECT shown FROM impressions WHERE content_id = ?", Consistency.ONE)
_TOMBSTONE = Statement("INSERT INTO tombstones (hour, at_ms, content_id) VALUES (?, ?, ?)")
# an upsert, so that the author and the deletion stay known as long as the post would have
_DELETE = Statement(
    "INSERT INTO posts (content_id, author_id, content, entry, deleted_ms)"
    " VALUES (?, ?, null, null, ?) USING TIMESTAMP ? AND TTL ?"
)
_DELETE_ENTRY = Statement(
    "DELETE FROM outbox USING TIMESTAMP ? WHERE author_id = ? AND day = ? AND content_id = ?"
)
_KEY_OF = Statement("SELECT content_id FROM idempotency WHERE author_id = ? AND key = ?")
_PUBLISHED_ON = Statement("SELECT content_id FROM outbox WHERE author_id = ? AND day = ? LIMIT 1")
_FOLLOWED = Statement("SELECT follower_id FROM followers WHERE author_id = ? LIMIT 1")


class PostRow(NamedTuple):
    """As `_POST` gives it."""

    author_id: int
    content: bytes | None
    visibility: int | None
    entry: bytes | None
    pulled: bool | None
    lanes: int | None
    reach: int | None
    deleted_ms: int | None
    written_us: int


class CqlPostStore:
    """See `ports.posts.PostStore`."""

    def __init__(
        self,
        session: Session,
        outbox: JobOutbox,
        replica: Replica,
        clock: Clock,
        node: int | None = None,
    ) -> None:
        """`node`: `node_of` this process, which alone matters to its clock; None: of all."""
        self._session = session
        self.node = node  # whose ids `newest_content_id` is about; None: everybody's
        self._replica = replica
        self._clock = clock
        self._stamps = Stamps()
        self._nodes = NodeIds(session, clock)
        self._timelines = AuthorTimelines(session)
        self._publisher = Publisher(session, outbox, replica, clock)

    async def publish(self, post: NewPost) -> Published:
        """Unavailable: the key may be claimed and the post stored; the same call again finds
        out.
        """
        await self._nodes.reserve(post.content_id)
        return await self._publisher.publish(post)

    async def import_posts(self, posts: list[NewPost]) -> list[Published | None]:
        """Each by itself, concurrently: what was stored before an error stays, and is found when
        the call is repeated.
        """
        return await self._publisher.import_posts(posts)

    async def delete(self, author_id: int, content_id: int, now_ms: int) -> None:
        """Tombstone first: from then on no page shows it, whatever becomes of the rest."""
        row = await self._row(content_id)
        if row is None or (row.entry is None and row.deleted_ms is None):
            raise NotFound(NO_SUCH_POST)
        if row.author_id != author_id:
            known = await self._is_author(author_id, now_ms)
            raise deletion_refused(author_known=known)
        if row.deleted_ms is None:
            await self._session.write(_TOMBSTONE, (now_ms // HOUR_MS, now_ms, content_id))
            stamp = self._stamps.new_stamp(row.written_us)
            kept_s = POST_AGE_MAX_MS // 1_000
            day = ids.day(content_id)
            await self._session.batch(
                [
                    Write(_DELETE, (content_id, author_id, now_ms, stamp, kept_s)),
                    Write(_DELETE_ENTRY, (stamp, author_id, day, content_id)),
                ],
                logged=True,
            )
        # said again when it was deleted before: who deleted it may have died before saying so
        await self._replica.announce(events=[Deleted(content_id)])

    async def get(self, content_id: int) -> Post | None:
        """At quorum: as acknowledged."""
        row = await self._row(content_id)
        if row is None or row.entry is None or row.content is None:
            return None
        return Post(content_id, row.author_id, row.content, row.visibility or 0)

    async def timelines(
        self, author_ids: Sequence[int], at_or_below: int, not_below: int, limit: int
    ) -> Timelines:
        """Side by side; nothing is kept here."""
        now_ms = self._clock.now_ms()
        read = self._timelines.read(author_ids, at_or_below, not_below, limit, now_ms)
        return Timelines(await read, 0)

    async def stats(self, content_id: int) -> PostStats | None:
        """Counters as far as they are counted."""
        key = (content_id,)
        row, counts, fanout, shown = await gather_all(
            self._row(content_id),
            self._session.read(_COUNTS, key),
            self._session.read(_FANOUT, key),
            self._session.read(_SHOWN, key),
        )
        if row is None or row.entry is None:
            return None
        counted = [count or 0 for count in counts[0]] if counts else [0] * 5
        impressions = sum(one[0] for one in shown)
        mode, reach, finished_ms = _delivered(content_id, row, fanout)
        likes, comments, shares, clicks, hides = counted
        return PostStats(
            content_id,
            row.author_id,
            likes,
            comments,
            shares,
            clicks,
            hides,
            impressions,
            reach,
            mode,
            finished_ms,
        )

    def tombstones(self) -> native.U64Set:
        """The replica's set: do not change it."""
        return self._replica.state.tombstones

    def trending(self) -> bytes:
        """The replica's."""
        return self._replica.state.trending

    async def content_id_of(self, author_id: int, idempotency_key: str) -> int:
        """By key."""
        rows = await self._session.read(_KEY_OF, (author_id, idempotency_key))
        return rows[0][0] if rows else 0

    async def newest_content_id(self) -> int:
        """What nodes have reserved: up to two seconds ahead of the newest post (see nodeids.py)."""
        return await self._nodes.newest(self.node)

    async def _row(self, content_id: int) -> PostRow | None:
        rows = await self._session.read(_POST, (content_id,))
        return PostRow(*rows[0]) if rows else None

    async def _is_author(self, author_id: int, now_ms: int) -> bool:
        """Whether anything is known of the author: posts within retention, or followers."""
        followed, published = await gather_all(
            self._session.read(_FOLLOWED, (author_id,)),
            self._session.read_many(
                _PUBLISHED_ON, [(author_id, day) for day in retained_days(now_ms)]
            ),
        )
        return bool(followed) or any(published)


def _delivered(content_id: int, row: PostRow, fanout: list[tuple]) -> tuple[str, int, int]:
    """(mode, reach, finished_ms)."""
    if row.pulled:
        return "pull", row.reach or 0, 0
    if not row.lanes:
        return "push", 0, ids.time_ms(content_id)
    reach = sum(one[0] or 0 for one in fanout)
    finished = [one[1] for one in fanout if one[1]]
    done = len(finished) >= row.lanes
    return "push", reach, max(finished) if done else 0
