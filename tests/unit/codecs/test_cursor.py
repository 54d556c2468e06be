"""Cursors and head tokens: what is damaged, foreign, old or made up is refused, with its reason."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.codecs import cursor as cursors
from feedcore.codecs.cursor import Cursor, decode_cursor, decode_head, encode_cursor, encode_head
from feedcore.errors import InvalidCursor
from feedcore.limits import CURSOR_AGE_MAX_MS, CURSOR_BYTES_MAX, SERVED_SET_MAX

KEY, OTHER_KEY = b"k" * 32, b"K" * 32
NOW_MS = 1_750_000_000_000
U64 = st.integers(0, 2**64 - 1)
SERVED = st.lists(U64, max_size=SERVED_SET_MAX).map(native.pack_ids)
CURSORS = st.builds(
    Cursor,
    owner=U64,
    head=U64,
    low_water=U64,
    ranked_at_ms=U64,
    config_version=U64,
    origin=st.integers(0, 255),
    issued_ms=st.just(NOW_MS),
    served=SERVED | st.sets(st.integers(0, 300), max_size=SERVED_SET_MAX).map(native.pack_ids),
)
CURSOR = Cursor(42, 900, 800, 7, 3, 1, NOW_MS, native.pack_ids([1, 2**40, 2**62]))
TEXT = encode_cursor(CURSOR, KEY)


def reason(text: str, key: bytes = KEY, owner: int = 42, now_ms: int = NOW_MS) -> str:
    with pytest.raises(InvalidCursor) as caught:
        decode_cursor(text, key, owner, now_ms)
    assert caught.value.field == "cursor"
    assert len(text) < 40 or text not in str(caught.value), "never echoed"
    return caught.value.flaw


@given(CURSORS)
def test_round_trip(cursor: Cursor) -> None:
    text = encode_cursor(cursor, KEY)
    assert decode_cursor(text, KEY, cursor.owner, NOW_MS) == cursor
    assert len(text) <= CURSOR_BYTES_MAX
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.integers(1, SERVED_SET_MAX), st.integers(0, 64), st.integers(0, 64))
def test_the_longest_cursor_fits(number: int, width: int, skew: int) -> None:
    """Ids spread evenly, and bunched at one end, over spans up to 2^64."""
    span = (1 << width) - 1
    spread = {span * place // number for place in range(number)} | {span}
    bunched = {min(span, (place << skew) // number) for place in range(number)} | {span}
    for ids in (spread, bunched):
        served = native.pack_ids(sorted(ids)[-SERVED_SET_MAX:])
        cursor = replace(CURSOR, served=served)
        text = encode_cursor(cursor, KEY)
        assert len(text) <= CURSOR_BYTES_MAX
        assert decode_cursor(text, KEY, 42, NOW_MS) == cursor


def test_too_many_served_ids_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="193 ids"):
        encode_cursor(replace(CURSOR, served=native.pack_ids(range(193))), KEY)


def test_truncated_at_every_length() -> None:
    for size in range(len(TEXT)):
        assert reason(TEXT[:size]) in {"malformed", "forged"}


def test_every_bit_flipped() -> None:
    raw = bytearray(base64.urlsafe_b64decode(TEXT + "=" * (-len(TEXT) % 4)))
    for bit in range(8 * len(raw)):
        raw[bit // 8] ^= 1 << bit % 8
        flipped = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        assert reason(flipped) == ("version" if bit < 8 else "forged")
        raw[bit // 8] ^= 1 << bit % 8


def test_every_character_changed() -> None:
    """Also where the change only touches bits that base64 does not use."""
    for place, old in enumerate(TEXT):
        for new in "AQgw_-~=\n é":
            if new != old:
                assert reason(TEXT[:place] + new + TEXT[place + 1 :])


@pytest.mark.parametrize("tail", ["=", "==", "A", "AAAA", "\n", " ", "\0"])
def test_something_appended(tail: str) -> None:
    assert reason(TEXT + tail) in {"malformed", "forged"}


def test_of_another_user_key_version_time() -> None:
    assert reason(TEXT, owner=43) == "foreign"
    assert reason(TEXT, key=OTHER_KEY) == "forged"
    assert reason(TEXT, now_ms=NOW_MS + CURSOR_AGE_MAX_MS + 1) == "expired"
    assert decode_cursor(TEXT, KEY, 42, NOW_MS + CURSOR_AGE_MAX_MS) == CURSOR
    assert reason(encode_head(42, 900, KEY)) == "version"
    newer = bytes([0xC2]) + base64.urlsafe_b64decode(TEXT + "=" * (-len(TEXT) % 4))[1:]
    assert reason(base64.urlsafe_b64encode(newer).decode().rstrip("=")) == "version"


def test_garbage_and_length() -> None:
    assert reason("") == "malformed"
    assert reason("x" * (CURSOR_BYTES_MAX + 1)) == "malformed"
    assert reason("A" * 10_000_000) == "malformed"
    assert reason("\ud800") == "malformed"


@given(st.text(max_size=300))
def test_garbage_never_decodes(text: str) -> None:
    reason(text)


@given(st.binary(max_size=300), st.integers(0, 255), st.integers(0, 8), U64)
def test_signed_nonsense_is_an_error_of_its_kind(
    code: bytes, number: int, low: int, base: int
) -> None:
    """Signed with our key, yet not made by encode_cursor: refused or decoded, never a crash."""
    header = cursors.HEADER.pack(0xC1, 42, 1, 1, 1, NOW_MS, 1, 1, number, low, base)
    try:
        decode_cursor(cursors._seal(header + code, KEY), KEY, 42, NOW_MS)
    except InvalidCursor as error:
        assert error.flaw == "malformed"


@given(U64, U64)
def test_head_round_trip(owner: int, head_id: int) -> None:
    assert decode_head(encode_head(owner, head_id, KEY), KEY, owner) == head_id


def test_bad_heads() -> None:
    head = encode_head(42, 900, KEY)
    for text, key, owner, expected in (
        (head, KEY, 43, "foreign"),
        (head, OTHER_KEY, 42, "forged"),
        (TEXT, KEY, 42, "version"),
        ("", KEY, 42, "malformed"),
        (head[:-1], KEY, 42, "malformed"),
        (head + "A", KEY, 42, "malformed"),
        (head[:10], KEY, 42, "malformed"),
    ):
        with pytest.raises(InvalidCursor) as caught:
            decode_head(text, key, owner)
        assert (caught.value.field, caught.value.flaw) == ("head", expected)
