"""Markdown, JSON and SVG of one run.

    python -m benchmarks.transport.report benchmarks/results/DATE-transport.json

makes the Markdown and the picture again from a run's JSON, without measuring.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.transport import chart, goals
from benchmarks.transport.load import DISTURBED
from benchmarks.transport.matrix import MAIN_SIZE, Row, size_name
from benchmarks.transport.results import Results

FULL_CORE = 0.95  # busy for so much of the time: a core that has nothing left to give


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def verdict(results: Results) -> list[str]:
    """The goals, one a line of a table."""
    rows = [(goal.what, goal.wanted, goal.measured, goal.verdict) for goal in goals.judge(results)]
    return table(("what", "wanted", "measured", "verdict"), rows)


def summary(results: Results) -> list[str]:
    """Replies a second at the main size: servers down, rows across. The README's table."""
    rows = results.rows()
    lines = []
    for name in results.names():
        rates = [results.median(name, row, MAIN_SIZE, "replies_s") for row in rows]
        p50 = next(
            (
                value
                for row in rows
                if (value := results.median(name, row, MAIN_SIZE, "p50_us")) is not None
            ),
            None,
        )
        cells = ["" if rate is None else f"{rate:,.0f}" for rate in rates]
        lines.append([name, *cells, "" if p50 is None else f"{p50:.0f} us"])
    return table(("server", *(row.name for row in rows), "p50 at 1x1"), lines)


def _range(values: dict[int, float]) -> str:
    return f"{min(values.values()):,.0f}-{max(values.values()):,.0f}" if values else ""


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _cores(results: Results, name: str, row: Row, size: int, what: str) -> str:
    value = results.median(name, row, size, what)
    return "" if value is None else f"{value * 100:.0f} %"


def _latency(results: Results, name: str, row: Row, size: int) -> str:
    p50, p99 = (results.median(name, row, size, what) for what in ("p50_us", "p99_us"))
    if p50 is not None and p99 is not None:
        return f"p50 {p50:.0f}, p99 {p99:.0f}"
    mean = results.median(name, row, size, "mean_us")
    return "" if mean is None else f"mean {mean:,.0f}"


def _note(results: Results, name: str, row: Row, size: int) -> str:
    server, load, others = (
        results.median(name, row, size, f"cpu_{what}") or 0.0
        for what in ("server", "load", "others")
    )
    notes = []
    if load >= FULL_CORE > server:
        notes.append("h2load was the limit")
    if others >= DISTURBED:
        notes.append("disturbed")
    return "; ".join(notes)


def cell_table(results: Results, row: Row, size: int) -> list[str]:
    """All servers at one row and size."""
    lines = []
    for name in results.names():
        rates = results.values(name, row, size, "replies_s")
        if not rates:
            continue
        lines.append(
            (
                name,
                f"{results.median(name, row, size, 'replies_s'):,.0f}",
                _range(rates),
                _times(results.ratio(name, goals.AIO, row, size)),
                _times(results.ratio(name, goals.STATIC, row, size)),
                _latency(results, name, row, size),
                _cores(results, name, row, size, "cpu_server"),
                _cores(results, name, row, size, "cpu_load"),
                _cores(results, name, row, size, "cpu_others"),
                _note(results, name, row, size),
            )
        )
    head = ("server", "replies/s", "min-max", f"x {goals.AIO}", f"x {goals.STATIC}")
    cpu = ("CPU server", "CPU h2load", "CPU others")
    return table((*head, "latency, us", *cpu, "note"), lines)


def _contestants(results: Results) -> list[str]:
    lines = [
        f"- **{one['name']}**: {one['what']} ({one['version']})" for one in results.contestants
    ]
    return lines + [f"- **{name}**: not built: {how}" for name, how in results.lacking.items()]


def _idle(results: Results) -> list[str]:
    if not results.idle:
        return []
    rows = [
        (
            one["server"],
            f"{one['connections']:,}",
            f"{one['before_bytes'] / 1e6:.1f} MB",
            f"{one['after_bytes'] / 1e6:.1f} MB",
            f"{one['bytes_each'] / 1024:.1f} KB",
        )
        for one in results.idle
    ]
    head = ("server", "idle connections", "resident before", "after", "each")
    return ["", "## Idle connections", "", *table(head, rows)]


def _faults(results: Results) -> list[str]:
    if not results.faults:
        return []
    return ["## Refused", "", *(f"- {fault}" for fault in results.faults), ""]


def _disturbed(results: Results) -> str:
    count = sum(sample.cpu_others >= DISTURBED for sample in results.samples)
    return f"{count} of {len(results.samples)} samples stayed above it"


def markdown(results: Results) -> str:
    """The whole report."""
    machine, options = results.machine, results.options
    lines = [
        f"# Transport benchmark, {machine['date']}",
        "",
        f"{machine['line']}; {machine['tools']}.",
        "",
        f"Server on core {options['server_core']}, h2load on core {options['load_core']}; "
        f"{options['rounds']} rounds of {options['seconds']:g} s a cell, servers in turn; requests "
        "of 10 bytes. Rates are medians over the rounds; ratios are medians of the ratios within a "
        "round. CPU is of one core; *others* is all else on the machine, both cores together. A "
        f"cell in which others took more than {DISTURBED:.0%} was measured up to "
        f"{options['again']} times more, and the least disturbed of them counts; "
        f"{_disturbed(results)}.",
        "",
        *_faults(results),
        "## Goals",
        "",
        *verdict(results),
        "",
        f"## Replies a second, {size_name(MAIN_SIZE)}",
        "",
        *summary(results),
        "",
        "## Servers",
        "",
        *_contestants(results),
    ]
    for size in results.sizes():
        for row in results.rows():
            if any((sample.row, sample.size) == (row.name, size) for sample in results.samples):
                lines += ["", f"## {row.name}, {size_name(size)}", ""]
                lines += cell_table(results, row, size)
    return "\n".join([*lines, *_idle(results)]) + "\n"


def write(results: Results, folder: Path, name: str) -> list[Path]:
    """Writes name.md, name.json and name.svg; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("md", "json", "svg")]
    paths[0].write_text(markdown(results), encoding="utf-8")
    results.save(paths[1])
    paths[2].write_text(chart.draw(results), encoding="utf-8")
    return paths


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        given = Path(argument)
        write(Results.load(given), given.parent, given.stem)
