"""The viewer partition: all that a page needs to know of its reader.

Followees come as one packed column, because they are most of the rows; the rest is decoded in one
pass. Both are read concurrently, at quorum. Rows are written with the microseconds of a job id
(`adapters.contracts.job_ids`), so that a change and the job about it have one place in time, and
the removal of an older job's row never takes a newer one's away. Not for who follows a user: that
is `followers`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from feedcore import native
from feedcore.adapters.contracts.job_ids import timestamp_us
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Statement, Write
from feedcore.ports import ViewerFilters


class Kind(IntEnum):
    """Stored: never renumber. 1 to 4 are those of `PreferenceKind`."""

    MUTE = 1
    SNOOZE = 2
    SEE_LESS = 3
    HIDE = 4
    FOLLOWEE = 10
    BLOCKS = 11
    BLOCKED_BY = 12
    BACKFILL = 13
    AFFINITY = 14
    INACTIVE = 15
    REBUILDING = 16


FOLLOWEES = Statement(
    "SELECT target_id FROM viewer WHERE user_id = ? AND kind = 10", speculative=True
)
RELATIONS = Statement(
    "SELECT kind, target_id, extra, value FROM viewer"
    " WHERE user_id = ? AND kind IN (1, 2, 3, 4, 11, 12, 13, 14, 15, 16)",
    speculative=True,
)
STATE = Statement(
    "SELECT kind, target_id FROM viewer WHERE user_id = ? AND kind IN (13, 15, 16)",
    speculative=True,
)
ROW = Statement("SELECT extra FROM viewer WHERE user_id = ? AND kind = ? AND target_id = ?")
# with when it was written: who changes a row takes a later timestamp, whatever the clocks say
ROW_AT = Statement(
    "SELECT extra, WRITETIME(extra) FROM viewer WHERE user_id = ? AND kind = ? AND target_id = ?"
)
ROOM = Statement("SELECT count(*) FROM viewer WHERE user_id = ? AND kind IN (1, 2, 3, 4, 11)")
PUT = Statement(
    "INSERT INTO viewer (user_id, kind, target_id, extra, value) VALUES (?, ?, ?, ?, ?)"
    " USING TIMESTAMP ?"
)
PUT_FOR = Statement(
    "INSERT INTO viewer (user_id, kind, target_id, extra, value) VALUES (?, ?, ?, ?, ?)"
    " USING TIMESTAMP ? AND TTL ?"
)
DROP = Statement(
    "DELETE FROM viewer USING TIMESTAMP ? WHERE user_id = ? AND kind = ? AND target_id = ?"
)
SET_AT_BYTES = 8


class Relations(NamedTuple):
    """All but the followees. `snoozed_until_ms`: when the first of the active snoozes ends, 0 if
    there is none; `pending`: authors whose older posts are on their way; `away`: inactive, or being
    rebuilt.
    """

    filters: ViewerFilters
    snoozed_until_ms: int
    pending: tuple[int, ...]
    away: bool


def decode(rows: Sequence[tuple[int, int, int | None, bytes | None]], now_ms: int) -> Relations:
    """Of the rows of RELATIONS, in their order: ascending by kind, then by target."""
    sets: tuple[list[int], ...] = ([], [], [], [], [])
    blocked: list[int] = []
    pending: list[int] = []
    affinity, away, first_end = b"", False, 0
    for kind, target, extra, value in rows:
        if kind <= Kind.HIDE:
            if kind == Kind.SNOOZE:
                until_ms = extra or 0
                if until_ms <= now_ms:
                    continue
                if not first_end or until_ms < first_end:
                    first_end = until_ms
            sets[kind].append(target)
        elif kind <= Kind.BLOCKED_BY:
            blocked.append(target)
        elif kind == Kind.BACKFILL:
            pending.append(target)
        elif kind == Kind.AFFINITY:
            affinity = value or b""
        else:
            away = True
    muted, snoozed, see_less, hidden = (array("q", one).tobytes() for one in sets[1:])
    filters = ViewerFilters(
        muted, snoozed, see_less, hidden, native.pack_ids(blocked) if blocked else b"", affinity
    )
    return Relations(filters, first_end, tuple(sorted(pending)), away)


def stamp(outbox: JobOutbox) -> int:
    """A write timestamp: later than every one, and every job, that this process made before."""
    return timestamp_us(outbox.next_job_id())


def put(
    user_id: int, kind: Kind | int, target_id: int, extra: int, at_us: int, value: Any = None
) -> Write:
    """One row of the partition. `extra` is never null."""
    row = (user_id, int(kind), target_id, extra, value, at_us)
    return Write(PUT, row)


def drop(user_id: int, kind: Kind | int, target_id: int, at_us: int) -> Write:
    """The row as it was up to `at_us`."""
    return Write(DROP, (at_us, user_id, int(kind), target_id))


def set_at_of(value: bytes | None) -> int:
    """When a preference was set; 0 if its row does not say."""
    return int.from_bytes(value, "big") if value else 0


def set_at_value(set_at_ms: int) -> bytes:
    """The reverse of `set_at_of`."""
    return set_at_ms.to_bytes(SET_AT_BYTES, "big")
