"""Every list and string of every method, beyond its bound, against a started server: the status
names the field, what was counted and the bound, and the server has built nothing of it.

The cases are made from the services' descriptors: a new field is tried without a line here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import grpc
import psutil
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor

import feedcore_server.wiring  # noqa: F401 - brings all descriptors
from feedcore.codecs.protowire import bytes_field, uint_field, varint
from feedcore_pb.v1 import feed_pb2
from feedcore_server.request_bounds import FIELDS, REQUESTS
from tests.support.details import details_of
from tests.support.server import ServerProcess

SERVICES = (
    "feedcore.v1.FeedService",
    "feedcore.v1.PublishService",
    "feedcore.v1.AdminService",
    "feedcore.collaborators.v1.GraphService",
    "feedcore.collaborators.v1.ContentService",
    "feedcore.collaborators.v1.RankingService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
)
BOMB_BYTES = 8_000_000  # below what any message may have: as much as one caller can make us inflate
# One such list took 700 MB to 1.5 GB when it was built. grpc.aio takes in whole requests before it
# hands them over, and keeps some of a stream until Python's collector comes.
GROWTH_BYTES_MAX = {"native": 96 * 1024 * 1024, "grpcio": 256 * 1024 * 1024}
BAD, TOO_LARGE = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"
TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)


class Place(NamedTuple):
    """A field, and the fields of the request that lead to it."""

    above: tuple[FieldDescriptor, ...]
    field: FieldDescriptor

    def request(self, body: bytes) -> bytes:
        """A request with these fields at the place."""
        for holder in reversed(self.above):
            body = bytes_field(holder.number, body)
        return body


class Case(NamedTuple):
    """One request, and what the answer must say."""

    method: MethodDescriptor
    name: str
    request: bytes
    says: str


def methods() -> Iterator[MethodDescriptor]:
    for service in SERVICES:
        yield from descriptor_pool.Default().FindServiceByName(service).methods


def places(message: Descriptor, above: tuple[FieldDescriptor, ...] = ()) -> Iterator[Place]:
    """Every field of a message, those of its parts included."""
    for field in message.fields:
        yield Place(above, field)
        if field.message_type is not None:
            yield from places(field.message_type, (*above, field))


def entry(field: FieldDescriptor) -> bytes:
    """The shortest entry of a list."""
    if field.message_type is not None or field.type in TEXT:
        return bytes_field(field.number, b"")
    return varint(field.number << 3) + b"\1"  # all numbers that come in lists are varints


def cases() -> Iterator[Case]:
    for method in methods():
        for place in places(method.input_type):
            field = place.field
            bound = FIELDS.get(field.full_name)
            if field.is_repeated:
                yield from lists(method, place, bound.entries)
            if field.type in TEXT:
                yield from texts(method, place, bound.size)


def lists(method: MethodDescriptor, place: Place, most: int) -> Iterator[Case]:
    field, name = place.field, place.field.name
    one = entry(field)
    says = rf"{name}: {most + 1} or more; at most {most}$"
    yield Case(method, f"{name} one more", place.request(one * (most + 1)), says)
    many = BOMB_BYTES // len(one)
    yield Case(method, f"{name} millions", place.request(one * many), says)
    if field.message_type is None:
        packed = bytes_field(field.number, b"\1" * (most + 1))
        yield Case(method, f"{name} packed", place.request(packed), says)
        both = bytes_field(field.number, b"\1" * most) + one
        yield Case(method, f"{name} packed and not", place.request(both), says)
        packed = bytes_field(field.number, b"\1" * BOMB_BYTES)
        says = rf"{name}: {BOMB_BYTES} or more; at most {most}$"
        yield Case(method, f"{name} packed millions", place.request(packed), says)
    if place.above and not place.above[-1].is_repeated:
        half = place.request(one * (most // 2 + 1))
        says = rf"{name}: {most + 1} or more; at most {most}$"
        yield Case(method, f"{name} in two parts", half + half, says)


def texts(method: MethodDescriptor, place: Place, most: int) -> Iterator[Case]:
    name = place.field.name
    for size in (most + 1, BOMB_BYTES):
        if size > most:
            text = bytes_field(place.field.number, b"x" * size)
            says = rf"{name}: {size} bytes; at most {most} bytes$"
            yield Case(method, f"{name} of {size}", place.request(text), says)


def beyond_the_contract() -> Iterator[Case]:
    """What no list or string is, for one method of few fields and one that takes large requests."""
    pool = descriptor_pool.Default()
    for service, name in (
        ("feedcore.v1.FeedService", "CheckNew"),
        ("feedcore.v1.AdminService", "Import"),
    ):
        method = pool.FindServiceByName(service).methods_by_name[name]
        most = REQUESTS.plan(method.input_type).fields_max
        says = rf"request: more than {most} fields; at most {most}$"
        number = uint_field(1, 1) * (BOMB_BYTES // 2)
        unknown = varint(1_000 << 3) + b"\1"
        group = varint(1_000 << 3 | 3) + unknown * (BOMB_BYTES // 3) + varint(1_000 << 3 | 4)
        nested = (varint(1_000 << 3 | 3) * 50 + varint(1_000 << 3 | 4) * 50) * (BOMB_BYTES // 200)
        yield Case(method, f"{name} one number again and again", number, says)
        yield Case(method, f"{name} unknown fields", unknown * (BOMB_BYTES // 3), says)
        yield Case(method, f"{name} an unknown group", group, says)
        yield Case(method, f"{name} groups in groups", nested, says)


CASES = [*cases(), *beyond_the_contract()]


@pytest.fixture(scope="module", params=["native", "grpcio"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp(request.param)
    with ServerProcess(folder / "data", "--transport", request.param) as server:
        yield server


def outcome(
    server: ServerProcess, case: Case, compression: grpc.Compression
) -> tuple[str, str, str]:
    """(status, message, reason) of the call."""
    method = case.method
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel = server.channel
    try:
        if method.client_streaming:
            call = channel.stream_stream(path)(iter([case.request]), compression=compression)
            list(call)
        elif method.server_streaming:
            list(channel.unary_stream(path)(case.request, compression=compression))
        else:
            channel.unary_unary(path)(case.request, compression=compression)
    except grpc.RpcError as error:
        return error.code().name, error.details(), details_of(error).reason
    return "OK", "", ""


def peak_bytes(server: ServerProcess) -> int:
    """The most memory that any process of the server has had."""
    peaks = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        peaks.append(int(found[1]) * 1024)
    return max(peaks)


@pytest.mark.parametrize("packed", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_lists_and_strings_beyond_their_bounds(
    server: ServerProcess, packed: grpc.Compression
) -> None:
    server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=1))
    before = peak_bytes(server)
    for case in CASES:
        most = REQUESTS.plan(case.method.input_type).bytes_max
        status, message, reason = outcome(server, case, packed)
        where = f"{case.method.full_name}, {case.name}: {status}: {message}"
        if len(case.request) > most:
            # grpc.aio refuses by itself what no method may have, in words of its own
            own = f"vs. {most}" in message
            assert status == TOO_LARGE and (own or f"at most {most}" in message), where
            assert own or reason == "REQUEST_TOO_LARGE", where
            if packed is grpc.Compression.Gzip and server.transport == "native":
                # it was not inflated to its end
                assert f"{len(case.request)} bytes" not in message, where
        else:
            assert status == BAD and re.search(case.says, message), where
            assert reason == "FIELD_INVALID", where
    assert peak_bytes(server) - before < GROWTH_BYTES_MAX[server.transport]
    assert server.feed.GetFeed(feed_pb2.GetFeedRequest(user_id=1)).receipt is not None


def test_every_list_and_string_is_tried() -> None:
    tried = {name for name in FIELDS if any(name.rpartition(".")[2] in one.name for one in CASES)}
    assert tried == set(FIELDS) and len(CASES) > len(FIELDS)
