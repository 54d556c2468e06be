"""HTTP/2 by hand, for what no client library would do: half frames, calls without ALPN, a peer that
ignores what it is told.

Bytes and nothing else: header blocks are literals without Huffman and without the dynamic table, so
that a request is the same bytes on any connection. Not for tests of the protocol's cases.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
ACK = END_STREAM = 1
END_HEADERS = 4
READ_BYTES = 65_536

Socket = socket.socket | ssl.SSLSocket


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big")
    return head + payload


def block(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A header block of literals; names and values of at most 126 bytes."""
    packed = b""
    for name, value in pairs:
        packed += b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value
    return packed


def request_headers(path: str, stream_id: int = 1, timeout: str = "") -> bytes:
    """HEADERS of a call; its message is still to come."""
    pairs = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path.encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ]
    if timeout:
        pairs.append((b"grpc-timeout", timeout.encode()))
    return frame(HEADERS, END_HEADERS, stream_id, block(pairs))


def prefixed(message: bytes) -> bytes:
    """A message as gRPC frames it."""
    return b"\x00" + struct.pack(">I", len(message)) + message


def call(path: str, message: bytes, stream_id: int = 1) -> bytes:
    """A whole unary call."""
    return request_headers(path, stream_id) + frame(DATA, END_STREAM, stream_id, prefixed(message))


class RawPeer:
    """A client on a connected socket: preface and SETTINGS are sent, nothing is answered unless
    asked for."""

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self._buffer = b""
        sock.sendall(PREFACE + frame(SETTINGS))

    @classmethod
    def connect(cls, address: str, timeout_s: float = 20.0) -> RawPeer:
        """To HOST:PORT, in the clear."""
        host, _, port = address.rpartition(":")
        return cls(socket.create_connection((host, int(port)), timeout=timeout_s))

    def settle(self) -> None:
        """Acknowledges the server's SETTINGS and waits until it has acknowledged ours and has read
        a PING."""
        self.sock.sendall(frame(SETTINGS, ACK) + frame(PING, 0, 0, b"settled?"))
        self.until(PING)

    def read(self) -> tuple[int, int, int, bytes]:
        """The next frame: (type, flags, stream, payload). EOFError at the end of the connection."""
        while len(self._buffer) < 9 or len(self._buffer) < self._length():
            data = self.sock.recv(READ_BYTES)
            if not data:
                raise EOFError("the server has closed the connection")
            self._buffer += data
        end = self._length()
        raw, self._buffer = self._buffer[:end], self._buffer[end:]
        return raw[3], raw[4], int.from_bytes(raw[5:9], "big"), raw[9:]

    def until(self, kind: int) -> tuple[int, int, int, bytes]:
        """The next frame of that type; others are dropped."""
        while True:
            got = self.read()
            if got[0] == kind:
                return got

    def reset(self) -> None:
        """Closes with RST in place of FIN."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _length(self) -> int:
        return 9 + int.from_bytes(self._buffer[:3], "big")
