"""Pages and viewer rows in Redis, each served only with a proof that it would be made again.

    a page      the viewer's epoch and the servers are those of its making; since then nobody of
                the followed has posted, nothing on it was deleted, no setting has changed
                (ReplicaState.unchanged_since); it is at most PAGE_AGE_MAX_MS old
    a stale     the same of epoch and servers; nothing on it was deleted. For when the store is
    page        away: it lacks what was posted since
    a row       the same of epoch and servers; the replica's overlay has whatever was posted since;
    it
                is at most half an overlay old

Past its soft age a page is served to all but one, who makes a fresh one. Not for asking after the
epoch, which the caller has done (validation).
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.cluster.replica import OVERLAY_MS, ReplicaState
from feedcore.adapters.redis.batcher import Batch, Batcher
from feedcore.adapters.redis.keys import PAGE_TTL_MS, Keys
from feedcore.adapters.redis.node_log import NodeLog
from feedcore.adapters.redis.pages import (
    KeptPage,
    KeptRow,
    Proof,
    pack_page,
    pack_row,
    unpack_page,
    unpack_row,
)
from feedcore.adapters.redis.seen_epochs import Making
from feedcore.clock import Clock
from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import Unavailable
from feedcore.limits import PAGE_AGE_MAX_MS, PAGE_SOFT_AGE_MS, SECOND_MS
from feedcore.ports.cache_validation import StalePage
from feedcore.ports.resident import ViewerRow

ROW_AGE_MAX_MS = OVERLAY_MS // 2
ROW_TTL_MS = ROW_AGE_MAX_MS
CLOCKS_APART_MS = SECOND_MS  # a page from a node whose clock is further ahead is not served
_ROW = b"w"


class UserPages:
    """Pages and rows of viewers in the shared cache, with their proofs."""

    def __init__(
        self,
        batcher: Batcher,
        keys: Keys,
        replica: ReplicaState,
        clock: Clock,
        log: NodeLog,
    ) -> None:
        self._batcher = batcher
        self._keys = keys
        self._replica = replica
        self._clock = clock
        self._log = log
        self.making = Making()
        self.hits = 0
        self.stale = 0  # there, but not what would be made now
        self.misses = 0
        self.row_hits = 0
        self.row_stale = 0
        self.row_misses = 0
        self.kept = 0
        self.too_large = 0

    async def find(
        self, user_id: int, shape: bytes, epoch: bytes, batch: Batch, key: bytes
    ) -> bytes | None:
        """The body, if the page of `batch` is what would be made now; else the caller makes one,
        and may keep it.
        """
        proof = self._proof(key, epoch)
        try:
            await batch.wait()
            data = batch.values[key]
        except Unavailable:
            data = None
        return self._judge(user_id, shape, proof, data)

    def proofs_of(self, keys: Sequence[bytes]) -> list[Proof]:
        """What is known of the servers of these epochs now; their epochs are to be filled in."""
        if self._batcher.nodes.cluster:
            return [self._proof(key, b"") for key in keys]
        return [self._proof(keys[0], b"")] * len(keys)

    def look(
        self, user_id: int, shape: bytes, epoch: bytes, servers: Proof, data: bytes | None
    ) -> bytes | None:
        """As `find`, of what was found. `servers`: of `proofs_of`."""
        proof = Proof(epoch, servers.incarnation, servers.position, servers.made_ms)
        return self._judge(user_id, shape, proof, data)

    def _judge(self, user_id: int, shape: bytes, proof: Proof, data: bytes | None) -> bytes | None:
        what = (user_id, shape)
        page = unpack_page(data) if data is not None else None
        if page is None:
            self.misses += 1
        elif not self._is_current(page, proof, user_id):
            self.stale += 1
        else:
            soft = proof.made_ms - page.proof.made_ms > PAGE_SOFT_AGE_MS
            if not soft or what in self.making:
                self.hits += 1
                return page.body
            self.stale += 1
        self.making.begin(what, proof)
        return None

    def find_stale(self, key: bytes, epoch: bytes, data: bytes | None) -> StalePage | None:
        """The page of `data`, however many have posted since."""
        page = unpack_page(data) if data is not None else None
        now = self._proof(key, epoch)
        if page is None or not self._is_safe(page, now):
            return None
        return StalePage(page.body, max(now.made_ms - page.proof.made_ms, 1))

    def keep(self, user_id: int, shape: bytes, body: bytes, shown: bytes, followees: bytes) -> None:
        """With the proof that `find` took before it was made."""
        proof = self.making.end((user_id, shape))
        if proof is None or self._replica.is_behind:  # it may be of settings that are over
            return
        data = pack_page(KeptPage(proof, followees, shown, body))
        if data is None:
            self.too_large += 1
            return
        key = self._keys.page(user_id, shape)
        self._batcher.tell(key, "SET", key, data, "PX", PAGE_TTL_MS)
        self.kept += 1

    async def find_rows(self, user_ids: Sequence[int], depth: int) -> list[ViewerRow | None]:
        """None where the caller has to load, and may keep. Raises Unavailable."""
        epoch_keys = [self._keys.epoch(user_id) for user_id in user_ids]
        row_keys = [self._keys.viewer(user_id) for user_id in user_ids]
        position, now_ms = self._log.position, self._clock.now_ms()
        found = await self._batcher.get_all([*epoch_keys, *row_keys])
        rows: list[ViewerRow | None] = []
        for at, user_id in enumerate(user_ids):
            epoch, data = found[at], found[len(user_ids) + at]
            if epoch is None or not self._is_trusted(epoch_keys[at]):
                rows.append(None)
                continue
            proof = self._proof(epoch_keys[at], epoch)._replace(position=position, made_ms=now_ms)
            row = self._row_of(data, proof, depth)
            rows.append(row)
            if row is None:
                self.making.begin((user_id, _ROW), proof)
        return rows

    def keep_rows(self, user_ids: Sequence[int], rows: Sequence[ViewerRow], depth: int) -> None:
        """With the proofs that `find_rows` took before they were loaded."""
        for user_id, row in zip(user_ids, rows, strict=True):
            proof = self.making.end((user_id, _ROW))
            if proof is None or not row.built:
                continue
            data = pack_row(KeptRow(proof, depth, row))
            if data is None:
                self.too_large += 1
                continue
            key = self._keys.viewer(user_id)
            self._batcher.tell(key, "SET", key, data, "PX", ROW_TTL_MS)

    # --- proofs ---------------------------------------------------------------------------------

    def _proof(self, key: bytes, epoch: bytes) -> Proof:
        trust, node_of = self._batcher.trust, self._batcher.nodes.node_of
        servers = trust.incarnation(node_of(key)) + trust.incarnation(self._log.server)
        return Proof(epoch, servers, self._log.position, self._clock.now_ms())

    def _is_trusted(self, key: bytes) -> bool:
        trust = self._batcher.trust
        return trust.is_trusted(self._batcher.nodes.node_of(key)) and trust.is_trusted(
            self._log.server
        )

    def _is_safe(self, page: KeptPage, now: Proof) -> bool:
        """Whether it shows nothing that must not be seen."""
        made = page.proof
        return (
            made.epoch == now.epoch
            and made.incarnation == now.incarnation
            and -CLOCKS_APART_MS <= now.made_ms - made.made_ms <= PAGE_TTL_MS
            and self._batcher.trust.is_trusted(self._log.server)
            and self._replica.shows_no_deleted(page.shown)
        )

    def _is_current(self, page: KeptPage, now: Proof, user_id: int) -> bool:
        made = page.proof
        return (
            now.made_ms - made.made_ms <= PAGE_AGE_MAX_MS
            and self._is_safe(page, now)
            and self._replica.unchanged_since(made.position, made.made_ms, user_id, page.followees)
        )

    def _row_of(self, data: bytes | None, now: Proof, depth: int) -> ViewerRow | None:
        kept = unpack_row(data) if data is not None else None
        if kept is None:
            self.row_misses += 1
            return None
        made, row = kept.proof, kept.row
        whole = len(row.entries) < kept.depth * ENTRY_BYTES
        current = (
            made.epoch == now.epoch
            and made.incarnation == now.incarnation
            and made.position >= self._replica.floor
            and -CLOCKS_APART_MS <= now.made_ms - made.made_ms <= ROW_AGE_MAX_MS
            and not 0 < row.snoozed_until_ms <= now.made_ms
            and (whole or depth <= kept.depth)
        )
        if not current:
            self.row_stale += 1
            return None
        self.row_hits += 1
        return row._replace(entries=row.entries[: depth * ENTRY_BYTES])
