"""Processes of the server: drain, restart, nobody left behind, faults at the start."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil

from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2, publish_pb2_grpc
from tests.support.server import ServerProcess

PATIENCE_S = 20.0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.02)


def children(server: ServerProcess, module: str) -> list[psutil.Process]:
    """Live child processes that run this module of the server."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        try:
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and f"feedcore_server.processes.{module}" in (process.cmdline())
            ):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def runs(process: psutil.Process) -> bool:
    """Whether it is alive; one that ended and is not reaped yet is not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def publish(server: ServerProcess, key: str) -> int:
    """Over a connection of its own that tries again soon: the worker may be starting."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 200),
    ]
    with grpc.insecure_channel(server.address, options=options) as channel:
        request = publish_pb2.PublishRequest(author_id=1, body="hello", idempotency_key=key)
        stub = publish_pb2_grpc.PublishServiceStub(channel)
        return stub.Publish(request, timeout=PATIENCE_S, wait_for_ready=True).content_id


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "feedcore_server", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_one_fanout_and_n_workers_share_a_port(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", workers=2) as server:
        assert len(children(server, "worker")) == 2
        assert len(children(server, "fanout")) == 1
        assert "(2 workers, pid " in "".join(server.lines)
        assert server.stop() == 0
    assert not list((tmp_path / "data").glob("metrics-*"))


def test_a_drain_loses_no_call(tmp_path: Path) -> None:
    """Every call that a handler has seen ends well; later ones fail in a way that gRPC lets callers
    retry. grpc.aio answers calls that arrive in the moment of its shutdown with CANCELLED.
    """
    with ServerProcess(tmp_path / "data", workers=2) as server:
        outcomes: list[str] = []
        going = threading.Event()

        def caller(name: int) -> None:
            for number in range(10_000):
                request = publish_pb2.PublishRequest(
                    author_id=1, body="x", idempotency_key=f"{name}-{number}"
                )
                try:
                    server.publish.Publish(request, timeout=PATIENCE_S)
                except grpc.RpcError as error:
                    outcomes.append(error.code().name)
                    return
                going.set()

        callers = [threading.Thread(target=caller, args=(n,)) for n in range(8)]
        for thread in callers:
            thread.start()
        assert going.wait(PATIENCE_S)
        server.process.send_signal(signal.SIGTERM)  # the callers' channel stays open
        assert server.process.wait(PATIENCE_S) == 0
        for thread in callers:
            thread.join(PATIENCE_S)
        assert len(outcomes) == 8 and set(outcomes) <= {"UNAVAILABLE", "CANCELLED"}
        published = [line for line in server.lines if '"operation": "Publish"' in line]
        assert published and all('"status": "ok"' in line for line in published)


def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", workers=1) as server:
        first = publish(server, "one")
        for module in ("worker", "fanout"):
            (victim,) = children(server, module)
            victim.kill()
            until(
                lambda module=module, gone=victim.pid: (
                    [c.pid for c in children(server, module)] not in ([], [gone])
                ),
                f"no new {module}",
            )
            assert publish(server, "one") == first, "the idempotency key is remembered"
            assert publish(server, f"after {module}") > first
        page = server.feed.GetFeed(
            feed_pb2.GetFeedRequest(user_id=1), timeout=PATIENCE_S, wait_for_ready=True
        )
        assert len(page.items) == 3
        assert sum('"restarting"' in line for line in server.lines) == 2


def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data", workers=2)
    try:
        left = psutil.Process(server.process.pid).children(recursive=True)
        assert len(left) == 3
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(PATIENCE_S)
        until(lambda: not any(runs(process) for process in left), "some process is left")
    finally:
        server.kill()
    with ServerProcess(tmp_path / "data") as again:
        assert publish(again, "after") > 0
        assert len(list((tmp_path / "data").glob("metrics-*"))) == 1, "the old one is removed"


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--set", "server.drain_grace_s=60", workers=1) as server:
        never = threading.Event()

        def requests() -> Iterator[admin_pb2.ImportBatch]:
            yield admin_pb2.ImportBatch(batch_id=1)
            never.wait(PATIENCE_S)

        stream = server.admin.Import(requests())  # a call that lasts as long as its caller likes
        next(stream)
        began_s = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert server.process.poll() is None, "the drain waits for the call"
        server.process.send_signal(signal.SIGINT)
        server.process.wait(PATIENCE_S)
        assert time.monotonic() - began_s < PATIENCE_S
        never.set()


def test_a_port_in_use_is_a_clear_error(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_module(f"server.listen=127.0.0.1:{port}", f"store.data_dir={tmp_path}/data")
    assert done.returncode == 1
    assert f"server.listen 127.0.0.1:{port}" in done.stderr and "in use" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_store_that_cannot_be_opened_is_a_clear_error(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "store.db").write_bytes(b"something else entirely" * 500)
    done = run_module("server.listen=127.0.0.1:0", f"store.data_dir={data_dir}")
    assert done.returncode == 1
    (line,) = [
        line for line in done.stderr.splitlines() if line.startswith("feedcore cannot start")
    ]
    assert "store.db" in line
    assert (data_dir / "store.db").read_bytes() == b"something else entirely" * 500


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        done = run_module("server.listen=127.0.0.1:0", f"store.data_dir={tmp_path}/data")
        assert done.returncode == 1
        assert "fan-out process already" in done.stderr
        assert publish(server, "still here") > 0


def test_an_unknown_setting_is_refused() -> None:
    done = run_module("server.listn=127.0.0.1:0")
    assert done.returncode == 2 and "server.listen" in done.stderr
