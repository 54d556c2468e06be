"""Transport benchmark: our server beside grpc.aio, nghttpd, tonic, grpc-go and gRPC C++.

    python -m benchmarks.transport [--rounds 5] [--seconds 3] [--small] ...

One server process on one core, h2load on another; the same bytes from every server; each round
visits every server in turn. Needs h2load (apt-get install nghttp2-client); nghttpd (nghttp2-server)
and openssl where they are to be measured; peers are built by `python -m benchmarks.transport.build`
(cargo, go, or g++ with libgrpc++-dev). What is not there is named in the report and left out.

Results go to benchmarks/results/DATE-transport.md, .json and .svg. --small takes one short round of
two rows with whatever servers are there, checks results and not times, and keeps nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import click
import grpc

from benchmarks.micro.report import machine
from benchmarks.transport import build, goals, idle, load, matrix, report
from benchmarks.transport.matrix import Cell, Row
from benchmarks.transport.results import Results
from benchmarks.transport.servers import Files, Running, Server, contestants, running

RESULTS = build.ROOT / "benchmarks" / "results"
SMALL_SECONDS, SMALL_IDLE = 0.3, 200


@dataclass(frozen=True)
class Plan:
    """What one run does."""

    cells: Sequence[Cell]
    rounds: int
    seconds: float
    idle: int
    server_core: int
    load_core: int
    again: int  # how often a disturbed cell is measured anew


def plan_cells(
    servers: Sequence[Server], rows: Sequence[Row], sizes: Sequence[int]
) -> list[list[Cell]]:
    """Cells in groups of one row and size each, all servers of a group in turn."""
    groups = []
    for size in sizes:
        for row in rows:
            if size != matrix.MAIN_SIZE and row in matrix.ROWS and row not in matrix.SIDE_ROWS:
                continue
            groups.append([Cell(one.name, row, size) for one in servers if one.covers(row, size)])
    return [group for group in groups if group]


def _measure(
    cell: Cell, number: int, live: dict[str, Running], files: Files, plan: Plan
) -> load.Sample:
    """One sample; more, if others used the machine meanwhile, and then the least disturbed one.
    It is chosen by what others did, never by what it shows."""
    best = None
    for _ in range(1 + plan.again):
        sample = load.measure(cell, number, live[cell.server], files, plan.seconds, plan.load_core)
        if best is None or sample.cpu_others < best.cpu_others:
            best = sample
        if best.cpu_others < load.DISTURBED:
            break
    assert best is not None
    return best


def run_rounds(
    groups: list[list[Cell]], live: dict[str, Running], files: Files, plan: Plan, results: Results
) -> None:
    """Measures every cell once a round; another server begins in each round. What was refused is
    kept as a fault: the other cells are worth measuring, and the run fails at its end."""
    for number in range(plan.rounds):
        for group in groups:
            first = number % len(group)
            for cell in group[first:] + group[:first]:
                try:
                    sample = _measure(cell, number, live, files, plan)
                except load.Refused as fault:
                    where = f"{cell.server}, {cell.row.name}, {matrix.size_name(cell.size)}"
                    results.faults.append(f"{where}, round {number + 1}: {fault}")
                    click.echo(f"  REFUSED {results.faults[-1]}", err=True)
                    continue
                results.samples.append(sample)
                click.echo(
                    f"  {number + 1}/{plan.rounds} {sample.row:>6} {sample.size:>6} "
                    f"{sample.server:<22} {sample.replies_s:>10,.0f}/s  CPU server "
                    f"{sample.cpu_server:4.0%} h2load {sample.cpu_load:4.0%} "
                    f"others {sample.cpu_others:4.0%}"
                )


def run_idle(servers: Sequence[Server], files: Files, plan: Plan, results: Results) -> None:
    """Idle connections on a new process of our fast server and of grpc.aio."""
    count = min(plan.idle, idle.files_allowed())
    for server in servers:
        if server.name in (goals.FAST, goals.AIO) and count > 0:
            with running(server, files, plan.server_core) as target:
                found = idle.measure(target, files, count)
            results.idle.append(found.as_dict())
            click.echo(
                f"  {found.connections:,} idle connections on {found.server}: "
                f"{found.bytes_each / 1024:.1f} KB each"
            )


def _describe(servers: Sequence[Server], plan: Plan) -> Results:
    done = subprocess.run(["h2load", "--version"], check=True, capture_output=True, text=True)
    changed = subprocess.run(
        ["git", "-C", str(build.ROOT), "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    present = [one for one in servers if not one.lacking()]
    return Results(
        machine={
            "line": machine() + (" with changes" if changed else ""),
            "tools": f"{done.stdout.strip()}, grpcio {grpc.__version__}",
            "date": time.strftime("%Y-%m-%d"),
        },
        options={
            "rounds": plan.rounds,
            "seconds": plan.seconds,
            "server_core": plan.server_core,
            "load_core": plan.load_core,
            "again": plan.again,
        },
        contestants=[
            {"name": one.name, "what": one.what, "version": one.version(), "ours": one.ours}
            for one in present
        ],
        lacking={one.name: one.lacking() for one in servers if one.lacking()},
    )


def run(servers: Sequence[Server], groups: list[list[Cell]], plan: Plan) -> Results:
    """Starts all servers, measures, ends them."""
    results = _describe(servers, plan)
    for name, how in results.lacking.items():
        click.echo(f"{name}: not built: {how}")
    present = [one for one in servers if one.name in results.names()]
    with tempfile.TemporaryDirectory(prefix="bench-transport-") as folder:
        files = Files.make(Path(folder))
        with contextlib.ExitStack() as stack:
            live = {
                one.name: stack.enter_context(running(one, files, plan.server_core))
                for one in present
            }
            run_rounds(groups, live, files, plan, results)
        run_idle(present, files, plan, results)
    return results


def check_small(results: Results) -> None:
    """The small run: every server answered in every cell, and the reports can be made of it."""
    assert results.samples and all(sample.replies > 0 for sample in results.samples)
    assert all(one["after_bytes"] > 0 for one in results.idle)
    with tempfile.TemporaryDirectory() as folder:
        text, data, picture = report.write(results, Path(folder), "small")
        assert Results.load(data) == results
        assert all(name in text.read_text() for name in results.names())
        assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def _choose(names: str, servers: Sequence[Server]) -> list[Server]:
    if not names:
        return list(servers)
    wanted = [name.strip() for name in names.split(";") if name.strip()]
    unknown = sorted(set(wanted) - {one.name for one in servers})
    if unknown:
        known = "; ".join(one.name for one in servers)
        raise click.BadParameter(f"no server {unknown[0]!r}; there are: {known}")
    return [one for one in servers if one.name in wanted]


def _cores(server_core: int | None, load_core: int | None) -> tuple[int, int]:
    allowed = sorted(os.sched_getaffinity(0))
    # Interrupts mostly arrive on the first core: the load generator has more to spare for them.
    server = allowed[-1] if server_core is None else server_core
    generator = allowed[0] if load_core is None else load_core
    if server == generator:
        click.echo("one core for server and load: the numbers say little", err=True)
    return server, generator


def _rows(_context: click.Context, _option: click.Parameter, text: str) -> list[Row]:
    try:
        return [Row.parse(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _sizes(_context: click.Context, _option: click.Parameter, text: str) -> list[int]:
    sizes = [int(part) for part in text.split(",") if part.isdecimal()]
    if not sizes or set(sizes) - set(matrix.SIZES):
        raise click.BadParameter(f"sizes are among {', '.join(map(str, matrix.SIZES))}")
    return sizes


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n"))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--seconds", default=3.0, show_default=True, help="a cell, after the warm-up")
@click.option("--servers", default="", help="names, separated by semicolons; all if not given")
@click.option(
    "--rows",
    default=",".join(r.name for r in matrix.ROWS),
    callback=_rows,
    show_default=True,
    help="connections x streams",
)
@click.option(
    "--sizes",
    default=",".join(map(str, matrix.SIZES)),
    callback=_sizes,
    show_default=True,
    help="bytes of a reply",
)
@click.option(
    "--idle",
    "idle_count",
    default=idle.CONNECTIONS,
    show_default=True,
    help="idle connections to hold; 0: none",
)
@click.option("--server-core", type=int, help="core of the server; the last if not given")
@click.option("--load-core", type=int, help="core of h2load; the first if not given")
@click.option(
    "--again",
    default=1,
    show_default=True,
    help="times that a cell is measured anew while others use the machine",
)
@click.option("--out", default=RESULTS, type=click.Path(path_type=Path), help="folder of results")
@click.option("--small", is_flag=True, help="one short round: checks results, not times")
def main(
    rounds: int,
    seconds: float,
    servers: str,
    rows: list[Row],
    sizes: list[int],
    idle_count: int,
    server_core: int | None,
    load_core: int | None,
    again: int,
    out: Path,
    small: bool,
) -> None:
    """Command line."""
    if shutil.which("h2load") is None:
        words = "h2load is missing: apt-get install nghttp2-client"
        if os.environ.get("CI") == "true":
            sys.exit(words)
        click.echo(f"transport: SKIPPED, {words}")
        return
    if small:
        rows, sizes = [matrix.ONE_BY_ONE, matrix.MIDDLE], [matrix.MAIN_SIZE]
        rounds, seconds, idle_count, again = 1, SMALL_SECONDS, SMALL_IDLE, 0
    chosen = _choose(servers, contestants())
    groups = plan_cells([one for one in chosen if not one.lacking()], rows, sizes)
    plan = Plan(
        [cell for group in groups for cell in group],
        rounds,
        seconds,
        idle_count,
        *_cores(server_core, load_core),
        again,
    )
    minutes = matrix.estimate_s(len(plan.cells), rounds, seconds) / 60
    click.echo(f"{len(plan.cells)} cells, {rounds} rounds: about {minutes:.1f} min of measuring")
    idle.files_allowed()
    results = run(chosen, groups, plan)
    if small:
        check_small(results)
    else:
        _finish(results, out)
    if results.faults:
        sys.exit("\n".join(["not measured:", *results.faults]))
    if small:
        click.echo("transport small: ok")


def _finish(results: Results, out: Path) -> None:
    """Writes the results and prints the verdict."""
    paths = report.write(results, out, f"{results.machine['date']}-transport")
    click.echo("\n" + "\n".join(report.verdict(results)) + "\n")
    click.echo("\n".join(report.summary(results)) + "\n")
    click.echo("\n".join(str(path) for path in paths))


if __name__ == "__main__":
    main()
