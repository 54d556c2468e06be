"""Fuzz target: a session driven by arbitrary bytes, and by handlers that do arbitrary things.

An input is a script (`OPS`): its first byte chooses bounds and whether a valid preface goes first;
each further byte is an operation (three bits) and its argument (five), followed by what that needs.
So mutations reach handlers, timers and well-formed frames as easily as raw bytes. Breaches raise:

    - an exception of any kind but those that a method promises
    - an event for a call that cannot have one; a second CLOSED; a FAULT
    - output that is not a sequence of whole frames
    - bytes on an account, or a call, that is left after close()
"""

from __future__ import annotations

import gzip
import math
import struct
from typing import Any

from feedcore._native.http2.grpcframe import BadMetadata
from feedcore._native.http2.h2 import (
    EVENT_CALL,
    EVENT_CLOSED,
    EVENT_FAST_FAILED,
    EVENT_MESSAGE,
    EVENT_ROOM,
    Session,
)
from feedcore._native.http2.h2stream import Account, CallableFast, Row, Rules
from feedcore_server.transports.native.bounds import Bounds
from tests.fuzz.script import Script

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, SETTINGS_ACK = b"\0\0\0\x04\0\0\0\0\0", b"\0\0\0\x04\x01\0\0\0\0"
PATHS = [b"/f/unary", b"/f/client", b"/f/server", b"/f/bidi", b"/f/fast"]
SHAPES = [(True, True), (False, True), (True, False), (False, False), (True, True)]
FRAME_MAX = 16_384
TIMEOUTS = [b"1S", b"0n", b"99999999H", b"soon"]
PAIRS: list[tuple[str, Any]] = [("key", "value"), ("x-bin", b"\0"), ("Bad", ""), ("key", "\n")]

LOW = Bounds(
    request_bytes_max=1_000,
    header_bytes_max=600,
    room_bytes=200,
    streams_max=3,
    stream_window=300,
    request_stall_s=5.0,
    send_stall_s=5.0,
    reset_burst=4.0,
    glitch_burst=60.0,
    useless_burst=20.0,
    outbound_frames_max=50,
)
USUAL = Bounds(request_stall_s=5.0, send_stall_s=5.0)


def fast(request: bytes) -> bytes | None:
    """Declines, fails or answers, as the request begins."""
    if request.startswith(b"slow"):
        return None
    if request.startswith(b"fail"):
        raise KeyError(request)
    return request


ROWS = {
    path: Row(path, None, *shape, CallableFast(fast) if path == b"/f/fast" else None)
    for path, shape in zip(PATHS, SHAPES, strict=True)
}


def literal(name: bytes, value: bytes) -> bytes:
    """A header that HPACK neither indexes nor compresses."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def request_block(path: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """The header block of a call."""
    headers = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path)]
    headers += [(b":authority", b"f"), (b"content-type", b"application/grpc"), *more]
    return b"".join(literal(name, value) for name, value in headers)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Any frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Breach(AssertionError):
    """What must never be was seen."""


class Run:
    """One input."""

    def __init__(self, script: Script) -> None:
        choice = script.byte()
        self.script = script
        self.now = 100.0
        self.process = Account(5_000 if choice & 4 else 1 << 40)
        self.received = Account(1 << 40, self.process)
        self.sent = Account(1 << 40, self.process)
        rules = Rules(LOW if choice & 1 else USUAL)
        self.session = Session(rules, ROWS, self.received, self.sent, self.now)
        self.streams: list[Any] = []
        self.told: set[int] = set()
        self.next_stream = 1
        if not choice & 2:
            self.feed(PREFACE + SETTINGS + SETTINGS_ACK)

    def go(self) -> None:
        """To the end of the script, and of the session."""
        while self.script:
            op = self.script.byte()
            OPS[op & 7](self, op >> 3)
        self.pull()
        self.events(self.session.close())
        self.end()

    def end(self) -> None:
        """Nothing may be left."""
        if self.received.held or self.sent.held or self.process.held:
            raise Breach(f"held: {self.received.held}, {self.sent.held}, {self.process.held}")
        if self.session.open_calls() or not self.session.is_over():
            raise Breach("calls are open after close()")
        for stream in self.streams:
            if not stream.closed or not stream.ended:
                raise Breach(f"stream {stream.stream_id} is open after close()")
            if stream.send(b"x", False, []) or stream.finish(0, "", [], []):
                raise Breach(f"stream {stream.stream_id} sends after close()")

    # --- turns --------------------------------------------------------------------------------
    def feed(self, data: bytes, step: int = 0) -> None:
        for at in range(0, len(data), step or max(1, len(data))):
            piece = data[at : at + step] if step else data
            self.events(self.session.receive(piece, len(piece), self.now))

    def pull(self) -> None:
        for _ in range(100):
            data = self.session.pull(self.now)
            self.events(self.session.take_events())
            if data is None:
                return
            self.check_frames(data)
        raise Breach("there is always more to send")

    def check_frames(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 3], "big")
            if at + 9 + length > len(data) or length > FRAME_MAX or data[at + 3] > 9:
                raise Breach(f"no whole frame at {at} of {len(data)}: {data[at : at + 9].hex()}")
            at += 9 + length

    def events(self, events: list[tuple[int, Any]] | None) -> None:
        for kind, stream in events or []:
            if kind == EVENT_CALL:
                if stream in self.streams:
                    raise Breach("a second CALL")
                self.streams.append(stream)
                if not (stream.ended or stream.closed):
                    stream.owner, stream.begun = object(), True
                    self.session.started()
            elif kind == EVENT_CLOSED:
                if stream not in self.streams or stream.stream_id in self.told:
                    raise Breach("CLOSED for no handler, or a second one")
                self.told.add(stream.stream_id)
            elif kind not in (EVENT_MESSAGE, EVENT_ROOM, EVENT_FAST_FAILED):
                raise Breach(f"event {kind}: {stream!r}")

    # --- operations ---------------------------------------------------------------------------
    def raw(self, arg: int) -> None:
        self.feed(self.script.take(self.script.byte() + 1), (0, 1, 2, 7)[arg & 3])

    def any_frame(self, arg: int) -> None:
        flags, stream = self.script.byte(), self.script.byte() & 0x0F
        length = self.script.byte() * (17 if arg & 16 else 1)
        self.feed(frame(arg & 15, flags, stream, self.script.take(length)))

    def request(self, arg: int) -> None:
        more = []
        if arg & 8:
            more.append((b"grpc-timeout", TIMEOUTS[self.script.byte() & 3]))
        if arg & 16:
            more.append((b"grpc-encoding", b"gzip"))
            more.append((b"grpc-accept-encoding", b"gzip"))
        block = request_block(PATHS[(arg & 7) % len(PATHS)], *more)
        end = 1 if self.script.byte() & 1 else 0
        self.feed(frame(1, 4 | end, self.next_stream, block))
        self.next_stream += 2

    def data(self, arg: int) -> None:
        stream = self.script.byte() % 8 * 2 + 1
        payload = self.script.take(self.script.byte() * (9 if arg & 16 else 1))
        if arg & 8:
            payload = gzip.compress(payload, mtime=0)
        if not arg & 4:
            payload = struct.pack(">BI", 1 if arg & 8 else 0, len(payload)) + payload
        self.feed(frame(0, arg & 1, stream, payload), 1 if arg & 2 else 0)

    def handle(self, arg: int) -> None:
        if not self.streams:
            return
        stream = self.streams[self.script.byte() % len(self.streams)]
        HANDLER_OPS[arg % len(HANDLER_OPS)](self, stream)
        self.events(self.session.take_events())

    def time(self, arg: int) -> None:
        self.now += arg * 0.7
        self.events(self.session.sweep(self.now))
        if math.isnan(self.session.next_due):
            raise Breach("next_due is no number")

    def turn(self, _arg: int) -> None:
        self.pull()

    def owner_asks(self, arg: int) -> None:
        session = self.session
        if arg == 31:
            self.events(session.close())
        elif arg == 30:
            session.terminate(self.script.byte(), "test")
        elif arg == 29:
            self.events(session.cancel_calls("test"))
        elif arg == 28:
            session.goaway(self.script.byte(), "test")
        elif arg == 27:
            session.notice()
        else:
            session.ping()

    # --- handlers -----------------------------------------------------------------------------
    def done(self, stream: Any) -> None:
        """The handler has ended."""
        if stream.owner is not None:
            stream.owner = None
            self.session.ended()

    def size(self) -> int:
        size = self.script.byte()
        return size * 500 if size & 1 else size

    def pairs(self) -> list[tuple[str, Any]]:
        choice = self.script.byte()
        return [pair for bit, pair in enumerate(PAIRS) if choice >> bit & 1]

    def take(self, stream: Any) -> None:
        if stream.row.one_request:
            stream.take_request()
        elif stream.take() is None and not (stream.ended or stream.request_done):
            stream.wants_message = True
        stream.metadata()

    def reply(self, stream: Any) -> None:
        choice, size, pairs = self.script.byte(), self.size(), self.pairs()
        try:
            stream.reply(bytes(size), bool(choice & 1), pairs, pairs)
        except BadMetadata:
            return
        self.done(stream)

    def send(self, stream: Any) -> None:
        choice, size, pairs = self.script.byte(), self.size(), self.pairs()
        try:
            if stream.send(bytes(size), bool(choice & 1), pairs) and choice & 2:
                stream.wants_room = True
        except BadMetadata:
            return

    def finish(self, stream: Any) -> None:
        code, pairs = self.script.byte() % 17, self.pairs()
        try:
            stream.finish(code, self.script.take(3).decode("latin-1"), pairs, pairs)
        except BadMetadata:
            return
        self.done(stream)

    def abort(self, stream: Any) -> None:
        stream.abort(self.script.byte() % 17, "test")

    def reset(self, stream: Any) -> None:
        stream.reset(self.script.byte())


OPS = [
    Run.raw,
    Run.any_frame,
    Run.request,
    Run.data,
    Run.handle,
    Run.time,
    Run.turn,
    Run.owner_asks,
]
HANDLER_OPS = [Run.take, Run.reply, Run.send, Run.finish, Run.abort, Run.reset, Run.done]


def one_input(data: bytes) -> None:
    """Runs one input. Raises what it found."""
    Run(Script(data)).go()
