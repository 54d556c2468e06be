"""What a user wants to see less of, and what they did with items. In force on the user's next
page.
"""

from __future__ import annotations

from feedcore.clock import Clock
from feedcore.errors import InvalidField
from feedcore.limits import SNOOZE_MAX_MS
from feedcore.ports import (
    Interaction,
    InteractionKind,
    Preference,
    PreferenceKind,
    PreferenceStore,
    SignalStore,
)
from feedcore.services.admission import check_id, check_idempotency_key, check_two_users


class PreferenceService:
    """Writes preferences and interactions. One a worker."""

    def __init__(self, preferences: PreferenceStore, signals: SignalStore, clock: Clock) -> None:
        self._preferences = preferences
        self._signals = signals
        self._clock = clock

    async def set_preference(
        self, user_id: int, kind: PreferenceKind, on: bool, target_id: int, until_ms: int
    ) -> bool:
        """Sets or undoes a mute, snooze or see-less; False if it was so already. Raises
        InvalidField.
        """
        check_two_users("user_id", user_id, "target_user_id", target_id)
        if not on:
            return await self._preferences.clear(user_id, kind, target_id)
        now_ms = self._clock.now_ms()
        if kind is PreferenceKind.SNOOZE:
            if not now_ms < until_ms <= now_ms + SNOOZE_MAX_MS:
                raise InvalidField(
                    "until_ms",
                    str(until_ms),
                    f"must be later than now ({now_ms}) and at most {SNOOZE_MAX_MS} ms ahead",
                )
        elif until_ms:
            raise InvalidField("until_ms", str(until_ms), "must be 0 unless the kind is SNOOZE")
        return await self._preferences.put(user_id, Preference(kind, target_id, until_ms, now_ms))

    async def list_preferences(self, user_id: int) -> list[Preference]:
        """Everything the user has set, newest first."""
        check_id("user_id", user_id)
        return await self._preferences.all_of(user_id, self._clock.now_ms())

    async def record_interaction(
        self, user_id: int, content_id: int, kind: InteractionKind, on: bool, idempotency_key: str
    ) -> bool:
        """False if it was so already. Raises NotFound for an unknown item, InvalidField."""
        check_id("user_id", user_id)
        check_id("content_id", content_id)
        check_idempotency_key(idempotency_key)
        return await self._signals.record(
            Interaction(user_id, content_id, kind, on, self._clock.now_ms(), idempotency_key)
        )
