"""The few rules of protobuf's wire format that the engine needs to write its own messages.

Invariant: fields are written in ascending order and defaults are left out, so that equal values are
equal bytes. Not for reading: requests are parsed by the protobuf library.
"""

from __future__ import annotations

VARINT = 0
LENGTH_DELIMITED = 2


def varint(value: int) -> bytes:
    """`value` >= 0 in groups of seven bits, least significant first."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def uint_field(number: int, value: int) -> bytes:
    """An unsigned, enum, bool or non-negative int64 field; nothing for 0."""
    return varint(number << 3 | VARINT) + varint(value) if value else b""


def bytes_field(number: int, value: bytes) -> bytes:
    """A string, bytes or message field, written even if empty (an empty message is a value)."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    """A string field; nothing for the empty string."""
    return bytes_field(number, value.encode()) if value else b""
