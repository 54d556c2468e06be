"""Write-behind: buffers that loads fill are written about once a second, by a task that is owned
here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from feedcore.errors import FeedcoreError

FLUSH_AFTER_S = 1.0  # counts are eventual within about a second

log = logging.getLogger(__name__)


class WriteBehind:
    """`touch` after buffering something; what was buffered is written soon, and at the latest by
    `close`.
    """

    def __init__(self, flush: Callable[[], Awaitable[None]]) -> None:
        self._flush = flush
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def touch(self) -> None:
        """Cheap. Off an event loop nothing is scheduled: `close` writes."""
        if self._timer is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                return
            self._timer = loop.call_later(FLUSH_AFTER_S, self._begin)

    async def close(self) -> None:
        """Writes what is buffered."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            await self._task
        await self._run()

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="write-behind")

    async def _run(self) -> None:
        try:
            await self._flush()
        except FeedcoreError as error:
            # counts of views: a full disk or queue costs them, and the drop is counted
            log.warning("write-behind failed: %s", error)
        finally:
            self._timer = None
