"""Drives a bulk load: files in the order follows, mutes, posts, interactions; shifts times; counts
and reports.

Invariants: every line of every file is counted once, as applied, unchanged, expired or bad; memory
is bounded by the batches under way. Interrupted, the same command continues: what is there already
is counted as unchanged, and `state` keeps the time shift, so that both runs move the posts by the
same amount. Not for deciding what a row means: the import service does that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from feedcore import limits
from feedcore.loading.batches import Batch, in_batches
from feedcore.loading.readers import BadLine, Line, Source, newest_time
from feedcore.loading.rows import BadRow, check_not_future, too_old
from feedcore.services.importing import ImportOutcome, InteractionRow, PostRow

BAD_LINES_SHOWN = 20  # enough to see what is wrong with a file; all are counted
SHIFT_AGE_MAX_MS = limits.DAY_MS  # an older interrupted load is another load


class Sink(Protocol):
    """Where batches go."""

    def stream(self, batches: Iterator[Batch]) -> AsyncIterator[tuple[Batch, ImportOutcome]]:
        """Sends the batches in order and yields each with its receipt."""


@dataclass(slots=True)
class FileReport:
    """What became of the lines of one file."""

    list_name: str
    file: str
    rows: int = 0
    applied: int = 0
    unchanged: int = 0
    expired: int = 0
    bad: int = 0
    shown: list[BadLine] = field(default_factory=list)

    def add_bad(self, bad: BadLine) -> None:
        """Counts a bad line and keeps the first ones."""
        self.bad += 1
        if len(self.shown) < BAD_LINES_SHOWN:
            self.shown.append(bad)

    def add_receipt(self, batch: Batch, receipt: ImportOutcome) -> None:
        """Counts the answer to one batch; refused rows become bad lines."""
        self.applied += receipt.applied
        self.unchanged += receipt.unchanged
        for refusal in receipt.refused:
            lines = batch.lines.get(refusal.list_name, [])
            line = lines[refusal.index] if refusal.index < len(lines) else 0
            self.add_bad(BadLine(self.file, line, refusal.reason))


@dataclass(frozen=True, slots=True)
class Job:
    """What to load. `rebase_ms`: the time the newest post (else interaction) is moved to, None for
    no shift.
    """

    follows: Path | None = None
    mutes: Path | None = None
    posts: Path | None = None
    interactions: Path | None = None
    rebase_ms: int | None = None

    def files(self) -> list[tuple[str, Path]]:
        """(list name, file) in loading order: graph first, so that posts find their followers."""
        named = (
            ("follows", self.follows),
            ("mutes", self.mutes),
            ("posts", self.posts),
            ("interactions", self.interactions),
        )
        return [(name, path) for name, path in named if path is not None]

    def fingerprint(self, target: str) -> str:
        """Names this load: the same files into the same target."""
        parts = [target]
        for name, path in self.files():
            stat = path.stat()
            parts.append(f"{name}={path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


# (list name, bytes of the file read, bytes of the file): called after each batch, and once at 0.
Progress = Callable[[str, int, int], None]


async def load(
    job: Job, sink: Sink, now_ms: int, shift_ms: int, progress: Progress
) -> list[FileReport]:
    """Loads all files; one report each."""
    reports = []
    for list_name, path in job.files():
        source = Source(path)
        report = FileReport(list_name, str(path))
        reports.append(report)
        progress(list_name, 0, source.size)
        rows = _good(source, list_name, report, now_ms, shift_ms)
        async for batch, receipt in sink.stream(in_batches(list_name, rows)):
            report.add_receipt(batch, receipt)
            progress(list_name, source.position(), source.size)
        progress(list_name, source.size, source.size)
    return reports


def find_shift(job: Job) -> int:
    """Milliseconds to add to every time so that the newest one is `rebase_ms`: one pass over the
    files.
    """
    if job.rebase_ms is None:
        return 0
    newest = 0
    if job.posts is not None:
        source = Source(job.posts)
        newest = newest_time(source, source.posts())
    elif job.interactions is not None:
        source = Source(job.interactions)
        newest = newest_time(source, source.interactions())
    return job.rebase_ms - newest if newest else 0


class ShiftMemory:
    """Keeps the shift of a load that is under way in one small file, until `forget`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def recall(self, fingerprint: str, now_ms: int) -> int | None:
        """The shift of the same load if it was interrupted less than a day ago."""
        try:
            state = json.loads(self._file.read_text())
            known, shift_ms, at_ms = str(state["load"]), int(state["shift_ms"]), int(state["at_ms"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None  # no load was interrupted, or its note is torn: the shift is found anew
        if known == fingerprint and 0 <= now_ms - at_ms <= SHIFT_AGE_MAX_MS:
            return shift_ms
        return None

    def remember(self, fingerprint: str, shift_ms: int, now_ms: int) -> None:
        """Written whole or not at all."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        staging = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        staging.write_text(json.dumps({"load": fingerprint, "shift_ms": shift_ms, "at_ms": now_ms}))
        staging.replace(self._file)

    def forget(self) -> None:
        """The load is complete."""
        self._file.unlink(missing_ok=True)


def _good(
    source: Source, list_name: str, report: FileReport, now_ms: int, shift_ms: int
) -> Iterator[Line]:
    """Shifted rows in time; everything else goes into the report."""
    readers = {"posts": source.posts, "interactions": source.interactions}
    for item in readers.get(list_name, source.edges)():
        report.rows += 1
        if isinstance(item, BadLine):
            report.add_bad(item)
            continue
        row = item.row
        if isinstance(row, PostRow | InteractionRow):
            at_ms = row.at_ms + shift_ms
            if too_old(at_ms, now_ms):
                report.expired += 1
                continue
            try:
                check_not_future(at_ms, now_ms)
            except BadRow as error:
                report.add_bad(BadLine(source.name, item.line, str(error)))
                continue
            row = row._replace(at_ms=at_ms)
        yield Line(item.line, row)
