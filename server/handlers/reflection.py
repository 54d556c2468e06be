"""Server reflection, v1 and v1alpha: callers such as grpcurl need no proto files.

The servicer of grpcio-reflection answers; this module adds what that package lacks. It has only
v1alpha, whose messages are those of v1 under another package name, so that one handler serves both
and the descriptor of v1 is derived from the older one here. And the descriptor pool does not find a
method by its full name, which the protocol allows callers to ask for. Invariant: what is not known
is an error *response* (code 5); the stream stays open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha import reflection_pb2 as pb

from feedcore_server.context import CallContext
from feedcore_server.registry import Handlers

V1_SERVICE = "grpc.reflection.v1.ServerReflection"


class ReflectionHandlers(Handlers):
    """Answers from the default descriptor pool."""

    SERVICE = pb.DESCRIPTOR.services_by_name["ServerReflection"]

    def __init__(self) -> None:
        _ensure_v1(descriptor_pool.Default())
        self.set_services([])

    def set_services(self, services: list[str]) -> None:
        """What list_services answers."""
        self._servicer = reflection.aio.ReflectionServicer(services, _Pool())

    def server_reflection_info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _call: CallContext
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """One answer for each request, in order."""
        replies: AsyncIterator[pb.ServerReflectionResponse]
        replies = self._servicer.ServerReflectionInfo(requests, None)
        return replies


class _Pool:
    """The default descriptor pool, which finds methods, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:  # noqa: N802 - the pool's
        """A method is in the file of its service."""
        pool = descriptor_pool.Default()
        try:
            return pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            return pool.FindServiceByName(service).methods_by_name[method].containing_service.file


def _ensure_v1(pool: descriptor_pool.DescriptorPool) -> None:
    """Adds package grpc.reflection.v1 to the pool unless another library has brought it."""
    try:
        pool.FindServiceByName(V1_SERVICE)
    except KeyError:
        older = pb.DESCRIPTOR.serialized_pb
        file = descriptor_pb2.FileDescriptorProto.FromString(older)
        file.name = "grpc/reflection/v1/reflection.proto"
        file.package = "grpc.reflection.v1"
        for message in file.message_type:
            for field in message.field:
                if field.type_name:  # setting it, even to "", marks a scalar field as a message
                    field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
        for service in file.service:
            for method in service.method:
                method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
                method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
        pool.AddSerializedFile(file.SerializeToString())
