"""Collaborators that the settings name, in place of what is built in.

Part of the composition root, beside `profiles`. Not for the clients themselves: those are
`adapters.collaborators`.
"""

from __future__ import annotations

from typing import Any

from feedcore.adapters.collaborators import (
    Bounds,
    CollaboratorContentSource,
    CollaboratorGraphSource,
    CollaboratorRanker,
    Service,
)
from feedcore.clock import Clock
from feedcore.config import CollaboratorSettings
from feedcore.services.engine import Collaborators
from feedcore_pb.collaborators.v1 import content_pb2_grpc, graph_pb2_grpc, ranking_pb2_grpc


class Outside:
    """Made and closed in the loop that calls them."""

    def __init__(self, settings: CollaboratorSettings, clock: Clock) -> None:
        self._settings = settings
        self._services: list[Service] = []
        contents = graph = ranker = None
        if settings.content:
            content = self._open("content", content_pb2_grpc.ContentServiceStub)
            contents = CollaboratorContentSource(content)
        if settings.graph:
            follows = self._open("graph", graph_pb2_grpc.GraphServiceStub)
            graph = CollaboratorGraphSource(follows, clock)
        if settings.ranking:
            ranking = self._open("ranking", ranking_pb2_grpc.RankingServiceStub)
            ranker = CollaboratorRanker(ranking)
        self.collaborators = Collaborators(contents, graph, ranker)

    async def close(self) -> None:
        """Ends the channels."""
        for service in self._services:
            await service.close()

    def _open(self, name: str, stub: Any) -> Service:
        settings = self._settings
        bounds = Bounds(settings.deadline_ms / 1e3, settings.active, settings.active)
        service = Service(name, getattr(settings, name), stub, bounds)
        self._services.append(service)
        return service
