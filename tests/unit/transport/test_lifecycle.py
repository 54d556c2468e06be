"""The state table of a connection, on a real session and a clock moved by hand."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from feedcore._native.http2.h2 import EVENT_CALL, Session
from feedcore._native.http2.h2stream import Account, Row, Rules
from feedcore_server.transports.native.bounds import Bounds
from feedcore_server.transports.native.lifecycle import Lifecycle, State

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
BOUNDS = Bounds(
    opening_s=10,
    keepalive_s=60,
    keepalive_timeout_s=20,
    age_s=1_000,
    age_grace_s=30,
    idle_s=500,
    goaway_ack_s=5,
    headers_s=10,
)
# :method POST, :path /s/M, :scheme http, :authority a, content-type application/grpc
CALL = b"\x83\x86\x04\x04/s/M\x41\x01a\x0f\x10\x10application/grpc"


class Peer:
    """A session with its lifecycle, and what the other side has been sent."""

    def __init__(self, bounds: Bounds = BOUNDS, spread: float = 0.5) -> None:
        self.now = 1_000.0
        row = Row("method", None, False, False)
        self.session = Session(
            Rules(bounds), {b"/s/M": row}, Account(1 << 20), Account(1 << 20), self.now
        )
        self.lifecycle = Lifecycle(self.session, bounds, self.now, spread)
        self.frames: list[tuple[int, int, int, bytes]] = []
        self._rest = b""

    def sends(self, data: bytes) -> list[Any]:
        events = self.session.receive(data, len(data), self.now)
        self.lifecycle.tick(self.now)
        return events or []

    def opens(self) -> None:
        self.sends(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))
        assert self.lifecycle.state is State.SERVING

    def calls(self, stream: int = 1) -> Any:
        ((kind, call),) = self.sends(frame(1, 4, stream, CALL))
        assert kind == EVENT_CALL
        return call

    def at(self, seconds: float) -> None:
        """Moves the clock to `seconds` after the beginning and looks what is due."""
        self.now = 1_000.0 + seconds
        self.lifecycle.tick(self.now)

    def gets(self, kind: int) -> list[bytes]:
        """Payloads of the frames of that kind sent since last asked."""
        while (data := self.session.pull(self.now)) is not None:
            self._rest += data
        while len(self._rest) >= 9:
            length = int.from_bytes(self._rest[:3], "big")
            self.frames.append((self._rest[3], self._rest[4], length, self._rest[9 : 9 + length]))
            self._rest = self._rest[9 + length :]
        found = [payload for of, _, _, payload in self.frames if of == kind]
        self.frames = [row for row in self.frames if row[0] != kind]
        return found


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
    return head + payload


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    return struct.pack(">II", last, code) + debug


def test_a_peer_that_never_opens_is_ended() -> None:
    peer = Peer()
    peer.at(9.9)
    assert peer.lifecycle.state is State.OPENING
    assert peer.lifecycle.due == 1_010.0
    peer.at(10)
    assert peer.lifecycle.state is State.OVER
    assert peer.gets(GOAWAY) == [goaway(0, 4, b"settings_timeout")]


def test_keepalive_pings_a_silent_peer_and_gives_it_up() -> None:
    peer = Peer()
    peer.opens()
    peer.at(59.9)
    assert peer.gets(PING) == []
    peer.at(60)
    (ping,) = peer.gets(PING)
    peer.at(79)
    assert peer.lifecycle.state is State.SERVING
    peer.sends(frame(PING, ACK, 0, ping))
    peer.at(138)
    assert peer.gets(PING) == [], "the answer was a sign of life"
    peer.at(139)
    assert len(peer.gets(PING)) == 1
    peer.at(159)
    assert peer.lifecycle.state is State.OVER
    assert peer.gets(GOAWAY) == [goaway(0, 0, b"keepalive_timeout")]


@pytest.mark.parametrize(("spread", "age"), [(0.0, 900), (0.5, 1_000), (1.0, 1_100)])
def test_age_has_jitter_and_ends_in_two_steps(spread: float, age: float) -> None:
    peer = Peer(Bounds(age_s=1_000, age_grace_s=30, keepalive_s=math.inf), spread)
    peer.opens()
    call = peer.calls()
    peer.at(age - 0.1)
    assert peer.lifecycle.state is State.SERVING
    peer.at(age)
    assert peer.lifecycle.state is State.NOTICED
    assert peer.gets(GOAWAY) == [goaway(2**31 - 1, 0)]
    (ping,) = peer.gets(PING)
    late = peer.calls(3)
    peer.sends(frame(PING, ACK, 0, ping))
    assert peer.lifecycle.state is State.DRAINING
    assert peer.gets(GOAWAY) == [goaway(3, 0, b"max_age")], "the call in between is served"
    for stream in (call, late):
        assert stream.finish(0, "", [], [])
    peer.gets(1)
    peer.sends(frame(0, 1, 1) + frame(0, 1, 3))
    peer.gets(1)
    peer.at(age + 1)
    assert peer.lifecycle.state is State.OVER
    assert peer.gets(GOAWAY) == []


def test_without_an_answer_the_second_goaway_comes_all_the_same() -> None:
    peer = Peer()
    peer.opens()
    peer.calls()
    peer.lifecycle.drain(peer.now, 30)
    peer.gets(GOAWAY)
    peer.at(4.9)
    assert peer.lifecycle.state is State.NOTICED
    peer.at(5)
    assert peer.lifecycle.state is State.DRAINING
    assert peer.gets(GOAWAY) == [goaway(1, 0)]


def test_the_grace_of_a_drain_ends_it_with_calls_open() -> None:
    peer = Peer()
    peer.opens()
    peer.calls()
    peer.lifecycle.drain(peer.now, 30)
    peer.at(29.9)
    assert peer.lifecycle.state is State.DRAINING
    assert not peer.lifecycle.grace_is_over
    peer.at(30)
    assert peer.lifecycle.state is State.OVER and peer.lifecycle.grace_is_over


def test_a_second_drain_can_only_shorten_the_grace() -> None:
    peer = Peer()
    peer.opens()
    peer.calls()
    peer.lifecycle.drain(peer.now, 30, "max_age")
    peer.lifecycle.drain(peer.now, 300)
    peer.at(30)
    assert peer.lifecycle.state is State.OVER
    other = Peer()
    other.opens()
    other.calls()
    other.lifecycle.drain(other.now, 30)
    other.lifecycle.drain(other.now, 2)
    other.at(2)
    assert other.lifecycle.state is State.OVER


def test_idle_connections_end_and_busy_ones_do_not() -> None:
    bounds = Bounds(idle_s=500, keepalive_s=math.inf)
    peer = Peer(bounds)
    peer.opens()
    call = peer.calls()
    peer.at(600)
    assert peer.lifecycle.state is State.SERVING
    call.reset(8)
    peer.gets(3)
    peer.at(600 + 499)
    assert peer.lifecycle.state is State.SERVING
    peer.at(600 + 500)
    assert peer.lifecycle.state is State.NOTICED
    (ping,) = peer.gets(PING)
    peer.sends(frame(PING, ACK, 0, ping))
    assert peer.gets(GOAWAY)[-1] == goaway(1, 0, b"max_idle")
    assert peer.lifecycle.state is State.OVER


def test_a_header_block_that_does_not_end_is_ended() -> None:
    peer = Peer()
    peer.opens()
    peer.sends(frame(1, 0, 1, CALL[:5]))  # HEADERS without END_HEADERS
    assert peer.lifecycle.due == 1_010.0
    peer.at(10)
    assert peer.lifecycle.state is State.OVER
    assert peer.gets(GOAWAY) == [goaway(1, 11, b"header_timeout")]


def test_due_is_the_earliest_thing_and_never_in_the_past() -> None:
    peer = Peer()
    assert peer.lifecycle.due == 1_010.0
    peer.opens()
    assert peer.lifecycle.due == 1_060.0
    peer.at(300)
    assert peer.lifecycle.due == 1_320.0, "the keepalive's answer"
    assert peer.lifecycle.due >= peer.now
