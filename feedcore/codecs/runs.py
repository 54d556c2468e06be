"""Runs: immutable sorted slices of many users' feeds, built from deliveries and merged into larger
ones.

A run is three arrays: *users* (u64 LE, ascending), *offsets* (u32 LE, one more than users; entry
numbers) and *entries* (20 bytes each; for every user newest first, no duplicates). All entries of a
run are of one day. An entry whose REMOVED bit is set is gone: readers skip it, merging leaves it
out. Its *sums* (u32 LE, one a user) let a reader see that a user's slice is what was written, its
*blocks* (u32 LE, one for each 64 users) that the users are among whom it looks.

The reference implementation (twin) of `feedcore._native.store.runs`. Not for files and their
owners: the store manages those.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from feedcore.domain.entry import ENTRY_BYTES, order_key
from feedcore.domain.ids import day as day_of
from feedcore.domain.merge import start_of

ID_BYTES = 8
USERS_PER_BLOCK = 64  # one fence each in memory; all of them are read at each lookup
REMOVED_BYTE = 18  # offset of the high byte of the flags
REMOVED_BIT = 0x80  # flags bit 15: never set in an entry that leaves the store
# Merged entries are handed over in pieces of this size: it bounds memory, and the time between two
# pauses of a merge (about a millisecond).
SINK_BYTES = 512 * 1024
_U64_MASK = (1 << 64) - 1
_PARTS = struct.Struct("<QQI")  # of an entry, as they lie in memory
_REST_MASK = 0xFFFFFFFF ^ (REMOVED_BIT << 16)
# Odd, so that multiplying loses nothing; from splitmix64 and the golden ratio.
_KEY, _AUTHOR, _REST = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xBF58476D1CE4E5B9
_STEP = 0x94D049BB133111EB

Part = bytes | memoryview  # in memory or mapped
Run = tuple[Part, Part, Part]  # (users, offsets, entries)


class RunView(NamedTuple):
    """One run as it is mapped. `has_removed`: some of its entries may have the REMOVED bit."""

    run_id: int
    day: int
    users: memoryview  # of u64
    offsets: memoryview  # of u32
    entries: memoryview
    has_removed: bool
    # empty in files of version 1
    sums: memoryview = memoryview(b"")  # of u32, one a user
    blocks: memoryview = memoryview(b"")  # of u32, one for each USERS_PER_BLOCK users
    fences: bytes = b""  # u64 LE: the first user of each block, in memory and checked


def build_runs(rows: Sequence[tuple[bytes, bytes]]) -> list[tuple[int, bytes, bytes, bytes]]:
    """(day, users, offsets, entries) for each day, ascending, of (entries, recipients) rows.

    Every entry of a row goes to every recipient of it (an id array). Duplicates are written once.
    Raises ValueError if a row is not made of whole entries and ids.
    """
    days: dict[int, dict[bytes, list[bytes]]] = {}
    for entries, recipients in rows:
        if len(entries) % ENTRY_BYTES or len(recipients) % ID_BYTES:
            raise ValueError(f"delivery: {len(entries)} bytes to {len(recipients)} bytes of ids")
        for at in range(0, len(entries), ENTRY_BYTES):
            entry = entries[at : at + ENTRY_BYTES]
            content_id = _U64_MASK - int.from_bytes(entry[:8], "big")
            days.setdefault(day_of(content_id), {}).setdefault(entry, []).append(recipients)
    return [(day, *_build_day(days[day])) for day in sorted(days)]


def _build_day(posts: dict[bytes, list[bytes]]) -> tuple[bytes, bytes, bytes]:
    feeds: dict[int, list[bytes]] = {}
    for entry in sorted(posts):
        for recipients in posts[entry]:
            for user in memoryview(recipients).cast("Q"):
                feed = feeds.setdefault(user, [])
                if not feed or feed[-1] != entry:
                    feed.append(entry)
    users = sorted(feeds)
    offsets = array("I", [0])
    for user in users:
        offsets.append(offsets[-1] + len(feeds[user]))
    entries = b"".join(b"".join(feeds[user]) for user in users)
    return array("Q", users).tobytes(), offsets.tobytes(), entries


def merge_runs(runs: Sequence[Run], sink: Callable[[bytes], object]) -> tuple[bytes, bytes]:
    """Merges runs of one day: entries go to `sink` piece by piece; returns (users, offsets).

    The same content in several runs is written once. Users who have nothing left are left out.
    Raises ValueError if offsets point outside their run.
    """
    cursors: dict[int, list[tuple[int, int]]] = {}
    opened = []
    for number, (users, offsets, entries) in enumerate(runs):
        offset_view = memoryview(offsets).cast("B").cast("I")
        opened.append((offset_view, memoryview(entries)))
        for at, user in enumerate(memoryview(users).cast("B").cast("Q")):
            cursors.setdefault(user, []).append((number, at))
    out_users, out_offsets, pending = array("Q"), array("I", [0]), bytearray()
    for user in sorted(cursors):
        kept: dict[bytes, bytes] = {}
        for number, at in cursors[user]:
            offset_view, entry_view = opened[number]
            first, end = _bounds(offset_view, at, len(entry_view))
            live = live_entries(bytes(entry_view[first:end]))
            for place in range(0, len(live), ENTRY_BYTES):
                kept.setdefault(live[place : place + 8], live[place : place + ENTRY_BYTES])
        if not kept:
            continue
        out_users.append(user)
        out_offsets.append(out_offsets[-1] + len(kept))
        for key in sorted(kept):
            pending += kept[key]
        if len(pending) >= SINK_BYTES:
            sink(bytes(pending))
            pending.clear()
    if pending:
        sink(bytes(pending))
    return out_users.tobytes(), out_offsets.tobytes()


def _bounds(offsets: memoryview, at: int, size: int) -> tuple[int, int]:
    """Bytes of a user's slice among `size` bytes of entries."""
    first, end = offsets[at] * ENTRY_BYTES, offsets[at + 1] * ENTRY_BYTES
    if first > end or end > size:
        raise ValueError("a run's offsets point outside it")
    return first, end


def live_entries(entries: bytes) -> bytes:
    """Without the removed ones."""
    return b"".join(
        entries[at : at + ENTRY_BYTES]
        for at in range(0, len(entries), ENTRY_BYTES)
        if not entries[at + REMOVED_BYTE] & REMOVED_BIT
    )


def run_sums(users: Part, offsets: Part, entries: Part) -> bytes:
    """The sum of every user's slice. Raises ValueError if offsets point outside the run."""
    places, text = memoryview(offsets).cast("B").cast("I"), memoryview(entries).cast("B")
    sums = array("I")
    for at, user in enumerate(memoryview(users).cast("B").cast("Q")):
        first, end = _bounds(places, at, len(text))
        sums.append(_slice_sum(user, text[first:end]))
    return sums.tobytes()


def run_blocks(users: Part) -> bytes:
    """The sum of every block of users."""
    ids = memoryview(users).cast("B").cast("Q")
    starts = range(0, len(ids), USERS_PER_BLOCK)
    return array("I", [_block_sum(ids[at : at + USERS_PER_BLOCK]) for at in starts]).tobytes()


def _block_sum(users: memoryview) -> int:
    """Factors are odd, so that no single change of a user is lost before the fold."""
    found = len(users) + sum(user * (_KEY + 2 * at) for at, user in enumerate(users))
    found &= _U64_MASK
    return (found ^ found >> 32) & 0xFFFFFFFF


def _slice_sum(user: int, entries: memoryview) -> int:
    """Each step is one to one in each part of an entry, so that no single change of one is lost
    before the 64 bits are folded into 32. The REMOVED bit does not count: it is set later.
    """
    found = user
    for key, author, rest in _PARTS.iter_unpack(entries):
        mixed = key * _KEY + author * _AUTHOR + (rest & _REST_MASK) * _REST
        found = (found ^ (mixed & _U64_MASK)) * _STEP & _U64_MASK
        found ^= found >> 29
    return (found ^ found >> 32) & 0xFFFFFFFF


class RunIndex:
    """Looks users up in a set of mapped runs, newest day first. Holds the views it is given.

    `damaged_run`: the newest of the runs that are left out since they are damaged, 0 if there is
    none. `met_run`: a run in which a lookup met offsets that point outside it, or a block or a
    slice without its sum, 0 if there is none; the lookup left that run out, so what it gave may
    lack entries.
    """

    def __init__(self, views: Sequence[RunView], damaged_run: int = 0) -> None:
        self.damaged_run = damaged_run
        self.met_run = 0
        self._views = sorted(views, key=lambda view: (-view.day, view.run_id))
        self.newest_run = max((view.run_id for view in views), default=0)

    def window(
        self, user_id: int, first_day: int, last_day: int, at_or_below: int, limit: int
    ) -> list[bytes]:
        """Slices that together hold the newest `limit` entries at or below, of days in bounds."""
        found: list[bytes] = []
        have = longest = day = 0
        for view in self._views:
            if view.day > last_day:
                continue
            if view.day != day:
                have, longest, day = have + longest, 0, view.day
            if view.day < first_day or have >= limit:
                break
            entries = self._slice(view, user_id)
            if entries and view.day == last_day:
                entries = entries[start_of(entries, order_key(at_or_below)) :]
            entries = entries[: limit * ENTRY_BYTES]
            if entries:
                found.append(entries)
                # a content in two runs counts twice here: hence the least a day can hold is its
                # longest slice
                longest = max(longest, len(entries) // ENTRY_BYTES)
        return found

    def since(self, user_id: int, seen_run: int) -> list[bytes]:
        """The user's slices of runs that are newer than `seen_run`."""
        found = [self._slice(view, user_id) for view in self._views if view.run_id > seen_run]
        return [entries for entries in found if entries]

    def _slice(self, view: RunView, user_id: int) -> bytes:
        low, high = 0, len(view.users)
        if view.fences:
            block = bisect_right(memoryview(view.fences).cast("Q"), user_id) - 1
            if block < 0:
                return b""
            low = block * USERS_PER_BLOCK
            high = min(low + USERS_PER_BLOCK, high)
            if _block_sum(view.users[low:high]) != view.blocks[block]:
                self.met_run = view.run_id
                return b""
        at = bisect_left(view.users, user_id, low, high)
        if at == high or view.users[at] != user_id:
            return b""
        start, end = view.offsets[at] * ENTRY_BYTES, view.offsets[at + 1] * ENTRY_BYTES
        if start > end or end > len(view.entries):
            self.met_run = view.run_id
            return b""
        slice_of = view.entries[start:end]
        if len(view.sums) and _slice_sum(user_id, slice_of) != view.sums[at]:
            self.met_run = view.run_id
            return b""
        entries = bytes(slice_of)
        return live_entries(entries) if view.has_removed else entries
