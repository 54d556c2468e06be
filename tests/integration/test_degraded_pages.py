"""Pages of an engine whose contents, graph and scores are other services: what comes, and what the
receipt says, when those are killed, silent, and back.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from feedcore.adapters.collaborators import (
    Bounds,
    CollaboratorContentSource,
    CollaboratorGraphSource,
    CollaboratorRanker,
    Service,
)
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.compose import Collaborators, Engine, compose_over
from feedcore.errors import Unavailable
from feedcore.resilience import deadline
from feedcore.services.hot import HotSettings
from feedcore.services.resident_budget import CacheBudget
from feedcore_pb.collaborators.v1 import (
    content_pb2_grpc,
    graph_pb2,
    graph_pb2_grpc,
    ranking_pb2_grpc,
)
from feedcore_pb.v1 import feed_pb2, publish_pb2
from tests.support.server import ServerProcess

AUTHORS, READER = (7, 8, 9), 1_000
POSTS_EACH = 4
SERVICES_S, CALLERS_S = 0.3, 1.5  # three services may be silent one after the other
WITHIN_S = 20.0


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("degraded") / "data"
    with ServerProcess(path) as server:
        for author in AUTHORS:
            server.graph.Follow(graph_pb2.FollowRequest(follower_id=READER, followee_id=author))
            for number in range(POSTS_EACH):
                server.publish.Publish(
                    publish_pb2.PublishRequest(author_id=author, body=f"{author} {number}")
                )
    return path


@pytest.fixture
def collaborators(data_dir: Path) -> Iterator[ServerProcess]:
    with ServerProcess(data_dir, command="serve-collaborators") as server:
        yield server


@asynccontextmanager
async def engine_over(data_dir: Path, address: str) -> AsyncIterator[Engine]:
    """Everything from the store but contents, graph and scores."""
    clock = SystemClock()
    store = EmbeddedStore.open(data_dir, clock)
    bounds = Bounds(deadline_s=SERVICES_S)
    content = Service("content", [address], content_pb2_grpc.ContentServiceStub, bounds)
    graph = Service("graph", [address], graph_pb2_grpc.GraphServiceStub, bounds)
    ranking = Service("ranking", [address], ranking_pb2_grpc.RankingServiceStub, bounds)
    try:
        engine = compose_over(
            store,
            HotSettings(push_threshold=10_000, hysteresis_percent=10),
            clock,
            node=100,
            budget=CacheBudget(1 << 20, 1 << 20),
            collaborators=Collaborators(
                CollaboratorContentSource(content),
                CollaboratorGraphSource(graph, clock),
                CollaboratorRanker(ranking),
            ),
        )
        assert engine.resident is None, "compiled pages know the store and the formula only"
        yield engine
    finally:
        for service in (content, graph, ranking):
            await service.close()
        await store.close()


async def page_of(engine: Engine, cursor: str = "", size: int = 100) -> feed_pb2.GetFeedResponse:
    """One page, within its caller's deadline."""
    begun = deadline.loop_now()
    with deadline.within(CALLERS_S):
        page = await engine.feed.get_feed(READER, size, cursor, 0, "")
    assert deadline.loop_now() - begun < CALLERS_S
    response = feed_pb2.GetFeedResponse.FromString(page.body)
    assert response.receipt.degraded == page.degraded
    return response


def sources(response: feed_pb2.GetFeedResponse) -> dict[str, tuple[bool, int]]:
    return {source.name: (source.ok, source.count) for source in response.receipt.sources}


async def healthy_page(engine: Engine) -> feed_pb2.GetFeedResponse:
    """Asks until a page lacks nothing."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            response = await page_of(engine)
            if not response.receipt.degraded:
                return response
            await asyncio.sleep(0.05)


async def test_nothing_is_missing(data_dir: Path, collaborators: ServerProcess) -> None:
    async with engine_over(data_dir, collaborators.address) as engine:
        response = await healthy_page(engine)
        count = len(AUTHORS) * POSTS_EACH
        assert len(response.items) == count and all(item.content.body for item in response.items)
        found = sources(response)
        assert found["ranking"] == found["content"] == (True, count) and "graph" not in found
        with_own = EmbeddedStore.open(data_dir, SystemClock())
        try:
            own = compose_over(
                with_own, HotSettings(push_threshold=10_000, hysteresis_percent=10), SystemClock()
            )
            cursor = (await page_of(engine, size=5)).next_cursor  # of the same moment of ranking
            ours, theirs = await page_of(own, cursor), await page_of(engine, cursor)
        finally:
            await with_own.close()
        assert [item.content_id for item in ours.items] == [i.content_id for i in theirs.items]
        assert [item.score for item in ours.items] == pytest.approx([i.score for i in theirs.items])


async def test_killed_and_back(data_dir: Path, collaborators: ServerProcess) -> None:
    async with engine_over(data_dir, collaborators.address) as engine:
        before = await healthy_page(engine)
        collaborators.kill()
        for _ in range(12):  # first failing calls, then open breakers
            response = await page_of(engine)
            assert {item.content_id for item in response.items} == {
                item.content_id for item in before.items
            }
            assert not any(item.content.body for item in response.items)
            found = sources(response)
            assert found["content"] == found["ranking"] == (False, 0)
            assert found["graph"] == (True, len(AUTHORS)), "kept from before"
            assert {"stored", "outboxes"} <= set(found)
            said = {source.name: source for source in response.receipt.sources}
            assert said["graph"].stale_ms > 0
            assert said["ranking"].error.startswith("ranking fallback: ranking:")
        with ServerProcess(
            data_dir, "--listen", collaborators.address, command="serve-collaborators"
        ):
            after = await healthy_page(engine)
            assert len(after.items) == len(before.items)


async def test_silent_and_back(data_dir: Path, collaborators: ServerProcess) -> None:
    async with engine_over(data_dir, collaborators.address) as engine:
        before = await healthy_page(engine)
        collaborators.signal(signal.SIGSTOP)
        try:
            for _ in range(12):
                response = await page_of(engine)
                assert len(response.items) == len(before.items)
                assert sources(response)["content"] == (False, 0)
        finally:
            collaborators.signal(signal.SIGCONT)
        await healthy_page(engine)


async def test_whom_a_reader_follows_was_never_heard(
    data_dir: Path, collaborators: ServerProcess
) -> None:
    async with engine_over(data_dir, collaborators.address) as engine:
        begun = await page_of(engine, size=2)
        collaborators.kill()
        cursor = begun.next_cursor
        assert (await page_of(engine, cursor)).items, "kept followees serve a scroll, too"
    async with engine_over(data_dir, collaborators.address) as engine:
        response = await page_of(engine)
        assert response.receipt.origin == 3, "trending"
        assert sources(response)["graph"] == (False, 0)
        with pytest.raises(Unavailable, match="graph"):
            await page_of(engine, cursor)
        with pytest.raises(Unavailable, match="graph"):
            await engine.feed.check_new(READER, begun.head)
