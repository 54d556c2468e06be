"""What every gRPC server has: health, reflection, traces, metrics that add up over workers."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from tests.support.scrape import scrape
from tests.support.server import ServerProcess

SERVICES = {
    "feedcore.v1.FeedService",
    "feedcore.v1.PublishService",
    "feedcore.v1.AdminService",
    "feedcore.collaborators.v1.GraphService",
    "feedcore.collaborators.v1.RankingService",
    "feedcore.collaborators.v1.ContentService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
VERSIONS = ("v1", "v1alpha")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WORKERS = 2
LOADS = 60
LOGGED_WITHIN_S = 10.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    data_dir = tmp_path_factory.mktemp("standard") / "data"
    with ServerProcess(data_dir, "--metrics", "127.0.0.1:0", workers=WORKERS) as server:
        yield server


def logged(server: ServerProcess, part: str) -> str:
    """The first log line with this in it, as soon as it has come through the pipe."""
    deadline_s = time.monotonic() + LOGGED_WITHIN_S
    while time.monotonic() < deadline_s:
        for line in server.lines:
            if part in line:
                return line
        time.sleep(0.01)
    raise AssertionError(f"no log line has {part}")


def ask(server: ServerProcess, version: str, *requests: object) -> list[object]:
    """Reflection's answers to requests on one stream."""
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(call(iter(requests), timeout=10))


def test_health_of_all_and_of_each_service(server: ServerProcess) -> None:
    health = health_pb2_grpc.HealthStub(server.channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for service in ("", *(name for name in SERVICES if name.startswith("feedcore"))):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == serving
    listed = health.List(health_pb2.HealthListRequest()).statuses
    assert set(listed) >= {"", "feedcore.v1.FeedService"}
    with pytest.raises(grpc.RpcError) as caught:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=10)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_lists_and_describes_every_service(server: ServerProcess, version: str) -> None:
    request = reflection_pb2.ServerReflectionRequest
    (listed,) = ask(server, version, request(list_services="*"))
    names = {service.name for service in listed.list_services_response.service}
    assert names == SERVICES
    asked = sorted(names)
    answers = ask(server, version, *(request(file_containing_symbol=name) for name in asked))
    for name, answer in zip(asked, answers, strict=True):
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(raw)
            for raw in answer.file_descriptor_response.file_descriptor_proto
        ]
        defined = {f"{file.package}.{service.name}" for file in files for service in file.service}
        assert name in defined
        have = {file.name for file in files}
        assert all(set(file.dependency) <= have for file in files)


@pytest.mark.parametrize("version", VERSIONS)
def test_reflection_answers_what_it_does_not_know_and_goes_on(
    server: ServerProcess, version: str
) -> None:
    request = reflection_pb2.ServerReflectionRequest
    answers = ask(
        server,
        version,
        request(file_containing_symbol="no.such.Thing"),
        request(file_by_filename="no/such.proto"),
        request(),
        request(file_containing_symbol="feedcore.v1.FeedService.GetFeed"),
        request(file_by_filename="feedcore/v1/types.proto"),
        request(all_extension_numbers_of_type="feedcore.v1.Content"),
    )
    assert [answer.error_response.error_code for answer in answers] == [5, 5, 3, 0, 0, 0]
    assert answers[3].file_descriptor_response.file_descriptor_proto
    assert answers[4].file_descriptor_response.file_descriptor_proto
    name = answers[5].all_extension_numbers_response.base_type_name
    assert name == "feedcore.v1.Content"


def test_trace_context_comes_back_and_is_in_the_log(server: ServerProcess) -> None:
    request = feed_pb2.GetPreferencesRequest(user_id=909_090_909)
    _, call = server.feed.GetPreferences.with_call(request, metadata=[("traceparent", PARENT)])
    returned = dict(call.trailing_metadata())["traceparent"]
    trace_id = PARENT.split("-")[1]
    assert returned.split("-")[1] == trace_id and returned != PARENT
    line = logged(server, trace_id)
    record = json.loads(line)
    assert record["operation"] == "GetPreferences" and record["status"] == "ok"
    assert record["duration_ms"] >= 0 and record["items"] == 0
    assert "909090909" not in line
    assert re.fullmatch("[0-9a-f]{16}", record["user"])


def test_logs_have_no_content_and_no_raw_users(server: ServerProcess) -> None:
    secret, key, author = "a very private sentence", "a-private-key", 707_070_707
    request = publish_pb2.PublishRequest(author_id=author, body=secret, idempotency_key=key)
    server.publish.Publish(request)
    with pytest.raises(grpc.RpcError):
        server.publish.Publish(
            publish_pb2.PublishRequest(author_id=author, body=secret + "!", idempotency_key=key)
        )
    logged(server, '"already_exists"')
    text = "".join(server.lines)
    assert secret not in text and key not in text and str(author) not in text


def scrape_until(
    server: ServerProcess, true: Callable[[dict[Any, float]], bool]
) -> dict[Any, float]:
    """Workers publish what compiled code counts about once a second."""
    deadline_s = time.monotonic() + 10
    while not true(found := scrape(server)):
        assert time.monotonic() < deadline_s, found
        time.sleep(0.1)
    return found


def of_get_feed(found: dict[Any, float], metric: str) -> float:
    return found.get((metric, (("operation", "GetFeed"),)), 0.0)


def timed(found: dict[Any, float]) -> float:
    """Calls of GetFeed in the histogram, whoever answered them."""
    return of_get_feed(found, "feedcore_call_duration_seconds_count")


def test_metrics_and_status_add_up_over_workers(server: ServerProcess) -> None:
    server.graph.Follow(graph_pb2.FollowRequest(follower_id=1, followee_id=2))
    server.publish.Publish(publish_pb2.PublishRequest(author_id=2, body="hello"))
    name = ("feedcore_calls_total", (("operation", "GetFeed"), ("status", "ok")))
    failed = ("feedcore_calls_total", (("operation", "GetFeed"), ("status", "invalid_argument")))
    before = scrape(server)
    for number in range(LOADS):
        # A connection of its own each time, so that the kernel spreads the calls over the workers.
        with grpc.insecure_channel(
            server.address, options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            get_feed = channel.unary_unary("/feedcore.v1.FeedService/GetFeed")
            get_feed(feed_pb2.GetFeedRequest(user_id=1).SerializeToString())
            if number == 0:
                with pytest.raises(grpc.RpcError):
                    get_feed(b"")
    after = scrape_until(
        server,
        lambda now: (
            now.get(name, 0) - before.get(name, 0) == LOADS
            and timed(now) == now[name] + now[failed]
        ),
    )
    assert after[failed] - before.get(failed, 0) == 1
    assert of_get_feed(after, "feedcore_fast_calls_total") > 0
    assert of_get_feed(after, "feedcore_call_duration_seconds_sum") > 0
    answers = {
        dict(labels)["source"]: value
        for (metric, labels), value in after.items()
        if metric == "feedcore_feed_answers_total" and ("operation", "GetFeed") in labels
    }
    assert sum(answers.values()) >= LOADS + 1, "each answer came from somewhere"
    assert answers["cached"] > 0
    assert after[("feedcore_processes", (("role", "api"),))] == WORKERS
    assert after[("feedcore_processes", (("role", "fanout"),))] == 1
    misses = after[("feedcore_cache_reads_total", (("kind", "viewers"), ("result", "miss")))]
    assert misses >= WORKERS, "all calls went to one worker"

    status = server.admin.GetStatus(admin_pb2.GetStatusRequest())
    (row,) = [row for row in status.operations if row.name == "GetFeed"]
    assert row.calls == after[name] + after[failed] and row.failures == after[failed]
    assert 0 < row.p50_ms <= row.p99_ms and row.rate > 0
    assert status.workers == WORKERS + 1 and status.started_ms > 0
    assert {component.name for component in status.components} == {
        "store",
        "feeds",
        "fanout",
        "timeline cache",
        "connections",
        "open files",
        *(
            f"store: {part}"
            for part in ("directory", "disk", "feeds", "in use", "maps", "store.db")
        ),
    }
    assert all(component.ok for component in status.components)
    assert status.store["posts"] >= 1


def test_a_watcher_hears_of_the_drain(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ServerProcess(tmp_path_factory.mktemp("watch") / "data") as server:
        health = health_pb2_grpc.HealthStub(server.channel)
        states: list[int] = []
        first = threading.Event()

        def watch() -> None:
            try:
                for reply in health.Watch(health_pb2.HealthCheckRequest(), timeout=30):
                    states.append(reply.status)
                    first.set()
            except grpc.RpcError:
                return

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert first.wait(10)
        assert server.stop() == 0
        watcher.join(10)
        response = health_pb2.HealthCheckResponse
        assert states == [response.SERVING, response.NOT_SERVING]
