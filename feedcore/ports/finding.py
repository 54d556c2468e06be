"""What was found out about something the engine needs: for `doctor` and for status.

    ok     as it should be
    warn   works, but not as it should: to be looked at by day
    down   does not work: `mend` says what to do, and what callers notice until then

Invariant: no finding has a secret in it (details are addresses, names, numbers, and messages of
errors). Not for serving: nothing here decides what a server does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Of one finding."""

    OK = "ok"
    WARN = "warn"
    DOWN = "down"


class Finding(NamedTuple):
    """One line. `ms`: how long it took, where that says something."""

    engine: str
    what: str
    state: State
    detail: str
    mend: str = ""
    ms: float | None = None
