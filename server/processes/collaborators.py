"""The embedded implementations of the collaborators' contracts on a port of their own: one process.

Serves ContentService, GraphService and RankingService, health and reflection, nothing else, over an
embedded store that a server may be serving at the same time. For trying out and testing clients of
the contracts against a real service; not for production: no supervisor keeps it alive, and what it
writes is fanned out by the server of that directory.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import uvloop
from prometheus_client import REGISTRY

from feedcore.clock import SystemClock
from feedcore.compose import Role, compose
from feedcore.config import Settings, split_address
from feedcore.observe import logs
from feedcore_server import metrics_http
from feedcore_server.processes.open_files import raise_limit
from feedcore_server.transports.grpcio import GrpcioTransport
from feedcore_server.wiring import wire_collaborators


def run(settings: Settings, echo: Callable[[str], None]) -> int:
    """Serves until SIGTERM or SIGINT; `echo` prints a line. Raises StoreError and OSError if it
    cannot start.
    """
    raise_limit()
    logs.configure(settings.logging.level, settings.logging.format, role="collaborators")
    return uvloop.run(_serve(settings, echo))


async def _serve(settings: Settings, echo: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    clock = SystemClock()
    exporter: metrics_http.MetricsServer | None = None
    async with compose(settings, Role.COLLABORATORS, clock) as engine:
        api = wire_collaborators(engine, clock)
        transport = GrpcioTransport(api.dispatcher, clock, tls=settings.server)
        host, port = split_address(settings.server.listen)
        bound = await transport.start(host, port)
        if settings.server.metrics:
            address, wanted = split_address(settings.server.metrics)
            listener = metrics_http.listen(address, wanted)
            echo(f"feedcore metrics on http://{address}:{listener.getsockname()[1]}/metrics")
            exporter = metrics_http.MetricsServer(REGISTRY)
            await exporter.start(listener)
        api.health.set_serving(True)
        echo(f"feedcore ready on {host}:{bound} (collaborators)")
        await stop.wait()
        api.health.end()
        await transport.stop(settings.server.drain_grace_s)
        if exporter is not None:
            await exporter.stop()
    return 0
