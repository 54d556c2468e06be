"""The suite: a small service that behaves as a case asks, carried by the transport under test.

Handlers, dispatch and status are the real ones; only the service is made for the test. The client
is grpc.aio. A transport's test file is a subclass that names it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from feedcore.clock import Clock, SystemClock
from feedcore.errors import (
    ClockWentBack,
    FailedPrecondition,
    IdempotencyConflict,
    InvalidField,
    NotFound,
    NotPermitted,
    Overloaded,
    StoreFull,
    Unavailable,
)
from feedcore.observe.logs import UserHash
from feedcore_pb.v1 import admin_pb2, publish_pb2
from feedcore_server import limits
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.interceptors.logging import logged
from feedcore_server.interceptors.metrics import measured
from feedcore_server.interceptors.tracing import traced
from feedcore_server.registry import Registry
from feedcore_server.transports import Transport
from tests.support.details import details_of
from tests.support.roomy import ROOMY

PUBLISH = "/feedcore.v1.PublishService/Publish"
GET_POST = "/feedcore.v1.PublishService/GetPost"
IMPORT = "/feedcore.v1.AdminService/Import"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ODD_MESSAGE = "\t\r\ntab, line, smile \u263a and devil \U0001f608, 100%"
PATIENCE_S = 10.0

ERRORS = {
    "invalid": (InvalidField("page_size", "101", "must be 1 to 100"), "INVALID_ARGUMENT"),
    "gone": (NotFound("content_id: 5 is not a post"), "NOT_FOUND"),
    "foreign": (NotPermitted("content_id: 5 is not yours"), "PERMISSION_DENIED"),
    "conflict": (IdempotencyConflict("idempotency_key: used before"), "ALREADY_EXISTS"),
    "state": (FailedPrecondition("version: 3 is the newest"), "FAILED_PRECONDITION"),
    "busy": (Overloaded("the write queue", "4,096", 125), "RESOURCE_EXHAUSTED"),
    "disk": (StoreFull("the disk is full"), "RESOURCE_EXHAUSTED"),
    "away": (Unavailable("the graph does not answer"), "UNAVAILABLE"),
    "clock": (ClockWentBack("clock: 9 s behind"), "UNAVAILABLE"),
    "late": (TimeoutError(), "DEADLINE_EXCEEDED"),
    "odd": (NotFound(ODD_MESSAGE), "NOT_FOUND"),
}


class Service:
    """`Publish` does what `body` says; `Import` echoes batches and fails at batch 13."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = 0
        self.streams_ended = 0
        self.finished = 0
        self.metadata: dict[str, str] = {}

    def registry(self) -> Registry:
        registry = Registry()
        publish = publish_pb2.DESCRIPTOR.services_by_name["PublishService"]
        admin = admin_pb2.DESCRIPTOR.services_by_name["AdminService"]
        others = {method.name: self.nothing for method in publish.methods}
        registry.add_service(publish, {**others, "Publish": self.publish}, bounds=ROOMY)
        others = {method.name: self.nothing for method in admin.methods}
        registry.add_service(admin, {**others, "Import": self.echo}, bounds=ROOMY)
        return registry

    async def nothing(self, _request: Any, _call: CallContext) -> bytes:
        return b""

    async def publish(self, request: publish_pb2.PublishRequest, call: CallContext) -> Any:
        self.metadata = dict(call.metadata)
        if request.body in ERRORS:
            raise ERRORS[request.body][0]
        if request.body == "bug":
            raise KeyError("the inside of the house")
        if request.body == "remaining":
            left_s = call.remaining_s(SystemClock().monotonic())
            return publish_pb2.PublishResponse(content_id=0 if left_s is None else int(left_s))
        if request.body == "wait":
            self.started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            self.finished += 1
        return publish_pb2.PublishResponse(content_id=request.author_id).SerializeToString()

    async def echo(
        self, requests: AsyncIterator[admin_pb2.ImportBatch], _call: CallContext
    ) -> AsyncIterator[admin_pb2.ImportReceipt]:
        try:
            async for batch in requests:
                if batch.batch_id == 13:
                    raise InvalidField("batch", "13", "not 13")
                yield admin_pb2.ImportReceipt(batch_id=batch.batch_id)
                self.started.set()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.streams_ended += 1


class TransportSuite:
    """Subclasses say which transport carries the calls, and in what it differs."""

    # A caller who hangs up: CancelledError, never a clean end of the requests.
    HANG_UP_CANCELS_STREAMS = True

    @staticmethod
    def transport(dispatcher: Dispatcher, clock: Clock) -> Transport:
        """The transport under test."""
        raise AssertionError("a subclass names the transport")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[tuple[Service, grpc.aio.Channel, Transport]]:
        clock, service = SystemClock(), Service()
        around = [measured(clock), traced(), logged(clock, UserHash(b"key"))]
        transport = self.transport(Dispatcher(service.registry(), around), clock)
        port = await transport.start("127.0.0.1", 0)
        options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            try:
                yield service, channel, transport
            finally:
                await transport.stop(0)

    @staticmethod
    def publish(channel: grpc.aio.Channel, body: str, author_id: int = 7, **options: Any) -> Any:
        request = publish_pb2.PublishRequest(author_id=author_id, body=body)
        return raw(channel, PUBLISH)(request.SerializeToString(), **options)

    async def test_a_reply_comes_back(self) -> None:
        async with self.serving() as (_, channel, _):
            reply = await self.publish(channel, "hello", 2**63 - 1)
            assert publish_pb2.PublishResponse.FromString(reply).content_id == 2**63 - 1

    async def test_an_empty_reply_comes_back(self) -> None:
        async with self.serving() as (_, channel, _):
            assert await raw(channel, GET_POST)(b"") == b""

    @pytest.mark.parametrize(
        "path", ["/feedcore.v1.Nobody/Publish", PUBLISH.lower(), PUBLISH + "s"]
    )
    async def test_unknown_methods_are_unimplemented(self, path: str) -> None:
        async with self.serving() as (_, channel, _):
            assert (await failure(raw(channel, path)(b""))).code().name == "UNIMPLEMENTED"

    @pytest.mark.parametrize("name", ERRORS)
    async def test_errors_become_status_and_message(self, name: str) -> None:
        error, status = ERRORS[name]
        async with self.serving() as (_, channel, _):
            got = await failure(self.publish(channel, name))
            assert got.code().name == status
            late = "the deadline passed before the answer was ready"
            assert got.details() == (str(error) or late)
            reason = getattr(error, "reason", "DEADLINE_PASSED")
            assert details_of(got)[:2] == (reason, "feedcore")

    async def test_overload_carries_a_retry_hint(self) -> None:
        async with self.serving() as (_, channel, _):
            got = await failure(self.publish(channel, "busy"))
            assert dict(got.trailing_metadata())["retry-after-ms"] == "125"
            assert details_of(got).retry_ms == 125

    async def test_a_bug_does_not_leak(self) -> None:
        async with self.serving() as (_, channel, _):
            got = await failure(self.publish(channel, "bug", metadata=[("traceparent", PARENT)]))
            assert got.code().name == "UNKNOWN"
            assert "house" not in got.details() and "KeyError" not in got.details()
            assert PARENT.split("-")[1] in got.details()
            assert details_of(got).reason == "BUG"

    @pytest.mark.parametrize(
        ("request_bytes", "expected"),
        [(b"\x12\x02\xff\xff", "body: not valid UTF-8"), (b"\x12\x09ab", "request: 4 bytes")],
    )
    async def test_requests_that_do_not_parse(self, request_bytes: bytes, expected: str) -> None:
        async with self.serving() as (_, channel, _):
            got = await failure(raw(channel, PUBLISH)(request_bytes))
            assert got.code().name == "INVALID_ARGUMENT"
            assert got.details().startswith(expected)

    async def test_message_sizes(self) -> None:
        async with self.serving() as (_, channel, _):
            empty = publish_pb2.PublishRequest(author_id=1, body="x").ByteSize()
            largest = "x" * (limits.REQUEST_BYTES_MAX - empty - 2)
            assert await self.publish(channel, largest, 1)
            got = await failure(self.publish(channel, largest + "xxxx", 1))
            assert got.code().name == "RESOURCE_EXHAUSTED"
            assert await self.publish(channel, "the connection is still good")

    async def test_the_deadline_cancels_the_handler_once(self) -> None:
        async with self.serving() as (service, channel, _):
            got = await failure(self.publish(channel, "wait", timeout=0.2))
            assert got.code().name == "DEADLINE_EXCEEDED"
            await until(lambda: service.cancelled == 1)
            assert service.finished == 0

    async def test_the_handler_knows_its_deadline(self) -> None:
        async with self.serving() as (_, channel, _):
            reply = await self.publish(channel, "remaining", timeout=1_000)
            left_s = publish_pb2.PublishResponse.FromString(reply).content_id
            assert 900 <= left_s <= 1_010  # rounded up on the wire
            reply = await self.publish(channel, "remaining")
            assert publish_pb2.PublishResponse.FromString(reply).content_id == 0

    async def test_hanging_up_cancels_the_handler_once(self) -> None:
        async with self.serving() as (service, channel, _):
            call = self.publish(channel, "wait")
            await within(service.started.wait())
            call.cancel()
            await until(lambda: service.cancelled == 1)

    async def test_the_trace_is_passed_on(self) -> None:
        async with self.serving() as (service, channel, _):
            call = self.publish(channel, "hello", metadata=[("traceparent", PARENT)])
            await call
            returned = dict(await call.trailing_metadata())["traceparent"]
            assert returned.split("-")[1] == PARENT.split("-")[1]
            assert returned.split("-")[2] != PARENT.split("-")[2]
            assert service.metadata["traceparent"] == PARENT
            call = self.publish(channel, "hello")
            await call
            fresh = dict(await call.trailing_metadata())["traceparent"]
            assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", fresh)

    async def test_binary_metadata_does_not_disturb(self) -> None:
        async with self.serving() as (service, channel, _):
            sent = [("token-bin", b"\x00\xff"), ("note", "plain")]
            assert await self.publish(channel, "hello", metadata=sent)
            assert service.metadata["note"] == "plain"

    async def test_many_calls_at_once_get_their_own_answers(self) -> None:
        async with self.serving() as (_, channel, _):
            calls = [self.publish(channel, "hello", n + 1) for n in range(200)]
            replies = [publish_pb2.PublishResponse.FromString(await call) for call in calls]
            assert [reply.content_id for reply in replies] == list(range(1, 201))

    async def test_a_stream_answers_in_order_and_ends(self) -> None:
        async with self.serving() as (_, channel, _):
            stream = channel.stream_stream(IMPORT)(batches(1, 2, 3))
            assert [receipt_id(reply) async for reply in stream] == [1, 2, 3]
            assert "traceparent" in dict(await stream.trailing_metadata())

    async def test_an_empty_stream_ends_well(self) -> None:
        async with self.serving() as (_, channel, _):
            assert [reply async for reply in channel.stream_stream(IMPORT)(batches())] == []

    async def test_a_stream_can_fail_after_replies(self) -> None:
        async with self.serving() as (_, channel, _):
            # Nothing after the batch that fails: grpc.aio's client reports a write that the end of
            # the call has overtaken as an error of its own.
            stream = channel.stream_stream(IMPORT)(batches(1, 13))
            got: list[int] = []

            async def read() -> None:
                async for reply in stream:
                    got.append(receipt_id(reply))

            error = await failure(read())
            assert (got, error.code().name) == ([1], "INVALID_ARGUMENT")
            assert error.details() == "batch: 13; not 13"

    async def test_a_bad_message_in_a_stream_is_named(self) -> None:
        async with self.serving() as (_, channel, _):

            async def torn() -> AsyncIterator[bytes]:
                yield b"\x08"

            async def read() -> None:
                async for _ in channel.stream_stream(IMPORT)(torn()):
                    raise AssertionError("no reply is due")

            error = await failure(read())
            assert error.code().name == "INVALID_ARGUMENT"
            assert error.details().startswith("request: 1 bytes")

    async def test_hanging_up_on_a_stream_ends_it_once(self) -> None:
        async with self.serving() as (service, channel, _):
            stream = channel.stream_stream(IMPORT)()
            await stream.write(admin_pb2.ImportBatch(batch_id=1).SerializeToString())
            assert receipt_id(await within(stream.read())) == 1
            stream.cancel()
            await until(lambda: service.streams_ended == 1)
            assert service.cancelled == 1 or not self.HANG_UP_CANCELS_STREAMS

    async def test_a_drain_finishes_calls_and_takes_no_new_ones(self) -> None:
        async with self.serving() as (service, channel, transport):
            call = asyncio.ensure_future(self.publish(channel, "wait"))
            await within(service.started.wait())
            stopping = asyncio.ensure_future(transport.stop(PATIENCE_S))
            await asyncio.sleep(0.1)
            got = await failure(self.publish(channel, "hello", timeout=5))
            assert got.code().name == "UNAVAILABLE"
            service.release.set()
            assert publish_pb2.PublishResponse.FromString(await within(call)).content_id == 7
            await within(stopping)
            assert (service.finished, service.cancelled) == (1, 0)

    async def test_the_grace_has_an_end(self) -> None:
        async with self.serving() as (service, channel, transport):
            call = asyncio.ensure_future(self.publish(channel, "wait"))
            await within(service.started.wait())
            await within(transport.stop(0.1))
            assert (await failure(call)).code().name in ("UNAVAILABLE", "CANCELLED")
            await until(lambda: service.cancelled == 1)


def raw(channel: grpc.aio.Channel, path: str) -> Any:
    """A unary method without serializers."""
    return channel.unary_unary(path)


async def batches(*numbers: int) -> AsyncIterator[bytes]:
    """Encoded batches with these ids."""
    for number in numbers:
        yield admin_pb2.ImportBatch(batch_id=number).SerializeToString()


def receipt_id(reply: bytes) -> int:
    """The batch a receipt is for."""
    return admin_pb2.ImportReceipt.FromString(reply).batch_id


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """The error a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def within(awaitable: Any) -> Any:
    """Waits, but not for ever."""
    return await asyncio.wait_for(awaitable, PATIENCE_S)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something is so, but not for ever."""
    deadline_s = asyncio.get_running_loop().time() + PATIENCE_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline_s, "it never came to be"
        await asyncio.sleep(0.005)
