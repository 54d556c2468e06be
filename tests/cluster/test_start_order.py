"""A server started before its engines, and engines that go and come under a server.

The engines are this test's own, since they are stopped: a Cassandra, a Kafka and a Redis, whose
starts take half a minute. Nothing here restarts the server.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from tests.support.clusterengine import Addresses
from tests.support.clusterservers import ClusterConfig
from tests.support.server import ServerProcess, feedcore
from tests.support.services import Engine, bring_up, run

KINDS = ("cassandra", "kafka", "redis")
READER, AUTHOR = 9, 1
SEEN_S = 30.0  # until a server says what it waits for
# An engine was away for longer than clients keep trying at once: on a busy machine they are back
# after a few of their pauses.
BACK_S = 90.0
CALL_S = 20.0

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Engine]]:
    """Up; of this file."""
    folder = tmp_path_factory.mktemp("engines")
    try:
        yield {kind: bring_up(folder, kind, 1) for kind in KINDS}
    finally:
        run(folder, "stop", "--at-once")


@pytest.fixture(scope="module")
def config(engines: dict[str, Engine], tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    """Without tables."""
    at = Addresses(*(engines[kind].address for kind in ("cassandra", "redis", "kafka")))
    return ClusterConfig(at, tmp_path_factory.mktemp("config"))


def until(done: Callable[[], bool], what: str, within_s: float = BACK_S) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    while not done():
        assert time.monotonic() < began + within_s, f"not within {within_s:.0f} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - began


def answered(call: Callable[[], object]) -> bool:
    """Whether the call ends well; UNAVAILABLE and a deadline are the only other ends."""
    try:
        call()
    except grpc.RpcError as error:
        away = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        assert error.code() in away, f"{error.code()}: {error.details()}"
        return False
    return True


def publish(server: ServerProcess, body: str, key: str = "") -> int:
    asked = publish_pb2.PublishRequest(author_id=AUTHOR, body=body, idempotency_key=key)
    return server.publish.Publish(asked, timeout=CALL_S).content_id


def shown(server: ServerProcess) -> set[int]:
    asked = feed_pb2.GetFeedRequest(user_id=READER, page_size=100)
    return {item.content_id for item in server.feed.GetFeed(asked, timeout=CALL_S).items}


def fanned_out(server: ServerProcess, post: int) -> bool:
    asked = publish_pb2.GetPostStatsRequest(content_id=post)
    return server.publish.GetPostStats(asked, timeout=CALL_S).fanned_out_ms > 0


def said(server: ServerProcess, text: str) -> bool:
    return any(text in line for line in server.lines)


def jobs_done(server: ServerProcess) -> bool:
    status = server.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_S)
    return not any(lane.jobs for lane in status.lanes) and not status.dead_letters


def engines_up(server: ServerProcess) -> dict[str, bool]:
    """Engine -> whether status says that all of it works."""
    status = server.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_S)
    names = {"cassandra": "cql", "redis": "redis", "kafka": "kafka"}
    return {
        kind: all(one.ok for one in status.components if one.name.startswith(f"{name}: "))
        for kind, name in names.items()
        if any(one.name.startswith(f"{name}: ") for one in status.components)
    }


def test_tables_that_are_missing_are_named_with_the_command(config: ClusterConfig) -> None:
    """First: the keyspace is made by what it says."""
    for role in ("all", "api", "fanout"):
        server = config.node(0, role, wait=False)
        assert server.process.wait(SEEN_S) == 1
        server.kill()
        told = "".join(server.lines)
        assert "feedcore cannot start" in told
        assert "feedcore migrate" in told
    config.migrate()
    assert "up to date" in config.migrate()


def test_a_server_waits_for_its_engines_and_goes_on_without_a_restart(
    config: ClusterConfig, engines: dict[str, Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    for kind in KINDS:
        engines[kind].stop(1)
    took: dict[str, float] = {}
    with config.node(0, wait=False) as server:
        cassandra = engines["cassandra"].address
        until(lambda: said(server, "waits for"), "it says what it waits for", SEEN_S)
        assert said(server, cassandra), "".join(server.lines)
        time.sleep(3.0)
        assert server.process.poll() is None
        assert not server.is_ready
        engines["cassandra"].restart(1)
        took["ready after cassandra"] = until(lambda: server.is_ready, "ready")
        server.wait_ready()
        follow = graph_pb2.FollowRequest(follower_id=READER, followee_id=AUTHOR)
        server.graph.Follow(follow, timeout=CALL_S)
        early = publish(server, "without redis and kafka")
        assert early in shown(server)
        assert not fanned_out(server, early)
        engines["redis"].restart(1)
        assert publish(server, "without kafka") in shown(server)
        assert engines_up(server) == {"cassandra": True, "redis": True, "kafka": False}
        engines["kafka"].restart(1)
        took["fanned out after kafka"] = until(lambda: fanned_out(server, early), "fanned out")
        until(lambda: jobs_done(server), "no job waits")
        until(lambda: all(engines_up(server).values()), "status names nothing that is away")
        late = publish(server, "with all")
        assert {early, late} <= shown(server)
        assert not said(server, '"restarting"'), "".join(server.lines)
    with capsys.disabled():
        print("\n" + ", ".join(f"{what} {seconds:.1f} s" for what, seconds in took.items()))


@pytest.mark.parametrize("kind", KINDS)
def test_an_engine_is_restarted_under_a_server(
    config: ClusterConfig,
    engines: dict[str, Engine],
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with config.node(0) as server:
        before = publish(server, f"before {kind}")
        until(lambda: fanned_out(server, before), "fanned out before")
        engines[kind].stop(1)
        key = f"while {kind} is away"
        accepted = answered(lambda: publish(server, key, key))
        assert accepted == (kind != "cassandra"), "only the system of record is needed"
        if accepted:
            assert before in shown(server)
        engines[kind].restart(1)
        back_s = until(lambda: answered(lambda: publish(server, key, key)), "writes")
        meanwhile = publish(server, key, key)
        read_s = until(lambda: answered(lambda: shown(server)), "pages")
        assert {before, meanwhile} <= shown(server)
        after = publish(server, f"after {kind}")
        assert after in shown(server)
        out_s = until(lambda: fanned_out(server, after), "fan-out")
        until(lambda: fanned_out(server, meanwhile), "what was published meanwhile")
        until(lambda: jobs_done(server), "no job waits")
        assert not said(server, '"restarting"'), "".join(server.lines)
        done = feedcore("audit", "--server", server.address, check=False)
        assert "0 missing, 0 duplicate, 0 unexpected" in done.stdout, done.stdout
    with capsys.disabled():
        print(
            f"\n{kind} restarted: writes after {back_s:.1f} s, pages after {read_s:.1f} s,"
            f" fan-out after {out_s:.1f} s"
        )
