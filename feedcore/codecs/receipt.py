"""Wire bytes of feedcore.v1.Receipt, and of notes that are put behind a page from a cache."""

from __future__ import annotations

from functools import cache

from feedcore.codecs.protowire import bytes_field, text_field, uint_field
from feedcore.domain.receipt import BYPASSED, Receipt, SourceReport


def encode_receipt(receipt: Receipt) -> bytes:
    """Wire bytes of feedcore.v1.Receipt."""
    parts = [uint_field(1, receipt.origin), uint_field(2, receipt.degraded)]
    parts += [bytes_field(3, _encode_source(source)) for source in receipt.sources]
    parts += [
        uint_field(4, receipt.pull_total),
        uint_field(5, receipt.pull_considered),
        uint_field(6, receipt.followees),
        uint_field(7, receipt.candidates),
    ]
    for name, count in sorted(receipt.filtered.items()):
        parts.append(bytes_field(8, _name(name) + uint_field(2, count)))
    parts += [
        uint_field(9, receipt.ranking_version),
        text_field(10, receipt.experiment_arm),
        uint_field(11, receipt.generated_at_ms),
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
        + uint_field(4, source.items)
        + text_field(5, source.error)
    )


_RECEIPT = 6  # its number in feedcore.v1.GetFeedResponse


def _note(report: SourceReport) -> bytes:
    """Behind the bytes of a page it is merged into the page's receipt, as protobuf has it."""
    return bytes_field(_RECEIPT, uint_field(2, True) + bytes_field(3, _encode_source(report)))


BYPASS_NOTE = _note(BYPASSED)


def stale_note(age_ms: int, items: int) -> bytes:
    """To be put behind a page of the shared cache that is served because none can be made."""
    return _note(SourceReport("cache", True, items, age_ms))
