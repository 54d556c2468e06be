"""What every case needs: a server of the test service on the transport under test, a record of what
its handlers saw, and the outcome of a call in words.

A case calls `agree(observed, expected)` exactly once, so that a pinned difference has one place
where it shows. Handlers, dispatch, status and interceptors are the real ones.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import SystemClock
from feedcore.observe.logs import UserHash
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.reflection import V1_SERVICE, ReflectionHandlers
from feedcore_server.interceptors.logging import logged
from feedcore_server.interceptors.metrics import measured
from feedcore_server.interceptors.tracing import traced
from feedcore_server.registry import Registry
from feedcore_server.transports import Transport
from tests.conformance.differences import DIFFERENCES, OneOf
from tests.support.rawclient import Closed, RawClient, Silence, Stream, code_name
from tests.support.roomy import ROOMY
from tests.support.testservice import TestService, pb

SERVICE = "/grpc.testing.TestService/"
EMPTY = SERVICE + "EmptyCall"
UNARY = SERVICE + "UnaryCall"
OUTPUT = SERVICE + "StreamingOutputCall"
INPUT = SERVICE + "StreamingInputCall"
DUPLEX = SERVICE + "FullDuplexCall"

PATIENCE_S = 10.0
POLL_S = 0.002
SILENCE_S = 0.5  # how long one listens to a server that is known to stay silent
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED.value[0]
STATUS_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}

Agree = Callable[[object, object], None]


class Recorder:
    """An interceptor, the innermost: which handlers ran, with what, and how they ended.

    `before` may look at a call and change it; while `hold` is set to an event, handlers wait for
    it before they begin.
    """

    def __init__(self) -> None:
        self.calls: list[CallContext] = []
        self.started = self.finished = self.failed = self.cancelled = self.running = 0
        self.sent = 0  # streamed replies that the transport has taken
        self.before: Callable[[CallContext], None] = lambda call: None
        self.hold: asyncio.Event | None = None

    async def __call__(self, call: CallContext, request: Any, proceed: Any) -> bytes:
        self.calls.append(call)
        self.started += 1
        self.running += 1
        self.before(call)
        send = call.send

        async def counted(reply: bytes) -> None:
            await send(reply)
            self.sent += 1

        call.send = counted
        try:
            if self.hold is not None:
                await self.hold.wait()
            reply: bytes = await proceed(call, request)
            self.finished += 1
            return reply
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except Exception:
            self.failed += 1
            raise
        finally:
            self.running -= 1

    def fast(self, _raw: bytes) -> bytes:
        """A fast handler of EmptyCall."""
        self.started += 1
        self.finished += 1
        return b""

    @property
    def ends(self) -> str:
        """How the handlers ended, in words."""
        counts = {
            "finished": self.finished,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "running": self.running,
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none ran"


class Served:
    """A server under test."""

    def __init__(self, transport: Transport, recorder: Recorder, health: HealthHandlers) -> None:
        self.transport = transport
        self.recorder = recorder
        self.health = health
        self.port = 0
        self.patience_s = PATIENCE_S

    @asynccontextmanager
    async def raw(self, settings: dict[int, int] | None = None) -> AsyncIterator[RawClient]:
        """A raw connection, after its handshake."""
        async with await RawClient.connect(self.port) as client:
            await client.handshake(settings)
            client.patience_s = self.patience_s
            yield client

    def channel(self, **options: Any) -> grpc.aio.Channel:
        """A grpc.aio client, for input that it can produce."""
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", **options)


class Harness:
    """Base of all cases; a transport's test class sets `NAME` and makes the transport."""

    NAME = ""
    FAST = False  # EmptyCall has a fast handler, too
    patience_s = PATIENCE_S

    def transport(self, dispatcher: Dispatcher, bounds: dict[str, float]) -> Transport:
        """The transport under test; `bounds` in the words of the native one."""
        raise AssertionError("a subclass names the transport")

    @pytest.fixture
    def agree(self, request: pytest.FixtureRequest) -> Iterator[Agree]:
        """Compares an outcome with what is demanded, or with the pinned difference."""
        case = request.node.name.removeprefix("test_")
        pinned = DIFFERENCES.get(case)
        if pinned is not None and pinned.transport != self.NAME:
            pinned = None
        if pinned is not None and re.search("silence|running", str(pinned.instead)):
            self.patience_s = SILENCE_S
        times = 0

        def check(observed: object, expected: object) -> None:
            nonlocal times
            times += 1
            if pinned is None:
                assert observed == expected, f"got {observed!r}; demanded: {expected!r}"
                return
            if isinstance(pinned.instead, OneOf):
                assert observed in pinned.instead, f"got {observed!r}; bounds: {pinned.instead}"
                return
            assert observed != expected, f"{case}: as demanded now; take it off the table"
            unlike = f"differs, but not as pinned: {observed!r}; pinned: {pinned.instead!r}"
            assert observed == pinned.instead, unlike

        yield check
        assert times == 1 or request.session.testsfailed, f"{case} compared {times} outcomes"

    async def outcome(self, client: RawClient, stream: int) -> str:
        """What comes back on a stream, in words; and what became of the connection if it is no
        longer good."""
        words = await self.outcome_only(client, stream)
        if client.closed or await alive(client):
            return words
        return f"{words}; then {ended(client)}"

    async def outcome_only(self, client: RawClient, stream: int) -> str:
        """The same for a connection that is not meant to carry more calls."""
        state = await self.seen(client, client.finished(stream))
        return described(state) if isinstance(state, Stream) else str(state)

    async def seen(self, client: RawClient, waiting: Awaitable[object]) -> object:
        """What comes; "silence", or how the connection ended, if it does not."""
        try:
            return await waiting
        except Silence:
            return "silence"
        except Closed:
            return ended(client)

    async def ends(self, served: Served) -> str:
        """How handlers ended, once none runs; or that some go on."""
        with suppress(TimeoutError):
            await until(lambda: not served.recorder.running, self.patience_s)
        return served.recorder.ends

    @asynccontextmanager
    async def serving(self, **bounds: float) -> AsyncIterator[Served]:
        """The test service, health and reflection, served. `bounds`: limits and timers other than
        the usual ones."""
        clock, recorder = SystemClock(), Recorder()
        registry, health, reflection = Registry(), HealthHandlers(), ReflectionHandlers()
        self.add_test_service(registry, recorder)
        health.add(registry.services())
        health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
        registry.add_service(health_service, health.table(), prefix="Health")
        service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
        registry.add_service(service, reflection.table())
        registry.add_service(service, reflection.table(), name=V1_SERVICE)
        reflection.set_services(registry.services())
        around = [measured(clock), traced(), logged(clock, UserHash(b"key")), recorder]
        served = Served(self.transport(Dispatcher(registry, around), bounds), recorder, health)
        served.patience_s = self.patience_s
        served.port = await served.transport.start("127.0.0.1", 0)
        health.set_serving(True)
        try:
            yield served
        finally:
            health.end()
            await asyncio.wait_for(served.transport.stop(0), PATIENCE_S)

    def add_test_service(self, registry: Registry, recorder: Recorder) -> None:
        """grpc.testing.TestService, with a fast handler if the class says so."""
        if not self.FAST:
            TestService().add_to(registry)
            return
        plain = Registry()
        TestService().add_to(plain)
        handlers = {method.path.rpartition("/")[2]: method.handler for method in plain.methods()}
        descriptor = pb.DESCRIPTOR.services_by_name["TestService"]
        fast = {"EmptyCall": recorder.fast}
        registry.add_service(descriptor, handlers, fast=fast, bounds=ROOMY)


def described(stream: Stream) -> str:
    """What came back on a stream, in words: `1 message, OK`, `trailers-only UNIMPLEMENTED`."""
    if not stream.ended:
        return f"RST_STREAM {code_name(stream.reset or 0)}" + " after headers" * bool(
            stream.headers
        )
    words = [] if stream.http_status == 200 else [f"HTTP {stream.http_status}"]
    if stream.trailers_only:
        words.append("trailers-only")
    else:
        count = len(stream.messages)
        words.append(f"{count} message{'s' * (count != 1)},")
    status = stream.status
    words.append("no status" if status is None else STATUS_NAMES.get(status, str(status)))
    return " ".join(words)


async def alive(client: RawClient) -> bool:
    """Whether the connection still carries calls. Asks for what no handler is run for."""
    try:
        probe = await client.call("/nobody/Asks", b"")
        return (await client.finished(probe)).status == UNIMPLEMENTED
    except (Closed, Silence):
        return False


def method_name(path: str) -> str:
    """The last part of a path, for the ids of cases."""
    return path.rpartition("/")[2]


def ended(client: RawClient) -> str:
    """How the connection ended, in words."""
    if client.goaways:
        return f"GOAWAY {code_name(client.goaways[-1][1])}"
    return f"connection closed ({client.closed})" if client.closed else "connection dead"


async def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Waits until something is so. Raises TimeoutError."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - what changes is not ours to signal
            await asyncio.sleep(POLL_S)
