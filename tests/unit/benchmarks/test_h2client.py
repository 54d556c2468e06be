"""The client session beside our server's session, without sockets: every call comes back once, with
the server's status or with why there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore_server.transports.native.bounds import Bounds
from tests.support.rawframes import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    RST_STREAM,
    SETTINGS,
    block,
    frame,
    prefixed,
)

h2client = pytest.importorskip("feedcore_bench._native.h2client", reason="no native transport")
h2 = pytest.importorskip("feedcore._native.http2.h2")
h2call = pytest.importorskip("feedcore_bench._native.h2call")
h2stream = pytest.importorskip("feedcore._native.http2.h2stream")
loadstats = pytest.importorskip("feedcore_bench._native.loadstats")
OK, INTERNAL, UNAVAILABLE = 0, 13, 14


class Pair:
    """A client and our server's session. `answer(stream, request)` is the handler."""

    def __init__(self, answer: Any = None, most: int = 100, **bounds: Any) -> None:
        account = h2stream.Account(10**9)
        self.row = h2stream.Row(None, None, True, True, None)
        rules = h2stream.Rules(Bounds(**bounds))
        self.server = h2.Session(rules, {b"/m": self.row}, account, h2stream.Account(10**9), 0.0)
        template = h2call.Template("/m", timeout_ms=5_000, metadata=[("key", "value")])
        self.client = h2client.Client([template], most)
        self.answer = answer or (lambda stream, request: stream.reply(request, False, [], []))
        self.streams: list[Any] = []

    def turn(self, piece: int = 1 << 20) -> list[Any]:
        """Both sides say all they have to say, so many bytes at a time; finished calls."""
        finished: list[Any] = []
        while True:
            out = self.client.pull() or b""
            for at in range(0, len(out), piece):
                part = out[at : at + piece]
                for kind, stream in self.server.receive(part, len(part), 0.0) or []:
                    if kind == h2.EVENT_CALL:
                        self.streams.append(stream)
                        self.answer(stream, stream.take_request())
            back = b""
            while (data := self.server.pull(0.0)) is not None:
                back += data
            self.server.take_events()
            for at in range(0, len(back), piece):
                finished += self.client.receive(back[at : at + piece])
            if not out and not back:
                return finished

    def ready(self) -> Pair:
        """SETTINGS have gone both ways."""
        assert self.client.room() == 0
        assert self.turn() == []
        return self


@given(st.lists(st.binary(max_size=3_000), max_size=8), st.integers(1, 4_000))
def test_replies_come_back_whatever_the_pieces(requests: list[bytes], piece: int) -> None:
    pair = Pair().ready()
    for tag, request in enumerate(requests):
        pair.client.submit(0, request, tag)
    finished = pair.turn(piece)
    assert sorted(one[0] for one in finished) == list(range(len(requests)))
    for tag, status, body, received, detail in finished:
        assert (status, body, detail) == (OK, requests[tag], "")
        assert received == len(requests[tag]) + 5
    assert pair.client.open_calls() == 0


def test_a_request_of_many_frames() -> None:
    pair = Pair().ready()
    request = bytes(range(256)) * 1_000
    pair.client.submit(0, request, "big")
    assert pair.turn() == [("big", OK, request, len(request) + 5, "")]


def test_the_request_is_a_call_of_grpc() -> None:
    pair = Pair().ready()
    pair.client.submit(0, b"x", None)
    pair.turn()
    (stream,) = pair.streams
    assert stream.deadline == 5.0
    assert ("key", "value") in stream.metadata()


def test_status_and_message() -> None:
    def refuse(stream: Any, _request: bytes) -> None:
        stream.finish(8, "too much: 100% ä", [], [])

    pair = Pair(refuse).ready()
    pair.client.submit(0, b"x", 7)
    assert pair.turn() == [(7, 8, b"", 0, "too much: 100% ä")]


def test_room_is_what_the_server_allows() -> None:
    waiting: list[Any] = []
    pair = Pair(lambda stream, request: waiting.append((stream, request)), 50)
    assert pair.client.room() == 0  # before its SETTINGS
    pair = Pair(lambda stream, request: waiting.append((stream, request)), 50, streams_max=3)
    pair.ready()
    assert pair.client.room() == 3
    for tag in range(3):
        pair.client.submit(0, b"x", tag)
    assert pair.client.room() == 0
    with pytest.raises(ConnectionError, match="no room"):
        pair.client.submit(0, b"x", 4)
    assert pair.turn() == []
    stream, request = waiting[1]
    stream.reply(request, False, [], [])
    assert [one[0] for one in pair.turn()] == [1]
    assert pair.client.room() == 1


def test_a_lost_connection_ends_every_call_once() -> None:
    pair = Pair(lambda stream, request: None).ready()
    for tag in range(3):
        pair.client.submit(0, b"x", tag)
    pair.turn()
    pair.client.lost("reset by peer")
    assert sorted(pair.client.take()) == [
        (tag, UNAVAILABLE, b"", 0, "reset by peer") for tag in range(3)
    ]
    pair.client.lost("again")
    assert pair.client.take() == [] and pair.client.pull() is None
    assert pair.client.is_over() and pair.client.room() == 0
    with pytest.raises(ConnectionError, match="reset by peer"):
        pair.client.submit(0, b"x", 4)


def test_goaway_lets_what_was_taken_finish() -> None:
    waiting: list[Any] = []
    pair = Pair(lambda stream, request: waiting.append((stream, request))).ready()
    pair.client.submit(0, b"taken", "taken")
    pair.turn()
    pair.client.submit(0, b"x", "late")  # on its way when the server says goodbye
    pair.server.goaway(h2.GOAWAY_NO_ERROR, "drain")
    while (data := pair.server.pull(0.0)) is not None:
        assert pair.client.receive(data) == []
    pair.client.pull()
    assert pair.client.pending() == 1
    assert pair.client.take() == [("late", UNAVAILABLE, b"", 0, "GOAWAY with error 0 drain")]
    assert pair.client.going_away and pair.client.room() == 0 and not pair.client.is_over()
    stream, request = waiting[0]
    stream.reply(request, False, [], [])
    assert pair.turn() == [("taken", OK, b"taken", 10, "")]
    assert pair.client.is_over()


# --- what our server never sends -----------------------------------------------------------------
GOOD = [(b":status", b"200"), (b"content-type", b"application/grpc")]


def raw(*frames: bytes, plain: bool = False) -> list[Any]:
    """What becomes of one call, after these bytes."""
    client = h2client.Client([h2call.Template("/m")], 10, plain)
    client.receive(frame(SETTINGS))
    client.submit(0, b"x", "tag")
    client.pull()
    finished = client.receive(b"".join(frames))
    return finished + (client.lost("end") or client.take())


def headers(*pairs: tuple[bytes, bytes], end: bool = False, stream: int = 1) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(pairs))


BODY = frame(DATA, 0, 1, prefixed(b"abc"))
PUSHBACK = (b"grpc-retry-pushback-ms", b"250")
TRAILERS = headers((b"grpc-status", b"0"), end=True)


@pytest.mark.parametrize(
    ("frames", "status", "words"),
    [
        ([headers(*GOOD), BODY, TRAILERS], OK, ""),
        ([headers(*GOOD, (b"grpc-status", b"16"), end=True)], 16, ""),
        (
            [headers((b":status", b"200"), (b"grpc-status", b"8"), PUSHBACK, end=True)],
            8,
            "[retry after 250 ms]",
        ),
        ([headers(*GOOD), BODY, headers((b"grpc-status", b"17"), end=True)], 2, ""),
        ([headers(*GOOD), BODY, headers((b"grpc-status", b""), end=True)], 2, ""),
        ([headers(*GOOD), BODY, headers((b"other", b"0"), end=True)], 2, "no grpc-status"),
        ([headers((b":status", b"503"), end=True)], INTERNAL, "HTTP status 503"),
        ([headers(*GOOD), TRAILERS], INTERNAL, "without a whole message"),
        ([headers(*GOOD), BODY[:-1] + b"", TRAILERS], UNAVAILABLE, "end"),
        ([headers(*GOOD), BODY, BODY, TRAILERS], INTERNAL, "more than one message"),
        ([headers(*GOOD), frame(DATA, 0, 1, b"\1\0\0\0\1x"), TRAILERS], INTERNAL, "flag 1"),
        ([headers(*GOOD), frame(DATA, 0, 1, b"\0\xff\0\0\0x"), TRAILERS], INTERNAL, "length"),
        ([headers(*GOOD), frame(DATA, 0, 1, b"\0\0\0\0\4x"), TRAILERS], INTERNAL, "whole"),
        ([frame(RST_STREAM, 0, 1, b"\0\0\0\7")], UNAVAILABLE, "error 7"),
        ([frame(RST_STREAM, 0, 1, b"\0\0\0\x0b")], 8, "error 11"),
        ([headers(*GOOD), frame(RST_STREAM, 0, 1, b"\0\0\0\2")], INTERNAL, "error 2"),
        ([headers(*GOOD), BODY, frame(RST_STREAM, 0, 1, b"\0\0\0\0")], INTERNAL, "error 0"),
        ([frame(GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\x0bcalm")], UNAVAILABLE, "error 11 calm"),
        ([], UNAVAILABLE, "end"),
    ],
)
def test_one_status_for_every_end(frames: list[bytes], status: int, words: str) -> None:
    finished = raw(*frames)
    assert [one[:2] for one in finished] == [("tag", status)]
    assert words in finished[0][4]
    assert finished[0][2] == (b"abc" if status == OK else b"")


def test_a_static_server_needs_no_status() -> None:
    body = frame(DATA, END_STREAM, 1, prefixed(b"abc"))
    assert raw(headers((b":status", b"200")), body, plain=True) == [("tag", OK, b"abc", 8, "")]
    assert raw(headers((b":status", b"404")), body, plain=True)[0][1] == INTERNAL
    assert raw(headers((b":status", b"200")), body)[0][1] == 2


def test_nonsense_ends_the_session() -> None:
    client = h2client.Client([h2call.Template("/m")], 10)
    client.receive(frame(SETTINGS))
    client.submit(0, b"x", "tag")
    client.pull()
    client.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert client.wants_write() and client.pull() and client.is_over()
    client.lost(client.verdict or "over")
    assert [one[1] for one in client.take()] == [UNAVAILABLE]


@given(st.data())
def test_hostile_bytes_end_every_call_once(data: st.DataObject) -> None:
    """Bytes of a server, with some changed: whatever they mean, nothing is lost or told twice."""
    refused = headers(*GOOD, (b"grpc-status", b"8"), PUSHBACK, end=True, stream=3)
    away = frame(GOAWAY, 0, 0, b"\0\0\0\3\0\0\0\0bye")
    whole = b"".join((headers(*GOOD), BODY, TRAILERS, refused, away))
    unchanged = whole
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes((data.draw(st.integers(0, 255)),)) + whole[at + 1 :]
    client = h2client.Client([h2call.Template("/m")], 10)
    client.receive(frame(SETTINGS))
    for tag in range(3):
        client.submit(0, b"x" * 20_000, tag)
    client.pull()
    piece = data.draw(st.integers(1, len(whole)))
    finished = []
    for at in range(0, len(whole), piece):
        finished += client.receive(whole[at : at + piece])
        client.pull()
    client.lost("end")
    finished += client.take()
    assert sorted(one[0] for one in finished) == [0, 1, 2]
    assert all(0 <= one[1] <= 16 for one in finished)
    if whole == unchanged:
        assert [one[1] for one in sorted(finished)] == [OK, 8, UNAVAILABLE]


# --- the compiled way ----------------------------------------------------------------------------
def test_fill_and_deliver() -> None:
    pair = Pair().ready()
    recorder = loadstats.Recorder(1, 0, 1_000, False)
    asked = iter([(0, b"one", 1), (0, b"two", 2), None, (0, b"three", 3)])
    assert pair.client.fill(lambda: next(asked), recorder, 10, 100) == ~2
    out: list[Any] = []
    pair.client.lost("over", 4)
    told = pair.client.deliver(lambda *answer: out.append(answer), recorder, 350)
    assert told == 2
    assert sorted(out) == [
        (1, 0, 4, b"", 250, 350, "over"),
        (2, 0, 4, b"", 250, 350, "over"),
    ]
    assert recorder.counts(0) == {4: 2} and recorder.started == 2


def test_a_cycle_shows_every_kth_body() -> None:
    pair = Pair().ready()
    recorder = loadstats.Recorder(1, 0, 1_000, False)
    seen: list[tuple[int, bytes]] = []
    cycle = h2client.Cycle([(0, b"a"), (0, b"b")], 3, lambda *one: seen.append(one))
    assert pair.client.fill_cycle(cycle, recorder, 10, 100) == 10
    finished = pair.turn()
    assert [one[2] for one in finished] == [b"a", b"", b"", b"b", b"", b"", b"a", b"", b"", b"b"]
    assert pair.client.fill_cycle(cycle, recorder, 2, 100) == 2


@pytest.mark.parametrize(
    ("method", "request_bytes", "error"),
    [(1, b"", ValueError), (-1, b"", ValueError), (0, "text", TypeError), (0, None, TypeError)],
)
def test_requests_that_cannot_be(method: int, request_bytes: Any, error: type[Exception]) -> None:
    pair = Pair().ready()
    with pytest.raises(error):
        pair.client.submit(method, request_bytes, None)
    assert pair.client.open_calls() == 0
