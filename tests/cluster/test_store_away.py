"""The tables are away from one API node: users with a page in the shared cache get that, marked
stale; nobody sees what had to go since; all is well again by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest

pytest.importorskip("feedcore._native.feed.page", reason="compiled modules are not built")

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import feed_pb2, publish_pb2
from tests.support.clusterengine import Addresses
from tests.support.clusterservers import config_beside
from tests.support.proxy import Proxy
from tests.support.scrape import scrape
from tests.support.server import ServerProcess

CALL_TIMEOUT_S = 20.0
PATIENCE_S = 5.0  # of a caller, while the tables are away; a second of it may go to settings
WELL_WITHIN_S = 60.0
AUTHOR, OTHER = 50, 51
READER, MUTER, OF_DELETED, STRANGER = 1, 2, 3, 4
POSTS = 3


class Nodes(NamedTuple):
    """`far` reaches the tables through `proxy` only."""

    near: ServerProcess
    far: ServerProcess
    proxy: Proxy


@pytest.fixture
async def nodes(cluster_addresses: Addresses, tmp_path: Path) -> AsyncIterator[Nodes]:
    """Up."""
    host, _, port = cluster_addresses.cassandra.rpartition(":")
    async with config_beside(cluster_addresses, tmp_path) as config:
        async with Proxy(host, int(port)) as proxy:
            through = ("--set", f"cql.contact_points={proxy.address}")
            near = config.node(0, "all", wait=False)
            far = config.node(10, "api", *through, "--metrics", "127.0.0.1:0", wait=False)
            try:
                for one in (near, far):
                    await asyncio.to_thread(one.wait_ready)
                yield Nodes(near, far, proxy)
            finally:
                proxy.resume()
                for one in (near, far):
                    await asyncio.to_thread(one.__exit__)


async def page(
    server: ServerProcess, user: int, within_s: float = CALL_TIMEOUT_S
) -> feed_pb2.GetFeedResponse:
    asked = feed_pb2.GetFeedRequest(user_id=user, page_size=20)
    return await asyncio.to_thread(server.feed.GetFeed, asked, timeout=within_s)


async def refusal(server: ServerProcess, user: int) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as failed:
        await page(server, user, PATIENCE_S)
    return failed.value


async def publish(server: ServerProcess, author: int) -> int:
    asked = publish_pb2.PublishRequest(author_id=author, body="x")
    answer = await asyncio.to_thread(server.publish.Publish, asked, timeout=CALL_TIMEOUT_S)
    return answer.content_id


def ids_of(answer: feed_pb2.GetFeedResponse) -> set[int]:
    return {item.content_id for item in answer.items}


async def people_with_pages(near: ServerProcess) -> set[int]:
    """Content ids by AUTHOR; what the muter and the one of a deleted post have is over at once."""
    for user, author in ((READER, AUTHOR), (MUTER, AUTHOR), (OF_DELETED, OTHER), (STRANGER, OTHER)):
        asked = graph_pb2.FollowRequest(follower_id=user, followee_id=author)
        await asyncio.to_thread(near.graph.Follow, asked, timeout=CALL_TIMEOUT_S)
    made = {await publish(near, AUTHOR) for _ in range(POSTS)}
    deleted = await publish(near, OTHER)
    for user in (READER, MUTER, OF_DELETED):
        assert not (await page(near, user)).receipt.degraded
    mute = feed_pb2.SetPreferenceRequest(
        user_id=MUTER, kind=feed_pb2.PREFERENCE_KIND_MUTE, target_user_id=AUTHOR
    )
    await asyncio.to_thread(near.feed.SetPreference, mute, timeout=CALL_TIMEOUT_S)
    gone = publish_pb2.DeleteRequest(author_id=OTHER, content_id=deleted)
    await asyncio.to_thread(near.publish.Delete, gone, timeout=CALL_TIMEOUT_S)
    return made


async def well_again(far: ServerProcess, newest: int) -> None:
    began = time.monotonic()
    while time.monotonic() - began < WELL_WITHIN_S:
        try:
            answer = await page(far, READER)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE
            await asyncio.sleep(0.2)
            continue
        if newest in ids_of(answer):
            assert not answer.receipt.degraded
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"still without the tables {WELL_WITHIN_S} s after they came back")


@pytest.mark.parametrize("how", ["gone", "silent"])
async def test_a_page_from_before_stands_in(nodes: Nodes, how: str) -> None:
    near, far, proxy = nodes
    made = await people_with_pages(near)
    if how == "gone":
        proxy.refusing = True
        proxy.drop()
    else:
        proxy.pause()
    newest = await publish(near, AUTHOR)  # from here on no page of before is current
    for _ in range(3):
        answer = await page(far, READER, PATIENCE_S)
        assert ids_of(answer) == made and all(item.content.body for item in answer.items)
        said = {source.name: source for source in answer.receipt.sources}
        assert answer.receipt.degraded and said["cache"].ok
        assert said["cache"].stale_ms > 0 and said["cache"].count == POSTS
    for user in (MUTER, OF_DELETED, STRANGER):
        refused = await refusal(far, user)
        assert refused.code() == grpc.StatusCode.UNAVAILABLE, (user, refused.details())
    await asyncio.sleep(1.5)  # figures are written once a second
    figures = await asyncio.to_thread(scrape, far)
    stale = (("operation", "GetFeed"), ("source", "stale"))
    assert figures["feedcore_feed_answers_total", stale] == 3
    proxy.refusing = False
    proxy.resume()
    await well_again(far, newest)
