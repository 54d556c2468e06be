"""What a node tells the others after a write is durable and before it is acknowledged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Posted:
    """A post was published. `pulled`: readers find it in the author's outbox; else it is pushed,
    and `entry` (20 bytes) is shown by all nodes until its fan-out is done.
    """

    author_id: int
    entry: bytes
    pulled: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """A post is gone for good."""

    content_id: int


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The document of that name has a new version ("trending" for the trending posts)."""

    name: str


@dataclass(frozen=True, slots=True)
class ModesChanged:
    """Authors moved between push and pull."""


@dataclass(frozen=True, slots=True)
class Engagement:
    """Packed (u64 content_id, f32 value), little-endian; absolute values."""

    pairs: bytes


Event = Posted | Deleted | SettingsChanged | ModesChanged | Engagement


class Announcer(Protocol):
    """Never raises for a cache that is away: what it did not take stays pending, and is flushed
    later.
    """

    async def announce(self, viewers: Sequence[int] = (), events: Sequence[Event] = ()) -> None:
        """`viewers`: users whose followees, preferences, blocks or feed state changed."""
