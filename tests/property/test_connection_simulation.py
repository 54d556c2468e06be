"""Connections simulated by seed: the real glue on a loop without sockets, thousands of short lives.

Everything around feedcore_server.transports.native.connection is made up (tests/support/simloop.py)
or scripted by one die: reads of one byte, sockets that take nothing, timers that fire late, callers
that hang up, end without a word, send nonsense or never close, handlers that fail, linger over
their cancellation or ignore it, a stop of the server in the middle. Invariants:

    handlers    every one that starts ends, once; it is cancelled at most once, and in time
    tasks       none is left; none has failed with an exception that nobody saw
    the wire    each frame keeps the rules of HTTP/2 and of gRPC (tests/support/peer.py)
    accounts    zero when the connections are gone
    the end     a connection that the server has ended is gone soon, whatever the peer does

A failure prints its seed; `FEEDCORE_SEED=n` runs that history alone.
"""

from __future__ import annotations

import asyncio
import gzip
import math
import os
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hyperframe.frame import SettingsFrame

from feedcore.errors import NotFound, Overloaded
from feedcore_server.context import CallContext
from feedcore_server.registry import Kind, Method
from feedcore_server.transports.native import Bounds, NativeTransport
from feedcore_server.transports.native.connection import Connection
from tests.support.peer import WINDOW_MAX, Peer, PeerStream, framed
from tests.support.roomy import NO_FIELDS
from tests.support.simloop import SimLoop, SimTransport

LONG = os.environ.get("FEEDCORE_LONG") == "1"
SEED = os.environ.get("FEEDCORE_SEED")
BATCHES, BATCH = (50, 200) if LONG else (8, 50)
LATE_S = 0.3  # a timer is late by at most so much
SLACK_S = 1.0 + 2 * LATE_S  # the sweep looks once a second
ZERO_UPDATE = b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"  # WINDOW_UPDATE of 0: an error of the connection
PACES_S = [0.0] * 6 + [0.01, 0.01, 0.1, 1.0]  # between two things that a caller does
STOP_S = 200.0  # of simulated time for a stop, grace and stubborn handlers included


def bounds_of(dice: random.Random) -> Bounds:
    """Short timers and low bounds, so that each is met."""
    return Bounds(
        request_bytes_max=5_000,
        reply_bytes_max=30_000,
        header_bytes_max=2_000,
        streams_max=dice.choice([2, 5]),
        calls_max=dice.choice([3, 100, 100]),
        stream_window=dice.choice([200, 5_000]),
        connection_window=70_000,
        room_bytes=dice.choice([100, 5_000]),
        sent_per_connection=dice.choice([40_000, 10**7]),
        received_per_connection=dice.choice([7_000, 10**7]),
        socket_write_bytes=dice.choice([100, 3_000, 100_000]),
        connections_max=3,
        keepalive_s=dice.choice([5.0, 60.0]),
        keepalive_timeout_s=2.0,
        age_s=dice.choice([15.0, math.inf]),
        age_grace_s=dice.choice([3.0, math.inf]),
        idle_s=dice.choice([6.0, math.inf]),
        goaway_ack_s=1.0,
        linger_s=1.0,
        opening_s=dice.choice([3.0, 60.0, 60.0]),
        headers_s=3.0,
        request_stall_s=4.0,
        send_stall_s=6.0,
        write_stall_s=4.0,
        ping_interval_s=dice.choice([0.0, 1.0]),
        useless_burst=dice.choice([50.0, 10_000.0]),
        reset_burst=dice.choice([5.0, 10_000.0]),
    )


class Handlers:
    """The service: what a handler does is thrown when it starts."""

    def __init__(self, loop: SimLoop, dice: random.Random) -> None:
        self.loop = loop
        self.dice = dice
        self.started = 0
        self.ended = 0
        self.breaches: list[str] = []  # an exception would only become a status
        self.registry = SimpleNamespace(methods=self._methods)

    def _methods(self) -> Iterator[Method]:
        for kind in Kind:
            yield Method(f"/{kind.value}", kind.value, kind, NO_FIELDS, None)
        yield Method("/fast", "fast", Kind.UNARY, NO_FIELDS, None, self._fast)

    def _fast(self, request: bytes) -> bytes | None:
        fate = self.dice.random()
        if fate < 0.1:
            raise KeyError("a fast handler's bug")
        return None if fate < 0.3 else request

    def chain(self, method: Method) -> Any:
        """As the dispatcher has it."""

        async def handle(call: CallContext, request: Any) -> bytes:
            self.started += 1
            life = Life(self, call)
            try:
                return await life.run(method.kind, request)
            finally:
                self.ended += 1

        return handle


class Life:
    """One handler's."""

    def __init__(self, handlers: Handlers, call: CallContext) -> None:
        self.loop, self.dice, self.call = handlers.loop, handlers.dice, call
        self.breaches = handlers.breaches
        self.gives_up = False  # by a CancelledError of its own making

    async def run(self, kind: Kind, request: Any) -> bytes:
        fate, task = self.dice.random(), asyncio.current_task()
        assert task is not None
        try:
            return await self._work(kind, request)
        except asyncio.CancelledError:
            if fate < 0.3 and not self.gives_up:
                await self._clean_up(task)
            if fate < 0.05:
                return b"ignores it"
            raise

    async def _clean_up(self, task: asyncio.Task[Any]) -> None:
        before = task.cancelling()
        try:
            await asyncio.sleep(self.dice.choice([0.0, 0.5, 3.0]))
        finally:
            if task.cancelling() > before:
                self.breaches.append(f"{self.call.method}: cancelled again")

    async def _work(self, kind: Kind, request: Any) -> bytes:
        dice, call = self.dice, self.call
        call.compress = dice.random() < 0.2
        if dice.random() < 0.2:
            call.initial.append(("key", "value"))
            call.trailers.append(("key-bin", b"\0value"))
        if kind is not Kind.UNARY:
            await self._read(request)
        if kind.one_reply:
            await self._sleep()
        else:
            for _ in range(dice.randrange(6)):
                await self._sleep()
                await call.send(bytes(dice.choice([0, 10, 1_000, 20_000])))
        self._fail()
        return bytes(dice.choice([0, 10, 1_000, 29_000])) if kind.one_reply else b""

    async def _read(self, request: Any) -> None:
        most = self.dice.choice([0, 1, 100])
        if most == 0:
            return
        got = 0
        async for _ in request:
            got += 1
            if got == most:
                return
            if self.dice.random() < 0.3:
                await self._sleep()

    async def _sleep(self) -> None:
        await asyncio.sleep(self.dice.choice([0.0, 0.0, 0.1, 1.0, 8.0]))
        late_s = self.loop.time() - (self.call.deadline_s or math.inf)
        if late_s >= SLACK_S:
            self.breaches.append(f"{self.call.method}: works on {late_s} s after its deadline")

    def _fail(self) -> None:
        fate = self.dice.random()
        if fate < 0.04:
            raise NotFound("nothing there")
        if fate < 0.08:
            raise KeyError("a bug")
        if fate < 0.10:
            self.gives_up = True
            raise asyncio.CancelledError
        if fate < 0.12:
            self.call.trailers.append(("BAD", "name"))
        if fate < 0.14:
            raise Overloaded("everything", "1", 5)
        if fate < 0.15:
            self.call.initial.append(("late", None))  # type: ignore[arg-type]


class Caller:
    """One connection's other side."""

    def __init__(self, history: History) -> None:
        self.history, self.dice, self.loop = history, history.dice, history.loop
        self.peer = Peer(crossing=True)
        self.peer.answers_settings = self.dice.random() < 0.95
        self.peer.answers_pings = self.dice.random() < 0.9
        self.reads = True
        self.closes = self.dice.random() < 0.8  # when the server has ended
        self.quiet = False  # says nothing more, without closing
        self.steps = self.dice.randrange(5, 80)
        self.plans: dict[int, bytearray] = {}
        self.verdict_at: float | None = None  # when the server had decided to end
        room = self.dice.choice([0, 100, 65_535, 1_000_000])
        self.peer.hello({SettingsFrame.INITIAL_WINDOW_SIZE: room})
        self.served = Connection(history.native.worker)
        self.transport = SimTransport(self.loop, self.served, self.peer.feed, self._ended)
        self._soon(self._step)
        self._soon(self._move)

    def _soon(self, action: Any) -> None:
        self.loop.call_later(self.dice.choice(PACES_S), action)

    def _ended(self) -> None:
        """The server's end of file: an honest peer closes."""
        if self.closes and not self.transport.lost:
            self.loop.call_soon(self.transport.lose)

    # --- bytes, at their own pace -----------------------------------------------------------------
    def _move(self) -> None:
        transport, dice = self.transport, self.dice
        if transport.lost:
            return
        self._check_end()
        if dice.random() < 0.1:
            self.reads = not self.reads
        if self.reads or self.steps <= 0:
            transport.taken(dice.choice([1, 7, 100, 5_000, 10**6]))
        if self.peer.out and transport.readable():
            count = dice.choice([1, 1, 9, 50, 1_000, 10**6])
            for _ in range(dice.choice([1, 5, 40])):
                if self.peer.out and transport.readable():
                    transport.bring(self.peer.deliver(min(count, 100_000)))
        self._soon(self._move)

    def _check_end(self) -> None:
        transport, bounds = self.transport, self.history.bounds
        decided = self.served.session.verdict is not None or self.served.session.is_over()
        if decided and transport.full_at is None:
            self.verdict_at = self.verdict_at or self.loop.time()
            waited = self.loop.time() - self.verdict_at
            assert transport.is_closing() or transport.eof_at or waited < SLACK_S, "no end"
        if transport.eof_at is not None:
            since = max(transport.eof_at, transport.taken_at)
            waited = self.loop.time() - since
            assert waited < 2 * bounds.linger_s + SLACK_S, f"lingers for {waited} s"
        if transport.full_at is not None:
            waited = self.loop.time() - max(transport.full_at, transport.taken_at)
            assert waited < 2 * bounds.write_stall_s + SLACK_S, f"stalled for {waited} s"

    # --- what it says -----------------------------------------------------------------------------
    def _step(self) -> None:
        if self.transport.lost or self.quiet:
            return
        self.steps -= 1
        if self.steps <= 0:
            self._leave()
            return
        actions = [self._open] * 4 + [self._write] * 6 + [self._give_room] * 3
        actions += [
            self._write,
            self._hang_up,
            self._ping,
            self._settings,
            self._speak_nonsense,
            self._sleep,
        ]
        self.dice.choice(actions)()
        self._soon(self._step)

    def _leave(self) -> None:
        fate = self.dice.random()
        if fate < 0.3:
            self.transport.lose(ConnectionResetError(104, "reset by peer"))
            self.transport.write_eof_fails = True
        elif fate < 0.6:
            self.transport.bring_eof()
        self.quiet = True  # and else it just sits there

    def _open(self) -> None:
        if not self.peer.may_open():
            return
        path = self.dice.choice([*(kind.value for kind in Kind)] * 3 + ["fast", "fast", "nobody"])
        headers = [(":method", "POST"), (":scheme", "http"), (":path", "/" + path)]
        headers += [(":authority", "test"), ("content-type", "application/grpc")]
        headers += [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity,gzip")]
        if self.dice.random() < 0.3:
            headers.append(("grpc-timeout", self.dice.choice(["0m", "10m", "1S", "5S", "1H"])))
        if self.dice.random() < 0.03:
            headers.append(("filler", "x" * 3_000))
        # Rarely: the library counts each read within a CONTINUATION as one more of them.
        pieces = self.dice.choice([1] * 30 + [3])
        stream = self.peer.open(headers, self.dice.random() < 0.05, pieces=pieces)
        plan = bytearray()
        for _ in range(self.dice.choice([0] + [1] * 8 + [3, 3])):
            body = bytes(self.dice.choice([0, 3, 100, 3_000]))
            zipped = self.dice.random() < 0.2
            plan += framed(gzip.compress(body), 1) if zipped else framed(body)
        if self.dice.random() < 0.05:
            plan += self.dice.randbytes(7)
        self.plans[stream.number] = plan
        if self.dice.random() < 0.7:
            self._write_some(stream, 10**6)

    def _pick(self) -> PeerStream | None:
        found = [stream for stream in self.peer.streams.values() if not stream.closed]
        return self.dice.choice(found) if found else None

    def _write(self) -> None:
        stream = self._pick()
        if stream is not None and not stream.half_closed:
            self._write_some(stream, self.dice.choice([1, 4, 5, 200, 10**6]))

    def _write_some(self, stream: PeerStream, count: int) -> None:
        plan = self.plans[stream.number]
        piece = bytes(plan[: min(count, self.peer.may_send(stream), 16_000)])
        if not stream.half_closed:
            del plan[: len(piece)]
            self.peer.data(stream, piece, end=not plan and self.dice.random() < 0.8)

    def _give_room(self) -> None:
        count = self.dice.choice([1, 1_000, 100_000])
        stream = self._pick()
        if stream is not None and stream.room < WINDOW_MAX // 2:
            self.peer.give_room(stream, count)
        if self.peer.room < WINDOW_MAX // 2:
            self.peer.give_room(None, count)

    def _hang_up(self) -> None:
        stream = self._pick()
        if stream is not None:
            self.peer.reset(stream)

    def _ping(self) -> None:
        self.peer.ping()

    def _settings(self) -> None:
        self.peer.settings({SettingsFrame.INITIAL_WINDOW_SIZE: self.dice.choice([0, 50, 70_000])})

    def _speak_nonsense(self) -> None:
        fate = self.dice.random()
        if fate < 0.1:
            self.peer.write(self.dice.randbytes(self.dice.choice([1, 9, 30])))
        elif fate < 0.2:
            self.peer.write(ZERO_UPDATE)

    def _sleep(self) -> None:
        if self.dice.random() < 0.3:
            self.quiet = self.dice.random() < 0.3
            self.loop.call_later(self.dice.choice([3.0, 12.0]), self._step)


class History:
    """A few connections, from the start of a server to its stop."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.loop = SimLoop(self.dice, LATE_S)
        self.bounds = bounds_of(self.dice)
        self.handlers = Handlers(self.loop, self.dice)
        served: Any = self.handlers
        self.native = NativeTransport(served, self.loop, None, self.bounds)
        self.native.worker.loop = self.loop
        self.native.worker.spread = self.dice.random
        self.callers: list[Caller] = []

    def run(self) -> None:
        try:
            self.loop.run_until_complete(asyncio.wait_for(self._live(), 10_000))
            self._check()
        finally:
            self.loop.close()

    async def _live(self) -> None:
        for _ in range(self.dice.choice([1, 1, 2, 4])):
            self.callers.append(Caller(self))
            await asyncio.sleep(self.dice.choice([0.0, 0.5, 4.0]))
        await asyncio.sleep(self.dice.choice([1.0, 10.0, 30.0]))
        began = self.loop.time()
        await self.native.stop(self.dice.choice([0.0, 1.0, 20.0]))
        assert self.loop.time() - began < STOP_S
        # Callers notice that they are alone; handlers that ignored their end come to it.
        await asyncio.sleep(60.0)

    def _check(self) -> None:
        worker = self.native.worker
        assert not self.loop.faults, self.loop.faults
        assert not self.handlers.breaches, self.handlers.breaches
        assert self.handlers.started == self.handlers.ended
        assert not worker.calls.tasks and not worker.connections and not worker.hosts
        assert worker.received.held == 0 and worker.sent.held == 0
        for caller in self.callers:
            assert caller.transport.lost
        assert not self.loop.timers(), self.loop.timers()


def replay(seed: int) -> None:
    """One history. A failure says which."""
    try:
        History(seed).run()
    except BaseException as error:
        error.add_note(f"seed {seed}: FEEDCORE_SEED={seed} runs this history alone")
        raise


@pytest.mark.skipif(SEED is not None, reason="FEEDCORE_SEED asks for one history")
@pytest.mark.parametrize("batch", range(BATCHES))
def test_histories(batch: int) -> None:
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        replay(seed)


@pytest.mark.skipif(SEED is None, reason="FEEDCORE_SEED=n runs one history")
def test_one_history() -> None:
    replay(int(SEED or 0))
