"""Worlds: the services of one process over a store, and a clock moved by hand; one kind a profile.

A test takes `profile` and makes worlds with it, or takes `world`: both run once on the embedded
profile, once with each of its collaborators replaced by a service on a loopback port, and once on
the cluster's profile, which skips where there are no engines. What differs is only what happens
behind: merges here, Kafka there.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import ManualClock, SystemClock
from feedcore.compose import Collaborators, Engine, compose_over
from feedcore.compose.collaborators import BUILT_IN, open_collaborators
from feedcore.config import CollaboratorSettings
from feedcore.limits import COUNTER_BATCH, FANOUT_ATTEMPTS_MAX
from feedcore.services.hot import HotSettings
from feedcore.workers.fanout import FanoutWorker
from feedcore_pb.v1 import feed_pb2
from feedcore_server.transports.grpcio import GrpcioTransport
from feedcore_server.wiring import wire_collaborators
from tests.support.fanout import fanout_over

if TYPE_CHECKING:
    from tests.support.clusterengine import Nodes

START_MS = 1_780_000_000_000
READER, AUTHOR, OTHER = 9, 1, 2
BEHIND_S = 60.0
INACTIVE_MAX = 10_000
EXTERNAL, SERVICES = "external ", ("graph", "content", "ranking")


class World(ABC):
    """One store, its engine."""

    follows_many = 0  # of one user: so many that not all of the authors are read
    store: Any

    def __init__(self, threshold: int = 1_000) -> None:
        self.threshold = threshold
        self.clock = ManualClock(START_MS)

    async def open(self) -> None:
        """Once more after `close`: with all that was acknowledged."""
        self.store = await self.open_store()
        self.engine = self.compose(BUILT_IN)

    def compose(self, collaborators: Collaborators) -> Engine:
        """An engine over the store that is open."""
        self.collaborators = collaborators
        hot = HotSettings(push_threshold=self.threshold)
        return compose_over(self.store, hot, self.clock, collaborators=collaborators)

    @property
    def graph(self) -> Any:
        """What the engine asks who follows whom."""
        return self.collaborators.graph or self.store.graph

    @abstractmethod
    async def open_store(self) -> Any: ...

    async def close(self) -> None:
        await self.store.close()

    def needs_own_graph(self, why: str) -> None:
        """Skips the test where another service has the graph."""
        if self.collaborators.graph is not None:
            pytest.skip(f"with an external graph: {why}")

    def worker(self, *, graph: Any = None, queue: Any = None) -> FanoutWorker:
        """The engine's own, or one with another graph or queue."""
        if graph is None and queue is None:
            return self.engine.fanout
        store = self.store
        ports: Any = SimpleNamespace(
            queue=queue or store.queue,
            feeds=store.feeds,
            posts=store.posts,
            validation=store.validation,
        )
        return fanout_over(ports, graph or self.graph, self.engine.hot, self.clock)

    async def review(self) -> None:
        """Every author is pushed or pulled as the policy says."""
        while await self.engine.policy.review(self.clock.now_ms()):
            pass

    @abstractmethod
    async def settle(self) -> None:
        """Everything delivered, stored and counted."""

    async def turn(self, worker: FanoutWorker) -> None:
        """One turn that has something to do."""
        deadline = time.monotonic() + BEHIND_S
        while not await worker.turn():
            assert time.monotonic() < deadline, "no job came"

    @abstractmethod
    async def work(self, worker: FanoutWorker) -> None:
        """Turns until all that waits is done, or a dead letter."""

    @abstractmethod
    async def store_deliveries(self) -> None:
        """What was delivered is stored."""

    async def mark_inactive(self, now_ms: int) -> None:
        """As upkeep does it."""
        await self.store.graph.mark_inactive(now_ms, INACTIVE_MAX)

    @abstractmethod
    async def forget_newest(self) -> None:
        """Readers see stored feeds alone, nothing of what was published lately beside them."""

    async def publish(self, author: int, body: str = "x", **more: object) -> int:
        self.clock.advance(1)
        done = await self.engine.publish.publish(author, body, **more)  # type: ignore[arg-type]
        return done.content_id

    async def page(self, user: int = READER, **more: object) -> feed_pb2.GetFeedResponse:
        asked = {"page_size": 100, "cursor": "", "view": 0, "if_none_match": "", **more}
        page = await self.engine.feed.get_feed(user, **asked)  # type: ignore[arg-type]
        return feed_pb2.GetFeedResponse.FromString(page.body)

    async def ids(self, user: int = READER) -> list[int]:
        return [item.content_id for item in (await self.page(user)).items]


class EmbeddedWorld(World):
    """A directory."""

    follows_many = 50_000

    def __init__(self, folder: Path, threshold: int = 1_000) -> None:
        super().__init__(threshold)
        self.folder = folder

    async def open_store(self) -> EmbeddedStore:
        return EmbeddedStore.open(self.folder, self.clock, writer_role=True, merge_thread=False)

    async def settle(self) -> None:
        await self.engine.background.drain()

    async def work(self, worker: FanoutWorker) -> None:
        for _ in range(FANOUT_ATTEMPTS_MAX + 1):
            await worker.turn()
        await self.store.merge_all()

    async def store_deliveries(self) -> None:
        await self.store.merge_all()

    async def forget_newest(self) -> None:
        """There is nothing beside them."""


class ExternalWorld(EmbeddedWorld):
    """The embedded profile with one collaborator elsewhere: our own service, behind a port. Graphs
    have a store of their own; contents and rankings are about the posts of this one.
    """

    def __init__(self, folder: Path, threshold: int, name: str) -> None:
        super().__init__(folder, threshold)
        self.name = name
        self._opened = AsyncExitStack()

    async def open(self) -> None:
        self.store = self.service_store = await self.open_store()
        self._opened.push_async_callback(super().close)
        if self.name == "graph":
            self.service_store = EmbeddedStore.open(self.folder.with_name("graph"), self.clock)
            self._opened.push_async_callback(self.service_store.close)
        service = compose_over(self.service_store, HotSettings(), self.clock)
        wall = SystemClock()  # calls have deadlines, however the test moves its clock
        transport = GrpcioTransport(wire_collaborators(service, wall).dispatcher, wall)
        port = await transport.start("127.0.0.1", 0)
        self._opened.push_async_callback(transport.stop, 0.0)
        self.address = f"127.0.0.1:{port}"
        document = {self.name: self.address, "deadline_ms": 10_000}
        settings = CollaboratorSettings.model_validate(document)
        clients = open_collaborators(settings, self.clock)
        self.engine = self.compose(await self._opened.enter_async_context(clients))

    async def close(self) -> None:
        await self._opened.aclose()


class ClusterWorld(World):
    """A node that serves and fans out."""

    follows_many = 2_500

    def __init__(self, nodes: Nodes, threshold: int = 1_000) -> None:
        super().__init__(threshold)
        self.nodes = nodes

    async def open_store(self) -> Any:
        return await self.nodes.open(self.clock, fanout=True)

    async def close(self) -> None:
        await self.nodes.close_store(self.store)

    async def settle(self) -> None:
        await self.review()
        await self.work(self.worker())
        signals = self.store.signals
        while await signals.apply_counters(COUNTER_BATCH, self.clock.now_ms()):
            pass
        await signals.refresh_trending(self.clock.now_ms())

    async def work(self, worker: FanoutWorker) -> None:
        from tests.support.clusterengine import jobs_waiting

        deadline = time.monotonic() + BEHIND_S
        while await jobs_waiting(self.store):
            await worker.turn()
            assert time.monotonic() < deadline, "the fan-out does not end"

    async def store_deliveries(self) -> None:
        """They are."""

    async def forget_newest(self) -> None:
        from feedcore.adapters.cluster.overlay import OVERLAY_MARGIN_MS, OVERLAY_MS

        self.clock.advance(OVERLAY_MS + OVERLAY_MARGIN_MS + 1)
        deadline = time.monotonic() + BEHIND_S
        while len(self.store.replica.state.overlay_authors):
            assert time.monotonic() < deadline, "the overlay is kept"
            await asyncio.sleep(0.02)


class Profile:
    """Makes worlds of one profile, and ends them."""

    def __init__(self, name: str, folder: Path, request: pytest.FixtureRequest) -> None:
        self.name = name
        self._folder = folder
        if name == "cluster":
            # Now: fixtures that need a loop of their own cannot be had inside one.
            self._at = request.getfixturevalue("cluster_addresses")
            self._keyspace = request.getfixturevalue("cluster_keyspace")

    @asynccontextmanager
    async def world(self, threshold: int = 1_000) -> AsyncIterator[World]:
        """Empty."""
        if self.name != "cluster":
            folder = self._folder / "data"
            made: World = EmbeddedWorld(folder, threshold)
            if self.name.startswith(EXTERNAL):
                made = ExternalWorld(folder, threshold, self.name.removeprefix(EXTERNAL))
            await made.open()
            try:
                yield made
            finally:
                await made.close()
            return
        from tests.support.clusterengine import Nodes

        nodes = Nodes(self._at, self._keyspace)
        try:
            made = ClusterWorld(nodes, threshold)
            await made.open()
            yield made
        finally:
            await nodes.close()


@pytest.fixture(scope="session")
def cluster_addresses(request: pytest.FixtureRequest) -> Any:
    """Engines that others may use at the same time."""
    from tests.support.clusterengine import addresses

    return addresses(request.getfixturevalue("services"))


@pytest.fixture(scope="session")
def cluster_keyspace(cluster_addresses: Any) -> Iterator[str]:
    """With all tables; who writes into some empties them."""
    from tests.support.clusterengine import fresh_name
    from tests.support.cqlusers import drop_keyspace, make_keyspace

    name = fresh_name()
    asyncio.run(make_keyspace(name, cluster_addresses.cassandra))
    yield name
    asyncio.run(drop_keyspace(name))


@pytest.fixture(params=["embedded", *(EXTERNAL + one for one in SERVICES), "cluster"])
def profile(request: pytest.FixtureRequest, tmp_path: Path) -> Profile:
    """Each in its turn."""
    return Profile(request.param, tmp_path, request)


@pytest_asyncio.fixture
async def world(profile: Profile) -> AsyncIterator[World]:
    """An empty world of each profile."""
    async with profile.world() as made:
        yield made
