"""grpc.health.v1.Health: is this worker serving, over all ("") and for each service; is it alive.

Two questions, for two kinds of probes. Readiness ("" and the names of services): should calls come
here? NOT_SERVING before serving, from the first moment of a drain, and while the store has a fault
that every caller meets. Liveness (`liveness`): SERVING whenever it is answered at all, also in a
drain, so that nothing restarts a worker for it.

Invariants: Watch sends the state at once and then on each change; it ends with the call, or when
the worker does. A service that is not known is NOT_FOUND for Check and SERVICE_UNKNOWN for Watch,
as the standard says. Check is answered by a fast handler where the transport has those: probes come
often, and what they ask for is one of a few byte strings.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1 import health_pb2 as pb

from feedcore.errors import FeedcoreError, NotFound
from feedcore_server import limits
from feedcore_server.context import CallContext
from feedcore_server.registry import FastHandler, Handlers

LIVENESS = "liveness"
_SERVING = pb.HealthCheckResponse.SERVING
_NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


class TooManyServices(FeedcoreError):
    """More services than one reply may list: ask for each by its name."""

    status = "resource_exhausted"


class HealthHandlers(Handlers):
    """One state for the whole worker: it serves all of its services or none."""

    SERVICE = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self) -> None:
        self._services = {"", LIVENESS}
        self._serving = False
        self._fault = ""
        self._prebuilt: dict[bytes, bytes] = {}  # request -> reply of Check, for the state as it is
        self._ending = False
        self._changed = asyncio.Event()
        self._prebuild()

    def fast_table(self) -> dict[str, FastHandler]:
        """Fast handlers by method name."""
        return {"Check": self.fast_check}

    def add(self, services: Iterable[str]) -> None:
        """Makes services known; before serving."""
        self._services.update(services)
        self._prebuild()

    def set_serving(self, serving: bool) -> None:
        """Changes the state and wakes every watcher."""
        if serving != self._serving:
            self._serving = serving
            self._tell()

    def set_fault(self, fault: str) -> None:
        """What every caller meets, "" if nothing: readiness says the same as calls do."""
        if bool(fault) != bool(self._fault):
            self._fault = fault
            self._tell()

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

    def fast_check(self, raw: bytes) -> bytes | None:
        """`check` on bytes; None for what is not known, or not written the usual way."""
        return self._prebuilt.get(raw)

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
            told = None
            while True:
                changed = self._changed
                state = self._response(request.service)
                if state != told:
                    told = state
                    yield state
                if self._ending:
                    return
                await changed.wait()

    def _tell(self) -> None:
        self._prebuild()
        self._changed.set()
        self._changed = asyncio.Event()

    def _prebuild(self) -> None:
        """Replies to the requests that every client sends: the shortest encodings."""
        self._prebuilt = {
            pb.HealthCheckRequest(service=service).SerializeToString(): self._response(
                service
            ).SerializeToString()
            for service in self._services
        }

    def _response(self, service: str) -> pb.HealthCheckResponse:
        if service not in self._services:
            return pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        serving = (self._serving and not self._fault) or service == LIVENESS
        return pb.HealthCheckResponse(status=_SERVING if serving else _NOT_SERVING)
