"""The node log: one stream that tells every node what has changed for all users.

A position is the id of an entry as one integer, milliseconds << 64 | number. Reading begins *at*
the entry that was read last: if it is not there any more, something may have been lost (trimmed,
evicted, flushed, restored from an older snapshot), and the reader is told so. Not for applying what
is read (replica).
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from feedcore.adapters.redis.batch import Call
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.events import BEGUN, pack_entry
from feedcore.adapters.redis.keys import LOG_ENTRIES_MAX, LOG_TTL_MS
from feedcore.adapters.redis.nodes import FAILURES
from feedcore.errors import Unavailable

READ_ENTRIES_MAX = 2_000  # entries one question reads: 10 ms of unpacking
BLOCK_S = 1.0  # a quiet node looks so often, and so notices a server that is away
_FIELD = b"e"


class LogRead(NamedTuple):
    """`entries`: (position, bytes), oldest first. `gap`: entries before them may be lost."""

    entries: list[tuple[int, bytes]]
    gap: bool
    more: bool


class NodeLog:
    """`position`: of the last entry that was read and applied; 0 before the first."""

    def __init__(self, batcher: Batcher, key: bytes, node: int) -> None:
        self._batcher = batcher
        self._key = key
        self._node = node
        self._blocking: Any = None
        self.position = 0

    @property
    def server(self) -> str:
        """The Redis node that holds it."""
        return self._batcher.nodes.node_of(self._key)

    def ask(self) -> Call:
        """A question for what is newer, with this turn's batch."""
        return self._batcher.ask(
            self._key, "XRANGE", self._key, _text(self.position), "+", "COUNT", READ_ENTRIES_MAX
        )

    @staticmethod
    def understand(reply: Any, asked_from: int) -> LogRead:
        """The answer to `ask`, of a reader that was at `asked_from` then."""
        entries = [(_number(ident), fields[1]) for ident, fields in reply]
        gap = not entries or entries[0][0] != asked_from
        return LogRead(entries if gap else entries[1:], gap, len(entries) == READ_ENTRIES_MAX)

    def ask_end(self) -> Call:
        """A question for the newest entry."""
        return self._batcher.ask(self._key, "XREVRANGE", self._key, "+", "-", "COUNT", 1)

    async def find_end(self) -> int:
        """The newest entry's position, of a log that is begun if there is none."""
        reply = await self.ask_end().reply()
        if reply:
            return _number(reply[0][0])
        return _number(await self.append([BEGUN])[0].reply())

    async def between(self, first: int, last: int) -> list[tuple[int, bytes]]:
        """All entries from `first` to `last`, both included."""
        found: list[tuple[int, bytes]] = []
        while first <= last:
            reply = await self._batcher.ask(
                self._key, "XRANGE", self._key, _text(first), _text(last),
                "COUNT", READ_ENTRIES_MAX,
            ).reply()  # fmt: skip
            found += [(_number(ident), fields[1]) for ident, fields in reply]
            if len(reply) < READ_ENTRIES_MAX:
                break
            first = found[-1][0] + 1
        return found

    def append(self, events: list[bytes]) -> tuple[Call, Call]:
        """One entry; and the log lives on."""
        value = pack_entry(self._node, events)
        added = self._batcher.tell(
            self._key, "XADD", self._key, "MAXLEN", "~", LOG_ENTRIES_MAX, "*", _FIELD, value
        )
        return added, self._batcher.tell(self._key, "PEXPIRE", self._key, LOG_TTL_MS)

    async def newer(self) -> None:
        """Returns when there is something newer, or BLOCK_S is over. Raises Unavailable.

        For one task: it waits on a connection of its own, which `close` lets go.
        """
        try:
            async with asyncio.timeout(2 * BLOCK_S):
                if self._blocking is None:
                    self._blocking = self._batcher.nodes.connection(self.server)
                    await self._blocking.connect()
                await self._blocking.send_command(
                    "XREAD", "COUNT", 1, "BLOCK", int(BLOCK_S * 1_000),
                    "STREAMS", self._key, _text(self.position),
                )  # fmt: skip
                await self._blocking.read_response(disable_decoding=True)
        except (TimeoutError, *FAILURES) as error:
            await self.close()
            raise Unavailable(f"redis {self.server}: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Lets the waiting connection go."""
        blocking, self._blocking = self._blocking, None
        if blocking is not None:
            await blocking.disconnect(nowait=True)


def _number(ident: bytes) -> int:
    ms, _, number = ident.partition(b"-")
    return int(ms) << 64 | int(number)


def _text(position: int) -> str:
    return f"{position >> 64}-{position & ((1 << 64) - 1)}"
