"""How much a worker may keep in memory; apart from `resident`, which needs the compiled modules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """Bytes that one worker keeps: of pages, and of what pages are made from. 0: nothing."""

    pages_bytes: int
    resident_bytes: int
