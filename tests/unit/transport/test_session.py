"""Single histories of a session that were wrong once, or that the model does not reach.

The model itself, in any order of events, is tests/property/test_h2_session.py.
"""

from __future__ import annotations

import gzip
import math
import sys
from typing import Any
from urllib.parse import unquote

import pytest
from hyperframe.frame import SettingsFrame

from feedcore._native.http2.grpcframe import BadMetadata
from feedcore._native.http2.h2 import EVENT_CALL, EVENT_CLOSED, EVENT_FAST_FAILED, Session
from feedcore._native.http2.h2stream import Account, CallableFast, Row, Rules
from feedcore_server.transports.native.bounds import Bounds
from tests.support.callmodel import Model
from tests.support.modelcall import RESET_CANCEL
from tests.support.peer import Peer, framed

INTERNAL_ERROR = 2  # RFC 9113, 7
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/m"),
    (":authority", "test"),
    ("content-type", "application/grpc"),
]


class Pair:
    """A session and its caller."""

    def __init__(
        self, fast: Any = None, *, one_request: bool = True, most: int = 0, **bounds: Any
    ) -> None:
        handler = None if fast is None else CallableFast(fast)
        self.row = Row(None, None, one_request, True, handler, most)
        self.received, self.sent = Account(10**9), Account(10**9)
        rules = Rules(Bounds(**bounds))
        self.session = Session(rules, {b"/m": self.row}, self.received, self.sent, 100.0)
        self.peer = Peer()
        self.peer.hello()

    def turn(self, now: float = 100.0) -> list[tuple[int, Any]]:
        """Both sides say all they have to say."""
        events: list[tuple[int, Any]] = []
        while True:
            piece = self.peer.deliver()
            events += self.session.receive(piece, len(piece), now) or []
            data = self.session.pull(now)
            events += self.session.take_events() or []
            self.peer.feed(data)
            if data is None and not self.peer.out:
                return events

    def call(self, *more: tuple[str, str], message: bytes = b"hello") -> Any:
        """(the caller's stream, events) of a whole unary call."""
        stream = self.peer.open([*HEADERS, *more])
        self.peer.data(stream, framed(message), end=True)
        return stream, self.turn()


# --- a method's own bound ------------------------------------------------------------------------
def message_of(stream: Any) -> str:
    return unquote(dict(stream.trailers or stream.headers)["grpc-message"])


@pytest.mark.parametrize(("most", "told"), [(100, 100), (0, 5_000), (9_000, 5_000)])
def test_a_request_too_long_for_its_method_is_refused_by_its_prefix(most: int, told: int) -> None:
    pair = Pair(most=most, request_bytes_max=5_000)
    stream = pair.peer.open(HEADERS)
    pair.peer.data(stream, framed(bytes(told + 1))[:5])
    assert pair.turn() == []
    assert stream.status == 8
    assert message_of(stream) == f"request: {told + 1} bytes; at most {told}"
    assert pair.received.held == 0


@pytest.mark.parametrize("fast", [None, lambda request: request])
def test_inflating_stops_at_the_bound_of_the_method(fast: Any) -> None:
    pair = Pair(fast, most=2_000)
    stream = pair.peer.open([*HEADERS, ("grpc-encoding", "gzip")])
    pair.peer.data(stream, framed(gzip.compress(bytes(1_000_000)), 1), end=True)
    for _, call in pair.turn():
        assert call.take_request() is None
    pair.turn()
    assert stream.status == 8
    assert message_of(stream) == "request: more than 2000 bytes when decompressed; at most 2000"


# --- one end a call, at the right time -----------------------------------------------------------
@pytest.mark.parametrize("replies", [0, 1])
def test_a_status_waits_for_no_window(replies: int) -> None:
    model = Model(peer_settings={SettingsFrame.INITIAL_WINDOW_SIZE: 105 * replies})
    call = model.open("bidi")
    model.deliver()
    for _ in range(replies):
        model.send(call, b"x" * 100)
    model.pull()
    assert len(call.peer.data) == 105 * replies and call.peer.room == 0
    model.finish(call, 5, "gone", [("key", "value")])
    model.pull()
    assert call.peer.status == 5


def test_replies_go_out_before_the_status_although_the_window_was_shut() -> None:
    model = Model(peer_settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10})
    call = model.open("server")
    call.plan += framed(b"")
    model.write(call, 5, end=True)
    model.deliver()
    for number in range(3):
        model.send(call, bytes([number]) * 20)
        model.pull()
    model.finish(call, 0, "", [])
    model.pull()
    assert not call.peer.ended
    model.settle()
    assert [body for _, body in call.peer.messages()] == [bytes([n]) * 20 for n in range(3)]


def test_a_far_deadline_hides_no_stall() -> None:
    model = Model(stall_s=30.0)
    call = model.open("unary", timeout="1H")
    model.deliver()
    assert model.session.next_due == model.now + 1.0
    model.sweep(31.0)
    model.pull()
    assert call.peer.status == 1


def test_an_owner_is_told_once_although_its_caller_stalls() -> None:
    model = Model(stall_s=30.0, peer_settings={SettingsFrame.INITIAL_WINDOW_SIZE: 0})
    call = model.open("bidi", timeout="5S")
    model.deliver()
    model.send(call, b"x")
    for _ in range(3):
        model.sweep(40.0)
    assert call.told == 1
    model.pull()
    assert call.peer.reset_code == RESET_CANCEL


# --- what the caller may say ---------------------------------------------------------------------
@pytest.mark.parametrize("value", ["!!", "a", "=", "AA=A"])
def test_binary_metadata_is_refused_whatever_its_name(value: str) -> None:
    for name in ("-bin", "x-bin"):
        pair = Pair()
        stream, events = pair.call((name, value))
        assert (stream.status, events) == (13, [])


@pytest.mark.parametrize("value", ["", "AA", "AAA", "AA==", "AA,AAA=, AA", ","])
def test_binary_metadata_that_is_let_in_can_be_read(value: str) -> None:
    for name in ("-bin", "x-bin"):
        pair = Pair()
        _, events = pair.call((name, value))
        [(kind, stream)] = events
        assert kind == EVENT_CALL
        assert all(isinstance(part, bytes) for _, part in stream.metadata())


def test_bytes_of_headers_come_back_unchanged() -> None:
    pair = Pair()
    odd = "".join(chr(c) for c in range(0x21, 0x100) if c != 0x7F)
    stream, events = pair.call(("key", odd))
    [(_, handled)] = events
    # hpack writes text as UTF-8; the session keeps bytes and reads them as Latin-1
    assert handled.metadata() == (("key", odd.encode().decode("latin-1")),)
    handled.reply(b"", False, list(handled.metadata()), list(handled.metadata()))
    pair.turn()
    echoed = odd.encode().decode("latin-1")
    assert dict(stream.headers)["key"] == dict(stream.trailers)["key"] == echoed


# --- what the handler may say --------------------------------------------------------------------
@pytest.mark.parametrize("where", ["initial", "trailers", "status"])
def test_headers_that_the_library_does_not_send_still_end_the_call(where: str) -> None:
    pair = Pair(header_bytes_max=200_000)
    stream, events = pair.call()
    [(_, handled)] = events
    long = [("key", "x" * 70_000)]
    if where == "status":
        handled.finish(5, "gone", long, [])
    else:
        handled.reply(
            b"", False, long if where == "initial" else [], long if where == "trailers" else []
        )
    pair.turn()
    assert stream.reset_code == INTERNAL_ERROR
    assert pair.session.open_calls() == 0 and pair.sent.held == 0


@pytest.mark.parametrize("bad", [[("Key", "value")], [("key", "x" * 20_000)]])
def test_metadata_that_may_not_travel_sends_nothing(bad: list[tuple[str, str]]) -> None:
    pair = Pair()
    stream, events = pair.call()
    [(_, handled)] = events
    for attempt in (
        lambda: handled.reply(b"x", False, bad, []),
        lambda: handled.reply(b"x", False, [], bad),
        lambda: handled.send(b"x", False, bad),
        lambda: handled.finish(0, "", bad, []),
        lambda: handled.finish(3, "", [], bad),
    ):
        with pytest.raises(BadMetadata):
            attempt()
        pair.turn()
        assert stream.headers is None
    assert handled.reply(b"x", False, [], [])
    pair.turn()
    assert stream.status == 0


# --- fast handlers -------------------------------------------------------------------------------
@pytest.mark.parametrize("reply", [KeyError("a bug"), "text", 5])
def test_a_fast_handler_that_fails_leaves_the_call_to_the_ordinary_one(reply: Any) -> None:
    def fast(_request: bytes) -> Any:
        if isinstance(reply, Exception):
            raise reply
        return reply

    pair = Pair(fast)
    streams = [pair.peer.open(HEADERS) for _ in range(3)]
    for stream in streams:
        pair.peer.data(stream, framed(b"hello"), end=True)
    events = pair.turn()
    calls = [stream for kind, stream in events if kind == EVENT_CALL]
    assert [kind for kind, _ in events].count(EVENT_FAST_FAILED) == 3
    assert [stream.stream_id for stream in calls] == [1, 3, 5]
    for stream in calls:
        assert stream.take_request() == b"hello"
        stream.reply(b"slow", False, [], [])
    pair.turn()
    assert [stream.status for stream in streams] == [0, 0, 0]
    assert pair.session.verdict is None


# --- misuse and the end --------------------------------------------------------------------------
@pytest.mark.parametrize("count", [-1, 4, sys.maxsize])
def test_a_count_beyond_the_buffer_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        Pair().session.receive(b"abc", count, 100.0)


def test_closing_tells_each_owner_once() -> None:
    pair = Pair(one_request=False)
    streams = [pair.peer.open(HEADERS) for _ in range(3)]
    handled = [stream for _, stream in pair.turn()]
    for stream in handled[:2]:
        stream.owner = object()
    handled[1].finish(0, "", [], [])
    events = pair.session.close()
    assert events == [(EVENT_CLOSED, handled[0])]
    assert len(streams) == len(handled) == 3
    assert pair.session.close() is None and pair.session.is_over()
    assert pair.session.sweep(math.inf) is None


def test_a_verdict_ends_reading_and_is_said_once() -> None:
    pair = Pair()
    pair.turn()
    pair.peer.write(b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0")  # WINDOW_UPDATE of 0: an error of HTTP/2
    pair.turn()
    assert len(pair.peer.goaways) == 1
    pair.session.terminate(11, "again")
    pair.session.terminate(11, "and again")
    pair.turn()
    assert len(pair.peer.goaways) <= 2
