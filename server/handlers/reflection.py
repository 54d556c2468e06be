"""Server reflection, v1 and v1alpha: callers such as grpcurl need no proto files.

The two versions have the same messages under two package names, so both are served by one handler
with the messages of v1alpha, which are the same bytes. The descriptor of v1 is derived from that of
v1alpha here, because grpcio-reflection brings only the older one. Invariant: what is not known is
an error *response* (code 5); the stream stays open.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc_reflection.v1alpha import reflection_pb2 as pb

from feedcore_server.context import CallContext
from feedcore_server.limits import REFLECTION_ERROR_MESSAGE_MAX

V1_SERVICE = "grpc.reflection.v1.ServerReflection"
_NOT_FOUND = 5  # the number of the gRPC status, which is what this field holds
_INVALID_ARGUMENT = 3


class ReflectionHandlers:
    """Answers from the default descriptor pool."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()
        _ensure_v1(self._pool)
        self._services: list[str] = []

    def table(self) -> dict[str, Any]:
        """Handlers by method name."""
        return {"ServerReflectionInfo": self.info}

    def set_services(self, services: list[str]) -> None:
        """What list_services answers."""
        self._services = sorted(services)

    async def info(
        self, requests: AsyncIterator[pb.ServerReflectionRequest], _call: CallContext
    ) -> AsyncIterator[pb.ServerReflectionResponse]:
        """One answer for each request, in order."""
        async for request in requests:
            yield self._answer(request)

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        response = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        asked = request.WhichOneof("message_request")
        try:
            if asked == "file_by_filename":
                _add_files(response, self._pool.FindFileByName(request.file_by_filename))
            elif asked == "file_containing_symbol":
                _add_files(response, self._file_of(request.file_containing_symbol))
            elif asked == "file_containing_extension":
                wanted = request.file_containing_extension
                message = self._pool.FindMessageTypeByName(wanted.containing_type)
                field = self._pool.FindExtensionByNumber(message, wanted.extension_number)
                _add_files(response, field.file)
            elif asked == "all_extension_numbers_of_type":
                self._add_extension_numbers(response, request.all_extension_numbers_of_type)
            elif asked == "list_services":
                for service in self._services:
                    response.list_services_response.service.add(name=service)
            else:
                response.error_response.error_code = _INVALID_ARGUMENT
                response.error_response.error_message = "message_request: not set; must be set"
        except KeyError as error:
            response.error_response.error_code = _NOT_FOUND
            response.error_response.error_message = str(error)[:REFLECTION_ERROR_MESSAGE_MAX]
        return response

    def _file_of(self, symbol: str) -> FileDescriptor:
        """The pool knows messages, enums and services; a method is found by its service."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service_name, _, method = symbol.rpartition(".")
            service = self._pool.FindServiceByName(service_name)
            if method not in service.methods_by_name:
                raise
            return service.file

    def _add_extension_numbers(self, response: pb.ServerReflectionResponse, name: str) -> None:
        message = self._pool.FindMessageTypeByName(name)
        numbers = sorted(field.number for field in self._pool.FindAllExtensions(message))
        response.all_extension_numbers_response.base_type_name = name
        response.all_extension_numbers_response.extension_number.extend(numbers)


def _add_files(response: pb.ServerReflectionResponse, file: FileDescriptor) -> None:
    """The file and all that it imports, each once."""
    pending, seen = [file], {file.name}
    while pending:
        current = pending.pop()
        response.file_descriptor_response.file_descriptor_proto.append(current.serialized_pb)
        for dependency in current.dependencies:
            if dependency.name not in seen:
                seen.add(dependency.name)
                pending.append(dependency)


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
