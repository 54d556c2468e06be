"""grpc.health.v1.Health: is this worker serving, over all ("") and for each service.

Invariant: Watch sends the state at once and then on each change; it ends with the call, or when
the worker does. A service that is not known is NOT_FOUND for Check and SERVICE_UNKNOWN for Watch,
as the standard says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from feedcore.errors import FeedcoreError, NotFound
from feedcore_server import limits
from feedcore_server.context import CallContext


class TooManyServices(FeedcoreError):
    """More services than one reply may list: ask for each by its name."""

    status = "resource_exhausted"


class HealthHandlers:
    """One state for the whole worker: it serves all of its services or none."""

    def __init__(self) -> None:
        self._services = {""}
        self._serving = False
        self._ending = False
        self._changed = asyncio.Event()

    def table(self) -> dict[str, Any]:
        """Handlers by method name."""
        return {"Check": self.check, "List": self.list, "Watch": self.watch}

    def add(self, services: Iterable[str]) -> None:
        """Makes services known; before serving."""
        self._services.update(services)

    def set_serving(self, serving: bool) -> None:
        """Changes the state and wakes every watcher."""
        if serving != self._serving:
            self._serving = serving
            self._changed.set()
            self._changed = asyncio.Event()

    def end(self) -> None:
        """NOT_SERVING for good; watchers hear it and their calls end: a drain need not wait."""
        self._ending = True
        self.set_serving(False)

    async def check(
        self, request: pb.HealthCheckRequest, _call: CallContext
    ) -> pb.HealthCheckResponse:
        """The state now."""
        if request.service not in self._services:
            raise NotFound("service: not served here; list the services with reflection")
        return self._response(request.service)

    async def list(
        self, _request: pb.HealthListRequest, _call: CallContext
    ) -> pb.HealthListResponse:
        """The state of every service, of as many as the standard allows."""
        if len(self._services) > limits.HEALTH_SERVICES_MAX:
            raise TooManyServices(
                f"{len(self._services)} services; a list has at most {limits.HEALTH_SERVICES_MAX}"
            )
        return pb.HealthListResponse(
            statuses={service: self._response(service) for service in sorted(self._services)}
        )

    async def watch(
        self, requests: AsyncIterator[pb.HealthCheckRequest], _call: CallContext
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """The state now, and each change."""
        async for request in requests:
            while True:
                changed = self._changed
                yield self._response(request.service)
                if self._ending:
                    return
                await changed.wait()

    def _response(self, service: str) -> pb.HealthCheckResponse:
        status = (
            pb.HealthCheckResponse.SERVING if self._serving else pb.HealthCheckResponse.NOT_SERVING
        )
        if service not in self._services:
            status = pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse(status=status)
