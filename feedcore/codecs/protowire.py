"""The few rules of protobuf's wire format that the engine needs to write its own messages.

Invariant: fields are written in ascending order and defaults are left out, so that equal values are
equal bytes. Not for reading: requests are parsed by the protobuf library.
"""

from __future__ import annotations

VARINT = 0
LENGTH_DELIMITED = 2
# Most numbers of a receipt fit one byte: field number -> value -> tag and value.
_ONE_BYTE = [
    [bytes((number << 3 | VARINT, value)) for value in range(0x80)] for number in range(16)
]


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
    if not value:
        return b""
    if number < 16 and value < 0x80:
        return _ONE_BYTE[number][value]
    return varint(number << 3 | VARINT) + varint(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """A string, bytes or message field, written even if empty (an empty message is a value)."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    """A string field; nothing for the empty string."""
    return bytes_field(number, value.encode()) if value else b""
