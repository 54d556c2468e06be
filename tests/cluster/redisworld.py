"""What tests of the Redis adapters share: a system of record in memory, and nodes that are
wired as in a cluster, all in one process.

Not for that of CQL: that has suites of its own.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from feedcore import native
from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.cluster.page_cache import ClusterPageCache
from feedcore.adapters.cluster.replica import ReplicaState
from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.cluster.row_cache import ViewerRowCache
from feedcore.adapters.contracts.announcements import Deleted, ModesChanged, Posted, SettingsChanged
from feedcore.adapters.contracts.replica import Document
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.failure_detector import FailureDetector
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.nodes import Nodes
from feedcore.clock import SystemClock
from feedcore.codecs.epochs import EPOCHS_BYTES, VIEWER
from feedcore.domain import entry, ids
from feedcore.errors import Unavailable
from feedcore.ports.settings import AuthorMode

# A machine that does other things, too, is late by more than a production deadline.
DEADLINE_S = 3.0


class Record:
    """SystemOfRecord: what is durable, and is durable as soon as it is said."""

    def __init__(self) -> None:
        self.deleted: dict[int, int] = {}
        self.modes: dict[int, AuthorMode] = {}
        self.settings: dict[str, list[Document]] = {}
        self.trending_entries = b""
        self.reads = 0
        self.away = False
        self.answers = asyncio.Event()  # cleared: it hangs
        self.answers.set()

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        """By the time of deletion."""
        self.reads += 1
        await self._check()
        return [one for one, at_ms in self.deleted.items() if at_ms >= since_ms]

    async def author_modes(self) -> list[AuthorMode]:
        """All that are not PUSH."""
        await self._check()
        return list(self.modes.values())

    async def documents(self) -> dict[str, list[Document]]:
        """Newest first."""
        await self._check()
        return {name: list(versions) for name, versions in self.settings.items()}

    async def trending(self) -> bytes:
        """Entries."""
        await self._check()
        return self.trending_entries

    async def engagement_since(self, since_ms: int, now_ms: int) -> bytes:
        """None."""
        return b""

    async def _check(self) -> None:
        await self.answers.wait()
        if self.away:
            raise Unavailable("the system of record is away")


class Node:
    """One process of a cluster: a batcher, a replica, its epochs, its validation."""

    def __init__(
        self,
        urls: Sequence[str],
        record: Record,
        prefix: str,
        *,
        cluster: bool = False,
        deadline_s: float = DEADLINE_S,
        probation_s: float = 0.3,
        log_server: object = None,
    ) -> None:
        self.clock = SystemClock()
        self.record = record
        self.keys = Keys(prefix)
        detector = FailureDetector(self.clock.monotonic, probation_s)
        self.batcher = Batcher(
            Nodes(urls, cluster=cluster), detector, self.clock.monotonic, deadline_s=deadline_s
        )
        self.epochs = native.Epochs(memoryview(bytearray(EPOCHS_BYTES)))
        self.state = ReplicaState(self.epochs, self.clock)
        self.followees: dict[int, bytes] = {}
        self.replica = replica = NodeReplica(
            self.batcher, self.keys, self.state, record, self.epochs, self.clock
        )
        self.validation = ClusterCacheValidation(self.batcher, self.keys, replica)
        self.pages = ClusterPageCache(self.batcher, self.keys, replica, self.validation, self.clock)
        self.rows = ViewerRowCache(self.batcher, self.keys, replica, self.clock)

    async def __aenter__(self) -> Node:
        await self.replica.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.replica.close()
        await self.batcher.close()

    def kept(self, user_id: int) -> tuple[int, int]:
        """What something kept of the user now would be compared with."""
        return self.epochs.era, self.epochs.read(VIEWER, user_id)


class Writer:
    """Makes things true, then has a node announce them, as the stores do."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.ids = ids.IdGenerator(0, 1)

    async def post(self, node: Node, author_id: int, *, pulled: bool = False) -> int:
        """A post's content id."""
        content_id = self.ids.new_id(SystemClock().now_ms())
        event = Posted(author_id, packed(content_id, author_id), pulled)
        await node.replica.announce([], [event])
        return content_id

    async def delete(self, node: Node, content_id: int) -> None:
        """Gone for good."""
        self.record.deleted[content_id] = node.clock.now_ms()
        await node.replica.announce([], [Deleted(content_id)])

    async def set_mode(self, node: Node, author_id: int, mode: int) -> None:
        """Between push and pull."""
        self.record.modes[author_id] = AuthorMode(author_id, mode, 0, 0)
        await node.replica.announce([], [ModesChanged()])

    async def settings(self, node: Node, name: str, document: dict) -> None:
        """A new version."""
        versions = self.record.settings.setdefault(name, [])
        versions.insert(0, Document(len(versions) + 1, document))
        await node.replica.announce([], [SettingsChanged(name)])


def packed(content_id: int, author_id: int) -> bytes:
    """One feed entry."""
    return entry.pack(content_id, author_id)


def fresh_prefix() -> str:
    """Nobody else's keys."""
    return f"redis-test-{secrets.token_hex(4)}-"
