"""SettingsStore: documents as rows (name, version), each new one by a lightweight transaction.

Reads are of the node's replica. A version is written once: of two who write the next one at the
same time, one is told so. Who has written sees it at once, everybody else when the node log has
said so.
"""

from __future__ import annotations

import copy
import json

from feedcore.adapters.contracts.announcements import ModesChanged, SettingsChanged
from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores.author_review import AuthorReview
from feedcore.clock import Clock
from feedcore.domain.policy import Mode
from feedcore.errors import FailedPrecondition, Unavailable
from feedcore.limits import RANKING_VERSIONS_KEPT
from feedcore.ports.settings import AuthorMode, JsonObject
from feedcore.resilience.gather import gather_all

ATTEMPTS_MAX = 16  # puts of the same document at once that one put makes way for
BATCH_ROWS = 100  # modes written together, of one partition

_NEWEST = Statement("SELECT version, document, at_ms FROM settings WHERE name = ? LIMIT 1")
_PUT = Statement(
    "INSERT INTO settings (name, version, document, at_ms) VALUES (?, ?, ?, ?) IF NOT EXISTS"
)
_PRUNE = Statement("DELETE FROM settings WHERE name = ? AND version <= ?")
_ADD_NAME = Statement("INSERT INTO setting_names (bucket, name) VALUES (0, ?)")
_MODE = Statement(
    "SELECT mode, followers, until_ms FROM author_modes WHERE bucket = 0 AND author_id = ?"
)
_PUT_MODE = Statement(
    "INSERT INTO author_modes (bucket, author_id, mode, followers, until_ms)"
    " VALUES (0, ?, ?, ?, ?) USING TIMESTAMP ?"
)
_DROP_MODE = Statement(
    "DELETE FROM author_modes USING TIMESTAMP ? WHERE bucket = 0 AND author_id = ?"
)
_SIZE = Statement("SELECT followers FROM author_sizes WHERE author_id = ?")


class CqlSettingsStore:
    """See `ports.settings.SettingsStore`."""

    def __init__(self, session: Session, replica: Replica, clock: Clock) -> None:
        self._session = session
        self._replica = replica
        self._stamps = Stamps()
        self._review = AuthorReview(session, replica, clock, self._stamps)

    def get(self, name: str) -> JsonObject | None:
        """A copy: changing it changes nothing."""
        found = self._replica.state.documents.get(name)
        return copy.deepcopy(found[0].document) if found else None

    def version(self, name: str) -> int:
        """From memory."""
        found = self._replica.state.documents.get(name)
        return found[0].version if found else 0

    def at_version(self, name: str, version: int) -> JsonObject | None:
        """Versions have no gaps: its place is known."""
        found = self._replica.state.documents.get(name) or ()
        place = found[0].version - version if found else -1
        if 0 <= place < len(found) and found[place].version == version:
            return copy.deepcopy(found[place].document)
        return None

    async def put(
        self, name: str, document: JsonObject, now_ms: int, expected_version: int | None = None
    ) -> int:
        """The oldest of more than RANKING_VERSIONS_KEPT versions goes.

        FailedPrecondition also if the race for the next version is lost.
        """
        text = json.dumps(document, sort_keys=True)
        await self._session.write(_ADD_NAME, (name,))
        for _ in range(ATTEMPTS_MAX):
            rows = await self._session.read(_NEWEST, (name,))
            newest = rows[0][0] if rows else 0
            if expected_version is not None and expected_version != newest:
                break
            row = (name, newest + 1, text, now_ms)
            there = await self._session.insert_if_absent(_PUT, row)
            if there is None or (there["document"], there["at_ms"]) == (text, now_ms):
                # the second: a driver that repeated it finds its own
                await self._put(name, newest + 1)
                return newest + 1
            if expected_version is not None:
                newest += 1
                break
        else:
            raise Unavailable(f"settings {name!r}: {ATTEMPTS_MAX} others were faster; try again")
        raise FailedPrecondition(
            f"expected_version: {expected_version}, in force is {newest}; read it again"
        )

    async def _put(self, name: str, version: int) -> None:
        await self._replica.announce(events=[SettingsChanged(name)])
        if version > RANKING_VERSIONS_KEPT:
            await self._session.write(_PRUNE, (name, version - RANKING_VERSIONS_KEPT))
        await self._replica.observe_node()

    async def authors_to_review(
        self, promote_at: int, demote_below: int, now_ms: int, limit: int
    ) -> list[AuthorMode]:
        """See `author_review`. Modes that others have set meanwhile count."""
        await self._replica.observe_node()
        return await self._review.run(promote_at, demote_below, now_ms, limit)

    async def set_author_modes(self, modes: list[AuthorMode]) -> None:
        """Rows of one partition; who is pushed has none."""
        at_us = self._stamps.new_stamp()
        writes = [
            Write(_DROP_MODE, (at_us, one.author_id))
            if one.mode == Mode.PUSH
            else Write(
                _PUT_MODE,
                (one.author_id, int(one.mode), one.followers, one.until_ms, at_us),
            )
            for one in modes
        ]
        if not writes:
            return
        try:
            for first in range(0, len(writes), BATCH_ROWS):
                await self._session.batch(writes[first : first + BATCH_ROWS], logged=False)
        finally:
            await self._replica.announce(events=[ModesChanged()])
        await self._replica.observe_node()

    async def author_mode(self, author_id: int) -> AuthorMode:
        """Two point reads: what was decided, and what was counted since."""
        author = (author_id,)
        modes, sizes = await gather_all(
            self._session.read(_MODE, author), self._session.read(_SIZE, author)
        )
        mode, followers, until_ms = modes[0] if modes else (int(Mode.PUSH), 0, 0)
        if sizes:
            followers = sizes[0][0]
        return AuthorMode(author_id, mode, followers, until_ms)
