"""ViewerEpochs: which shared epoch this node has observed of each viewer, and what follows from it
for what the node keeps of them.

A viewer's shared epoch (in Redis) changes with every acknowledged write that changes their pages.
What this node keeps is guarded by its own counters (`codecs.epochs`): invalidating a viewer bumps
those. Not for reading shared epochs (cache_validation), nor for writing them (redis.announcing).
"""

from __future__ import annotations

from feedcore import native
from feedcore.adapters.cluster.overlay import OVERLAY_MS
from feedcore.adapters.redis.seen_epochs import SeenEpochs
from feedcore.clock import Clock
from feedcore.codecs.epochs import AUTHOR, FEED, VIEWER
from feedcore.limits import SECOND_MS

# A stored window lacks what was pushed since it was read; the overlay shows that for OVERLAY_MS.
KEPT_AGE_MAX_S = OVERLAY_MS // 2 // SECOND_MS


class ViewerEpochs:
    """`epochs`: the counters of this worker."""

    def __init__(self, epochs: native.Epochs, clock: Clock) -> None:
        self._epochs = epochs
        self._clock = clock
        self._seen = SeenEpochs()

    def observe(self, user_id: int, epoch: bytes) -> None:
        """What is kept of the viewer stays valid if this epoch was observed last, not too long
        ago.
        """
        number = int.from_bytes(epoch, "little")
        known, since_s = self._seen.find(user_id)
        now_s = int(self._clock.monotonic())
        if known != number or now_s - since_s > KEPT_AGE_MAX_S:
            self._seen.put(user_id, number, now_s)
            self._bump(user_id)

    def invalidate(self, user_id: int) -> None:
        """Nothing that is kept of the viewer is valid, whatever epoch is observed next."""
        self._seen.forget(user_id)
        self._bump(user_id)

    def bypass(self, user_id: int) -> None:
        """As `invalidate`, and the viewer's own posts are read anew: nobody says what changed."""
        self.invalidate(user_id)
        self._epochs.bump(AUTHOR, user_id)

    def _bump(self, user_id: int) -> None:
        self._epochs.bump(VIEWER, user_id)
        self._epochs.bump(FEED, user_id)
