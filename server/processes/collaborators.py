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
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import start_http_server

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import SystemClock
from feedcore.config import Settings, split_address
from feedcore.observe import logs
from feedcore.services.engine import Engine, build_engine
from feedcore_pb.collaborators.v1 import content_pb2, graph_pb2, ranking_pb2
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.content import ContentHandlers
from feedcore_server.handlers.graph import GraphHandlers
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.ranking import RankingHandlers
from feedcore_server.handlers.reflection import V1_SERVICE, ReflectionHandlers
from feedcore_server.registry import Registry
from feedcore_server.transports.grpcio import GrpcioTransport
from feedcore_server.wiring import hot_start, interceptors


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serves until SIGTERM or SIGINT; `say` prints a line. Raises StoreError and OSError if it
    cannot start.
    """
    logs.configure(settings.logging.level, settings.logging.format, role="collaborators")
    return uvloop.run(_serve(settings, say))


async def _serve(settings: Settings, say: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    clock = SystemClock()
    store = EmbeddedStore.open(settings.store.data_dir, clock)
    try:
        health = HealthHandlers()
        engine = build_engine(store, hot_start(settings.fanout), clock)
        registry = collaborators_registry(engine, health)
        chain = Dispatcher(registry, interceptors(store.secret, clock))
        transport = GrpcioTransport(chain, clock, tls=settings.server)
        host, port = split_address(settings.server.listen)
        bound = await transport.start(host, port)
        if settings.server.metrics:
            address, wanted = split_address(settings.server.metrics)
            exporter, _ = start_http_server(wanted, address)
            say(f"feedcore metrics on http://{address}:{exporter.server_port}/metrics")
        health.set_serving(True)
        say(f"feedcore ready on {host}:{bound} (collaborators)")
        await stop.wait()
        health.end()
        await transport.stop(settings.server.drain_grace_s)
    finally:
        await store.close()
    return 0


def collaborators_registry(engine: Engine, health: HealthHandlers) -> Registry:
    """The method table."""
    reflection = ReflectionHandlers()
    registry = Registry()
    for module, name, handlers in (
        (graph_pb2, "GraphService", GraphHandlers(engine.graph)),
        (content_pb2, "ContentService", ContentHandlers(engine.publish)),
        (ranking_pb2, "RankingService", RankingHandlers(engine.feed.viewers)),
    ):
        registry.add_service(module.DESCRIPTOR.services_by_name[name], handlers.table())
    health.add(registry.services())
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(health_service, health.table(), prefix="Health")
    reflection_service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    registry.add_service(reflection_service, reflection.table())
    registry.add_service(reflection_service, reflection.table(), name=V1_SERVICE)
    reflection.set_services(registry.services())
    return registry
