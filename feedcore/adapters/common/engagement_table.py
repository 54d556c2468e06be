"""What a weight is worth to ranking, and the engagement table of one process.

Not for truth: counts are in the stores. Another store may keep its table elsewhere (the embedded
one shares a file between processes).
"""

from __future__ import annotations

import math
import struct

from feedcore import native
from feedcore.codecs.engagement import SLOT_BYTES
from feedcore.limits import ENGAGEMENT_SLOTS

PAIR = struct.Struct("<Qf")  # (content_id, value), as nodes tell each other


def engagement_of(weight: float) -> float:
    """ln(1 + weight), where weight = likes + 2 comments + 3 shares + 0.1 clicks."""
    return math.log1p(max(weight, 0.0))


def weight_of(engagement: float) -> float:
    """The reverse of `engagement_of`, as exactly as f32 allows."""
    return math.expm1(engagement)


class EngagementTable:
    """In memory: filled at the start, kept up by what nodes tell each other."""

    def __init__(self) -> None:
        # the kernel gives pages that are written, not these 16 MB at once
        self.slots = memoryview(bytearray(ENGAGEMENT_SLOTS * SLOT_BYTES))

    def lookup(self, entries: bytes) -> bytes:
        """One f32 LE an entry."""
        return native.engagement_lookup(self.slots, entries)

    def apply(self, pairs: bytes) -> None:
        """Absolute values: again is the same."""
        for content_id, value in PAIR.iter_unpack(pairs):
            native.engagement_store(self.slots, content_id, value)
