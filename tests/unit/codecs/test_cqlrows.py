"""Bodies of CQL results: the compiled module and its twin against bodies made here, and against
each other on bodies that are broken.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.codecs import cqlrows as twin

compiled = pytest.importorskip(
    "feedcore._native.codecs.cqlrows", reason="compiled modules are not built"
)

I64 = st.integers(-(2**63), 2**63 - 1)
TYPES: dict[int, tuple[str, st.SearchStrategy]] = {
    twin.BIGINT: (">q", I64),
    twin.COUNTER: (">q", I64),
    twin.INT: (">i", st.integers(-(2**31), 2**31 - 1)),
    twin.SMALLINT: (">h", st.integers(-(2**15), 2**15 - 1)),
    twin.TINYINT: (">b", st.integers(-128, 127)),
    twin.BOOLEAN: (">?", st.booleans()),
    twin.DOUBLE: (">d", st.floats(allow_nan=False)),
    twin.FLOAT: (">f", st.floats(width=32, allow_nan=False)),
    twin.BLOB: ("", st.binary(max_size=40)),
    twin.TEXT: ("", st.text(max_size=10)),
    twin.VARCHAR: ("", st.text(max_size=10)),
    twin.ASCII: ("", st.text(st.characters(max_codepoint=127), max_size=10)),
}
# a list of texts; a map of a custom type and an int; a tuple; a user's type
OTHERS = [
    b"\0\x20\0\x0d",
    b"\0\x21\0\0\0\x01x\0\x09",
    b"\0\x31\0\x02\0\x09\0\x22\0\x02",
    b"\0\x30\0\x01k\0\x01n\0\x01\0\x01f\0\x03",
]


def string(text: bytes) -> bytes:
    return struct.pack(">H", len(text)) + text


def value(data: bytes | None) -> bytes:
    return struct.pack(">i", -1) if data is None else struct.pack(">i", len(data)) + data


def wire(code: int, one: Any) -> bytes | None:
    if one is None or code == twin.BLOB:
        return one
    form = TYPES[code][0]
    return struct.pack(form, one) if form else one.encode()


def body_of(
    types: list[bytes],
    rows: list[list[bytes | None]],
    *,
    flags: int = twin.GLOBAL_TABLE,
    state: bytes = b"",
) -> bytes:
    parts = [struct.pack(">ii", flags, len(types))]
    if flags & twin.MORE_PAGES:
        parts.append(value(state))
    if not flags & twin.NO_METADATA:
        if flags & twin.METADATA_CHANGED:
            parts.append(string(b"i" * 16))
        table = string(b"keyspace") + string(b"table")
        if flags & twin.GLOBAL_TABLE:
            parts.append(table)
        for kind in types:
            parts += [b"" if flags & twin.GLOBAL_TABLE else table, string(b"column"), kind]
    parts.append(struct.pack(">i", len(rows)))
    parts += [value(one) for row in rows for one in row]
    return b"".join(parts)


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError as error:
        return type(error), str(error)


CODE_LISTS = st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=5)
FLAGS = st.integers(0, 15).map(lambda bits: bits & ~twin.NO_METADATA)


@given(CODE_LISTS, st.data(), FLAGS, st.binary(max_size=30))
def test_rows(codes: list[int], data: st.DataObject, flags: int, state: bytes) -> None:
    row = st.tuples(*(st.none() | TYPES[code][1] for code in codes))
    rows = data.draw(st.lists(row, max_size=6))
    types = [struct.pack(">H", code) for code in codes]
    raw = [[wire(code, one) for code, one in zip(codes, row, strict=True)] for row in rows]
    page = state if flags & twin.MORE_PAGES else None
    body = body_of(types, raw, flags=flags, state=state)
    bare = body_of(types, raw, flags=flags | twin.NO_METADATA, state=state)
    packed = b"".join(one for row in raw for one in row if one is not None)
    for module in (compiled, twin):
        assert module.unpack_result(body) == (page, rows)
        assert module.unpack_result(bare, bytes(codes)) == (page, rows)
        assert module.unpack_result(bare) == (page, None)
        assert module.pack_result(body) == module.pack_result(bare) == (page, packed)


@given(st.sampled_from(OTHERS), st.lists(st.binary(max_size=9), max_size=3))
def test_other_types_are_left_to_the_driver(kind: bytes, values: list[bytes]) -> None:
    body = body_of([kind, b"\0\x03"], [[one, b"e"] for one in values])
    for module in (compiled, twin):
        assert module.unpack_result(body) == (None, None)
        assert module.pack_result(body) == (None, b"".join(one + b"e" for one in values))


@given(CODE_LISTS | st.just([]), st.data())
def test_broken_bodies(codes: list[int], data: st.DataObject) -> None:
    types = [struct.pack(">H", code) for code in codes] + data.draw(
        st.lists(st.sampled_from(OTHERS), max_size=1)
    )
    row = st.lists(st.none() | st.binary(max_size=9), min_size=len(types), max_size=len(types))
    flags = data.draw(st.integers(0, 15))
    body = bytearray(body_of(types, data.draw(st.lists(row, max_size=3)), flags=flags))
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    for broken in (bytes(body), cut, bytes(body) + b"\0"):
        for name in ("pack_result", "unpack_result"):
            ours = outcome(getattr(compiled, name), broken)
            assert repr(ours) == repr(outcome(getattr(twin, name), broken))


def test_types_in_types_end() -> None:
    body = struct.pack(">ii", twin.GLOBAL_TABLE, 1) + string(b"k") + string(b"t") + string(b"c")
    for module in (compiled, twin):
        with pytest.raises(ValueError, match="nested deeper than 32"):
            module.pack_result(body + b"\0\x20" * 100)
