"""The compiled cursor against feedcore.codecs.cursor: same texts, and the same texts refused."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.codecs import cursor as twin
from feedcore.codecs.cursor import Cursor
from feedcore.domain.idset import pack_ids
from feedcore.errors import InvalidCursor
from feedcore.limits import CURSOR_AGE_MAX_MS, CURSOR_BYTES_MAX, SERVED_SET_MAX

compiled = pytest.importorskip(
    "feedcore._native.codecs.cursor", reason="compiled modules are not built"
)

KEY, OTHER_KEY = b"k" * 32, b"K" * 32
NOW_MS = 1_750_000_000_000
MUTATIONS = 5_000
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
U64 = st.integers(0, 2**64 - 1)
# clustered, spread, and at the ends of the range
ID_LISTS = (
    st.lists(U64, max_size=SERVED_SET_MAX)
    | st.sets(st.integers(0, 300), max_size=SERVED_SET_MAX)
    | st.lists(st.integers(2**64 - 2**18, 2**64 - 1), max_size=20)
    | st.builds(
        lambda base, ids: [base + one for one in ids],
        st.integers(0, 2**63),
        st.lists(st.integers(0, 2**41), max_size=60),
    )
    | st.lists(st.sampled_from([0, 1, 255, 256, 2**63, 2**64 - 1]), max_size=6)
)
CURSORS = st.builds(
    Cursor,
    owner=U64,
    head=U64,
    low_water=U64,
    ranked_at_ms=U64,
    config_version=U64,
    origin=st.integers(0, 255),
    issued_ms=st.integers(NOW_MS - CURSOR_AGE_MAX_MS - 2, NOW_MS + 2) | U64,
    served=ID_LISTS.map(pack_ids),
)
CURSOR = Cursor(42, 900, 800, 7, 3, 1, NOW_MS, pack_ids([1, 2**40, 2**62]))
TEXT = twin.encode_cursor(CURSOR, KEY)
HEAD_TEXT = twin.encode_head(42, 900, KEY)


def by_twin(text: str, key: bytes = KEY, owner: int = 42, now_ms: int = NOW_MS) -> Cursor | None:
    try:
        return twin.decode_cursor(text, key, owner, now_ms)
    except InvalidCursor:
        return None


def head_by_twin(text: str, key: bytes = KEY, owner: int = 42) -> int | None:
    try:
        return twin.decode_head(text, key, owner)
    except InvalidCursor:
        return None


def assert_same(text: str, owner: int = 42, now_ms: int = NOW_MS) -> Cursor | None:
    expected = by_twin(text, KEY, owner, now_ms)
    assert compiled.decode_cursor(text, KEY, owner, now_ms) == expected, text
    assert compiled.decode_head(text, KEY, owner) == head_by_twin(text, KEY, owner), text
    return expected


@given(CURSORS, st.binary(max_size=64))
def test_cursors(cursor: Cursor, key: bytes) -> None:
    text = compiled.encode_cursor(cursor, key)
    assert text == twin.encode_cursor(cursor, key)
    ours = compiled.decode_cursor(text, key, cursor.owner, NOW_MS)
    assert ours == by_twin(text, key, cursor.owner, NOW_MS)
    fresh = cursor.issued_ms >= NOW_MS - CURSOR_AGE_MAX_MS
    assert ours == (cursor if fresh else None)


@given(st.integers(1, SERVED_SET_MAX), st.integers(0, 64), st.integers(0, 64))
def test_every_width_of_low_bytes(number: int, width: int, skew: int) -> None:
    """Ids spread evenly, and bunched at one end, over spans up to 2^64."""
    span = (1 << width) - 1
    spread = {span * place // number for place in range(number)} | {span}
    bunched = {min(span, (place << skew) // number) for place in range(number)} | {span}
    for ids in (spread, bunched):
        cursor = replace(CURSOR, served=pack_ids(sorted(ids)[-SERVED_SET_MAX:]))
        text = compiled.encode_cursor(cursor, KEY)
        assert text == twin.encode_cursor(cursor, KEY)
        assert compiled.decode_cursor(text, KEY, 42, NOW_MS) == cursor


@given(U64, U64, st.binary(max_size=64))
def test_heads(owner: int, head_id: int, key: bytes) -> None:
    text = compiled.encode_head(owner, head_id, key)
    assert text == twin.encode_head(owner, head_id, key)
    assert compiled.decode_head(text, key, owner) == head_id
    assert compiled.decode_head(text, key, owner ^ 1) is None


def test_what_no_cursor_can_hold() -> None:
    for module in (compiled, twin):
        with pytest.raises(ValueError, match="193 ids"):
            module.encode_cursor(replace(CURSOR, served=pack_ids(range(193))), KEY)
        with pytest.raises(ValueError, match="7 bytes"):
            module.encode_cursor(replace(CURSOR, served=b"1234567"), KEY)
        with pytest.raises(ValueError, match="key"):
            module.encode_head(42, 900, b"k" * 65)
        with pytest.raises(ValueError, match="key"):
            module.decode_head(HEAD_TEXT, b"k" * 65, 42)


@pytest.mark.parametrize("ids", [(3, 2), (1, 2**40, 7), (10, 30, 20), (2**64 - 1, 0)])
def test_ids_that_do_not_ascend_are_refused(ids: tuple[int, ...]) -> None:
    served = b"".join(one.to_bytes(8, "little") for one in ids)
    with pytest.raises(ValueError, match="ascend"):
        compiled.encode_cursor(replace(CURSOR, served=served), KEY)


@pytest.mark.parametrize("origin", [-1, 256])
def test_an_origin_is_a_byte(origin: int) -> None:
    with pytest.raises(ValueError, match=f"origin: {origin}"):
        compiled.encode_cursor(replace(CURSOR, origin=origin), KEY)


@pytest.mark.parametrize("whole", [TEXT, HEAD_TEXT], ids=["cursor", "head"])
def test_truncated_and_every_character_changed(whole: str) -> None:
    assert (assert_same(whole) == CURSOR) == (whole == TEXT)
    for size in range(len(whole)):
        assert assert_same(whole[:size]) is None
    for place, old in enumerate(whole):
        # of the last one all: some differ only in bits that base64 does not use
        for new in ALPHABET if place == len(whole) - 1 else "AQgw_-~=+/\n é\0":
            if new != old:
                changed = whole[:place] + new + whole[place + 1 :]
                assert assert_same(changed) is None
                assert compiled.decode_head(changed, KEY, 42) is None


@pytest.mark.parametrize(
    "text",
    ["", "=", "A", "AA", "AAA", "wQ", "wQ==", "gQ", "\ud800", "é", "\0", "-", "_" * 2_048]
    + ["A" * (CURSOR_BYTES_MAX + n) for n in (-1, 0, 1, 10_000)]
    + [TEXT + tail for tail in ("=", "==", "A", "AAAA", "\n", " ", "\0")],
)
def test_garbage_and_length(text: str) -> None:
    assert assert_same(text) is None


@given(st.text(max_size=300) | st.text(ALPHABET, max_size=300))
def test_random_texts(text: str) -> None:
    assert assert_same(text) is None


def test_of_another_user_key_version_time() -> None:
    assert compiled.decode_cursor(TEXT, KEY, 43, NOW_MS) is None
    assert compiled.decode_cursor(TEXT, OTHER_KEY, 42, NOW_MS) is None
    assert compiled.decode_head(HEAD_TEXT, OTHER_KEY, 42) is None
    assert compiled.decode_cursor(HEAD_TEXT, KEY, 42, NOW_MS) is None
    assert compiled.decode_head(TEXT, KEY, 42) is None
    last = NOW_MS + CURSOR_AGE_MAX_MS
    for now_ms in (last, last + 1, 0, -1, -(2**63), 2**63 - 1):
        assert_same(TEXT, 42, now_ms)
    assert compiled.decode_cursor(TEXT, KEY, 42, last) == CURSOR
    assert compiled.decode_cursor(TEXT, KEY, 42, last + 1) is None


@given(st.integers(0, 255), st.integers(0, 9) | st.integers(0, 255), U64 | st.just(0), st.data())
def test_signed_nonsense(number: int, low: int, base: int, data: st.DataObject) -> None:
    """Signed with our key, yet not made by encode_cursor."""
    tails = data.draw(st.binary(min_size=0, max_size=40))
    lows = (tails * (number * low))[: number * low]
    header = twin.HEADER.pack(0xC1, 42, 1, 1, 1, NOW_MS, 1, 1, number, low, base)
    # as many bits as there should be, more often than chance would have it
    places = data.draw(st.lists(st.integers(0, 400), min_size=number, max_size=number, unique=True))
    bits = sum(1 << place for place in places)
    code = data.draw(
        st.just(lows + bits.to_bytes(51, "little")) | st.just(b"") | st.binary(max_size=80)
    )
    assert_same(twin._seal(header + code, KEY))


def test_signed_nonsense_that_decodes() -> None:
    """Lows that do not ascend, twice the same id, zeros at the end, lows wider than an id."""
    for number, low, base, code in (
        (3, 1, 5, bytes([9, 1, 1, 0b111])),
        (4, 1, 0, bytes([3, 2, 1, 0, 0b1111])),
        (5, 1, 0, bytes([3, 3, 9, 1, 2, 0b11111, 0, 0, 0])),
        (0, 200, 7, bytes(5)),
        (1, 12, 1, bytes([255] * 7 + [0] * 5) + b"\1"),
        (1, 8, 0, bytes([255] * 8) + b"\1"),
    ):
        header = twin.HEADER.pack(0xC1, 42, 1, 1, 1, NOW_MS, 1, 1, number, low, base)
        assert assert_same(twin._seal(header + code, KEY)) is not None
    for number, low, base, code in (
        (1, 8, 1, bytes([255] * 8) + b"\1"),
        (1, 12, 0, bytes([1] * 9 + [0] * 3) + b"\1"),
        (1, 8, 0, bytes([255] * 8) + b"\2"),
        (2, 0, 2**64 - 1, b"\6"),
        (1, 1, 0, b""),
        (0, 0, 0, b"\1"),
    ):
        header = twin.HEADER.pack(0xC1, 42, 1, 1, 1, NOW_MS, 1, 1, number, low, base)
        assert assert_same(twin._seal(header + code, KEY)) is None


def test_mutated_texts() -> None:
    """Changed after signing, or changed and signed again: with the right signature the code of the
    served ids is all that protects."""
    draw = random.Random(20_240_101)
    taken = 0
    for _ in range(MUTATIONS):
        ids = [draw.randrange(2 ** draw.choice([8, 20, 44, 64])) for _ in range(draw.randrange(12))]
        text = twin.encode_cursor(replace(CURSOR, served=pack_ids(ids)), KEY)
        payload = bytearray(twin._open(text, KEY, 0xC1, twin.HEADER.size, "cursor"))
        # the header's last ten bytes: count, low bytes and base; the code
        payload[draw.randrange(50, len(payload))] ^= 1 << draw.randrange(8)
        if draw.random() < 0.2:
            del payload[draw.randrange(60, len(payload) + 1) :]
        taken += assert_same(twin._seal(bytes(payload), KEY)) is not None
        place = draw.randrange(len(text))
        assert_same(text[:place] + draw.choice(ALPHABET) + text[place + 1 :])
    assert MUTATIONS // 10 < taken < MUTATIONS * 9 // 10
