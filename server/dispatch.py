"""One call from raw bytes to raw bytes: parse, interceptors, handler, encode. Knows no transport.

A call has a task of its own, whichever transport carries it; the caller's deadline is put into that
task's context, where everything below finds it. The chain of interceptors is composed once for each
method. A call with one reply returns it encoded; one that streams replies sends them through
`call.send` and returns empty bytes. Errors come out as exceptions: `status.outcome_of` turns them
into what goes on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from google.protobuf.message import Message

from feedcore.resilience import deadline
from feedcore_server.context import CallContext
from feedcore_server.parsing import Parser
from feedcore_server.registry import Kind, Method, Registry, encode

Proceed = Callable[[CallContext, Any], Awaitable[bytes]]


class Interceptor(Protocol):
    """What happens around a call: `proceed(call, request)` is the rest of the chain."""

    async def __call__(self, call: CallContext, request: Any, proceed: Proceed) -> bytes: ...


class Dispatcher:
    """Runs calls of a registry through the interceptors, outermost first."""

    def __init__(self, registry: Registry, interceptors: Sequence[Interceptor]) -> None:
        self.registry = registry
        self._chains = {method.path: _chain(method, interceptors) for method in registry.methods()}

    def chain(self, method: Method) -> Proceed:
        """What handles a call of the method: `await chain(call, request)` is the encoded reply, or
        empty bytes after a stream of replies. `request` is one encoded message for a unary method,
        else an async iterator of them."""
        return self._chains[method.path]


def _chain(method: Method, interceptors: Sequence[Interceptor]) -> Proceed:
    chain = _innermost(method)
    for interceptor in reversed(interceptors):
        chain = partial(interceptor, proceed=chain)
    return chain


def _innermost(method: Method) -> Proceed:
    handler, parser = method.handler, method.parser
    parsed = parser.parse if method.kind is Kind.UNARY else partial(_parsed, parser)

    async def one_reply(call: CallContext, raw: Any) -> bytes:
        if call.deadline_s is not None:
            deadline.begin(call.deadline_s)
        return encode(await handler(parsed(raw), call))

    async def stream(call: CallContext, raw_requests: AsyncIterator[bytes]) -> bytes:
        if call.deadline_s is not None:
            deadline.begin(call.deadline_s)
        async for reply in handler(_parsed(parser, raw_requests), call):
            await call.send(encode(reply))
        return b""

    return one_reply if method.kind.one_reply else stream


async def _parsed(parser: Parser, raw_requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
    async for raw in raw_requests:
        yield parser.parse(raw)
