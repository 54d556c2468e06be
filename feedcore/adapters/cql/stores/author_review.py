"""Which authors the push/pull policy would move: found from what changed, not by looking at all.

    followers changed   their mark (`dirty`) is read and the partition counted, up to the bound that
                        matters; the mark goes when the count calls for no move
    time passed         DRAINING authors are replicated with their end
    bounds changed      all counted sizes are walked once, in steps of the token ring

Invariants: every call is bounded; an author found is found again until moved, also by another
process (its mark stays; a walk keeps what it found until the replica shows the move). Sizes are
exact up to the bound they were counted for, so what a walk finds is counted anew before it is
told. Several processes at once find the same authors, which changes nothing. Not for deciding:
that is `domain.policy`.
"""

from __future__ import annotations

from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.ids import TOKEN_MIN
from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores.dirty import DirtyReader, Kind
from feedcore.clock import Clock
from feedcore.domain.policy import Mode
from feedcore.limits import MINUTE_MS
from feedcore.ports.settings import AuthorMode
from feedcore.resilience.gather import gather_bounded

MARKS_PER_CALL = 256  # authors counted in one call, which comes about once a second
COUNTS_AT_ONCE = 8  # each reads up to the bound: 100,000 rows are 800 KB
# an author with more followers than the bound is not counted more often: they come all the time
COUNT_AGAIN_MS = MINUTE_MS
LARGE_KEPT_MAX = 100_000  # whose last count is remembered: about 10 MB; then all are forgotten
LIMIT_MAX = 2**31 - 1  # of a CQL statement; nobody has more followers
WALK_STEP = 1_000  # sizes read at once
WALK_STEPS_PER_CALL = 10

_COUNT = Statement("SELECT follower_id FROM followers WHERE author_id = ? LIMIT ?")
_PUT_SIZE = Statement(
    "INSERT INTO author_sizes (author_id, followers) VALUES (?, ?) USING TIMESTAMP ?"
)
_WALK = Statement(
    "SELECT author_id, followers, token(author_id) FROM author_sizes"
    " WHERE token(author_id) > ? LIMIT ?"
)


class AuthorReview:
    """One a process."""

    def __init__(self, session: Session, replica: Replica, clock: Clock, stamps: Stamps) -> None:
        self._session = session
        self._replica = replica
        self._clock = clock
        self._stamps = stamps
        self._marks = DirtyReader(session, stamps, Kind.FOLLOWERS)
        self._large: dict[int, int] = {}  # author -> when counted last
        self._walked: tuple[int, int] | None = None  # bounds that the sizes were walked for
        self._walking: tuple[int, int] | None = None
        self._token = TOKEN_MIN
        self._found: dict[int, None] = {}  # by a walk, and not moved yet

    async def run(
        self, promote_at: int, demote_below: int, now_ms: int, limit: int
    ) -> list[AuthorMode]:
        """At most `limit`; see `ports.settings.SettingsStore.authors_to_review`."""
        bounds = (promote_at, demote_below)
        found: dict[int, AuthorMode] = {}
        for one in self._replica.state.modes.values():
            if one.mode == Mode.DRAINING and one.until_ms <= now_ms:
                found[one.author_id] = one
                if len(found) >= limit:
                    return list(found.values())
        await self._changed(bounds, found, limit)
        await self._walk(bounds, found, limit)
        return list(found.values())[:limit]

    async def _changed(
        self, bounds: tuple[int, int], found: dict[int, AuthorMode], limit: int
    ) -> None:
        """Authors with marks."""
        now_ms = self._clock.now_ms()
        if len(self._large) > LARGE_KEPT_MAX:
            self._large.clear()
        resting = {
            one for one, at_ms in self._large.items() if 0 <= now_ms - at_ms < COUNT_AGAIN_MS
        }
        marked = await self._marks.take(min(limit, MARKS_PER_CALL), resting)
        authors = await self._count(list(marked), bounds)
        done = []
        for author in authors:
            if _moves(author, bounds):
                found.setdefault(author.author_id, author)
            else:
                done += marked[author.author_id]
        await self._marks.clear(done)

    async def _walk(
        self, bounds: tuple[int, int], found: dict[int, AuthorMode], limit: int
    ) -> None:
        """Some steps further, if the sizes were not walked for these bounds yet."""
        if bounds != self._walking:
            self._walking, self._token = bounds, TOKEN_MIN
            self._found.clear()
        for _ in range(WALK_STEPS_PER_CALL):
            if self._walked == bounds or len(self._found) >= limit:
                break
            rows = await self._session.read(_WALK, (self._token, WALK_STEP))
            for author, followers, _ in rows:
                one = self._replica.state.mode_of(author)._replace(followers=followers)
                if _moves(one, bounds):
                    self._found[one.author_id] = None
            if len(rows) < WALK_STEP:
                self._walked = bounds
            else:
                self._token = rows[-1][2]
        if self._found:
            authors = await self._count(list(self._found)[:limit], bounds)
            for author in authors:
                if _moves(author, bounds):
                    found.setdefault(author.author_id, author)
                else:
                    self._found.pop(author.author_id, None)

    async def _count(self, author_ids: list[int], bounds: tuple[int, int]) -> list[AuthorMode]:
        """With their replicated modes."""
        most = min(max(*bounds, 0) + 1, LIMIT_MAX)
        now_ms = self._clock.now_ms()

        async def count(author_id: int) -> AuthorMode:
            at_us = self._stamps.new_stamp()
            followers = len(await self._session.read_packed(_COUNT, (author_id, most))) // 8
            await self._session.write(_PUT_SIZE, (author_id, followers, at_us))
            if followers >= most:
                self._large[author_id] = now_ms
            return self._replica.state.mode_of(author_id)._replace(followers=followers)

        return await gather_bounded(author_ids, count, COUNTS_AT_ONCE)


def _moves(author: AuthorMode, bounds: tuple[int, int]) -> bool:
    promote_at, demote_below = bounds
    if author.mode == Mode.PULL:
        return author.followers < demote_below
    return author.followers >= promote_at
