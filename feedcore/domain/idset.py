"""Sets of 64-bit ids: a hash set, and sorted id arrays (u64 little-endian, ascending, no
duplicates).

The twin of feedcore._native.codecs.idset. Arrays are values: every operation answers a new one.
Not for ordered iteration over a U64Set: its order is unspecified.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator

ID_BYTES = 8
U64_MAX = (1 << 64) - 1


def _checked(value: int) -> int:
    if not 0 <= value <= U64_MAX:
        raise OverflowError(f"id: {value}; 0 to {U64_MAX}")
    return value


class U64Set:
    """A hash set of unsigned 64-bit integers; others raise OverflowError."""

    __slots__ = ("_ids",)

    def __init__(self, ids: bytes | Iterable[int] = ()) -> None:
        self._ids: set[int] = set()
        self.update(ids)

    def add(self, value: int) -> None:
        """Puts it in, if it is not."""
        self._ids.add(_checked(value))

    def discard(self, value: int) -> None:
        """Takes it out, if it is in."""
        self._ids.discard(_checked(value))

    def update(self, ids: bytes | Iterable[int]) -> None:
        """Puts all of them in: an id array, or any iterable of integers."""
        if isinstance(ids, (bytes, bytearray, memoryview)):
            self._ids.update(unpack_ids(bytes(ids)))
            return
        for value in ids:
            self.add(value)

    def clear(self) -> None:
        """Takes all out."""
        self._ids.clear()

    def __contains__(self, value: int) -> bool:
        return _checked(value) in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)


def pack_ids(ids: Iterable[int]) -> bytes:
    """The id array of these ids, in any order and with duplicates."""
    ordered = sorted({_checked(value) for value in ids})
    return struct.pack(f"<{len(ordered)}Q", *ordered)


def unpack_ids(array: bytes) -> list[int]:
    """The ids, ascending. ValueError if the bytes are not whole ids."""
    number, rest = divmod(len(array), ID_BYTES)
    if rest:
        raise ValueError(f"id array: {len(array)} bytes; a multiple of {ID_BYTES}")
    return list(struct.unpack(f"<{number}Q", array))


def _place(array: bytes, value: int) -> tuple[int, bool]:
    """Byte offset where `value` is or belongs, and whether it is there."""
    if len(array) % ID_BYTES:
        raise ValueError(f"id array: {len(array)} bytes; a multiple of {ID_BYTES}")

    def at(index: int) -> int:
        return int.from_bytes(array[index * ID_BYTES : (index + 1) * ID_BYTES], "little")

    number = len(array) // ID_BYTES
    index = bisect_left(range(number), _checked(value), key=at)
    return index * ID_BYTES, index < number and at(index) == value


def ids_contain(array: bytes, value: int) -> bool:
    """Whether the array holds the id."""
    return _place(array, value)[1]


def ids_insert(array: bytes, value: int) -> bytes:
    """The array with the id in it."""
    offset, found = _place(array, value)
    return array if found else array[:offset] + value.to_bytes(ID_BYTES, "little") + array[offset:]


def ids_remove(array: bytes, value: int) -> bytes:
    """The array without the id."""
    offset, found = _place(array, value)
    return array[:offset] + array[offset + ID_BYTES :] if found else array


def ids_union(a: bytes, b: bytes) -> bytes:
    """Ids in either array."""
    return pack_ids(unpack_ids(a) + unpack_ids(b))


def ids_intersect(array: bytes, s: U64Set) -> list[int]:
    """Ids of the array that are in the set, ascending."""
    return [value for value in unpack_ids(array) if value in s]
