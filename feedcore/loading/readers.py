"""Files to rows, line by line: edge lists, CSV with a header, JSON lines; plain or gzip, told by
content.

Invariants: memory is bounded by one line; a bad line is yielded as `BadLine` and never stops the
file; what makes the whole file unreadable raises `SourceError`. Not for judging times: the loader
shifts them first.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from feedcore.errors import Fault, FeedcoreError
from feedcore.loading import rows
from feedcore.loading.rows import BadRow
from feedcore.services.importing import InteractionRow, PostRow

GZIP_MAGIC = b"\x1f\x8b"
# csv's own default: ten times the longest body; an unclosed quote ends there
FIELD_CHARS_MAX = 131_072
# a JSON line with every character escaped stays below; longer is no text file
LINE_CHARS_MAX = 1_048_576
SEPARATORS = re.compile(r"[\t ,]+")
HEADER_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_ ]*")

Row = TypeVar("Row")


class SourceError(FeedcoreError):
    """A file that cannot be read at all; the message names it and the reason."""

    fault = Fault.CALLER
    status = "invalid_argument"


class BadLine(NamedTuple):
    """A line that was left out."""

    file: str
    line: int
    reason: str


class Line(NamedTuple):
    """A parsed row and where it stood."""

    line: int
    row: Any


class Source:
    """One input file. `position()` counts bytes of the file on disk, for progress."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                self._gzip = file.read(2) == GZIP_MAGIC
        except OSError as error:
            raise SourceError(f"{path}: {error.strerror}") from error
        self._raw: IO[bytes] | None = None

    def position(self) -> int:
        """Bytes read so far of this pass."""
        return self._raw.tell() if self._raw is not None and not self._raw.closed else 0

    def lines(self) -> Iterator[str]:
        """Decoded lines with their ends; bytes that are not UTF-8 become lone surrogates, which
        rows refuse.
        """
        try:
            with self.path.open("rb") as raw:
                self._raw = raw
                stream = gzip.GzipFile(fileobj=raw) if self._gzip else raw
                text = io.TextIOWrapper(
                    stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
                )
                while line := text.readline(LINE_CHARS_MAX):
                    yield line
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"{self.path}: cannot be read to its end: {error}") from error

    def edges(self) -> Iterator[Line | BadLine]:
        """Rows of an edge list; empty lines, lines that begin with # and a header are skipped."""
        first = True
        for number, line in enumerate(self.lines(), 1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            parts = [part for part in SEPARATORS.split(text) if part]
            header = first and all(HEADER_WORD.fullmatch(part) for part in parts)
            first = False
            if header:
                continue
            if len(parts) < 2:
                yield BadLine(self.name, number, f"{len(parts)} column; an edge needs two ids")
                continue
            yield self._parsed(number, lambda pair: rows.parse_edge(*pair), parts[:2])

    def posts(self) -> Iterator[Line | BadLine]:
        """PostRow of each record."""
        return self._records(rows.parse_post, rows.POST_COLUMNS)

    def interactions(self) -> Iterator[Line | BadLine]:
        """InteractionRow of each record."""
        return self._records(rows.parse_interaction, rows.INTERACTION_COLUMNS)

    def _records(
        self, parse: Callable[[dict[str, Any]], Row], required: tuple[str, ...]
    ) -> Iterator[Line | BadLine]:
        lines = self.lines()
        first = next(lines, "")
        if not first:
            return
        records = self._json if first.lstrip().startswith("{") else self._csv
        for number, record in records(first, lines, required):
            if isinstance(record, str):
                yield BadLine(self.name, number, record)
            else:
                yield self._parsed(number, parse, record)

    def _parsed(self, number: int, parse: Callable[[Any], Row], value: Any) -> Line | BadLine:
        try:
            return Line(number, parse(value))
        except BadRow as error:
            return BadLine(self.name, number, str(error))

    def _json(
        self, first: str, rest: Iterator[str], required: tuple[str, ...]
    ) -> Iterator[tuple[int, dict[str, Any] | str]]:
        for number, line in enumerate(itertools.chain([first], rest), 1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON: {error}"
                continue
            if isinstance(value, dict):
                yield number, _renamed(value)
            else:
                yield number, f"not a JSON object but {type(value).__name__}"

    def _csv(
        self, first: str, rest: Iterator[str], required: tuple[str, ...]
    ) -> Iterator[tuple[int, dict[str, Any] | str]]:
        csv.field_size_limit(FIELD_CHARS_MAX)
        reader = csv.reader(itertools.chain([first], rest), strict=True)
        header = next(reader)
        names = [_canonical(name) for name in header]
        lacking = [name for name in required if name not in names]
        if lacking:
            wanted = "; ".join("/".join(rows.ALIASES[name]) for name in lacking)
            raise SourceError(
                f"{self.path}: the header has no column {wanted} (it has: {', '.join(header)})"
            )
        while True:
            number = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, f"not CSV: {error}"
                continue
            if not values:
                continue
            if len(values) != len(names):
                yield number, f"{len(values)} columns; the header has {len(names)}"
                continue
            yield number, dict(zip(names, values, strict=True))


def newest_time(source: Source, records: Iterator[Line | BadLine]) -> int:
    """The newest `at_ms` of the file, 0 if it has no good row: the first pass of
    --rebase-newest-to.
    """
    newest = 0
    for item in records:
        if isinstance(item, Line) and isinstance(item.row, PostRow | InteractionRow):
            newest = max(newest, item.row.at_ms)
    return newest


def _canonical(name: str) -> str:
    wanted = name.strip().lower()
    for ours, aliases in rows.ALIASES.items():
        if wanted in aliases:
            return ours
    return wanted


def _renamed(record: dict[str, Any]) -> dict[str, Any]:
    return {_canonical(str(name)): value for name, value in record.items()}
