"""A server whose disk fills up, becomes read-only, or goes away: reads go on as long as they can,
nothing is acknowledged that is not kept, and status, health and log say what it is.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from tests.support.server import ServerProcess
from tests.support.smalldisk import failing_disk, fill, small_disk

DISK_MB = 200  # the reserve, below which publishes are refused, is 64 of them
READERS, AUTHOR = range(10, 30), 1
WITHIN_S = 30.0
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_MB) as mounted:
        yield mounted


@contextmanager
def served(disk: Path) -> Iterator[ServerProcess]:
    with ServerProcess(disk / "data", workers=2) as running:
        for reader in READERS:
            request = graph_pb2.FollowRequest(follower_id=reader, followee_id=AUTHOR)
            running.graph.Follow(request)
        yield running


@pytest.fixture
def server(disk: Path) -> Iterator[ServerProcess]:
    with served(disk) as running:
        yield running


def publish(server: ServerProcess) -> int:
    request = publish_pb2.PublishRequest(author_id=AUTHOR, body="x")
    return server.publish.Publish(request, timeout=10).content_id


def shown(server: ServerProcess, reader: int) -> list[int]:
    request = feed_pb2.GetFeedRequest(user_id=reader, page_size=100)
    page = server.feed.GetFeed(request, timeout=10, wait_for_ready=True)
    return [item.content_id for item in page.items]


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return error.code()  # type: ignore[attr-defined, no-any-return]
    return grpc.StatusCode.OK


def health(server: ServerProcess) -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.1)


def store_line(server: ServerProcess) -> tuple[bool, str]:
    reply = server.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=10)
    (found,) = [one for one in reply.components if one.name == "store"]
    return found.ok, found.detail


def children(server: ServerProcess) -> list[psutil.Process]:
    return psutil.Process(server.process.pid).children()


def test_a_full_disk_refuses_publishes_and_serves_pages(server: ServerProcess, disk: Path) -> None:
    made = [publish(server) for _ in range(20)]
    ballast = fill(disk)
    before = {child.pid for child in children(server)}
    assert status_of(lambda: publish(server)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    for reader in READERS:
        assert sorted(shown(server, reader)) == made
    # each in turn is replaced while there is not a byte left
    for child in children(server):
        child.send_signal(signal.SIGKILL)
        eventually(lambda: len(children(server)) == len(before), "a process was not replaced")
        for reader in READERS:
            eventually(lambda reader=reader: reads(server, reader, made), "no page any more")
    assert not any("SIGBUS" in line or "ended with -7" in line for line in server.lines)
    ballast.unlink()
    eventually(lambda: status_of(lambda: publish(server)) is grpc.StatusCode.OK, "no publish")
    assert len(shown(server, READERS[0])) == len(made) + 1


def reads(server: ServerProcess, reader: int, made: list[int]) -> bool:
    try:
        return sorted(shown(server, reader)) == made
    except grpc.RpcError:
        return False


def test_a_file_system_that_becomes_read_only_is_named(tmp_path: Path) -> None:
    with failing_disk(tmp_path / "disk", DISK_MB) as (disk, trigger), served(disk) as server:
        made = publish(server)
        trigger.write_text("a test")
        assert status_of(lambda: publish(server)) is grpc.StatusCode.UNAVAILABLE
        follow = graph_pb2.FollowRequest(follower_id=99, followee_id=AUTHOR)
        assert status_of(lambda: server.graph.Follow(follow)) is grpc.StatusCode.UNAVAILABLE
        assert shown(server, READERS[0]) == [made]
        eventually(lambda: health(server) == NOT_SERVING, "health stays green")
        ok, detail = store_line(server)
        assert not ok and "read-only" in detail and "remount" in detail
        assert any("read-only" in line for line in server.lines)


def test_a_directory_that_is_deleted_acknowledges_nothing(server: ServerProcess) -> None:
    publish(server)
    shutil.rmtree(server.data_dir)
    follow = graph_pb2.FollowRequest(follower_id=99, followee_id=AUTHOR)
    for call in (lambda: publish(server), lambda: server.graph.Follow(follow)):
        assert status_of(call) is grpc.StatusCode.UNAVAILABLE
    eventually(
        lambda: (
            status_of(lambda: health(server)) is not grpc.StatusCode.OK
            or health(server) == NOT_SERVING
        ),
        "health stays green",
    )
    assert any("removed or replaced" in line for line in server.lines)


def test_noise_in_the_store_is_named(server: ServerProcess) -> None:
    publish(server)
    path = server.data_dir / "store.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    code = status_of(lambda: shown(server, 77))
    assert code is grpc.StatusCode.DATA_LOSS
    eventually(lambda: health(server) == NOT_SERVING, "health stays green")
    ok, detail = store_line(server)
    assert not ok and "feedcore restore" in detail
    assert any("feedcore restore" in line for line in server.lines)
