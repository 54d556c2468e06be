"""Accepts connections and hands each to the worker that has the fewest: an even spread, whatever
the number of connections, and a listening socket that no restart of a worker ever closes.

The supervisor holds the listening sockets and one end of a channel (a SOCK_SEQPACKET pair) to each
worker. A message down is one accepted connection; a message up is what the worker has: how many it
has been handed in all, and how many are open. A worker's load is what it says is open plus what is
still on its way to it.

Where a connection waits while workers are busy, in the order in which it came, and none is closed:

    the worker's channel    some 280: what the kernel keeps of a SOCK_SEQPACKET pair
    in hand                 one, accepted, for which no channel has room
    the kernel's queue      ACCEPT_BACKLOG, not accepted
    the caller's kernel     the rest: its SYN is dropped, and sent again after 1, 3, 7, ... s

Invariants: a connection is handed over once; nothing is accepted while one is in hand, or while
there is no worker; at most ACCEPTS_PER_TURN are accepted before others get their turn. A connection
in hand is closed only by the end of the server. Not for: bytes of connections, TLS, limits of a
worker (the worker refuses). Why not SO_REUSEPORT: it spreads by a hash of addresses, so that a
handful of connections may all land on one worker, and closing one listener resets what waits in its
queue (ADR 7).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from feedcore.observe import logs
from feedcore_server import limits

_REPORT = struct.Struct("<QI")  # connections handed to the worker so far; open now
_CONNECTION = b"c"
# The channel takes no more now: its queue is full, or as many descriptors as this process may have
# open are under way in all.
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS, errno.ENOMEM})


class Channel:
    """The supervisor's end to one worker."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._handed = 0
        self._received = 0
        self.open = 0

    @property
    def load(self) -> int:
        """Connections the worker has, or is about to have."""
        return self.open + self._handed - self._received

    def fileno(self) -> int:
        """For the loop."""
        return self._ours.fileno()

    def hand_over(self, accepted: socket.socket) -> bool:
        """Gives a connection to the worker; False if its queue is full. Raises OSError if the
        worker has gone."""
        try:
            socket.send_fds(self._ours, [_CONNECTION], [accepted.fileno()])
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise
        self._handed += 1
        return True

    def read_reports(self) -> bool:
        """Takes what the worker has to say; False if it has gone."""
        while True:
            try:
                report = self._ours.recv(_REPORT.size)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if len(report) < _REPORT.size:
                return False
            self._received, self.open = _REPORT.unpack(report)

    def close(self) -> None:
        """Both ends; the worker's process has a copy of its own."""
        self._ours.close()
        self.theirs.close()


class Acceptor:
    """All listening sockets of a server."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._listeners: list[socket.socket] = []
        self._channels: list[Channel] = []
        self._listening = False
        self._in_hand: socket.socket | None = None
        self._waits = ""  # what accepting waits for; "" while it goes on
        self._waits_since_s = 0.0
        self._told = False  # the log has the beginning of this wait
        self._told_s = -limits.ACCEPT_TOLD_EVERY_S
        self._retry: asyncio.TimerHandle | None = None
        self._unix_path: Path | None = None
        self.accepted = 0

    def listen_tcp(self, found: tuple[Any, ...]) -> int:
        """Listens on an address from getaddrinfo; the port. Raises OSError."""
        family, _, _, _, address = found
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(limits.ACCEPT_BACKLOG)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._listeners.append(listener)
        return int(listener.getsockname()[1])

    def listen_unix(self, path: Path) -> None:
        """Listens on a unix socket. A socket without a listener is left over: it is replaced.
        Raises OSError."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.is_socket():
                if not _is_abandoned(path):
                    raise OSError("another server listens on it")
                path.unlink()
            elif path.exists():
                raise OSError("there is a file of that name that is no socket")
            listener.bind(str(path))
            listener.listen(limits.ACCEPT_BACKLOG)
        except OSError as error:
            listener.close()
            raise OSError(f"server.listen_unix {path}: {error.strerror or error}") from error
        listener.setblocking(False)
        self._unix_path = path
        self._listeners.append(listener)

    def add(self, channel: Channel) -> None:
        """A worker is ready for connections."""
        self._channels.append(channel)
        self._loop.add_reader(channel.fileno(), self._read, channel)
        self._resume()

    def remove(self, channel: Channel) -> None:
        """A worker gets no more connections: it drains, or it has gone."""
        if channel in self._channels:
            self._channels.remove(channel)
            self._loop.remove_reader(channel.fileno())

    def loads(self) -> list[int]:
        """Connections of each worker."""
        return [channel.load for channel in self._channels]

    def close(self) -> None:
        """Accepts no more; connections that were handed over live on."""
        self._pause()
        if self._in_hand is not None:
            self._in_hand.close()
            self._in_hand = None
        for channel in list(self._channels):
            self.remove(channel)
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if self._unix_path is not None:
            self._unix_path.unlink(missing_ok=True)
            self._unix_path = None

    def _read(self, channel: Channel) -> None:
        if not channel.read_reports():
            self.remove(channel)

    def _resume(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._in_hand is not None and not self._hand_over(self._in_hand):
            return
        if not self._listening and self._channels:
            self._listening = True
            for listener in self._listeners:
                self._loop.add_reader(listener.fileno(), self._accept, listener)

    def _pause(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._listening:
            self._listening = False
            for listener in self._listeners:
                self._loop.remove_reader(listener.fileno())

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(limits.ACCEPTS_PER_TURN):
            if not self._channels:
                self._pause()  # `add` resumes; callers wait in the kernel's queue meanwhile
                return
            try:
                accepted, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors or memory: it may pass
                self._wait_for(error.strerror or str(error))
                return
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self._hand_over(accepted):
                return

    def _hand_over(self, accepted: socket.socket) -> bool:
        """To the worker with the least load that takes it; then our copy is closed. Else it is in
        hand, and accepting waits."""
        for channel in sorted(self._channels, key=_load):
            try:
                taken = channel.hand_over(accepted)
            except OSError:  # the worker has gone, and the keeper is about to see that
                self.remove(channel)
                continue
            if taken:
                accepted.close()
                self._in_hand = None
                self.accepted += 1
                self._go_on()
                return True
        self._in_hand = accepted
        self._wait_for("a worker that takes connections")
        return False

    def _wait_for(self, what: str) -> None:
        """Accepts nothing for a moment. The log has the beginning and the end of it, but not of
        each of many short ones.
        """
        self._pause()
        self._retry = self._loop.call_later(limits.ACCEPT_RETRY_S, self._resume)
        now_s = self._loop.time()
        if what != self._waits:
            self._waits, self._waits_since_s = what, now_s
        if not self._told and now_s - self._told_s >= limits.ACCEPT_TOLD_EVERY_S:
            self._told, self._told_s = True, now_s
            logs.get("acceptor").warning("new connections wait", waits_for=what)

    def _go_on(self) -> None:
        if self._told:
            took_ms = round((self._loop.time() - self._waits_since_s) * 1_000)
            logs.get("acceptor").info("connections wait no more", took_ms=took_ms)
        self._waits, self._told = "", False


class Intake:
    """The worker's end of a channel: takes connections, reports how many are open."""

    def __init__(
        self,
        fd: int,
        loop: asyncio.AbstractEventLoop,
        serve: Callable[[socket.socket], None],
        count: Callable[[], int],
    ) -> None:
        self._channel = socket.socket(fileno=fd)
        self._channel.setblocking(False)
        self._loop = loop
        self._serve = serve
        self._count = count
        self._received = 0
        self._report_due = False
        loop.add_reader(fd, self.take)

    def take(self) -> bool:
        """Connections that have been handed over, as many as one turn may take; whether there may
        be more."""
        for _ in range(limits.ACCEPTS_PER_TURN):
            try:
                data, fds, _, _ = socket.recv_fds(self._channel, 1, 1)
            except BlockingIOError:
                return False
            except OSError:
                data, fds = b"", []
            if not data:  # the supervisor has gone: this process is about to end, too
                self._loop.remove_reader(self._channel.fileno())
                return False
            self._received += 1
            if not fds:  # the reserve of descriptors (open_files) is there so that this is not so
                logs.get("acceptor").error("a connection is lost: no descriptor was free for it")
            for fd in fds:
                self._serve(socket.socket(fileno=fd))
            self.changed()
        return True

    def changed(self) -> None:
        """The number of open connections is another one: it is reported soon."""
        if not self._report_due:
            self._report_due = True
            self._loop.call_later(limits.ACCEPT_REPORT_S, self._report)

    def close(self) -> None:
        """Takes what is still on its way, then no more."""
        if self._channel.fileno() >= 0:
            while self.take():
                pass
            self._loop.remove_reader(self._channel.fileno())
            self._channel.close()

    def _report(self) -> None:
        self._report_due = False
        if self._channel.fileno() < 0:
            return
        try:
            self._channel.send(_REPORT.pack(self._received, self._count()))
        except BlockingIOError:
            self.changed()
        except OSError as error:
            logs.get("acceptor").warning("report not sent", detail=error.strerror)


def _load(channel: Channel) -> int:
    return channel.load


def _is_abandoned(path: Path) -> bool:
    """Whether a unix socket has no listener."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            return True
    return False
