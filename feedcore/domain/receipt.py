"""The receipt of a page: which sources answered, how stale each is, what was left out; and its wire
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from typing import NamedTuple

from feedcore.domain.protowire import bytes_field, text_field, uint_field


class Origin(IntEnum):
    """feedcore.v1.FeedOrigin."""

    STORED = 1
    REBUILT = 2
    TRENDING = 3


class SourceReport(NamedTuple):
    """One source and how it answered; `stale_ms` 0 means current."""

    name: str
    ok: bool
    count: int
    stale_ms: int = 0
    error: str = ""


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
                    count=old.count + count,
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
        self.sources.append(_BYPASSED)

    def lacks(self, name: str) -> bool:
        """Whether the source has failed."""
        return any(source.name == name and not source.ok for source in self.sources)

    def names(self, name: str) -> bool:
        """Whether the source has been asked."""
        return any(source.name == name for source in self.sources)

    def encode(self) -> bytes:
        """Wire bytes of feedcore.v1.Receipt."""
        parts = [uint_field(1, self.origin), uint_field(2, self.degraded)]
        parts += [bytes_field(3, _encode_source(source)) for source in self.sources]
        parts += [
            uint_field(4, self.pull_total),
            uint_field(5, self.pull_considered),
            uint_field(6, self.followees),
            uint_field(7, self.candidates),
        ]
        for name, count in sorted(self.filtered.items()):
            parts.append(bytes_field(8, _name(name) + uint_field(2, count)))
        parts += [
            uint_field(9, self.ranking_version),
            text_field(10, self.experiment_arm),
            uint_field(11, self.generated_at_ms),
        ]
        return b"".join(parts)


@cache
def _name(name: str) -> bytes:
    """The names of sources and verdicts are few."""
    return text_field(1, name)


def _encode_source(source: SourceReport) -> bytes:
    return (
        _name(source.name)
        + uint_field(2, source.ok)
        + uint_field(3, source.stale_ms)
        + uint_field(4, source.count)
        + text_field(5, source.error)
    )


_BYPASSED = SourceReport("cache", False, 0, 0, "bypassed: the shared cache does not answer")
_RECEIPT = 6  # its number in feedcore.v1.GetFeedResponse


def _note(report: SourceReport) -> bytes:
    """Behind the bytes of a page it is merged into the page's receipt, as protobuf has it."""
    return bytes_field(_RECEIPT, uint_field(2, True) + bytes_field(3, _encode_source(report)))


BYPASS_NOTE = _note(_BYPASSED)


def stale_note(age_ms: int, items: int) -> bytes:
    """To be put behind a page of the shared cache that is served because none can be made."""
    return _note(SourceReport("cache", True, items, age_ms))
