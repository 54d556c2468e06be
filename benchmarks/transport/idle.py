"""Resident memory of idle connections: opens so many on one worker, waits until each is settled,
and divides what the worker has grown by their number.

A connection is settled when both sides' SETTINGS are acknowledged: it has sent the preface and its
SETTINGS, has acknowledged the server's, and a PING sent after that has come back, so the server has
read everything. All stay open, and are checked again, while one more makes a real call.

The client is this process, the server another one: each has a limit of open files of its own.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import time
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from benchmarks.transport.servers import Files, Running

CONNECTIONS = 10_000
BATCH = 100  # below the usual length of a listen queue (128)
SETTLE_TIMEOUT_S = 30.0  # for one batch
FILES_BESIDE = 100  # open files of this process that are no connections

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA_MAX = 16_384
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame on stream 0."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + b"\0\0\0\0" + payload


class Connection:
    """One idle client."""

    __slots__ = ("acked", "buffer", "ponged", "sock")

    def __init__(self, port: int) -> None:
        self.buffer = b""
        self.acked = self.ponged = False
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=SETTLE_TIMEOUT_S)
        self.sock.sendall(PREFACE + frame(SETTINGS))
        self.sock.setblocking(False)

    @property
    def settled(self) -> bool:
        """Both sides know each other's settings."""
        return self.acked and self.ponged

    def read(self) -> None:
        """Takes what has arrived and answers it. Raises ConnectionError if the server hung up."""
        with contextlib.suppress(BlockingIOError):
            data = self.sock.recv(DATA_MAX)
            if not data:
                raise ConnectionError("the server closed an idle connection")
            self.buffer += data
        while len(self.buffer) >= 9:
            end = 9 + int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < end:
                return
            kind, flags = self.buffer[3], self.buffer[4]
            payload, self.buffer = self.buffer[9:end], self.buffer[end:]
            self._frame(kind, flags, payload)

    def _frame(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == GOAWAY:
            raise ConnectionError(f"GOAWAY on an idle connection: {payload!r}")
        if kind == SETTINGS and flags & ACK:
            self.acked = True
        elif kind == SETTINGS:
            self.sock.sendall(frame(SETTINGS, ACK) + frame(PING, 0, b"settled?"))
        elif kind == PING and flags & ACK:
            self.ponged = self.ponged or payload == b"settled?"
        elif kind == PING:
            self.sock.sendall(frame(PING, ACK, payload))


@dataclass(frozen=True)
class Idle:
    """What was found."""

    server: str
    connections: int
    before_bytes: int
    after_bytes: int
    seconds: float

    @property
    def bytes_each(self) -> float:
        """Resident bytes a connection."""
        return (self.after_bytes - self.before_bytes) / self.connections

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "bytes_each": self.bytes_each}


def files_allowed() -> int:
    """How many connections this process, and a server like it, may hold."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # a server started from here inherits it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - FILES_BESIDE if hard != resource.RLIM_INFINITY else CONNECTIONS


def _settle(batch: list[Connection]) -> None:
    """Reads until each connection of the batch is settled."""
    waiting = {connection.sock.fileno(): connection for connection in batch}
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    with select.epoll() as poll:
        for number in waiting:
            poll.register(number, select.EPOLLIN)
        while waiting:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(waiting)} connections are not settled")
            for number, _ in poll.poll(0.5):
                waiting[number].read()
                if waiting[number].settled:
                    poll.unregister(number)
                    del waiting[number]


def measure(target: Running, files: Files, connections: int) -> Idle:
    """Opens so many connections on the server. Raises OSError or RuntimeError if it cannot."""
    process = psutil.Process(target.process.pid)
    held: list[Connection] = []
    try:
        first = Connection(target.port)  # what the first one makes once is not counted
        _settle([first])
        first.sock.close()
        before, began = process.memory_info().rss, time.monotonic()
        while len(held) < connections:
            count = min(BATCH, connections - len(held))
            batch = [Connection(target.port) for _ in range(count)]
            held += batch
            _settle(batch)
        seconds, after = time.monotonic() - began, process.memory_info().rss
        target.server.verify(target.port, files)
        for connection in held:  # still open, or this raises
            connection.read()
    finally:
        for connection in held:
            connection.sock.close()
    return Idle(target.server.name, connections, before, after, seconds)
