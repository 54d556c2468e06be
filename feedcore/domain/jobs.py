"""The words of fan-out jobs: which followers a job serves, and what it does.

Not for jobs themselves, which are rows and messages: `ports.queue`.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Lane(IntEnum):
    """Which followers a job delivers to. Stored: never renumber."""

    ALL = 0
    ACTIVE = 1
    REST = 2


class JobKind(StrEnum):
    """POST: deliver `content_id` of `author_id` to followers. BACKFILL: the author's timeline to
    `user_id`. REMOVE: take the author's items out of the feed of `user_id`. REBUILD: refill the
    feed of `user_id`.
    """

    POST = "post"
    BACKFILL = "backfill"
    REMOVE = "remove"
    REBUILD = "rebuild"
