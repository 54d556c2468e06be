"""What the stores need of a CQL driver, and nothing more: two drivers implement it.

Invariants: a statement is prepared once a session; at most IN_FLIGHT_MAX requests are under way,
and WAITING_MAX wait (more are Overloaded); no call blocks the event loop; whatever the driver
raises comes out as Unavailable (retriable: no answer, too few replicas) or StoreError (the
statement or the schema is wrong). Every statement is idempotent, so that a driver may repeat it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol


class Consistency(StrEnum):
    """ONE: feed reads, which are derived data. QUORUM: what must not be lost, and what must be
    seen once it is acknowledged. Both of the local data centre.
    """

    ONE = "LOCAL_ONE"
    QUORUM = "LOCAL_QUORUM"


@dataclass(frozen=True, slots=True)
class Statement:
    """A CQL text with `?` for parameters, without a keyspace: the session has one.

    `speculative`: a read that may be asked of another replica before the first has answered.
    """

    cql: str
    consistency: Consistency = Consistency.QUORUM
    speculative: bool = False


class Write(NamedTuple):
    """One statement with its parameters (int, float, bool, str, bytes or None, lists for IN)."""

    statement: Statement
    parameters: Sequence[Any]


class Session(Protocol):
    """One a process."""

    async def read(self, statement: Statement, parameters: Sequence[Any] = ()) -> list[tuple]:
        """All rows; pages are fetched behind. Bounded by the statement's LIMIT or its partition."""

    async def read_many(
        self, statement: Statement, parameters: Sequence[Sequence[Any]]
    ) -> list[list[tuple]]:
        """Runs the statement for several keys concurrently; answers in their order."""

    async def read_packed(self, statement: Statement, parameters: Sequence[Any] = ()) -> bytes:
        """All rows as the values' wire bytes back to back, without lengths, nulls left out, for
        columns of type blob and bigint (big-endian): one of 20-byte blobs gives packed entries.
        """

    async def write(self, statement: Statement, parameters: Sequence[Any] = ()) -> None:
        """Returns when as many replicas have it as the consistency says."""

    async def write_many(self, writes: Sequence[Write]) -> None:
        """Side by side. Raises the first error after all have ended."""

    async def write_packed(
        self, statement: Statement, ids: bytes, parameters: Sequence[Any]
    ) -> None:
        """The statement once an id of the id array, with the id as its first parameter: one entry
        to many feeds. Bounded in flight; raises the first error after all have ended.
        """

    async def batch(self, writes: Sequence[Write], *, logged: bool) -> None:
        """All or none. Unlogged only within one partition."""

    async def insert_if_absent(
        self, statement: Statement, parameters: Sequence[Any] = ()
    ) -> dict[str, Any] | None:
        """A lightweight transaction (`IF NOT EXISTS`): None if it was applied, else the row that
        was there.
        """

    async def close(self) -> None:
        """Ends what is under way, then the connections."""


class SchemaSession(Session, Protocol):
    """What `migrate` needs beyond that. Both drivers have it."""

    async def define(self, cql: str) -> None:
        """One schema statement, not prepared and without parameters."""
