"""Retry budget: retries are a share of calls, so that a dependency in trouble gets no more of them.

    earn     each first attempt adds `ratio` of a retry, up to `burst`
    spend    a retry takes one; where less is left there is none

Invariant: of any run of calls, retries <= burst + ratio * calls. Not for when to retry, nor what:
`stack` knows errors and deadlines.
"""

from __future__ import annotations

RATIO = 0.1  # one more call in ten, even if everything fails
BURST = 10  # a dependency that hiccups once a minute is retried, at any rate of calls
_UNIT = 1_000_000  # parts of a retry: whole numbers do not drift


class RetryBudget:
    """Shared by all calls to one dependency."""

    def __init__(self, ratio: float = RATIO, burst: int = BURST) -> None:
        self._earning = round(ratio * _UNIT)
        self._most = burst * _UNIT
        self._held = self._most

    @property
    def retries(self) -> float:
        """How many retries it holds."""
        return self._held / _UNIT

    def earn(self) -> None:
        """A first attempt is made."""
        self._held = min(self._most, self._held + self._earning)

    def spend(self) -> bool:
        """Whether one more attempt may be made."""
        if self._held < _UNIT:
            return False
        self._held -= _UNIT
        return True
