"""The load generator's connections to one server: sockets, epoll, reconnecting. One thread.

Invariants: every call that was opened is delivered once, whatever becomes of its connection; a
connection that the server sends away finishes its calls beside the one that replaces it; a lost one
is replaced, with a pause after each failure, for as long as the run lasts.

Not for: when calls begin (engine), what answers mean (the workload).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from feedcore_bench._native.h2call import Template
from feedcore_bench._native.h2client import Client
from feedcore_bench._native.loadstats import Recorder

if TYPE_CHECKING:
    from feedcore_bench._native.h2client import Tell

READ_BYTES = 262_144  # one read: some hundred replies; below what the kernel keeps for a socket
RETRY_NS = 50_000_000  # between attempts to connect: a server that restarts is found at once
READY_WITHIN_S = 10.0  # a server that listens has sent its SETTINGS long before
POLL_S = 0.01
_WANTED = select.EPOLLIN


class Connection:
    """One socket and its session. `rest`: bytes that the socket did not take yet."""

    __slots__ = ("client", "connected", "rest", "sock", "watched")

    def __init__(self, sock: socket.socket, client: Client) -> None:
        self.sock = sock
        self.client = client
        self.rest: memoryview | None = None
        self.connected = False
        self.watched = 0


class Connections:
    """`wanted` connections to `address` ("host:port"). Set `recorder` and `tell` before calls are
    opened. `bytes_in`, `bytes_out`: of the sockets, so far; `lost`: connections that ended before
    they were closed here; `opened`: connections made, the first ones included."""

    def __init__(
        self, address: str, templates: Sequence[Template], wanted: int, streams: int, plain: bool
    ) -> None:
        host, _, port = address.rpartition(":")
        # resolved once: names are looked up before the clock runs
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        self._family, self._address = found[0][0], found[0][4]
        self._text = address
        self._templates, self._streams, self._plain = list(templates), streams, plain
        self.wanted = wanted
        self.recorder: Recorder
        self.tell: Tell
        self.active: list[Connection] = []
        self.bytes_in = self.bytes_out = self.opened = self.lost = 0
        self.last_fault = ""
        self._by_fd: dict[int, Connection] = {}
        self._epoll = select.epoll()
        self._buffer = bytearray(READ_BYTES)
        self._retry_ns = 0

    # --- life -----------------------------------------------------------------------------------
    def start(self) -> None:
        """Opens all connections. Raises ConnectionError if one is not ready in time."""
        deadline = time.monotonic() + READY_WITHIN_S
        while len(self.active) < self.wanted or not all(c.client.room() for c in self.active):
            self.replace(time.monotonic_ns())
            self.handle(self.poll(POLL_S))
            if self.last_fault or time.monotonic() > deadline:
                self.close("no connection")
                raise ConnectionError(f"{self._text}: {self.last_fault or 'no answer'}")

    def replace(self, now_ns: int) -> None:
        """Opens connections that are wanted and not there, unless one has just failed."""
        while len(self.active) < self.wanted and now_ns >= self._retry_ns:
            sock = socket.socket(self._family, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, Client(self._templates, self._streams, self._plain))
            code = sock.connect_ex(self._address)
            if code not in (0, errno.EINPROGRESS):
                sock.close()
                self._failed(os.strerror(code), now_ns)
                return
            self._by_fd[sock.fileno()] = connection
            self.active.append(connection)
            connection.watched = _WANTED | select.EPOLLOUT
            self._epoll.register(sock.fileno(), connection.watched)

    def _failed(self, why: str, now_ns: int) -> None:
        self.last_fault = why
        self._retry_ns = now_ns + RETRY_NS

    def lose(self, connection: Connection, why: str, status: int = 14) -> None:
        """The connection is gone: its calls are delivered with `status`, UNAVAILABLE by default."""
        now_ns = time.monotonic_ns()
        fd = connection.sock.fileno()
        self._epoll.unregister(fd)
        del self._by_fd[fd]
        connection.sock.close()
        connection.connected, connection.rest = False, None
        if connection in self.active:
            self.active.remove(connection)
            if not connection.client.going_away:
                self._failed(why, now_ns)
        connection.client.lost(why, status)
        self.deliver(connection, now_ns)

    def close(self, why: str, status: int = 14) -> int:
        """Ends everything; how many calls were still open, each of which is delivered."""
        unanswered = self.open_calls()
        for connection in list(self._by_fd.values()):
            self.lose(connection, why, status)
        self._epoll.close()
        return unanswered

    def open_calls(self) -> int:
        """Calls on all connections, also on those that were sent away."""
        return sum(connection.client.open_calls() for connection in self._by_fd.values())

    # --- bytes ----------------------------------------------------------------------------------
    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        """What epoll gives; `timeout_s` to the microsecond."""
        if timeout_s > 0:  # epoll would round up to the next millisecond
            select.select([self._epoll.fileno()], [], [], timeout_s)
        return self._epoll.poll(0)

    def handle(self, events: list[tuple[int, int]]) -> list[Connection]:
        """Reads, parses, delivers, and writes what that made due. Connections that are still there
        and had something to read: they may have room now."""
        ready = []
        for fd, mask in events:
            connection = self._by_fd.get(fd)
            if connection is None:
                continue
            if mask & select.EPOLLOUT and not self._writable(connection):
                continue
            if mask & ~select.EPOLLOUT and self._read(connection):
                ready.append(connection)
        return ready

    def _writable(self, connection: Connection) -> bool:
        if not connection.connected:
            code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self.lose(connection, os.strerror(code))
                return False
            connection.connected = True
            self.opened += 1
            self.last_fault = ""
        return self.flush(connection)

    def _read(self, connection: Connection) -> bool:
        client = connection.client
        try:
            got = connection.sock.recv_into(self._buffer)
        except BlockingIOError:
            return True
        except OSError as error:
            self._ended(connection, error.strerror or str(error))
            return False
        now_ns = time.monotonic_ns()
        if got == 0:
            self._ended(connection, "the server closed the connection")
            return False
        self.bytes_in += got
        if client.feed(self._buffer, got):
            self.deliver(connection, now_ns)
        if client.going_away and connection in self.active:
            self.active.remove(connection)
        # Acknowledgements and window updates; flush also sees when the session has ended.
        return not (client.wants_write() or client.is_over()) or self.flush(connection)

    def _ended(self, connection: Connection, why: str) -> None:
        if connection.sock.fileno() in self._by_fd:
            self.lost += 1
            self.lose(connection, why)

    def deliver(self, connection: Connection, now_ns: int) -> None:
        """Hands on what is finished."""
        connection.client.deliver(self.tell, self.recorder, now_ns)

    def flush(self, connection: Connection) -> bool:
        """Writes what is due, as far as the socket takes it; whether the connection is alive."""
        if not connection.connected:
            return True
        blocked = False
        data: memoryview | bytes = b""
        try:
            while pulled := connection.rest or connection.client.pull():
                data = pulled
                sent = connection.sock.send(data)
                self.bytes_out += sent
                connection.rest = None
                if sent < len(data):
                    connection.rest = memoryview(data)[sent:]
        except BlockingIOError:
            connection.rest = memoryview(data)
            blocked = True
        except OSError as error:
            self._ended(connection, error.strerror or str(error))
            return False
        if connection.client.pending():
            self.deliver(connection, time.monotonic_ns())
        if not blocked and connection.client.is_over():
            why = connection.client.verdict or "the server sent the connection away"
            self._ended(connection, why)
            return False
        wanted = _WANTED | (select.EPOLLOUT if blocked else 0)
        if wanted != connection.watched:
            self._epoll.modify(connection.sock.fileno(), wanted)
            connection.watched = wanted
        return True
