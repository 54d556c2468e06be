"""The compiled request decoder against protobuf: the same values or the same refusal, always."""

from __future__ import annotations

import random

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from feedcore_pb.v1 import feed_pb2

feedwire = pytest.importorskip(
    "feedcore._native.codecs.feedwire", reason="compiled modules are not built"
)

MUTATIONS = 30_000
VARINT, FIXED64, BLOB, GROUP, GROUP_END, FIXED32 = range(6)
TAG_MAX = (1 << 32) - 1


def get_feed(data: bytes) -> tuple[int, int, str, int, str] | None:
    """By protobuf; None if it refuses."""
    try:
        message = feed_pb2.GetFeedRequest.FromString(data)
    except DecodeError:
        return None
    return (
        message.user_id,
        message.page_size,
        message.cursor,
        message.view,
        message.if_none_match,
    )


def check_new(data: bytes) -> tuple[int, str] | None:
    """By protobuf; None if it refuses."""
    try:
        message = feed_pb2.CheckNewRequest.FromString(data)
    except DecodeError:
        return None
    return message.user_id, message.head


def assert_same(data: bytes) -> bool:
    """Whether the message was taken, by both."""
    expected = get_feed(data)
    assert feedwire.decode_get_feed(data) == expected, data.hex()
    assert feedwire.decode_check_new(data) == check_new(data), data.hex()
    return expected is not None


def varint(value: int, padding: int = 0) -> bytes:
    """With `padding` bytes more than are needed."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    if padding:
        out[-1] |= 0x80
        out += b"\x80" * (padding - 1) + b"\0"
    return bytes(out)


EDGES = [0, 1, 127, 128, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1]
NUMBERS = st.integers(1, 7) | st.sampled_from([0, 15, 16, 2**28, 2**29 - 1, 2**29])
VALUES = st.sampled_from(EDGES) | st.integers(0, 2**70 - 1)
TEXTS = st.text(max_size=20).map(str.encode) | st.binary(max_size=20)


@st.composite
def fields(draw: st.DrawFn, valid: bool, depth: int = 2) -> bytes:
    """One field, of a known or unknown number. `valid`: protobuf takes it."""
    number = draw(st.integers(1, 2**29 - 1) | st.integers(1, 7) if valid else NUMBERS)
    kinds = [VARINT, FIXED64, BLOB, FIXED32] + [GROUP] * (depth > 0)
    kind = draw(st.sampled_from(kinds if valid else [*kinds, GROUP_END, 6, 7]))
    padding = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 9]))
    tag = varint(number << 3 | kind, 0 if valid else padding)
    if kind == VARINT:
        value = draw(st.integers(0, 2**64 - 1) | st.sampled_from(EDGES) if valid else VALUES)
        return tag + varint(value, 0 if valid else padding)
    if kind in (FIXED32, FIXED64):
        size = 4 if kind == FIXED32 else 8
        return tag + draw(st.binary(min_size=size, max_size=size))
    if kind == BLOB:
        text = draw(st.text(max_size=300).map(str.encode) if valid else TEXTS)
        size = len(text) if valid else len(text) + draw(st.sampled_from([0, 0, 0, -1, 1, 2**32]))
        return tag + varint(max(size, 0), 0 if valid else padding) + text
    if kind == GROUP:
        inside = b"".join(draw(st.lists(fields(valid, depth - 1), max_size=4)))
        ending = number if valid else draw(st.sampled_from([number, number, number + 1]))
        return tag + inside + varint(ending << 3 | GROUP_END)
    return tag


@given(
    st.builds(
        feed_pb2.GetFeedRequest,
        user_id=st.integers(0, 2**64 - 1),
        page_size=st.integers(0, 2**32 - 1),
        cursor=st.text(),
        view=st.integers(-(2**31), 2**31 - 1),
        if_none_match=st.text(),
    )
)
def test_what_protobuf_writes(message: feed_pb2.GetFeedRequest) -> None:
    assert assert_same(message.SerializeToString())


@given(st.lists(fields(valid=True), max_size=8))
def test_fields_known_and_unknown_in_any_order(parts: list[bytes]) -> None:
    assert assert_same(b"".join(parts))


@given(st.lists(fields(valid=False), max_size=6))
def test_fields_with_faults(parts: list[bytes]) -> None:
    assert_same(b"".join(parts))


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    assert_same(data)


@given(st.binary(max_size=12))
def test_strings_are_utf8_or_the_message_is_refused(text: bytes) -> None:
    data = b"\x1a" + varint(len(text)) + text
    assert assert_same(data + b"\x1a\x01a") == assert_same(data)


@pytest.mark.parametrize("lead", range(0x80, 0x100))
def test_every_second_byte_of_utf8(lead: int) -> None:
    taken = 0
    for second in range(0x100):
        for tail in (b"", b"\x80", b"\xbf\xbf", b"\x80\x7f", b"\x80\xc0"):
            text = b"a" * 7 + bytes([lead, second]) + tail
            taken += assert_same(b"\x2a" + varint(len(text)) + text)
    assert (taken > 0) == (0xC2 <= lead <= 0xF4)


@pytest.mark.parametrize(
    "data",
    [
        "08ffffffffffffffffff01",  # ten bytes
        "08ffffffffffffffffff7f",  # bits above 64
        "0880808080808080808080 00",  # eleven bytes
        "108580808010",  # 2^32 + 5 for a uint32
        "208080808008",  # 2^31 for an enum
        "20ffffffffffffffffff01",  # -1
        "0805 0807",  # twice
        "1a0161 1a00",  # the last one is empty
        "1a01ff 1a0161",  # the first one is no UTF-8
        "8880808000 05",  # a tag of five bytes
        "888080808000 05",  # of six
        "888080801005",  # above 32 bits
        "f8ffffff0f05",  # the largest field number
        "0005",  # field number 0
        "33 0005 34",  # in a group
        "1a8380808000616263",  # a length of five bytes
        "1a838080808000616263",  # of six
        "32ffffffff07",  # 2^31 - 1 bytes that are not there
        "32ffffffffffffffffff01",  # a negative length
        "1a0461",  # cut
        "0901020304050607",  # a fixed64 cut
        "0d010203",  # a fixed32 cut
        "08",
        "88",
        "0c",  # an end without a group
        "0e",
        "0f",
        "33 34",
        "33 3c",  # another number's end
        "33 3b 34 3c",  # crossed
        "33 36 34",
        "33 0805",  # without an end
        "0b 1a01ff 0c",  # a group with a known number
        "33" * 100 + "34" * 100,
        "33" * 101 + "34" * 101,
        "33 34" * 300,
        "",
    ],
)
def test_edges(data: str) -> None:
    assert_same(bytes.fromhex(data))


def test_truncated_at_every_byte() -> None:
    whole = bytes.fromhex("0896011080021a03c3a94120022a0161331a01fd 34 fa0703616263 4d01020304")
    assert assert_same(whole)
    for size in range(len(whole)):
        assert_same(whole[:size])


def seed_message(draw: random.Random) -> bytes:
    """A message as callers send it, sometimes with fields of a later version."""
    message = feed_pb2.GetFeedRequest(
        user_id=draw.choice(EDGES),
        page_size=draw.choice([0, 20, 100, 2**32 - 1]),
        cursor=draw.choice(["", "wQAA-_", "é€\U00010348"]),
        view=draw.choice([0, 1, 2, 3, -1]),
        if_none_match=draw.choice(["", "abcdefghijklmnop"]),
    ).SerializeToString()
    extra = [b"", b"\x3b\x08\x01\x3c", b"\x32\x03abc", b"\x41" + b"8" * 8, b"\xf8\x07\x01"]
    return message + draw.choice(extra) + draw.choice([b"", message])


def mutated(data: bytearray, draw: random.Random) -> bytes:
    """One or two changes: a byte, a bit, an insertion, a deletion, a copy, the end cut off."""
    for _ in range(draw.randint(1, 2)):
        at = draw.randrange(len(data) + 1)
        change = draw.randrange(6)
        if change == 0 and at < len(data):
            data[at] = draw.randrange(256)
        elif change == 1 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif change == 2:
            data[at:at] = draw.choice([b"\x80", b"\xff", b"\x00", b"\x33", b"\x34", b"\x0b\x0c"])
        elif change == 3:
            del data[at : at + draw.randint(1, 3)]
        elif change == 4:
            data[at:at] = data[draw.randrange(len(data) + 1) :][: draw.randint(1, 8)]
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data)


def test_mutated_messages() -> None:
    draw = random.Random(20_240_101)
    taken = sum(assert_same(mutated(bytearray(seed_message(draw)), draw)) for _ in range(MUTATIONS))
    # both outcomes must be common, or the loop compares nothing
    assert MUTATIONS // 10 < taken < MUTATIONS * 9 // 10
