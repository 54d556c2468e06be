"""Clients of a server with TLS: contexts, channels, and sockets without a library on top."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import grpc

from tests.support.certificates import Authority

TIMEOUT_S = 20.0
READ_BYTES = 65_536


class Pair(NamedTuple):
    """PEM files."""

    certificate: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        return ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]


def channel(address: str, authority: Authority, pair: Pair | None = None) -> grpc.Channel:
    """A connection of its own."""
    credentials = grpc.ssl_channel_credentials(
        authority.certificate.read_bytes(),
        pair.key.read_bytes() if pair else None,
        pair.certificate.read_bytes() if pair else None,
    )
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    return grpc.secure_channel(address, credentials, options=options)


def context(authority: Authority, *alpn: str, pair: Pair | None = None) -> ssl.SSLContext:
    """A client's."""
    made = ssl.create_default_context(cafile=authority.certificate)
    if alpn:
        made.set_alpn_protocols(alpn)
    if pair is not None:
        made.load_cert_chain(*pair)
    return made


@contextlib.contextmanager
def handshake(address: str, client: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """A TLS connection. Raises ssl.SSLError, OSError."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain:
        with client.wrap_socket(plain, server_hostname=host) as secured:
            yield secured


@contextlib.contextmanager
def eager(
    address: str, client: ssl.SSLContext, early: bytes
) -> Iterator[tuple[ssl.SSLObject, Iterator[bytes]]]:
    """A TLS connection whose first data come in one piece with the last message of the handshake;
    what the server answers, up to its close_notify."""
    host, _, port = address.rpartition(":")
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = client.wrap_bio(incoming, outgoing, server_hostname=host)
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as plain:

        def step(do: Callable[[], bytes | None]) -> bytes | None:
            while True:
                try:
                    return do()
                except ssl.SSLWantReadError:
                    plain.sendall(outgoing.read())
                    data = plain.recv(READ_BYTES)
                    incoming.write(data) if data else incoming.write_eof()

        step(secured.do_handshake)
        secured.write(early)
        yield secured, iter(lambda: step(lambda: secured.read(READ_BYTES)) or b"", b"")
