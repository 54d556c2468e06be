"""SettingsStore: versioned documents that processes share: hot settings, ranking configurations,
author modes.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

JsonObject = dict[str, Any]  # a document as `json.loads` gives it; who reads one validates it


class AuthorMode(NamedTuple):
    """Push/pull state of one author (`domain.policy` has the table). `until_ms` counts for DRAINING
    only.
    """

    author_id: int
    mode: int
    followers: int
    until_ms: int


class SettingsStore(Protocol):
    """Small and hot: adapters keep them in memory and notice changes of other processes before the
    next read.
    """

    def get(self, name: str) -> JsonObject | None:
        """The newest document of that name, or None."""

    def version(self, name: str) -> int:
        """The version of the newest document, 0 if none."""

    def at_version(self, name: str, version: int) -> JsonObject | None:
        """An older document, or None if it is no longer kept."""

    async def put(
        self, name: str, document: JsonObject, now_ms: int, expected_version: int | None = None
    ) -> int:
        """Stores a new version and returns it. FailedPrecondition if `expected_version` is not the
        newest.
        """

    async def authors_to_review(
        self, promote_at: int, demote_below: int, now_ms: int, limit: int
    ) -> list[AuthorMode]:
        """Authors whose mode the policy would change: PUSH or DRAINING with followers >=
        promote_at, PULL with followers < demote_below, DRAINING whose until_ms has passed.
        """

    async def set_author_modes(self, modes: list[AuthorMode]) -> None:
        """Commits the new modes; publishes committed later see them."""

    async def author_mode(self, author_id: int) -> AuthorMode:
        """The state of one author (PUSH with 0 followers if nothing is known)."""
