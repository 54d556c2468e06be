"""Limiter: one rate for a caller, whichever node they call. Not for protecting a node from overload
(admission).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Allowance(NamedTuple):
    """`retry_after_ms` is 0 if it is allowed."""

    allowed: bool
    retry_after_ms: int


class Limiter(Protocol):
    """Token buckets by name. Never raises for an engine that is away: then each node keeps the rate
    by itself.
    """

    async def take(
        self, name: bytes, rate_per_s: float, burst: float, cost: float = 1.0
    ) -> Allowance:
        """Takes `cost` tokens out of the bucket of that name, which holds `burst` at most and gains
        `rate_per_s`; or says when so many would be there. ValueError for a rate of 0 and for a cost
        that no full bucket has.
        """
