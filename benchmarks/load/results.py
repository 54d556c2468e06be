"""What a run found, as it goes to JSON and comes back: reports are made from this alone, so that
they can be made again without measuring.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feedcore_bench.server import Series

# Percentiles of tables and curves; the curve's axis is 1/(1 - q), so the tail has room.
PERCENTILES = (50.0, 90.0, 99.0, 99.9, 99.99)


@dataclass
class Phase:
    """One stretch of load on one server. Latencies in microseconds from the intended start."""

    scenario: str
    name: str
    offered: float | None  # calls/s of an open loop; None: closed loop
    seconds: float
    calls: int
    rate: float
    percentiles: dict[str, float]
    max_us: float
    curve: list[tuple[float, float]] = field(default_factory=list)
    methods: dict[str, dict[str, float]] = field(default_factory=dict)
    statuses: dict[str, int] = field(default_factory=dict)
    series: Series = field(default_factory=Series)
    tiers: dict[str, float] = field(default_factory=dict)
    in_time: float = 0.0  # answers with status OK a second, that came while the phase lasted
    lateness_us: float = 0.0  # p99 of how late the generator itself sent, open loop
    # Of each second (seconds since the begin, OK, other, p50, p99, most; latencies in us):
    # a percentile of the whole hides a stall of a second that each caller met.
    each_second: list[tuple[float, int, int, float, float, float]] = field(default_factory=list)

    def refused(self) -> float:
        """Share of the calls that had another status than OK."""
        total = sum(self.statuses.values())
        return 1 - self.statuses.get("0", 0) / total if total else 0.0

    def ms(self, percent: float) -> float:
        """A percentile in milliseconds."""
        return self.percentiles[f"{percent:g}"] / 1_000


@dataclass
class Results:
    """One run. `values` by the keys of goals; `wrong` has what reproduces each wrong answer;
    `notes` by scenario: what limits a number, what was left out and why."""

    machine: dict[str, str]
    options: dict[str, Any]
    values: dict[str, float] = field(default_factory=dict)
    worlds: dict[str, dict[str, Any]] = field(default_factory=dict)
    phases: list[Phase] = field(default_factory=list)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    wrong_counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    spoiled: dict[str, str] = field(
        default_factory=dict
    )  # key of a value -> why it counts as missed

    def note(self, scenario: str, text: str) -> None:
        """Adds a note."""
        self.notes.setdefault(scenario, []).append(text)

    def of(self, scenario: str) -> list[Phase]:
        """Its phases, in order."""
        return [phase for phase in self.phases if phase.scenario == scenario]

    def scenarios(self) -> list[str]:
        """All that left a trace, in order."""
        names = [*(phase.scenario for phase in self.phases), *self.notes, *self.failures]
        return list(dict.fromkeys(names))

    def save(self, path: Path) -> None:
        """Writes JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["phases"] = [_phase(one) for one in data["phases"]]
        return cls(**data)


def _phase(data: Mapping[str, Any]) -> Phase:
    phase = dict(data)
    phase["series"] = Series(**phase["series"])
    phase["curve"] = [(percent, value) for percent, value in phase["curve"]]
    phase["each_second"] = [tuple(line) for line in phase.get("each_second", [])]
    return Phase(**phase)
