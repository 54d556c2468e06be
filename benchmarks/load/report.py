"""The Markdown of a run, and the files of a report.

    python -m feedcore_bench.report RESULTS.json

makes Markdown and HTML again from a run's JSON, without measuring.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from feedcore_bench import goals, html
from feedcore_bench.goals import number
from feedcore_bench.results import PERCENTILES, Phase, Results


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def verdict_rows(results: Results) -> list[tuple[str, str, str, str, str]]:
    """(scenario, what, wanted, measured, verdict); rows of what was not run are left out if the
    run was of named scenarios only."""
    chosen = results.options.get("scenarios") or []
    rows = []
    profile = results.options.get("profile", "embedded")
    for one in goals.judge(results.values, results.spoiled, profile):
        if chosen and one.goal.scenario not in chosen:
            continue
        if one.measured is None and one.goal.bound is None:
            continue
        text = "" if one.measured is None else f"{number(one.measured)} {one.goal.unit}"
        verdict = one.text
        if one.measured is None and one.goal.scenario in results.failures:
            verdict = f"not measured: {results.failures[one.goal.scenario]}"
        rows.append((one.goal.scenario, one.goal.what, goals.wanted(one.goal), text, verdict))
    return rows


def verdict_table(results: Results) -> list[str]:
    """The table at the end of a run."""
    return table(("scenario", "what", "wanted", "measured", "verdict"), verdict_rows(results))


def phase_table(phases: Sequence[Phase]) -> list[str]:
    """Rates and latencies of phases, one a row."""
    rows = [
        (
            phase.name,
            "closed" if phase.offered is None else f"{phase.offered:,.0f}/s",
            f"{phase.rate:,.0f}",
            *(f"{phase.ms(percent):.2f}" for percent in PERCENTILES),
            f"{phase.max_us / 1_000:.1f}",
            f"{phase.series.mean_cpu('worker 0'):.0%}",
            f"{phase.series.cpu_us_a_call('worker 0'):.1f}",
            f"{phase.series.mean_cpu('fan-out'):.0%}",
            f"{phase.series.mean_cpu('generator'):.0%}",
            f"{phase.series.mean_others():.2f}",
            f"{phase.lateness_us / 1_000:.2f}",
            " ".join(f"{code}: {count:,}" for code, count in phase.statuses.items()),
        )
        for phase in phases
    ]
    head = ["phase", "offered", "calls/s", *(f"p{percent:g} ms" for percent in PERCENTILES)]
    head += [
        "max ms",
        "CPU worker",
        "us a call",
        "CPU fan-out",
        "CPU generator",
        "others, cores",
        "sent late, p99 ms",
        "statuses",
    ]
    return table(head, rows)


def method_table(phase: Phase) -> list[str]:
    """Calls by method."""
    rows = [
        (name, f"{one['calls']:,.0f}", f"{one['p50_us'] / 1e3:.2f}", f"{one['p99_us'] / 1e3:.2f}")
        for name, one in phase.methods.items()
    ]
    return table((f"method, {phase.name}", "calls", "p50 ms", "p99 ms"), rows)


def _wrong(results: Results) -> list[str]:
    if not results.wrong_counts:
        return ["No wrong answer.", ""]
    lines = ["## Wrong answers", ""]
    lines += [f"- {name}: {count:,}" for name, count in results.wrong_counts.items()]
    lines += ["", "The first of them:", ""]
    for one in results.wrong:
        lines.append(
            f"- {one['scenario']}: {one['what']}: {one['detail']} (user {one['user']}, session "
            f"{one['session']}, {one['method']} `{one['request']}`)"
        )
    return [*lines, ""]


def markdown(results: Results) -> str:
    """The whole report."""
    machine = results.machine
    lines = [f"# Load benchmark, {machine['date']}", "", f"{machine['line']}.", ""]
    lines += [f"{name}: {value}. " for name, value in machine.items() if name not in HEAD]
    lines += ["", "Options: " + ", ".join(f"{k} {v}" for k, v in results.options.items()), ""]
    lines += [*verdict_table(results), "", *_wrong(results)]
    for name, world in results.worlds.items():
        facts = ", ".join(f"{key} {_fact(value)}" for key, value in world.items())
        lines += [f"World of {name}: {facts}.", ""]
    for scenario in results.scenarios():
        lines += [f"## {scenario}", ""]
        lines += [f"- {note}" for note in results.notes.get(scenario, [])]
        if scenario in results.failures:
            lines.append(f"- failed: {results.failures[scenario]}")
        phases = results.of(scenario)
        if phases:
            lines += ["", *phase_table(phases), ""]
            lines += [_each_second(phase) + "\n" for phase in phases if phase.offered is not None]
        for phase in phases:
            if len(phase.methods) > 1:
                lines += [*method_table(phase), ""]
            if phase.tiers:
                lines.append(f"Server, {phase.name}: " + _tiers(phase) + "\n")
        lines.append("")
    return "\n".join(lines) + "\n"


HEAD = ("date", "line")


def _fact(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _each_second(phase: Phase) -> str:
    seconds = " ".join(f"{p99_us / 1_000:.3g}" for *_, p99_us, _ in phase.each_second)
    return f"p99 of each second, {phase.name}, ms: {seconds}"


def _tiers(phase: Phase) -> str:
    return ", ".join(f"{name} {value:,.0f}" for name, value in phase.tiers.items())


def write(results: Results, folder: Path, name: str) -> list[Path]:
    """Writes name.md, name.json and name.html; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("md", "json", "html")]
    paths[0].write_text(markdown(results), encoding="utf-8")
    results.save(paths[1])
    paths[2].write_text(html.page(results), encoding="utf-8")
    return paths


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        given = Path(argument)
        write(Results.load(given), given.parent, given.stem)
