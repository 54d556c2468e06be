"""grpcurl, the tool of operators, against feedcore's own services and the test service."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.interop.builds import go_tools
from tests.conformance.interop.conftest import Served
from tests.support.testserver import ServerUnderTest
from tests.support.transports import TRANSPORTS

SERVICES = [
    "feedcore.collaborators.v1.ContentService",
    "feedcore.collaborators.v1.GraphService",
    "feedcore.collaborators.v1.RankingService",
    "feedcore.v1.AdminService",
    "feedcore.v1.FeedService",
    "feedcore.v1.PublishService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CODE_BASE = 64  # grpcurl exits with this and the number of the status
INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, FAILED_PRECONDITION = 3, 4, 5, 9
WITHIN_S = 60.0


@pytest.fixture(scope="module", params=TRANSPORTS)
def feedcore(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Address of feedcore's own services on an empty store."""
    data_dir = tmp_path_factory.mktemp("grpcurl") / "data"
    with ServerUnderTest("--transport", request.param, "--data-dir", str(data_dir)) as server:
        yield server.address


def grpcurl(
    *arguments: str, stdin: str = "", ca: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs it, in the clear unless there is a `ca`; `arguments` are as on the command line."""
    secure = ["-cacert", str(ca)] if ca else ["-plaintext"]
    command = [str(go_tools() / "grpcurl"), *secure, *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=WITHIN_S, check=False
    )


def called(address: str, method: str, request: object, *flags: str) -> dict[str, object]:
    """The reply of a call that must succeed."""
    result = grpcurl(*flags, "-d", json.dumps(request), address, method)
    assert result.returncode == 0, result.stderr
    reply: dict[str, object] = json.loads(result.stdout)
    return reply


def test_it_lists_every_service(feedcore: str) -> None:
    assert grpcurl(feedcore, "list").stdout.split() == SERVICES
    methods = grpcurl(feedcore, "list", "feedcore.v1.PublishService").stdout.split()
    assert "feedcore.v1.PublishService.Publish" in methods


@pytest.mark.parametrize("service", SERVICES)
def test_it_describes_every_service(feedcore: str, service: str) -> None:
    described = grpcurl(feedcore, "describe", service)
    assert described.stdout.startswith(f"{service} is a service:\n"), described.stderr


def test_it_describes_methods_and_messages(feedcore: str) -> None:
    method = grpcurl(feedcore, "describe", "feedcore.v1.FeedService.GetFeed").stdout
    assert "( .feedcore.v1.GetFeedRequest ) returns ( .feedcore.v1.GetFeedResponse )" in method
    message = grpcurl(feedcore, "describe", "feedcore.v1.GetFeedRequest").stdout
    assert "uint64 user_id = 1;" in message
    assert grpcurl(feedcore, "describe", "feedcore.v1.Nothing").returncode != 0


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_each_version_of_reflection_answers(feedcore: str, version: str) -> None:
    method = f"grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    reply = json.dumps(called(feedcore, method, {"list_services": "*"}))
    assert all(f'"{service}"' in reply for service in SERVICES)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_server_with_the_older_version_alone_will_do(transport: str) -> None:
    with ServerUnderTest("--transport", transport, "--older-reflection") as server:
        listed = grpcurl(server.address, "list")
        assert "grpc.testing.TestService" in listed.stdout.split(), listed.stderr
        assert "grpc.reflection.v1.ServerReflection" not in listed.stdout


def test_a_post_comes_back_in_a_feed(feedcore: str) -> None:
    graph, publish = "feedcore.collaborators.v1.GraphService", "feedcore.v1.PublishService"
    called(feedcore, f"{graph}/Follow", {"follower_id": 1, "followee_id": 2})
    called(feedcore, f"{publish}/Publish", {"author_id": 2, "body": "hello \u263a"})
    page = called(feedcore, "feedcore.v1.FeedService/GetFeed", {"user_id": 1})
    assert "hello \u263a" in json.dumps(page, ensure_ascii=False)


def test_metadata_goes_in_and_comes_out(feedcore: str) -> None:
    flags = ["-v", "-H", f"traceparent: {PARENT}", "-d", '{"user_id": 7}']
    result = grpcurl(*flags, feedcore, "feedcore.v1.FeedService/GetFeed")
    assert result.returncode == 0, result.stderr
    trailers = result.stdout.partition("Response trailers received:")[2]
    assert f"traceparent: {PARENT[:35]}" in trailers


def test_binary_metadata_goes_in_and_comes_out(served: Served) -> None:
    flags = ["-v", "-H", "x-grpc-test-echo-initial: as it is"]
    flags += ["-H", "x-grpc-test-echo-trailing-bin: AP+rqw==", "-d", '{"response_size": 3}']
    result = grpcurl(*flags, served.address, "grpc.testing.TestService/UnaryCall", ca=served.ca)
    assert result.returncode == 0, result.stderr
    received = result.stdout.partition("Response headers received:")[2]
    headers, _, trailers = received.partition("Response trailers received:")
    assert "x-grpc-test-echo-initial: as it is\n" in headers
    # Sent padded, or not: "AP+rqw" is the same four bytes.
    assert "x-grpc-test-echo-trailing-bin: AP+rqw" in trailers


def test_errors_have_code_and_message(feedcore: str) -> None:
    result = grpcurl("-d", "{}", feedcore, "feedcore.v1.FeedService/GetFeed")
    assert result.returncode == CODE_BASE + INVALID_ARGUMENT
    assert "Code: InvalidArgument" in result.stderr and "Message: user_id" in result.stderr


def test_messages_of_errors_are_any_text(served: Served) -> None:
    asked = {"code": FAILED_PRECONDITION, "message": "two\nlines, \u263a, 100%"}
    flags = ["-format-error", "-d", json.dumps({"response_status": asked})]
    result = grpcurl(*flags, served.address, "grpc.testing.TestService/UnaryCall", ca=served.ca)
    assert result.returncode == CODE_BASE + FAILED_PRECONDITION
    told = json.loads(result.stderr)
    assert {name: told[name] for name in asked} == asked
    assert told["details"][0]["domain"] == "feedcore"


def test_a_deadline_ends_a_call(served: Served) -> None:
    replies = [{"size": 3}, {"size": 1, "interval_us": 50_000_000}]
    flags = ["-max-time", "0.5", "-d", json.dumps({"response_parameters": replies})]
    result = grpcurl(
        *flags, served.address, "grpc.testing.TestService/StreamingOutputCall", ca=served.ca
    )
    assert result.returncode == CODE_BASE + DEADLINE_EXCEEDED
    assert json.loads(result.stdout) == {"payload": {"body": "AAAA"}}
    assert "Code: DeadlineExceeded" in result.stderr


def test_requests_stream_in(served: Served) -> None:
    requests = '{"payload": {"body": "AAAA"}} {"payload": {"body": "AA=="}}'
    method = "grpc.testing.TestService/StreamingInputCall"
    result = grpcurl("-d", "@", served.address, method, stdin=requests, ca=served.ca)
    assert json.loads(result.stdout) == {"aggregated_payload_size": 4}, result.stderr


def test_health(feedcore: str) -> None:
    check = "grpc.health.v1.Health/Check"
    for service in ("", "feedcore.v1.FeedService"):
        assert called(feedcore, check, {"service": service}) == {"status": "SERVING"}
    result = grpcurl("-d", '{"service": "nobody"}', feedcore, check)
    assert result.returncode == CODE_BASE + NOT_FOUND


def test_reflection_works_whichever_way_it_is_reached(served: Served) -> None:
    listed = grpcurl(served.address, "list", ca=served.ca)
    assert "grpc.testing.TestService" in listed.stdout.split(), listed.stderr
