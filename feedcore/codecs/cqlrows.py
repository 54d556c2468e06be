"""Bodies of CQL results of kind ROWS, as packed values or as tuples.

A body (native protocol 3 to 5, after the kind) is flags, column count, [paging state], [metadata
id], [one table], columns, row count, values; a value is an i32 length with that many bytes, below
0 for null. All big-endian.

Invariants: a body that ends early or runs on is a ValueError, never a short answer; nulls and
integers of no bytes are None in tuples and left out of packed values. A type that is not among
CODES makes the whole body somebody else's (`rows` is None): the driver's own decoder takes it.

This is the twin of `feedcore._native.codecs.cqlrows`. Not for requests, nor for frames,
compression and checksums: drivers do those.
"""

from __future__ import annotations

import struct
from typing import Any

MORE_PAGES = 0x02
GLOBAL_TABLE = 0x01
NO_METADATA = 0x04
METADATA_CHANGED = 0x08

# what a column's type is on the wire -> name in struct, or how it is decoded
ASCII, BIGINT, BLOB, BOOLEAN, COUNTER, DOUBLE, FLOAT, INT, TEXT, VARCHAR, SMALLINT, TINYINT = (
    *(0x01, 0x02, 0x03, 0x04, 0x05, 0x07, 0x08, 0x09, 0x0A, 0x0D, 0x13, 0x14),
)
_FIXED = {
    BIGINT: struct.Struct(">q"),
    BOOLEAN: struct.Struct(">?"),
    COUNTER: struct.Struct(">q"),
    DOUBLE: struct.Struct(">d"),
    FLOAT: struct.Struct(">f"),
    INT: struct.Struct(">i"),
    SMALLINT: struct.Struct(">h"),
    TINYINT: struct.Struct(">b"),
}
_TEXTS = frozenset({ASCII, TEXT, VARCHAR})
CODES = frozenset({*_FIXED, *_TEXTS, BLOB})
_CUSTOM, _LIST, _MAP, _SET, _UDT, _TUPLE = 0x00, 0x20, 0x21, 0x22, 0x30, 0x31
DEPTH_MAX = 32  # of types within types; real ones have two or three
_I32 = struct.Struct(">i")
_U16 = struct.Struct(">H")


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if size < 0 or end > len(self.body):
            raise ValueError(f"CQL rows: {len(self.body)} bytes end within a field at {self.at}")
        data, self.at = self.body[self.at : end], end
        return data

    def i32(self) -> int:
        return _I32.unpack(self.take(4))[0]

    def u16(self) -> int:
        return _U16.unpack(self.take(2))[0]

    def count(self, what: str) -> int:
        count = self.i32()
        if count < 0:
            raise ValueError(f"CQL rows: {count} {what}")
        return count

    def string(self) -> bytes:
        return self.take(self.u16())

    def value(self) -> bytes | None:
        size = self.i32()
        return None if size < 0 else self.take(size)

    def type_code(self, depth: int = 0) -> int:
        """Skips a type; its own code."""
        if depth > DEPTH_MAX:
            raise ValueError(f"CQL rows: types nested deeper than {DEPTH_MAX}")
        code = self.u16()
        if code == _CUSTOM:
            self.string()
        elif code in (_LIST, _SET):
            self.type_code(depth + 1)
        elif code == _MAP:
            self.type_code(depth + 1)
            self.type_code(depth + 1)
        elif code == _TUPLE:
            for _ in range(self.u16()):
                self.type_code(depth + 1)
        elif code == _UDT:
            self.string()
            self.string()
            for _ in range(self.u16()):
                self.string()
                self.type_code(depth + 1)
        return code

    def head(self) -> tuple[int, bytes | None, bytes | None]:
        """(columns, their codes or None if the body has no metadata, paging state or None).
        A code that does not fit a byte is 0, as that of a custom type.
        """
        flags, columns = self.i32(), self.count("columns")
        state = self.value() if flags & MORE_PAGES else None
        if flags & NO_METADATA:
            return columns, None, state
        if flags & METADATA_CHANGED:
            self.string()
        if flags & GLOBAL_TABLE:
            self.string()
            self.string()
        codes = bytearray()
        for _ in range(columns):
            if not flags & GLOBAL_TABLE:
                self.string()
                self.string()
            self.string()
            code = self.type_code()
            codes.append(code if code < 256 else 0)
        return columns, bytes(codes), state

    def rows(self, columns: int) -> int:
        rows = self.count("rows")
        if rows and not columns:
            raise ValueError(f"CQL rows: {rows} rows of no columns")
        return rows

    def ended(self) -> None:
        if self.at != len(self.body):
            raise ValueError(f"CQL rows: {len(self.body)} bytes; the rows end at {self.at}")


def pack_result(body: bytes) -> tuple[bytes | None, bytes]:
    """(paging state or None, the values that are not null back to back)."""
    reader = _Reader(body)
    columns, _, state = reader.head()
    values = [reader.value() for _ in range(reader.rows(columns) * columns)]
    reader.ended()
    return state, b"".join([value for value in values if value is not None])


def unpack_result(body: bytes, codes: bytes = b"") -> tuple[bytes | None, list[tuple] | None]:
    """(paging state or None, rows). `codes`: types of the columns, for a body without metadata."""
    reader = _Reader(body)
    columns, own, state = reader.head()
    codes = codes if own is None else own
    if len(codes) != columns or not CODES.issuperset(codes):
        return state, None
    rows = [
        tuple([_decoded(code, reader.value()) for code in codes])
        for _ in range(reader.rows(columns))
    ]
    reader.ended()
    return state, rows


def _decoded(code: int, value: bytes | None) -> Any:
    if value is None or code == BLOB:
        return value
    if code in _TEXTS:
        return value.decode()
    fixed = _FIXED[code]
    if not value:
        return None
    if len(value) != fixed.size:
        raise ValueError(f"CQL rows: {len(value)} bytes for a value of {fixed.size}")
    return fixed.unpack(value)[0]
