"""A request that does not parse is answered with the name of the field at fault."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from feedcore.errors import InvalidField
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from feedcore_server.parsing import Parser
from feedcore_server.request_bounds import REQUESTS


def parse(request_class: type[Message], raw: bytes) -> Message:
    return Parser(request_class, REQUESTS).parse(raw)


def test_a_good_request_comes_back_as_it_was() -> None:
    request = feed_pb2.GetFeedRequest(user_id=7, cursor="abc")
    assert parse(feed_pb2.GetFeedRequest, request.SerializeToString()) == request


@pytest.mark.parametrize(
    ("request_class", "raw", "field"),
    [
        (feed_pb2.GetFeedRequest, b"\x08\x07\x1a\x02\xff\xfe", "cursor"),
        (publish_pb2.PublishRequest, b"\x08\x07\x12\x03a\xc3(", "body"),
        (publish_pb2.PublishRequest, b"\x1a\x04\x0a\x02\xff\xff", "media.uri"),
        (publish_pb2.PublishRequest, b"\x2a\x01\x80", "idempotency_key"),
        (admin_pb2.ImportBatch, b"\x22\x05\x22\x03\xed\xa0\x80", "posts.body"),
    ],
)
def test_text_that_is_not_utf8_names_its_field(request_class, raw: bytes, field: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse(request_class, raw)
    assert caught.value.field == field
    assert "UTF-8" in str(caught.value)


@pytest.mark.parametrize("raw", [b"\x08", b"\x1a\x05ab", b"\xff" * 11, b"\x0b", b"\x1a\xff\xff"])
def test_torn_bytes_name_the_message(raw: bytes) -> None:
    with pytest.raises(InvalidField, match="request: .*feedcore.v1.GetFeedRequest"):
        parse(feed_pb2.GetFeedRequest, raw)


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    try:
        parse(publish_pb2.PublishRequest, raw)
    except InvalidField as error:
        assert error.bound


@given(st.binary(max_size=40), st.integers(0, 60))
def test_a_cut_request_is_never_another_error(body: bytes, cut: int) -> None:
    raw = publish_pb2.PublishRequest(author_id=2**63, body=body.hex()).SerializeToString()
    try:
        parse(publish_pb2.PublishRequest, raw[:cut])
    except InvalidField as error:
        assert error.field == "request"
