"""PreferenceStore: rows of the viewer partition, and when users were seen, written behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from feedcore.adapters.common.seen_users import SeenUsers
from feedcore.adapters.common.write_behind import WriteBehind
from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.job_outbox import JobOutbox
from feedcore.adapters.cql.driver.session import Session, Statement, Write
from feedcore.adapters.cql.driver.write_stamps import Stamps
from feedcore.adapters.cql.stores import viewer_partition as viewer
from feedcore.adapters.cql.stores.activity import Activity, in_parts
from feedcore.clock import Clock
from feedcore.domain.follow_plan import check_room
from feedcore.domain.preference_list import as_listed
from feedcore.limits import DAY_MS, SECOND_MS
from feedcore.ports import Preference, PreferenceKind, ViewerFilters
from feedcore.resilience.gather import gather_all

SNOOZE_KEPT_MS = DAY_MS  # a snooze leaves the store by itself, so long after its end

_LIST = Statement(
    "SELECT kind, target_id, extra, value FROM viewer WHERE user_id = ? AND kind IN (1, 2, 3, 4)"
)
_FILTERS = Statement(
    "SELECT kind, target_id, extra, value FROM viewer"
    " WHERE user_id = ? AND kind IN (1, 2, 3, 4, 11, 12, 14)",
    speculative=True,
)


class _Key(NamedTuple):
    user_id: int
    kind: int
    target_id: int

    def row(self) -> tuple[int, int, int]:
        """As CQL has it."""
        return self.user_id, self.kind, self.target_id


class CqlPreferenceStore:
    """See `ports.preferences.PreferenceStore`. `close` writes what is buffered."""

    def __init__(
        self,
        session: Session,
        outbox: JobOutbox,
        replica: Replica,
        clock: Clock,
    ) -> None:
        self._session = session
        self._replica = replica
        self._stamps = Stamps()
        self._clock = clock
        self._activity = Activity(session, outbox, replica)
        self._behind = WriteBehind(self._flush)
        self._seen = SeenUsers(self._write_seen, self._behind.touch)

    async def close(self) -> None:
        """Writes who was seen."""
        await self._behind.close()

    async def filters(self, user_id: int, now_ms: int) -> ViewerFilters:
        """One query."""
        rows = await self._session.read(_FILTERS, (user_id,))
        return viewer.decode(rows, now_ms).filters

    async def all_of(self, user_id: int, now_ms: int) -> list[Preference]:
        """One partition."""
        found = [
            Preference(PreferenceKind(kind), target, until_ms or 0, viewer.set_at_of(value))
            for kind, target, until_ms, value in await self._session.read(_LIST, (user_id,))
        ]
        return as_listed(found, now_ms)

    async def put(self, user_id: int, preference: Preference) -> bool:
        """Setting again with another end of a snooze is a change."""
        key = _Key(user_id, int(preference.kind), preference.target_id)
        row, room = await gather_all(
            self._session.read(viewer.ROW_AT, key.row()),
            self._session.read(viewer.ROOM, (user_id,)),
        )
        if row and row[0][0] == preference.until_ms:
            await self._reannounce(user_id)
            return False
        if not row:
            check_room(room[0][0])
        at_us = self._stamps.new_stamp(row[0][1] if row else None)
        await self._write([self._row(user_id, preference, at_us)], [user_id])
        return True

    async def clear(self, user_id: int, kind: PreferenceKind, target_id: int) -> bool:
        """One row."""
        key = _Key(user_id, int(kind), target_id)
        row = await self._session.read(viewer.ROW_AT, key.row())
        if not row:
            await self._reannounce(user_id)
            return False
        at_us = self._stamps.new_stamp(row[0][1])
        await self._write([viewer.drop(user_id, kind, target_id, at_us)], [user_id])
        return True

    async def import_preferences(self, rows: Sequence[tuple[int, Preference]]) -> int:
        """What is there is read first; of rows with one key, the last is written."""
        keys = {_Key(user, int(one.kind), one.target_id): None for user, one in rows}
        users = list({user: None for user, _ in rows})
        found = await self._session.read_many(viewer.ROW_AT, [key.row() for key in keys])
        counts = await self._session.read_many(viewer.ROOM, [(one,) for one in users])
        until = {key: row[0][0] for key, row in zip(keys, found, strict=True) if row}
        at_us = {key: row[0][1] for key, row in zip(keys, found, strict=True) if row}
        room = {user: row[0][0] for user, row in zip(users, counts, strict=True)}
        changed: dict[_Key, Preference] = {}
        new = 0
        for user_id, one in rows:
            key = _Key(user_id, int(one.kind), one.target_id)
            if until.get(key) == one.until_ms:
                continue
            if key not in until:
                check_room(room[user_id])
                room[user_id] += 1
            until[key] = one.until_ms
            changed[key] = one
            new += 1
        writes = [
            self._row(key.user_id, one, self._stamps.new_stamp(at_us.get(key)))
            for key, one in changed.items()
        ]
        await self._write(writes, list({key.user_id: None for key in changed}))
        return new

    def seen(self, user_id: int, now_ms: int) -> None:
        """Remembered here, written by `write_seen`."""
        self._seen.note(user_id, now_ms)

    async def write_seen(self) -> int:
        """Writes what waits; how many users."""
        return await self._seen.flush()

    async def _write_seen(self, seen: Iterable[tuple[int, int]]) -> None:
        await in_parts(self._session, self._activity.seen_writes(seen))

    async def _flush(self) -> None:
        await self.write_seen()

    def _row(self, user_id: int, one: Preference, at_us: int) -> Write:
        value = viewer.set_at_value(one.set_at_ms)
        write = viewer.put(user_id, one.kind, one.target_id, one.until_ms, at_us, value)
        if one.kind != PreferenceKind.SNOOZE:
            return write
        kept_ms = max(one.until_ms - self._clock.now_ms(), 0) + SNOOZE_KEPT_MS
        return Write(viewer.PUT_FOR, (*write.parameters, kept_ms // SECOND_MS))

    async def _reannounce(self, user_id: int) -> None:
        """The writer of what is there may have crashed between commit and announcement, or
        announced before the commit was visible.
        """
        await self._replica.announce([user_id])

    async def _write(self, writes: Sequence[Write], users: Sequence[int]) -> None:
        if not writes:
            return
        try:
            await in_parts(self._session, writes)
        finally:
            # announced also if the outcome is unknown: data cached of the users may be out of date
            await self._replica.announce(users)
