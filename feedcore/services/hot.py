"""Hot settings: what an operator changes while the engine runs. One versioned document that all
processes share.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TypedDict

from feedcore.errors import InvalidField
from feedcore.limits import HYSTERESIS_PERCENT_MAX, PUSH_THRESHOLD_MAX
from feedcore.ports import SettingsStore

DOCUMENT = "hot"


@dataclass(frozen=True, slots=True)
class HotSettings:
    """`version` 0 are the values the process was started with. See admin.proto for bounds."""

    push_threshold: int = 10_000
    hysteresis_percent: int = 10
    rest_lane_paused: bool = False
    fanout_paused: bool = False
    version: int = 0

    def validate(self) -> HotSettings:
        """Itself, or InvalidField naming the bound."""
        if not 0 <= self.push_threshold <= PUSH_THRESHOLD_MAX:
            raise InvalidField(
                "push_threshold", str(self.push_threshold), f"must be 0 to {PUSH_THRESHOLD_MAX}"
            )
        if not 0 <= self.hysteresis_percent <= HYSTERESIS_PERCENT_MAX:
            raise InvalidField(
                "hysteresis_percent",
                str(self.hysteresis_percent),
                f"must be 0 to {HYSTERESIS_PERCENT_MAX}",
            )
        return self


class HotChanges(TypedDict, total=False):
    """Hot settings to change, by the names of HotSettings."""

    push_threshold: int
    hysteresis_percent: int
    rest_lane_paused: bool
    fanout_paused: bool


class Hot:
    """Reads and changes the hot settings; `start` are the values before anybody changed them."""

    def __init__(self, settings: SettingsStore, start: HotSettings) -> None:
        self._settings = settings
        self._start = start.validate()
        self._current = start

    def read(self) -> HotSettings:
        """The settings in force, as of this call."""
        version = self._settings.version(DOCUMENT)
        if version != self._current.version:
            document = self._settings.get(DOCUMENT) or {}
            self._current = replace(self._start, **document, version=version)
        return self._current

    async def change(self, changes: HotChanges, now_ms: int) -> HotSettings:
        """Puts `changes` in force for every process. Raises InvalidField."""
        before = self.read()
        after = replace(before, **changes).validate()
        document = asdict(after)
        del document["version"]
        version = await self._settings.put(DOCUMENT, document, now_ms, before.version)
        return replace(after, version=version)
