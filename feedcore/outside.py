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
from feedcore.ports.ranker import Ranker
from feedcore_pb.collaborators.v1 import content_pb2_grpc, graph_pb2_grpc, ranking_pb2_grpc


class Outside:
    """Made and closed in the loop that calls them."""

    def __init__(self, settings: CollaboratorSettings, clock: Clock) -> None:
        self._settings = settings
        self._services: list[Service] = []
        self._ports: dict[str, Any] = {}
        self.ranker: Ranker | None = None
        if settings.content:
            content = self._open("content", content_pb2_grpc.ContentServiceStub)
            self._ports["contents"] = CollaboratorContentSource(content)
        if settings.graph:
            graph = self._open("graph", graph_pb2_grpc.GraphServiceStub)
            self._ports["graph"] = CollaboratorGraphSource(graph, clock)
        if settings.ranking:
            ranking = self._open("ranking", ranking_pb2_grpc.RankingServiceStub)
            self.ranker = CollaboratorRanker(ranking)

    @property
    def serves_data(self) -> bool:
        """Whether pages need more than the store has: none is then made from memory alone."""
        return bool(self._ports)

    def instead(self, store: Any) -> Any:
        """The store with its ports replaced."""
        return _Replaced(store, self._ports) if self._ports else store

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


class _Replaced:
    """A store, some of whose ports are somebody else's."""

    def __init__(self, store: Any, ports: dict[str, Any]) -> None:
        self._store = store
        self.__dict__.update(ports)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)
