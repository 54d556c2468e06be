"""Streams that wait: their budgets, and the calls that wait without a task.

A stream waits for a message of its caller (Import, reflection) or for news to tell it (a standing
handler: Health.Watch). While it does it is no call at work: however many wait, calls are served.

    budget                      beyond it
    waiting_per_connection_max  the stream is refused (RESOURCE_EXHAUSTED), the connection goes on
    waiting_per_worker_max      the same, but for a connection that has none: the first of each
                                connection always has its place

Invariants: a stream is in the budgets from its start to its end, whether or not it waits at that
moment; `shared` is the sum over all connections of what each has beyond its first. A standing
stream has at most one reply in the transport and one, the newest, behind it, whatever its caller
reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from feedcore._native.http2.h2stream import Stream
from feedcore.errors import Overloaded
from feedcore_server.transports.native.bounds import Bounds

if TYPE_CHECKING:
    from feedcore_server.transports.native.connection import Connection

_OK = 0  # the status of gRPC


class Waiting:
    """Budgets of one worker."""

    def __init__(self, bounds: Bounds) -> None:
        self.open = 0
        self.shared = 0
        self._bounds = bounds

    def enter(self, connection: Connection) -> None:
        """A stream begins. Raises Overloaded."""
        bounds = self._bounds
        if connection.waiting >= bounds.waiting_per_connection_max:
            raise Overloaded(
                "the number of streams that wait",
                f"{bounds.waiting_per_connection_max} a connection",
            )
        if connection.waiting:
            if self.shared >= bounds.waiting_per_worker_max:
                raise Overloaded(
                    "the number of streams that wait", f"{bounds.waiting_per_worker_max} a worker"
                )
            self.shared += 1
        connection.waiting += 1
        self.open += 1

    def leave(self, connection: Connection) -> None:
        """A stream has ended."""
        connection.waiting -= 1
        self.open -= 1
        if connection.waiting:
            self.shared -= 1


class Standing:
    """The caller's side of a standing handler: a stream that is told of changes, without a task."""

    __slots__ = ("_connection", "_done", "_leave", "_newest", "_over", "_stream")

    def __init__(self, connection: Connection, stream: Stream, done: Callable[[str], None]) -> None:
        self._connection = connection
        self._stream = stream
        self._done = done  # told the status, once
        self._newest: bytes | None = None  # what waits for room
        self._leave: Callable[[], None] | None = None
        self._over = False

    def begin(self, leave: Callable[[], None]) -> None:
        """The handler has it; `leave` takes it away from there."""
        if self._over:  # the handler had no more than one word to say
            leave()
        else:
            self._leave = leave

    def tell(self, reply: bytes) -> None:
        """See registry.Watcher."""
        stream = self._stream
        if stream.closed or stream.ended:
            return
        if stream.queued:
            self._newest = reply
            stream.wants_room = True
            return
        self._send(reply)

    def end(self) -> None:
        """See registry.Watcher."""
        stream = self._stream
        if stream.closed or stream.ended:
            return
        if self._newest is not None:
            self._send(self._newest)
        stream.finish(_OK, "", [], [])
        self._connection.flush_soon()
        self._finish("ok")

    def cancel(self) -> None:
        """The caller, its deadline or the connection has ended the call."""
        self._finish("cancelled")

    def wake(self) -> None:
        """The caller has read."""
        if self._newest is not None and not self._stream.ended:
            self._send(self._newest)

    def _send(self, reply: bytes) -> None:
        self._newest = None
        self._stream.send(reply, False, [])
        self._connection.flush_soon()

    def _finish(self, status: str) -> None:
        self._over = True
        if self._leave is not None:
            self._leave()
            self._leave = None
        self._done(status)
