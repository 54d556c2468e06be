"""Packed feed entries: what a stored feed, a timeline and a merge hold of a post.

One entry is 20 bytes, big-endian: u64 ~content_id | u64 author_id | u16 quality x 1000 | u16 flags.
The complement makes byte order the order of a feed: newest first. *Entries* are these back to back,
newest first, no duplicates. The value never changes after the post is made, so that a delivery
repeated is the same row. Not for anything that changes later: counts, preferences, scores.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from feedcore.domain.ids import ID_MAX

ENTRY_BYTES = 20
U64_MAX = (1 << 64) - 1
QUALITY_SCALE = 1_000  # 1.0 is stored as 1000: three decimals in 16 bits
QUALITY_STORED_MAX = (1 << 16) - 1
VISIBILITY_MASK = 0b11
FLAG_MEDIA = 0b100

ENTRY = struct.Struct(">QQHH")
_KEY = struct.Struct(">QQ")
assert ENTRY.size == ENTRY_BYTES


class Visibility(IntEnum):
    """Who may see a post. Stored and on the wire: never renumber."""

    PUBLIC = 0
    FOLLOWERS = 1
    PRIVATE = 2


class Entry(NamedTuple):
    """One unpacked entry; `quality` 1.0 is neutral, `flags` hold visibility and FLAG_MEDIA."""

    content_id: int
    author_id: int
    quality: float
    flags: int

    @property
    def visibility(self) -> Visibility:
        """Unknown values count as PRIVATE: what is not understood is not shown."""
        return Visibility(min(self.flags & VISIBILITY_MASK, Visibility.PRIVATE))


def pack(content_id: int, author_id: int, quality: float = 1.0, flags: int = 0) -> bytes:
    """One entry. Quality is cut to 0.001 .. 65.535, so that no post scores zero by it."""
    if not 0 <= content_id <= ID_MAX:
        raise ValueError(f"content_id: {content_id}; 0 to {ID_MAX}")
    stored = min(max(round(quality * QUALITY_SCALE), 1), QUALITY_STORED_MAX)
    return ENTRY.pack(content_id ^ U64_MAX, author_id, stored, flags)


def count(entries: bytes) -> int:
    """How many entries; ValueError if the bytes are not whole entries."""
    number, rest = divmod(len(entries), ENTRY_BYTES)
    if rest:
        raise ValueError(f"entries: {len(entries)} bytes; a multiple of {ENTRY_BYTES}")
    return number


def rows(entries: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(content_id, author_id, stored quality, flags) of each entry, in their order."""
    count(entries)
    for inverted, author_id, quality, flags in ENTRY.iter_unpack(entries):
        yield inverted ^ U64_MAX, author_id, quality, flags


def unpack(entries: bytes) -> list[Entry]:
    """All entries, in their order."""
    return [Entry(i, author, q / QUALITY_SCALE, flags) for i, author, q, flags in rows(entries)]


def key_at(entries: bytes, index: int) -> tuple[int, int]:
    """(content_id, author_id) of one entry."""
    inverted, author_id = _KEY.unpack_from(entries, index * ENTRY_BYTES)
    return inverted ^ U64_MAX, author_id


def content_ids(entries: bytes) -> list[int]:
    """The content ids alone, in their order."""
    return [row[0] for row in rows(entries)]


def order_key(content_id: int) -> bytes:
    """The first 8 bytes of that item's entry: what entries are ordered by."""
    return (content_id ^ U64_MAX).to_bytes(8, "big")
