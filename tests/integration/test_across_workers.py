"""What one worker process acknowledged holds in all others on the very next call."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc, publish_pb2
from tests.support.server import ServerProcess

READER, AUTHOR, OTHER = 9, 1, 2
ROUNDS = 60
CONNECTIONS = 8  # the kernel spreads connections over workers: eight reach both, but for 1 in 128


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("across") / "data", workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def readers(server: ServerProcess) -> Iterator[list[feed_pb2_grpc.FeedServiceStub]]:
    channels = [
        grpc.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1), ("n", n)])
        for n in range(CONNECTIONS)
    ]
    yield [feed_pb2_grpc.FeedServiceStub(channel) for channel in channels]
    for channel in channels:
        channel.close()


@pytest.fixture(scope="module", autouse=True)
def follows(server: ServerProcess) -> None:
    for author in (AUTHOR, OTHER):
        server.graph.Follow(graph_pb2.FollowRequest(follower_id=READER, followee_id=author))


def ids(stub: feed_pb2_grpc.FeedServiceStub) -> list[int]:
    page = stub.GetFeed(feed_pb2.GetFeedRequest(user_id=READER, page_size=100))
    return [item.content_id for item in page.items]


def publish(server: ServerProcess, author: int, body: str) -> int:
    request = publish_pb2.PublishRequest(author_id=author, body=body)
    return server.publish.Publish(request).content_id


def test_a_post_is_in_every_workers_next_page(server, readers) -> None:
    for number in range(ROUNDS):
        post = publish(server, AUTHOR, f"fresh {number}")
        for reader in readers:
            assert post in ids(reader), f"round {number}"
        request = publish_pb2.DeleteRequest(author_id=AUTHOR, content_id=post)
        server.publish.Delete(request)
        for reader in readers:
            assert post not in ids(reader), f"round {number}: deleted"


def test_mute_and_unmute_hold_everywhere_at_once(server, readers) -> None:
    post = publish(server, OTHER, "soon muted")
    mute, unmute = feed_pb2.PREFERENCE_KIND_MUTE, feed_pb2.PREFERENCE_KIND_UNMUTE
    for number in range(ROUNDS):
        for kind, expected in ((mute, False), (unmute, True)):
            request = feed_pb2.SetPreferenceRequest(user_id=READER, kind=kind, target_user_id=OTHER)
            assert server.feed.SetPreference(request).changed
            for reader in readers:
                assert (post in ids(reader)) is expected, f"round {number}"


def test_hide_and_unfollow_hold_everywhere_at_once(server, readers) -> None:
    post = publish(server, OTHER, "soon hidden")
    for kind, expected in (
        (feed_pb2.INTERACTION_KIND_HIDE, False),
        (feed_pb2.INTERACTION_KIND_UNHIDE, True),
    ):
        request = feed_pb2.RecordInteractionRequest(user_id=READER, content_id=post, kind=kind)
        assert server.feed.RecordInteraction(request).changed
        assert all((post in ids(reader)) is expected for reader in readers)
    edge = {"follower_id": READER, "followee_id": OTHER}
    server.graph.Unfollow(graph_pb2.UnfollowRequest(**edge))
    assert not any(post in ids(reader) for reader in readers)
    server.graph.Follow(graph_pb2.FollowRequest(**edge))
    assert all(post in ids(reader) for reader in readers)


def test_a_scroll_goes_on_at_another_worker(server, readers) -> None:
    posts = {publish(server, AUTHOR, f"scroll {number}") for number in range(30)}
    found: list[int] = []
    cursor = ""
    for turn in range(40):
        request = feed_pb2.GetFeedRequest(user_id=READER, page_size=3, cursor=cursor)
        page = readers[turn % CONNECTIONS].GetFeed(request)
        found += [item.content_id for item in page.items]
        cursor = page.next_cursor
        if not cursor:
            break
    assert len(found) == len(set(found)) and posts <= set(found)
