"""The load generator against real servers: what it asks and counts, and what it makes of servers
that stop, die, or send connections away."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from feedcore_pb.v1 import feed_pb2, publish_pb2
from tests.support.server import ServerProcess
from tests.support.testserver import ServerUnderTest

pytest.importorskip("feedcore_bench._native.h2client", reason="no native transport")

from feedcore_bench._native.pagescan import scan_page
from feedcore_bench.engine import Cycle, Progress, run_closed, run_open

CHECK, GET_FEED = "/grpc.health.v1.Health/Check", "/feedcore.v1.FeedService/GetFeed"
MISSING = "/feedcore.v1.FeedService/NoSuchMethod"
EMPTY = b""  # a health check of the whole server
SERVING = health_pb2.HealthCheckResponse(status="SERVING").SerializeToString()
POSTS = 5
OK, UNIMPLEMENTED, UNAVAILABLE, DEADLINE_EXCEEDED = 0, 12, 14, 4
STOPPED_S = 0.3


class Asker:
    """Calls methods in turn; keeps every answer. `at`: number of a call -> what happens before it.
    `pause`: how many times in a row there is nothing to do after each call."""

    def __init__(
        self,
        requests: list[tuple[int, bytes]],
        at: dict[int, Callable[[], object]] | None = None,
        pause: int = 0,
    ) -> None:
        self.requests, self.at, self.pause = requests, at or {}, pause
        self.asked = 0
        self.paused = 0
        self.answers: list[tuple[Any, int, int, bytes, int, str]] = []

    def next(self) -> tuple[int, bytes, object] | None:
        """One request, or none."""
        if self.paused < self.pause:
            self.paused += 1
            return None
        self.paused = 0
        if self.asked in self.at:
            self.at[self.asked]()
        self.asked += 1
        return *self.requests[self.asked % len(self.requests)], self.asked

    def done(
        self, tag: Any, method: int, status: int, body: bytes, latency: int, now: int, detail: str
    ) -> None:
        """Keeps it."""
        assert latency >= 0 and abs(now - time.monotonic_ns()) < 60 * 10**9
        self.answers.append((tag, method, status, body, latency, detail))

    def check_once(self) -> None:
        """Every call came back exactly once."""
        assert Counter(answer[0] for answer in self.answers) == Counter(range(1, self.asked + 1))

    def statuses(self) -> Counter[int]:
        """How many answers had which status."""
        return Counter(answer[2] for answer in self.answers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One worker; user 1 has published, and is shown it."""
    with ServerProcess(tmp_path_factory.mktemp("load") / "data") as running:
        for number in range(POSTS):
            running.publish.Publish(publish_pb2.PublishRequest(author_id=1, body=f"post {number}"))
        yield running


FEED = feed_pb2.GetFeedRequest(user_id=1).SerializeToString()


def test_closed_loop(server: ServerProcess) -> None:
    asker = Asker([(0, EMPTY), (1, FEED), (2, b"")])
    seen: list[Progress] = []
    found = run_closed(
        server.address,
        [CHECK, GET_FEED, MISSING],
        asker,
        connections=2,
        streams=4,
        seconds=1.2,
        warm_up_s=0.2,
        progress=seen.append,
    )
    asker.check_once()
    for _, method, status, body, _, _ in asker.answers:
        if method == 0:
            assert (status, body) == (OK, SERVING)
        elif method == 1:
            ids, authors, scores, _, head, etag, not_modified, _ = scan_page(body)
            assert (status, len(ids), len(scores)) == (OK, 8 * POSTS, 8 * POSTS)
            assert authors == struct.pack("<Q", 1) * POSTS and head and etag and not not_modified
        else:
            assert (status, body) == (UNIMPLEMENTED, b"")
    assert [set(one) for one in found.statuses] == [{OK}, {OK}, {UNIMPLEMENTED}]
    assert 0 < found.answered <= len(asker.answers)
    assert found.ok == sum(one[OK] for one in found.statuses[:2])
    assert found.latency().count == found.ok and found.failed.count == found.statuses[2][12]
    assert found.bytes_in > found.body_bytes > 0 and found.bytes_out > 0
    assert 0 < found.cpu_share <= 1.1 and 0 < found.busy_share <= 1
    assert (found.unanswered, found.lost, found.opened) == (0, 0, 2)
    assert len(seen) == len(found.series) == 1
    assert seen[0].ok + seen[0].failed > 0 and seen[0].in_flight <= 8


def test_a_closed_loop_with_pauses_goes_on(server: ServerProcess) -> None:
    asker = Asker([(0, EMPTY)], pause=3)
    found = run_closed(
        server.address, [CHECK], asker, connections=1, streams=2, seconds=0.3, warm_up_s=0
    )
    asker.check_once()
    assert found.ok > 3


def test_cycle(server: ServerProcess) -> None:
    bodies: list[tuple[int, bytes]] = []
    cycle = Cycle([(1, FEED), (0, EMPTY)], 3, lambda *one: bodies.append(one))
    found = run_closed(
        server.address,
        [CHECK, GET_FEED],
        cycle,
        connections=2,
        streams=4,
        seconds=0.5,
        warm_up_s=0,
    )
    first, second = (one[OK] for one in found.statuses)
    assert abs(first - second) <= 16
    assert abs(len(bodies) - found.ok / 3) <= 8
    assert {method for method, _ in bodies} == {0, 1}
    assert all(body == SERVING if method == 0 else scan_page(body) for method, body in bodies)


@pytest.mark.parametrize("poisson", [False, True])
def test_open_loop_offers_what_it_should(server: ServerProcess, poisson: bool) -> None:
    asker = Asker([(0, EMPTY)])
    found = run_open(
        server.address,
        [CHECK],
        asker,
        connections=2,
        streams_max=50,
        steps=[(0.5, 200), (0.5, 1_000)],
        poisson=poisson,
        warm_up_s=0.25,
    )
    asker.check_once()
    assert found.arrivals == asker.asked
    # intended, whatever the machine does: 50 in the warm-up, 100, 500
    assert abs(found.arrivals - 650) <= (130 if poisson else 3)
    assert abs(found.ok - 600) <= (125 if poisson else 3)
    assert (found.dropped, found.unanswered) == (0, 0) and not found.overflowed
    assert found.lateness.count == found.arrivals


def stop_for_a_while(server: ServerProcess) -> Callable[[], None]:
    """Stops the server's processes; they go on after STOPPED_S."""

    def stop() -> None:
        os.killpg(server.process.pid, signal.SIGSTOP)
        threading.Timer(STOPPED_S, lambda: os.killpg(server.process.pid, signal.SIGCONT)).start()

    return stop


def slow(found: Any, above_s: float) -> int:
    """Calls that took longer."""
    return sum(count for value, count in found.latency().buckets() if value > above_s * 1e9)


def test_a_stopped_server_is_charged_with_all_who_came(server: ServerProcess) -> None:
    # With one stream only one call is in flight while the server stands still: counted from when
    # they were sent, all others would look fast.
    rate = 400
    asker = Asker([(0, EMPTY)], {100: stop_for_a_while(server)})
    found = run_open(
        server.address,
        [CHECK],
        asker,
        connections=1,
        streams_max=1,
        rate=rate,
        seconds=1.5,
        poisson=False,
        warm_up_s=0,
    )
    asker.check_once()
    assert asker.statuses() == {OK: asker.asked}
    assert slow(found, 0.1) >= rate * (STOPPED_S - 0.1) * 0.9
    assert found.latency().percentile(99) > (STOPPED_S - 0.05) * 1e9
    assert found.waiting_max >= rate * STOPPED_S * 0.9
    # The closed loop beside it: it waits with the server, and two calls see it.
    asker = Asker([(0, EMPTY)], {100: stop_for_a_while(server)})
    closed = run_closed(
        server.address, [CHECK], asker, connections=1, streams=1, seconds=1.5, warm_up_s=0
    )
    assert closed.latency().max > (STOPPED_S - 0.05) * 1e9


def test_a_full_queue_is_said(server: ServerProcess) -> None:
    asker = Asker([(0, EMPTY)], {50: stop_for_a_while(server)})
    found = run_open(
        server.address,
        [CHECK],
        asker,
        connections=1,
        streams_max=1,
        rate=1_000,
        seconds=0.8,
        backlog=64,
        warm_up_s=0,
    )
    asker.check_once()
    assert found.waiting_max == 64 and found.overflowed
    assert found.arrivals == asker.asked + found.dropped


def test_who_does_not_answer_is_counted(server: ServerProcess) -> None:
    asker = Asker([(0, EMPTY)], {20: stop_for_a_while(server)})
    found = run_open(
        server.address,
        [CHECK],
        asker,
        connections=1,
        streams_max=4,
        rate=200,
        seconds=0.2,
        warm_up_s=0,
        drain_s=0.01,
    )
    asker.check_once()
    assert found.unanswered >= 4
    assert found.statuses[0][DEADLINE_EXCEEDED] == found.unanswered
    assert asker.statuses()[DEADLINE_EXCEEDED] == 4
    assert found.ok + found.unanswered == found.arrivals


@pytest.mark.parametrize("mode", ["open", "closed"])
def test_a_killed_server_ends_its_calls(tmp_path: Path, mode: str) -> None:
    with ServerProcess(tmp_path / "data") as running:
        asker = Asker([(0, EMPTY)], {300: running.kill})
        began = time.monotonic()
        if mode == "closed":
            found = run_closed(
                running.address, [CHECK], asker, connections=2, streams=8, seconds=0.8
            )
        else:
            found = run_open(
                running.address,
                [CHECK],
                asker,
                connections=2,
                streams_max=8,
                rate=1_000,
                seconds=0.8,
                warm_up_s=0,
                drain_s=0.2,
            )
            # what was never sent is not forgotten
            assert sum(found.statuses[0].values()) == found.arrivals
            assert found.unanswered > 100
        assert time.monotonic() - began < 10
        asker.check_once()
        assert set(asker.statuses()) == {OK, UNAVAILABLE}
        assert found.lost == 2 and found.opened == 2
        gone = {answer[5] for answer in asker.answers if answer[2] == UNAVAILABLE}
        assert gone <= {
            "the server closed the connection",
            "Connection reset by peer",
            "Broken pipe",
        }


def test_connections_that_are_sent_away_are_replaced() -> None:
    with ServerUnderTest("--transport", "native", "--age-s", "0.2") as running:
        asker = Asker([(0, EMPTY)])
        found = run_closed(
            running.address, [CHECK], asker, connections=3, streams=8, seconds=1.5, warm_up_s=0
        )
    asker.check_once()
    assert asker.statuses() == {OK: asker.asked}
    assert found.opened >= 6


class Failing(Asker):
    """Its answers are more than it can take."""

    def done(self, *answer: Any) -> None:
        """Fails."""
        self.answers.append(answer)
        raise LookupError(f"answer {len(self.answers)}")


def test_a_workload_that_fails_ends_the_run(server: ServerProcess) -> None:
    asker = Failing([(0, EMPTY)])
    with pytest.raises(LookupError, match="answer 1$"):
        run_closed(server.address, [CHECK], asker, connections=2, streams=4, seconds=5)
    assert len(asker.answers) == 1


def test_who_does_not_speak_http2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.recv(1_024)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionError, match=address):
            run_closed(address, [CHECK], Asker([(0, EMPTY)]), connections=1, streams=1, seconds=0.1)
        thread.join()


def test_nobody_listens() -> None:
    with pytest.raises(ConnectionError, match="refused"):
        run_closed(
            "127.0.0.1:1", [CHECK], Asker([(0, EMPTY)]), connections=1, streams=1, seconds=0.1
        )
