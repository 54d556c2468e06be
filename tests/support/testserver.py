"""A server for clients in other processes: grpc.testing.TestService, or feedcore's own services.

    python -m tests.support.testserver --transport grpcio --port 0
    python -m tests.support.testserver --data-dir DIRECTORY

prints `ready PORT`, serves on loopback until SIGTERM, SIGINT or (with --while-stdin) the end of its
standard input, drains, and prints `peers N`, the number of connections that unary calls came by.
Reflection and health are served beside either. `ServerUnderTest` runs it as a child that cannot
outlive its test.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvloop
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from feedcore.clock import Clock, SystemClock
from feedcore.compose import Role, compose
from feedcore.config import Settings, StoreSettings
from feedcore.observe import logs
from feedcore_server.dispatch import Dispatcher
from feedcore_server.handlers.health import HealthHandlers
from feedcore_server.handlers.reflection import V1_SERVICE, ReflectionHandlers
from feedcore_server.interceptors.tracing import traced
from feedcore_server.registry import Registry
from feedcore_server.transports.native import Bounds
from feedcore_server.wiring import wire
from tests.support.testservice import TestService
from tests.support.transports import TRANSPORTS, make_transport

ROOT = Path(__file__).resolve().parent.parent.parent
DRAIN_GRACE_S = 2.0  # clients of tests have ended their calls long before
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0


class ServerUnderTest:
    """The server as a child process; a context manager. Its end must be a clean one."""

    def __init__(self, *flags: str) -> None:
        command = [sys.executable, "-m", "tests.support.testserver", "--while-stdin", *flags]
        self._log = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self._process.stdout is not None
        # A server that hangs at its start is killed, which ends the line that is waited for.
        watch = threading.Timer(READY_WITHIN_S, self._process.kill)
        watch.start()
        first = self._process.stdout.readline()
        watch.cancel()
        if not first.startswith("ready "):
            self._process.kill()
            self._process.wait()
            raise RuntimeError(f"the server did not get ready:\n{self.log}")
        self.port = int(first.split()[1])
        self.last_words = ""  # what it printed at its end
        self.address = f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server has written to stderr."""
        self._log.seek(0)
        return self._log.read()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def __enter__(self) -> ServerUnderTest:
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self._process.stdin is not None
        early = self._process.poll()
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        assert early is None, f"the server ended by itself ({early}):\n{self.log}"
        assert code == 0, f"the server ended with {code}:\n{self.log}"
        assert self._process.stdout is not None
        self.last_words = self._process.stdout.read()


@asynccontextmanager
async def interop_services(older_reflection: bool) -> AsyncIterator[Dispatcher]:
    """TestService, with what every server of the project has beside its own services."""
    registry, health, reflection = Registry(), HealthHandlers(), ReflectionHandlers()
    service = TestService()
    service.add_to(registry)
    health.add(registry.services())
    health_service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(health_service, health.table(), prefix="Health")
    reflector = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
    registry.add_service(reflector, reflection.table())
    if not older_reflection:
        registry.add_service(reflector, reflection.table(), name=V1_SERVICE)
    reflection.set_services(registry.services())
    health.set_serving(True)
    # Tracing is the interceptor that shows on the wire: a trailer beside those of the handlers.
    yield Dispatcher(registry, [traced()])
    health.end()
    print(f"peers {len(service.peers)}", flush=True)


@asynccontextmanager
async def feedcore_services(data_dir: Path, clock: Clock) -> AsyncIterator[Dispatcher]:
    """What an API worker serves, on the store in `data_dir`."""
    settings = Settings(store=StoreSettings(data_dir=data_dir))
    async with compose(settings, Role.API, clock) as engine:
        api = wire(engine, settings.server, clock)
        api.health.set_serving(True)
        yield api.dispatcher
        api.health.end()


async def serve(arguments: argparse.Namespace) -> None:
    """Serves until told to stop."""
    logs.configure("warning", "console")
    clock, stop, loop = SystemClock(), asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.while_stdin:
        await loop.connect_read_pipe(lambda: _Input(stop), sys.stdin)
    services = interop_services(arguments.older_reflection)
    if arguments.data_dir:
        services = feedcore_services(arguments.data_dir, clock)
    async with services as dispatcher:
        tls = (arguments.tls_cert, arguments.tls_key) if arguments.tls_cert else None
        bounds = Bounds(age_s=arguments.age_s) if arguments.age_s else None
        transport = make_transport(arguments.transport, dispatcher, clock, tls, bounds)
        port = await transport.start(arguments.host, arguments.port)
        print(f"ready {port}", flush=True)
        await stop.wait()
        await transport.stop(DRAIN_GRACE_S)


class _Input(asyncio.Protocol):
    """Stops the server at the end of its input: its starter has gone."""

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
    parser.add_argument("--data-dir", type=Path, help="serve feedcore on this store instead")
    parser.add_argument("--age-s", type=float, help="end connections of this age; native only")
    parser.add_argument("--older-reflection", action="store_true", help="v1alpha alone, no v1")
    parser.add_argument("--tls-cert", type=Path, help="PEM; with --tls-key; native only")
    parser.add_argument("--tls-key", type=Path, help="PEM")
    parser.add_argument("--while-stdin", action="store_true", help="end with standard input")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
