"""The interop cases, played by a C-core client (grpc.aio) in this process.

`CASES` by name: each is a coroutine that ends, or raises AssertionError with what is wrong. Whether
a reply was compressed is not told by this client's API: it is seen from the bytes on the wire,
counted by a relay between client and server (payloads are zero bytes, which shrink a thousandfold).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from tests.conformance.interop.conftest import Served
from tests.conformance.interop.pinned import LONG
from tests.support.testservice import ECHO_INITIAL, ECHO_TRAILING, pb

SERVICE = "/grpc.testing.TestService/"
LARGE_REQUEST, LARGE_REPLY = 271_828, 314_159
REQUEST_SIZES, REPLY_SIZES = (27_182, 8, 1_828, 45_904), (31_415, 9, 2_653, 58_979)
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"
METADATA = ((ECHO_INITIAL, "test_initial_metadata_value"), (ECHO_TRAILING, b"\xab\xab\xab"))
PARALLEL_CALLS = 1_000
RPC_SOAK_CALLS, CHANNEL_SOAK_CHANNELS = (2_000, 500) if LONG else (30, 20)
# Long enough for the server's keepalive to ping an idle connection in between, when long.
LONG_LIVED_CALLS, LONG_LIVED_INTERVAL_S = (3, 65.0) if LONG else (3, 0.3)
RELAY_ENDS_WITHIN_S = 10.0  # after the client has hung up
COMPRESSED_MAX = 8_192  # bytes on the wire of what is well above it when not compressed
GZIP = grpc.Compression.Gzip


class Client:
    """A channel and the methods of the service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.empty = self._method(channel.unary_unary, "EmptyCall", pb.Empty)
        self.unary = self._method(channel.unary_unary, "UnaryCall", pb.SimpleResponse)
        self.output = self._method(
            channel.unary_stream, "StreamingOutputCall", pb.StreamingOutputCallResponse
        )
        self.input = self._method(
            channel.stream_unary, "StreamingInputCall", pb.StreamingInputCallResponse
        )
        self.duplex = self._method(
            channel.stream_stream, "FullDuplexCall", pb.StreamingOutputCallResponse
        )
        self.half_duplex = self._method(
            channel.stream_stream, "HalfDuplexCall", pb.StreamingOutputCallResponse
        )

    def path(self, path: str) -> Any:
        """A unary method by its path, Empty in and out."""
        return self._method(self.channel.unary_unary, path, pb.Empty)

    @staticmethod
    def _method(kind: Callable[..., Any], name: str, reply: Any) -> Any:
        path = name if name.startswith("/") else SERVICE + name
        return kind(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=reply.FromString,
        )


@asynccontextmanager
async def connected(served: str, *options: tuple[str, int]) -> AsyncIterator[Client]:
    """A client with a connection of its own."""
    options = (("grpc.use_local_subchannel_pool", 1), *options)
    channel = grpc.aio.insecure_channel(served.address, options=options)
    if served.ca is not None:
        trusted = grpc.ssl_channel_credentials(served.ca.read_bytes())
        channel = grpc.aio.secure_channel(served.address, trusted, options=options)
    async with channel:
        yield Client(channel)


async def play(case: str, served: Served) -> str | None:
    """Plays a case; what is wrong, or None."""
    async with connected(served) as client:
        try:
            await CASES[case](client, served)
        except (AssertionError, grpc.RpcError) as error:
            return f"{type(error).__name__}: {error}"
    return None


def expect(got: Any, wanted: Any, what: str) -> None:
    """`assert got == wanted`, in words."""
    assert got == wanted, f"{what}: {got!r}; must be {wanted!r}"


async def status(call: Any) -> tuple[str, str]:
    """Name and message of the status a call ends with."""
    return (await call.code()).name, await call.details()


def payload(size: int) -> Any:
    return pb.Payload(body=bytes(size))


def large() -> Any:
    """The request of a large unary call."""
    return pb.SimpleRequest(response_size=LARGE_REPLY, payload=payload(LARGE_REQUEST))


def outputs(*sizes: int, **fields: Any) -> Any:
    """A request for replies of these sizes."""
    parameters = [pb.ResponseParameters(size=size) for size in sizes]
    return pb.StreamingOutputCallRequest(response_parameters=parameters, **fields)


async def sizes(call: Any) -> list[int]:
    """Sizes of all payloads of a stream."""
    return [len(reply.payload.body) async for reply in call]


async def empty_unary(client: Client, _served: Served) -> None:
    expect(await client.empty(pb.Empty()), pb.Empty(), "reply")


async def large_unary(client: Client, _served: Served) -> None:
    reply = await client.unary(large())
    expect(reply.payload, payload(LARGE_REPLY), "payload")


async def client_compressed_unary(client: Client, served: Served) -> None:
    probe = large()
    probe.expect_compressed.value = True
    expect((await status(client.unary(probe)))[0], "INVALID_ARGUMENT", "probe")
    await client_compressed_unary_noprobe(client, served)


async def client_compressed_unary_noprobe(client: Client, _served: Served) -> None:
    for compressed in (True, False):
        request = large()
        request.expect_compressed.value = compressed
        compression = GZIP if compressed else grpc.Compression.NoCompression
        reply = await client.unary(request, compression=compression)
        expect(len(reply.payload.body), LARGE_REPLY, f"payload, compressed {compressed}")


async def server_compressed_unary(_client: Client, served: Served) -> None:
    async with relayed(served) as (client, received):
        await client.empty(pb.Empty())
        for compressed in (True, False):
            before = received[0]
            request = large()
            request.response_compressed.value = compressed
            reply = await client.unary(request)
            expect(len(reply.payload.body), LARGE_REPLY, f"payload, compressed {compressed}")
            wire = received[0] - before
            expect(wire < COMPRESSED_MAX, compressed, f"{wire} bytes on the wire, compressed")


async def client_streaming(client: Client, _served: Served) -> None:
    requests = [pb.StreamingInputCallRequest(payload=payload(size)) for size in REQUEST_SIZES]
    reply = await client.input(iter(requests))
    expect(reply.aggregated_payload_size, 74_922, "size")


async def client_compressed_streaming(client: Client, served: Served) -> None:
    probe = pb.StreamingInputCallRequest(payload=payload(27_182))
    probe.expect_compressed.value = True
    expect((await status(client.input(iter([probe]))))[0], "INVALID_ARGUMENT", "probe")
    await client_compressed_streaming_noprobe(client, served)


async def client_compressed_streaming_noprobe(client: Client, _served: Served) -> None:
    # This API compresses all messages of a call or none, but one that would not shrink is sent as
    # it is, with the flag of one that is not compressed.
    shrinking = pb.StreamingInputCallRequest(payload=payload(27_182))
    shrinking.expect_compressed.value = True
    random = pb.StreamingInputCallRequest(payload=pb.Payload(body=os.urandom(45_904)))
    random.expect_compressed.value = False
    reply = await client.input(iter([shrinking, random]), compression=GZIP)
    expect(reply.aggregated_payload_size, 73_086, "size")


async def server_streaming(client: Client, _served: Served) -> None:
    expect(await sizes(client.output(outputs(*REPLY_SIZES))), list(REPLY_SIZES), "sizes")


async def server_compressed_streaming(_client: Client, served: Served) -> None:
    async with relayed(served) as (client, received):
        await client.empty(pb.Empty())
        before = received[0]
        request = outputs(31_415, 92_653, 58_979)
        for parameters, compressed in zip(
            request.response_parameters, (True, False, True), strict=True
        ):
            parameters.compressed.value = compressed
        expect(await sizes(client.output(request)), [31_415, 92_653, 58_979], "sizes")
        wire = received[0] - before
        assert 92_653 < wire < 92_653 + COMPRESSED_MAX, f"{wire} bytes on the wire"


async def server_compressed_streaming_late(_client: Client, served: Served) -> None:
    """Not of the official cases: the first reply is not compressed, the second one is."""
    async with relayed(served) as (client, received):
        await client.empty(pb.Empty())
        before = received[0]
        request = outputs(9, 58_979)
        request.response_parameters[1].compressed.value = True
        expect(await sizes(client.output(request)), [9, 58_979], "sizes")
        wire = received[0] - before
        assert wire < COMPRESSED_MAX, f"{wire} bytes on the wire, none of them compressed"


async def server_compressed_not_accepted(_client: Client, served: Served) -> None:
    """Not of the official cases: this client accepts no compression, so it must get none."""
    async with connected(served, ("grpc.compression_enabled_algorithms_bitset", 1)) as client:
        request = large()
        request.response_compressed.value = True
        unary = client.unary(request)
        expect(await status(unary), ("OK", ""), "status of a unary call")
        expect(len((await unary).payload.body), LARGE_REPLY, "payload")
        stream = outputs(*REPLY_SIZES)
        for parameters in stream.response_parameters:
            parameters.compressed.value = True
        expect(await sizes(client.output(stream)), list(REPLY_SIZES), "sizes")


async def ping_pong(client: Client, _served: Served) -> None:
    call = client.duplex()
    for reply_size, request_size in zip(REPLY_SIZES, REQUEST_SIZES, strict=True):
        await call.write(outputs(reply_size, payload=payload(request_size)))
        expect((await call.read()).payload, payload(reply_size), "payload")
    await call.done_writing()
    expect(await call.read(), grpc.aio.EOF, "after the last reply")
    expect((await status(call))[0], "OK", "status")


async def half_duplex(client: Client, _served: Served) -> None:
    requests = [outputs(size, payload=payload(size)) for size in REPLY_SIZES]
    expect(await sizes(client.half_duplex(iter(requests))), list(REPLY_SIZES), "sizes")


async def empty_stream(client: Client, _served: Served) -> None:
    call = client.duplex()
    await call.done_writing()
    expect(await sizes(call), [], "replies")
    expect((await status(call))[0], "OK", "status")


async def custom_metadata(client: Client, _served: Served) -> None:
    unary = client.unary(large(), metadata=METADATA)
    stream = client.duplex(iter([outputs(LARGE_REPLY)]), metadata=METADATA)
    expect(len((await unary).payload.body), LARGE_REPLY, "payload")
    expect(await sizes(stream), [LARGE_REPLY], "sizes")
    for call in (unary, stream):
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        expect(initial.get_all(ECHO_INITIAL), [METADATA[0][1]], "initial metadata")
        expect(trailing.get_all(ECHO_TRAILING), [METADATA[1][1]], "trailing metadata")


async def status_code_and_message(client: Client, _served: Served) -> None:
    asked = pb.EchoStatus(code=2, message="test status message")
    unary = client.unary(pb.SimpleRequest(response_status=asked))
    expect(await status(unary), ("UNKNOWN", asked.message), "status of a unary call")
    stream = client.duplex(iter([pb.StreamingOutputCallRequest(response_status=asked)]))
    expect(await status(stream), ("UNKNOWN", asked.message), "status of a stream")


async def special_status_message(client: Client, _served: Served) -> None:
    asked = pb.EchoStatus(code=2, message=SPECIAL)
    unary = client.unary(pb.SimpleRequest(response_status=asked))
    expect(await status(unary), ("UNKNOWN", SPECIAL), "status")


async def unimplemented_method(client: Client, _served: Served) -> None:
    call = client.path(SERVICE + "UnimplementedCall")(pb.Empty())
    expect((await status(call))[0], "UNIMPLEMENTED", "status")


async def unimplemented_service(client: Client, _served: Served) -> None:
    call = client.path("/grpc.testing.UnimplementedService/UnimplementedCall")(pb.Empty())
    expect((await status(call))[0], "UNIMPLEMENTED", "status")


async def cancel_after_begin(client: Client, _served: Served) -> None:
    call = client.input()
    call.cancel()
    expect((await status(call))[0], "CANCELLED", "status")
    await client.empty(pb.Empty())


async def cancel_after_first_response(client: Client, _served: Served) -> None:
    call = client.duplex()
    await call.write(outputs(31_415, payload=payload(27_182)))
    expect((await call.read()).payload, payload(31_415), "payload")
    call.cancel()
    expect((await status(call))[0], "CANCELLED", "status")
    await client.empty(pb.Empty())


async def timeout_on_sleeping_server(client: Client, _served: Served) -> None:
    await client.empty(pb.Empty())
    request = pb.StreamingOutputCallRequest(payload=payload(27_182))

    async def never_ending() -> AsyncIterator[Any]:
        yield request
        await asyncio.Event().wait()

    # A millisecond may be over before the call leaves; the longer one ends at the server.
    for timeout_s in (0.001, 0.2):
        call = client.duplex(never_ending(), timeout=timeout_s)
        expect((await status(call))[0], "DEADLINE_EXCEEDED", f"status after {timeout_s} s")


async def concurrent_large_unary(client: Client, _served: Served) -> None:
    # Each on its own: an error must not hide the outcome of the others.
    calls = [client.unary(large()) for _ in range(PARALLEL_CALLS)]
    failures = Counter([await status(call) for call in calls])
    del failures["OK", ""]
    assert not failures, f"of {PARALLEL_CALLS} calls failed {dict(failures)}"
    for call in calls:
        expect(len((await call).payload.body), LARGE_REPLY, "payload")


async def rpc_soak(client: Client, served: Served) -> None:
    for _ in range(RPC_SOAK_CALLS):
        await large_unary(client, served)


async def channel_soak(_client: Client, served: Served) -> None:
    for _ in range(CHANNEL_SOAK_CHANNELS):
        async with connected(served) as client:
            await large_unary(client, served)


async def long_lived_channel(client: Client, served: Served) -> None:
    for number in range(LONG_LIVED_CALLS):
        if number:
            await asyncio.sleep(LONG_LIVED_INTERVAL_S)
        await large_unary(client, served)


@asynccontextmanager
async def relayed(served: Served) -> AsyncIterator[tuple[Client, list[int]]]:
    """A client behind a relay, and a list whose one item is the bytes that came from the server."""
    host, _, port = served.address.rpartition(":")
    received = [0]
    relays: list[asyncio.Task[Any]] = []

    async def copy(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: list[int]
    ) -> None:
        while chunk := await reader.read(65_536):
            count[0] += len(chunk)
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        relays.append(task)
        from_server, to_server = await asyncio.open_connection(host, int(port))
        await asyncio.gather(
            copy(reader, to_server, [0]),
            copy(from_server, writer, received),
            return_exceptions=True,
        )

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    async with server:
        relay_port = server.sockets[0].getsockname()[1]
        try:
            near = served._replace(address=f"127.0.0.1:{relay_port}")
            async with connected(near) as client:
                yield client, received
        finally:
            await asyncio.wait(relays, timeout=RELAY_ENDS_WITHIN_S)


Case = Callable[[Client, Served], Awaitable[None]]
CASES: dict[str, Case] = {
    case.__name__: case
    for case in (
        empty_unary,
        large_unary,
        client_compressed_unary,
        client_compressed_unary_noprobe,
        server_compressed_unary,
        client_streaming,
        client_compressed_streaming,
        client_compressed_streaming_noprobe,
        server_streaming,
        server_compressed_streaming,
        server_compressed_streaming_late,
        server_compressed_not_accepted,
        ping_pong,
        half_duplex,
        empty_stream,
        custom_metadata,
        status_code_and_message,
        special_status_message,
        unimplemented_method,
        unimplemented_service,
        cancel_after_begin,
        cancel_after_first_response,
        timeout_on_sleeping_server,
        concurrent_large_unary,
        rpc_soak,
        channel_soak,
        long_lived_channel,
    )
}
