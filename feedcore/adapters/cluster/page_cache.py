"""ClusterPageCache: encoded pages in Redis, each served only if it would be made again as it is.

    a page     its proof holds (proofs): the viewer's epoch and the servers are those of its making.
               Since then nobody of the followed has posted, nothing on it was deleted, no setting
               has changed (ReplicaState.unchanged_since). It is at most PAGE_AGE_MAX_MS old
    a stale    its proof holds, and nothing on it was deleted. For when the store is away: it lacks
    page       what was posted since

Past its soft age a page is served to all but one caller, who makes a fresh one.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cluster.cache_validation import ClusterCacheValidation
from feedcore.adapters.cluster.proofs import Proofs, holds
from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.keys import PAGE_TTL_MS, Keys
from feedcore.adapters.redis.pages import KeptPage, Proof, pack_page, unpack_page
from feedcore.adapters.redis.seen_epochs import Making
from feedcore.clock import Clock
from feedcore.errors import Unavailable
from feedcore.limits import PAGE_AGE_MAX_MS, PAGE_SOFT_AGE_MS
from feedcore.ports.page_cache import NO_PAGE, SharedPage, StalePage


class ClusterPageCache:
    """Implements `ports.page_cache.PageCache`."""

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        replica: NodeReplica,
        validation: ClusterCacheValidation,
        clock: Clock,
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._replica = replica
        self._validation = validation
        self._proofs = Proofs(batcher, replica, clock)
        self._making = Making()
        replica.on_resync.append(self._making.clear)
        self.hits = 0
        self.stale = 0  # there, but not what would be made now
        self.misses = 0

    async def page(self, user_id: int, shape: bytes) -> SharedPage | None:
        """See the port."""
        read = self._validation.read_epoch(user_id)
        page_key = self._keys.page(user_id, shape)
        batch = self._batcher.get(page_key)
        await self._replica.observe_node()
        epoch = await self._validation.observe_epoch(read)
        if epoch is None:
            return None
        proof = self._proofs.of(read.key, epoch)
        try:
            await batch.wait()
            data = batch.values[page_key]
        except Unavailable:
            data = None
        return self._find(user_id, shape, proof, data)

    async def pages_of(self, asked: Sequence[tuple[int, bytes]]) -> list[SharedPage | None]:
        """See the port. Users without an epoch, and all while Redis is not to be relied on, are
        left to `page`.
        """
        if not asked:
            return []
        reads = self._validation.read_epochs([user_id for user_id, _ in asked])
        wanted = [self._keys.page(user_id, shape) for user_id, shape in asked if shape]
        batches = self._batcher.get_each(wanted)
        await self._replica.observe_node()
        for batch in dict.fromkeys(batches):
            await batch.wait()
        epochs = await self._validation.observe_epochs(reads)
        proofs = self._proofs.of_each([read.key for read in reads], epochs)
        pages = zip(batches, wanted, strict=True)
        replies: list[SharedPage | None] = []
        for (user_id, shape), proof in zip(asked, proofs, strict=True):
            kept = next(pages) if shape else None
            page = None
            if proof is not None:
                if kept is not None:
                    batch, page_key = kept
                    page = self._find(user_id, shape, proof, batch.values[page_key])
                page = page or NO_PAGE
            replies.append(page)
        return replies

    async def stale_page(self, user_id: int, shape: bytes) -> StalePage | None:
        """See the port. Goes by the log alone: settings that are behind hide nothing."""
        read, page_key = self._validation.read_epoch(user_id), self._keys.page(user_id, shape)
        batch = self._batcher.get(page_key)
        try:
            log_read = await self._replica.observe_log()
            await read.batch.wait()
            await batch.wait()
        except Unavailable:
            return None
        epoch, data = read.batch.values[read.key], batch.values[page_key]
        if not log_read or epoch is None or not self._validation.is_reliable(read):
            return None
        kept = unpack_page(data) if data is not None else None
        now = self._proofs.of(read.key, epoch)
        if kept is None or not self._is_safe(kept, now):
            return None
        return StalePage(kept.page, max(now.made_ms - kept.proof.made_ms, 1))

    def keep_none(self, user_id: int, shape: bytes) -> None:
        """See the port."""
        self._making.end((user_id, shape))

    def keep_page(self, user_id: int, shape: bytes, page: SharedPage, followees: bytes) -> None:
        """See the port. It gets the proof that was taken before it was made."""
        proof = self._making.end((user_id, shape))
        if proof is None or self._replica.state.is_behind:  # it may be of settings that are over
            return
        data = pack_page(KeptPage(proof, followees, page))
        if data is not None:
            key = self._keys.page(user_id, shape)
            self._batcher.tell(key, "SET", key, data, "PX", PAGE_TTL_MS)

    def _find(
        self, user_id: int, shape: bytes, now: Proof, data: bytes | None
    ) -> SharedPage | None:
        """The page, if it is what would be made now; else the caller makes one, and may keep it."""
        what = (user_id, shape)
        kept = unpack_page(data) if data is not None else None
        if kept is None:
            self.misses += 1
        elif not self._is_current(kept, now, user_id):
            self.stale += 1
        else:
            soft = now.made_ms - kept.proof.made_ms > PAGE_SOFT_AGE_MS
            if not soft or what in self._making:
                self.hits += 1
                return kept.page
            self.stale += 1
        self._making.begin(what, now)
        return None

    def _is_safe(self, kept: KeptPage, now: Proof) -> bool:
        """Whether it shows nothing that must not be seen."""
        return (
            holds(kept.proof, now, PAGE_TTL_MS)
            and self._proofs.is_log_trusted()
            and self._replica.state.shows_no_deleted(kept.page.shown)
        )

    def _is_current(self, kept: KeptPage, now: Proof, user_id: int) -> bool:
        made = kept.proof
        return (
            now.made_ms - made.made_ms <= PAGE_AGE_MAX_MS
            and self._is_safe(kept, now)
            and self._replica.state.unchanged_since(
                made.position, made.made_ms, user_id, kept.followees
            )
        )
