"""`load` and `demo`: files, or a made-up world, into a running server or a store on disk."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click
import grpc.aio
from click.core import ParameterSource
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from feedcore.cli import offline
from feedcore.cli.client import (
    CALL_TIMEOUT_S,
    Server,
    connected,
    examples,
    out,
    server_option,
)
from feedcore.clock import Clock, SystemClock
from feedcore.errors import FailedPrecondition
from feedcore.loading import demo as demo_world
from feedcore.loading.batches import LISTS
from feedcore.loading.loader import FileReport, Job, ShiftMemory, Sink, find_shift
from feedcore.loading.loader import load as load_files
from feedcore.loading.sinks import ServerSink
from feedcore_pb.v1 import admin_pb2, admin_pb2_grpc

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
PROGRESS_EVERY_S = 5.0  # a line each, in a log: a load of an hour has 700
FANOUT_POLL_S = 0.2  # of the demo's wait for fan-out
FANOUT_WAIT_MAX_S = (
    300.0  # far more than 20,000 posts take; readers see everything before that anyway
)


class TimeType(click.ParamType):  # type: ignore[type-arg]  # older click: no generic
    """`now`, milliseconds since 1970, or an ISO 8601 time."""

    name = "now|TIME"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        if isinstance(value, int):
            return value
        if value == "now":
            return SystemClock().now_ms()
        if value.isascii() and value.isdigit():
            return int(value)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} must be now, milliseconds since 1970, or like 2026-01-31T12:00:00Z",
                param,
                ctx,
            )
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1_000)


@click.command(
    epilog="""
\b
Examples:
  feedcore load --follows follows.tsv.gz --posts posts.csv.gz --rebase-newest-to now
  feedcore load --server 10.0.0.7:50051 --mutes mutes.tsv
  feedcore load --data-dir ./data --follows edges.txt --posts posts.jsonl

\b
Formats (gzip is recognised):
  follows, mutes   two ids a line, by tab, space or comma; lines that begin with # are comments
  posts            CSV with header or JSON lines: post_key, author_id, at_ms (created_at_ms),
                   body (text), and optionally likes, comments, shares
  interactions     CSV with header or JSON lines: user_id, kind (like, comment, share, click,
                   hide), at_ms, and post_key with author_id, or content_id
"""
)
@server_option
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Load into this store on disk.",
)
@click.option("--follows", type=FILE, help="Who follows whom: follower, followee.")
@click.option("--mutes", type=FILE, help="Who mutes whom: user, target.")
@click.option("--posts", type=FILE, help="Posts with their times.")
@click.option("--interactions", type=FILE, help="Reactions to posts.")
@click.option(
    "--rebase-newest-to",
    "rebase_ms",
    type=TimeType(),
    help="Shift all times so that the newest post is then. Posts older than 7 days are left out.",
)
@click.option("--strict", is_flag=True, help="Exit code 1 if any line was bad.")
def load(
    server: Server,
    data_dir: Path | None,
    follows: Path | None,
    mutes: Path | None,
    posts: Path | None,
    interactions: Path | None,
    rebase_ms: int | None,
    strict: bool,
) -> int:
    """Load files in bulk. Loading again changes nothing; after Ctrl-C the same command continues.

    Bad lines are left out, counted, and the first 20 of each file shown with number and reason.
    """
    job = Job(follows, mutes, posts, interactions, rebase_ms)
    if not job.files():
        raise click.UsageError(
            "nothing to load: give --follows, --mutes, --posts or --interactions"
        )
    given = click.get_current_context().get_parameter_source("server")
    if data_dir and given is not ParameterSource.DEFAULT:
        raise click.UsageError("--server and --data-dir exclude each other")
    reports = asyncio.run(run_load(job, server, data_dir))
    show_reports(reports)
    return 1 if strict and any(report.bad for report in reports) else 0


async def run_load(job: Job, server: Server, data_dir: Path | None) -> list[FileReport]:
    """Loads into the store if `data_dir` is given, else into the server."""
    now_ms = SystemClock().now_ms()
    target = str(data_dir.resolve()) if data_dir else server.address
    memory = ShiftMemory(note_file(target, data_dir))
    name = job.fingerprint(target)
    shift_ms = memory.recall(name, now_ms)
    if shift_ms is None:
        shift_ms = find_shift(job)
    else:
        click.echo("continuing an interrupted load with its time shift", err=True)
    async with open_sink(server, data_dir) as sink:
        if job.rebase_ms is not None:
            memory.remember(name, shift_ms, now_ms)
        with progress_shown() as advance:
            reports = await load_files(job, sink, now_ms, shift_ms, advance)
    memory.forget()
    return reports


def note_file(target: str, data_dir: Path | None) -> Path:
    """Where the shift of a load under way is kept: with the data, or with the user's other
    state.
    """
    if data_dir is not None:
        return data_dir / "load-under-way.json"
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "feedcore" / f"load-{hashlib.sha256(target.encode()).hexdigest()[:16]}.json"


@asynccontextmanager
async def open_sink(server: Server, data_dir: Path | None) -> AsyncIterator[Sink]:
    """The server's Import call, or the store itself; the store's fan-out is done when this ends."""
    if data_dir is not None:
        async with offline.store_sink(data_dir) as sink:
            yield sink
        return
    async with connected(server, grpc.aio) as channel:
        yield ServerSink(channel)


@contextmanager
def progress_shown() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each list; lines, now and then, where stderr is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield progress_lines(SystemClock())
        return
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def advance(name: str, done: int, total: int) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=max(1, total))
            # An empty file is done at once.
            progress.update(bars[name], completed=done if total else 1, total=max(1, total))

        yield advance


def progress_lines(clock: Clock) -> Callable[[str, int, int], None]:
    """Says where each list is when it begins, every PROGRESS_EVERY_S, and when it is done: the log
    of a load that was killed says how far it came.
    """
    said_s: dict[str, float] = {}

    def advance(name: str, done: int, total: int) -> None:
        now_s = clock.monotonic()
        due = now_s - said_s.get(name, -PROGRESS_EVERY_S) >= PROGRESS_EVERY_S
        if due or done >= total:
            said_s[name] = now_s
            click.echo(f"{name}: {100 if not total else 100 * done // total} %", err=True)

    return advance


def show_reports(reports: list[FileReport]) -> None:
    """One line a file, then the first bad lines."""
    for report in reports:
        parts = [f"{report.applied:,} loaded", f"{report.unchanged:,} there already"]
        if report.expired:
            parts.append(f"{report.expired:,} older than retention")
        if report.bad:
            parts.append(f"{report.bad:,} bad")
        click.echo(f"{report.list_name}: {report.rows:,} rows: {', '.join(parts)}  ({report.file})")
    for report in reports:
        for bad in report.shown:
            click.echo(f"  {bad.file}:{bad.line}: {bad.reason}", err=True)
        if report.bad > len(report.shown):
            click.echo(
                f"  {report.file}: {report.bad - len(report.shown):,} more bad lines", err=True
            )


@click.command(epilog=examples("feedcore demo", "feedcore demo --again --seed 7"))
@server_option
@click.option(
    "--again", is_flag=True, help="Load even if the store has posts; what is there stays."
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    default=demo_world.DEMO_SEED,
    help="Another seed, another world.",
)
@click.option(
    "--note",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file that exists while the world is incomplete.",
)
def demo(server: Server, again: bool, seed: int, note: Path | None) -> None:
    """Fill an empty server with the demo world: 2,500 users, 20,000 posts of the last six days."""
    asyncio.run(run_demo(server, again, seed, note))


async def run_demo(server: Server, again: bool, seed: int, note: Path | None) -> None:
    """Loads the world and waits until it is fanned out."""
    async with connected(server, grpc.aio) as channel:
        admin = admin_pb2_grpc.AdminServiceStub(channel)
        status = await admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_TIMEOUT_S)
        if status.store["posts"] and not again:
            out.print(f"the store has {status.store['posts']:,} posts: no demo world is loaded")
            return
        if note is not None:
            note.touch()
        await admin.SetSettings(
            admin_pb2.SetSettingsRequest(push_threshold=demo_world.DEMO_PUSH_THRESHOLD),
            timeout=CALL_TIMEOUT_S,
        )
        world = demo_world.DemoWorld(SystemClock().now_ms(), seed)
        out.print("loading the demo world")
        refused = 0
        with progress_shown() as advance:
            for name in LISTS:
                batches = list(world.batches(name))
                rows, done = sum(map(len, batches)), 0
                advance(name, 0, rows)
                async for batch, receipt in ServerSink(channel).stream(iter(batches)):
                    done += len(batch)
                    refused += len(receipt.refused)
                    advance(name, done, rows)
            await wait_for_fanout(admin, advance)
        if refused:
            raise FailedPrecondition(f"{refused:,} rows of the demo world were refused")
        if note is not None:
            note.unlink(missing_ok=True)


async def wait_for_fanout(
    admin: admin_pb2_grpc.AdminServiceStub, advance: Callable[[str, int, int], None]
) -> None:
    """Until nothing waits; gives up with a note, since readers see everything anyway."""
    clock = SystemClock()
    deadline = clock.monotonic() + FANOUT_WAIT_MAX_S
    most = 1
    while clock.monotonic() < deadline:
        status = await admin.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_TIMEOUT_S)
        left = sum(lane.jobs for lane in status.lanes)
        most = max(most, left)
        advance("fan-out", most - left, most)
        if not left:
            return
        await asyncio.sleep(FANOUT_POLL_S)
    out.print("fan-out is still under way; feeds are complete anyway: readers see posts that wait")
