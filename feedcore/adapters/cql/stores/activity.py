"""When users were seen last, and who is inactive: what fan-out asks of recipients.

Invariants: a user is marked inactive in the viewer partition before pushes leave them out, and
active here before that mark goes: a user who is not pushed to finds that their stored feed is not
to be relied on. A user without a row was never seen, and is not inactive. Who was found to be here
is remembered for a while: a push too many to somebody who is gone harms nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from feedcore import native
from feedcore.adapters.contracts.announcements import Announcer
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.stores.viewer_partition import Kind, put, stamp
from feedcore.limits import INACTIVE_AFTER_MS, USER_ID_MAX
from feedcore.ports import Lane
from feedcore.resilience.gather import gather_bounded

BUCKETS = 256
READS_AT_ONCE = 64  # queries of one page of recipients under way: a page must not fill the session
WRITES_AT_ONCE = 128  # the same of writes
# users that are known to be here, twice; 20 MB each. With more than fit, they are asked about again
HERE_MAX = 1_000_000
BATCH_ROWS = 100  # rows of one partition written together: some KB, far below what is refused
BATCHES_AT_ONCE = 16
WALK_BUCKETS = 32  # read concurrently by the walk that looks for inactive users
WALK_ROWS = 500  # of each of them
WALK_ROWS_MAX = 20_000  # rows that one call looks at: about 0.2 s of one core

_STATES = Statement(
    "SELECT user_id, seen_ms, inactive FROM activity WHERE bucket = ? AND user_id IN ?"
)
_ONE = Statement("SELECT seen_ms FROM activity WHERE bucket = ? AND user_id = ?")
_WALK = Statement(
    "SELECT user_id, seen_ms, inactive FROM activity WHERE bucket = ? AND user_id >= ? LIMIT ?"
)
_SEEN = Statement(
    "UPDATE activity USING TIMESTAMP ? SET seen_ms = ? WHERE bucket = ? AND user_id = ?"
)
_INACTIVE = Statement(
    "UPDATE activity USING TIMESTAMP ? SET inactive = ? WHERE bucket = ? AND user_id = ?"
)


class Activity:
    """Shared by the stores of one process."""

    def __init__(self, session: Session, outbox: JobOutbox, announcer: Announcer) -> None:
        self._session = session
        self._outbox = outbox
        self._announcer = announcer
        self._here = native.U64Set()
        self._here_before = native.U64Set()
        self._bucket = 0
        self._after = [0] * BUCKETS

    async def known(self, user_id: int) -> bool:
        """Whether the user was ever seen."""
        rows = await self._session.read(_ONE, (user_id % BUCKETS, user_id))
        return bool(rows) and rows[0][0] is not None

    def seen_writes(self, seen: Iterable[tuple[int, int]]) -> list[Write]:
        """Of (user_id, when)."""
        at_us = stamp(self._outbox)
        return [
            Write(_SEEN, (at_us, seen_ms, user_id % BUCKETS, user_id)) for user_id, seen_ms in seen
        ]

    def back_writes(self, user_id: int, now_ms: int, at_us: int) -> list[Write]:
        """The user is active from now on."""
        key = (user_id % BUCKETS, user_id)
        return [Write(_INACTIVE, (at_us, False, *key)), Write(_SEEN, (at_us, now_ms, *key))]

    async def unknown(self, user_ids: Sequence[int]) -> list[int]:
        """Those of them that were never seen; reads concurrently."""
        found: set[int] = set()
        keys = _by_bucket(user_ids)
        for rows in await self._read(keys):
            found.update(row[0] for row in rows if row[1] is not None)
        return [one for one in user_ids if one not in found]

    async def left_out(
        self, followers: Sequence[int], lane: int, recent_since_ms: int, recent_until_ms: int
    ) -> set[int]:
        """Of these followers the inactive ones, and those of the other lane."""
        if lane == Lane.ALL:
            return await self._inactive(followers)
        inactive: set[int] = set()
        recent: set[int] = set()
        for rows in await self._read(_by_bucket(followers)):
            for user, seen, gone in rows:
                if gone:
                    inactive.add(user)
                seen_ms = seen or 0
                if seen_ms >= recent_since_ms and (lane != Lane.REST or seen_ms <= recent_until_ms):
                    recent.add(user)
        if recent_since_ms <= 0:
            recent.update(followers)
        other = recent if lane == Lane.REST else set(followers) - recent
        return inactive | other

    async def _inactive(self, followers: Sequence[int]) -> set[int]:
        here, before = self._here, self._here_before
        asked = [user for user in followers if user not in here and user not in before]
        inactive = {
            row[0] for rows in await self._read(_by_bucket(asked)) for row in rows if row[2]
        }
        here.update(user for user in asked if user not in inactive)
        if len(here) >= HERE_MAX:
            self._here, self._here_before = native.U64Set(), here
        return inactive

    async def _read(self, keys: list[tuple[int, list[int]]]) -> list[list[tuple]]:
        found: list[list[tuple]] = []
        for first in range(0, len(keys), READS_AT_ONCE):
            found += await self._session.read_many(_STATES, keys[first : first + READS_AT_ONCE])
        return found

    async def mark_inactive(self, now_ms: int, limit: int) -> int:
        """Marks up to `limit` users who were not seen for INACTIVE_AFTER_MS; how many.

        Goes on where it stopped, once around at most. Who comes back meanwhile stays active: the
        marks are written as of before it was looked.
        """
        at_us = stamp(self._outbox)
        oldest = now_ms - INACTIVE_AFTER_MS
        gone: list[int] = []
        looked = 0
        for _ in range(BUCKETS // WALK_BUCKETS):
            buckets = [(self._bucket + n) % BUCKETS for n in range(WALK_BUCKETS)]
            keys = [(bucket, self._after[bucket], WALK_ROWS) for bucket in buckets]
            for bucket, rows in zip(
                buckets, await self._session.read_many(_WALK, keys), strict=True
            ):
                found = [
                    user
                    for user, seen_ms, inactive in rows
                    if not inactive and seen_ms is not None and seen_ms < oldest
                ]
                looked += len(rows)
                if len(gone) + len(found) > limit:
                    found = found[: limit - len(gone)]
                    # this bucket is looked at again from here
                    self._after[bucket] = found[-1] if found else self._after[bucket]
                elif len(rows) < WALK_ROWS or rows[-1][0] == USER_ID_MAX:
                    self._after[bucket] = 0
                else:
                    self._after[bucket] = rows[-1][0] + 1
                gone += found
            if len(gone) >= limit or looked >= WALK_ROWS_MAX:
                break
            self._bucket = (self._bucket + WALK_BUCKETS) % BUCKETS
        await self._leave_out(gone, at_us)
        return len(gone)

    async def _leave_out(self, user_ids: list[int], at_us: int) -> None:
        marks = [put(user_id, Kind.INACTIVE, 0, 0, at_us) for user_id in user_ids]
        await in_parts(self._session, marks)
        await self._announcer.announce(user_ids)
        for user_id in user_ids:
            self._here.discard(user_id)
            self._here_before.discard(user_id)
        rows = [Write(_INACTIVE, (at_us, True, user_id % BUCKETS, user_id)) for user_id in user_ids]
        await in_parts(self._session, rows)


async def in_partitions(session: Session, groups: Iterable[Sequence[Write]]) -> None:
    """Each group is of one partition: written together, up to BATCH_ROWS rows at once."""
    single: list[Write] = []
    batches: list[Sequence[Write]] = []
    for group in groups:
        if len(group) == 1:
            single += group
        else:
            parts = range(0, len(group), BATCH_ROWS)
            batches += [group[first : first + BATCH_ROWS] for first in parts]
    await in_parts(session, single)
    await gather_bounded(batches, lambda part: session.batch(part, logged=False), BATCHES_AT_ONCE)


async def in_parts(session: Session, writes: Sequence[Write]) -> None:
    """Side by side, so many at once that other callers find room in the session."""
    for first in range(0, len(writes), WRITES_AT_ONCE):
        await session.write_many(writes[first : first + WRITES_AT_ONCE])


def _by_bucket(users: Sequence[int]) -> list[tuple[int, list[int]]]:
    """User ids -> (bucket, ids in it)."""
    buckets: dict[int, list[int]] = {}
    for user in users:
        buckets.setdefault(user % BUCKETS, []).append(user)
    return list(buckets.items())
