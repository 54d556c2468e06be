"""Connections that come while no worker reads: they wait, in order, and none is closed."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import psutil

from feedcore_server.handlers.health import LIVENESS
from tests.support.rawframes import DATA, RawPeer, call
from tests.support.server import ServerProcess

PATIENCE_S = 60.0
# More than the channel of a worker holds (some 280), and fewer than the kernel's queue.
CALLERS = 600
CHECK = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"


def worker_of(server: ServerProcess) -> psutil.Process:
    """The only one."""
    (found,) = [
        child
        for child in psutil.Process(server.process.pid).children()
        if any("processes.worker" in word for word in child.cmdline())
    ]
    return found


def answered(peer: RawPeer) -> bytes:
    return peer.until(DATA)[3][5:]


def test_connections_wait_for_a_worker_that_is_busy(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", workers=1) as server:
        worker = worker_of(server)
        worker.suspend()  # busy for as long as we like
        host, _, port = server.address.rpartition(":")
        peers: list[RawPeer] = []
        try:
            for _ in range(CALLERS):
                peers.append(RawPeer(socket.create_connection((host, int(port)), PATIENCE_S)))
                peers[-1].sock.sendall(call(CHECK, b""))
            worker.resume()
            assert {answered(peer) for peer in peers} == {SERVING}
        finally:
            worker.resume()
            for peer in peers:
                peer.sock.close()
        said = "".join(server.lines)
        assert said.count("new connections wait") == said.count("connections wait no more") > 0


def test_a_connection_in_hand_outlives_the_worker_it_waited_for(tmp_path: Path) -> None:
    """What is in the channel of a worker that dies is lost with it; the rest goes to the next."""
    with ServerProcess(tmp_path / "data", workers=1) as server:
        worker = worker_of(server)
        worker.suspend()
        host, _, port = server.address.rpartition(":")
        peers: list[RawPeer] = []
        try:
            for _ in range(CALLERS):
                peers.append(RawPeer(socket.create_connection((host, int(port)), PATIENCE_S)))
                peers[-1].sock.sendall(call(CHECK, b"\x0a\x08" + LIVENESS.encode()))
            worker.send_signal(signal.SIGKILL)
            served = lost = 0
            for peer in peers:
                try:
                    assert answered(peer) == SERVING
                    served += 1
                except (EOFError, ConnectionError):
                    lost += 1
                    assert served == 0, "they wait in the order in which they came"
            assert served >= CALLERS // 3 and 0 < lost < CALLERS // 2
        finally:
            for peer in peers:
                peer.sock.close()
