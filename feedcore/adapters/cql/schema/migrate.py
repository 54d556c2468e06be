"""Versioned migrations of the CQL schema, and the values of which a cluster has one.

A migration is a file migrations/NNNN_name.cql: statements that end with `;` at the end of a line,
comments that begin with `--`, {keyspace} for the keyspace. Invariants: files are applied in the
order of their numbers, each once, by one migrator at a time; each statement only after all nodes
agree on the schema so far; an applied file never changes (its SHA-256 is kept), and a schema that
is newer than this code is left alone. A migrator that dies leaves its last file half applied:
statements are IF NOT EXISTS, so that the next one can begin that file again.

The lock is a row with a TTL, taken and prolonged by lightweight transactions. It keeps migrators
that run from meeting; one that is stopped for longer than LOCK_S may find that another has gone on
and then stops before its next statement. Not for data: that is rewritten by jobs, not here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

from feedcore.adapters.cql.driver.options import SCHEMA_AGREEMENT_S
from feedcore.adapters.cql.driver.session import Consistency, SchemaSession, Session, Statement
from feedcore.clock import Clock, SystemClock
from feedcore.errors import ConfigError, StoreError, Unavailable

LOCK_S = 60  # longer than any one statement with the agreement after it
LOCK_WAIT_S = 120.0  # for a migrator that is at work: twice what a dead one's lock lasts
LOCK_POLL_S = 0.5
AGREEMENT_POLL_S = 0.2
CURSOR_SECRET, CURSOR_SECRET_BYTES = "cursor_secret", 32
CLUSTER_ID, CLUSTER_ID_BYTES = "cluster_id", 16
LOCK_KEY = "migration_lock"
COMMAND = "feedcore migrate"
_KEYSPACE = re.compile(r"[a-z][a-z0-9_]{0,47}")  # 48 characters are what servers allow
_FILE = re.compile(r"(\d{4})_([a-z0-9_]+)\.cql")
_STATEMENT_END = re.compile(r";[ \t]*(?:--[^\n]*)?(?:\n|\Z)")
_COMMENT_LINE = re.compile(r"^[ \t]*--.*$", re.MULTILINE)


class Migration(NamedTuple):
    """One file."""

    version: int
    name: str
    checksum: str
    statements: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.version:04}_{self.name}"


def split_statements(text: str) -> tuple[str, ...]:
    """Statements of a file, without comment lines and without their `;`."""
    parts = _STATEMENT_END.split(_COMMENT_LINE.sub("", text))
    return tuple(part.strip() for part in parts if part.strip())


def migration_of(file_name: str, text: str) -> Migration:
    """StoreError for a name that does not say its version."""
    match = _FILE.fullmatch(file_name)
    if match is None:
        raise StoreError(f"migration {file_name!r}: must be named NNNN_name.cql")
    checksum = hashlib.sha256(text.encode()).hexdigest()
    return Migration(int(match[1]), match[2], checksum, split_statements(text))


def known_migrations() -> list[Migration]:
    """Those of this code, in their order."""
    folder = resources.files("feedcore.adapters.cql.schema") / "migrations"
    found = [
        migration_of(file.name, file.read_text(encoding="utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".cql")
    ]
    found.sort()
    versions = [migration.version for migration in found]
    if versions != list(range(1, len(found) + 1)):
        raise StoreError(f"migrations: versions {versions}; must be 1, 2, 3 and so on")
    return found


async def migrate(
    session: SchemaSession,
    keyspace: str,
    replication: Mapping[str, str | int],
    *,
    clock: Clock | None = None,
    migrations: Sequence[Migration] | None = None,
) -> list[str]:
    """Brings the keyspace to the schema of this code; names of what was applied now.

    `session` has no keyspace. `replication` counts only when the keyspace is made here:
    {"class": "NetworkTopologyStrategy", "dc1": 3}. Unavailable if another migrator holds the lock
    for too long, or the nodes do not agree on the schema.
    """
    if not _KEYSPACE.fullmatch(keyspace):
        raise ConfigError(f"cql keyspace: {keyspace!r}; lower case letters, digits, _; at most 48")
    known = list(known_migrations() if migrations is None else migrations)
    work = _Migrator(session, keyspace, clock or SystemClock())
    await work.make_base(known[0], replication)
    await work.take_lock()
    try:
        return await work.apply(known)
    finally:
        await work.release_lock()


async def check(
    session: Session, migrations: Sequence[Migration] | None = None, *, keyspace: str = ""
) -> None:
    """StoreError, with what is missing, if the keyspace (default: the session's) is not at this
    code's schema.
    """
    known = list(known_migrations() if migrations is None else migrations)
    try:
        applied = await _applied(session, f"{keyspace}." if keyspace else "")
    except StoreError as error:
        raise StoreError(f"schema: no table schema_migrations; run '{COMMAND}' first") from error
    missing = _missing(known, applied)
    if missing:
        names = ", ".join(str(migration) for migration in missing)
        raise StoreError(f"schema: {names} not applied; run '{COMMAND}' first")


def _missing(known: Sequence[Migration], applied: Mapping[int, tuple[str, str]]) -> list[Migration]:
    """What is left to apply; StoreError if the schema is another one than these files make."""
    newest = max(applied, default=0)
    if newest > len(known):
        raise StoreError(
            f"schema: at version {newest} ({applied[newest][0]}), newer than this code, which"
            f" knows {len(known)}; run the version of feedcore that made it, or a later one"
        )
    missing = []
    for migration in known:
        name, checksum = applied.get(migration.version, ("", ""))
        if not checksum:
            missing.append(migration)
        elif checksum != migration.checksum:
            raise StoreError(
                f"schema: {migration} was applied as {name} with checksum {checksum[:12]}, this"
                f" code has {migration.checksum[:12]}; applied migrations must not change: put"
                " the change into a new file"
            )
    return missing


async def _applied(session: Session, prefix: str) -> dict[int, tuple[str, str]]:
    rows = await session.read(
        Statement(f"SELECT version, name, checksum FROM {prefix}schema_migrations")
    )
    return {version: (name or "", checksum or "") for version, name, checksum in rows}


class _Migrator:
    """One run of `migrate`."""

    def __init__(self, session: SchemaSession, keyspace: str, clock: Clock) -> None:
        self._session = session
        self._keyspace = keyspace
        self._clock = clock
        self._owner = secrets.token_bytes(16)

    async def make_base(self, base: Migration, replication: Mapping[str, str | int]) -> None:
        """The keyspace, and the tables that the lock and the versions are in."""
        options = ", ".join(f"'{key}': {_literal(value)}" for key, value in replication.items())
        await self._session.define(
            f"CREATE KEYSPACE IF NOT EXISTS {self._keyspace} WITH replication = {{{options}}}"
        )
        await self._agree()
        for statement in base.statements:
            await self._define(statement)

    async def take_lock(self) -> None:
        insert = self._lwt(
            f"INSERT INTO {{keyspace}}.meta (key, value) VALUES ('{LOCK_KEY}', ?)"
            f" IF NOT EXISTS USING TTL {LOCK_S}"
        )
        deadline = self._clock.monotonic() + LOCK_WAIT_S
        while True:
            held = await self._session.insert_if_absent(insert, (self._owner,))
            # ours: the answer to an attempt was lost, and the driver has repeated it
            if held is None or held["value"] == self._owner:
                return
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"schema: another migrator ({held['value'].hex()}) holds the lock since"
                    f" {LOCK_WAIT_S:g} s; let it end, then run '{COMMAND}' again"
                )
            await asyncio.sleep(LOCK_POLL_S)

    async def apply(self, known: Sequence[Migration]) -> list[str]:
        """With the lock."""
        prefix = f"{self._keyspace}."
        missing = _missing(known, await _applied(self._session, prefix))
        for migration in missing:
            for statement in migration.statements:
                await self._prolong_lock()
                await self._define(statement)
            row = (migration.version, migration.name, migration.checksum, self._clock.now_ms())
            await self._session.write(
                Statement(
                    f"INSERT INTO {prefix}schema_migrations (version, name, checksum, at_ms)"
                    " VALUES (?, ?, ?, ?)"
                ),
                row,
            )
        for key, size in ((CURSOR_SECRET, CURSOR_SECRET_BYTES), (CLUSTER_ID, CLUSTER_ID_BYTES)):
            insert = self._lwt(
                "INSERT INTO {keyspace}.meta (key, value) VALUES (?, ?) IF NOT EXISTS"
            )
            await self._session.insert_if_absent(insert, (key, secrets.token_bytes(size)))
        return [str(migration) for migration in missing]

    async def release_lock(self) -> None:
        """Of others' locks: nothing."""
        delete = self._lwt(f"DELETE FROM {{keyspace}}.meta WHERE key = '{LOCK_KEY}' IF value = ?")
        await self._session.insert_if_absent(delete, (self._owner,))

    async def _prolong_lock(self) -> None:
        update = self._lwt(
            f"UPDATE {{keyspace}}.meta USING TTL {LOCK_S} SET value = ? WHERE key = '{LOCK_KEY}'"
            " IF value = ?"
        )
        held = await self._session.insert_if_absent(update, (self._owner, self._owner))
        if held is not None:
            raise Unavailable(
                f"schema: the migration lock was lost, this process stood still for {LOCK_S} s;"
                f" run '{COMMAND}' again"
            )

    async def _define(self, statement: str) -> None:
        await self._session.define(statement.replace("{keyspace}", self._keyspace))
        await self._agree()

    async def _agree(self) -> None:
        """Waits until all nodes have the same schema: changes of diverged ones may be lost."""
        deadline = self._clock.monotonic() + SCHEMA_AGREEMENT_S
        while True:
            versions: set[Any] = set()
            for table in ("local", "peers"):
                # asked of whichever node: the answers are equal when they agree
                statement = Statement(f"SELECT schema_version FROM system.{table}", Consistency.ONE)
                versions.update(row[0] for row in await self._session.read(statement))
            if len(versions) == 1:
                return
            if self._clock.monotonic() > deadline:
                raise Unavailable(
                    f"schema: nodes disagree since {SCHEMA_AGREEMENT_S:g} s"
                    f" ({len(versions)} versions); are all of them up?"
                )
            await asyncio.sleep(AGREEMENT_POLL_S)

    def _lwt(self, cql: str) -> Statement:
        return Statement(cql.replace("{keyspace}", self._keyspace))


def _literal(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    if not re.fullmatch(r"[\w.-]+", value):
        raise ConfigError(f"cql replication: {value!r}; a class name or a number")
    return f"'{value}'"
