"""Handlers at work: one task a call, from the session's CALL event to the call's one status.

Invariants: a task is in `Calls.tasks` from its start until it is done, so that the worker can await
them all; `at_work` is their number without those of streams that wait for a message; cancellation
reaches a handler once, by the session's CLOSED event or by `cancel_all`; what a handler does after
that changes nothing on the wire.

    call                                   counts as
    unary, server stream                   at work, from its start to its end
    stream of requests, without a message  waiting (module waiting), from its start
    the same, with one                     waiting, and at work until it asks for the next one
    standing (Health.Watch)                waiting; it has no task

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
from feedcore.errors import FeedcoreError, Overloaded, ReplyTooLarge
from feedcore.observe import logs
from feedcore.observe.metrics import Durations
from feedcore_server.context import CallContext
from feedcore_server.status import outcome_of, refusal_trailers
from feedcore_server.transports.native.bounds import Bounds
from feedcore_server.transports.native.waiting import Standing, Waiting

if TYPE_CHECKING:
    from feedcore_server.transports.native.connection import Connection


INTERNAL, UNAVAILABLE = 13, 14  # of the statuses of gRPC; no error of a handler comes here
InBatch = tuple["Connection", Stream, bytes]  # a call of a batch, and its request


class Calls:
    """All calls at work in one worker."""

    def __init__(self, bounds: Bounds) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.refused: Counter[tuple[str, str]] = Counter()  # by operation and status: not begun
        # Calls by operation that a batch answered.
        self.batched: defaultdict[str, Durations] = defaultdict(Durations)
        self.stood: Counter[tuple[str, str]] = Counter()  # standing calls by operation and status
        self.waiting = Waiting(bounds)
        self.resting = 0  # tasks of streams that wait for a message
        self._bounds = bounds
        self._batches: dict[str, list[InBatch]] = {}  # path -> calls of this turn
        self._in_batches = 0
        self._log = logs.get("transport")

    @property
    def at_work(self) -> int:
        """Calls at work."""
        return len(self.tasks) - self.resting + self._in_batches

    @property
    def full(self) -> bool:
        """Whether the next call would be refused."""
        return self.at_work >= self._bounds.calls_max

    def check_room(self) -> None:
        """For one call more. Raises Overloaded."""
        if self.full:
            raise Overloaded("the number of calls at work", f"{self._bounds.calls_max} a worker")

    def start(self, connection: Connection, stream: Stream) -> None:
        """Starts the handler of a call, or refuses it if the worker is full."""
        if stream.closed or stream.ended:
            return
        row = stream.row
        try:
            if row.method.standing is not None:
                self._stand(connection, stream)
            elif not row.one_request:
                self._wait_for_messages(connection, stream)
            else:
                self.check_room()
                self._work(connection, stream)
        except FeedcoreError as error:
            self.refused[row.method.operation, error.status] += 1
            self._fail(stream, connection.context(stream), error)

    def _work(self, connection: Connection, stream: Stream) -> None:
        """A call whose one request is here."""
        if not stream.row.one_reply:
            self._stream(connection, stream, StreamedCall(connection, stream, self, self._bounds))
            return
        request = stream.take_request()
        if request is None:
            return
        if stream.row.method.batched is not None:
            self._wait_for_batch(connection, stream, request)
        else:
            self._begin(connection, stream, request)

    def _wait_for_messages(self, connection: Connection, stream: Stream) -> None:
        """A stream of requests begins. Raises Overloaded."""
        self.waiting.enter(connection)
        streamed = StreamedCall(connection, stream, self, self._bounds)
        streamed.rest()
        self._stream(connection, stream, streamed)

    def _stream(self, connection: Connection, stream: Stream, streamed: StreamedCall) -> None:
        task = connection.loop.create_task(self._handle(connection, stream, b"", streamed))
        streamed.task = task
        stream.owner = streamed
        self.tasks.add(task)
        connection.session.started()

    def _stand(self, connection: Connection, stream: Stream) -> None:
        """A standing call, from here to its end or its handler's word. Raises Overloaded."""
        method = stream.row.method
        request = stream.take_request()
        if request is None:
            return
        self.waiting.enter(connection)

        def done(status: str) -> None:
            stream.owner = None
            self.stood[method.operation, status] += 1
            self.waiting.leave(connection)
            connection.session.ended()

        standing = Standing(connection, stream, done)
        stream.owner, stream.standing = standing, True
        connection.session.started()
        try:
            standing.begin(method.standing(method.parser.parse(request), standing))
        except FeedcoreError as error:  # of the request
            done(error.status)
            self._fail(stream, connection.context(stream), error)

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

    async def _answer_batch(self, row: Row, batch: list[InBatch], began_s: float) -> None:
        replies: list[bytes | None] = []
        try:
            replies = await row.method.batched([request for _, _, request in batch])
        except Exception as error:  # the ordinary handler says what is wrong with each
            self._log.error("a batch of calls failed", method=row.method.path, exc_info=error)
            replies = [None] * len(batch)
        finally:  # cancelled: the worker ends
            self._end_batch(row, batch, replies, began_s)

    def _end_batch(
        self, row: Row, batch: list[InBatch], replies: list[bytes | None], began_s: float
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
                text, why = "the server is stopping", "SERVER_STOPPING"
                stream.finish(UNAVAILABLE, text, refusal_trailers(UNAVAILABLE, text, why), [])
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
        if isinstance(owner, Standing):
            owner.cancel()
            return
        task = owner
        streamed = None
        if isinstance(owner, StreamedCall):
            owner.cancelled = True
            task, streamed = owner.task, owner
        if not stream.begun:
            self._done(connection, stream, task, streamed)
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
            self._done(connection, stream, task, streamed)
            connection.flush_soon()

    def _done(
        self,
        connection: Connection,
        stream: Stream,
        task: asyncio.Task[None],
        streamed: StreamedCall | None,
    ) -> None:
        stream.owner = None
        if streamed is not None and not stream.row.one_request:
            streamed.work()
            self.waiting.leave(connection)
        if not stream.ended:  # a fault of ours on the way to a status: the caller must not wait
            text, why = "the call ended without a status", "INTERNAL_FAULT"
            stream.finish(INTERNAL, text, refusal_trailers(INTERNAL, text, why), [])
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

    __slots__ = (
        "_bounds",
        "_calls",
        "_connection",
        "_resting",
        "_stream",
        "_waiter",
        "call",
        "cancelled",
        "task",
    )

    def __init__(
        self, connection: Connection, stream: Stream, calls: Calls, bounds: Bounds
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._calls = calls
        self._bounds = bounds
        self._resting = False
        self._waiter: asyncio.Future[None] | None = None
        self.cancelled = False
        self.task: Any = None
        self.call: Any = None

    def rest(self) -> None:
        """The call waits for a message: it is not at work."""
        if not self._resting:
            self._resting = True
            self._calls.resting += 1

    def work(self) -> None:
        """It has one, or comes to its end."""
        if self._resting:
            self._resting = False
            self._calls.resting -= 1

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
        first = True
        while True:
            message = stream.take()
            if message is not None:
                if first:  # as a unary call: what has begun goes on, whatever comes after it
                    self._calls.check_room()
                first = False
                self.work()
                self.call.request_compressed = stream.request_compressed
                self._connection.flush_soon()  # the message's bytes are credited to the caller
                yield message
            elif stream.ended:
                await self._over()
            elif stream.request_done:
                self.work()
                return
            else:
                stream.wants_message = True
                self.rest()
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
