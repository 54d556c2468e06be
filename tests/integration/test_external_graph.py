"""Follows that another service keeps: posts reach the followers that it names, stored feeds follow
what is followed and unfollowed through us, and pages follow what others do there.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from feedcore.cli.offline import run_rebuild
from feedcore.clock import SystemClock
from feedcore.errors import Unavailable
from feedcore.ports import JobKind
from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from tests.support.server import ServerProcess
from tests.support.worlds import AUTHOR, OTHER, READER, ExternalWorld

FANNED_OUT_WITHIN_S = 20.0


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[ExternalWorld]:
    made = ExternalWorld(tmp_path / "data", 1_000, "graph")
    await made.open()
    yield made
    await made.close()


def test_posts_reach_followers_over_processes(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "graph", command="serve-collaborators") as service:
        setting = f"collaborators.graph={service.address}"
        with ServerProcess(tmp_path / "data", "--set", setting) as server:
            follow = graph_pb2.FollowRequest(follower_id=READER, followee_id=AUTHOR)
            assert server.graph.Follow(follow).changed
            posts = {
                server.publish.Publish(
                    publish_pb2.PublishRequest(author_id=author, body=f"number {number}")
                ).content_id
                for number, author in enumerate((READER, AUTHOR, AUTHOR))
            }
            assert ids_of(server) == posts, "visible at once"
            wait_until(lambda: way_of(server, max(posts)) == "push")
            assert ids_of(server) == posts, "and when nothing is on its way any more"


def ids_of(server: ServerProcess) -> set[int]:
    page = server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=READER, page_size=100))
    assert not page.receipt.degraded
    return {item.content_id for item in page.items}


def way_of(server: ServerProcess, content_id: int) -> str:
    """By which the post comes to the reader's page; "overlay" while it is on its way."""
    request = admin_pb2.ExplainRequest(user_id=READER, content_id=content_id)
    return server.admin.Explain(request).delivered_by


def wait_until(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + FANNED_OUT_WITHIN_S
    while not done():
        assert time.monotonic() < deadline_s, "the post does not reach the stored feed"
        time.sleep(0.05)


async def test_a_follow_brings_what_was_published_before(world: ExternalWorld) -> None:
    before = await world.publish(AUTHOR, "before anybody followed")
    await world.settle()
    assert await world.engine.graph.follow(READER, AUTHOR)
    assert await world.ids() == [before], "at once, from the author's timeline"
    await world.settle()
    assert await world.store.feeds.delivered(READER, before)
    assert await world.ids() == [before]


async def test_an_unfollow_takes_posts_out(world: ExternalWorld) -> None:
    for author in (AUTHOR, OTHER):
        await world.engine.graph.follow(READER, author)
    gone, stays = await world.publish(AUTHOR), await world.publish(OTHER)
    await world.settle()
    assert await world.store.feeds.delivered(READER, gone)
    assert await world.engine.graph.unfollow(READER, AUTHOR)
    assert await world.ids() == [stays]
    await world.settle()
    assert not await world.store.feeds.delivered(READER, gone)
    assert await world.ids() == [stays]


async def test_a_block_takes_the_posts_of_either_out(world: ExternalWorld) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    await world.engine.graph.follow(AUTHOR, READER)
    posts = {READER: await world.publish(AUTHOR), AUTHOR: await world.publish(READER)}
    await world.settle()
    await world.engine.graph.block(AUTHOR, READER)
    await world.settle()
    for user, post in posts.items():
        assert not await world.store.feeds.delivered(user, post)


async def test_a_repeated_follow_queues_what_the_first_could_not(world: ExternalWorld) -> None:
    before = await world.publish(AUTHOR)
    await world.settle()
    # The service has acknowledged, and the process died before it could queue the job.
    await world.graph.follow(READER, AUTHOR, world.clock.now_ms())
    assert not await world.engine.graph.follow(READER, AUTHOR), "it was so already"
    jobs = await world.store.queue.claim((0, 1, 2), 10)
    assert [(job.kind, job.user_id, job.author_id) for job in jobs] == [
        (JobKind.BACKFILL, READER, AUTHOR)
    ]
    await world.settle()
    assert await world.store.feeds.delivered(READER, before)


async def test_what_others_change_at_the_service_is_in_the_next_page(world: ExternalWorld) -> None:
    now_ms = world.clock.now_ms()
    for author in (AUTHOR, OTHER):
        await world.service_store.graph.follow(READER, author, now_ms)
    stays, post = await world.publish(OTHER), await world.publish(AUTHOR)
    assert set(await world.ids()) == {stays, post}
    await world.settle()
    assert await world.store.feeds.delivered(READER, post), "pushed to whom the service names"
    await world.service_store.graph.unfollow(READER, AUTHOR, now_ms)
    assert await world.ids() == [stays], "filtered by whom the service names now"


async def test_a_rebuild_derives_feeds_from_the_service(
    world: ExternalWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock.move_to(SystemClock().now_ms())
    await world.engine.graph.follow(READER, AUTHOR)
    post = await world.publish(AUTHOR)
    await world.settle()
    await world.store.close()
    shutil.rmtree(world.folder / "feeds")
    monkeypatch.setenv("FEEDCORE_COLLABORATORS__GRAPH", world.address)
    assert await run_rebuild(world.folder) == 1
    world.store = await world.open_store()
    assert await world.store.feeds.delivered(READER, post)


async def test_jobs_wait_while_the_graph_is_away(world: ExternalWorld) -> None:
    await world.engine.graph.follow(READER, AUTHOR)
    await world.settle()

    class Away:
        async def push_recipients(self, *asked: object) -> None:
            raise Unavailable("graph: no endpoint of 1 answers")

    post = await world.publish(AUTHOR)
    worker = world.worker(graph=Away())
    for _ in range(20):  # more turns than a poisoned job would get
        assert await worker.turn() == 0
    assert not await world.engine.admin.dead_letters()
    await world.settle()
    assert await world.store.feeds.delivered(READER, post)
