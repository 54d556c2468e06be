"""Events of the node log as bytes: what one entry of the stream holds.

    entry    u64 node (who wrote it), then events back to back; little-endian but the feed entry
    1 POSTED      u8 pulled, u64 author_id, 20 bytes entry
    2 DELETED     u64 content_id
    3 SETTINGS    u8 length, name
    4 MODES
    5 ENGAGEMENT  u32 length, pairs
    6 INVALIDATE_ALL   a node could not announce what has changed: every node invalidates everything
    7 BEGUN       nothing; a log always has an entry, so that one that is gone is noticed

Not for what is durable: entries live as long as Redis keeps them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from feedcore.adapters.contracts.announcements import (
    Deleted,
    Engagement,
    Event,
    ModesChanged,
    Posted,
    SettingsChanged,
)
from feedcore.domain.entry import ENTRY_BYTES

NAME_BYTES_MAX = 255
_POSTED, _DELETED, _SETTINGS, _MODES, _ENGAGEMENT, _INVALIDATE_ALL, _BEGUN = range(1, 8)
_POSTED_HEAD = struct.Struct("<BBQ")
_DELETED_ALL = struct.Struct("<BQ")
_ENGAGEMENT_HEAD = struct.Struct("<BI")
_NODE = struct.Struct("<Q")
INVALIDATE_ALL = bytes([_INVALIDATE_ALL])
BEGUN = bytes([_BEGUN])


class InvalidateAll:
    """See the table."""


def pack(event: Event) -> bytes:
    """One event. ValueError if it does not fit."""
    if isinstance(event, Posted):
        if len(event.entry) != ENTRY_BYTES:
            raise ValueError(f"entry: {len(event.entry)} bytes; {ENTRY_BYTES}")
        return _POSTED_HEAD.pack(_POSTED, event.pulled, event.author_id) + event.entry
    if isinstance(event, Deleted):
        return _DELETED_ALL.pack(_DELETED, event.content_id)
    if isinstance(event, SettingsChanged):
        name = event.name.encode()
        if len(name) > NAME_BYTES_MAX:
            raise ValueError(f"settings name: {len(name)} bytes; at most {NAME_BYTES_MAX}")
        return bytes([_SETTINGS, len(name)]) + name
    if isinstance(event, ModesChanged):
        return bytes([_MODES])
    if isinstance(event, Engagement):
        return _ENGAGEMENT_HEAD.pack(_ENGAGEMENT, len(event.pairs)) + event.pairs
    raise TypeError(f"event: {type(event).__name__}; one of contracts.announcements.Event")


def pack_entry(node: int, events: Sequence[bytes]) -> bytes:
    """The value of one stream entry."""
    return _NODE.pack(node) + b"".join(events)


def unpack_entry(data: bytes) -> tuple[int, list[Event | InvalidateAll]]:
    """Who wrote it, and its events. A kind of a newer version means: invalidate everything."""
    if len(data) < _NODE.size:
        return 0, [InvalidateAll()]
    (node,) = _NODE.unpack_from(data)
    at, end = _NODE.size, len(data)
    events: list[Event | InvalidateAll] = []
    try:
        while at < end:
            event, at = _unpack(data, at)
            if event is not None:
                events.append(event)
    except (struct.error, IndexError, ValueError):
        events.append(InvalidateAll())
    return node, events


def _unpack(data: bytes, at: int) -> tuple[Event | InvalidateAll | None, int]:
    kind = data[at]
    if kind == _POSTED:
        _, pulled, author_id = _POSTED_HEAD.unpack_from(data, at)
        start = at + _POSTED_HEAD.size
        return Posted(author_id, _slice(data, start, ENTRY_BYTES), bool(pulled)), (
            start + ENTRY_BYTES
        )
    if kind == _DELETED:
        return Deleted(_DELETED_ALL.unpack_from(data, at)[1]), at + _DELETED_ALL.size
    if kind == _SETTINGS:
        length = data[at + 1]
        return SettingsChanged(_slice(data, at + 2, length).decode()), at + 2 + length
    if kind == _MODES:
        return ModesChanged(), at + 1
    if kind == _ENGAGEMENT:
        _, length = _ENGAGEMENT_HEAD.unpack_from(data, at)
        start = at + _ENGAGEMENT_HEAD.size
        return Engagement(_slice(data, start, length)), start + length
    if kind == _INVALIDATE_ALL:
        return InvalidateAll(), at + 1
    if kind == _BEGUN:
        return None, at + 1
    raise ValueError(f"event kind: {kind}; 1 to {_BEGUN}")


def _slice(data: bytes, start: int, length: int) -> bytes:
    found = data[start : start + length]
    if len(found) != length:
        raise ValueError(f"event: {len(found)} bytes left; {length}")
    return found
