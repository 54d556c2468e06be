"""The list of what a user has set: mutes, snoozes, hides and see-less, as the user sees it.

Not for what they do to a page: `visibility`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

SNOOZE = 2  # the kind that has an end; `ports.preferences` numbers all of them


class Listed(Protocol):
    """One of them."""

    @property
    def kind(self) -> int: ...
    @property
    def target_id(self) -> int: ...
    @property
    def until_ms(self) -> int: ...
    @property
    def set_at_ms(self) -> int: ...


Preference = TypeVar("Preference", bound=Listed)


def as_listed(found: Iterable[Preference], now_ms: int) -> list[Preference]:
    """Newest first, of one time by kind and target; snoozes that are over are left out."""
    lasting = [one for one in found if one.kind != SNOOZE or one.until_ms > now_ms]
    return sorted(lasting, key=lambda one: (-one.set_at_ms, one.kind, one.target_id))
