"""Figures of a failure: what calls met before, during and after it, as one line of a table.

FEEDCORE_REPORT=PATH appends the lines there. Not for asserting.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PHASES = ("before", "during", "after")
WINDOW_S = 1.0
# Back to normal: a window without an error whose slow calls are about those of before. The floor
# is what other work on the machine does to any call.
SLOW_FACTOR, SLOW_FLOOR_S = 2.0, 0.25
HEAD = (
    "| failure | calls/s | errors % | p50 ms | p99 ms | last error, s into it | normal after, s |"
    " pages said | unseen, s | posts | lost | twice | wrong pages |"
)


class Call(NamedTuple):
    """One call that came to an end; times of `time.monotonic`."""

    kind: str
    phase: str
    began_s: float
    took_s: float
    status: str
    said: str  # of a page, by its receipt
    details: str

    @property
    def failed(self) -> bool:
        return self.status != "OK"


@dataclass(slots=True)
class Figures:
    """Of one failure, from `began_s` until it was healed."""

    name: str
    calls: list[Call]
    began_s: float
    healed_s: float
    posts: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    late_s: float = 0.0  # the longest that an acknowledged post was on no page yet
    note: str = ""

    def of(self, phase: str) -> list[Call]:
        return [one for one in self.calls if one.phase == phase]

    def failures(self, phase: str, *, but: tuple[str, ...] = ()) -> Counter[str]:
        """Failed calls by kind and status."""
        return Counter(
            f"{one.kind} {one.status}"
            for one in self.of(phase)
            if one.failed and one.status not in but
        )

    def example(self, phase: str) -> str:
        """What the most frequent kind of failure said."""
        said = Counter(one.details[:120] for one in self.of(phase) if one.failed)
        return str(said.most_common(3))

    def last_error_s(self) -> float:
        """Seconds from the failure to the end of the last failed call while it lasted."""
        ends = [one.began_s + one.took_s for one in self.of("during") if one.failed]
        return max(ends, default=self.began_s) - self.began_s

    def recovery_s(self) -> float:
        """Seconds from the healing until calls were as before, and stayed so."""
        limit_s = max(SLOW_FACTOR * quantile(self.of("before"), 0.99), SLOW_FLOOR_S)
        bad_s = 0.0
        windows: dict[int, list[Call]] = {}
        for one in self.of("after"):
            windows.setdefault(int((one.began_s - self.healed_s) / WINDOW_S), []).append(one)
        for number, calls in windows.items():
            # one slow call of some tens is the machine's
            slow = sum(one.took_s > limit_s for one in calls)
            if any(one.failed for one in calls) or slow > max(1, len(calls) // 20):
                bad_s = max(bad_s, (number + 1) * WINDOW_S)
        return bad_s

    def line(self) -> str:
        """A row of the table under HEAD."""
        said: Counter[str] = Counter(one.said for one in self.of("during") if one.said)
        total = sum(said.values()) or 1
        pages = ", ".join(
            f"{name} {100 * count / total:.0f} %" for name, count in said.most_common(3)
        )
        cells = [
            self.name + (f" ({self.note})" if self.note else ""),
            self._each(lambda calls, s: f"{len(calls) / s:.0f}"),
            self._each(
                lambda calls, _: f"{100 * sum(one.failed for one in calls) / len(calls):.1f}"
            ),
            self._each(lambda calls, _: f"{1e3 * quantile(calls, 0.5):.0f}"),
            self._each(lambda calls, _: f"{1e3 * quantile(calls, 0.99):.0f}"),
            f"{self.last_error_s():.1f}" if self.failures("during") else "none",
            f"{self.recovery_s():.0f}",
            pages,
            f"{self.late_s:.1f}",
            *map(str, (self.posts, self.lost, self.twice, self.wrong)),
        ]
        return "| " + " | ".join(cells) + " |"

    def _each(self, figure) -> str:
        found = []
        for phase in PHASES:
            calls = [one for one in self.of(phase) if not one.kind.endswith("again")]
            if not calls:
                found.append("-")
                continue
            begins = [one.began_s for one in calls]
            found.append(figure(calls, max(max(begins) - min(begins), 1e-3)))
        return " / ".join(found)

    def report(self) -> str:
        """The line, which goes to the file of FEEDCORE_REPORT, too."""
        line = self.line()
        path = os.environ.get("FEEDCORE_REPORT")
        if path:
            table = Path(path)
            new = not table.exists()
            with table.open("a") as file:
                if new:
                    rule = "|" + " --- |" * HEAD.count(" | ") + " --- |"
                    file.write(f"{HEAD}\n{rule}\n")
                file.write(f"{line}\n")
        return line


def quantile(calls: list[Call], share: float) -> float:
    """Of the time that calls took, failed ones included; 0.0 without calls."""
    times = sorted(one.took_s for one in calls if not one.kind.endswith("again"))
    return times[min(int(share * len(times)), len(times) - 1)] if times else 0.0
