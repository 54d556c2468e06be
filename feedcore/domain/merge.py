"""K-way merge of entries: many sources, each newest first, into one window.

The twin of feedcore._native.algorithms.merge. Duplicates (one post delivered by two ways) are
dropped by content id; the source named first wins, so a caller puts the one it trusts most first.
Not for filtering: `visibility` does that, and says why.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence

from feedcore.domain.entry import ENTRY_BYTES, U64_MAX, count, order_key


def start_of(source: bytes, bound: bytes) -> int:
    """Offset of the first entry whose order key is not before `bound`."""

    def key(index: int) -> bytes:
        return source[index * ENTRY_BYTES : index * ENTRY_BYTES + 8]

    return bisect_left(range(count(source)), bound, key=key) * ENTRY_BYTES


def merge_newest(sources: Sequence[bytes], at_or_below: int, not_below: int, limit: int) -> bytes:
    """The newest `limit` entries with not_below <= content_id <= at_or_below, each id once."""
    if at_or_below < 0 or limit <= 0:
        return b""
    first = order_key(min(at_or_below, U64_MAX))
    last = order_key(min(max(not_below, 0), U64_MAX))
    heap = []
    for index, source in enumerate(map(bytes, sources)):
        offset = start_of(source, first)
        if offset < len(source):
            heap.append((source[offset : offset + 8], index, offset, source))
    heapq.heapify(heap)
    merged: list[bytes] = []
    previous = b""
    while heap and len(merged) < limit:
        key, index, offset, source = heap[0]
        if key > last:
            break
        if key != previous:
            merged.append(source[offset : offset + ENTRY_BYTES])
            previous = key
        offset += ENTRY_BYTES
        if offset < len(source):
            heapq.heapreplace(heap, (source[offset : offset + 8], index, offset, source))
        else:
            heapq.heappop(heap)
    return b"".join(merged)


def sort_entries(entries: bytes) -> bytes:
    """The same entries newest first, each content id once: of two, the earlier one stays."""
    entries = bytes(entries)
    by_key: dict[bytes, bytes] = {}
    for offset in range(0, count(entries) * ENTRY_BYTES, ENTRY_BYTES):
        one = entries[offset : offset + ENTRY_BYTES]
        by_key.setdefault(one[:8], one)
    return b"".join(by_key[key] for key in sorted(by_key))


def count_within(entries: bytes, at_or_below: int, not_below: int) -> int:
    """How many entries, newest first, have not_below <= content_id <= at_or_below."""
    if at_or_below < 0:
        return 0
    entries = bytes(entries)
    begin = start_of(entries, order_key(min(at_or_below, U64_MAX)))
    end = len(entries)
    if not_below > 0:
        end = start_of(entries, order_key(min(not_below - 1, U64_MAX)))
    return max(end - begin, 0) // ENTRY_BYTES
