"""ViewerRowCache: what one page needs of its reader, as another node has loaded it, in Redis.

A row is as good as loaded now while its proof holds (proofs), no snooze in it is over, and it is at
most half an overlay old: whatever was posted since is in the replica's overlay. Not for asking
after the epoch, which the caller has done (cache_validation).
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cluster.overlay import OVERLAY_MS
from feedcore.adapters.cluster.proofs import Proofs, holds
from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.keys import Keys
from feedcore.adapters.redis.pages import KeptRow, Proof, pack_row, unpack_row
from feedcore.adapters.redis.seen_epochs import Making
from feedcore.clock import Clock
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import Unavailable
from feedcore.ports.resident import ViewerRow

ROW_AGE_MAX_MS = OVERLAY_MS // 2
ROW_TTL_MS = ROW_AGE_MAX_MS


class ViewerRowCache:
    """Implements `cql.stores.resident.KeptRows`."""

    def __init__(self, batcher: Batcher, keys: Keys, replica: NodeReplica, clock: Clock) -> None:
        self._batcher = batcher
        self._keys = keys
        self._replica = replica
        self._clock = clock
        self._proofs = Proofs(batcher, replica, clock)
        self._loading = Making()
        replica.on_resync.append(self._loading.clear)
        self.hits = 0
        self.stale = 0  # there, but not as good as loaded now
        self.misses = 0

    async def viewer_rows(self, user_ids: Sequence[int], depth: int) -> list[ViewerRow | None]:
        """Rows with at least that depth; None where the caller has to load, and may keep."""
        epoch_keys = [self._keys.epoch(user_id) for user_id in user_ids]
        row_keys = [self._keys.viewer(user_id) for user_id in user_ids]
        position, now_ms = self._replica.log.position, self._clock.now_ms()
        try:
            found = await self._batcher.get_all([*epoch_keys, *row_keys])
        except Unavailable:
            return [None] * len(user_ids)
        rows: list[ViewerRow | None] = []
        for at, user_id in enumerate(user_ids):
            epoch, data = found[at], found[len(user_ids) + at]
            row = None
            if epoch is not None and self._proofs.is_trusted(epoch_keys[at]):
                proof = self._proofs.of(epoch_keys[at], epoch)
                proof = proof._replace(position=position, made_ms=now_ms)
                row = self._row_of(data, proof, depth)
                if row is None:
                    self._loading.begin(user_id, proof)
            rows.append(row)
        return rows

    def keep_viewer_rows(
        self, user_ids: Sequence[int], rows: Sequence[ViewerRow], depth: int
    ) -> None:
        """Leaves rows that `viewer_rows` did not have, and which were loaded since, to others."""
        for user_id, row in zip(user_ids, rows, strict=True):
            proof = self._loading.end(user_id)
            if proof is None or not row.built:
                continue
            data = pack_row(KeptRow(proof, depth, row))
            if data is not None:
                key = self._keys.viewer(user_id)
                self._batcher.tell(key, "SET", key, data, "PX", ROW_TTL_MS)

    def _row_of(self, data: bytes | None, now: Proof, depth: int) -> ViewerRow | None:
        kept = unpack_row(data) if data is not None else None
        if kept is None:
            self.misses += 1
            return None
        row = kept.row
        whole = len(row.entries) < kept.depth * ENTRY_BYTES
        current = (
            holds(kept.proof, now, ROW_AGE_MAX_MS)
            and kept.proof.position >= self._replica.state.floor
            and not 0 < row.snoozed_until_ms <= now.made_ms
            and (whole or depth <= kept.depth)
        )
        if not current:
            self.stale += 1
            return None
        self.hits += 1
        return row._replace(entries=row.entries[: depth * ENTRY_BYTES])
