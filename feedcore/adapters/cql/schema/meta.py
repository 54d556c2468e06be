"""Values of which a cluster has one: the secret that signs cursors, the cluster's id."""

from __future__ import annotations

from feedcore.adapters.cql.driver.session import Session, Statement
from feedcore.adapters.cql.schema.migrate import COMMAND
from feedcore.errors import StoreError

_READ = Statement("SELECT value FROM meta WHERE key = ?")


async def read_meta(session: Session, key: str) -> bytes:
    """One of the values that `migrate` makes. Raises StoreError if it has not."""
    rows = await session.read(_READ, (key,))
    if not rows or not rows[0][0]:
        raise StoreError(f"schema: no value {key!r} in table meta; run '{COMMAND}' first")
    return bytes(rows[0][0])
