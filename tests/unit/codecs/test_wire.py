"""Wire bytes against the generated code: parsed equal, and byte for byte what protobuf writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from feedcore import native
from feedcore.codecs.wire import PageItem
from feedcore.domain import ids
from feedcore_pb.v1 import feed_pb2, types_pb2

U64 = st.integers(0, 2**64 - 1)
COUNT = st.integers(0, 3) | U64
CONTENT = st.builds(
    lambda body, uri: types_pb2.Content(
        body=body, media=[types_pb2.MediaRef(uri=uri, width=7)] if uri else []
    ).SerializeToString(),
    st.text(max_size=400),
    st.text(max_size=20),
)
ITEM = st.builds(
    PageItem,
    st.integers(1, ids.ID_MAX),
    U64,
    st.none() | CONTENT,
    COUNT,
    COUNT,
    COUNT,
    st.floats(0.0, allow_infinity=False),
    st.integers(0, 3),
)
RECEIPT = st.builds(
    lambda degraded, n: types_pb2.Receipt(degraded=degraded, candidates=n).SerializeToString(),
    st.booleans(),
    st.integers(0, 500),
)
TEXT = st.text(max_size=200)


def by_protobuf(item: PageItem, view: int) -> types_pb2.FeedItem:
    content_id, author_id, content, likes, comments, shares, score, reason = item
    message = types_pb2.FeedItem(
        content_id=content_id,
        author_id=author_id,
        published_at_ms=ids.time_ms(content_id),
        reason=reason,
    )
    if view == feed_pb2.VIEW_FULL and content is not None:
        message.content.ParseFromString(content)
        message.content.SetInParent()
    if view != feed_pb2.VIEW_IDS:
        message.counts.SetInParent()
        message.counts.likes, message.counts.comments = likes, comments
        message.counts.shares, message.score = shares, score
    return message


@given(st.lists(ITEM, max_size=6), TEXT, TEXT, TEXT, RECEIPT, st.integers(0, 2))
def test_page(
    items: list[tuple], cursor: str, head: str, etag: str, receipt: bytes, view: int
) -> None:
    expected = feed_pb2.GetFeedResponse(
        items=[by_protobuf(item, view) for item in items],
        next_cursor=cursor,
        head=head,
        etag=etag,
        receipt=types_pb2.Receipt.FromString(receipt),
    )
    wire = native.encode_page(items, cursor, head, etag, receipt, view)
    assert feed_pb2.GetFeedResponse.FromString(wire) == expected
    assert wire == expected.SerializeToString(deterministic=True)


@given(TEXT, TEXT, RECEIPT)
def test_not_modified(head: str, etag: str, receipt: bytes) -> None:
    expected = feed_pb2.GetFeedResponse(
        head=head, etag=etag, not_modified=True, receipt=types_pb2.Receipt.FromString(receipt)
    )
    assert native.encode_not_modified(head, etag, receipt) == expected.SerializeToString()


def test_etag_changes_with_what_is_shown_and_not_with_the_score() -> None:
    one = PageItem(5, 6, b"abc", 1, 2, 3, 0.5, 1)
    other = PageItem(4, 6, None, 1, 2, 3, 0.4, 1)
    etag = native.page_etag([one, other], 1, True, 0)
    assert etag == native.page_etag([one._replace(score=0.1), other], 1, True, 0)
    changed = [
        native.page_etag([other, one], 1, True, 0),
        native.page_etag([one], 1, True, 0),
        native.page_etag([one._replace(likes=2), other], 1, True, 0),
        native.page_etag([PageItem(5, 6, b"abd", 1, 2, 3, 0.5, 1), other], 1, True, 0),
        native.page_etag([PageItem(5, 6, None, 1, 2, 3, 0.5, 1), other], 1, True, 0),
        native.page_etag([PageItem(5, 6, b"", 1, 2, 3, 0.5, 1), other], 1, True, 0),
        native.page_etag([one, other], 2, True, 0),
        native.page_etag([one, other], 1, False, 0),
        native.page_etag([one, other], 1, True, 1),
    ]
    assert len({etag, *changed}) == len(changed) + 1
