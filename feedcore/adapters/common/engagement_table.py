"""The engagement table of one process.

Not for the counts themselves, which are in the stores. Another store may
keep its table elsewhere (the embedded one shares a file between processes).
"""

from __future__ import annotations

import struct

from feedcore import native
from feedcore.codecs.engagement import SLOT_BYTES
from feedcore.limits import ENGAGEMENT_SLOTS

PAIR = struct.Struct("<Qf")  # (content_id, value), as nodes announce it to each other


class EngagementTable:
    """In memory: filled at the start, then updated by the announcements of nodes."""

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
