"""Where a transport differs from what the suite demands: each difference pinned, with its reason.

`DIFFERENCES`: case -> (transport, what it does instead, why). A case is a test's name without
`test_`. The table is checked in both directions: a difference that no longer occurs fails its case,
and an entry whose case is gone fails tests/conformance/test_differences.py. `NOT_RUN`: cases that a
transport has no means for. Not for faults: a fault is mended.
"""

from __future__ import annotations

from typing import NamedTuple


class Difference(NamedTuple):
    """One pinned difference; `instead` is the outcome in the words of its case."""

    transport: str
    instead: object
    why: str


DIFFERENCES: dict[str, Difference] = {}

NOT_RUN: dict[str, tuple[str, str]] = {}
