"""Sorting deliveries of many posts to many users into the order the stored feeds are written in.

The twin of feedcore._native.deliveries. Writing in (day, user, entry) order touches each page of a
B-tree once; random order touches one page a delivery. Not for removals: those are applied between
sorted runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.domain.entry import ENTRY_BYTES, count, order_key
from feedcore.domain.ids import day
from feedcore.domain.idset import unpack_ids

Rows = Sequence[tuple[bytes, bytes]]


def sort_deliveries(rows: Rows) -> list[tuple[int, Rows]]:
    """(entries, recipients id array) pairs -> per unix day, ascending, the (user key, entry) rows
    to write.

    A user key is the user id as 8 bytes big-endian, so that byte order is numeric order. Rows
    ascend by (user key, entry) and are unique. The compiled one makes the rows as they are read, to
    keep memory flat.
    """
    by_day: dict[int, set[tuple[bytes, bytes]]] = {}
    for entries, recipients in rows:
        keys = [user_id.to_bytes(8, "big") for user_id in unpack_ids(recipients)]
        for offset in range(0, count(entries) * ENTRY_BYTES, ENTRY_BYTES):
            entry = bytes(entries[offset : offset + ENTRY_BYTES])
            content_id = int.from_bytes(order_key(int.from_bytes(entry[:8], "big")), "big")
            by_day.setdefault(day(content_id), set()).update((key, entry) for key in keys)
    return [(number, sorted(by_day[number])) for number in sorted(by_day) if by_day[number]]
