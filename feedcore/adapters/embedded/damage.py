"""Which days of the stored feeds are damaged: one value in `blobs`, read by every replica.

State of a day:

    whole     all runs that were ever written of it, or what they were merged into
    damaged   a run was set aside; readers pull from the followees for as long as it is
    whole     again, when `repair` has derived the day anew and that is merged

A day that is damaged once more while it is derived has another number, and is derived once more.
Invariant: the row of a run and the day's damage change in one transaction, so no reader sees a day
without a run and without its damage. Not for store.db itself: nothing can be derived instead of it.
"""

from __future__ import annotations

import json
import sqlite3

from feedcore.adapters.embedded.database import Connection, bump
from feedcore.limits import DAY_MS, RETENTION_MS

_NAME = "damaged_days"


def read_damage(conn: sqlite3.Connection) -> dict[int, str]:
    """Day -> reason."""
    return {day: reason for day, (_, reason) in numbered_damage(conn).items()}


def numbered_damage(conn: sqlite3.Connection) -> dict[int, tuple[int, str]]:
    """Day -> (how often it was damaged so far, the last reason)."""
    row = conn.execute("SELECT value FROM blobs WHERE name = ?", (_NAME,)).fetchone()
    if row is None:
        return {}
    return {int(day): (number, reason) for day, (number, reason) in json.loads(row[0]).items()}


def all_days(now_ms: int) -> list[int]:
    """Every day that a feed may hold, and the next."""
    return list(range((now_ms - RETENTION_MS) // DAY_MS, now_ms // DAY_MS + 2))


def note_damage(conn: Connection, days: list[int], reason: str) -> None:
    """Inside a transaction: the days are damaged from its commit on."""
    found = numbered_damage(conn)
    for day in days:
        number, _ = found.get(day, (0, ""))
        found[day] = number + 1, reason
    _write(conn, found)


def end_damage(conn: Connection, repaired: dict[int, tuple[int, str]]) -> None:
    """Inside a transaction: those days are whole that were not damaged again meanwhile."""
    found = numbered_damage(conn)
    _write(conn, {day: damage for day, damage in found.items() if repaired.get(day) != damage})


def _write(conn: Connection, found: dict[int, tuple[int, str]]) -> None:
    if found:
        value = json.dumps(found).encode()
        conn.execute("INSERT OR REPLACE INTO blobs VALUES (?, ?)", (_NAME, value))
    else:
        conn.execute("DELETE FROM blobs WHERE name = ?", (_NAME,))
    bump(conn, "runs")
