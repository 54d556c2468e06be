"""Cases of the services that every server has: health, and reflection in both its versions."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.conformance.harness import PATIENCE_S, Agree, Harness

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
HEALTH = "/grpc.health.v1.Health/"
TEST_SERVICE = "grpc.testing.TestService"
NOT_FOUND, INVALID_ARGUMENT = 5, 3
SERVICES_LISTED_MAX = 100  # gRFC A90

EXTENDED = "feedcore.conformance.Extended"
Request = reflection_pb2.ServerReflectionRequest


def ask(channel: grpc.aio.Channel, method: str, service: str, **options: Any) -> Any:
    """Check or Watch."""
    multi = channel.unary_stream if method == "Watch" else channel.unary_unary
    call = multi(
        HEALTH + method,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return call(health_pb2.HealthCheckRequest(service=service), **options)


async def status_of(call: Any) -> str:
    """The name of the status a call ends with."""
    try:
        await asyncio.wait_for(call, PATIENCE_S)
        return "OK"
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)


def add_extended() -> None:
    """A message with an extension, in the pool that reflection answers from."""
    file = descriptor_pb2.FileDescriptorProto(
        name="feedcore/conformance/extended.proto", package="feedcore.conformance", syntax="proto2"
    )
    message = file.message_type.add(name="Extended")
    message.extension_range.add(start=100, end=200)
    file.extension.add(
        name="more",
        number=150,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
        extendee="." + EXTENDED,
    )
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


class HealthCases(Harness):
    """Behaviour 25."""

    @pytest.mark.parametrize("service", ["", TEST_SERVICE])
    async def test_25_check(self, agree: Agree, service: str) -> None:
        async with self.serving() as served, served.channel() as channel:
            before = (await ask(channel, "Check", service)).status
            served.health.set_serving(False)
            after = (await ask(channel, "Check", service)).status
            agree((before, after), (SERVING, NOT_SERVING))

    async def test_25_check_of_an_unknown_service(self, agree: Agree) -> None:
        async with self.serving() as served, served.channel() as channel:
            agree(await status_of(ask(channel, "Check", "nobody")), "NOT_FOUND")

    @pytest.mark.parametrize("service", ["", TEST_SERVICE])
    async def test_25_watch(self, agree: Agree, service: str) -> None:
        async with self.serving() as served, served.channel() as channel:
            watch = ask(channel, "Watch", service)
            seen = [(await asyncio.wait_for(watch.read(), PATIENCE_S)).status]
            for serving in (False, True):
                served.health.set_serving(serving)
                seen.append((await asyncio.wait_for(watch.read(), PATIENCE_S)).status)
            watch.cancel()
            agree(seen, [SERVING, NOT_SERVING, SERVING])

    async def test_25_watch_of_what_is_not_known(self, agree: Agree) -> None:
        async with self.serving() as served, served.channel() as channel:
            watch = ask(channel, "Watch", "nobody")
            first = (await asyncio.wait_for(watch.read(), PATIENCE_S)).status
            served.health.set_serving(False)  # no change of what is not known: nothing is sent
            served.health.end()
            rest = await asyncio.wait_for(watch.read(), PATIENCE_S)
            agree((first, rest is grpc.aio.EOF, (await watch.code()).name), (UNKNOWN, True, "OK"))

    async def test_25_watch_ends_with_the_server(self, agree: Agree) -> None:
        async with self.serving() as served, served.channel() as channel:
            watch = ask(channel, "Watch", "")
            await asyncio.wait_for(watch.read(), PATIENCE_S)
            served.health.end()
            await asyncio.wait_for(served.transport.stop(PATIENCE_S), PATIENCE_S)
            last = (await asyncio.wait_for(watch.read(), PATIENCE_S)).status
            agree((last, (await watch.code()).name), (NOT_SERVING, "OK"))

    async def test_25_watch_ends_with_a_server_that_was_not_ready(self, agree: Agree) -> None:
        async with self.serving() as served, served.channel() as channel:
            served.health.set_fault("the disk is full")
            watch = ask(channel, "Watch", "")
            first = (await asyncio.wait_for(watch.read(), PATIENCE_S)).status
            served.health.end()
            await asyncio.wait_for(served.transport.stop(PATIENCE_S), PATIENCE_S)
            agree((first, (await watch.code()).name), (NOT_SERVING, "OK"))

    @pytest.mark.parametrize("over", [0, 1], ids=["the limit", "one more"])
    async def test_25_list(self, agree: Agree, over: int) -> None:
        async with self.serving() as served, served.channel() as channel:
            call = channel.unary_unary(
                HEALTH + "List",
                request_serializer=health_pb2.HealthListRequest.SerializeToString,
                response_deserializer=health_pb2.HealthListResponse.FromString,
            )
            known = len((await call(health_pb2.HealthListRequest())).statuses)
            more = SERVICES_LISTED_MAX + over - known
            served.health.add(f"service.{number}" for number in range(more))
            got = await status_of(call(health_pb2.HealthListRequest()))
            agree(got, "RESOURCE_EXHAUSTED" if over else "OK")


REQUESTS: dict[str, tuple[Any, object]] = {
    "file": (
        Request(file_by_filename="grpc_health/v1/health.proto"),
        "grpc_health/v1/health.proto",
    ),
    "service": (
        Request(file_containing_symbol="grpc.health.v1.Health"),
        "grpc_health/v1/health.proto",
    ),
    "method": (
        Request(file_containing_symbol="grpc.health.v1.Health.Check"),
        "grpc_health/v1/health.proto",
    ),
    "message": (
        Request(file_containing_symbol="grpc.health.v1.HealthCheckRequest"),
        "grpc_health/v1/health.proto",
    ),
    "extension": (
        Request(file_containing_extension={"containing_type": EXTENDED, "extension_number": 150}),
        "feedcore/conformance/extended.proto",
    ),
    "extension numbers": (Request(all_extension_numbers_of_type=EXTENDED), [150]),
    "unknown file": (Request(file_by_filename="no/such.proto"), NOT_FOUND),
    "unknown symbol": (Request(file_containing_symbol="no.such.Thing"), NOT_FOUND),
    "unknown extension": (
        Request(file_containing_extension={"containing_type": EXTENDED, "extension_number": 151}),
        NOT_FOUND,
    ),
    "unknown type": (Request(all_extension_numbers_of_type="no.such.Thing"), NOT_FOUND),
    "nothing": (Request(), INVALID_ARGUMENT),
}


class ReflectionCases(Harness):
    """Behaviour 26."""

    @pytest.mark.parametrize("version", ["v1", "v1alpha"])
    async def test_26_reflection(self, agree: Agree, version: str) -> None:
        try:
            descriptor_pool.Default().FindMessageTypeByName(EXTENDED)
        except KeyError:
            add_extended()
        async with self.serving() as served, served.channel() as channel:
            stream = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                request_serializer=Request.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )()
            seen = {}
            for name, (request, _) in REQUESTS.items():
                await stream.write(request)
                seen[name] = _answer(await asyncio.wait_for(stream.read(), PATIENCE_S))
            await stream.write(Request(list_services="*"))
            listed = await asyncio.wait_for(stream.read(), PATIENCE_S)
            names = {service.name for service in listed.list_services_response.service}
            await stream.done_writing()
            ended = (await stream.code()).name
            demanded = {name: answer for name, (_, answer) in REQUESTS.items()}
            services = {
                TEST_SERVICE,
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            }
            agree((seen, names, ended), (demanded, services, "OK"))


def _answer(response: Any) -> object:
    """The first file's name, the numbers, or the code of the error."""
    kind = response.WhichOneof("message_response")
    if kind == "file_descriptor_response":
        raw = response.file_descriptor_response.file_descriptor_proto[0]
        return descriptor_pb2.FileDescriptorProto.FromString(raw).name
    if kind == "all_extension_numbers_response":
        return list(response.all_extension_numbers_response.extension_number)
    return response.error_response.error_code
