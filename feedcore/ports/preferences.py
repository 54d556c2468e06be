"""PreferenceStore: what a user does not want to see."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Protocol

from feedcore.domain import preference_list


class PreferenceKind(IntEnum):
    """Stored as they are: never renumber. HIDE's target is a content id, the others' a user id."""

    MUTE = 1
    SNOOZE = preference_list.SNOOZE
    SEE_LESS = 3
    HIDE = 4


class Preference(NamedTuple):
    """`until_ms` is 0 except for a snooze."""

    kind: PreferenceKind
    target_id: int
    until_ms: int
    set_at_ms: int


class ViewerFilters(NamedTuple):
    """All of one viewer's filter sets as id arrays; snoozes that are over are not in them."""

    muted: bytes
    snoozed: bytes
    see_less: bytes
    hidden: bytes
    blocked: bytes  # both directions
    affinity: bytes  # packed (u64 author_id, f32 affinity 0..1) little-endian, ascending by author


class PreferenceStore(Protocol):
    """Read-your-writes holds over every process of the node."""

    async def filters(self, user_id: int, now_ms: int) -> ViewerFilters:
        """The viewer's filter sets as of now."""

    async def all_of(self, user_id: int, now_ms: int) -> list[Preference]:
        """Everything that is set, as `domain.preference_list` says."""

    async def put(self, user_id: int, preference: Preference) -> bool:
        """False if exactly this was set already. Raises InvalidField above
        PREFERENCES_PER_USER_MAX.
        """

    async def clear(self, user_id: int, kind: PreferenceKind, target_id: int) -> bool:
        """False if it was not set."""

    async def import_preferences(self, rows: Sequence[tuple[int, Preference]]) -> int:
        """Many in one commit; the number that were new."""

    def seen(self, user_id: int, now_ms: int) -> None:
        """The user loaded a feed: written behind, at most once an hour a user, never awaited by a
        load.
        """
