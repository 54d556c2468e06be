"""A worker's transport as the settings want it, with where its connections come from.

grpcio listens itself, on a port that all workers share. The native transport is handed its
connections by the supervisor's acceptor; the number of open ones goes back the same way.
"""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any, Protocol

from feedcore.clock import Clock
from feedcore.config import ServerSettings
from feedcore.observe import logs
from feedcore.resilience import tasks
from feedcore_server import limits
from feedcore_server.dispatch import Dispatcher
from feedcore_server.processes.acceptor import Intake
from feedcore_server.processes.child import Child
from feedcore_server.processes.open_files import OpenFiles
from feedcore_server.transports import NATIVE, Transport


class Serving(Transport, Protocol):
    """A transport that says how it fares."""

    def open_connections(self) -> int:
        """Connections that are open."""

    def is_full(self) -> bool:
        """Whether the next call would be refused."""


def serving_of(child: Child, dispatcher: Dispatcher, clock: Clock, files: OpenFiles) -> Serving:
    """The transport that the settings name; the supervisor has chosen already. Raises
    ConfigError."""
    if child.settings.server.transport == NATIVE:
        return HandedOver(child, dispatcher, clock, files)
    from feedcore_server.transports.grpcio import GrpcioTransport

    return GrpcioTransport(dispatcher, clock, tls=child.settings.server)


class HandedOver:
    """The native transport on connections that the supervisor has accepted."""

    def __init__(
        self,
        child: Child,
        dispatcher: Dispatcher,
        clock: Clock,
        files: OpenFiles,
        bounds: Any = None,
    ) -> None:
        # Only where it was chosen: its compiled modules may be missing elsewhere.
        from feedcore_server.transports.native import NativeTransport

        server = child.settings.server
        self._child = child
        self._files = files
        self._transport = NativeTransport(
            dispatcher, clock, certificates_of(server), bounds or bounds_of(server)
        )
        self._adopting: set[asyncio.Task[None]] = set()
        self._intake: Intake | None = None
        self._telemetry: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Takes connections from now on; the supervisor listens on the address."""
        loop = asyncio.get_running_loop()
        worker = self._transport.worker
        self._transport.prepare()
        self._intake = Intake(self._child.channel_fd, loop, self._adopt, self.open_connections)
        worker.on_change = self._intake.changed
        self._telemetry = tasks.start(self._publish(), "transport metrics")
        return port

    async def stop(self, grace_s: float) -> None:
        """See Transport. What was handed over and is still on its way is drained, too."""
        assert self._intake is not None and self._telemetry is not None
        worker = self._transport.worker
        self._intake.close()
        worker.drain(grace_s)  # callers hear of it now, also those that are still shaking hands
        if self._adopting:
            await asyncio.wait(self._adopting, timeout=grace_s)
        await self._transport.stop(worker.drain_grace_s())
        self._telemetry.cancel()
        await asyncio.wait([self._telemetry])
        self._transport.worker.counters.publish()

    def is_full(self) -> bool:
        """See Serving."""
        return self._transport.worker.calls.full

    def open_connections(self) -> int:
        """Connections, those whose handshake is under way included: callers far away shake hands
        for a while, and the next one that comes must not find this worker empty."""
        return len(self._transport.worker.connections) + len(self._adopting)

    def _adopt(self, accepted: socket.socket) -> None:
        worker, refusal = self._transport.worker, ""
        # One is always let in: somebody must be able to ask what is wrong.
        if self.open_connections() and not self._files.admits(accepted.fileno()):
            refusal = "too_few_open_files"
        elif self.open_connections() >= worker.bounds.connections_max:
            refusal = "too_many_connections"
        if refusal:
            worker.counters.cut_off(refusal)
            accepted.close()
            return
        task = asyncio.get_running_loop().create_task(self._serve(accepted))
        self._adopting.add(task)
        task.add_done_callback(self._adopted)

    def _adopted(self, task: asyncio.Task[None]) -> None:
        assert self._intake is not None
        self._adopting.discard(task)
        self._intake.changed()

    async def _serve(self, accepted: socket.socket) -> None:
        try:
            await self._transport.adopt(accepted)
        except OSError as error:  # TLS that fails, or a peer that has gone: not our fault
            logs.get("transport").info("connection not opened", detail=str(error))

    async def _publish(self) -> None:
        while True:
            self._transport.worker.counters.publish()
            await asyncio.sleep(limits.METRICS_REFRESH_S)


def bounds_of(server: ServerSettings) -> Any:
    """Bounds with what the settings change."""
    from feedcore_server.transports.native import Bounds

    return Bounds(
        age_s=server.max_connection_age_s or math.inf,
        age_grace_s=server.max_connection_age_grace_s or math.inf,
        idle_s=server.max_connection_idle_s or math.inf,
    )


def certificates_of(server: ServerSettings) -> Any:
    """The TLS context of the settings; None without TLS. Raises ConfigError."""
    if server.tls_certificate is None or server.tls_key is None:
        return None
    from feedcore_server.transports.native import Certificates, TlsFiles

    return Certificates(TlsFiles(server.tls_certificate, server.tls_key, server.tls_client_ca))
