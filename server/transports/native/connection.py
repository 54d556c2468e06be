"""One connection: an asyncio protocol around a session, no more than turns of reading and writing.

A turn: the loop reads into the worker's one buffer; the session takes the bytes, answering fast
calls at once; events start, wake and end handlers; then everything that is due is written at once.
Handlers that end between turns ask for one more write (`flush_soon`), one for all of them.

Back-pressure: while the socket takes nothing (pause_writing) the session is not asked for frames,
and nothing is read either, so that a peer which does not read cannot make us queue answers. A peer
that does so for write_stall_s is cut off. Invariants: the worker's buffer holds nothing between two
turns; one timer a connection, armed for the earliest thing that is due. Not for: what is due
(lifecycle), which calls there are (session), handlers (calls).
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

from feedcore._native.http2.h2 import (
    EVENT_CALL,
    EVENT_CLOSED,
    EVENT_FAST_FAILED,
    EVENT_FAULT,
    GOAWAY_INTERNAL,
    Session,
)
from feedcore._native.http2.h2stream import Account, Stream
from feedcore_server.context import CallContext
from feedcore_server.transports.native.lifecycle import GRACE_OVER, Lifecycle, State
from feedcore_server.transports.native.tls import identity_of

if TYPE_CHECKING:
    from feedcore_server.transports.native.transport import Worker

LATE_S = 0.05  # a timer that fires so late says nothing about the peer


class Connection(asyncio.BufferedProtocol):
    """See the module. `worker` is what all connections of a process share."""

    __slots__ = (
        "_armed",
        "_due",
        "_flush_due",
        "_identity",
        "_lifecycle",
        "_looked_late",
        "_over",
        "_paused",
        "_peer",
        "_stall_until",
        "_transport",
        "_unsent",
        "_worker",
        "host",
        "loop",
        "session",
        "waiting",
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.loop = worker.loop
        self._transport: Any = None
        self._armed: asyncio.TimerHandle | None = None
        self._due = math.inf
        self._flush_due = False
        self._looked_late = False
        self._paused = False
        self._over = False
        self._stall_until = math.inf  # while paused: when a socket that takes nothing is given up
        self._unsent = 0  # bytes the socket had still to take when that was last looked at
        self.waiting = 0  # streams that wait (module waiting)
        self.host = ""
        self._peer = ""
        self._identity = ""

    # --- asyncio's side -------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins the session; closes at once what must not be served."""
        worker, bounds, now = self._worker, self._worker.bounds, self._worker.now()
        self._transport = transport
        self.host, self._peer = peer_of(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self._identity = identity_of(tls)
        self.session = Session(
            worker.rules,
            worker.methods,
            Account(bounds.received_per_connection, worker.received, bounds.reserve_bytes),
            Account(bounds.sent_per_connection, worker.sent, bounds.reserve_bytes),
            now,
        )
        self.session.shed_pairs = worker.shed_pairs
        self._lifecycle = Lifecycle(self.session, bounds, now, worker.spread())
        refusal = worker.admit(self)
        if not refusal and tls is not None and tls.selected_alpn_protocol() != "h2":
            refusal = "alpn_not_h2"
        if refusal:
            worker.counters.cut_off(refusal)
            self._over = True
            self._transport.abort() if tls is None else self._transport.close()
            return
        self._transport.set_write_buffer_limits(high=bounds.socket_write_bytes)
        if worker.draining:
            self.drain(worker.drain_grace_s())
        self._flush()
        self._arm()

    def get_buffer(self, _size_hint: int) -> Any:
        """The worker's buffer."""
        return self._worker.read_buffer

    def buffer_updated(self, count: int) -> None:
        """One turn."""
        if self._over:  # what a refused peer sent with its handshake, or one that is sent away
            return
        session = self.session
        if count == len(self._worker.read_buffer):
            # There is more: others first. The loop would go on reading here, up to 32 times.
            self._transport.pause_reading()
            self.loop.call_soon(self._read_on)
        now = self._worker.now()
        worker = self._worker
        shedding = worker.pressure.shedding(now, session.last_read)
        session.shed = worker.shed_text if shedding else None
        events = session.receive(worker.read_buffer, count, now)
        if events is not None:
            self._handle(events)
        self._flush()
        if session.next_due < self._due:
            self._arm()

    def _read_on(self) -> None:
        if not (self._paused or self._over):
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The peer will send no more: its open calls can still be answered, but gRPC clients that
        half-close are gone."""
        return False

    def connection_lost(self, _error: Exception | None) -> None:
        """Every call that is open ends here."""
        self._over = True
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        if self.session.verdict is not None:
            self._worker.counters.cut_off(self.session.verdict)
        events = self.session.close()
        if events is not None:
            self._handle(events)
        self._worker.forget(self)

    def pause_writing(self) -> None:
        """The socket is full: neither send nor read."""
        self._paused = True
        self._transport.pause_reading()
        self._watch_stall(self._worker.now())
        self._arm()

    def resume_writing(self) -> None:
        """The socket has room again."""
        self._paused = False
        self._stall_until = math.inf
        if not self._over:
            self._transport.resume_reading()
            self._flush()
            self._arm()

    # --- the worker's side ----------------------------------------------------------------------
    def drain(self, grace_s: float, reason: str = "") -> None:
        """Sends new calls elsewhere and closes when the last open one is over."""
        if not self._over:
            self._lifecycle.drain(self._worker.now(), grace_s, reason)
            self._after_tick()

    def abort(self) -> None:
        """Closes the socket as it is."""
        if self._transport is not None:
            self._transport.abort()

    # --- the handlers' side ---------------------------------------------------------------------
    def context(self, stream: Stream) -> CallContext:
        """What the call's handler may know."""
        method = stream.row.method
        return CallContext(
            method.path,
            method.operation,
            self._peer,
            stream.metadata,
            stream.deadline or None,
            self._identity,
        )

    def flush_soon(self) -> None:
        """One write after everything that is ready to run now."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    # --- turns ----------------------------------------------------------------------------------
    def _handle(self, events: list[tuple[int, Any]]) -> None:
        calls = self._worker.calls
        for kind, stream in events:
            if kind == EVENT_CALL:
                calls.start(self, stream)
            elif kind == EVENT_CLOSED:
                calls.cancel(self, stream)
            elif kind == EVENT_FAST_FAILED:
                self._worker.report(stream)
            elif kind == EVENT_FAULT:
                self._worker.report(stream)
                self.session.terminate(GOAWAY_INTERNAL, "internal_error")
            elif stream.owner is not None:
                stream.owner.wake()

    def _flush(self) -> None:
        self._flush_due = False
        session = self.session
        while not (self._paused or self._over):
            data = session.pull(self._worker.now())
            events = session.take_events()
            if events is not None:
                self._handle(events)
            if data is None:
                if events is None:
                    break
                continue
            self._transport.write(data)
        if self._over:
            return
        if self._lifecycle.state is State.OPENING and session.settings_acked:
            self._lifecycle.tick(self._worker.now())
            self._arm()
        if not self._paused and (session.verdict is not None or session.is_over()):
            self._end()
        elif self._lifecycle.state in (State.NOTICED, State.DRAINING):
            self._lifecycle.tick(self._worker.now())
            if self._lifecycle.is_over():
                self._after_tick()

    def _on_timer(self) -> None:
        now = self._worker.now()
        if now - self._due > LATE_S and not self._looked_late:
            # The loop was busy, and what the peer has sent meanwhile is not read yet: that first.
            self._looked_late = True
            self._armed = self.loop.call_later(0.001, self._on_timer)
            return
        self._looked_late = False
        self._armed = None
        self._due = math.inf
        if now >= self._stall_until:
            if self._transport.get_write_buffer_size() >= self._unsent:
                self._worker.counters.cut_off("write_stall")
                self.abort()
                return
            self._watch_stall(now)
        if self.session.next_due <= now:
            events = self.session.sweep(now)
            if events is not None:
                self._handle(events)
        self._lifecycle.tick(now)
        self._after_tick()

    def _after_tick(self) -> None:
        """Sends what the lifecycle has queued, and ends the connection if the lifecycle is over."""
        if self._over:
            return
        if self._lifecycle.state is not State.OVER:
            self._flush()
            self._arm()
            return
        if self._lifecycle.grace_is_over:
            events = self.session.cancel_calls(GRACE_OVER)
            if events is not None:
                self._handle(events)
        self._lifecycle.state = State.OVER
        self._write_rest()
        self._end()

    def _write_rest(self) -> None:
        """Everything that is due, whether or not the socket has room: the last frames of a
        connection, bounded by what one pull gives."""
        data = self.session.pull(self._worker.now())
        if data is not None:
            self._transport.write(data)
        events = self.session.take_events()
        if events is not None:
            self._handle(events)

    def _end(self) -> None:
        """Closes so that the last frames are read: end of file first, then, when the peer has
        closed or `linger_s` is over, the socket."""
        if self._over:
            return
        self._over = True
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        events = self.session.close()  # nothing more can be sent: handlers need not work on
        if events is not None:
            self._handle(events)
        if self._transport.get_extra_info("ssl_object") is None and not (
            self._transport.is_closing()
        ):
            try:
                self._transport.write_eof()
            except OSError:  # the peer has reset the connection, and the loop is about to say so
                self.abort()
                return
            self._unsent = self._transport.get_write_buffer_size() + 1
            self._armed = self.loop.call_later(self._worker.bounds.linger_s, self._linger)
        else:
            self._transport.close()

    def _linger(self) -> None:
        """Waits on while a slow peer takes what is still to be sent, and no longer."""
        unsent = self._transport.get_write_buffer_size()
        if 0 < unsent < self._unsent:
            self._unsent = unsent
            self._armed = self.loop.call_later(self._worker.bounds.linger_s, self._linger)
        else:
            self.abort()

    def _watch_stall(self, now: float) -> None:
        """The socket must take something within `write_stall_s`."""
        self._unsent = self._transport.get_write_buffer_size()
        self._stall_until = now + self._worker.bounds.write_stall_s

    def _arm(self) -> None:
        """One timer, for the earliest thing that is due; one that is due later than the timer is
        read when it fires."""
        due = min(self.session.next_due, self._lifecycle.due, self._stall_until)
        if due >= self._due or self._over:  # at the end the timer is the linger's
            return
        if self._armed is not None:
            self._armed.cancel()
            self._armed = None
        self._due = due
        if due < math.inf:
            # a millisecond more than needed: the loop's timers are cut to milliseconds
            delay = max(0.0, due - self._worker.now()) + 0.001
            self._armed = self.loop.call_later(delay, self._on_timer)


def peer_of(transport: asyncio.BaseTransport) -> tuple[str, str]:
    """(host, "ipv4:HOST:PORT") of the other side, written as gRPC writes peers."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "", "unix:"
    host, port = peer[0], peer[1]
    return (host, f"ipv6:[{host}]:{port}") if ":" in host else (host, f"ipv4:{host}:{port}")
