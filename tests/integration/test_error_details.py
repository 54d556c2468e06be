"""Details of statuses that the transport decides by itself, and what the command line shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from feedcore_pb.v1 import feed_pb2
from tests.support.details import Details, details_of
from tests.support.server import ServerProcess, feedcore

GET_FEED = "/feedcore.v1.FeedService/GetFeed"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("details") / "data") as server:
        yield server


def failure(call: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value


def test_what_no_handler_sees_has_a_reason(server: ServerProcess) -> None:
    one, many = server.channel.unary_unary, server.channel.stream_unary
    request = feed_pb2.GetFeedRequest(user_id=1).SerializeToString()
    calls = {
        "METHOD_UNKNOWN": lambda: one("/feedcore.v1.FeedService/GetFood")(request),
        "ENCODING_UNKNOWN": lambda: one(GET_FEED)(request, compression=grpc.Compression.Deflate),
        "REQUEST_MALFORMED": lambda: many(GET_FEED)(iter([request, request])),
        "REQUEST_TOO_LARGE": lambda: one(GET_FEED)(bytes(10_000)),
    }
    for reason, call in calls.items():
        assert details_of(failure(call)) == Details(reason, "feedcore")


def test_a_field_by_its_path(server: ServerProcess) -> None:
    request = feed_pb2.GetFeedRequest(user_id=1, page_size=101)
    told = details_of(failure(lambda: server.feed.GetFeed(request)))
    bound = "101; must be 1 to 100, or 0 for 20"
    assert told == Details("FIELD_INVALID", "feedcore", "page_size", bound)


def test_the_command_line_shows_the_reason(server: ServerProcess) -> None:
    shown = feedcore("follow", "1", "1", "--server", server.address, check=False)
    assert shown.returncode != 0
    assert "followee_id: 1" in shown.stderr and shown.stderr.rstrip().endswith("[FIELD_INVALID]")
