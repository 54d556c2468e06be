"""Every kind of bad input against a started server: the right status, a message that names the
field and the bound, and nothing changed.
"""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grpc
import pytest

from feedcore.codecs.cursor import Cursor, encode_cursor, encode_head
from feedcore.limits import CURSOR_AGE_MAX_MS
from feedcore_pb.collaborators.v1 import content_pb2, graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from tests.support.details import details_of
from tests.support.server import ServerProcess

AUTHOR, READER, STRANGER, COLLEAGUE = 1001, 1002, 1003, 1004
DAY_MS = 86_400_000
BAD, GONE, FOREIGN = "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"
FULL = "RESOURCE_EXHAUSTED"


class World(NamedTuple):
    """A server with one author of five posts, one reader, and the reader's first page of two."""

    server: ServerProcess
    posts: list[int]
    cursor: str
    head: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ServerProcess(tmp_path_factory.mktemp("bad-input") / "data", workers=1) as server:
        # somebody who has published: whose deletes of others' posts are not simply unknown
        known = publish_pb2.PublishRequest(author_id=COLLEAGUE, body="mine")
        server.publish.Publish(known)
        edge = graph_pb2.FollowRequest(follower_id=READER, followee_id=AUTHOR)
        assert server.graph.Follow(edge).changed
        posts = []
        for number in range(5):
            request = publish_pb2.PublishRequest(
                author_id=AUTHOR, body=f"post {number}", idempotency_key=f"key-{number}"
            )
            posts.append(server.publish.Publish(request).content_id)
        page = server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=READER, page_size=2))
        assert len(page.items) == 2 and page.next_cursor
        yield World(server, posts, page.next_cursor, page.head)


class Row(NamedTuple):
    """One case: `call` makes the bad call; `says` are parts of the message."""

    name: str
    call: Callable[[World], Any]
    status: str
    says: tuple[str, ...]


def get_feed(world: World, **fields: Any) -> Any:
    return world.server.feed.GetFeed(feed_pb2.GetFeedRequest(**{"user_id": READER, **fields}))


def check_new(world: World, **fields: Any) -> Any:
    request = feed_pb2.CheckNewRequest(**{"user_id": READER, "head": world.head, **fields})
    return world.server.feed.CheckNew(request)


def publish(world: World, **fields: Any) -> Any:
    request = publish_pb2.PublishRequest(**{"author_id": AUTHOR, "body": "new", **fields})
    return world.server.publish.Publish(request)


def delete(world: World, **fields: Any) -> Any:
    request = publish_pb2.DeleteRequest(
        **{"author_id": AUTHOR, "content_id": world.posts[0], **fields}
    )
    return world.server.publish.Delete(request)


def prefer(world: World, **fields: Any) -> Any:
    defaults = {"user_id": READER, "kind": "PREFERENCE_KIND_MUTE", "target_user_id": AUTHOR}
    return world.server.feed.SetPreference(feed_pb2.SetPreferenceRequest(**(defaults | fields)))


def interact(world: World, **fields: Any) -> Any:
    defaults = {
        "user_id": READER,
        "content_id": world.posts[0],
        "kind": "INTERACTION_KIND_LIKE",
    }
    request = feed_pb2.RecordInteractionRequest(**(defaults | fields))
    return world.server.feed.RecordInteraction(request)


def follow(world: World, **fields: Any) -> Any:
    request = graph_pb2.FollowRequest(**{"follower_id": STRANGER, "followee_id": AUTHOR, **fields})
    return world.server.graph.Follow(request)


def set_ranking(world: World, **parameters: float) -> Any:
    config = world.server.admin.GetRanking(admin_pb2.GetRankingRequest())
    for name, value in parameters.items():
        setattr(config.parameters, name, value)
    return world.server.admin.SetRanking(admin_pb2.SetRankingRequest(config=config))


def set_settings(world: World, **fields: Any) -> Any:
    return world.server.admin.SetSettings(admin_pb2.SetSettingsRequest(**fields))


def raw(world: World, path: str, request: bytes) -> Any:
    return world.server.channel.unary_unary(path)(request)


def flipped(text: str, at: int) -> str:
    """One bit of the decoded cursor turned over."""
    data = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    data[at] ^= 1
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def foreign_cursor(world: World) -> str:
    """The stranger's own cursor: well made, but of somebody else."""
    for number in range(3):
        publish_request = publish_pb2.PublishRequest(
            author_id=STRANGER, body=f"own {number}", idempotency_key=f"own-{number}"
        )
        world.server.publish.Publish(publish_request)
    request = feed_pb2.GetFeedRequest(user_id=STRANGER, page_size=1)
    return world.server.feed.GetFeed(request).next_cursor


def signed_cursor(world: World, age_ms: int) -> str:
    """A cursor with the store's own signature that was issued `age_ms` ago."""
    status = world.server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=READER, page_size=1))
    now_ms = status.receipt.generated_at_ms
    return encode_cursor(
        Cursor(
            owner=READER,
            head=world.posts[-1],
            low_water=world.posts[-1],
            ranked_at_ms=now_ms - age_ms,
            config_version=0,
            origin=0,
            issued_ms=now_ms - age_ms,
            served=b"",
        ),
        secret_of(world),
    )


def secret_of(world: World) -> bytes:
    """The key that signs this store's cursors."""
    uri = f"file:{world.server.data_dir / 'store.db'}?mode=ro"
    with sqlite3.connect(uri, uri=True) as connection:
        (secret,) = connection.execute("SELECT value FROM meta WHERE key = 'secret'").fetchone()
    return secret


NAN, INFINITE = float("nan"), float("inf")
KIND_NONE = "PREFERENCE_KIND_UNSPECIFIED"
FEED = "/feedcore.v1.FeedService/GetFeed"
WRITE = "/feedcore.v1.PublishService/Publish"
NOT_UTF8 = b"\xff\xfe"

ROWS = [
    # the page
    Row("user 0", lambda w: get_feed(w, user_id=0), BAD, ("user_id: 0", "1 to")),
    Row("user 2^64-1", lambda w: get_feed(w, user_id=2**64 - 1), BAD, ("user_id", "1 to")),
    *(
        Row(f"{name} 2^63", call, BAD, (f"{name}: {2**63}", f"must be 1 to {2**63 - 1}"))
        for name, call in {
            "author_id": lambda w: publish(w, author_id=2**63),
            "content_id": lambda w: w.server.publish.GetPost(
                publish_pb2.GetPostRequest(content_id=2**63)
            ),
            "viewer_id": lambda w: w.server.publish.GetPost(
                publish_pb2.GetPostRequest(content_id=w.posts[0], viewer_id=2**63)
            ),
            "followee_id": lambda w: w.server.graph.Follow(
                graph_pb2.FollowRequest(follower_id=READER, followee_id=2**63)
            ),
            "user_ids": lambda w: w.server.graph.GetFollowerCounts(
                graph_pb2.GetFollowerCountsRequest(user_ids=[READER, 2**63])
            ),
            "content_ids": lambda w: w.server.content.BatchGetContents(
                content_pb2.BatchGetContentsRequest(content_ids=[2**63])
            ),
            "job_ids": lambda w: w.server.admin.ReplayDeadLetters(
                admin_pb2.ReplayDeadLettersRequest(job_ids=[2**63])
            ),
        }.items()
    ),
    Row("page 101", lambda w: get_feed(w, page_size=101), BAD, ("page_size: 101", "1 to 100")),
    Row("page 2^32-1", lambda w: get_feed(w, page_size=2**32 - 1), BAD, ("page_size", "100")),
    Row("view 9", lambda w: get_feed(w, view=9), BAD, ("view: 9", "0 (full)")),
    Row("cursor cut", lambda w: get_feed(w, cursor=w.cursor[:-5]), BAD, ("cursor", "first page")),
    Row("cursor of 1", lambda w: get_feed(w, cursor=w.cursor[0]), BAD, ("cursor", "malformed")),
    Row("cursor junk", lambda w: get_feed(w, cursor="!?"), BAD, ("cursor", "malformed")),
    Row("cursor of 2 KB", lambda w: get_feed(w, cursor="A" * 2_049), BAD, ("cursor: 2049", "2048")),
    Row("cursor 1 MB", lambda w: get_feed(w, cursor="A" * 2**20), FULL, ("request: 1048", "most")),
    Row(
        "cursor bit", lambda w: get_feed(w, cursor=flipped(w.cursor, 12)), BAD, ("cursor: forged",)
    ),
    Row(
        "cursor tag", lambda w: get_feed(w, cursor=flipped(w.cursor, -1)), BAD, ("cursor: forged",)
    ),
    Row("cursor version", lambda w: get_feed(w, cursor=flipped(w.cursor, 0)), BAD, ("cursor",)),
    Row("cursor of another", lambda w: get_feed(w, cursor=foreign_cursor(w)), BAD, ("foreign",)),
    Row(
        "cursor expired",
        lambda w: get_feed(w, cursor=signed_cursor(w, CURSOR_AGE_MAX_MS + 60_000)),
        BAD,
        ("cursor: expired", "first page"),
    ),
    Row(
        "cursor not UTF-8", lambda w: raw(w, FEED, b"\x1a\x02" + NOT_UTF8), BAD, ("cursor", "UTF-8")
    ),
    Row("request torn", lambda w: raw(w, FEED, b"\x08"), BAD, ("request", "GetFeedRequest")),
    Row("head empty", lambda w: check_new(w, head=""), BAD, ("head", "malformed")),
    Row("head junk", lambda w: check_new(w, head="??"), BAD, ("head", "malformed")),
    Row("head forged", lambda w: check_new(w, head=flipped(w.head, 5)), BAD, ("head",)),
    Row(
        "head of another",
        lambda w: check_new(w, head=encode_head(STRANGER, w.posts[0], secret_of(w))),
        BAD,
        ("head", "foreign"),
    ),
    # posts
    Row("author 0", lambda w: publish(w, author_id=0), BAD, ("author_id: 0", "1 to")),
    Row("body empty", lambda w: publish(w, body=""), BAD, ("body: 0 char", "1 to 10000")),
    Row("body long", lambda w: publish(w, body="ä" * 10_001), BAD, ("body: 10001", "10000")),
    Row(
        "body not UTF-8",
        lambda w: raw(w, WRITE, b"\x08\x01\x12\x02" + NOT_UTF8),
        BAD,
        ("body: not valid UTF-8",),
    ),
    Row(
        "media 11",
        lambda w: publish(w, media=[{"uri": "a"}] * 11),
        BAD,
        ("media: 11", "at most 10"),
    ),
    Row(
        "media uri empty",
        lambda w: publish(w, media=[{"uri": "ok"}, {}]),
        BAD,
        ("media[1].uri: 0 bytes", "1 to 2048"),
    ),
    Row(
        "media uri long",
        lambda w: publish(w, media=[{"uri": "u" * 2_049}]),
        BAD,
        ("media[0].uri: 2049", "2048"),
    ),
    Row("visibility 7", lambda w: publish(w, visibility=7), BAD, ("visibility: 7",)),
    Row(
        "key long",
        lambda w: publish(w, idempotency_key="k" * 129),
        BAD,
        ("idempotency_key: 129 bytes", "128"),
    ),
    Row(
        "key with another body",
        lambda w: publish(w, body="something else", idempotency_key="key-0"),
        "ALREADY_EXISTS",
        ("idempotency",),
    ),
    Row("delete by nobody", lambda w: delete(w, author_id=999_999), GONE, ("author_id",)),
    Row("delete of nothing", lambda w: delete(w, content_id=12_345), GONE, ("content_id",)),
    Row("delete of another's", lambda w: delete(w, author_id=COLLEAGUE), FOREIGN, ("author_id",)),
    Row("delete post 0", lambda w: delete(w, content_id=0), BAD, ("content_id: 0", "1 to")),
    Row(
        "stats of nothing",
        lambda w: w.server.publish.GetPostStats(publish_pb2.GetPostStatsRequest(content_id=5)),
        GONE,
        ("content_id: 5",),
    ),
    Row(
        "post of nothing",
        lambda w: w.server.publish.GetPost(publish_pb2.GetPostRequest(content_id=5)),
        GONE,
        ("content_id: 5",),
    ),
    # what users want
    Row("mute none", lambda w: prefer(w, target_user_id=0), BAD, ("target_user_id: 0", "1 to")),
    Row("mute oneself", lambda w: prefer(w, target_user_id=READER), BAD, ("target_user_id",)),
    Row("kind none", lambda w: prefer(w, kind=KIND_NONE), BAD, ("kind: 0", "must be one of")),
    Row("kind 99", lambda w: prefer(w, kind=99), BAD, ("kind: 99", "must be one of")),
    Row("mute until", lambda w: prefer(w, until_ms=5), BAD, ("until_ms: 5", "SNOOZE")),
    Row(
        "snooze past",
        lambda w: prefer(w, kind="PREFERENCE_KIND_SNOOZE", until_ms=5),
        BAD,
        ("until_ms: 5", "later than now"),
    ),
    Row(
        "snooze two years",
        lambda w: prefer(w, kind="PREFERENCE_KIND_SNOOZE", until_ms=2**60),
        BAD,
        ("until_ms", "ahead"),
    ),
    Row("like of 0", lambda w: interact(w, content_id=0), BAD, ("content_id: 0", "1 to")),
    Row("like of nothing", lambda w: interact(w, content_id=77), GONE, ("content_id",)),
    Row("interaction none", lambda w: interact(w, kind=0), BAD, ("kind: 0", "must be one of")),
    Row(
        "interaction key long",
        lambda w: interact(w, idempotency_key="k" * 129),
        BAD,
        ("idempotency_key", "128"),
    ),
    # the graph
    Row(
        "follow oneself", lambda w: follow(w, followee_id=STRANGER), BAD, ("followee_id", "another")
    ),
    Row("follow 0", lambda w: follow(w, followee_id=0), BAD, ("followee_id: 0", "1 to")),
    Row("follow by 0", lambda w: follow(w, follower_id=0), BAD, ("follower_id: 0", "1 to")),
    Row(
        "followers page",
        lambda w: w.server.graph.ListFollowers(
            graph_pb2.ListFollowersRequest(user_id=1, page_size=1_001)
        ),
        BAD,
        ("page_size: 1001", "1000"),
    ),
    Row(
        "followers token",
        lambda w: w.server.graph.ListFollowers(
            graph_pb2.ListFollowersRequest(user_id=1, page_token="Z")
        ),
        BAD,
        ("page_token",),
    ),
    Row(
        "counts of none",
        lambda w: w.server.graph.GetFollowerCounts(graph_pb2.GetFollowerCountsRequest()),
        BAD,
        ("user_ids: 0 ids", "1 to 1000"),
    ),
    Row(
        "contents 501",
        lambda w: w.server.content.BatchGetContents(
            content_pb2.BatchGetContentsRequest(content_ids=range(1, 502))
        ),
        BAD,
        ("content_ids: 501", "at most 500"),
    ),
    # operators
    Row("nan", lambda w: set_ranking(w, half_life_hours=NAN), BAD, ("half_life_hours: nan", "168")),
    Row(
        "inf", lambda w: set_ranking(w, quality_weight=INFINITE), BAD, ("quality_weight: inf", "4")
    ),
    Row("below", lambda w: set_ranking(w, half_life_hours=0.05), BAD, ("half_life_hours", "0.1")),
    Row(
        "above",
        lambda w: set_ranking(w, engagement_weight=11),
        BAD,
        ("engagement_weight: 11", "10"),
    ),
    Row(
        "no config",
        lambda w: w.server.admin.SetRanking(admin_pb2.SetRankingRequest()),
        BAD,
        ("config: absent",),
    ),
    Row(
        "another version",
        lambda w: w.server.admin.SetRanking(
            admin_pb2.SetRankingRequest(
                config=w.server.admin.GetRanking(admin_pb2.GetRankingRequest()),
                expected_version=41,
            )
        ),
        "FAILED_PRECONDITION",
        ("version",),
    ),
    Row(
        "no such version",
        lambda w: w.server.admin.GetRanking(admin_pb2.GetRankingRequest(version=99)),
        GONE,
        ("version", "99"),
    ),
    Row("threshold", lambda w: set_settings(w, push_threshold=2**33), BAD, ("push_threshold",)),
    Row("hysteresis", lambda w: set_settings(w, hysteresis_percent=51), BAD, ("hysteresis", "50")),
    Row(
        "dead letters",
        lambda w: w.server.admin.ListDeadLetters(admin_pb2.ListDeadLettersRequest(limit=1_001)),
        BAD,
        ("limit: 1001", "1000"),
    ),
    Row(
        "explain 0",
        lambda w: w.server.admin.Explain(admin_pb2.ExplainRequest(content_id=w.posts[0])),
        BAD,
        ("user_id: 0",),
    ),
    Row(
        "rebuild 0",
        lambda w: w.server.admin.RebuildFeed(admin_pb2.RebuildFeedRequest()),
        BAD,
        ("user_id: 0",),
    ),
    Row(
        "audit too many",
        lambda w: w.server.admin.Audit(admin_pb2.AuditRequest(sample=10_001)),
        BAD,
        ("sample: 10001", "10000"),
    ),
]


def state(world: World) -> list[Any]:
    """All that a bad call must not change, as the API shows it."""
    admin, server = world.server.admin, world.server
    page = get_feed(world, page_size=100)
    return [
        [(item.content_id, item.content.body, item.counts.likes) for item in page.items],
        server.feed.GetPreferences(feed_pb2.GetPreferencesRequest(user_id=READER)),
        server.graph.GetFollowerCounts(
            graph_pb2.GetFollowerCountsRequest(user_ids=[AUTHOR, READER, STRANGER])
        ),
        admin.GetRanking(admin_pb2.GetRankingRequest()),
        admin.GetSettings(admin_pb2.GetSettingsRequest()),
        admin.GetStatus(admin_pb2.GetStatusRequest()).store["posts"],
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_bad_input(world: World, row: Row) -> None:
    foreign_cursor(world)  # its posts are made once, before the state is looked at
    before = state(world)
    with pytest.raises(grpc.RpcError) as caught:
        row.call(world)
    error = caught.value
    assert error.code().name == row.status, error.details()
    for part in row.says:
        assert part in error.details(), error.details()
    told = details_of(error)
    field = error.details().partition(":")[0] if row.status == BAD else ""
    assert told.field == field and told.reason, told
    assert state(world) == before


def test_page_size_zero_is_the_default(world: World) -> None:
    assert len(get_feed(world, page_size=0).items) == 5


def test_bad_rows_of_an_import_are_refused_one_by_one(world: World) -> None:
    now_ms = get_feed(world).receipt.generated_at_ms
    batch = admin_pb2.ImportBatch(
        batch_id=3,
        follows=[{"follower_id": 1, "followee_id": 1}, {"follower_id": 5, "followee_id": 6}],
        posts=[
            {"post_key": "", "author_id": 6, "published_at_ms": now_ms, "body": "x"},
            {"post_key": "a", "author_id": 6, "published_at_ms": now_ms - 8 * DAY_MS, "body": "x"},
            {"post_key": "b", "author_id": 6, "published_at_ms": now_ms + DAY_MS, "body": "x"},
            {"post_key": "c", "author_id": 6, "published_at_ms": now_ms, "body": ""},
        ],
        interactions=[
            {"user_id": 5, "post_key": "none", "author_id": 6, "kind": "like"},
            {"user_id": 5, "post_key": "none", "author_id": 2**63, "kind": "like"},
        ],
    )
    (receipt,) = world.server.admin.Import(iter([batch]))
    assert (receipt.batch_id, receipt.applied) == (3, 1)
    places = [(refusal.list, refusal.index) for refusal in receipt.refused]
    posts = [("posts", number) for number in range(4)]
    assert places == [("follows", 0), *posts, ("interactions", 0), ("interactions", 1)]
    assert all(refusal.reason for refusal in receipt.refused)


def test_a_batch_that_is_too_large_ends_the_import(world: World) -> None:
    batch = admin_pb2.ImportBatch(follows=[{"follower_id": 1, "followee_id": 2}] * 5_001)
    with pytest.raises(grpc.RpcError) as caught:
        list(world.server.admin.Import(iter([batch])))
    assert caught.value.code().name == BAD and "5000" in caught.value.details()
