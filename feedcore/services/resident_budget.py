"""How much a worker may cache; apart from `resident`, which needs the compiled modules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheBudget:
    """Bytes of one worker's caches: of pages, and of the resident set. 0: no cache."""

    pages_bytes: int
    resident_bytes: int
