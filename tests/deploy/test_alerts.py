"""Alerts fire in the states that they are for, and in no other.

A server is really brought into each state and scraped twice; promtool, Prometheus's own test tool,
is given series that go on as between the two scrapes, and says which alerts of deploy/alerts.yml
fire.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
import yaml

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2, publish_pb2_grpc
from tests.support.redisserver import free_port
from tests.support.scrape import Labels, scrape
from tests.support.server import ServerProcess
from tests.support.tools import tool

ALERTS = Path(__file__).parents[2] / "deploy" / "alerts.yml"
Figures = dict[tuple[str, Labels], float]
EVALUATED_MINUTES = 20  # longer than every `for` and range of the rules
WITHIN_S = 30.0
HUNG_S = 3.0  # a process that exports once a second has written nothing for so long
FIRING = 'ALERTS{alertname="%s",alertstate="firing"}'
COUNTED = ("_total", "_bucket", "_count", "_sum")


def firing(folder: Path, before: Figures, after: Figures, up: int = 1) -> set[str]:
    """Names of the alerts that fire if the server goes on as it did between the scrapes."""
    series = [{"series": 'up{job="feedcore",instance="one"}', "values": f"{up}+0x30"}]
    for (name, labels), value in after.items():
        grown = value - before.get((name, labels), 0.0)
        if name.endswith(COUNTED):
            values = f"{before.get((name, labels), 0.0)!r}+{grown!r}x30"
        elif name.endswith("_time_seconds"):  # promtool's clock begins at 0, one sample a minute
            values = "0+60x30" if grown > 0 else "0+0x30"
        else:
            values = f"{value!r}+0x30"
        shown = ",".join(f'{label}="{text}"' for label, text in labels)
        series.append({"series": f"{name}{{{shown}}}", "values": values})
    rules = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
    asked = [
        {
            "expr": f"count({FIRING % rule['alert']}) or vector(0)",
            "eval_time": f"{EVALUATED_MINUTES}m",
            "exp_samples": [{"labels": "{}", "value": 0}],
        }
        for rule in rules
    ]
    document = {
        "rule_files": [str(ALERTS)],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": series, "promql_expr_test": asked}],
    }
    file = folder / "alerts-test.yml"
    file.write_text(yaml.safe_dump(document))
    promtool = tool("promtool", "apt-get install prometheus")
    done = subprocess.run(
        [promtool, "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    # A failure repeats the expression of each alert that did fire.
    found = set(re.findall(r'alertname=\\"(\w+)', said))
    assert (done.returncode != 0) == bool(found), said
    return found


def serve(folder: Path, *flags: str) -> ServerProcess:
    return ServerProcess(folder / "data", "--metrics", "127.0.0.1:0", *flags)


def scraped_until(server: ServerProcess, true: Callable[[Figures], bool]) -> Figures:
    """Processes write what they count about once a second."""
    deadline_s = time.monotonic() + WITHIN_S
    while not true(found := scrape(server)):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.1)
    return found


def of(found: Figures, name: str, **labels: str) -> float:
    """Sum over the series of a metric that have these labels."""
    return sum(
        value
        for (metric, pairs), value in found.items()
        if metric == name and labels.items() <= dict(pairs).items()
    )


def exported(since: Figures) -> Callable[[Figures], bool]:
    name = "feedcore_fanout_exported_time_seconds"
    return lambda now: of(now, name) > of(since, name)


def child(server: ServerProcess, module: str) -> int:
    """Process id of the server's child that runs the module."""
    listed = subprocess.run(
        ["ps", "-o", "pid=,args=", "-g", str(server.process.pid)],
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = [line for line in listed.stdout.splitlines() if module in line]
    return int(line.split()[0])


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a service that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        host, port = listener.getsockname()
        yield f"{host}:{port}"


@pytest.fixture
def dead() -> str:
    """Address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"


def get_feed(server: ServerProcess) -> feed_pb2.GetFeedResponse:
    return server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=1, page_size=20))


def test_rules_are_valid() -> None:
    command = [tool("promtool", "apt-get install prometheus"), "check", "rules", str(ALERTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_nothing_fires_for_a_server_that_is_well(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        before = scraped_until(server, exported({}))
        server.graph.Follow(graph_pb2.FollowRequest(follower_id=1, followee_id=2))
        server.publish.Publish(publish_pb2.PublishRequest(author_id=2, body="hello"))
        for _ in range(50):
            assert not get_feed(server).receipt.degraded
        with pytest.raises(grpc.RpcError):  # a caller's mistake is no failure of ours
            server.feed.GetFeed(feed_pb2.GetFeedRequest())
        after = scraped_until(
            server, lambda now: of(now, "feedcore_calls_total") >= 53 and exported(before)(now)
        )
        assert firing(tmp_path, before, after) == set()
        assert firing(tmp_path, before, after, up=0) == {"FeedcoreDown"}


def test_calls_fail_and_pages_are_degraded_without_the_graph(tmp_path: Path, dead: str) -> None:
    with serve(tmp_path, "--set", f"collaborators.graph={dead}") as server:
        before = scraped_until(server, exported({}))
        with pytest.raises(grpc.RpcError) as refused:
            server.graph.Follow(graph_pb2.FollowRequest(follower_id=1, followee_id=2))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        for _ in range(5):
            assert get_feed(server).receipt.degraded
        after = scraped_until(
            server,
            lambda now: (
                of(now, "feedcore_feed_degraded_pages_total") >= 5
                and of(now, "feedcore_calls_total", status="unavailable") >= 1
                and exported(before)(now)
            ),
        )
    assert firing(tmp_path, before, after) == {"FeedcoreCallsFail", "FeedcoreDegradedPages"}


def test_pages_are_slow_while_contents_hang(tmp_path: Path, silent: str) -> None:
    flags = ("--set", f"collaborators.content={silent}", "--set", "collaborators.deadline_ms=1000")
    with serve(tmp_path) as server:
        server.graph.Follow(graph_pb2.FollowRequest(follower_id=1, followee_id=2))
        server.publish.Publish(publish_pb2.PublishRequest(author_id=2, body="hello"))
    with serve(tmp_path, *flags) as server:
        before = scraped_until(server, exported({}))
        for _ in range(3):
            assert get_feed(server).receipt.degraded
        after = scraped_until(
            server, lambda now: of(now, "feedcore_calls_total") >= 3 and exported(before)(now)
        )
    assert firing(tmp_path, before, after) == {"FeedcoreSlow", "FeedcoreDegradedPages"}


def test_more_calls_at_once_than_a_worker_takes(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        before = scraped_until(server, exported({}))
        # Several connections: beyond the streams of one, calls would wait at the client.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(server.address, options) for _ in range(8)]
        for channel in channels:
            grpc.channel_ready_future(channel).result(WITHIN_S)
        stubs = [publish_pb2_grpc.PublishServiceStub(channel) for channel in channels]
        worker = child(server, "feedcore_server.processes.worker")
        os.kill(worker, signal.SIGSTOP)  # so that all calls arrive at once
        request = publish_pb2.PublishRequest(author_id=2, body="hello")
        calls = [stub.Publish.future(request) for _ in range(200) for stub in stubs]
        time.sleep(1.0)  # they are on their way
        os.kill(worker, signal.SIGCONT)
        codes = [call.exception() and call.exception().code() for call in calls]
        for channel in channels:
            channel.close()
        assert set(codes) == {None, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) > 60, "more than one a second"
        after = scraped_until(
            server,
            lambda now: of(now, "feedcore_calls_total") >= len(calls) and exported(before)(now),
        )
    assert firing(tmp_path, before, after) == {"FeedcoreShedding"}


def test_fan_out_that_lags_and_jobs_that_were_given_up(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        server.admin.SetSettings(admin_pb2.SetSettingsRequest(fanout_paused=True))
        server.graph.Follow(graph_pb2.FollowRequest(follower_id=1, followee_id=2))
        get_feed(server)  # user 1 is active: the job is not of the lane "rest"
        for number in range(2):
            server.publish.Publish(publish_pb2.PublishRequest(author_id=2, body=f"{number}"))
    # As if two minutes had passed, and as a job is left that has failed too often.
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "store.db")) as store, store:
        store.execute("UPDATE fanout_jobs SET created_ms = created_ms - 120000")
        store.execute("UPDATE fanout_jobs SET state = 2 WHERE job_id = (SELECT max(job_id) FROM"
                      " fanout_jobs)")  # fmt: skip
    with serve(tmp_path) as server:
        before = scraped_until(server, exported({}))
        after = scraped_until(server, exported(before))
        assert firing(tmp_path, before, after) == {"FeedcoreFanoutLags", "FeedcoreDeadLetters"}


def test_a_fan_out_process_that_hangs_or_dies_again_and_again(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        before = scraped_until(server, exported({}))
        fanout = child(server, "feedcore_server.processes.fanout")
        os.kill(fanout, signal.SIGSTOP)
        time.sleep(HUNG_S)
        stopped = scrape(server)
        time.sleep(HUNG_S)
        assert firing(tmp_path, stopped, scrape(server)) == {"FeedcoreFanoutSilent"}
        for number in range(4):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child(server, "feedcore_server.processes.fanout"), signal.SIGKILL)
            restarted = scraped_until(
                server, lambda now, n=number: of(now, "feedcore_restarts_total") > n
            )
            scraped_until(server, exported(restarted))
        after = scraped_until(server, exported(before))
    assert firing(tmp_path, before, after) == {"FeedcoreRestarts"}


def test_merges_that_fail(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        server.graph.Follow(graph_pb2.FollowRequest(follower_id=1, followee_id=2))
        get_feed(server)
        before = scraped_until(server, exported({}))
        feeds = tmp_path / "data" / "feeds"
        moved = feeds.rename(tmp_path / "feeds-elsewhere")
        feeds.write_text("a file where a folder must be")
        server.publish.Publish(publish_pb2.PublishRequest(author_id=2, body="hello"))
        after = scraped_until(
            server, lambda now: of(now, "feedcore_merge_failing") > 0 and exported(before)(now)
        )
        feeds.unlink()
        moved.rename(feeds)
    assert firing(tmp_path, before, after) == {"FeedcoreMergesFail"}
