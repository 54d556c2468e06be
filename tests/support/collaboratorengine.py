"""Collaborators under contract: another team's services, real ones on a loopback socket, over a
store of their own; the engine under test asks them through its gRPC clients.

`store` and `other` are two processes of one directory. Their graph and contents are the
collaborators', which keep their data in that directory, too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from feedcore.adapters.collaborators import (
    Bounds,
    CollaboratorContentSource,
    CollaboratorGraphSource,
    CollaboratorRanker,
    Service,
)
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.compose import compose_over
from feedcore.services.hot import HotSettings
from feedcore_pb.collaborators.v1 import content_pb2_grpc, graph_pb2_grpc, ranking_pb2_grpc
from feedcore_server.transports.grpcio import GrpcioTransport
from feedcore_server.wiring import wire_collaborators
from tests.contract.engine import Capability
from tests.contract.test_embedded import EmbeddedEngine

DEADLINE_S = 10.0  # of a machine that does other things, too


class Clients:
    """Of one process."""

    def __init__(self, address: str) -> None:
        bounds = Bounds(deadline_s=DEADLINE_S)
        self._services = [
            Service(name, [address], stub, bounds)
            for name, stub in (
                ("content", content_pb2_grpc.ContentServiceStub),
                ("graph", graph_pb2_grpc.GraphServiceStub),
                ("ranking", ranking_pb2_grpc.RankingServiceStub),
            )
        ]
        content, graph, ranking = self._services
        self.contents = CollaboratorContentSource(content)
        self.graph = CollaboratorGraphSource(graph, SystemClock())
        self.ranker = CollaboratorRanker(ranking)

    async def close(self) -> None:
        """Ends the channels."""
        for service in self._services:
            await service.close()


class Opening:
    """One process: an embedded store whose graph and contents are asked of collaborators."""

    def __init__(self, local: EmbeddedStore, clients: Clients) -> None:
        self.feeds, self.posts, self.preferences = local.feeds, local.posts, local.preferences
        self.signals, self.queue, self.settings = local.signals, local.queue, local.settings
        self.validation = local.validation
        self.contents, self.graph = clients.contents, clients.graph


class CollaboratorEngine:
    """See `tests.contract.engine.Engine` and `tests.contract.suite_ranker.RankerEngine`."""

    # The contracts have no bulk writes, do not list users, and know nothing of who was here lately.
    capabilities: frozenset[Capability] = frozenset()

    def __init__(self, local: EmbeddedEngine, transport: GrpcioTransport, port: int) -> None:
        self.clock = local.clock
        self._local = local
        self._transport = transport
        self._clients = [Clients(f"127.0.0.1:{port}") for _ in range(2)]
        self.store = Opening(local.store, self._clients[0])
        self.other = Opening(local.other, self._clients[1])
        self.ranker = self._clients[0].ranker
        self.settle, self.jobs = local.settle, local.jobs
        self.mark_inactive, self.write_seen = local.mark_inactive, local.write_seen
        self.load_follows = local.load_follows

    async def go_away(self) -> None:
        """The services end; their addresses refuse connections."""
        await self._transport.stop(0.0)

    async def close(self) -> None:
        """Ends clients and services."""
        for clients in self._clients:
            await clients.close()
        await self.go_away()


@asynccontextmanager
async def opened(local: EmbeddedEngine) -> AsyncIterator[CollaboratorEngine]:
    """The services serve the directory of `local`."""
    api = wire_collaborators(compose_over(local.store, HotSettings(), local.clock), SystemClock())
    transport = GrpcioTransport(api.dispatcher, SystemClock())
    engine = CollaboratorEngine(local, transport, await transport.start("127.0.0.1", 0))
    try:
        yield engine
    finally:
        await engine.close()
