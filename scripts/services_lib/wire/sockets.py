"""A connection that reads exactly what is asked for. Not for anything but checks."""

from __future__ import annotations

import socket
from types import TracebackType

# A loopback answer takes milliseconds; a Java process that just started, seconds.
ANSWER_S = 10.0


class WireError(Exception):
    """The engine answered, with something else than what was asked for."""


class Connection:
    """Bounded in time: every read and write ends within `timeout_s`."""

    def __init__(self, host: str, port: int, timeout_s: float = ANSWER_S) -> None:
        self._socket = socket.create_connection((host, port), timeout=timeout_s)
        self._held = b""

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            self._more()
        data, self._held = self._held[:size], self._held[size:]
        return data

    def line(self) -> bytes:
        while b"\r\n" not in self._held:
            self._more()
        data, _, self._held = self._held.partition(b"\r\n")
        return data

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionError("closed by the engine")
        self._held += data
