"""Handlers at work: one task a call, from the session's CALL event to the call's one status.

Invariants: a task is in `Calls.tasks` from its start until it is done, so that their number is the
number of calls at work and the worker can await them all; cancellation reaches a handler once, by
the session's CLOSED event or by `cancel_all`; what a handler does after that changes nothing on the
wire.

Calls of a method with a batched handler wait for the end of the loop's turn, and all of them are
one task; the calls that it declines go to their ordinary handlers. They count as calls at work.

Not for: bytes and frames (the session), sockets (the connection).
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, NoReturn

from feedcore._native.http2.grpcframe import BadMetadata
from feedcore._native.http2.h2stream import Row, Stream
from feedcore.errors import Overloaded, ReplyTooLarge
from feedcore.observe import logs
from feedcore.observe.metrics import Durations
from feedcore_server.context import CallContext
from feedcore_server.status import outcome_of
from feedcore_server.transports.native.bounds import Bounds

if TYPE_CHECKING:
    from feedcore_server.transports.native.connection import Connection


INTERNAL, UNAVAILABLE = 13, 14  # of the statuses of gRPC; no error of a handler comes here
Waiting = tuple["Connection", Stream, bytes]  # a call of a batch, and its request


class Calls:
    """All calls at work in one worker."""

    def __init__(self, bounds: Bounds) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.refused: Counter[str] = Counter()  # calls by operation that found the worker full
        # Calls by operation that a batch answered.
        self.batched: defaultdict[str, Durations] = defaultdict(Durations)
        self._bounds = bounds
        self._batches: dict[str, list[Waiting]] = {}  # path -> calls of this turn
        self._in_batches = 0
        self._log = logs.get("transport")

    def start(self, connection: Connection, stream: Stream) -> None:
        """Starts the handler of a call, or refuses it if the worker is full."""
        if stream.closed or stream.ended:
            return
        if len(self.tasks) + self._in_batches >= self._bounds.calls_max:
            full = Overloaded("the number of calls at work", f"{self._bounds.calls_max} a worker")
            self.refused[stream.row.method.operation] += 1
            self._fail(stream, connection.context(stream), full)
            return
        if stream.row.one_request and stream.row.one_reply:
            request = stream.take_request()
            if request is None:
                return
            if stream.row.method.batched is not None:
                self._wait_for_batch(connection, stream, request)
            else:
                self._begin(connection, stream, request)
            return
        streamed = StreamedCall(connection, stream, self._bounds)
        task = connection.loop.create_task(self._handle(connection, stream, b"", streamed))
        streamed.task = task
        stream.owner = streamed
        self.tasks.add(task)
        connection.session.started()

    def _begin(self, connection: Connection, stream: Stream, request: bytes) -> None:
        """Runs the ordinary handler of a unary call."""
        task = connection.loop.create_task(self._handle(connection, stream, request, None))
        stream.owner = task
        self.tasks.add(task)
        connection.session.started()

    def _wait_for_batch(self, connection: Connection, stream: Stream, request: bytes) -> None:
        """Nothing owns the stream meanwhile: if the call ends, its answer goes nowhere."""
        connection.session.started()
        self._in_batches += 1
        path = stream.row.method.path
        batch = self._batches.get(path)
        if batch is None:
            batch = self._batches[path] = []
            # after everything that is ready to be read now
            connection.loop.call_soon(self._begin_batch, connection.loop, stream.row)
        batch.append((connection, stream, request))

    def _begin_batch(self, loop: asyncio.AbstractEventLoop, row: Row) -> None:
        batch = self._batches.pop(row.method.path)
        task = loop.create_task(self._answer_batch(row, batch, loop.time()))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _answer_batch(self, row: Row, batch: list[Waiting], began_s: float) -> None:
        replies: list[bytes | None] = []
        try:
            replies = await row.method.batched([request for _, _, request in batch])
        except Exception as error:  # the ordinary handler says what is wrong with each
            self._log.error("a batch of calls failed", method=row.method.path, exc_info=error)
            replies = [None] * len(batch)
        finally:  # cancelled: the worker ends
            self._end_batch(row, batch, replies, began_s)

    def _end_batch(
        self, row: Row, batch: list[Waiting], replies: list[bytes | None], began_s: float
    ) -> None:
        """Answers, or begins the ordinary call; without replies each call ends."""
        self._in_batches -= len(batch)
        answered = 0
        connections: dict[Connection, None] = {}
        for place, (connection, stream, request) in enumerate(batch):
            connection.session.ended()
            connections[connection] = None
            if stream.closed or stream.ended:
                continue
            if not replies:
                stream.finish(UNAVAILABLE, "the server is stopping", [], [])
                continue
            reply = replies[place]
            if reply is None or len(reply) > self._bounds.reply_bytes_max:
                self._begin(connection, stream, request)
            else:
                stream.reply(reply, False, [], [])
                answered += 1
        took_s = asyncio.get_running_loop().time() - began_s
        self.batched[row.method.operation].add(answered, took_s)
        for connection in connections:
            connection.flush_soon()

    def cancel(self, connection: Connection, stream: Stream) -> None:
        """The call is over: its handler must end. One that has not begun never will."""
        owner = stream.owner
        if owner is None:
            return
        task = owner
        if isinstance(owner, StreamedCall):
            owner.cancelled = True
            task = owner.task
        if not stream.begun:
            self._done(connection, stream, task)
        task.cancel()

    async def _handle(
        self,
        connection: Connection,
        stream: Stream,
        request: bytes,
        streamed: StreamedCall | None,
    ) -> None:
        """One call: `request` of a unary one, `streamed` for all others."""
        stream.begun = True
        row, task = stream.row, stream.owner
        call = connection.context(stream)
        asked: Any = request
        if streamed is not None:
            task, asked = streamed.task, streamed.begin(call, row)
        else:
            call.request_compressed = stream.request_compressed
        try:
            reply = await row.chain(call, asked)
            if row.one_reply:
                self._check_size(reply)
                stream.reply(reply, call.compress, call.initial, call.trailers)
            else:
                stream.finish(0, "", call.trailers, call.initial)
        except Exception as error:
            self._fail(stream, call, error)
        except asyncio.CancelledError as error:
            self._fail(stream, call, error)  # does nothing unless the handler cancelled itself
            raise
        finally:
            self._done(connection, stream, task)
            connection.flush_soon()

    def _done(self, connection: Connection, stream: Stream, task: asyncio.Task[None]) -> None:
        stream.owner = None
        if not stream.ended:  # a fault of ours on the way to a status: the caller must not wait
            stream.finish(INTERNAL, "the call ended without a status", [], [])
        self.tasks.discard(task)
        connection.session.ended()

    def _check_size(self, reply: bytes) -> None:
        if len(reply) > self._bounds.reply_bytes_max:
            raise ReplyTooLarge(len(reply), self._bounds.reply_bytes_max)

    def _fail(self, stream: Stream, call: CallContext, error: BaseException) -> None:
        """Answers with the error's status."""
        if stream.closed or stream.ended:
            return
        outcome = outcome_of(error, call.trace.trace_hex)
        trailers = [*call.trailers, *outcome.trailers]
        try:
            stream.finish(outcome.number, outcome.message, trailers, call.initial)
        except BadMetadata as fault:
            # What the handler gave cannot travel; its status still must.
            self._log.error("metadata cannot be sent", method=call.method, detail=str(fault))
            stream.finish(outcome.number, outcome.message, list(outcome.trailers), [])


class StreamedCall:
    """The handler's side of a call with more than one request or reply: reads and writes wait."""

    __slots__ = ("_bounds", "_connection", "_stream", "_waiter", "call", "cancelled", "task")

    def __init__(self, connection: Connection, stream: Stream, bounds: Bounds) -> None:
        self._connection = connection
        self._stream = stream
        self._bounds = bounds
        self._waiter: asyncio.Future[None] | None = None
        self.cancelled = False
        self.task: Any = None
        self.call: Any = None

    def wake(self) -> None:
        """What the handler waits for has come."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def begin(self, call: CallContext, row: Row) -> AsyncIterator[bytes]:
        """Gives the call its way to send; the messages of its request."""
        self.call = call
        call.send = self.send
        return self._one() if row.one_request else self._all()

    async def _one(self) -> AsyncIterator[bytes]:
        request = self._stream.take_request()
        if request is None:
            await self._over()
        self.call.request_compressed = self._stream.request_compressed
        yield request

    async def _all(self) -> AsyncIterator[bytes]:
        stream = self._stream
        while True:
            message = stream.take()
            if message is not None:
                self.call.request_compressed = stream.request_compressed
                self._connection.flush_soon()  # the message's bytes are credited to the caller
                yield message
            elif stream.ended:
                await self._over()
            elif stream.request_done:
                return
            else:
                stream.wants_message = True
                await self._wait()

    async def send(self, reply: bytes) -> None:
        """Queues a reply; waits for room first, so that a slow reader holds its writer."""
        stream, call = self._stream, self.call
        if len(reply) > self._bounds.reply_bytes_max:
            raise ReplyTooLarge(len(reply), self._bounds.reply_bytes_max)
        if not stream.send(reply, call.compress, call.initial):
            await self._over()
        self._connection.flush_soon()
        while stream.queued > self._bounds.room_bytes and not stream.closed:
            stream.wants_room = True
            await self._wait()

    async def _over(self) -> NoReturn:
        """The call has ended, and the handler goes on: its one cancellation is on its way, unless
        it has come before."""
        self._connection.flush_soon()
        while not self.cancelled:
            await self._wait()
        raise asyncio.CancelledError

    async def _wait(self) -> None:
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
