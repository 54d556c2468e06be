"""A server of grpc.testing.TestService for clients in other processes.

    python -m tests.support.testserver --transport grpcio --port 0

prints `ready PORT`, serves on loopback until SIGTERM, SIGINT or (with --while-stdin) the end of its
standard input, and drains. Reflection and health are served, too.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from typing import Any

import uvloop
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import SystemClock
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.reflection import V1_SERVICE, ReflectionHandlers
from feedcore_server.interceptors.tracing import traced
from feedcore_server.registry import Registry
from feedcore_server.transports import Transport
from tests.support.testservice import TestService
from tests.support.transports import TRANSPORTS, make_transport

DRAIN_GRACE_S = 2.0  # clients of tests have ended their calls long before


def build_registry() -> tuple[Registry, HealthHandlers]:
    """The test service, with what every server of the project has beside its own services."""
    registry, health, reflection = Registry(), HealthHandlers(), ReflectionHandlers()
    TestService().add_to(registry)
    health.add(registry.services())
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(health_service, health.table(), prefix="Health")
    service = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    registry.add_service(service, reflection.table())
    registry.add_service(service, reflection.table(), name=V1_SERVICE)
    reflection.set_services(registry.services())
    return registry, health


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until told to stop."""
    registry, health = build_registry()
    clock = SystemClock()
    # Tracing is the interceptor that shows on the wire: a trailer beside those of the handlers.
    dispatcher = Dispatcher(registry, [traced()])
    tls = {"cert": arguments.tls_cert, "key": arguments.tls_key} if arguments.tls_cert else None
    transport: Transport = make_transport(arguments.transport, dispatcher, clock, tls)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.while_stdin:
        await loop.connect_read_pipe(lambda: _Input(stop), sys.stdin)
    port = await transport.start(arguments.host, arguments.port)
    health.set_serving(True)
    print(f"ready {port}", flush=True)
    await stop.wait()
    health.end()
    await transport.stop(DRAIN_GRACE_S)


class _Input(asyncio.Protocol):
    """Stops the server at the end of the input: whoever started it has gone."""

    def __init__(self, stop: asyncio.Event) -> None:
        self._stop = stop

    def connection_lost(self, _error: Any) -> None:
        self._stop.set()


def main() -> None:
    """Parses the flags and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", choices=sorted(TRANSPORTS), default="grpcio")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free one")
    parser.add_argument("--tls-cert", help="PEM; with --tls-key: TLS on this port (native only)")
    parser.add_argument("--tls-key", help="PEM")
    parser.add_argument("--while-stdin", action="store_true", help="end with standard input")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
