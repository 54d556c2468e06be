"""Marks: what has to be counted anew, because something it is counted from has changed.

A mark is written after the change is durable, and taken away after what was counted since the mark
was read is durable. Each process marks in a row of its own, with its own ascending timestamps, and
a row is deleted with the timestamp that was read: so a mark that is set meanwhile survives,
whatever the clocks of other machines say.

Partitions are of one minute, so that a reader does not wade through what others have deleted. This
minute is looked at each time, older ones now and then; `dirty_since` remembers up to where nothing
is left. Not for anything but "look again": a mark too many costs a count, no more.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps

BUCKETS = 4  # partitions a kind and minute: 1,000 marks a second are 15,000 rows in each
MINUTE_US = 60_000_000
LATE_MINUTES = 5  # clocks differ, and writes hang, by less
OLDER_EVERY_US = 10_000_000  # what was left over, or marked by a late clock, waits so long
OLDER_MINUTES_MAX = 60  # looked at in one turn: 240 reads of mostly nothing

_MARK = Statement(
    "INSERT INTO dirty (kind, bucket, minute, id, process, at_us) VALUES (?, ?, ?, ?, ?, ?)"
    " USING TIMESTAMP ?"
)
_MARKED = Statement(
    "SELECT id, process, at_us FROM dirty WHERE kind = ? AND bucket = ? AND minute = ? LIMIT ?"
)
_CLEAR = Statement(
    "DELETE FROM dirty USING TIMESTAMP ?"
    " WHERE kind = ? AND bucket = ? AND minute = ? AND id = ? AND process = ?"
)
_FIRST = Statement("INSERT INTO dirty_since (kind, minute) VALUES (?, ?) IF NOT EXISTS")
_SINCE = Statement("SELECT minute FROM dirty_since WHERE kind = ?")
_ADVANCE = Statement("UPDATE dirty_since SET minute = ? WHERE kind = ? IF minute = ?")


class Kind(IntEnum):
    """Stored: never renumber."""

    CONTENT = 1
    AFFINITY = 2
    FOLLOWERS = 3


class Mark(NamedTuple):
    """One row, as it was read."""

    minute: int
    id: int
    process: int
    at_us: int


class DirtyMarks:
    """Sets marks. One a process."""

    def __init__(self, session: Session, stamps: Stamps) -> None:
        self._session = session
        self._stamps = stamps
        self._process = secrets.randbits(63)
        self._begun: set[Kind] = set()

    async def mark(self, marks: Iterable[tuple[Kind, int]]) -> None:
        """Durable on return. Only after what is to be counted is durable."""
        wanted = list(dict.fromkeys(marks))
        for kind in {kind for kind, _ in wanted} - self._begun:
            since = self._stamps.minute() - LATE_MINUTES
            await self._session.insert_if_absent(_FIRST, (int(kind), since))
            self._begun.add(kind)
        # the timestamps are taken here: what they vouch for is durable already
        await self._session.write_many([self._write(kind, one) for kind, one in wanted])

    def _write(self, kind: Kind, marked: int) -> Write:
        at_us = self._stamps.new_stamp()
        key = (int(kind), marked % BUCKETS, at_us // MINUTE_US, marked, self._process)
        return Write(_MARK, (*key, at_us, at_us))


class DirtyReader:
    """Finds marks of one kind. Several at once find the same."""

    def __init__(self, session: Session, stamps: Stamps, kind: Kind) -> None:
        self._session = session
        self._stamps = stamps
        self._kind = int(kind)
        self._older_at_us = 0
        self._turn = 0

    async def take(self, limit: int, skip: Collection[int] = frozenset()) -> dict[int, list[Mark]]:
        """At most `limit` ids that are not in `skip`, with their marks: to be read before what they
        are counted from.
        """
        now_us = self._stamps.new_stamp()
        now = now_us // MINUTE_US
        # what was marked at the end of a minute may land at the beginning of the next
        fresh = range(now - (now_us % MINUTE_US < OLDER_EVERY_US), now + 1)
        found = await self._read(fresh, limit + len(skip))
        if now_us - self._older_at_us >= OLDER_EVERY_US:
            if await self._read_older(fresh.start, limit + len(skip), found):
                self._older_at_us = now_us
        by_id: dict[int, list[Mark]] = {}
        for mark in found:
            if mark.id not in skip and (mark.id in by_id or len(by_id) < limit):
                by_id.setdefault(mark.id, []).append(mark)
        return by_id

    async def clear(self, marks: Iterable[Mark]) -> None:
        """What was marked is counted, and that is durable. Later marks of the same stay."""
        writes = [
            Write(
                _CLEAR,
                (one.at_us, self._kind, one.id % BUCKETS, one.minute, one.id, one.process),
            )
            for one in marks
        ]
        await self._session.write_many(writes)

    async def _read(self, minutes: Sequence[int], limit: int) -> list[Mark]:
        partitions = [(minute, bucket) for minute in minutes for bucket in range(BUCKETS)]
        # whose turn it is comes first: no partition starves another where the limit cuts
        self._turn += 1
        turn = self._turn % len(partitions)
        partitions = partitions[turn:] + partitions[:turn]
        keys = [(self._kind, bucket, minute, limit) for minute, bucket in partitions]
        rows = await self._session.read_many(_MARKED, keys)
        return [
            Mark(minute, row[0], row[1], row[2])
            for (minute, _), part in zip(partitions, rows, strict=True)
            for row in part
        ]

    async def _read_older(self, before: int, limit: int, found: list[Mark]) -> bool:
        """Adds marks of older minutes to `found`; True if all of them were looked at."""
        rows = await self._session.read(_SINCE, (self._kind,))
        if not rows:
            return True
        since = rows[0][0]
        minutes = range(since, min(before, since + OLDER_MINUTES_MAX))
        if not minutes:
            return True
        older = await self._read(minutes, limit)
        found += older
        left = min((mark.minute for mark in older), default=minutes.stop)
        empty_up_to = min(left, self._stamps.minute() - LATE_MINUTES)
        if empty_up_to > since:
            await self._session.insert_if_absent(_ADVANCE, (empty_up_to, self._kind, since))
        return minutes.stop == before
