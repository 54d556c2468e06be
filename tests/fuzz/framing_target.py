"""Fuzz target: the framing functions, each against a reference that is slow and plain."""

from __future__ import annotations

import base64
import re
import struct
import urllib.parse
import zlib

from feedcore._native.http2 import grpcframe
from tests.fuzz.script import Script

LIMIT = 300
UNIT_NS = {b"H": 3_600 * 10**9, b"M": 60 * 10**9, b"S": 10**9, b"m": 10**6, b"u": 10**3, b"n": 1}
BAD_FLAG, TOO_LARGE = -1, -2


def messages(script: Script) -> None:
    """The reader, with a cut after any byte."""
    step = script.byte() % 9
    data = script.rest()
    pieces = [data[at : at + step] for at in range(0, len(data), step)] if step else [data]
    assert grpcframe.read_messages(pieces, LIMIT) == plain_messages(data)


def plain_messages(data: bytes) -> tuple[list[tuple[bool, bytes]], int, int]:
    """What read_messages must give."""
    found: list[tuple[bool, bytes]] = []
    at = 0
    while len(data) - at >= 5:
        flag, length = struct.unpack_from(">BI", data, at)
        if flag > 1:
            return found, BAD_FLAG, 0
        if length > LIMIT:
            return found, TOO_LARGE, 0
        if len(data) - at - 5 < length:
            break
        found.append((flag == 1, data[at + 5 : at + 5 + length]))
        at += 5 + length
    return found, 0, len(data) - at


def timeout(script: Script) -> None:
    """grpc-timeout."""
    value = script.rest()
    found = re.fullmatch(rb"([0-9]{1,8})([HMSmun])", value)
    expected = min(int(found[1]) * UNIT_NS[found[2]], 2**62) if found else None
    assert grpcframe.parse_timeout(value) == expected


def status_message(script: Script) -> None:
    """grpc-message, both ways."""
    value = script.rest()
    text = urllib.parse.unquote_to_bytes(value).decode("utf-8", "replace")
    assert grpcframe.decode_message(value) == text
    assert grpcframe.decode_message(grpcframe.encode_message(text)) == text


def metadata(script: Script) -> None:
    """Encoding refuses or gives what decodes to the same."""
    pairs: list[tuple[str, str | bytes]] = []
    while script:
        name = script.take(script.byte() % 12).decode("latin-1")
        value = script.take(script.byte() % 40)
        pairs.append((name, value if name.endswith("-bin") else value.decode("latin-1")))
    try:
        encoded = grpcframe.encode_metadata(pairs)
    except grpcframe.BadMetadata:
        return
    packed = b"".join(struct.pack("=HI", len(n), len(v))[:6] + n + v for n, v in encoded)
    stripped = tuple((n, v if isinstance(v, bytes) else v.strip(" ")) for n, v in pairs)
    assert grpcframe.decode_metadata(packed) == stripped


def binary(script: Script) -> None:
    """Base64, padded or not."""
    value = script.rest()
    encoded = base64.b64encode(value)
    assert grpcframe.decode_binary(encoded) == value
    assert grpcframe.decode_binary(encoded.rstrip(b"=")) == value


def compression(script: Script) -> None:
    """Inflating gives what zlib gives, or refuses."""
    data = script.rest()
    inflate = zlib.decompressobj(31)
    try:
        plain = inflate.decompress(data, LIMIT + 1)
        whole = inflate.eof and not inflate.unused_data
    except zlib.error:
        plain, whole = b"", False
    try:
        got = grpcframe.decompress(data, LIMIT)
    except grpcframe.TooLarge:
        assert len(plain) > LIMIT
    except grpcframe.BadEncoding:
        assert not whole
    else:
        assert whole and got == plain and len(got) <= LIMIT
    assert grpcframe.decompress(grpcframe.compress(data), len(data)) == data


PARTS = [messages, timeout, status_message, metadata, binary, compression]


def one_input(data: bytes) -> None:
    """Runs one input. Raises what it found."""
    script = Script(data)
    PARTS[script.byte() % len(PARTS)](script)
