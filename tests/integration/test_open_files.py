"""Limits of open files: raised where they can be, kept free for the store, and named by health,
status and log where they are too low."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from feedcore_server import limits
from tests.support.scrape import totals
from tests.support.server import ServerProcess

PATIENCE_S = 60.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.05)


def health(server: ServerProcess) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    request = health_pb2.HealthCheckRequest()
    return int(stub.Check(request, timeout=PATIENCE_S, wait_for_ready=True).status)


def component(server: ServerProcess, name: str) -> admin_pb2.ComponentStatus:
    status = server.admin.GetStatus(
        admin_pb2.GetStatusRequest(), timeout=PATIENCE_S, wait_for_ready=True
    )
    (found,) = [one for one in status.components if one.name == name]
    return found


def status_of(server: ServerProcess) -> str:
    """What the status says is wrong; or why there is none."""
    try:
        status = server.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"
    return " ".join(one.detail for one in status.components if not one.ok)


def said(server: ServerProcess) -> bool:
    return any('"too few open files"' in line for line in server.lines)


def child(server: ServerProcess, module: str) -> psutil.Process:
    (found,) = [
        one
        for one in psutil.Process(server.process.pid).children()
        if any(module in word for word in one.cmdline())
    ]
    return found


@pytest.mark.parametrize("open_files", [64, 40])
def test_too_low_a_limit_is_named_by_health_status_and_log(tmp_path: Path, open_files: int) -> None:
    with ServerProcess(tmp_path / "data", open_files=open_files) as server:
        until(lambda: health(server) == NOT_SERVING, "health says that it serves")
        # "too few; limit 64: raise the hard limit", or "no descriptors are left; raise"
        assert "ulimit" in status_of(server)
        until(lambda: said(server), "the log says nothing")
        for line in server.lines:
            if line.strip() and not line.startswith("feedcore "):
                json.loads(line)
        assert not any('"restarting"' in line for line in server.lines), (
            "too few is no reason to end"
        )


def test_every_process_raises_its_soft_limit(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = f'ulimit -Sn {limits.OPEN_FILES_MIN - 1}; exec "$@"'
    with ServerProcess(tmp_path / "data", "--metrics", "127.0.0.1:0", shell=lower) as server:
        supervisor = psutil.Process(server.process.pid)
        for process in (supervisor, *supervisor.children()):
            assert process.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard), process.cmdline()
        assert health(server) == SERVING
        assert component(server, "open files").ok


def test_a_reserve_is_kept_for_the_store_while_connections_come(tmp_path: Path) -> None:
    """With a limit that is low and enough: callers beyond it are refused, those within go on."""
    metrics = ("--metrics", "127.0.0.1:0")
    with ServerProcess(tmp_path / "data", *metrics, open_files=limits.OPEN_FILES_MIN) as server:
        assert health(server) == SERVING
        host, _, port = server.address.rpartition(":")
        idle = [
            socket.create_connection((host, int(port)), PATIENCE_S)
            for _ in range(limits.OPEN_FILES_MIN)
        ]
        try:
            until(lambda: said(server), "nobody says that callers are refused")
            worker = child(server, "processes.worker")
            kept_free = range(limits.OPEN_FILES_MIN * 3 // 4, limits.OPEN_FILES_MIN)
            until(
                lambda: not any(one.fd in kept_free for one in worker.net_connections("tcp")),
                "a connection has a descriptor of the reserve",
            )
            assert health(server) == SERVING, "who is connected is served"
            request = publish_pb2.PublishRequest(author_id=1, body="a", idempotency_key="a")
            server.publish.Publish(request, timeout=PATIENCE_S)
            server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=1), timeout=PATIENCE_S)
            until(lambda: totals(server)["feedcore_connections_cut_total"] >= 1, "none is counted")
        finally:
            for one in idle:
                one.close()
        until(lambda: component(server, "open files").ok, "it does not recover")


def test_a_limit_that_is_lowered_while_it_serves_is_noticed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        assert health(server) == SERVING
        worker = child(server, "processes.worker")
        before = worker.rlimit(psutil.RLIMIT_NOFILE)
        worker.rlimit(psutil.RLIMIT_NOFILE, (limits.OPEN_FILES_MIN // 2, before[1]))
        until(lambda: health(server) == NOT_SERVING, "health says that it serves")
        worker.rlimit(psutil.RLIMIT_NOFILE, before)
        until(lambda: health(server) == SERVING, "it does not recover")
