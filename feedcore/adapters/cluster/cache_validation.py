"""ClusterCacheValidation: what a node keeps of a viewer is used only while the viewer's shared
epoch, in Redis, is the one that the node observed last.

    the epoch's server and     the shared epoch       what this node keeps of the viewer
    the node log's are
    trusted                    is as observed last    is valid (see ViewerEpochs for how long)
                               differs                is invalidated, and the epoch observed
                               is not there           is invalidated, and a new epoch begun
    not trusted                any                    is invalidated: the load is bypassed

Epochs and the node log are read together: one round trip for everybody who asks in the same turn of
the event loop. Invariant: an epoch is read before anything it vouches for is loaded. Redis is never
needed: no failure of it is raised to a reader.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.redis.batch import Batch
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.keys import EPOCH_BYTES, EPOCH_TTL_MS, Keys
from feedcore.errors import Unavailable


class EpochRead:
    """A viewer's shared epoch, being read. `trusted`: whether its server was, when it was asked."""

    __slots__ = ("batch", "key", "trusted", "user_id")

    def __init__(self, user_id: int, key: bytes, batch: Batch, trusted: bool) -> None:
        self.user_id = user_id
        self.key = key
        self.batch = batch
        self.trusted = trusted


class ClusterCacheValidation:
    """Implements `ports.cache_validation.CacheValidation`."""

    def __init__(self, batcher: Batcher, keys: Keys, replica: NodeReplica) -> None:
        self._batcher = batcher
        self._keys = keys
        self._replica = replica
        self.bypassed = 0  # loads while the servers were not trusted

    async def observe_node(self) -> None:
        """See the port. Raises Unavailable only if Redis is away and the system of record, too."""
        await self._replica.observe_node()

    async def observe_viewer(self, user_id: int) -> None:
        """See the port."""
        read = self.read_epoch(user_id)
        await self._replica.observe_node()
        await self.observe_epoch(read)

    def is_bypassed(self, user_id: int) -> bool:
        """See the port."""
        return not (
            self._is_trusted(self._keys.epoch(user_id)) and self._is_trusted(self._keys.log)
        )

    # --- for the page cache, which asks for epochs and pages together ---------------------------

    def read_epoch(self, user_id: int) -> EpochRead:
        """With this turn's questions to Redis."""
        key = self._keys.epoch(user_id)
        trusted = self._is_trusted(key)
        return EpochRead(user_id, key, self._batcher.get(key), trusted)

    def read_epochs(self, user_ids: Sequence[int]) -> list[EpochRead]:
        """As `read_epoch` of each, all at once at a single server."""
        keys = list(map(self._keys.epoch, user_ids))
        batches, trusted = self._batcher.get_each(keys), self._are_trusted(keys)
        return list(map(EpochRead, user_ids, keys, batches, trusted))

    async def observe_epoch(self, read: EpochRead) -> bytes | None:
        """The epoch in force; None if there is none to rely on, and nothing kept is valid."""
        try:
            await read.batch.wait()
            epoch = read.batch.values[read.key]
            if epoch is None:
                epoch = await self._begin_epoch(read.key)
        except Unavailable:
            epoch = None
        if epoch is None or not self.is_reliable(read):
            self.bypassed += 1
            self._replica.viewers.bypass(read.user_id)
            return None
        self._replica.viewers.observe(read.user_id, epoch)
        return epoch

    async def observe_epochs(self, reads: Sequence[EpochRead]) -> list[bytes | None]:
        """As `observe_epoch` of each; None, and nothing is done, where it would have more to do
        than to compare. Raises Unavailable.
        """
        for batch in dict.fromkeys(read.batch for read in reads):
            await batch.wait()
        trusted = self._are_trusted([read.key for read in reads])
        observed: list[bytes | None] = []
        for read, now in zip(reads, trusted, strict=True):
            epoch = read.batch.values[read.key] if read.trusted and now else None
            if epoch is not None:
                self._replica.viewers.observe(read.user_id, epoch)
            observed.append(epoch)
        return observed

    def is_reliable(self, read: EpochRead) -> bool:
        """The epoch's server was trusted when it was asked, and is: an answer that came within its
        probation does not count after it.
        """
        return read.trusted and self._is_trusted(read.key)

    def _is_trusted(self, key: bytes) -> bool:
        return self._batcher.detector.is_trusted(self._batcher.nodes.node_of(key))

    def _are_trusted(self, keys: Sequence[bytes]) -> list[bool]:
        if self._batcher.nodes.cluster or not keys:
            return [self._is_trusted(key) for key in keys]
        return [self._is_trusted(keys[0])] * len(keys)

    async def _begin_epoch(self, key: bytes) -> bytes | None:
        """Of a user who has none: the one that is set first counts."""
        fresh = secrets.token_bytes(EPOCH_BYTES)
        self._batcher.ask(key, "SET", key, fresh, "NX", "PX", EPOCH_TTL_MS)
        return await self._batcher.ask(key, "GET", key).reply()
