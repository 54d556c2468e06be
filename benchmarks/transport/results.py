"""What one run found, as it goes to JSON and comes back: reports, goals and the picture are made
from this alone, so that they can be made again without measuring.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.transport.load import Sample
from benchmarks.transport.matrix import Row


@dataclass
class Results:
    """One run. `contestants`: name, what, version, ours; `lacking`: name -> what would help;
    `idle`: what idle.measure found, a dictionary a server; `faults`: what was refused."""

    machine: dict[str, str]
    options: dict[str, Any]
    contestants: list[dict[str, Any]] = field(default_factory=list)
    lacking: dict[str, str] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    idle: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        """Servers that were measured, in the order of tables."""
        return [one["name"] for one in self.contestants]

    def rows(self) -> list[Row]:
        """Rows that were measured, smallest first."""
        return sorted({Row.parse(sample.row) for sample in self.samples})

    def sizes(self) -> list[int]:
        """Sizes that were measured."""
        return sorted({sample.size for sample in self.samples})

    def values(self, server: str, row: Row, size: int, what: str) -> dict[int, float]:
        """Round -> what was measured (a field of Sample) of that cell; empty if nothing was."""
        return {
            sample.round: getattr(sample, what)
            for sample in self.samples
            if (sample.server, sample.row, sample.size) == (server, row.name, size)
            and getattr(sample, what) is not None
        }

    def median(self, server: str, row: Row, size: int, what: str) -> float | None:
        """Median over the rounds."""
        return median(self.values(server, row, size, what).values())

    def ratio(
        self, server: str, other: str, row: Row, size: int, what: str = "replies_s"
    ) -> float | None:
        """Median of the ratios of both servers in the same round."""
        mine = self.values(server, row, size, what)
        theirs = self.values(other, row, size, what)
        return median(mine[one] / theirs[one] for one in mine.keys() & theirs.keys())

    def save(self, path: Path) -> None:
        """Writes JSON, one sample a line."""
        head = {key: value for key, value in asdict(self).items() if key != "samples"}
        lines = ",\n    ".join(json.dumps(sample.as_dict()) for sample in self.samples)
        text = json.dumps(head, indent=2).removesuffix("\n}")
        path.write_text(f'{text},\n  "samples": [\n    {lines}\n  ]\n}}\n', encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Reads what `save` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        data["samples"] = [Sample(**sample) for sample in data["samples"]]
        return cls(**data)


def median(values: Iterable[float]) -> float | None:
    """The median, None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None
