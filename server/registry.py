"""The method table: full method name -> request class, handler, kind. What transports and
reflection serve.

A unary handler is `async (request, call) -> bytes | Message`; a streaming one is an async generator
`(requests, call) -> AsyncIterator[bytes | Message]`, where `requests` are parsed messages. Bytes
are an encoded reply already; the hot path never builds a message object.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from feedcore_server.context import CallContext

Reply = bytes | Message
UnaryHandler = Callable[[Any, CallContext], Awaitable[Reply]]
StreamHandler = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Reply]]


class Kind(Enum):
    """Shape of a method on the wire."""

    UNARY = "unary"
    SERVER_STREAM = "server_stream"  # one request, many replies
    BIDI_STREAM = "bidi_stream"


class Method(NamedTuple):
    """One row of the table. `operation` is its label in metrics and logs."""

    path: str
    operation: str
    kind: Kind
    request_class: type[Message]
    handler: Any


class Registry:
    """Immutable once serving: paths are unique, every method of an added service has a handler."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}
        self._services: list[str] = []

    def add_service(
        self,
        descriptor: ServiceDescriptor,
        handlers: Mapping[str, Any],
        *,
        name: str = "",
        prefix: str = "",
    ) -> None:
        """Adds all methods of a service; `handlers` by method name.

        `name` overrides the service's full name (two reflection packages share one set of
        messages); `prefix` keeps operations of two services with equal method names apart.
        """
        service = name or descriptor.full_name
        missing = {method.name for method in descriptor.methods} ^ set(handlers)
        if missing:
            raise ValueError(f"{service}: methods and handlers differ in {sorted(missing)}")
        self._services.append(service)
        for method in descriptor.methods:
            path = f"/{service}/{method.name}"
            if path in self._methods:
                raise ValueError(f"{path} is served twice")
            kind = Kind.UNARY
            if method.server_streaming:
                kind = Kind.BIDI_STREAM if method.client_streaming else Kind.SERVER_STREAM
            request_class = GetMessageClass(method.input_type)
            self._methods[path] = Method(
                path, prefix + method.name, kind, request_class, handlers[method.name]
            )

    def get(self, path: str) -> Method | None:
        """The method of that full path."""
        return self._methods.get(path)

    def methods(self) -> Iterable[Method]:
        """All methods, in the order added."""
        return self._methods.values()

    def services(self) -> list[str]:
        """Full names of all services, in the order added."""
        return list(self._services)


def encode(reply: Reply) -> bytes:
    """Bytes of a reply."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()
