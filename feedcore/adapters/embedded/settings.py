"""SettingsStore: versioned documents (the newest are in the replica), and authors' modes."""

from __future__ import annotations

import copy
import json
import sqlite3

from feedcore.adapters.embedded.database import Connection, Writer, bump
from feedcore.adapters.embedded.replica import Replica
from feedcore.domain.policy import Mode
from feedcore.errors import FailedPrecondition
from feedcore.limits import RANKING_VERSIONS_KEPT
from feedcore.ports.settings import AuthorMode, JsonObject


class EmbeddedSettingsStore:
    """See `ports.settings.SettingsStore`."""

    def __init__(self, conn: sqlite3.Connection, writer: Writer, replica: Replica) -> None:
        self._conn = conn
        self._writer = writer
        self._replica = replica

    def get(self, name: str) -> JsonObject | None:
        """A copy: changing it changes nothing."""
        self._replica.refresh()
        found = self._replica.settings.get(name)
        return copy.deepcopy(found[1]) if found else None

    def version(self, name: str) -> int:
        """From memory."""
        self._replica.refresh()
        found = self._replica.settings.get(name)
        return found[0] if found else 0

    def at_version(self, name: str, version: int) -> JsonObject | None:
        """One row."""
        sql = "SELECT document FROM settings WHERE name = ? AND version = ?"
        row = self._conn.execute(sql, (name, version)).fetchone()
        return json.loads(row[0]) if row else None

    async def put(
        self, name: str, document: JsonObject, now_ms: int, expected_version: int | None = None
    ) -> int:
        """The oldest of more than RANKING_VERSIONS_KEPT versions goes."""
        text = json.dumps(document, sort_keys=True)

        def work(conn: Connection) -> int:
            sql = "SELECT coalesce(max(version), 0) FROM settings WHERE name = ?"
            newest = conn.execute(sql, (name,)).fetchone()[0]
            if expected_version is not None and expected_version != newest:
                raise FailedPrecondition(
                    f"expected_version: {expected_version}, in force is {newest}; read it again"
                )
            conn.execute(
                "INSERT INTO settings VALUES (?, ?, ?, ?)", (name, newest + 1, text, now_ms)
            )
            conn.execute(
                "DELETE FROM settings WHERE name = ? AND version <= ?",
                (name, newest + 1 - RANKING_VERSIONS_KEPT),
            )
            bump(conn, "settings")
            return newest + 1

        return await self._writer.run(work)

    async def authors_to_review(
        self, promote_at: int, demote_below: int, now_ms: int, limit: int
    ) -> list[AuthorMode]:
        """Ranges of the index (mode, followers)."""
        columns = "SELECT author_id, mode, followers, until_ms FROM authors"
        pulled, pushed, draining = int(Mode.PULL), int(Mode.PUSH), int(Mode.DRAINING)
        queries = (
            (f"{columns} WHERE mode = ? AND followers >= ? LIMIT ?", (pushed, promote_at, limit)),
            (f"{columns} WHERE mode = ? AND followers >= ? LIMIT ?", (draining, promote_at, limit)),
            (f"{columns} WHERE mode = ? AND followers < ? LIMIT ?", (pulled, demote_below, limit)),
            (f"{columns} WHERE mode = ? AND until_ms <= ? LIMIT ?", (draining, now_ms, limit)),
        )
        found: dict[int, AuthorMode] = {}
        for sql, parameters in queries:
            for row in self._conn.execute(sql, parameters):
                found.setdefault(row[0], AuthorMode(*row))
        return list(found.values())[:limit]

    async def set_author_modes(self, modes: list[AuthorMode]) -> None:
        """Only mode and end: followers are counted by the graph."""

        def work(conn: Connection) -> None:
            conn.executemany(
                "INSERT INTO authors (author_id, mode, until_ms) VALUES (?, ?, ?) ON CONFLICT"
                " DO UPDATE SET mode = excluded.mode, until_ms = excluded.until_ms",
                [(one.author_id, one.mode, one.until_ms) for one in modes],
            )
            bump(conn, "modes")

        if modes:
            await self._writer.run(work)

    async def author_mode(self, author_id: int) -> AuthorMode:
        """One row."""
        sql = "SELECT mode, followers, until_ms FROM authors WHERE author_id = ?"
        row = self._conn.execute(sql, (author_id,)).fetchone()
        return AuthorMode(author_id, *row) if row else AuthorMode(author_id, int(Mode.PUSH), 0, 0)
