"""Unsigned 64-bit ids in SQLite, whose integers are signed.

An id is stored as the signed number of the same 64 bits. Ids of 2^63 and above are then negative:
listing in ascending order takes the non-negative ones first, then the negative ones (`ascending`).
"""

from __future__ import annotations

import sqlite3
from array import array
from collections.abc import Iterable

_TOP = 1 << 63
_WRAP = 1 << 64
MASK = _WRAP - 1


def to_sql(number: int) -> int:
    """u64 -> the signed number of the same bits."""
    return number if number < _TOP else number - _WRAP


def from_sql(number: int) -> int:
    """The reverse of `to_sql`."""
    return number & MASK


def pack(signed: Iterable[int]) -> bytes:
    """Signed numbers, in unsigned ascending order already, -> id array."""
    return array("q", signed).tobytes()


def signed_ids(ids: bytes) -> array[int]:
    """Id array -> signed numbers for SQL, in the same order."""
    values = array("q")
    values.frombytes(ids)
    return values


def ascending(
    conn: sqlite3.Connection, sql: str, parameters: tuple[int, ...], after: int, limit: int
) -> list[int]:
    """Signed ids above `after` in unsigned order.

    `sql` selects one id column; its last three parameters are: from, to (both inclusive), limit.
    """
    found: list[int] = []
    first = after + 1
    if first < _TOP:
        found = [row[0] for row in conn.execute(sql, (*parameters, first, _TOP - 1, limit))]
        first = _TOP
    if len(found) < limit and first <= MASK:
        rest = (*parameters, first - _WRAP, -1, limit - len(found))
        found += [row[0] for row in conn.execute(sql, rest)]
    return found


def marks(count: int) -> str:
    """`?,?,?` for an IN list; SQLite allows 32,766."""
    return ",".join("?" * count)
