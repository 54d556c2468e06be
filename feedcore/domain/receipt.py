"""The receipt of a page: which sources answered, how stale each is, what was left out.

Not for its wire bytes: `codecs.receipt`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple


class Origin(IntEnum):
    """feedcore.v1.FeedOrigin."""

    STORED = 1
    REBUILT = 2
    TRENDING = 3


class SourceReport(NamedTuple):
    """One source and how it answered; `stale_ms` 0 means current."""

    name: str
    ok: bool
    items: int
    stale_ms: int = 0
    error: str = ""


BYPASSED = SourceReport("cache", False, 0, 0, "bypassed: the shared cache does not answer")


@dataclass(slots=True)
class Receipt:
    """Filled while a page is made; `filtered` maps a verdict's name to the entries it left out."""

    generated_at_ms: int
    origin: Origin = Origin.STORED
    degraded: bool = False
    sources: list[SourceReport] = field(default_factory=list)
    pull_total: int = 0
    pull_considered: int = 0
    followees: int = 0
    candidates: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    ranking_version: int = 0
    experiment_arm: str = ""

    def report(self, name: str, count: int, error: str = "", stale_ms: int = 0) -> None:
        """Notes a source's answer; an error, or one that is stale, makes the page a degraded one.
        What a source gives in several parts is one report, and its first error stays.
        """
        self.degraded = self.degraded or bool(error) or stale_ms > 0
        new = SourceReport(name, not error, count, stale_ms, error)
        for index, old in enumerate(self.sources):
            if old.name == name:
                self.sources[index] = old._replace(
                    ok=old.ok and new.ok,
                    items=old.items + count,
                    stale_ms=max(old.stale_ms, stale_ms),
                    error=old.error or error,
                )
                return
        self.sources.append(new)

    def note_bypass(self) -> None:
        """The shared cache could not be asked: the page cost more, and may lack posts that are not
        fanned out yet.
        """
        self.degraded = True
        self.sources.append(BYPASSED)

    def lacks(self, name: str) -> bool:
        """Whether the source has failed."""
        return any(source.name == name and not source.ok for source in self.sources)

    def names(self, name: str) -> bool:
        """Whether the source has been asked."""
        return any(source.name == name for source in self.sources)
