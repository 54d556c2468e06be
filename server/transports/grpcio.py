"""The transport on grpc.aio: works everywhere, some thousand calls a second a core.

Job: turn grpc.aio's calls into (raw bytes, CallContext), and outcomes into status. Every method is
registered with no serializers, so that parsing happens in `dispatch` and a bad request gets a
status that names the field. Invariants: one terminal status a call; a unary call that its caller
gave up reaches the handler as CancelledError. Known limits of grpc.aio: the requests of a cancelled
stream may end as if the caller had finished; calls that arrive in the moment of `stop` may get
CANCELLED in place of UNAVAILABLE; replies are compressed for a caller that does not accept it, and
how a request came is not known.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from feedcore.clock import Clock
from feedcore.config import ServerSettings
from feedcore_server import limits
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.registry import Kind, Method
from feedcore_server.status import outcome_of

if TYPE_CHECKING:
    Context = grpc.aio.ServicerContext[Any, Any]

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.so_reuseport", 1),  # all workers share one port; the kernel spreads connections
    ("grpc.max_receive_message_length", limits.REQUEST_BYTES_MAX),
    ("grpc.max_send_message_length", limits.RESPONSE_BYTES_MAX),
    ("grpc.max_metadata_size", limits.METADATA_BYTES_MAX),
    ("grpc.max_concurrent_streams", limits.STREAMS_PER_CONNECTION_MAX),
    ("grpc.keepalive_time_ms", limits.KEEPALIVE_TIME_MS),
    ("grpc.keepalive_timeout_ms", limits.KEEPALIVE_TIMEOUT_MS),
    (
        "grpc.keepalive_permit_without_calls",
        1,
    ),  # idle pools of callers must notice a dead peer, too
    ("grpc.http2.min_ping_interval_without_data_ms", limits.PING_INTERVAL_MIN_MS),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", limits.PING_INTERVAL_MIN_MS),
)


class GrpcioTransport:
    """One worker's listener. `start` returns the port; `stop` lets calls finish for `grace_s`
    seconds."""

    def __init__(
        self, dispatcher: Dispatcher, clock: Clock, tls: ServerSettings | None = None
    ) -> None:
        self._tls = tls
        self._server = grpc.aio.server(
            options=OPTIONS, maximum_concurrent_rpcs=limits.CALLS_PER_WORKER_MAX
        )
        self._server.add_generic_rpc_handlers((_Handlers(dispatcher, clock),))

    async def start(self, host: str, port: int) -> int:
        """Listens; `port` 0 takes any. Returns the port. Raises OSError if it cannot be had."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = self._add_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        if bound == 0:
            raise OSError(f"cannot listen on {address}")
        await self._server.start()
        return bound

    def _add_port(self, address: str) -> int:
        tls = self._tls
        if tls is None or tls.tls_certificate is None or tls.tls_key is None:
            return int(self._server.add_insecure_port(address))
        authorities = tls.tls_client_ca.read_bytes() if tls.tls_client_ca else None
        pair = (tls.tls_key.read_bytes(), tls.tls_certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair], authorities, authorities is not None)
        return int(self._server.add_secure_port(address, credentials))

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls, waits for those under way, cancels what is left after `grace_s`."""
        await self._server.stop(grace_s)

    def open_connections(self) -> int:
        """grpc.aio does not say."""
        return 0

    def is_full(self) -> bool:
        """grpc.aio does not say."""
        return False


class _Handlers(grpc.GenericRpcHandler):
    """Looks methods up by path; what is not in the table is UNIMPLEMENTED, answered by grpc
    itself."""

    def __init__(self, dispatcher: Dispatcher, clock: Clock) -> None:
        self._by_path = {
            method.path: _rpc_handler(dispatcher, method, clock)
            for method in dispatcher.registry.methods()
        }

    def service(self, handler_call_details: Any) -> Any:
        """grpc's hook."""
        return self._by_path.get(handler_call_details.method)


def _rpc_handler(dispatcher: Dispatcher, method: Method, clock: Clock) -> Any:
    chain = dispatcher.chain(method)

    async def one_reply(request: Any, context: Context) -> bytes:
        call = _call(method, context, clock)
        try:
            reply = await chain(call, request)
            await _open_reply(context, call)
            context.set_trailing_metadata(tuple(call.trailers))
            return reply
        except Exception as error:
            end = _end(call, error)
        # What abort raises stays with the call, and refers to this frame: the two would keep each
        # other, and the request, until the collector comes.
        request = b""
        await context.abort(*end)
        return request

    async def stream(requests: AsyncIterator[bytes], context: Context) -> None:
        call = _call(method, context, clock)
        sender = _Sender(context, call)
        call.send = sender.send
        try:
            await chain(call, requests)
            await sender.open()
            context.set_trailing_metadata(tuple(call.trailers))
            return
        except Exception as error:
            end = _end(call, error)
        del requests  # as above
        await context.abort(*end)

    async def server_stream(raw: bytes, context: Context) -> None:
        await stream(_one(raw), context)

    if method.kind is Kind.UNARY:
        return grpc.unary_unary_rpc_method_handler(one_reply)
    if method.kind is Kind.CLIENT_STREAM:
        return grpc.stream_unary_rpc_method_handler(one_reply)
    if method.kind is Kind.SERVER_STREAM:
        return grpc.unary_stream_rpc_method_handler(server_stream)
    return grpc.stream_stream_rpc_method_handler(stream)


async def _one(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


def _call(method: Method, context: Context, clock: Clock) -> CallContext:
    # grpc.aio gives None to a call without a deadline, whatever its types say
    remaining_s: float | None = context.time_remaining()
    if remaining_s is not None and remaining_s > limits.DEADLINE_MAX_S:
        remaining_s = None
    return CallContext(
        method.path,
        method.operation,
        context.peer(),
        tuple(context.invocation_metadata() or ()),
        None if remaining_s is None else clock.monotonic() + remaining_s,
    )


class _Sender:
    """Sends streamed replies. grpc.aio fixes the encoding with the first one: later messages can
    opt out of it, but not into it."""

    def __init__(self, context: Context, call: CallContext) -> None:
        self._context = context
        self._call = call
        self._opened = False

    async def open(self) -> None:
        """Sends initial metadata, once."""
        if not self._opened:
            self._opened = True
            await _open_reply(self._context, self._call)

    async def send(self, reply: bytes) -> None:
        """Sends one message."""
        await self.open()
        if not self._call.compress:
            self._context.disable_next_message_compression()
        await self._context.write(reply)


async def _open_reply(context: Context, call: CallContext) -> None:
    """Sends initial metadata, if the handler gave any or wants compression, which grpc.aio takes
    note of only here."""
    if call.compress:
        context.set_compression(grpc.Compression.Gzip)
    if call.initial or call.compress:
        await context.send_initial_metadata(tuple(call.initial))


def _end(call: CallContext, error: Exception) -> tuple[Any, str, Any]:
    """What grpc.aio's abort takes to end a call with the error's status."""
    outcome = outcome_of(error, call.trace.trace_hex)
    return outcome.code, outcome.message, (*call.trailers, *outcome.trailers)
