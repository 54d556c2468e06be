"""Two API nodes and two fan-out nodes as an operator starts them, over real engines: what one node
acknowledged holds on the other, whatever node a caller comes to next.

Every node is a process group of its own. FEEDCORE_LONG=1: 5,000 rounds of read-your-writes, more
posts.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import pytest

pytest.importorskip("feedcore_bench._native.h2client", reason="the native transport is not built")

from feedcore.domain import ids
from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import (
    admin_pb2,
    feed_pb2,
    feed_pb2_grpc,
    publish_pb2,
    publish_pb2_grpc,
)
from tests.support.clusterengine import Addresses
from tests.support.clusterservers import ClusterConfig, cluster_config
from tests.support.rounds import Link, make_users, run
from tests.support.scrape import totals
from tests.support.server import ServerProcess, feedcore

pytestmark = pytest.mark.alone  # delivery within a second, beside nobody's load

LONG = os.environ.get("FEEDCORE_LONG") == "1"
ROUNDS = 5_000 if LONG else 200
USERS = 16
FOLLOWERS = 500
POSTS = 200 if LONG else 20
CALLERS = 4
CALL_TIMEOUT_S = 30.0
FANNED_OUT_S = 60.0
# numbers of users, apart from those of the rounds
SCROLLER, SCROLLED = 1_000_001, range(1_100_000, 1_100_020)
CROWD, STAR = range(2_000_000, 2_000_000 + FOLLOWERS), 2_100_000


class Deployment(NamedTuple):
    """Nodes a and b take calls."""

    config: ClusterConfig
    a: ServerProcess
    b: ServerProcess
    fanout: tuple[ServerProcess, ServerProcess]


@pytest.fixture(scope="module")
def nodes(
    cluster_addresses: Addresses, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Up; one user follows."""
    with cluster_config(cluster_addresses, tmp_path_factory.mktemp("nodes")) as config:
        metrics = ("--metrics", "127.0.0.1:0")
        started = [
            config.node(number, role, *metrics, wait=False)
            for number, role in ((0, "api"), (10, "api"), (20, "fanout"), (30, "fanout"))
        ]
        try:
            for one in started:
                one.wait_ready()
            for author in SCROLLED:
                follow(started[0], SCROLLER, author)
            yield Deployment(config, started[0], started[1], (started[2], started[3]))
        finally:
            for one in started:
                one.__exit__()


def publish(server: ServerProcess, author: int, body: str = "x") -> int:
    asked = publish_pb2.PublishRequest(author_id=author, body=body)
    return server.publish.Publish(asked, timeout=CALL_TIMEOUT_S).content_id


def follow(server: ServerProcess, follower: int, followee: int) -> None:
    asked = graph_pb2.FollowRequest(follower_id=follower, followee_id=followee)
    server.graph.Follow(asked, timeout=CALL_TIMEOUT_S)


def page(
    server: ServerProcess, user: int, cursor: str = "", size: int = 100
) -> feed_pb2.GetFeedResponse:
    asked = feed_pb2.GetFeedRequest(user_id=user, page_size=size, cursor=cursor)
    return server.feed.GetFeed(asked, timeout=CALL_TIMEOUT_S)


def wait_until_fanned_out(server: ServerProcess) -> None:
    deadline = time.monotonic() + FANNED_OUT_S
    while time.monotonic() < deadline:
        status = server.admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_TIMEOUT_S)
        assert not status.dead_letters
        if not any(lane.jobs for lane in status.lanes):
            return
        time.sleep(0.1)
    raise AssertionError(f"fan-out did not finish in {FANNED_OUT_S} s")


def test_what_one_node_acknowledged_the_other_shows(
    nodes: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    everybody = make_users(nodes.a, USERS)
    links = [Link(node.address) for node in (nodes.a, nodes.b)]
    began_s = time.monotonic()
    checked = run(links, everybody, ROUNDS)
    took_s = time.monotonic() - began_s
    for link in links:
        link.socket.close()
    assert checked == 2 * ROUNDS
    with capsys.disabled():
        print(f"\n{ROUNDS} writes, {checked} reads from 2 nodes in {took_s:.1f} s: none stale")


def test_a_scroll_goes_from_node_to_node(nodes: Deployment) -> None:
    there = {publish(nodes.a, author) for author in SCROLLED for _ in range(12)}
    wait_until_fanned_out(nodes.a)
    ranking = nodes.a.admin.GetRanking(admin_pb2.GetRankingRequest())
    found: list[int] = []
    later: set[int] = set()
    cursor, turn = "", 0
    while True:
        reader, writer = (nodes.a, nodes.b) if turn % 2 else (nodes.b, nodes.a)
        answer = page(reader, SCROLLER, cursor, 9)
        found += [item.content_id for item in answer.items]
        cursor = answer.next_cursor
        if not cursor:
            break
        later.add(publish(writer, SCROLLED[turn % len(SCROLLED)]))
        if turn % 3 == 0:
            ranking.parameters.half_life_hours = 1.0 + turn
            writer.admin.SetRanking(admin_pb2.SetRankingRequest(config=ranking))
        turn += 1
    assert len(found) == len(set(found)), "an item came twice"
    assert there <= set(found), f"{len(there - set(found))} are missing"
    assert set(found) <= there | later
    assert turn >= len(there) // 9


def test_a_post_is_visible_to_all_followers_at_once(
    nodes: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda user: follow(nodes.a, user, STAR), CROWD))
    wait_until_fanned_out(nodes.a)
    visible_ms, stored_ms = [], []
    for number in range(POSTS):
        began = time.perf_counter()
        post = publish(nodes.a, STAR, f"post {number}")
        reader = CROWD[number * 37 % FOLLOWERS]
        while post not in [item.content_id for item in page(nodes.b, reader, size=5).items]:
            pass
        visible_ms.append((time.perf_counter() - began) * 1_000)
        stored_ms.append(delivered_after_ms(nodes.b, post))
    some = CROWD[:: 1 if LONG else 10]
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda user: page(nodes.b, user, size=5).items[0].content_id, some))
    assert set(pages) == {post}
    with capsys.disabled():
        for what, values in (("visible on the other node", visible_ms), ("stored", stored_ms)):
            p50, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
            print(f"\npost to {what}, {FOLLOWERS} followers: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


def delivered_after_ms(server: ServerProcess, post: int) -> float:
    """From the post's own time to the end of its fan-out."""
    deadline = time.monotonic() + FANNED_OUT_S
    while time.monotonic() < deadline:
        asked = publish_pb2.GetPostStatsRequest(content_id=post)
        answer = server.publish.GetPostStats(asked, timeout=CALL_TIMEOUT_S)
        if answer.fanned_out_ms:
            assert answer.reach == FOLLOWERS
            return answer.fanned_out_ms - ids.time_ms(post)
        time.sleep(0.005)
    raise AssertionError("not fanned out")


def test_both_fanout_nodes_take_their_part(
    nodes: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has some partitions of the lane."""
    for number in range(40):
        publish(nodes.a, SCROLLED[number % len(SCROLLED)])
    wait_until_fanned_out(nodes.a)
    time.sleep(1.5)  # the fan-out process writes its figures about once a second
    parts = [totals(node)["feedcore_fanout_deliveries_total"] for node in nodes.fanout]
    with capsys.disabled():
        print(f"\ndeliveries of the fan-out nodes: {', '.join(f'{part:.0f}' for part in parts)}")
    assert all(parts)


@dataclass(slots=True)
class Ledger:
    """What the callers saw."""

    calls: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


def call_until(stop: threading.Event, addresses: list[str], number: int, ledger: Ledger) -> None:
    """Publishes and loads over all nodes in turn, as a client does that knows both: it takes GOAWAY
    for what it says. No retry policy is set; a call that was not sent yet may go elsewhere.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ]
    with grpc.insecure_channel(f"ipv4:{','.join(addresses)}", options=options) as channel:
        feed = feed_pb2_grpc.FeedServiceStub(channel)
        posts = publish_pb2_grpc.PublishServiceStub(channel)
        user = 3_000_000 + number
        while not stop.is_set():
            began_s = time.monotonic()
            try:
                asked = publish_pb2.PublishRequest(author_id=user, body="x")
                posts.Publish(asked, timeout=CALL_TIMEOUT_S)
                feed.GetFeed(feed_pb2.GetFeedRequest(user_id=user), timeout=CALL_TIMEOUT_S)
            except grpc.RpcError as error:
                with ledger.lock:
                    ledger.failures.append(f"{error.code().name}: {error.details()}")
                continue
            with ledger.lock:
                ledger.calls += 2
                ledger.slowest_s = max(ledger.slowest_s, time.monotonic() - began_s)


def test_a_node_that_ends_fails_no_call(
    nodes: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, stop = Ledger(), threading.Event()
    with nodes.config.node(40, "api") as third:
        addresses = [nodes.b.address, third.address]
        callers = [
            threading.Thread(target=call_until, args=(stop, addresses, number, ledger))
            for number in range(CALLERS)
        ]
        for caller in callers:
            caller.start()
        time.sleep(2.0)
        before = ledger.calls
        third.process.send_signal(signal.SIGTERM)
        code = third.process.wait(CALL_TIMEOUT_S)
        at_the_end = ledger.calls
        time.sleep(1.0)
        stop.set()
        for caller in callers:
            caller.join()
    with capsys.disabled():
        print(
            f"\na node ended under load: {ledger.calls} calls ({at_the_end - before} meanwhile),"
            f" {len(ledger.failures)} failed, slowest pair {ledger.slowest_s * 1_000:.0f} ms"
        )
    assert code == 0
    assert ledger.failures == []
    assert 0 < before < at_the_end < ledger.calls


def test_the_audit_finds_nothing(nodes: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    """After all that: stored feeds against brute force."""
    wait_until_fanned_out(nodes.a)
    sample = "500" if LONG else "100"
    for node in (nodes.a, nodes.b):
        done = feedcore("audit", "--server", node.address, "--sample", sample, check=False)
        with capsys.disabled():
            print(f"\naudit: {done.stdout.strip()}")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 missing, 0 duplicate, 0 unexpected" in done.stdout
        assert not done.stdout.startswith("0 users")
