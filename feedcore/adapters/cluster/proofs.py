"""Proofs: under what conditions something that a node has left in Redis may be served by another.

A proof is taken before a load begins: the viewer's epoch, the incarnations of the servers that said
so, the position in the node log, and the time. Invariant: what is kept with a proof is never older
than the proof. Not for the bytes (redis.pages), nor for the questions to Redis (page_cache).
"""

from __future__ import annotations

from feedcore.adapters.cluster.replication import NodeReplica
from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.pages import Proof
from feedcore.clock import Clock
from feedcore.limits import SECOND_MS

CLOCKS_APART_MS = SECOND_MS  # what a node whose clock is further ahead has left is not served


class Proofs:
    """Takes them, and compares one with now."""

    def __init__(self, batcher: Batcher, replica: NodeReplica, clock: Clock) -> None:
        self._detector = batcher.detector
        self._nodes = batcher.nodes
        self._log = replica.log
        self._clock = clock

    def of(self, key: bytes, epoch: bytes) -> Proof:
        """As of now. `key`: of the epoch."""
        server_of = self._detector.incarnation
        servers = server_of(self._nodes.node_of(key)) + server_of(self._log.server)
        return Proof(epoch, servers, self._log.position, self._clock.now_ms())

    def of_each(self, keys: list[bytes], epochs: list[bytes | None]) -> list[Proof | None]:
        """As `of` for each epoch that there is; all of a single server share what is the same."""
        if self._nodes.cluster or not keys:
            found = zip(keys, epochs, strict=True)
            return [None if epoch is None else self.of(key, epoch) for key, epoch in found]
        _, servers, position, now_ms = self.of(keys[0], b"")
        return [
            None if epoch is None else Proof(epoch, servers, position, now_ms) for epoch in epochs
        ]

    def is_trusted(self, key: bytes) -> bool:
        """Whether what the servers of that epoch and of the node log say counts now."""
        detector = self._detector
        return detector.is_trusted(self._nodes.node_of(key)) and detector.is_trusted(
            self._log.server
        )

    def is_log_trusted(self) -> bool:
        """Whether what the server of the node log says counts now."""
        return self._detector.is_trusted(self._log.server)


def holds(made: Proof, now: Proof, age_max_ms: int) -> bool:
    """Nothing of the viewer has changed since, no server has restarted, and it is young enough."""
    return (
        made.epoch == now.epoch
        and made.incarnation == now.incarnation
        and -CLOCKS_APART_MS <= now.made_ms - made.made_ms <= age_max_ms
    )
