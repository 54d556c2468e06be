"""The method table and the chain of interceptors, without a transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from feedcore.errors import InvalidField
from feedcore.resilience import deadline
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.registry import Kind, Registry

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"


def context(path: str) -> CallContext:
    return CallContext(path, path.rsplit("/", 1)[1], "test")


def health_registry() -> tuple[Registry, HealthHandlers]:
    health = HealthHandlers()
    registry = Registry()
    registry.add_service(HEALTH, health.table())
    health.add(registry.services())
    return registry, health


def test_the_table_knows_kinds_and_refuses_gaps() -> None:
    registry, health = health_registry()
    kinds = {method.operation: method.kind for method in registry.methods()}
    assert kinds == {"Check": Kind.UNARY, "List": Kind.UNARY, "Watch": Kind.SERVER_STREAM}
    assert registry.services() == ["grpc.health.v1.Health"]
    assert registry.get("/grpc.health.v1.health/Check") is None
    with pytest.raises(ValueError, match="served twice"):
        registry.add_service(HEALTH, health.table())
    with pytest.raises(ValueError, match=r"\['List', 'Watch'\]"):
        Registry().add_service(HEALTH, {"Check": health.check})


async def test_interceptors_run_outermost_first_and_see_errors() -> None:
    registry, _ = health_registry()
    seen: list[str] = []

    def noting(name: str) -> Any:
        async def intercept(call: CallContext, request: Any, proceed: Any) -> bytes:
            seen.append(f"{name} in")
            try:
                return await proceed(call, request)
            finally:
                seen.append(f"{name} out")

        return intercept

    dispatcher = Dispatcher(registry, [noting("outer"), noting("inner")])
    method = registry.get(CHECK)
    assert method is not None
    reply = health_pb2.HealthCheckResponse.FromString(
        await dispatcher.chain(method)(context(CHECK), b"")
    )
    assert reply.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert seen == ["outer in", "inner in", "inner out", "outer out"]
    with pytest.raises(InvalidField, match="service: not valid UTF-8"):
        await dispatcher.chain(method)(context(CHECK), b"\x0a\x01\xff")
    assert seen[4:] == seen[:4]


async def test_watch_sends_the_state_and_each_change() -> None:
    registry, health = health_registry()
    dispatcher = Dispatcher(registry, [])
    call = context(WATCH)
    sent: list[int] = []

    async def send(raw: bytes) -> None:
        sent.append(health_pb2.HealthCheckResponse.FromString(raw).status)
        if len(sent) == 1:
            health.set_serving(True)
            health.set_serving(True)  # no change, no message
        elif len(sent) == 2:
            health.set_serving(False)
        else:
            raise ConnectionResetError

    async def one() -> AsyncIterator[bytes]:
        yield b""

    call.send = send
    method = registry.get(WATCH)
    assert method is not None
    with pytest.raises(ConnectionResetError):
        await dispatcher.chain(method)(call, one())
    state = health_pb2.HealthCheckResponse
    assert sent == [state.NOT_SERVING, state.SERVING, state.NOT_SERVING]


async def test_a_unary_call_has_no_stream_to_send_on() -> None:
    with pytest.raises(RuntimeError, match="return it"):
        await context(CHECK).send(b"")


def test_deadlines_count_down_to_zero() -> None:
    call = context(CHECK)
    assert call.remaining_s(5.0) is None
    call.deadline_s = 7.5
    assert (call.remaining_s(5.0), call.remaining_s(9.0)) == (2.5, 0.0)


async def test_what_is_below_a_call_knows_its_callers_deadline() -> None:
    _registry, health = health_registry()
    seen: list[float | None] = []

    async def check(request: Any, call: CallContext) -> Any:
        seen.append(deadline.current())
        return await health.check(request, call)

    other = Registry()
    other.add_service(HEALTH, {**health.table(), "Check": check})
    dispatcher, method = Dispatcher(other, []), other.get(CHECK)
    assert method is not None
    for deadline_s in (None, 12.5):
        call = CallContext(CHECK, "Check", "test", deadline_s=deadline_s)
        await asyncio.create_task(dispatcher.chain(method)(call, b""))
    assert seen == [None, 12.5] and deadline.current() is None
