"""Clients of the collaborators that the settings name, in place of what is built in.

Not for the clients themselves: those are `adapters.collaborators`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from feedcore.adapters.collaborators import (
    Bounds,
    CollaboratorContentSource,
    CollaboratorGraphSource,
    CollaboratorRanker,
    Service,
)
from feedcore.clock import Clock
from feedcore.config import CollaboratorSettings
from feedcore.ports import ContentSource, GraphSource, Ranker
from feedcore_pb.collaborators.v1 import content_pb2_grpc, graph_pb2_grpc, ranking_pb2_grpc


class Collaborators(NamedTuple):
    """Other services in place of what is built in; None: the store's own, or the formula."""

    contents: ContentSource | None = None
    graph: GraphSource | None = None
    ranker: Ranker | None = None


BUILT_IN = Collaborators()


@asynccontextmanager
async def open_collaborators(
    settings: CollaboratorSettings, clock: Clock
) -> AsyncIterator[Collaborators]:
    """Channels to the services that the settings name, closed with the block; the loop that calls
    them opens them.
    """
    async with AsyncExitStack() as opened:

        def client(name: str, stub: Any) -> Service:
            bounds = Bounds(settings.deadline_ms / 1e3, settings.active, settings.active)
            service = Service(name, getattr(settings, name), stub, bounds)
            opened.push_async_callback(service.close)
            return service

        contents = graph = ranker = None
        if settings.content:
            content_client = client("content", content_pb2_grpc.ContentServiceStub)
            contents = CollaboratorContentSource(content_client)
        if settings.graph:
            graph_client = client("graph", graph_pb2_grpc.GraphServiceStub)
            graph = CollaboratorGraphSource(graph_client, clock)
        if settings.ranking:
            ranker = CollaboratorRanker(client("ranking", ranking_pb2_grpc.RankingServiceStub))
        yield Collaborators(contents, graph, ranker)
