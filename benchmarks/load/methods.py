"""The calls of the load: paths, and requests as wire bytes.

A method's index is its place in PATHS: what workloads and the engine say to each other.
"""

from __future__ import annotations

from feedcore_pb.v1 import feed_pb2, publish_pb2

GET_FEED, CHECK_NEW, INTERACT, PREFER, PUBLISH, DELETE = range(6)
PATHS = (
    "/feedcore.v1.FeedService/GetFeed",
    "/feedcore.v1.FeedService/CheckNew",
    "/feedcore.v1.FeedService/RecordInteraction",
    "/feedcore.v1.FeedService/SetPreference",
    "/feedcore.v1.PublishService/Publish",
    "/feedcore.v1.PublishService/Delete",
)
NAMES = tuple(path.rsplit("/", 1)[1] for path in PATHS)

FULL, COMPACT, IDS = feed_pb2.VIEW_FULL, feed_pb2.VIEW_COMPACT, feed_pb2.VIEW_IDS
OK, NOT_FOUND, RESOURCE_EXHAUSTED = 0, 5, 8  # gRPC status codes


def get_feed(
    user: int,
    size: int = 0,
    cursor: str = "",
    view: feed_pb2.View = FULL,
    if_none_match: str = "",
) -> bytes:
    """GetFeedRequest."""
    return feed_pb2.GetFeedRequest(
        user_id=user, page_size=size, cursor=cursor, view=view, if_none_match=if_none_match
    ).SerializeToString()


def check_new(user: int, head: str) -> bytes:
    """CheckNewRequest."""
    return feed_pb2.CheckNewRequest(user_id=user, head=head).SerializeToString()


def interact(user: int, content_id: int, kind: feed_pb2.InteractionKind) -> bytes:
    """RecordInteractionRequest."""
    return feed_pb2.RecordInteractionRequest(
        user_id=user, content_id=content_id, kind=kind
    ).SerializeToString()


def prefer(user: int, author: int, kind: feed_pb2.PreferenceKind) -> bytes:
    """SetPreferenceRequest."""
    return feed_pb2.SetPreferenceRequest(
        user_id=user, target_user_id=author, kind=kind
    ).SerializeToString()


def publish(author: int, body: str) -> bytes:
    """PublishRequest."""
    return publish_pb2.PublishRequest(author_id=author, body=body).SerializeToString()


def delete(author: int, content_id: int) -> bytes:
    """DeleteRequest."""
    return publish_pb2.DeleteRequest(author_id=author, content_id=content_id).SerializeToString()
