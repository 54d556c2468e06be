"""The native transport of one worker: listeners, the connections they bring, and their end.

Listening is of three kinds: a TCP port shared by SO_REUSEPORT (`start`), a unix socket
(`start_unix`), and connections that another process has accepted and hands over (`adopt`: how the
supervisor spreads them). Invariants: every connection is in `Worker.connections` from its first
byte to its last; after `stop` none is left, and no handler either.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feedcore._native.http2.grpcframe import encode_metadata
from feedcore._native.http2.h2stream import Account, CallableFast, FastHandler, Row, Rules
from feedcore.clock import Clock
from feedcore.errors import Behind
from feedcore.observe import logs
from feedcore_server import limits
from feedcore_server.dispatch import Dispatcher
from feedcore_server.status import outcome_of, refusal_trailers
from feedcore_server.transports.native.bounds import Bounds
from feedcore_server.transports.native.calls import Calls
from feedcore_server.transports.native.connection import Connection
from feedcore_server.transports.native.counters import Counters
from feedcore_server.transports.native.pressure import Pressure
from feedcore_server.transports.native.tls import Certificates

HANDLERS_END_S = 5.0  # for handlers that were cancelled to clean up; then they are named in the log


class Worker:
    """What the connections of one worker share."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock, bounds: Bounds) -> None:
        self.loop: Any = None
        self.bounds = bounds
        self.now = clock.monotonic
        self.spread = random.random
        self.rules = Rules(bounds, refusal_trailers)
        self.received = Account(bounds.received_per_worker)
        self.sent = Account(bounds.sent_per_worker)
        # A view: asyncio's TLS fills it in slices, and a slice of a bytearray would be a copy.
        self.read_buffer = memoryview(bytearray(limits.READ_BUFFER_BYTES))
        self.methods = table(dispatcher)
        self.calls = Calls(bounds)
        self.counters = Counters(self)
        self.connections: set[Connection] = set()
        self.hosts: Counter[str] = Counter()
        self.on_change: Callable[[], None] = _nothing
        self.pressure = Pressure(
            bounds.shed_after_s,
            bounds.shed_lasting_s,
            bounds.shed_relief_s,
            lambda done: self.loop.call_soon(done),  # noqa: PLW0108 - the loop is known later
        )
        shed = outcome_of(Behind(bounds.shed_after_s * 1_000, bounds.shed_retry_ms), "")
        self.shed_text = shed.message
        self.shed_pairs = encode_metadata(list(shed.trailers))
        self.draining = False
        self.empty = asyncio.Event()  # no connection is left, once draining
        self._grace_until = math.inf
        self._log = logs.get("transport")

    def admit(self, connection: Connection) -> str:
        """Counts a new connection; why it must be refused, "" if it need not."""
        self.connections.add(connection)
        self.empty.clear()
        self.hosts[connection.host] += 1
        self.counters.accepted += 1
        self.on_change()
        if len(self.connections) > self.bounds.connections_max:
            return "too_many_connections"
        if self.hosts[connection.host] > self.bounds.connections_per_host_max:
            return "too_many_connections_of_a_host"
        return ""

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self.on_change()
        self.hosts[connection.host] -= 1
        if self.hosts[connection.host] <= 0:
            del self.hosts[connection.host]
        if self.draining and not self.connections:
            self.empty.set()

    def drain(self, grace_s: float) -> None:
        """Drains every connection, and those that still come."""
        self.draining = True
        self._grace_until = self.now() + grace_s
        for connection in list(self.connections):
            connection.drain(grace_s)
        if not self.connections:
            self.empty.set()

    def drain_grace_s(self) -> float:
        """What is left of the grace of a drain."""
        return max(0.0, self._grace_until - self.now())

    def report(self, error: BaseException) -> None:
        """A fault of ours, in a session or a fast handler: the log has the reason."""
        self._log.error("transport fault", exc_info=error)


def _nothing() -> None:
    """The default listener: does nothing."""


def table(dispatcher: Dispatcher) -> dict[bytes, Row]:
    """The rows of the dispatcher's registry, by path."""
    rows = {}
    for method in dispatcher.registry.methods():
        fast = method.fast
        if fast is not None and not isinstance(fast, FastHandler):
            fast = CallableFast(fast)
        kind = method.kind
        rows[method.path.encode()] = Row(
            method,
            dispatcher.chain(method),
            kind.one_request,
            kind.one_reply,
            fast,
            method.parser.plan.bytes_max,
        )
    return rows


class NativeTransport:
    """See the module. `certificates` None serves without TLS."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        clock: Clock,
        certificates: Certificates | None = None,
        bounds: Bounds | None = None,
    ) -> None:
        self.worker = Worker(dispatcher, clock, bounds or Bounds())
        self._certificates = certificates
        self._servers: list[asyncio.Server] = []

    def prepare(self) -> None:
        """Binds the transport to the running loop; before the first connection."""
        self._loop()

    async def start(self, host: str, port: int) -> int:
        """Listens on a TCP port that other workers may share; returns it. Raises OSError."""
        server = await self._loop().create_server(
            self._connection,
            host,
            port,
            reuse_port=True,
            backlog=limits.ACCEPT_BACKLOG,
            **self._tls_options(),
        )
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def start_unix(self, path: Path) -> None:
        """Listens on a unix socket, without TLS: the permissions of its folder say who may call.
        Raises OSError."""
        server = await self._loop().create_unix_server(
            self._connection, str(path), backlog=limits.ACCEPT_BACKLOG
        )
        self._servers.append(server)

    async def adopt(self, accepted: socket.socket) -> None:
        """Serves a connection that was accepted elsewhere; TLS happens here (not on unix sockets).
        Raises OSError if the connection cannot be opened."""
        options = {} if accepted.family == socket.AF_UNIX else self._tls_options()
        await self._loop().connect_accepted_socket(self._connection, accepted, **options)

    async def stop(self, grace_s: float) -> None:
        """Refuses new connections, sends callers elsewhere, waits for calls under way, cancels what
        is left after `grace_s` (CANCELLED)."""
        worker = self.worker
        for server in self._servers:
            server.close()
        worker.drain(grace_s)
        try:
            await asyncio.wait_for(worker.empty.wait(), grace_s + worker.bounds.linger_s)
        except TimeoutError:
            logs.get("transport").warning("peers do not close", left=len(worker.connections))
        for connection in list(worker.connections):
            connection.abort()
        if worker.calls.tasks:
            _, left = await asyncio.wait(worker.calls.tasks, timeout=HANDLERS_END_S)
            for task in left:
                logs.get("transport").error("handler ignores its end", task=task.get_name())
        if self._certificates is not None:
            await self._certificates.stop()

    def _connection(self) -> Connection:
        return Connection(self.worker)

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self.worker.loop is None:
            self.worker.loop = asyncio.get_running_loop()
            if self._certificates is not None:
                self._certificates.start()
        loop: asyncio.AbstractEventLoop = self.worker.loop
        return loop

    def _tls_options(self) -> dict[str, Any]:
        if self._certificates is None:
            return {}
        return {
            "ssl": self._certificates.context,
            "ssl_handshake_timeout": self.worker.bounds.tls_handshake_s,
            # It includes what is still to be sent to a slow peer.
            "ssl_shutdown_timeout": self.worker.bounds.write_stall_s,
        }
