"""Unsigned 64-bit ids in CQL, whose bigint is signed: the number of the same 64 bits.

Not for order: ids of 2^63 and above come before the others.
"""

from __future__ import annotations

import sys
from array import array

_TOP = 1 << 63
_WRAP = 1 << 64


def to_cql(number: int) -> int:
    """u64 -> the signed number of the same bits."""
    return number if number < _TOP else number - _WRAP


def from_cql(number: int) -> int:
    """The reverse of `to_cql`."""
    return number & (_WRAP - 1)


def bigints(packed: bytes) -> array[int]:
    """One column of bigints as `Session.read_packed` gives it (big-endian)."""
    values = array("q")
    values.frombytes(packed)
    if sys.byteorder == "little":
        values.byteswap()
    return values
