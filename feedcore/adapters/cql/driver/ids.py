"""Columns of bigints as they come off the wire, and the range of partition tokens."""

from __future__ import annotations

import sys
from array import array

TOKEN_MIN, TOKEN_MAX = -(1 << 63), (1 << 63) - 1


def bigints(packed: bytes) -> array[int]:
    """One column of bigints as `Session.read_packed` gives it (big-endian)."""
    values = array("q")
    values.frombytes(packed)
    if sys.byteorder == "little":
        values.byteswap()
    return values


def id_array(column: bytes) -> bytes:
    """The same column as an id array: ids have 63 bits, so that its order is that of the rows."""
    return bigints(column).tobytes()
