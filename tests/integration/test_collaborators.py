"""Clients of the collaborators' contracts against real services: what they say, and what is said
when they are dead, silent, slow, or failing.
"""

from __future__ import annotations

import asyncio
import signal
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from feedcore import native
from feedcore.adapters.collaborators import (
    Bounds,
    CollaboratorContentSource,
    CollaboratorGraphSource,
    CollaboratorRanker,
    Service,
)
from feedcore.clock import ManualClock, SystemClock
from feedcore.domain.entry import pack
from feedcore.domain.ranking import RankingParameters
from feedcore.errors import BadAnswer, FailedPrecondition, NotPermitted, Overloaded, Unavailable
from feedcore.limits import HOUR_MS
from feedcore.observe import metrics
from feedcore.ports import Candidate, Followees, Lane
from feedcore.resilience import deadline
from feedcore_pb.collaborators.v1 import (
    content_pb2_grpc,
    graph_pb2,
    graph_pb2_grpc,
    ranking_pb2_grpc,
)
from feedcore_pb.v1 import publish_pb2, types_pb2
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.interceptors.metrics import measured
from feedcore_server.registry import Registry
from feedcore_server.transports.grpcio import GrpcioTransport
from tests.support.proxy import Proxy
from tests.support.server import ServerProcess

AUTHOR, READER, LONELY = 7, 8, 9
FOLLOWERS = range(1_000, 3_500)  # three pages of the contract
FOLLOWED = range(20_000, 21_200)  # whom READER follows: two pages
WITHIN_S = 20.0  # for what has to happen some time
GRAPH = graph_pb2.DESCRIPTOR.services_by_name["GraphService"]


class World(NamedTuple):
    """A store with a server's data, and a service over it."""

    data_dir: Path
    service: ServerProcess
    posts: list[int]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    data_dir = tmp_path_factory.mktemp("collaborators") / "data"
    with ServerProcess(data_dir, command="serve-collaborators") as service:
        with ServerProcess(data_dir) as server:
            posts = [
                server.publish.Publish(
                    publish_pb2.PublishRequest(author_id=AUTHOR, body=f"number {number}")
                ).content_id
                for number in range(5)
            ]
            pairs = [(one, AUTHOR) for one in FOLLOWERS] + [(READER, one) for one in FOLLOWED]
            calls = [
                server.graph.Follow.future(
                    graph_pb2.FollowRequest(follower_id=follower, followee_id=followee)
                )
                for follower, followee in pairs
            ]
            for call in calls:
                call.result()
            server.publish.Delete(publish_pb2.DeleteRequest(author_id=AUTHOR, content_id=posts[2]))
        yield World(data_dir, service, posts)


@asynccontextmanager
async def client(name: str, *addresses: str, **bounds: Any) -> AsyncIterator[Service]:
    """A client of one collaborator."""
    stubs = {
        "content": content_pb2_grpc.ContentServiceStub,
        "graph": graph_pb2_grpc.GraphServiceStub,
        "ranking": ranking_pb2_grpc.RankingServiceStub,
    }
    service = Service(name, addresses, stubs[name], Bounds(**{"deadline_s": 2.0, **bounds}))
    try:
        yield service
    finally:
        await service.close()


def calls_by(outcome: str, name: str = "graph") -> float:
    return metrics.COLLABORATOR_CALLS.labels(name, outcome)._value.get()


# --- what they say ------------------------------------------------------------------------------
async def test_contents_are_those_that_were_published(world: World) -> None:
    async with client("content", world.service.address) as service:
        found = await CollaboratorContentSource(service).contents([*world.posts, 12_345])
    bodies = [one and types_pb2.Content.FromString(one.content).body for one in found]
    assert bodies == ["number 0", "number 1", None, "number 3", "number 4", None]


async def test_the_graph_pages_through_the_contracts_listings(world: World) -> None:
    async with client("graph", world.service.address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        assert native.unpack_ids((await graph.followees(READER)).ids) == list(FOLLOWED)
        assert await graph.follower_count(AUTHOR) == len(FOLLOWERS)
        assert (await graph.followees(LONELY)).ids == b""
        for limit in (700, 1_000, 2_499, 2_500, 9_000):
            found: list[int] = []
            after = 0
            while True:
                page = await graph.push_recipients(AUTHOR, after, limit, Lane.ALL, 0)
                found += native.unpack_ids(page.ids)
                after = page.next_after
                if not after:
                    break
                assert len(page.ids) == 8 * limit and after == found[-1]
            assert found == list(FOLLOWERS), limit
        assert (await graph.push_recipients(AUTHOR, 0, 10, Lane.REST, 0)).ids == b""


async def test_a_listing_goes_on_without_the_token_that_led_there(world: World) -> None:
    async with client("graph", world.service.address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        page = await graph.followers(AUTHOR, 2_345, 1_500)  # by another process, before
        assert native.unpack_ids(page.ids) == list(range(2_346, 3_500))
        place = ("ListFollowers", AUTHOR, 1_999)
        graph._remember(place, "not one of the service's")
        page = await graph.followers(AUTHOR, 1_999, 100)
        assert native.unpack_ids(page.ids) == list(range(2_000, 2_100))


async def test_writes_pass_through_and_so_do_refusals(world: World) -> None:
    async with client("graph", world.service.address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        assert await graph.follow(31, 32, 0) and not await graph.follow(31, 32, 0)
        assert native.unpack_ids((await graph.followees(31)).ids) == [32]
        assert await graph.block(32, 31, 0)
        assert (await graph.followees(31)).ids == b""
        before = calls_by("refused")
        with pytest.raises(NotPermitted, match="graph: permission_denied"):
            await graph.follow(31, 32, 0)
        assert calls_by("refused") == before + 1
        assert await graph.unblock(32, 31, 0) and not await graph.unfollow(31, 32, 0)
        with pytest.raises(FailedPrecondition):
            await graph.import_follows([(1, 2)], 0)


async def test_scores_of_our_own_service_are_our_own(world: World) -> None:
    ranked_at_ms = SystemClock().now_ms()
    rows = [(post, AUTHOR, 1.5, 0.25, 1.1, False) for post in sorted(world.posts, reverse=True)]
    rows[2] = (*rows[2][:1], 70, 0.0, 0.0, 0.9, True)
    async with client("ranking", world.service.address) as service:
        found = await CollaboratorRanker(service).scores(
            READER, [Candidate(*row) for row in rows], ranked_at_ms, ""
        )
    own = native.score(
        b"".join(pack(row[0], row[1], row[4]) for row in rows),
        bytes(len(rows)),
        struct.pack(f"<{len(rows)}f", *(row[2] for row in rows)),
        struct.pack("<Qf", AUTHOR, 0.25),
        native.pack_ids([70]),
        RankingParameters(),
        ranked_at_ms,
    )
    assert found.values == list(struct.unpack(f"<{len(rows)}d", own))
    assert found.model == "feedcore/0"


# --- and what is said when they do not -----------------------------------------------------------
async def test_killed_then_back_on_its_port(world: World, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with ServerProcess(data_dir, command="serve-collaborators") as service:
        address = service.address
        async with client("graph", address, deadline_s=0.5) as one:
            graph = CollaboratorGraphSource(one, SystemClock())
            await graph.follow(1, 2, 0)
            assert (await graph.followees(1)).ids == native.pack_ids([2])
            service.kill()
            await left_out(graph, address)
            begun = asyncio.get_running_loop().time()
            for _ in range(100):
                with pytest.raises(Unavailable, match="no endpoint of 1 answers"):
                    await graph.follower_count(2)
            assert asyncio.get_running_loop().time() - begun < 0.5, "nothing is waited for"
            kept = await graph.followees(1)
            assert kept.ids == native.pack_ids([2]) and kept.stale_ms > 0
            with pytest.raises(Unavailable):
                await graph.followees(2)  # never read before: nothing is made up
            with ServerProcess(data_dir, "--listen", address, command="serve-collaborators"):
                await answers_again(graph, address)
                assert await graph.followees(1) == Followees(kept.ids)


async def test_one_of_two_is_silent(world: World, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", command="serve-collaborators") as other:
        addresses = world.service.address, other.address
        async with client("graph", *addresses, deadline_s=0.2) as both:
            graph = CollaboratorGraphSource(both, SystemClock())
            for _ in range(10):
                await graph.follower_count(AUTHOR)
            other.signal(signal.SIGSTOP)
            loop = asyncio.get_running_loop()
            late = 0
            while not_closed(other.address) == 0:
                begun = loop.time()
                try:
                    await graph.follower_count(AUTHOR)
                except Unavailable:
                    late += 1
                    assert 0.2 <= loop.time() - begun < 0.5
                assert late <= 5
            assert late == 5, "so many in a row, and it is left out"
            for _ in range(50):
                assert await graph.follower_count(AUTHOR) == len(FOLLOWERS)
            other.signal(signal.SIGCONT)
            await answers_again(graph, other.address)


async def test_one_of_two_is_slow_then_cut_off(world: World) -> None:
    host, port = world.service.address.split(":")
    async with Proxy(host, int(port)) as slow:
        addresses = slow.address, world.service.address
        async with client("graph", *addresses, deadline_s=0.2) as both:
            graph = CollaboratorGraphSource(both, SystemClock())
            for _ in range(10):
                await graph.follower_count(AUTHOR)
            slow.slow(0.3)  # each way
            late = 0
            for _ in range(60):
                try:
                    await graph.follower_count(AUTHOR)
                except Unavailable as error:
                    assert "no answer within 200 ms" in str(error)
                    late += 1
            assert not_closed(slow.address) == 1 and 5 <= late <= 6, "six: one was a probe"
            slow.slow(0.0)
            await answers_again(graph, slow.address)
            slow.drop()
            for _ in range(20):
                await graph.follower_count(AUTHOR)  # what was cut off is asked for elsewhere


async def test_kept_followees_are_bounded_in_age_and_bytes(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", command="serve-collaborators") as service:
        async with client("graph", service.address) as one:
            clock = ManualClock(1_000_000)
            graph = CollaboratorGraphSource(one, clock, kept_bytes=3 * (8 + 250))
            for user_id in (1, 2, 3, 4):
                await graph.follow(user_id, 100, 0)
                await graph.followees(user_id)
            service.kill()
            clock.advance(HOUR_MS)
            with pytest.raises(Unavailable):
                await graph.followees(1)  # had to give way
            assert await graph.followees(4) == Followees(native.pack_ids([100]), HOUR_MS)
            clock.advance(1)
            with pytest.raises(Unavailable):
                await graph.followees(4)


RAW = {"M": b"\x0a\0" * 4_000_000, "T": b"\x0a"}


class Failing:
    """GraphService of a store that is away now and then, on our own transport."""

    def __init__(self, pattern: str) -> None:
        # one letter a call: F fails, S answers, W waits for ever, M answers millions, T torn bytes
        self.pattern = pattern
        self.calls = 0
        self.cancelled = 0
        self.had_s: list[float] = []

    async def get_follower_counts(
        self, request: graph_pb2.GetFollowerCountsRequest, call: CallContext
    ) -> graph_pb2.GetFollowerCountsResponse | bytes:
        letter = self.pattern[self.calls % len(self.pattern)]
        self.calls += 1
        left = call.remaining_s(SystemClock().monotonic())
        self.had_s.append(-1.0 if left is None else left)
        if letter == "F":
            raise Unavailable("the store: away")
        if letter in RAW:
            return RAW[letter]
        if letter == "W":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        counts = [graph_pb2.FollowerCounts(user_id=one, followers=1) for one in request.user_ids]
        return graph_pb2.GetFollowerCountsResponse(counts=counts)

    def table(self) -> dict[str, Any]:
        names = [method.name for method in GRAPH.methods]
        return {**dict.fromkeys(names), "GetFollowerCounts": self.get_follower_counts}


@asynccontextmanager
async def serving(failing: Failing) -> AsyncIterator[str]:
    registry = Registry()
    registry.add_service(GRAPH, failing.table())
    clock = SystemClock()
    transport = GrpcioTransport(Dispatcher(registry, [measured(clock)]), clock)
    port = await transport.start("127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await transport.stop(0.0)


@pytest.mark.parametrize(
    ("letter", "says"),
    [
        ("M", "graph: refused: counts: 1001 or more; at most 1000"),
        ("T", "graph: refused: reply: 1 bytes"),
    ],
)
async def test_a_reply_is_counted_before_it_is_parsed(letter: str, says: str) -> None:
    failing = Failing(letter + "S")
    async with serving(failing) as address, client("graph", address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        with pytest.raises(BadAnswer, match=says):
            await graph.follower_count(1)
        assert await graph.follower_count(1) == 1
        assert failing.calls == 2  # the same question would have the same answer: no retry


async def test_retries_stay_within_their_budget() -> None:
    failing = Failing("FFSSS")  # two in five fail: too few to be left out
    counted = metrics.CALLS.labels("GetFollowerCounts", "unavailable")
    before, calls = counted._value.get(), 400
    async with serving(failing) as address, client("graph", address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        outcomes = []
        for _ in range(calls):
            try:
                outcomes.append(await graph.follower_count(1))
            except Unavailable as error:
                outcomes.append(str(error))
        assert not_closed(address) == 0
    assert calls < failing.calls <= calls + 10 + calls // 10
    assert failing.calls > calls + calls // 10, "and it is used"
    seen = counted._value.get() - before
    assert abs(seen - failing.calls * 2 / 5) <= 2, "as the server counts them"
    assert set(outcomes) == {1, "graph: unavailable: the store: away"}


async def test_who_leaves_ends_the_call_at_the_service_and_blames_nobody() -> None:
    failing = Failing("W")
    async with serving(failing) as address, client("graph", address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        for _ in range(6):
            asked = failing.calls
            waiting = asyncio.create_task(graph.follower_count(1))
            await until(lambda asked=asked: failing.calls > asked)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        await until(lambda: failing.cancelled == 6)
        assert not_closed(address) == 0


async def test_the_service_hears_how_long_the_caller_waits() -> None:
    failing = Failing("S")
    async with serving(failing) as address, client("graph", address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        await graph.follower_count(1)
        with deadline.within(0.5):
            await graph.follower_count(1)
    assert 1.9 < failing.had_s[0] < 2.1 and 0.3 < failing.had_s[1] < 0.45


async def test_a_crowd_is_refused_beyond_the_bulkhead() -> None:
    failing = Failing("W")
    bounds = {"active_max": 3, "waiting_max": 2, "deadline_s": 0.5}
    async with serving(failing) as address, client("graph", address, **bounds) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        crowd = [graph.follower_count(1) for _ in range(9)]
        results = await asyncio.gather(*crowd, return_exceptions=True)
    assert sum(isinstance(result, Overloaded) for result in results) == 4
    assert sum(isinstance(result, Unavailable) for result in results) == 5


async def test_replies_that_break_the_contract_are_failures() -> None:
    class Wrong(Failing):
        async def get_follower_counts(self, request: Any, call: CallContext) -> Any:
            self.calls += 1
            return graph_pb2.GetFollowerCountsResponse()

    wrong = Wrong("S")
    async with serving(wrong) as address, client("graph", address) as service:
        graph = CollaboratorGraphSource(service, SystemClock())
        for _ in range(5):
            with pytest.raises(Unavailable, match="0 counts; one was asked"):
                await graph.follower_count(1)
        assert wrong.calls == 5, "asking again would not help"
        assert not_closed(address) == 1


# --- helpers ------------------------------------------------------------------------------------
def not_closed(address: str) -> float:
    return metrics.BREAKERS_NOT_CLOSED.labels("graph", address)._value.get()


async def until(done: Any) -> None:
    """Waits until `done()`, within WITHIN_S."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            if done():
                return
            await asyncio.sleep(0.005)


async def left_out(graph: CollaboratorGraphSource, address: str) -> None:
    """Asks until the endpoint is left out."""
    async with asyncio.timeout(WITHIN_S):
        while not not_closed(address):
            with pytest.raises(Unavailable):
                await graph.follower_count(1)


async def answers_again(graph: CollaboratorGraphSource, address: str) -> None:
    """Asks until the endpoint is not left out any more."""
    async with asyncio.timeout(WITHIN_S):
        while not_closed(address):
            try:
                await graph.follower_count(1)
            except Unavailable:
                await asyncio.sleep(0.02)
