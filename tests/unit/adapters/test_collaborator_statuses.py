"""When a collaborator that is full may be asked again: what it says, if that can be read."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2

from feedcore.adapters.collaborators.statuses import error_of
from feedcore.errors import Overloaded

FULL = grpc.StatusCode.RESOURCE_EXHAUSTED
DETAILS = "grpc-status-details-bin"


def details(delay_ms: int, message: str = "full") -> bytes:
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(delay_ms)
    status = status_pb2.Status(code=8, message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="FULL"))
    status.details.add().Pack(retry)
    return status.SerializeToString()


@pytest.mark.parametrize(
    ("trailers", "after_ms"),
    [
        ([], 100),
        ([("retry-after-ms", "250")], 250),
        ([(DETAILS, details(700))], 700),
        ([("retry-after-ms", "250"), (DETAILS, details(700))], 250),
        ([("retry-after-ms", "soon"), (DETAILS, details(700))], 700),
        ([(DETAILS, details(10**9))], 60_000),
        ([(DETAILS, details(-5))], 100),
        ([(DETAILS, details(700, "another message"))], 100),
        ([(DETAILS, b"\xff\xff")], 100),
    ],
)
def test_when_to_ask_again(trailers: list[tuple[str, str | bytes]], after_ms: int) -> None:
    metadata = grpc.aio.Metadata(*trailers)
    error = error_of("ranking", grpc.aio.AioRpcError(FULL, grpc.aio.Metadata(), metadata, "full"))
    assert isinstance(error, Overloaded) and error.retry_after_ms == after_ms
