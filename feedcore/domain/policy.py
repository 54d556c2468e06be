"""Push or pull, an author at a time: a three-state table with hysteresis and stickiness.

    state     condition                     next state
    PUSH      followers >= promote_at       PULL
    PULL      followers <  demote_below     DRAINING until now + DRAIN_MS
    DRAINING  followers >= promote_at       PULL
    DRAINING  now >= until                  PUSH

DRAINING pushes new posts and is still pulled, until the posts made while pulled have aged out: so
no post is lost on the way down. Between demote_below and promote_at nothing changes: an author at
the edge does not flap. Not for skipping inactive followers: that is decided for each follower.
"""

from __future__ import annotations

from enum import IntEnum

from feedcore.limits import CLOCK_AHEAD_MAX_MS, RETENTION_MS

DRAIN_MS = RETENTION_MS + CLOCK_AHEAD_MAX_MS  # a post's time may be that much ahead of the clock


class Mode(IntEnum):
    """Stored: never renumber."""

    PUSH = 0
    PULL = 1
    DRAINING = 2

    @property
    def pushed(self) -> bool:
        """New posts go into followers' stored feeds."""
        return self is not Mode.PULL

    @property
    def pulled(self) -> bool:
        """Readers merge the author's timeline."""
        return self is not Mode.PUSH


def bounds(threshold: int, hysteresis_percent: int) -> tuple[int, int]:
    """(promote_at, demote_below) in followers. Threshold 0: all are pulled, none is demoted."""
    demote_below = threshold * (100 - hysteresis_percent) // 100
    return threshold, demote_below


def next_mode(
    mode: int, followers: int, until_ms: int, threshold: int, hysteresis_percent: int, now_ms: int
) -> tuple[Mode, int]:
    """The mode after looking once, and until when it drains (0 unless DRAINING)."""
    promote_at, demote_below = bounds(threshold, hysteresis_percent)
    state = Mode(mode)
    if state is Mode.PULL:
        if followers < demote_below:
            return Mode.DRAINING, now_ms + DRAIN_MS
        return Mode.PULL, 0
    if followers >= promote_at:
        return Mode.PULL, 0
    if state is Mode.DRAINING and now_ms < until_ms:
        return Mode.DRAINING, until_ms
    return Mode.PUSH, 0
