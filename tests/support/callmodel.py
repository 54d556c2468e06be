"""A model of a session: what must have come of every call, worked out from what was done to it.

`Model` drives one feedcore._native.http2.h2.Session with a Peer and plays the part of the
transport's glue: it starts handlers on CALL events and ends them. Each call keeps its *cause*:
what ended it first, ("status", code) or ("reset", code) or ("gone", 0) when the caller hung up;
whatever comes later must change nothing. `check` compares after every step, `settle` lets
everything end and compares what the caller has seen.

Not modelled: guards against floods; their bounds are set out of reach.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from feedcore._native.http2.h2 import EVENT_CALL, EVENT_CLOSED, EVENT_MESSAGE, EVENT_ROOM, Session
from feedcore._native.http2.h2stream import Account, CallableFast, Row, Rules
from feedcore_server.transports.native.bounds import Bounds
from tests.support.modelcall import (
    BAD_REQUESTS,
    CANCELLED,
    DECLINED,
    ENDLESS,
    FAST,
    FULL,
    INTERNAL,
    KINDS,
    LATE,
    REQUEST_MAX,
    RESET_CALM,
    RESET_CANCEL,
    RESET_REFUSED,
    START_S,
    UNIMPLEMENTED,
    ModelCall,
    gzip_of,
    unsqueezed,
)
from tests.support.peer import FRAME_MAX, WINDOW_MAX, Header, Peer, split_messages


def row_of(kind: str) -> Row:
    """The row of a method whose replies the test makes."""
    return Row(kind, None, *KINDS[kind])


def echo(request: bytes) -> bytes | None:
    """The fast method."""
    return None if request.startswith(DECLINED) else request


class Model:
    """See the module."""

    def __init__(
        self,
        bounds: Bounds | None = None,
        *,
        stall_s: float = math.inf,
        peer_settings: dict[int, int] | None = None,
    ) -> None:
        never = {
            name: ENDLESS
            for name in Bounds.__dataclass_fields__
            if name.endswith(("_burst", "_rate")) or name == "outbound_frames_max"
        }
        self.bounds = replace(
            bounds or Bounds(streams_max=6, stream_window=700, room_bytes=300),
            request_bytes_max=REQUEST_MAX,
            header_bytes_max=8_000,
            request_stall_s=stall_s,
            stream_idle_s=stall_s,
            send_stall_s=stall_s,
            ping_interval_s=0.0,
            **never,
        )
        self.now = START_S
        self.processes = Account(ENDLESS), Account(ENDLESS)
        self.received = Account(self.bounds.received_per_connection, self.processes[0])
        self.sent = Account(self.bounds.sent_per_connection, self.processes[1])
        methods = {b"/" + kind.encode(): row_of(kind) for kind in KINDS}
        methods[b"/" + FAST.encode()] = Row(FAST, None, True, True, CallableFast(echo))
        self.session = Session(Rules(self.bounds), methods, self.received, self.sent, self.now)
        self.peer = Peer()
        self.peer.hello(peer_settings)
        self.calls: list[ModelCall] = []
        self.running = 0
        self.over = False
        self.pulled_dry = False
        self.pull()

    # --- the caller ------------------------------------------------------------------------------
    def open(
        self,
        kind: str,
        *,
        timeout: str = "",
        gzip_requests: bool = False,
        bad: str = "",
        end: bool = False,
        pieces: int = 1,
    ) -> ModelCall:
        """A call. `timeout` as on the wire; `bad` is one of BAD_REQUESTS."""
        headers: dict[str, str] = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/" + kind,
            ":authority": "test",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        call = ModelCall(kind, gzip=gzip_requests)
        if gzip_requests:
            headers |= {"grpc-encoding": "gzip"}
        headers["grpc-accept-encoding"] = "identity,gzip"
        if timeout:
            headers["grpc-timeout"] = timeout
            unit = {"S": 1.0, "m": 1e-3, "H": 3_600.0, "n": 1e-9}[timeout[-1]]
            call.timeout_s = int(timeout[:-1]) * unit
            call.refusal = LATE if call.timeout_s == 0 else None
        if bad:
            changed, call.refusal = BAD_REQUESTS[bad]
            headers |= changed
        listed: list[Header] = list(headers.items())
        self.calls.append(call)

        def begins() -> None:
            self._begins(call)
            if end:
                self._ends(call)

        def comes() -> None:
            call.coming, call.touched = True, self.now

        call.peer = self.peer.open(listed, end, begins, pieces, comes)
        return call

    def write(self, call: ModelCall, count: int, end: bool = False, padding: int = 0) -> None:
        """One DATA frame with up to `count` bytes of what is planned."""
        allowed = min(self.peer.may_send(call.peer), FRAME_MAX)
        padding = min(padding, allowed)
        piece = bytes(call.plan[: max(0, min(count, allowed - padding))])
        del call.plan[: len(piece)]
        end = end and not call.plan

        def seen() -> None:
            if end:
                self._ends(call)

        def arrives(part: bytes) -> None:
            self._arrives(call, part)

        self.peer.data(call.peer, piece, end, padding, seen, arrives)

    def hang_up(self, call: ModelCall, code: int = RESET_CANCEL) -> None:
        """RST_STREAM of the caller."""
        call.plan.clear()

        def seen() -> None:
            if call.closed:
                return
            if call.cause is None:
                call.cause = ("gone", 0)
            call.closed = True

        self.peer.reset(call.peer, code, seen)

    # --- what the session makes of it ------------------------------------------------------------
    def _begins(self, call: ModelCall) -> None:
        call.begun = True
        if call.refusal is not None:
            call.cause = ("status", call.refusal)
        elif self.running >= self.bounds.streams_max:
            call.cause = ("reset", RESET_REFUSED)
        else:
            call.deadline = self.now + call.timeout_s

    def _arrives(self, call: ModelCall, piece: bytes) -> None:
        if not call.closed:
            call.touched = self.now
        if call.cause is not None or call.closed:
            return
        call.body += piece
        at = 0
        while len(call.body) - at >= 5 and call.cause is None:
            flag, length = struct.unpack_from(">BI", call.body, at)
            if flag > 1:
                self._abort(call, INTERNAL)
            elif length > self.bounds.request_bytes_max:
                self._abort(call, FULL)
            elif len(call.body) - at - 5 < length:
                break
            elif flag == 1 and not call.gzip:
                self._abort(call, INTERNAL)
            elif call.one_request and call.requests:
                self._abort(call, UNIMPLEMENTED)
            else:
                call.requests.append((flag == 1, bytes(call.body[at + 5 : at + 5 + length])))
                at += 5 + length
        del call.body[:at]

    def _ends(self, call: ModelCall) -> None:
        call.whole = True
        if call.cause is not None or call.closed:
            return
        if call.body:
            self._abort(call, INTERNAL)
        elif call.one_request and not call.requests:
            self._abort(call, UNIMPLEMENTED)
        elif call.kind == FAST:
            flag, request = call.requests[0]
            plain, fault = unsqueezed(request) if flag else (request, 0)
            if fault:
                self._abort(call, fault)
            elif not plain.startswith(DECLINED) and len(plain) + 5 > self._room():
                call.cause = ("reset", RESET_CALM)
            elif not plain.startswith(DECLINED):
                self._reply(call, False, plain)
                self._decide(call, 0)

    def _abort(self, call: ModelCall, code: int) -> None:
        """From outside the handler."""
        if call.cause is None:
            call.cause = ("reset", RESET_CANCEL) if call.queued else ("status", code)

    def _decide(self, call: ModelCall, code: int) -> None:
        if call.cause is None:
            call.cause, call.by_handler = ("status", code), True

    def _reply(self, call: ModelCall, squeezed: bool, message: bytes) -> None:
        if not call.queued:
            call.touched = 0.0  # the handler's side has no clock: the next sweep sets it
        call.replies.append((squeezed, message))
        call.sent += len(gzip_of(message) if squeezed else message) + 5

    def _room(self) -> int:
        """Bytes of replies that may still be queued."""
        return self.bounds.sent_per_connection - sum(call.queued for call in self.calls)

    # --- turns -----------------------------------------------------------------------------------
    def deliver(self, count: int | None = None) -> None:
        """Bytes of the caller reach the session."""
        piece = self.peer.deliver(count)
        self.pulled_dry = False
        if not self.over:
            self.handle(self.session.receive(piece, len(piece), self.now))
        assert self.session.verdict is None, self.session.verdict
        self.check()

    def pull(self) -> None:
        """Everything that is due goes to the caller."""
        while not self.over:
            data = self.session.pull(self.now)
            self.handle(self.session.take_events())
            self.peer.feed(data)
            self._see()
            if data is None:
                break
        self.pulled_dry = True

    def _see(self) -> None:
        for call in self.calls:
            peer = call.peer
            if len(peer.data) != call.seen:
                call.seen, call.touched = len(peer.data), self.now
            if peer.reset_code is not None or (peer.ended and call.whole):
                call.closed = True

    def sweep(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        for call in self.calls:
            if call.begun and call.deadline <= self.now:
                if call.cause is not None and call.queued:  # answered, and nobody reads it
                    call.cause, call.by_handler = ("reset", RESET_CANCEL), False
                self._abort(call, LATE)
            self._stalls(call)
        self.pulled_dry = False
        events = self.session.sweep(self.now)
        for call in self.calls:
            # A stream's touch may be newer than the model knows: writing nothing is a touch, too.
            if call.stream is not None and call.stream.ended and self._owes(call):
                self._abort(call, CANCELLED)
        self.handle(events)
        self.check()

    def _stalls(self, call: ModelCall) -> None:
        """Cuts off a caller that owes bytes, or room for them, for too long."""
        call.touched = call.touched or self.now
        if call.closed or not call.begun or self.now - call.touched <= self.bounds.send_stall_s:
            return
        if call.queued:  # whether or not its status is decided: the replies before it do not go out
            call.cause, call.by_handler = ("reset", RESET_CANCEL), False
        elif call.stream is None and self._owes(call):
            self._abort(call, CANCELLED)

    def _owes(self, call: ModelCall) -> bool:
        """Whether bytes of a request are due and late."""
        held_back = call.taken < len(call.requests)  # by the handler, who has yet to take them
        bound_s = self.bounds.request_stall_s
        due = call.one_request or not held_back
        if not call.one_request and call.requests and not call.body:
            bound_s, due = self.bounds.stream_idle_s, due and call.waits
        late = self.now - call.touched > bound_s
        return late and due and call.begun and not call.whole and call.cause is None

    def handle(self, events: list[tuple[int, Any]] | None) -> None:
        """As the connection does."""
        for kind, stream in events or []:
            assert kind in (EVENT_CALL, EVENT_MESSAGE, EVENT_ROOM, EVENT_CLOSED), stream
            call = self.by_number(stream.stream_id)
            if kind == EVENT_CALL:
                self._start(call, stream)
                continue
            assert call.stream is stream
            if kind == EVENT_CLOSED:
                call.told += 1
                assert call.owned and call.told == 1, (call, "told of its end without need")
                assert not call.by_handler, (call, "told of an end of its own making")
                call.waits = call.waits_room = False
            elif stream.owner is None:
                assert call.by_handler, (call, "woken without a handler")  # it did not wait
            elif kind == EVENT_MESSAGE:
                assert call.waits and not stream.wants_message, (call, "woken without need")
                call.waits = False
            else:
                assert call.waits_room and not stream.wants_room, (call, "woken without need")
                call.waits_room = False

    def by_number(self, number: int) -> ModelCall:
        """The call on that stream."""
        return next(call for call in self.calls if call.peer.number == number)

    def _start(self, call: ModelCall, stream: Any) -> None:
        assert call.stream is None, (call, "a second CALL event")
        assert call.begun and (call.whole or not call.one_request), (call, "begins too early")
        call.stream = stream
        if call.cause is not None:
            assert stream.ended or stream.closed, call
            return
        assert not (stream.ended or stream.closed), call
        if call.one_request:
            flag, request = call.requests[0]
            plain, fault = unsqueezed(request) if flag else (request, 0)
            if fault:
                self._abort(call, fault)
            assert stream.take_request() == (None if fault else plain)
            assert stream.request_compressed == flag
            if fault:
                return
        stream.owner, stream.begun, call.owned = object(), True, True
        self.session.started()
        self.running += 1

    # --- handlers --------------------------------------------------------------------------------
    def take(self, call: ModelCall) -> None:
        """The handler asks for the next message, and waits if there is none."""
        stream, live = call.stream, call.cause is None
        assert stream.has_message() == (call.taken < len(call.requests) and not call.closed)
        message = stream.take()
        self.pulled_dry = False
        if call.closed or call.taken >= len(call.requests):
            assert message is None
            assert stream.ended == (not live or call.closed)
            if live:
                assert stream.request_done == call.whole
                if not call.whole:
                    stream.wants_message = call.waits = True
            return
        flag, request = call.requests[call.taken]
        call.taken += 1
        call.touched = 0.0  # the handler's side has no clock: the next sweep sets it
        plain, fault = unsqueezed(request) if flag else (request, 0)
        if fault:
            self._abort(call, fault)
        assert message == (None if fault else plain)
        assert stream.request_compressed == flag
        self.handle(self.session.take_events())

    def send(self, call: ModelCall, message: bytes, squeezed: bool = False) -> None:
        """The handler queues a reply of a stream, and waits for room if there is none."""
        stream, live = call.stream, call.cause is None and not call.closed
        if live and call.zips is None:
            call.zips = squeezed  # the headers say so, once
        wants_gzip = bool(squeezed and call.zips)
        room = self._room()
        went = stream.send(message, squeezed, [])
        self.pulled_dry = False
        size = len(gzip_of(message)) if wants_gzip else len(message)
        if not live:
            assert not went
        elif size + 5 > room:
            assert not went
            call.cause = ("reset", RESET_CALM)
        else:
            assert went
            self._reply(call, wants_gzip, message)
            if stream.queued > self.bounds.room_bytes:
                stream.wants_room = call.waits_room = True
        self.handle(self.session.take_events())

    def reply(self, call: ModelCall, message: bytes, squeezed: bool, pairs: list[Any]) -> None:
        """The handler's one reply, with metadata before and after it; then it is done."""
        live = call.cause is None and not call.closed
        room = self._room()
        size = len(gzip_of(message)) if squeezed else len(message)
        call.stream.reply(message, squeezed, pairs, pairs)
        self.pulled_dry = False
        if live and size + 5 > room:
            call.cause = ("reset", RESET_CALM)
        elif live:
            self._reply(call, squeezed, message)
            self._decide(call, 0)
        self.handle(self.session.take_events())
        self.end(call)

    def finish(self, call: ModelCall, code: int, message: str, pairs: list[Any]) -> None:
        """The handler's status; then it is done."""
        live = call.cause is None and not call.closed
        assert call.stream.finish(code, message, pairs, []) == live
        self.pulled_dry = False
        self._decide(call, code)
        self.handle(self.session.take_events())
        self.end(call)

    def end(self, call: ModelCall) -> None:
        """The handler is done, as the glue says it: it gives up the call."""
        assert call.cause is not None or call.closed
        call.stream.owner = None
        call.owned = call.waits = call.waits_room = False
        self.session.ended()
        self.running -= 1

    # --- comparing -------------------------------------------------------------------------------
    def check(self) -> None:
        """What must be so at any time."""
        session = self.session
        live = [call for call in self.calls if call.begun and not call.closed]
        if not self.over:
            coming = [call for call in self.calls if call.coming and not call.closed]
            assert session.open_calls() == len(coming), "open calls"
            assert session.running == self.running
            assert self.sent.held == sum(call.queued for call in live), "bytes of replies"
            for call in live:
                if call.cause is None:
                    assert session.next_due <= max(call.deadline, self.now), (call, "no timer")
            if any(call.cause is None for call in live):
                assert session.next_due <= self.now + 1.0, "nobody looks for stalls"
        for account, process in zip((self.received, self.sent), self.processes, strict=True):
            assert 0 <= account.held <= account.bound
            assert account.held == process.held
        if not live:
            assert self.received.held == 0 and self.sent.held == 0
        for call in self.calls:
            self._check_call(call)

    def _check_call(self, call: ModelCall) -> None:
        if call.owned and call.cause is not None and not call.by_handler:
            assert call.told == 1, (call, "was not told of its end")
        if call.stream is None and call.begun and call.cause is None and not call.closed:
            assert call.one_request and not call.whole, (call, "no CALL event")
        if call.waits:
            waiting = call.taken >= len(call.requests) and not call.whole
            assert waiting and call.cause is None, (call, "was not woken")
        if call.waits_room and call.cause is None and self.pulled_dry:
            assert call.queued > self.bounds.room_bytes // 2, (call, "was not woken for room")
        if self.pulled_dry and not call.closed:
            # A status waits for nothing but the replies before it.
            status_due = call.begun and call.cause is not None and call.cause[0] == "status"
            assert not (status_due and call.queued == 0 and not call.peer.ended), (call, "late")

    def settle(self) -> None:
        """Everything comes to its end: the caller reads and sends all, handlers finish."""
        for _ in range(1_000):
            before = self._progress()
            for call in self.calls:
                if not call.peer.closed and not call.peer.half_closed:
                    self.write(call, ENDLESS, end=True)
                if not call.peer.closed and call.peer.room < WINDOW_MAX // 4:
                    self.peer.give_room(call.peer, WINDOW_MAX // 4)
            if self.peer.room < WINDOW_MAX // 4:
                self.peer.give_room(None, WINDOW_MAX // 4)
            self.deliver()
            self.pull()
            for call in self.calls:
                self._let_finish(call)
            self.pull()
            if self._progress() == before and not self.peer.out:
                if not self._gives_up():
                    break
        self.check()
        assert self.session.open_calls() == 0 and self.running == 0
        for call in self.calls:
            self.check_outcome(call)

    def _gives_up(self) -> bool:
        """Bytes after the one message of a unary call get no window, rightly: the caller ends."""
        stuck = [call for call in self.calls if call.plan and not call.peer.closed]
        for call in stuck:
            assert call.one_request and call.requests, (call, "no window for a request")
            call.plan.clear()
        return bool(stuck)

    def _progress(self) -> tuple[Any, ...]:
        return (
            sum(len(call.peer.data) + call.taken + call.told for call in self.calls),
            sum(len(call.plan) + call.peer.closed + call.owned for call in self.calls),
            sum(call.peer.window for call in self.calls) + self.peer.window,
            self.peer.acks_seen,
        )

    def _let_finish(self, call: ModelCall) -> None:
        if not call.owned:
            return
        if call.cause is not None or call.closed:
            self.end(call)
            return
        while not call.one_request and call.cause is None and call.taken < len(call.requests):
            self.take(call)
        if call.cause is None and (call.whole or call.peer.was_reset):
            if call.one_reply:
                self.reply(call, b"settled", False, [])
            else:
                self.finish(call, 0, "", [])

    def check_outcome(self, call: ModelCall) -> None:
        """What the caller has seen is what the cause says, once."""
        peer, cause = call.peer, call.cause
        if peer.was_reset and not (peer.ended or peer.reset_code is not None):
            return  # it hung up before anything was decided, or before it could go out
        seen = ("status", peer.status) if peer.ended else ("reset", peer.reset_code)
        assert seen == cause, (call, seen)
        replies = split_messages(bytes(peer.data))
        plain = [(flag, gzip.decompress(body) if flag else body) for flag, body in replies[0]]
        if cause is not None and cause[0] == "status":
            assert (plain, replies[1]) == (call.replies, b""), (call, "replies before the status")
        assert plain == call.replies[: len(plain)], (call, "replies whole and in order")

    def close(self) -> None:
        """The connection is gone: every call ends, and nothing is held."""
        for call in self.calls:
            if call.coming and not call.closed:
                if call.cause is None:
                    call.cause = ("gone", 0)
                call.closed = True
        self.over = True
        self.handle(self.session.close())
        self.check()
        assert self.session.open_calls() == 0
        assert self.session.is_over() and self.session.pull(self.now) is None
        assert self.session.close() is None and self.session.take_events() is None
        for call in self.calls:
            if call.owned:
                self._use_after_close(call)
                self.end(call)
        assert self.session.running == 0

    def _use_after_close(self, call: ModelCall) -> None:
        """A handler that did not notice changes nothing."""
        stream: Any = call.stream
        late: list[Callable[[], Any]] = [
            lambda: stream.send(b"late", False, []),
            lambda: stream.reply(b"late", False, [], []),
            lambda: stream.finish(0, "", [], []),
            lambda: stream.take(),
            lambda: stream.abort(1, "late"),
            lambda: stream.reset(1),
        ]
        assert not any(action() for action in late)
        assert isinstance(stream.metadata(), tuple)
        assert self.session.take_events() is None
