"""The transports there are, by name, for tests that run against each of them."""

from __future__ import annotations

from pathlib import Path

from feedcore.clock import Clock
from feedcore_server.dispatch import Dispatcher
from feedcore_server.transports import Transport
from feedcore_server.transports.grpcio import GrpcioTransport
from feedcore_server.transports.native import Certificates, NativeTransport, TlsFiles

TRANSPORTS = ("grpcio", "native")


def make_transport(
    name: str, dispatcher: Dispatcher, clock: Clock, tls: tuple[Path, Path] | None = None
) -> Transport:
    """A transport that is not listening yet. `tls`: PEM files of certificate and key."""
    if name == "grpcio":
        if tls is not None:
            raise ValueError("the grpcio transport has no TLS")
        return GrpcioTransport(dispatcher, clock)
    certificates = None if tls is None else Certificates(TlsFiles(*tls))
    return NativeTransport(dispatcher, clock, certificates)
