"""`bench`: the load benchmark, for people who have the sources."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from feedcore.errors import FailedPrecondition

if TYPE_CHECKING:
    from feedcore_bench.results import Results
    from feedcore_bench.server import Series

NEEDS = (
    "the load benchmark belongs to the sources: run it in the project's folder after `make build`"
)
REPORTS = {"embedded": "load", "cluster": "cluster"}
SPARK = "▁▂▃▄▅▆▇█"
SPARKS_SHOWN = 40  # samples of a quarter of a second


@click.command(
    epilog="""
\b
Examples:
  feedcore bench --small
  feedcore bench mixed warm --seconds 10
  feedcore bench --full --out benchmarks/results
  feedcore bench mixed --graph follows.tsv.gz
"""
)
@click.argument("scenarios", nargs=-1)
@click.option("--small", "size", flag_value="small", default=True, help="Minutes; the default.")
@click.option("--full", "size", flag_value="full", help="The run whose numbers count.")
@click.option("--tiny", "size", flag_value="tiny", help="Checks answers, not times.")
@click.option(
    "--profile",
    type=click.Choice(["embedded", "cluster"]),
    default="embedded",
    show_default=True,
    help="Engines; cluster: of FEEDCORE_TEST_REDIS, _KAFKA, _CASSANDRA, or started for it.",
)
@click.option("--users", type=click.IntRange(100), help="People in the world.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True)
@click.option(
    "--graph",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Follows of a file in place of made-up ones: follower, followee.",
)
@click.option("--seconds", type=click.FloatRange(0.2), help="Length of each phase.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the report: Markdown, JSON, HTML.",
)
def bench(
    scenarios: tuple[str, ...],
    size: str,
    profile: str,
    users: int | None,
    seed: int,
    graph: Path | None,
    seconds: float | None,
    out: Path | None,
) -> int:
    """Load servers of its own as people would, and check every answer.

    SCENARIOS: hot, mixed, warm, cold, stampede, visible, fanout, overload, memory, soak, workers,
    size, ceiling; of the cluster profile hot, mixed, warm, cold, visible, fanout. All if none is
    named. Exit code 1 for wrong answers, not for missed speed.
    """
    try:
        from feedcore_bench import report, run
    except ImportError as error:
        raise FailedPrecondition(f"{NEEDS} ({error})") from error
    known = run.scenarios_of(profile)
    unknown = sorted(set(scenarios) - set(known))
    if unknown:
        raise click.UsageError(f"no scenario {unknown[0]!r}; there are: {', '.join(known)}")
    options = run.options_of(size, seed, users or 0, seconds or 0.0, str(graph or ""), profile)
    console = Console(highlight=False)
    with Live(Text(""), console=console, transient=True, auto_refresh=False) as live:

        def echo(text: str) -> None:
            console.print(text, markup=False)

        def tell(name: str, seen: Series) -> None:
            if console.is_terminal:
                live.update(progress_line(name, seen), refresh=True)

        try:
            results = run.run(scenarios, options, echo, tell)
        except (RuntimeError, ModuleNotFoundError) as error:
            raise FailedPrecondition(f"the load benchmark cannot run: {error}") from error
    if size == "tiny":
        click.echo(f"load benchmark, tiny: {results.machine['pages judged']} pages judged")
    else:
        show(results, report.verdict_table(results))
    if out is not None:
        for path in report.write(results, out, f"{results.machine['date']}-{REPORTS[profile]}"):
            click.echo(str(path))
    return outcome(results)


def show(results: Results, table: list[str]) -> None:
    """The table, then what must be known to read it."""
    click.echo("\n" + "\n".join(table) + "\n")
    for scenario, notes in results.notes.items():
        for note in notes:
            click.echo(f"  {scenario}: {note}")


def progress_line(name: str, seen: Series) -> Text:
    """Now: calls a second, how they went lately, CPU of each process."""
    lately = seen.calls[-SPARKS_SHOWN:]
    most = max([*lately, 1.0])
    sparks = "".join(SPARK[int((len(SPARK) - 1) * value / most)] for value in lately)
    cpu = "  ".join(f"{who} {values[-1]:.0%}" for who, values in seen.cpu.items())
    return Text(f"{name:<28} {lately[-1]:>9,.0f} calls/s {sparks:<{SPARKS_SHOWN}} {cpu}")


def outcome(results: Results) -> int:
    """1 for wrong answers and failed scenarios; says what they were."""
    for name, count in results.wrong_counts.items():
        click.echo(f"WRONG: {name}: {count:,}", err=True)
    for one in results.wrong[:5]:
        click.echo(
            f"  {one['scenario']}: {one['what']}: {one['detail']}; user {one['user']}, session"
            f" {one['session']}, {one['method']} {one['request']}",
            err=True,
        )
    for name, reason in results.failures.items():
        click.echo(f"FAILED: {name}: {reason}", err=True)
    return 1 if results.wrong_counts or results.failures else 0
