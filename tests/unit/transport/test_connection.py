"""Single lives of a connection that were wrong once, on a loop without sockets.

Any order of events is tests/property/test_connection_simulation.py.
"""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hyperframe.frame import GoAwayFrame

from feedcore_server.context import CallContext
from feedcore_server.registry import Kind, Method
from feedcore_server.transports.native import Bounds, NativeTransport
from feedcore_server.transports.native.connection import Connection
from tests.support.peer import Peer, PeerStream, framed
from tests.support.roomy import NO_FIELDS
from tests.support.simloop import SimLoop, SimTransport

ZERO_UPDATE = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"  # WINDOW_UPDATE of 0: the connection is at fault


class Line:
    """A server with one method and one connection to it."""

    def __init__(
        self,
        handler: Any,
        kind: Kind = Kind.BIDI_STREAM,
        batched: Any = None,
        **bounds: Any,
    ) -> None:
        self.loop = SimLoop(random.Random(0), late_s=0.0)
        method = Method("/m", "m", kind, NO_FIELDS, None, None, batched)
        dispatcher = SimpleNamespace(
            registry=SimpleNamespace(methods=lambda: [method]), chain=lambda _method: handler
        )
        served: Any = dispatcher
        self.native = NativeTransport(served, self.loop, None, Bounds(**bounds))
        self.native.worker.loop = self.loop
        self.peer = Peer(crossing=True)
        self.peer.hello()
        self.closes = True
        self.transport = SimTransport(
            self.loop, Connection(self.native.worker), self.peer.feed, self._ended
        )
        self.turn()

    def _ended(self) -> None:
        if self.closes:
            self.transport.lose()

    def turn(self, seconds: float = 0.001, takes: int = 10**9) -> None:
        """The caller's bytes arrive, time passes, the server's bytes are taken."""
        while self.peer.out and self.transport.readable():
            self.transport.bring(self.peer.deliver(100_000))
        self.loop.run_until_complete(self.loop.after(seconds))
        self.transport.taken(takes)

    def call(self, *messages: bytes, end: bool = False) -> PeerStream:
        """A call that has begun."""
        headers = [(":method", "POST"), (":scheme", "http"), (":path", "/m")]
        headers += [(":authority", "test"), ("content-type", "application/grpc")]
        stream = self.peer.open([*headers, ("grpc-encoding", "gzip")])
        for message in messages:
            self.peer.data(stream, message)
        if end:
            self.peer.data(stream, b"", end=True)
        return stream


@pytest.fixture
def lines() -> Iterator[Callable[..., Line]]:
    """Makes lines; at the end none has lost an exception, a task or a byte of its accounts."""
    made: list[Line] = []

    def make(*arguments: Any, **options: Any) -> Line:
        made.append(Line(*arguments, **options))
        return made[-1]

    yield make
    for line in made:
        line.transport.lose()
        line.loop.run_until_complete(line.native.stop(0))
        worker = line.native.worker
        assert not line.loop.faults and not line.loop.timers()
        assert not worker.calls.tasks and not worker.connections
        assert worker.received.held == worker.sent.held == 0
        line.loop.close()


class Waits:
    """A handler that waits for its end, and counts."""

    def __init__(self) -> None:
        self.started = self.ended = 0

    async def __call__(self, _call: CallContext, _requests: Any) -> bytes:
        self.started += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.ended += 1
        return b""


def test_a_connection_that_was_ended_is_gone_although_its_caller_stays(lines) -> None:
    line = lines(Waits(), linger_s=1.0)
    line.closes = False
    line.call()
    line.peer.write(ZERO_UPDATE)
    line.turn()
    assert line.transport.eof_at is not None and not line.transport.lost
    line.turn(1.1)
    assert line.transport.lost


@pytest.mark.parametrize("draining", [False, True])
def test_an_error_of_http2_ends_the_connection_at_once_and_is_counted(lines, draining) -> None:
    handler = Waits()
    line = lines(handler)
    line.closes = False
    line.call()
    line.turn()
    if draining:
        line.native.worker.drain(3_600)
        line.turn()
    line.peer.write(ZERO_UPDATE)
    line.turn()
    assert line.transport.eof_at is not None and handler.ended == 1
    line.turn(1.1)
    assert line.native.worker.counters.cut == {"protocol_error": 1}


@pytest.mark.parametrize("open_call", [False, True])
def test_a_caller_that_says_goodbye_is_not_counted(lines, open_call: bool) -> None:
    line = lines(Waits())
    stream = line.call() if open_call else None
    line.turn()
    line.peer.frame(GoAwayFrame(0))
    line.turn()
    assert line.transport.lost is not open_call
    if stream is not None:
        line.peer.reset(stream)
        line.turn()
    assert line.transport.lost
    assert line.native.worker.counters.cut == {}


def test_calls_end_with_their_connection_and_not_after_its_linger(lines) -> None:
    handler = Waits()
    line = lines(handler, linger_s=1.0)
    line.closes = False
    line.call()
    line.turn()
    assert (handler.started, handler.ended) == (1, 0)
    line.peer.write(ZERO_UPDATE)
    line.turn(takes=1)
    assert handler.ended == 1
    for _ in range(5):  # one byte a second is enough to be waited for
        line.turn(0.9, takes=1)
    assert not line.transport.lost


@pytest.mark.parametrize("fault", ["request", "replies"])
def test_a_streamed_handler_is_cancelled_once(lines, fault: str) -> None:
    cleaned: list[str] = []

    async def handler(call: CallContext, requests: Any) -> bytes:
        try:
            async for _ in requests:
                await call.send(b"x" * 100)
        finally:
            await line.loop.after(5.0)  # a second cancellation would end it
            cleaned.append(fault)
        return b""

    line = lines(handler, sent_per_connection=50)
    spoilt = framed(gzip.compress(b"request")[:-1], 1)
    stream = line.call(spoilt if fault == "request" else framed(b"request"))
    line.turn(6.0)
    assert cleaned == [fault]
    assert stream.reset_code == 11 if fault == "replies" else stream.status == 13


def test_a_handler_that_ignored_its_end_does_not_wait_for_another(lines) -> None:
    heard: list[str] = []

    async def handler(call: CallContext, _requests: Any) -> bytes:
        for _ in range(3):
            try:
                await (call.send(b"late") if heard else asyncio.Event().wait())
            except asyncio.CancelledError:
                heard.append("cancelled")
        return b""

    line = lines(handler)
    stream = line.call()
    line.turn()
    line.peer.reset(stream)
    line.turn()
    assert heard == ["cancelled"] * 3 and not line.native.worker.calls.tasks


class Batched:
    """A batched handler that answers what begins with "a", when it may; the others' handler."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self.go = asyncio.Event()
        self.go.set()
        self.alone: list[bytes] = []

    async def many(self, requests: list[bytes]) -> list[bytes | None]:
        self.batches.append(requests)
        await self.go.wait()
        if b"a broken batch" in requests:
            raise ValueError("broken")
        return [request * 2 if request.startswith(b"a") else None for request in requests]

    async def one(self, _call: CallContext, request: bytes) -> bytes:
        self.alone.append(request)
        return b"alone"


def test_calls_of_one_turn_are_one_batch_and_what_it_declines_goes_on_alone(lines) -> None:
    handler = Batched()
    line = lines(handler.one, Kind.UNARY, handler.many)
    streams = [line.call(framed(one), end=True) for one in (b"a1", b"b", b"a2")]
    line.turn()
    assert handler.batches == [[b"a1", b"b", b"a2"]] and handler.alone == [b"b"]
    assert [stream.messages() for stream in streams] == [
        [(False, b"a1a1")], [(False, b"alone")], [(False, b"a2a2")],
    ]  # fmt: skip
    assert [stream.status for stream in streams] == [0, 0, 0]
    assert sum(line.native.worker.calls.batched["m"].counts) == 2


def test_a_call_that_ends_while_its_batch_waits_is_answered_nowhere(lines) -> None:
    handler = Batched()
    handler.go.clear()
    line = lines(handler.one, Kind.UNARY, handler.many)
    gone, declined, stays = [line.call(framed(one), end=True) for one in (b"a", b"b", b"a")]
    line.turn()
    for stream in (gone, declined):
        line.peer.reset(stream)
    line.turn()
    handler.go.set()
    line.turn()
    assert stays.status == 0 and handler.alone == []
    assert sum(line.native.worker.calls.batched["m"].counts) == 1


def test_a_batch_that_fails_leaves_its_calls_to_their_handler(lines) -> None:
    handler = Batched()
    line = lines(handler.one, Kind.UNARY, handler.many)
    streams = [line.call(framed(one), end=True) for one in (b"a", b"a broken batch")]
    line.turn()
    assert [stream.messages() for stream in streams] == [[(False, b"alone")]] * 2


def test_calls_in_batches_count_as_calls_at_work(lines) -> None:
    handler = Batched()
    handler.go.clear()
    line = lines(handler.one, Kind.UNARY, handler.many, calls_max=2)
    streams = [line.call(framed(b"a"), end=True) for _ in range(3)]
    line.turn()
    assert [stream.status for stream in streams] == [None, None, 8]
    line.native.worker.drain(0.0)
    line.turn(0.1)
    assert [stream.status for stream in streams] == [1, 1, 8], "the grace is over"
    handler.go.set()
    line.turn()
