"""The row that says where a cluster's data was copied from, and the secret that signs cursors.

States of a cluster: empty -> being copied -> copied. A copy that was killed is begun again, by the
same store only; a cluster that has data of its own is refused, as cursors, documents and ids of the
two would contradict each other, unless it may keep its own.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.adapters.cql.schema.meta import read_meta
from feedcore.adapters.cql.schema.migrate import CURSOR_SECRET
from feedcore.errors import StoreError

COPIED_FROM = "copied_from"  # key in meta
_LAYOUT = struct.Struct(">16sQ??")
_MARK = Statement("INSERT INTO meta (key, value) VALUES (?, ?) IF NOT EXISTS")
_CHANGE = Statement("UPDATE meta SET value = ? WHERE key = ? IF value = ?")
_READ = Statement("SELECT value FROM meta WHERE key = ?")
_ANY = tuple(
    Statement(f"SELECT {column} FROM {table} LIMIT 1")
    for table, column in (
        ("posts", "content_id"),
        ("viewer", "user_id"),
        ("activity", "user_id"),
        ("settings", "name"),
    )
)


class Origin(NamedTuple):
    """`begun_ms`: of the first attempt. `own_secret`: the cluster keeps the one it has."""

    store_id: bytes
    begun_ms: int
    own_secret: bool
    done: bool


async def begin(
    session: Session, store_id: bytes, secret: bytes, now_ms: int, *, keep_secret: bool
) -> Origin:
    """Marks the cluster as a copy of that store; from then on it has the store's secret. Raises
    StoreError for a cluster that has other data.
    """
    rows = await session.read(_READ, (COPIED_FROM,))
    if not rows:
        if not keep_secret and (table := await _first_used(session)):
            raise StoreError(
                f"the cluster has data already (table {table}); copy into an empty keyspace, or"
                " with --keep-secret beside what is there: cursors that callers hold then end"
            )
        row = _LAYOUT.pack(store_id, now_ms, keep_secret, False)
        await session.insert_if_absent(_MARK, (COPIED_FROM, row))
        rows = await session.read(_READ, (COPIED_FROM,))
    origin = Origin(*_LAYOUT.unpack(rows[0][0]))
    if origin.store_id != store_id:
        raise StoreError(
            f"the cluster is a copy of another store ({origin.store_id.hex()}, this one is"
            f" {store_id.hex()}); copy into another keyspace"
        )
    own = await read_meta(session, CURSOR_SECRET)
    if not origin.own_secret and own != secret:
        await session.insert_if_absent(_CHANGE, (secret, CURSOR_SECRET, own))
        if await read_meta(session, CURSOR_SECRET) != secret:
            raise StoreError("the cursor secret was changed meanwhile; run it again")
    return origin


async def finish(session: Session, origin: Origin) -> None:
    """Everything is copied."""
    old, new = _LAYOUT.pack(*origin), _LAYOUT.pack(*origin._replace(done=True))
    await session.insert_if_absent(_CHANGE, (new, COPIED_FROM, old))


async def _first_used(session: Session) -> str:
    """A table that has rows; "" if none has."""
    for statement in _ANY:
        if await session.read(statement):
            return statement.cql.split(" FROM ")[1].split()[0]
    return ""
