"""SIGHUP under load: workers are replaced one after the other, and no caller sees a failed call.

Measured from the callers' side: every call that they made has ended well, none took longer than a
call may. 3 restarts; 20 in the long run.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc, publish_pb2, publish_pb2_grpc
from tests.support.server import ServerProcess

LONG = os.environ.get("FEEDCORE_LONG") == "1"
RESTARTS = 20 if LONG else 3
CALLERS = 6
CALL_TIMEOUT_S = 30.0
RESTART_WITHIN_S = 60.0


@dataclass(slots=True)
class Ledger:
    """What the callers saw."""

    calls: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    ids: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def call_until(stop: threading.Event, address: str, number: int, ledger: Ledger) -> None:
    """Publishes and loads over a connection of its own. C-core's transparent retries stay on, as
    they are by default: a call that it has not sent yet when GOAWAY comes is its own to send
    elsewhere, and without them it fails in the client. No retry policy is set."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        publish = publish_pb2_grpc.PublishServiceStub(channel)
        feed = feed_pb2_grpc.FeedServiceStub(channel)
        made = 0
        while not stop.is_set():
            made += 1
            began_s = time.monotonic()
            try:
                request = publish_pb2.PublishRequest(
                    author_id=number + 1, body="x", idempotency_key=f"{number}-{made}"
                )
                content_id = publish.Publish(request, timeout=CALL_TIMEOUT_S).content_id
                feed.GetFeed(feed_pb2.GetFeedRequest(user_id=number + 1), timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                with ledger.lock:
                    ledger.failures.append(f"{error.code().name}: {error.details()}")
                continue
            with ledger.lock:
                ledger.calls += 2
                ledger.ids.append(content_id)
                ledger.slowest_s = max(ledger.slowest_s, time.monotonic() - began_s)


def count(server: ServerProcess, text: str) -> int:
    return sum(text in line for line in server.lines)


def restart(server: ServerProcess) -> None:
    """One rolling restart, to its end."""
    before = count(server, '"detail": "done after')
    server.process.send_signal(signal.SIGHUP)
    deadline_s = time.monotonic() + RESTART_WITHIN_S
    while count(server, '"detail": "done after') == before:
        assert time.monotonic() < deadline_s, "".join(server.lines[-20:])
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_call_fails_while_workers_are_replaced(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, stop = Ledger(), threading.Event()
    with ServerProcess(tmp_path / "data", "--log-level", "warning", workers=workers) as server:
        callers = [
            threading.Thread(target=call_until, args=(stop, server.address, number, ledger))
            for number in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        for _ in range(RESTARTS):
            restart(server)
        stop.set()
        for caller in callers:
            caller.join()
        assert server.stop() == 0
        assert count(server, '"restarting"') == 0, "nobody died"
    with capsys.disabled():
        print(
            f"\n{RESTARTS} rolling restarts of {workers} workers: {ledger.calls} calls,"
            f" {len(ledger.failures)} failed, slowest pair {ledger.slowest_s * 1_000:.0f} ms"
        )
    assert ledger.failures == []
    assert ledger.calls > RESTARTS * CALLERS
    assert len(set(ledger.ids)) == len(ledger.ids), "two workers gave one id"


def test_a_worker_that_cannot_start_leaves_the_old_one_serving(tmp_path: Path) -> None:
    """A renewed certificate that does not load stops the restart, not the service."""
    from tests.support.certificates import Authority

    certificate, key = Authority(tmp_path / "ca").issue("server")
    flags = [f"--set=server.tls_certificate={certificate}", f"--set=server.tls_key={key}"]
    with ServerProcess(tmp_path / "data", *flags, workers=1) as server:
        good = key.read_bytes()
        key.write_text("no key at all")
        server.process.send_signal(signal.SIGHUP)
        deadline_s = time.monotonic() + RESTART_WITHIN_S
        while not count(server, "stopped after"):
            assert time.monotonic() < deadline_s, "".join(server.lines[-20:])
            time.sleep(0.05)
        assert count(server, "the old worker serves on") == 1
        root = (tmp_path / "ca" / "authority.pem").read_bytes()
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials(root)) as channel:
            stub = feed_pb2_grpc.FeedServiceStub(channel)
            assert stub.GetFeed(feed_pb2.GetFeedRequest(user_id=1), timeout=CALL_TIMEOUT_S)
        key.write_bytes(good)
        restart(server)
