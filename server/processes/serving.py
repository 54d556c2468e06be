"""A worker's transport as the settings want it, with where its connections come from.

grpcio listens itself, on a port that all workers share. The native transport is handed its
connections by the supervisor's acceptor; the number of open ones goes back the same way.
"""

from __future__ import annotations

import asyncio
import math
import resource
import socket
from typing import Any

from feedcore.clock import Clock
from feedcore.config import ServerSettings
from feedcore.observe import logs
from feedcore.resilience import tasks
from feedcore_server import limits
from feedcore_server.dispatch import Dispatcher
from feedcore_server.processes.acceptor import Intake
from feedcore_server.processes.child import Child
from feedcore_server.transports import NATIVE, Transport


def serving_of(child: Child, dispatcher: Dispatcher, clock: Clock) -> Transport:
    """The transport that the settings name; the supervisor has chosen already. Raises
    ConfigError."""
    if child.settings.server.transport == NATIVE:
        return HandedOver(child, dispatcher, clock)
    from feedcore_server.transports.grpcio import GrpcioTransport

    return GrpcioTransport(dispatcher, clock, tls=child.settings.server)


class HandedOver:
    """The native transport on connections that the supervisor has accepted."""

    def __init__(self, child: Child, dispatcher: Dispatcher, clock: Clock) -> None:
        # Only where it was chosen: its compiled modules may be missing elsewhere.
        from feedcore_server.transports.native import NativeTransport

        server = child.settings.server
        self._child = child
        self._transport = NativeTransport(
            dispatcher, clock, certificates_of(server), bounds_of(server)
        )
        self._adopting: set[asyncio.Task[None]] = set()
        self._intake: Intake | None = None
        self._telemetry: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Takes connections from now on; the supervisor listens on the address."""
        loop = asyncio.get_running_loop()
        worker = self._transport.worker
        self._transport.prepare()
        self._intake = Intake(self._child.channel_fd, loop, self._adopt, self._open)
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

    def _open(self) -> int:
        """Connections, those whose handshake is under way included: callers far away shake hands
        for a while, and the next one that comes must not find this worker empty."""
        return len(self._transport.worker.connections) + len(self._adopting)

    def _adopt(self, accepted: socket.socket) -> None:
        worker = self._transport.worker
        if self._open() >= worker.bounds.connections_max:
            worker.counters.cut_off("too_many_connections")
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

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Bounds(
        connections_max=max(
            1, min(limits.CONNECTIONS_PER_WORKER_MAX, files - limits.OPEN_FILES_RESERVE)
        ),
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
