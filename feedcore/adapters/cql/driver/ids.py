"""Id arrays of bigint columns, whose order is that of signed numbers: ids of 2^63 and above come
first in a partition, and last in an id array. Not for content ids: those have 63 bits.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left

TOP = 1 << 63
WRAP = 1 << 64
MASK = WRAP - 1
SIGNED_MIN, SIGNED_MAX = -TOP, TOP - 1


def id_array(column: bytes) -> bytes:
    """The id array of a bigint column as it comes off the wire, ascending as signed numbers."""
    if not column:
        return b""
    return _rotated(bigints(column)).tobytes()


def targets_array(targets: list[int]) -> bytes:
    """The id array of signed numbers that are ascending as signed numbers."""
    return _rotated(array("q", targets)).tobytes()


def signed_ids(ids: bytes) -> list[int]:
    """Id array -> signed numbers, in the same order."""
    values = array("q")
    values.frombytes(ids)
    return values.tolist()


def _rotated(values: array[int]) -> array[int]:
    """The negative ones behind the others."""
    if values and values[0] < 0:
        split = bisect_left(values, 0)
        return values[split:] + values[:split]
    return values


def to_cql(number: int) -> int:
    """u64 -> the signed number of the same bits."""
    return number if number < TOP else number - WRAP


def from_cql(number: int) -> int:
    """The reverse of `to_cql`."""
    return number & (WRAP - 1)


def bigints(packed: bytes) -> array[int]:
    """One column of bigints as `Session.read_packed` gives it (big-endian)."""
    values = array("q")
    values.frombytes(packed)
    if sys.byteorder == "little":
        values.byteswap()
    return values
