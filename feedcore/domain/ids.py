"""Content ids: 63 bits that sort by time of publishing.

Layout, high to low: bit 63 zero, 41 bits milliseconds since EPOCH_MS, 5 bits region, 7 bits node,
10 bits sequence. Invariants of a generator: each id is larger than the one before, also when the
clock goes back; no id lies more than `wait_ms_max` ahead of the clock. Not for user ids: those are
the caller's own.
"""

from __future__ import annotations

from feedcore.errors import ClockWentBack
from feedcore.limits import CLOCK_AHEAD_MAX_MS, DAY_MS

EPOCH_MS = 1_704_067_200_000  # 2024-01-01T00:00Z: 41 bits of milliseconds last until 2093
TIME_BITS = 41
REGION_BITS = 5
NODE_BITS = 7
SEQUENCE_BITS = 10  # 1,024 posts a node and millisecond: 200 times our peak
TIME_SHIFT = REGION_BITS + NODE_BITS + SEQUENCE_BITS
REGION_MAX = (1 << REGION_BITS) - 1
NODE_MAX = (1 << NODE_BITS) - 1
SEQUENCE_MAX = (1 << SEQUENCE_BITS) - 1
ID_MAX = (1 << 63) - 1
TIME_MAX_MS = EPOCH_MS + (1 << TIME_BITS) - 1

assert TIME_BITS + TIME_SHIFT == 63


def make(ms: int, region: int, node: int, seq: int) -> int:
    """The id of these parts; `ms` counts from 1970. ValueError if a part does not fit its bits."""
    for name, value, low, high in (
        ("ms", ms, EPOCH_MS, TIME_MAX_MS),
        ("region", region, 0, REGION_MAX),
        ("node", node, 0, NODE_MAX),
        ("seq", seq, 0, SEQUENCE_MAX),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name}: {value}; {low} to {high}")
    node_part = (region << NODE_BITS | node) << SEQUENCE_BITS
    return (ms - EPOCH_MS) << TIME_SHIFT | node_part | seq


def time_ms(content_id: int) -> int:
    """When it was published, in milliseconds since 1970."""
    return (content_id >> TIME_SHIFT) + EPOCH_MS


def region(content_id: int) -> int:
    """The region that gave the id out."""
    return content_id >> (NODE_BITS + SEQUENCE_BITS) & REGION_MAX


def node(content_id: int) -> int:
    """The node, within its region, that gave the id out."""
    return content_id >> SEQUENCE_BITS & NODE_MAX


def sequence(content_id: int) -> int:
    """The place within its node and millisecond."""
    return content_id & SEQUENCE_MAX


def first_id_at(ms: int) -> int:
    """The smallest id of that millisecond; times out of range are cut to it."""
    return (min(max(ms, EPOCH_MS), TIME_MAX_MS) - EPOCH_MS) << TIME_SHIFT


def last_id_at(ms: int) -> int:
    """The largest id of that millisecond; 0 before EPOCH_MS."""
    if ms < EPOCH_MS:
        return 0
    return first_id_at(ms) | ((1 << TIME_SHIFT) - 1)


def day(content_id: int) -> int:
    """The unix day (content time // 86,400,000) that the stored feeds file it under."""
    return time_ms(content_id) // DAY_MS


class IdGenerator:
    """Gives out ids of one (region, node). Not for several threads at once.

    When the clock goes back, or a millisecond's sequence is used up, ids go on from the last one
    given out and so run ahead of the clock: at most `wait_ms_max` milliseconds, beyond that
    ClockWentBack is raised. Nothing is ever repeated and nothing here sleeps.
    """

    def __init__(self, region: int, node: int, wait_ms_max: int = CLOCK_AHEAD_MAX_MS) -> None:
        make(EPOCH_MS, region, node, 0)
        self._region = region
        self._node = node
        self._wait_ms_max = wait_ms_max
        self._last_ms = EPOCH_MS
        self._sequence = -1

    def new_id(self, now_ms: int) -> int:
        """A new id, larger than all before. Raises ClockWentBack; a later call may then succeed."""
        ms, seq = self._last_ms, self._sequence + 1
        if now_ms > ms:
            ms, seq = now_ms, 0
        elif seq > SEQUENCE_MAX:
            ms, seq = ms + 1, 0
        if ms - now_ms > self._wait_ms_max:
            raise ClockWentBack(
                f"clock: {ms - now_ms} ms behind the last content id;"
                f" at most {self._wait_ms_max} ms"
            )
        content_id = make(ms, self._region, self._node, seq)
        self._last_ms, self._sequence = ms, seq
        return content_id
