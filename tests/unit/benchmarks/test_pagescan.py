"""The page scanner beside protobuf: the same fields of what both accept, and a refusal of all that
our encoder never writes."""

from __future__ import annotations

import struct

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from feedcore_pb.v1 import feed_pb2, types_pb2

pagescan = pytest.importorskip(
    "feedcore_bench._native.pagescan", reason="compiled modules are not built"
)
scan_page = pagescan.scan_page

IDS = st.integers(1, 2**63 - 1)
CONTENTS = st.builds(
    types_pb2.Content,
    body=st.text(max_size=200),
    media=st.lists(st.builds(types_pb2.MediaRef, uri=st.text(max_size=9)), max_size=2),
)
COUNTS = st.builds(types_pb2.Counts, likes=st.integers(0, 2**64 - 1), shares=st.integers(0, 9))
ITEMS = st.builds(
    types_pb2.FeedItem,
    content_id=IDS,
    author_id=IDS,
    published_at_ms=st.integers(-(2**63), 2**63 - 1),
    content=st.none() | CONTENTS,
    counts=st.none() | COUNTS,
    score=st.floats(allow_nan=False),
    reason=st.sampled_from(list(types_pb2.Reason.values())),
)
RECEIPTS = st.builds(
    types_pb2.Receipt,
    origin=st.sampled_from(list(types_pb2.FeedOrigin.values())),
    degraded=st.booleans(),
    sources=st.lists(
        st.builds(types_pb2.SourceReport, name=st.text(max_size=9), ok=st.booleans()), max_size=3
    ),
    candidates=st.integers(0, 2**32 - 1),
    filtered=st.dictionaries(st.text(max_size=9), st.integers(0, 9), max_size=3),
    experiment_arm=st.text(max_size=9),
    generated_at_ms=st.integers(0, 2**63 - 1),
)
PAGES = st.builds(
    feed_pb2.GetFeedResponse,
    items=st.lists(ITEMS, max_size=30),
    next_cursor=st.text(max_size=300),
    head=st.text(max_size=30),
    etag=st.text(max_size=30),
    not_modified=st.booleans(),
    receipt=st.none() | RECEIPTS,
)


def fields(page: feed_pb2.GetFeedResponse) -> tuple[object, ...]:
    """What the scanner gives, by protobuf."""
    count = len(page.items)
    return (
        struct.pack(f"<{count}Q", *(item.content_id for item in page.items)),
        struct.pack(f"<{count}Q", *(item.author_id for item in page.items)),
        struct.pack(f"<{count}d", *(item.score for item in page.items)),
        page.next_cursor,
        page.head,
        page.etag,
        page.not_modified,
        page.receipt.degraded,
    )


@given(PAGES)
def test_the_same_fields_as_protobuf(page: feed_pb2.GetFeedResponse) -> None:
    assert scan_page(page.SerializeToString()) == fields(page)


def agrees(body: bytes) -> bool:
    """Whether both accept it; then they must say the same."""
    try:
        found = scan_page(body)
    except ValueError:
        return False
    try:
        page = feed_pb2.GetFeedResponse.FromString(body)
    except DecodeError:  # within a content or a source, which are stepped over
        return False
    assert found == fields(page)
    return True


@given(PAGES, st.data())
def test_hostile_bytes_are_refused_or_mean_the_same(
    page: feed_pb2.GetFeedResponse, data: st.DataObject
) -> None:
    whole = page.SerializeToString()
    agrees(whole[: data.draw(st.integers(0, len(whole)))])
    if whole:
        at = data.draw(st.integers(0, len(whole) - 1))
        agrees(whole[:at] + bytes((data.draw(st.integers(0, 255)),)) + whole[at + 1 :])


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_mean_the_same(body: bytes) -> None:
    agrees(body)


ITEM = b"\x08\x01\x10\x02"


def item(inner: bytes) -> bytes:
    return b"\x0a" + bytes((len(inner),)) + inner


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\x0a\x05\x08\x01", "ends within a field"),
        (b"\x12\x80", "ends within a field"),
        (item(b"\x31\0\0"), "ends within a field"),
        (item(b"\x08" + b"\xff" * 9 + b"\x02\x10\x01"), "more than 64 bits"),
        (item(ITEM + b"\x48\x01"), "not known"),
        (b"\x38\x01", "not known"),
        (b"\x0b", "not known"),
        (b"\x10\x01", "not known"),
        (b"\x32\x02\x68\x01", "not known"),
        (item(ITEM + b"\x08\x01"), "comes twice"),
        (b"\x12\0\x12\0", "comes twice"),
        (item(b"\x08\x01"), "without content_id or author_id"),
        (item(b"\x10\x01"), "without content_id or author_id"),
        (item(ITEM) * 1025, "more than 1024 items"),
        (b"\x28\x02", "neither 0 nor 1"),
        (b"\x32\x02\x10\x02", "neither 0 nor 1"),
        (b"\x12\x01\xff", "can't decode"),
    ],
)
def test_what_is_wrong_is_said(body: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scan_page(body)


def test_most_items_that_are_taken() -> None:
    found = scan_page(item(ITEM) * 1024)
    assert found[0] == struct.pack("<Q", 1) * 1024
    assert found[1] == struct.pack("<Q", 2) * 1024
