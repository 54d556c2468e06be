"""Up to where content ids of a node may have been given out: durable before they are.

Asking a cluster for its newest post is no cheap question. So a node reserves time instead: before
an id of a millisecond that is not reserved is stored, "ids of this node up to RESERVED_AHEAD_MS
from now" is written, at most once in that time. A process that starts waits until the clock is past
what is reserved (at most RESERVED_AHEAD_MS more than it would have to), and never repeats an id.
"""

from __future__ import annotations

import asyncio

from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.clock import Clock
from feedcore.domain import ids
from feedcore.limits import CLOCK_AHEAD_MAX_MS

RESERVED_AHEAD_MS = 2_000  # one write in two seconds; and how long a restart waits for nothing

_RESERVE = Statement(
    "INSERT INTO node_ids (one, node, content_id) VALUES (0, ?, ?) USING TIMESTAMP ?"
)
_RESERVED = Statement("SELECT node, content_id FROM node_ids WHERE one = 0")

assert RESERVED_AHEAD_MS < CLOCK_AHEAD_MAX_MS  # more would be taken for a broken clock at the start


class NodeIds:
    """One a process. Not for imports: their ids are of other times, and are claimed one by one."""

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._reserved: dict[int, int] = {}
        self._lock = asyncio.Lock()

    async def reserve(self, content_id: int) -> None:
        """Durable on return, for the node that gave the id out."""
        node = node_of(ids.region(content_id), ids.node(content_id))
        if content_id <= self._reserved.get(node, 0):
            return
        async with self._lock:
            if content_id <= self._reserved.get(node, 0):
                return
            ahead_ms = max(ids.time_ms(content_id), self._clock.now_ms() + RESERVED_AHEAD_MS)
            last = ids.last_id_at(ahead_ms)
            # as its own timestamp: whatever the order of two writes, the larger stays
            await self._session.write(_RESERVE, (node, last, ahead_ms * 1_000))
            self._reserved[node] = last

    async def newest(self, node: int | None = None) -> int:
        """The largest id that the node, or any node, may have given out; 0 if none was."""
        rows = await self._session.read(_RESERVED)
        return max((row[1] for row in rows if node in (None, row[0])), default=0)


def node_of(region: int, node: int) -> int:
    """The number that a node has in all regions."""
    return region << ids.NODE_BITS | node
