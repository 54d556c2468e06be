"""Epochs: counters in a map that all processes of a node share, bumped by every write that
changes what a user must see.

Layout, little-endian: 64 bytes header (magic, the store's id, u32 era at 24, u64 generation at 32),
then EPOCH_SLOTS u32 counters. A counter belongs to the hash of (kind, id): two ids that share one
invalidate each other, which costs a load and never an answer.

    kind      bumped when
    VIEWER    the user's graph, preferences or affinity change, or entries leave the stored feed
    FEED      the user published
    AUTHOR    the author published
    CONTENT   the counts of the post changed

    generation   the replica of node-wide state is out of date: posts under way, author modes,
                 tombstones, runs, settings
    era          a process opened the store: one before it may have died between commit and bump

Invariant: a writer bumps after its commit and before it acknowledges; a reader takes the counter
before it reads what the counter guards, and caches both. Then a cached value whose counter is
unchanged holds everything that was acknowledged when the counter was compared.

The reference implementation (twin) of `feedcore._native.store.epochs`; only the compiled one is
atomic by itself, so writers hold the write lock while they bump.
"""

from __future__ import annotations

import struct

EPOCH_SLOTS = 1 << 21  # 8 MB: 1 M users' two counters share slots with few others
HEADER_BYTES = 64
EPOCHS_BYTES = HEADER_BYTES + 4 * EPOCH_SLOTS
VIEWER, FEED, AUTHOR, CONTENT = 1, 2, 3, 4
_ERA = struct.Struct("<I")
_ERA_AT = 24
_GENERATION = struct.Struct("<Q")
_GENERATION_AT = 32
_MULTIPLIER = 0x9E3779B97F4A7C15  # 2^64 / golden ratio (Knuth 6.4)
_KIND_STEP = 0xD1B54A32D192ED03  # odd, unrelated to the multiplier: kinds of one id lie apart
_U64_MASK = (1 << 64) - 1
_SHIFT = 64 - 21


class Epochs:
    """Over a writable buffer of EPOCHS_BYTES, which stays exported until `close`."""

    def __init__(self, buffer: memoryview) -> None:
        if len(buffer) != EPOCHS_BYTES:
            raise ValueError(f"epochs: {len(buffer)} bytes; {EPOCHS_BYTES}")
        self._view = memoryview(buffer)
        self._slots = self._view[HEADER_BYTES:].cast("I")

    def close(self) -> None:
        """Releases the buffer."""
        self._slots.release()
        self._view.release()

    def read(self, kind: int, ident: int) -> int:
        """The counter of (kind, id)."""
        return self._slots[_slot(kind, ident)]

    def bump(self, kind: int, ident: int) -> None:
        """Adds one to the counter of (kind, id)."""
        at = _slot(kind, ident)
        self._slots[at] = (self._slots[at] + 1) & 0xFFFFFFFF

    @property
    def generation(self) -> int:
        """Counts changes of what is replicated."""
        return int(_GENERATION.unpack_from(self._view, _GENERATION_AT)[0])

    def advance(self) -> None:
        """Node-wide state has changed: replicas are out of date."""
        _GENERATION.pack_into(self._view, _GENERATION_AT, self.generation + 1)

    @property
    def era(self) -> int:
        """Counts openings of the store."""
        return int(_ERA.unpack_from(self._view, _ERA_AT)[0])

    def begin_era(self) -> None:
        """Invalidates everything that was cached before."""
        _ERA.pack_into(self._view, _ERA_AT, (self.era + 1) & 0xFFFFFFFF)


def _slot(kind: int, ident: int) -> int:
    return ((ident + kind * _KIND_STEP) * _MULTIPLIER & _U64_MASK) >> _SHIFT
