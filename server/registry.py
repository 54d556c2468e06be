"""The method table: full method name -> request class, handler, kind. What transports and
reflection serve.

A unary handler is `async (request, call) -> bytes | Message`; one of a client stream is
`async (requests, call) -> bytes | Message`; a streaming one is an async generator `(requests, call)
-> AsyncIterator[bytes | Message]`. `requests` are parsed messages. Bytes are an encoded reply
already; the hot path never builds a message object.

Each method has the bounds of its requests: a service whose requests hold a list or a string without
one is not added.

A unary method may have a *batched* handler: `async ([raw request, ...]) -> [encoded reply, or None
to decline, ...]`. A transport that can gives it all calls of one turn at once, without
interceptors.

A unary method may have a *fast* handler, too: `(raw request) -> encoded reply, or None to decline`.
A transport that can tries it at once, while it reads, with no task, no context and no interceptors;
declined calls go to the ordinary handler, so that a fast handler is never the only one.

A server stream that tells of changes may have a *standing* handler: `(request, watcher) -> function
that ends it`. A transport that can calls it in place of the ordinary one: the stream then
waits without a task, and past the interceptors, until the watcher is told something.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar, NamedTuple, Protocol

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from feedcore.codecs.bounds import Policy
from feedcore_server.context import CallContext
from feedcore_server.parsing import Parser
from feedcore_server.request_bounds import REQUESTS

Reply = bytes | Message
UnaryHandler = Callable[[Any, CallContext], Awaitable[Reply]]
FastHandler = Any  # Callable[[bytes], bytes | None], or a compiled handler of the native transport
BatchHandler = Callable[[list[bytes]], Awaitable[list[bytes | None]]]
StreamHandler = Callable[[AsyncIterator[Any], CallContext], AsyncIterator[Reply]]


class Watcher(Protocol):
    """The caller of a standing handler."""

    def tell(self, reply: bytes) -> None:
        """Sends the newest reply; one that the caller has no room for is replaced by the next."""

    def end(self) -> None:
        """Nothing more will be told: the call ends with success."""


StandingHandler = Callable[[Any, Watcher], Callable[[], None]]


class Kind(Enum):
    """Shape of a method on the wire."""

    UNARY = "unary"
    CLIENT_STREAM = "client_stream"  # many requests, one reply
    SERVER_STREAM = "server_stream"  # one request, many replies
    BIDI_STREAM = "bidi_stream"

    @property
    def one_request(self) -> bool:
        """Exactly one request message is due."""
        return self in (Kind.UNARY, Kind.SERVER_STREAM)

    @property
    def one_reply(self) -> bool:
        """Exactly one reply message is due."""
        return self in (Kind.UNARY, Kind.CLIENT_STREAM)


KINDS = {
    (False, False): Kind.UNARY,
    (True, False): Kind.CLIENT_STREAM,
    (False, True): Kind.SERVER_STREAM,
    (True, True): Kind.BIDI_STREAM,
}


class Method(NamedTuple):
    """One row of the table. `operation` is its label in metrics and logs."""

    path: str
    operation: str
    kind: Kind
    parser: Parser
    handler: Any
    fast: FastHandler | None = None
    batched: BatchHandler | None = None
    standing: StandingHandler | None = None


class Handlers:
    """Handlers of one service: the method `GetPostStats` is handled by `get_post_stats`, and one
    whose name is a word of Python, such as `Import`, by `import_`.
    """

    SERVICE: ClassVar[ServiceDescriptor]

    def table(self) -> dict[str, Any]:
        """Handlers by method name."""
        return {one.name: getattr(self, _snake(one.name)) for one in self.SERVICE.methods}


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
        fast: Mapping[str, FastHandler] | None = None,
        batched: Mapping[str, BatchHandler] | None = None,
        standing: Mapping[str, StandingHandler] | None = None,
        name: str = "",
        prefix: str = "",
        bounds: Policy = REQUESTS,
    ) -> None:
        """Adds all methods of a service; `handlers` by method name, `fast` and `batched` for some
        unary ones, `standing` for some server streams.

        `name` overrides the service's full name (two reflection packages share one set of
        messages); `prefix` keeps operations of two services with equal method names apart;
        `bounds` are those of requests. Raises Unbounded.
        """
        fast, batched, standing = fast or {}, batched or {}, standing or {}
        service = name or descriptor.full_name
        missing = {method.name for method in descriptor.methods} ^ set(handlers)
        if missing:
            raise ValueError(f"{service}: methods and handlers differ in {sorted(missing)}")
        self._services.append(service)
        for method in descriptor.methods:
            path = f"/{service}/{method.name}"
            if path in self._methods:
                raise ValueError(f"{path} is served twice")
            kind = KINDS[method.client_streaming, method.server_streaming]
            quick = fast.get(method.name)
            many = batched.get(method.name)
            if (quick is not None or many is not None) and kind is not Kind.UNARY:
                raise ValueError(f"{path}: only a unary method can have a fast handler")
            parser = Parser(GetMessageClass(method.input_type), bounds)
            if (quick is not None or many is not None) and parser.plan.lists:
                raise ValueError(f"{path}: a request with lists must be counted before it is read")
            stands = standing.get(method.name)
            if stands is not None and kind is not Kind.SERVER_STREAM:
                raise ValueError(f"{path}: only a server stream can have a standing handler")
            operation, handler = prefix + method.name, handlers[method.name]
            self._methods[path] = Method(
                path, operation, kind, parser, handler, quick, many, stands
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


def _snake(name: str) -> str:
    snake = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return f"{snake}_" if keyword.iskeyword(snake) else snake


def encode(reply: Reply) -> bytes:
    """Bytes of a reply."""
    return reply if isinstance(reply, bytes) else reply.SerializeToString()
