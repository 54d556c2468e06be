"""Connections that a worker refuses as they come: nothing that they bring is looked at."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

from grpc_health.v1 import health_pb2

from feedcore.clock import SystemClock
from feedcore.config import Settings
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.processes.acceptor import Channel
from feedcore_server.processes.child import Child
from feedcore_server.processes.open_files import OpenFiles
from feedcore_server.processes.serving import HandedOver
from feedcore_server.registry import Registry
from feedcore_server.transports.native import Bounds, Certificates, NativeTransport, TlsFiles
from tests.support.certificates import Authority
from tests.support.rawframes import PREFACE, SETTINGS, call, frame
from tests.support.tls import context, eager

PATIENCE_S = 30.0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.01)


async def test_a_refused_connection_reaches_no_handler(tmp_path: Path) -> None:
    """On asyncio's own loop, which hands out what came together with the handshake."""
    authority = Authority(tmp_path)
    called: list[str] = []

    async def check(_request: object, call: CallContext) -> bytes:
        called.append(call.peer)
        return b""

    registry = Registry()
    service = health_pb2.DESCRIPTOR.services_by_name["Health"]
    registry.add_service(service, {"Check": check, "List": check, "Watch": check})
    certificates = Certificates(TlsFiles(*authority.issue("in-process")))
    transport = NativeTransport(Dispatcher(registry, []), SystemClock(), certificates)
    port = await transport.start("127.0.0.1", 0)
    early = PREFACE + frame(SETTINGS) + call("/grpc.health.v1.Health/Check", b"")

    def connect(*alpn: str) -> bytes:
        """The first bytes of the answer."""
        with eager(f"127.0.0.1:{port}", context(authority, *alpn), early) as (_, answers):
            return next(answers, b"")

    try:
        assert await asyncio.to_thread(connect, "h2")
        await asyncio.to_thread(until, lambda: len(called) == 1, "no call is handled")
        assert await asyncio.to_thread(connect) == b""
        connections = transport.worker.connections
        await asyncio.to_thread(until, lambda: not connections, "it is not closed")
    finally:
        await transport.stop(0)
    assert len(called) == 1


async def test_handshakes_under_way_have_the_bound_of_connections(tmp_path: Path) -> None:
    """Peers that connect and never shake hands: a worker holds no more of them than of others."""
    certificate, key = Authority(tmp_path).issue("server")
    settings = Settings.model_validate(
        {"server": {"tls_certificate": str(certificate), "tls_key": str(key)}}
    )
    channel = Channel()
    child = Child(settings, "api", 0, 0, 0, os.dup(channel.theirs.fileno()), -1)
    dispatcher, clock, files = Dispatcher(Registry(), []), SystemClock(), OpenFiles("api")
    serving = HandedOver(child, dispatcher, clock, files, Bounds(connections_max=3))
    await serving.start("127.0.0.1", 0)
    ours: list[socket.socket] = []
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            for _ in range(5):
                ours.append(socket.create_connection(listener.getsockname()))
                with listener.accept()[0] as theirs:
                    assert channel.hand_over(theirs)

        def closed() -> list[socket.socket]:
            return [one for one in ours if select.select([one], [], [], 0)[0]]

        await asyncio.to_thread(until, lambda: len(closed()) == 2, "three are held, no more")
        assert [one.recv(1) for one in closed()] == [b"", b""]
    finally:
        for one in ours:
            one.close()
        await serving.stop(1)
        channel.close()
