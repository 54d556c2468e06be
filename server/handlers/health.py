"""grpc.health.v1.Health: is this worker serving, over all ("") and for each service; is it alive.

Two questions, for two kinds of probes. Readiness ("" and the names of services): should calls come
here? Liveness (`liveness`): SERVING whenever it is answered at all, so that nothing restarts a
worker for a drain or for having too much to do.

    readiness      while
    NOT_SERVING    the worker has not begun to serve, or drains (for good)
    NOT_SERVING    something has a fault that callers meet (`set_fault`)
    SERVING        else

Invariants: Watch sends the state at once and then on each change; it ends with the call, or when
the worker does. A service that is not known is NOT_FOUND for Check and SERVICE_UNKNOWN for Watch,
as the standard says. Where the transport can, Check is answered by a fast handler and Watch by a
standing one: probes come often, clients with health checks hold a Watch each, and what both ask for
is one of a few byte strings. A change is told to WATCHERS_PER_TURN watchers in one turn of the
loop, and whoever comes later in line hears the state that is the newest by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

from grpc_health.v1 import health_pb2 as pb

from feedcore.errors import FeedcoreError, NotFound
from feedcore_server import limits
from feedcore_server.context import CallContext
from feedcore_server.registry import FastHandler, Handlers, StandingHandler, Watcher

LIVENESS = "liveness"
_SERVING = pb.HealthCheckResponse.SERVING
_NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING


class TooManyServices(FeedcoreError):
    """More services than one reply may list: ask for each by its name."""

    status = "resource_exhausted"
    reason = "TOO_MANY_SERVICES"


class _Watch:
    """One watcher without a task: the service it asked for, and what it was told last."""

    __slots__ = ("service", "told", "watcher")

    def __init__(self, service: str, watcher: Watcher) -> None:
        self.service = service
        self.watcher = watcher
        self.told = b""


class HealthHandlers(Handlers):
    """One state for the whole worker: it serves all of its services or none."""

    SERVICE = pb.DESCRIPTOR.services_by_name["Health"]

    def __init__(self) -> None:
        self._services = {"", LIVENESS}
        self._begun = False
        self._faults: dict[str, str] = {}  # by what has it
        self._serving = False  # what probes are told
        self._prebuilt: dict[bytes, bytes] = {}  # request -> reply of Check, for the state as it is
        self._ending = False
        self._changed = asyncio.Event()
        self._watches: set[_Watch] = set()
        self._untold: list[_Watch] = []  # of the newest change
        self._telling = False
        self._prebuild()

    def fast_table(self) -> dict[str, FastHandler]:
        """Fast handlers by method name."""
        return {"Check": self.fast_check}

    def standing_table(self) -> dict[str, StandingHandler]:
        """Standing handlers by method name."""
        return {"Watch": self.watch_standing}

    def add(self, services: Iterable[str]) -> None:
        """Makes services known; before serving."""
        self._services.update(services)
        self._prebuild()

    def set_serving(self, serving: bool) -> None:
        """The worker begins or ends to serve."""
        self._begun = serving
        self._decide()

    def set_fault(self, fault: str, of: str = "store") -> None:
        """What callers meet because of one part, "" if nothing: readiness says the same as calls
        do."""
        self._faults[of] = fault
        self._decide()

    def end(self) -> None:
        """NOT_SERVING for good; watchers hear it and their calls end: a drain need not wait."""
        self._ending = True
        self.set_serving(False)
        # Also where nothing has changed: their calls end.
        self._changed.set()
        self._tell_watchers()

    def _decide(self) -> None:
        """Wakes every watcher if probes are told something else from now on."""
        serving = self._begun and not any(self._faults.values()) and not self._ending
        if serving != self._serving:
            self._serving = serving
            self._prebuild()
            self._changed.set()
            self._changed = asyncio.Event()
            self._tell_watchers()

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

    def watch_standing(
        self, request: pb.HealthCheckRequest, watcher: Watcher
    ) -> Callable[[], None]:
        """`watch` for a transport that keeps the stream without a task."""
        watch = _Watch(request.service, watcher)
        self._watches.add(watch)
        self._tell(watch)
        return lambda: self._watches.discard(watch)

    def _tell_watchers(self) -> None:
        """Begins with all of them, whoever has heard of an earlier change by now."""
        self._untold = list(self._watches)
        if self._untold and not self._telling:
            self._telling = True
            self._tell_some()

    def _tell_some(self) -> None:
        some = self._untold[-limits.WATCHERS_PER_TURN :]
        del self._untold[-limits.WATCHERS_PER_TURN :]
        for watch in some:
            if watch in self._watches:
                self._tell(watch)
        self._telling = bool(self._untold)
        if self._telling:
            asyncio.get_running_loop().call_soon(self._tell_some)

    def _tell(self, watch: _Watch) -> None:
        state = self._response(watch.service).SerializeToString()
        if state != watch.told:
            watch.told = state
            watch.watcher.tell(state)
        if self._ending:
            watch.watcher.end()

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
        serving = self._serving or service == LIVENESS
        return pb.HealthCheckResponse(status=_SERVING if serving else _NOT_SERVING)
