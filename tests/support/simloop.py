"""An event loop without sockets or waiting, and a transport that misbehaves as it is told.

`SimLoop` is asyncio's own loop with two changes: nothing is polled, and where it would wait, its
clock jumps instead, sometimes too far (late timers). `SimTransport` is a socket as asyncio's
selector transport shows it: a buffer with water marks, a peer that takes what it wants when it
wants, end of file, loss. Not for threads, and not for uvloop: that one is tested with real sockets.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any


class Stuck(AssertionError):
    """The loop would wait for ever."""


class SimLoop(asyncio.BaseEventLoop):
    """See the module. `late_s` is the most by which a timer is late."""

    def __init__(self, dice: random.Random, late_s: float = 0.3) -> None:
        super().__init__()
        self.faults: list[dict[str, Any]] = []
        self._now = 1_000.0
        self._dice = dice
        self._late_s = late_s
        self._selector = self  # the base class asks it for events
        self.set_exception_handler(lambda _loop, context: self.faults.append(context))

    def time(self) -> float:
        """The clock of timers, and of all other readers."""
        return self._now

    monotonic = time

    def now_ms(self) -> int:
        """The wall clock of feedcore.clock.Clock."""
        return int(self._now * 1_000)

    def select(self, timeout: float | None) -> list[Any]:
        """Where the loop would wait."""
        if timeout is None:
            raise Stuck("nothing is scheduled")
        if timeout > 0:
            late = self._dice.random() * self._late_s if self._dice.random() < 0.3 else 0.0
            self._now += timeout + late
        return []

    def after(self, seconds: float) -> asyncio.Future[None]:
        """Is done when so much time has passed."""
        future: asyncio.Future[None] = self.create_future()
        self.call_later(seconds, lambda: future.done() or future.set_result(None))
        return future

    def timers(self) -> list[asyncio.TimerHandle]:
        """Those that are still armed."""
        return [timer for timer in self._scheduled if not timer.cancelled()]

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else is there to wake it."""


class SimTransport(asyncio.Transport):
    """See the module. `take` gets what the peer took, `ended` hears of end of file and of the
    end."""

    def __init__(
        self,
        loop: SimLoop,
        protocol: asyncio.BufferedProtocol,
        take: Callable[[bytes], None],
        ended: Callable[[], None],
    ) -> None:
        super().__init__({"peername": ("203.0.113.9", 50_000)})
        self.lost = False
        self.eof_at: float | None = None  # when the server ended its side
        self.taken_at = loop.time()
        self.full_at: float | None = None  # since when the server may not write
        self.unsent = bytearray()
        self.reads_paused = False
        self.write_eof_fails = False
        self._loop = loop
        self._protocol = protocol
        self._take = take
        self._ended = ended
        self._closing = False
        self._losing = False
        self._high = 64 * 1024
        protocol.connection_made(self)

    # --- the server's side ----------------------------------------------------------------------
    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = high or 64 * 1024

    def get_write_buffer_size(self) -> int:
        return len(self.unsent)

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._losing:
            return  # asyncio drops it, too
        assert self.eof_at is None, "write after write_eof"
        assert data, "an empty write"
        self.unsent += data
        if len(self.unsent) > self._high and self.full_at is None:
            self.full_at = self._loop.time()
            self._protocol.pause_writing()

    def write_eof(self) -> None:
        if self.write_eof_fails:
            raise OSError(107, "Transport endpoint is not connected")
        if self._closing or self.eof_at is not None:
            return
        self.eof_at = self._loop.time()
        if not self.unsent:
            self._ended()

    def pause_reading(self) -> None:
        self.reads_paused = True

    def resume_reading(self) -> None:
        self.reads_paused = False

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if not self.unsent:
                self.lose()

    def abort(self) -> None:
        self.unsent.clear()
        self.lose()

    # --- the peer's side ------------------------------------------------------------------------
    def readable(self) -> bool:
        """Whether the server would read now."""
        return not (self.reads_paused or self._closing or self._losing)

    def bring(self, data: bytes) -> None:
        """The server reads that much."""
        try:
            view = memoryview(self._protocol.get_buffer(-1))
            view[: len(data)] = data
            del view
            self._protocol.buffer_updated(len(data))
        except Exception as error:
            self._loop.call_exception_handler({"message": "buffer_updated", "exception": error})
            self.abort()

    def bring_eof(self) -> None:
        """The peer sends no more."""
        if self.readable() and not self._protocol.eof_received():
            self.close()

    def taken(self, count: int) -> None:
        """The peer takes up to so many bytes."""
        piece = bytes(self.unsent[:count])
        del self.unsent[:count]
        if piece:
            self.taken_at = self._loop.time()
            self._take(piece)
        if self.full_at is not None and len(self.unsent) <= self._high // 4:
            self.full_at = None
            self._protocol.resume_writing()
        if not self.unsent and self.eof_at is not None:
            self._ended()
        if not self.unsent and self._closing:
            self.lose()

    def lose(self, error: Exception | None = None) -> None:
        """The connection is gone, from the next turn on."""
        if not self._losing:
            self._losing = self._closing = True
            self._loop.call_soon(self._say_lost, error)

    def _say_lost(self, error: Exception | None) -> None:
        assert not self.lost
        self.lost = True
        self._protocol.connection_lost(error)
        self._ended()
