"""grpc.testing.TestService on feedcore's own handlers: what interop clients of all stacks call.

The messages are generated from `testing.proto` at import, into a directory that is gone again when
they are loaded: `pb` has them. Replies have payloads of zero bytes, as the cases demand. Not for
anything but tests: a caller may ask for any size and any wait.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

from feedcore.errors import FeedcoreError, InvalidField
from feedcore_server.context import CallContext
from feedcore_server.registry import Registry
from tests.support.roomy import ROOMY

PROTO = Path(__file__).with_name("testing.proto")
ECHO_INITIAL = "x-grpc-test-echo-initial"
ECHO_TRAILING = "x-grpc-test-echo-trailing-bin"
STATUS_NAMES = {code.value[0]: code.name.lower() for code in grpc.StatusCode}


def _generated() -> ModuleType:
    """The message classes of testing.proto."""
    from grpc_tools import protoc

    name = "feedcore_interop_pb2"
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{PROTO.parent}", f"--python_out={folder}", str(PROTO)]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc failed on {PROTO}; its message is above")
        spec = importlib.util.spec_from_file_location(name, Path(folder, "testing_pb2.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


pb: Any = _generated()


class AskedFor(FeedcoreError):
    """The status that the caller asked for, by its number."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.status = STATUS_NAMES.get(code, "unknown")


class TestService:
    """Handlers of all methods. `peers`: addresses that unary calls came from."""

    __test__ = False  # the wire contract gives the name; pytest must not collect it

    def __init__(self) -> None:
        self.peers: set[str] = set()

    def registry(self) -> Registry:
        """A method table with this service alone."""
        registry = Registry()
        self.add_to(registry)
        return registry

    def add_to(self, registry: Registry) -> None:
        """Adds the service to a method table."""
        handlers = {
            "EmptyCall": self.empty,
            "UnaryCall": self.unary,
            "StreamingOutputCall": self.streaming_output,
            "StreamingInputCall": self.streaming_input,
            "FullDuplexCall": self.full_duplex,
            "HalfDuplexCall": self.half_duplex,
        }
        service = pb.DESCRIPTOR.services_by_name["TestService"]
        registry.add_service(service, handlers, bounds=ROOMY)

    async def empty(self, _request: Any, _call: CallContext) -> Any:
        """Empty in, Empty out."""
        return pb.Empty()

    async def unary(self, request: Any, call: CallContext) -> Any:
        """A payload of the size asked for, compressed if asked, or the status asked for."""
        self.peers.add(call.peer)
        _echo_metadata(call)
        _check_compression(request, call)
        _raise_status(request)
        call.compress = request.response_compressed.value
        server_id = str(os.getpid()) if request.fill_server_id else ""
        return pb.SimpleResponse(payload=_payload(request.response_size), server_id=server_id)

    async def streaming_output(
        self, requests: AsyncIterator[Any], call: CallContext
    ) -> AsyncIterator[Any]:
        """One request, as many replies as it lists."""
        async for request in requests:
            _raise_status(request)
            async for reply in _replies(request, call):
                yield reply

    async def streaming_input(self, requests: AsyncIterator[Any], call: CallContext) -> Any:
        """The sum of the payloads' sizes."""
        total = 0
        async for request in requests:
            _check_compression(request, call)
            total += len(request.payload.body)
        return pb.StreamingInputCallResponse(aggregated_payload_size=total)

    async def full_duplex(
        self, requests: AsyncIterator[Any], call: CallContext
    ) -> AsyncIterator[Any]:
        """Answers each request with the replies that it lists, or ends with the status it names."""
        _echo_metadata(call)
        async for request in requests:
            _raise_status(request)
            async for reply in _replies(request, call):
                yield reply

    async def half_duplex(
        self, requests: AsyncIterator[Any], call: CallContext
    ) -> AsyncIterator[Any]:
        """Answers all requests, in their order, when the last one has come."""
        _echo_metadata(call)
        for request in [request async for request in requests]:
            _raise_status(request)
            async for reply in _replies(request, call):
                yield reply


async def _replies(request: Any, call: CallContext) -> AsyncIterator[Any]:
    for parameters in request.response_parameters:
        if parameters.interval_us:
            await asyncio.sleep(parameters.interval_us / 1e6)
        call.compress = parameters.compressed.value
        yield pb.StreamingOutputCallResponse(payload=_payload(parameters.size))


def _payload(size: int) -> Any:
    return pb.Payload(body=bytes(size))


def _echo_metadata(call: CallContext) -> None:
    for key, value in call.all_metadata:
        if key == ECHO_INITIAL:
            call.initial.append((key, value))
        elif key == ECHO_TRAILING:
            call.trailers.append((key, value))


def _raise_status(request: Any) -> None:
    if request.response_status.code:
        raise AskedFor(request.response_status.code, request.response_status.message)


def _check_compression(request: Any, call: CallContext) -> None:
    """INVALID_ARGUMENT unless the message came as the caller says; not where the transport cannot
    say how it came."""
    if not request.HasField("expect_compressed") or call.request_compressed is None:
        return
    if request.expect_compressed.value != call.request_compressed:
        came = "compressed" if call.request_compressed else "not compressed"
        raise InvalidField("expect_compressed", f"the message came {came}", "must be as it came")
