"""The engagement table: content_id -> f32 in a fixed number of slots, shared by processes through a
memory map.

A slot is 16 bytes, little-endian: u64 content_id (0: empty) | f32 value | u32 check of both. Four
slots make a set, which is one cache line; an id lives in the set that its hash names. A full set
gives up its oldest id, or refuses one that is older still: what ranking needs is the engagement of
recent posts. One writer; readers take no lock: value and check are written at once, before the id.
A value without its check counts for nothing.

This is the twin of `feedcore._native.store.engagement`. Not the system of record:
counts are in the store, this is derived.
"""

from __future__ import annotations

import struct
from array import array

from feedcore.domain.entry import ENTRY

SLOT_BYTES = 16
SET_SLOTS = 4
SET_BYTES = SLOT_BYTES * SET_SLOTS
_MULTIPLIER = (
    0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads ids that differ in few bits (Knuth 6.4)
)
_U64_MASK = (1 << 64) - 1
_ID = struct.Struct("<Q")
_VALUE = struct.Struct("<f")
_WORD = struct.Struct("<fI")
_BITS = struct.Struct("<I")
_STEP = 0xD1B54A32D192ED03  # odd: every bit of the value changes the check


def _set_at(table_bytes: int, content_id: int) -> int:
    sets = table_bytes // SET_BYTES  # a power of two
    return ((content_id * _MULTIPLIER & _U64_MASK) >> (65 - sets.bit_length())) * SET_BYTES


def _check(content_id: int, value_bits: int) -> int:
    mixed = (content_id ^ (value_bits * _STEP)) * _MULTIPLIER & _U64_MASK
    return mixed >> 32


def engagement_damaged(table: memoryview) -> int:
    """Slots with an id whose value does not have its check."""
    return sum(
        check != _check(content_id, _BITS.unpack_from(table, at + 8)[0])
        for at in range(0, len(table), SLOT_BYTES)
        if (content_id := _ID.unpack_from(table, at)[0])
        for check in (_BITS.unpack_from(table, at + 12)[0],)
    )


def engagement_lookup(table: memoryview, entries: bytes) -> bytes:
    """One f32 LE an entry, 0.0 for an id that has no slot."""
    values = array("f")
    for inverted, _, _, _ in ENTRY.iter_unpack(entries):
        content_id = inverted ^ _U64_MASK
        at = _set_at(len(table), content_id)
        value = 0.0
        for slot in range(at, at + SET_BYTES, SLOT_BYTES):
            if _ID.unpack_from(table, slot)[0] == content_id:
                found, check = _WORD.unpack_from(table, slot + 8)
                if check == _check(content_id, _BITS.unpack_from(table, slot + 8)[0]):
                    value = found
                break
        values.append(value)
    return values.tobytes()


def engagement_store(table: memoryview, content_id: int, value: float) -> bool:
    """Sets a value; False if the set is full of newer ids."""
    at = _set_at(len(table), content_id)
    bits = _VALUE.pack(value)
    word = bits + _BITS.pack(_check(content_id, _BITS.unpack(bits)[0]))
    oldest, place = _U64_MASK, at
    for slot in range(at, at + SET_BYTES, SLOT_BYTES):
        found = _ID.unpack_from(table, slot)[0]
        if found == content_id:
            table[slot + 8 : slot + 16] = word
            return True
        if found < oldest:
            oldest, place = found, slot
    if oldest > content_id:
        return False
    _ID.pack_into(table, place, 0)
    table[place + 8 : place + 16] = word
    _ID.pack_into(table, place, content_id)
    return True
