"""Health: what probes are told before, while and after a worker serves; Check on bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from grpc_health.v1 import health_pb2 as pb

from feedcore.errors import NotFound
from feedcore_server.context import CallContext
from feedcore_server.handlers.health import LIVENESS, HealthHandlers
from feedcore_server.registry import encode

FEED = "feedcore.v1.FeedService"
SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


def context() -> CallContext:
    return CallContext("/grpc.health.v1.Health/Check", "HealthCheck", "test")


def made() -> HealthHandlers:
    health = HealthHandlers()
    health.add([FEED])
    return health


async def status(health: HealthHandlers, service: str) -> int:
    return (await health.check(pb.HealthCheckRequest(service=service), context())).status


async def test_readiness_follows_the_worker_and_liveness_does_not() -> None:
    health = made()
    for change, ready in (
        (lambda: None, NOT_SERVING),
        (lambda: health.set_serving(True), SERVING),
        (health.end, NOT_SERVING),
    ):
        change()
        assert [await status(health, name) for name in ("", FEED)] == [ready, ready]
        assert await status(health, LIVENESS) == SERVING
    listed = (await health.list(pb.HealthListRequest(), context())).statuses
    assert {name: state.status for name, state in listed.items()} == {
        "": NOT_SERVING,
        FEED: NOT_SERVING,
        LIVENESS: SERVING,
    }


async def test_the_fast_check_gives_the_bytes_of_the_ordinary_one() -> None:
    health = made()
    for change in (lambda: None, lambda: health.set_serving(True), health.end):
        change()
        for service in ("", FEED, LIVENESS):
            request = pb.HealthCheckRequest(service=service)
            ordinary = encode(await health.check(request, context()))
            assert health.fast_check(request.SerializeToString()) == ordinary


@pytest.mark.parametrize(
    "raw",
    [
        pb.HealthCheckRequest(service="nobody").SerializeToString(),
        b"\x0a\x00",  # "" written out: legal, and never sent by a generated client
        b"\x0a\x08liveness\x0a\x00",
        b"\x0a\xff",
    ],
)
async def test_the_fast_check_declines_what_it_does_not_know(raw: bytes) -> None:
    health = made()
    health.set_serving(True)
    assert health.fast_check(raw) is None


async def test_what_is_not_served_is_not_found() -> None:
    with pytest.raises(NotFound):
        await status(made(), "nobody")


async def turns(count: int) -> None:
    """Lets everybody else run, some times."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


@pytest.mark.parametrize(
    ("service", "told"),
    [
        ("", [NOT_SERVING, SERVING, NOT_SERVING]),
        (LIVENESS, [SERVING]),
        ("nobody", [pb.HealthCheckResponse.SERVICE_UNKNOWN]),
    ],
)
async def test_a_watcher_hears_each_change_once_and_its_call_ends_with_the_worker(
    service: str, told: list[int]
) -> None:
    health = made()
    heard: list[int] = []
    first = asyncio.Event()

    async def requests() -> AsyncIterator[pb.HealthCheckRequest]:
        yield pb.HealthCheckRequest(service=service)

    async def watch() -> None:
        async for reply in health.watch(requests(), context()):
            heard.append(reply.status)
            first.set()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(watch())
        await first.wait()
        for change in (lambda: health.set_serving(True), health.end):
            change()
            await turns(3)
    assert heard == told
