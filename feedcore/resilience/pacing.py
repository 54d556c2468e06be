"""Work behind calls that takes a share of the event loop, in slices, and leaves the rest to calls.

Invariant: between two slices everything that is ready gets its turn, and then the loop is left
alone for as long as the share asks. A slice counts by the processor time of the thread: on a busy
machine it lasts longer, and takes no more from calls. How long a slice is is up to the caller:
about a millisecond, since a call may come right at its begin.
"""

from __future__ import annotations

import asyncio
import time


class Pace:
    """`share` of the time, above 0; at 1 others get their turn, and nothing more."""

    def __init__(self, share: float) -> None:
        self._rest = 1 / share - 1
        self._began_s = time.thread_time()

    async def rest(self) -> None:
        """Between two slices."""
        await asyncio.sleep((time.thread_time() - self._began_s) * self._rest)
        self._began_s = time.thread_time()
