"""The replica of node-wide state: what each node keeps in memory of data that is the same for all
users, and the system of record that it is made from.

Stores get a `Replica`: they ask it to catch up, read its `state`, and announce through it what they
have made durable. Not for what is kept of one user: that is cache validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from feedcore.adapters.contracts.announcements import Announcer
from feedcore.domain.idset import U64Set
from feedcore.ports.settings import AuthorMode, JsonObject


class Document(NamedTuple):
    """One version of a settings document."""

    version: int
    document: JsonObject


class SystemOfRecord(Protocol):
    """Node-wide state as it is stored, read at quorum: at a node's start, after a gap in the node
    log, and while there is no log.
    """

    async def tombstones_since(self, since_ms: int, now_ms: int) -> list[int]:
        """Content ids deleted since then, by the clocks of those who deleted: ask from a minute
        earlier than you know of.
        """

    async def author_modes(self) -> list[AuthorMode]:
        """Authors that are not PUSH."""

    async def documents(self) -> dict[str, list[Document]]:
        """Per name the stored versions, newest first."""

    async def trending(self) -> bytes:
        """Entries, newest first."""

    async def engagement_since(self, since_ms: int, now_ms: int) -> bytes:
        """Packed (u64 content_id, f32 value) of posts published since then."""


class ReplicaState(Protocol):
    """Reads of memory, as of the last `Replica.observe_node` or later."""

    @property
    def pulled(self) -> U64Set:
        """Authors in mode PULL or DRAINING."""

    @property
    def overlay_authors(self) -> U64Set:
        """Authors of `posts_of`."""

    @property
    def documents(self) -> Mapping[str, Sequence[Document]]:
        """Per name the stored versions, newest first."""

    @property
    def modes(self) -> Mapping[int, AuthorMode]:
        """Authors that are not PUSH."""

    @property
    def tombstones(self) -> U64Set:
        """Deleted content ids: do not change it."""

    @property
    def trending(self) -> bytes:
        """Entries, newest first."""

    def mode_of(self, author_id: int) -> AuthorMode:
        """PUSH with 0 followers if nothing is known."""

    def posts_of(self, authors: list[int]) -> bytes:
        """Entries of posts that may not be in the stored feeds yet, newest first."""


class Replica(Announcer, Protocol):
    """The state with the step that makes it current."""

    @property
    def state(self) -> ReplicaState:
        """Its sets change in place."""

    async def observe_node(self) -> None:
        """The state is as of this call, or later."""
