"""gRPC's framing against independent references: struct, base64, urllib, gzip of the standard
library.

Not for the session (tests/property/test_h2_session.py) and not for hostile bytes at length
(tests/fuzz).
"""

from __future__ import annotations

import base64
import gzip
import itertools
import re
import string
import struct
import tracemalloc
import urllib.parse
import zlib
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedcore._native.http2 import grpcframe

UNIT_NS = {
    "H": 3_600 * 10**9,
    "M": 60 * 10**9,
    "S": 10**9,
    "m": 10**6,
    "u": 10**3,
    "n": 1,
}
CLAMP_NS = 2**62
PRINTABLE_BUT_PERCENT = "".join(chr(c) for c in range(0x20, 0x7F) if c != 0x25)
NAMES = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=20).filter(
    lambda name: not name.startswith("grpc-")
)
# Any byte that HTTP lets through in the middle of a value, as Latin-1 text.
VALUES = st.text([chr(c) for c in range(256) if c >= 0x20 and c != 0x7F], max_size=40).map(
    lambda text: text.strip(" ")
)
MESSAGES = st.lists(st.tuples(st.booleans(), st.binary(max_size=300)), max_size=8)
BAD_FLAG, TOO_LARGE = -1, -2  # READ_BAD_FLAG, READ_TOO_LARGE of grpcframe.pxd


# --- timeouts ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "expected_ns"),
    [
        (b"0n", 0),
        (b"1n", 1),
        (b"00000001S", 10**9),  # eight digits: the most there may be
        (b"99999999n", 99_999_999),
        (b"99999999m", 99_999_999 * 10**6),
        (b"99999999S", 99_999_999 * 10**9),
        (b"99999999M", CLAMP_NS),
        (b"99999999H", CLAMP_NS),
        (b"1281023H", 1_281_023 * 3_600 * 10**9),  # the most hours below 2^62 ns
        (b"1281024H", CLAMP_NS),
        (b"", None),
        (b"S", None),
        (b"5", None),
        (b"999999999S", None),  # nine digits
        (b"-1S", None),
        (b"+1S", None),
        (b"1 S", None),
        (b" 1S", None),
        (b"1S ", None),
        (b"1s", None),
        (b"1h", None),
        (b"1.5S", None),
        (b"0x1S", None),
        (b"1\x00S", None),
        (b"\xb2S", None),
    ],
)
def test_timeouts(value: bytes, expected_ns: int | None) -> None:
    assert grpcframe.parse_timeout(value) == expected_ns


@given(
    st.one_of(
        st.from_regex(rb"\A[0-9]{1,9}[HMSmunhsx]\Z"),
        st.binary(max_size=11),
    )
)
def test_any_timeout(value: bytes) -> None:
    found = re.fullmatch(rb"([0-9]{1,8})([HMSmun])", value)
    expected = None
    if found:
        expected = min(int(found[1]) * UNIT_NS[found[2].decode()], CLAMP_NS)
    assert grpcframe.parse_timeout(value) == expected


# --- percent coding of the status message --------------------------------------------------------
ODD = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n 100%"


@given(st.text(max_size=60))
@example(ODD)
@example("%")
@example("\x7f\x00")
def test_messages_are_percent_encoded(message: str) -> None:
    encoded = grpcframe.encode_message(message)
    reference = urllib.parse.quote(message, safe=PRINTABLE_BUT_PERCENT, errors="replace")
    assert encoded == reference.encode("ascii")
    assert grpcframe.decode_message(encoded) == message.encode("utf-8", "replace").decode()


@given(st.one_of(st.binary(max_size=30), st.text("%0aFg +-_x", max_size=12).map(str.encode)))
@example(b"%")
@example(b"%4")
@example(b"%zz%41")
@example(b"%+1%-1% 1%1_")
@example(b"%e2%98%ba")
def test_any_message_decodes(value: bytes) -> None:
    reference = urllib.parse.unquote_to_bytes(value).decode("utf-8", "replace")
    assert grpcframe.decode_message(value) == reference


# --- metadata ------------------------------------------------------------------------------------
def packed(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """As the session keeps a request's metadata."""
    return b"".join(
        struct.pack("=H", len(name)) + struct.pack("=I", len(value)) + name + value
        for name, value in pairs
    )


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_text_metadata_survives_both_ways(pairs: list[tuple[str, str]]) -> None:
    pairs = [(name, value) for name, value in pairs if not name.endswith("-bin")]
    encoded = grpcframe.encode_metadata(pairs)
    assert encoded == [(name.encode(), value.encode("latin-1")) for name, value in pairs]
    assert grpcframe.decode_metadata(packed(encoded)) == tuple(pairs)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=5))
def test_binary_metadata_survives_both_ways(pairs: list[tuple[str, bytes]]) -> None:
    pairs = [(name + "-bin", value) for name, value in pairs]
    encoded = grpcframe.encode_metadata(pairs)
    assert encoded == [
        (name.encode(), base64.b64encode(value).rstrip(b"=")) for name, value in pairs
    ]
    assert grpcframe.decode_metadata(packed(encoded)) == tuple(pairs)


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), min_size=1, max_size=5))
def test_binary_lists_come_apart_padded_or_not(parts: list[tuple[bytes, bool]]) -> None:
    listed = [
        base64.b64encode(part) if pad else base64.b64encode(part).rstrip(b"=")
        for part, pad in parts
    ]
    expected = tuple(("k-bin", part) for part, _ in parts)
    assert grpcframe.decode_metadata(packed([(b"k-bin", b",".join(listed))])) == expected
    assert grpcframe.decode_metadata(packed([(b"k-bin", b", ".join(listed))])) == expected


def test_metadata_keeps_order_and_repeats() -> None:
    pairs = [(b"b", b"2"), (b"a", b"1"), (b"b", b"1"), (b"a-bin", b"AQ"), (b"b", b"")]
    assert grpcframe.decode_metadata(packed(pairs)) == (
        ("b", "2"),
        ("a", "1"),
        ("b", "1"),
        ("a-bin", b"\x01"),
        ("b", ""),
    )
    assert grpcframe.decode_metadata(b"") == ()


@pytest.mark.parametrize(
    "name",
    ["", "A", "a b", "a:b", ":path", "\u00e4", "\u263a", "a\n", "a\0", "grpc-status", "grpc-x"]
    + ["connection", "transfer-encoding", "te", "content-type", "content-length"],
)
def test_names_that_may_not_travel(name: str) -> None:
    with pytest.raises(grpcframe.BadMetadata, match="metadata name"):
        grpcframe.encode_metadata([(name, "v")])


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\x1f", "\x7f"])
def test_values_that_may_not_travel(character: str) -> None:
    with pytest.raises(grpcframe.BadMetadata, match="control character"):
        grpcframe.encode_metadata([("key", f"a{character}b")])
    assert grpcframe.encode_metadata([("key-bin", character.encode())])


@pytest.mark.parametrize(
    ("name", "value"), [("key-bin", "text"), ("key", None), ("key", 5), ("key-bin", None)]
)
def test_values_of_the_wrong_type(name: str, value: object) -> None:
    with pytest.raises(grpcframe.BadMetadata, match=name):
        grpcframe.encode_metadata([(name, value)])  # type: ignore[list-item]


@pytest.mark.parametrize("name", [None, 5, b"key"])
def test_names_of_the_wrong_type(name: object) -> None:
    with pytest.raises(grpcframe.BadMetadata, match="metadata name"):
        grpcframe.encode_metadata([(name, "v")])  # type: ignore[list-item]


def test_text_outside_latin_1_is_replaced_and_spaces_around_go() -> None:
    assert grpcframe.encode_metadata([("key", "  \u263a \u00e4 ")]) == [(b"key", b"? \xe4")]
    assert grpcframe.encode_metadata([("key", b" raw ")]) == [(b"key", b"raw")]


# --- messages ------------------------------------------------------------------------------------
def framed(messages: Iterable[tuple[bool, bytes]]) -> bytes:
    return b"".join(struct.pack(">BI", flag, len(body)) + body for flag, body in messages)


@given(MESSAGES, st.lists(st.integers(0, 2_500), max_size=40))
def test_any_cut_of_the_bytes_gives_the_same_messages(
    messages: list[tuple[bool, bytes]], cuts: list[int]
) -> None:
    whole = framed(messages)
    edges = sorted({0, len(whole), *(min(cut, len(whole)) for cut in cuts)})
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    assert grpcframe.read_messages(pieces, 300) == (messages, 0, 0)
    single_bytes = [whole[at : at + 1] for at in range(len(whole))]
    assert grpcframe.read_messages(single_bytes, 300) == (messages, 0, 0)


@given(MESSAGES, st.binary(min_size=1, max_size=300), st.data())
def test_a_torn_message_is_what_is_left(
    messages: list[tuple[bool, bytes]], last: bytes, data: st.DataObject
) -> None:
    torn = framed([(False, last)])
    torn = torn[: data.draw(st.integers(1, len(torn) - 1))]
    assert grpcframe.read_messages([framed(messages), torn], 300) == (messages, 0, len(torn))


def test_long_messages_are_kept_whole() -> None:
    messages = [(True, bytes(range(256)) * 300), (False, b""), (False, b"x" * 100_000)]
    whole = framed(messages)
    for step in (1_000, 16_384, 16_389, 70_000):
        pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
        assert grpcframe.read_messages(pieces, 100_000) == (messages, 0, 0)


@pytest.mark.parametrize("flag", [2, 3, 128, 255])
def test_other_flags_are_faults(flag: int) -> None:
    whole = framed([(False, b"ok")]) + bytes([flag]) + b"\0\0\0\0"
    for pieces in ([whole], [whole[at : at + 1] for at in range(len(whole))]):
        assert grpcframe.read_messages(pieces, 10) == ([(False, b"ok")], BAD_FLAG, 0)


@pytest.mark.parametrize("length", [11, 2**31 - 1, 2**31, 2**32 - 1])
def test_too_long_is_known_from_the_prefix(length: int) -> None:
    assert grpcframe.read_messages([struct.pack(">BI", 0, length)], 10) == ([], TOO_LARGE, 0)
    assert grpcframe.read_messages([framed([(False, b"x" * 10)])], 10)[1] == 0


def test_what_is_announced_is_not_allocated() -> None:
    tracemalloc.start()
    try:
        pieces = [struct.pack(">BI", 0, 2**31) + b"x"]
        assert grpcframe.read_messages(pieces, 2**31) == ([], 0, 6)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


# --- compression ---------------------------------------------------------------------------------
@given(st.binary(max_size=2_000))
def test_gzip_both_ways(message: bytes) -> None:
    assert gzip.decompress(grpcframe.compress(message)) == message
    assert grpcframe.decompress(gzip.compress(message), len(message)) == message


@pytest.mark.parametrize("size", [1, 1_000, 100_000])
def test_exactly_the_limit_passes(size: int) -> None:
    squeezed = gzip.compress(b"x" * size)
    assert grpcframe.decompress(squeezed, size) == b"x" * size
    with pytest.raises(grpcframe.TooLarge, match=f"at most {size - 1}"):
        grpcframe.decompress(squeezed, size - 1)


def test_a_bomb_is_left_alone_after_the_limit() -> None:
    squeezed = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    try:
        with pytest.raises(grpcframe.TooLarge):
            grpcframe.decompress(squeezed, 10_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(squeezed) + 500_000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda squeezed: squeezed + b"x",
        lambda squeezed: squeezed + squeezed,
        lambda squeezed: squeezed[:-1],
        lambda squeezed: squeezed[:-9],
        lambda squeezed: squeezed[:5],
        lambda squeezed: b"",
        lambda squeezed: b"\0" + squeezed,
        lambda squeezed: squeezed[:-8] + b"\0\0\0\0" + squeezed[-4:],  # a wrong checksum
        lambda squeezed: zlib.compress(b"message"),
        lambda squeezed: b"message",
    ],
)
def test_what_is_not_one_whole_member_is_refused(spoil) -> None:
    with pytest.raises(grpcframe.BadEncoding):
        grpcframe.decompress(spoil(gzip.compress(b"message" * 10)), 1_000)
