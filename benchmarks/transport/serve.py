"""Our server as a process of its own: a table of constant replies, a dispatcher without
interceptors, one transport, under uvloop.

    python -m benchmarks.transport.serve --transport native --handler fast --port 50051

The handlers do nothing, so that what is measured is the transport and the dispatcher.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import click
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import ServiceDescriptor

from benchmarks.transport import matrix
from feedcore.clock import SystemClock
from feedcore.codecs.bounds import Bound, Policy
from feedcore_server.context import CallContext
from feedcore_server.dispatch import Dispatcher
from feedcore_server.registry import FastHandler, Registry, UnaryHandler
from feedcore_server.transports import Transport

BODY_BYTES_MAX = 1_024  # of a request: it has 8
BOUNDS = Policy({"bench.Payload.body": Bound(size=BODY_BYTES_MAX)}, 2 * BODY_BYTES_MAX, 0)


def descriptor() -> ServiceDescriptor:
    """`bench.Bench`: one unary method a size, messages of one bytes field."""
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    message = file.message_type.add(name="Payload")
    field = message.field.add(name="body", number=1)
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_BYTES
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL
    service = file.service.add(name="Bench")
    for size in matrix.SIZES:
        service.method.add(
            name=f"Reply{size}", input_type=".bench.Payload", output_type=".bench.Payload"
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool.FindServiceByName("bench.Bench")


def _ordinary(reply: bytes) -> UnaryHandler:
    async def answer(_request: Any, _call: CallContext) -> bytes:
        return reply

    return answer


def _fast(reply: bytes) -> FastHandler:
    def answer(_raw: bytes) -> bytes:
        return reply

    return answer


def dispatcher(handler: str) -> Dispatcher:
    """The table: ordinary handlers, and fast ones beside them if `handler` is "fast"."""
    replies = {f"Reply{size}": matrix.reply(size) for size in matrix.SIZES}
    registry = Registry()
    registry.add_service(
        descriptor(),
        {name: _ordinary(reply) for name, reply in replies.items()},
        bounds=BOUNDS,
        fast=(
            {name: _fast(reply) for name, reply in replies.items()} if handler == "fast" else None
        ),
    )
    return Dispatcher(registry, ())


def make_transport(kind: str, handler: str, cert: Path | None, key: Path | None) -> Transport:
    """The transport; TLS if a certificate is given."""
    table, clock = dispatcher(handler), SystemClock()
    if kind == "grpcio":
        from feedcore_server.transports.grpcio import GrpcioTransport

        if cert is not None:
            raise click.UsageError("TLS is measured with --transport native only")
        return GrpcioTransport(table, clock)
    from feedcore_server.transports.native import NativeTransport

    certificates = None
    if cert is not None and key is not None:
        from feedcore_server.transports.native.tls import Certificates, TlsFiles

        certificates = Certificates(TlsFiles(cert, key))
    return NativeTransport(table, clock, certificates)


async def serve(transport: Transport, port: int) -> None:
    """Serves until SIGTERM or SIGINT."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await transport.start("127.0.0.1", port)
    await ended.wait()
    await transport.stop(0.1)


@click.command(help=__doc__.splitlines()[0])
@click.option("--transport", "kind", type=click.Choice(["native", "grpcio"]), default="native")
@click.option("--handler", type=click.Choice(["fast", "async"]), default="fast")
@click.option("--port", type=int, required=True)
@click.option("--cert", type=click.Path(path_type=Path), help="PEM; with --key: TLS")
@click.option("--key", type=click.Path(path_type=Path))
def main(kind: str, handler: str, port: int, cert: Path | None, key: Path | None) -> None:
    """Command line."""

    async def run() -> None:
        await serve(make_transport(kind, handler, cert, key), port)

    uvloop.run(run())


if __name__ == "__main__":
    main()
