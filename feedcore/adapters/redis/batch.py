"""Batch: keys and commands that go to one Redis node in one round trip, for all who asked.

    open     of this turn of the loop, or waiting while the batch before is under way: may be joined
    begun    sent: nobody joins any more
    done     answered, or failed as a whole: everybody who waits is woken

The same key asked twice in a batch is asked once, and so is the same question. What happens to one
caller who waits (cancelled, out of time) happens to nobody else.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.exceptions import NoScriptError

from feedcore.errors import Unavailable


class Batch:
    """What one round trip asks. `replies` and `values` are there when `wait` has returned."""

    __slots__ = ("_calls", "_waiters", "asked", "begun", "commands", "error", "keys", "replies",
                 "size", "started_s", "values")  # fmt: skip

    def __init__(self, started_s: float) -> None:
        self.started_s = started_s
        self.begun = False
        self.keys: dict[bytes, None] = {}
        self.commands: list[tuple[Any, ...]] = []
        self.values: dict[bytes, bytes | None] = {}
        self.replies: list[Any] = []
        self.asked = 0  # questions, those that were asked already included
        self.size = 0
        self.error: Unavailable | None = None
        self._calls: dict[tuple[Any, ...], int] = {}
        self._waiters: list[asyncio.Future[None]] | None = []

    def put(self, command: tuple[Any, ...], *, once: bool) -> int:
        """Its place among the replies. `once`: the same command has one reply for all."""
        if once:
            found = self._calls.get(command)
            if found is not None:
                return found
            self._calls[command] = len(self.commands)
        self.commands.append(command)
        return len(self.commands) - 1

    async def wait(self) -> None:
        """Until it is done. Raises Unavailable if it failed as a whole."""
        if self._waiters is not None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        if self.error is not None:
            raise self.error

    def finish(self, error: Unavailable | None = None) -> None:
        """Wakes everybody."""
        self.error = error
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)


class Call:
    """One command of a batch."""

    __slots__ = ("_at", "batch")

    def __init__(self, batch: Batch, at: int) -> None:
        self.batch = batch
        self._at = at

    async def reply(self) -> Any:
        """What the server said. Raises Unavailable, also for a server that refused it."""
        await self.batch.wait()
        reply = self.batch.replies[self._at]
        if isinstance(reply, Exception):
            if isinstance(reply, NoScriptError):
                raise reply
            raise Unavailable(f"redis refused a command: {reply}") from reply
        return reply
