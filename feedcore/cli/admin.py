"""`admin ...` and `audit`: the calls of an operator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import click
from google.protobuf.json_format import Parse, ParseError
from rich.table import Table

from feedcore.cli import render
from feedcore.cli.client import (
    CALL_TIMEOUT_S,
    ID,
    Server,
    connected,
    json_option,
    out,
    print_json,
    server_option,
)
from feedcore.clock import SystemClock
from feedcore_pb.v1 import admin_pb2, admin_pb2_grpc

AUDIT_TIMEOUT_S = 3_600.0  # 10,000 users at some hundred milliseconds each
PARAMETERS = tuple(field.name for field in admin_pb2.RankingParameters.DESCRIPTOR.fields)


@contextlib.contextmanager
def admin_stub(server: Server) -> Iterator[admin_pb2_grpc.AdminServiceStub]:
    """The Admin service of a server."""
    with connected(server) as channel:
        yield admin_pb2_grpc.AdminServiceStub(channel)


@click.group(
    epilog="\b\nExamples:\n  feedcore admin status\n  feedcore admin explain 42 123456789 --json"
)
def admin() -> None:
    """Look at a running server and change it."""


@admin.command(epilog="\b\nExamples:\n  feedcore admin status\n  feedcore admin status --json")
@json_option
@server_option
def status(as_json: bool, server: Server) -> None:
    """Components, operations, fan-out lanes and figures of the store."""
    with admin_stub(server) as stub:
        answer = stub.GetStatus(admin_pb2.GetStatusRequest(), timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(answer)
        return
    for part in render.status_tables(answer, SystemClock().now_ms()):
        out.print(part, markup=False) if isinstance(part, str) else out.print(part)


@admin.command(
    epilog="""
\b
Examples:
  feedcore admin ranking
  feedcore admin ranking --version 3 --json > ranking.json
  feedcore admin ranking --set half_life_hours=6 --set affinity_weight=2
  feedcore admin ranking --file ranking.json
"""
)
@click.option(
    "--version", type=click.IntRange(0), default=0, help="Show this version; 0: the one in force."
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a parameter for everybody.",
)
@click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put this configuration (JSON as printed by --json) in force; starts experiments.",
)
@json_option
@server_option
def ranking(
    version: int, assignments: tuple[str, ...], file: Path | None, as_json: bool, server: Server
) -> None:
    """Show or change the ranking parameters. Scrolls in progress keep theirs."""
    changes = parse_assignments(assignments)
    with admin_stub(server) as stub:
        config = stub.GetRanking(
            admin_pb2.GetRankingRequest(version=version), timeout=CALL_TIMEOUT_S
        )
        if file is not None or changes:
            before = config.version
            if file is not None:
                try:
                    config = Parse(file.read_text(encoding="utf-8"), admin_pb2.RankingConfig())
                except ParseError as error:
                    raise click.UsageError(f"{file}: {error}") from error
            for name, value in changes.items():
                setattr(config.parameters, name, value)
            request = admin_pb2.SetRankingRequest(config=config)
            if not version:
                # Somebody else's change in between must not be overwritten unseen.
                request.expected_version = before
            config = stub.SetRanking(request, timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(config)
    else:
        out.print(render.parameters_table(config))


def parse_assignments(assignments: tuple[str, ...]) -> dict[str, float]:
    """NAME=VALUE of known names; the server checks the bounds."""
    values = {}
    for assignment in assignments:
        name, _, value = assignment.partition("=")
        if name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise click.UsageError(f"--set {assignment}: NAME must be one of {known}")
        try:
            values[name] = float(value)
        except ValueError as error:
            raise click.UsageError(f"--set {assignment}: {value!r} is not a number") from error
    return values


@admin.command(
    epilog="""
\b
Examples:
  feedcore admin settings
  feedcore admin settings --push-threshold 5000 --hysteresis-percent 20
  feedcore admin settings --pause-rest-lane
"""
)
@click.option(
    "--push-threshold", type=click.IntRange(0), help="Authors with so many followers are pulled."
)
@click.option("--hysteresis-percent", type=click.IntRange(0), help="0 to 50.")
@click.option(
    "--pause-rest-lane/--resume-rest-lane", default=None, help="Followers not active lately."
)
@click.option(
    "--pause-fanout/--resume-fanout", default=None, help="All fan-out; readers see posts anyway."
)
@json_option
@server_option
def settings(
    push_threshold: int | None,
    hysteresis_percent: int | None,
    pause_rest_lane: bool | None,
    pause_fanout: bool | None,
    as_json: bool,
    server: Server,
) -> None:
    """Show or change the hot settings. They are kept in the store and win over start values."""
    # None: not given, so not in the message
    changes = admin_pb2.SetSettingsRequest(
        push_threshold=push_threshold,
        hysteresis_percent=hysteresis_percent,
        rest_lane_paused=pause_rest_lane,
        fanout_paused=pause_fanout,
    )
    with admin_stub(server) as stub:
        if changes.ListFields():
            answer = stub.SetSettings(changes, timeout=CALL_TIMEOUT_S)
        else:
            answer = stub.GetSettings(admin_pb2.GetSettingsRequest(), timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(answer)
        return
    table = Table(
        "setting", "value", title=f"hot settings, version {answer.version}", title_justify="left"
    )
    for name in changes.DESCRIPTOR.fields_by_name:
        value = getattr(answer, name)
        table.add_row(name, str(value).lower() if isinstance(value, bool) else f"{value:,}")
    out.print(table)


@admin.command("dead-letters", epilog="\b\nExample:\n  feedcore admin dead-letters --limit 20")
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000),
    default=100,
    show_default=True,
    help="At most so many.",
)
@json_option
@server_option
def dead_letters(limit: int, as_json: bool, server: Server) -> None:
    """List fan-out jobs that failed for good, oldest first."""
    with admin_stub(server) as stub:
        answer = stub.ListDeadLetters(
            admin_pb2.ListDeadLettersRequest(limit=limit), timeout=CALL_TIMEOUT_S
        )
    if as_json:
        print_json(answer)
        return
    now_ms = SystemClock().now_ms()
    table = Table("job", "kind", "post", "author", "user", "attempts", "failed", "error")
    for letter in answer.dead_letters:
        table.add_row(
            str(letter.job_id),
            letter.kind,
            str(letter.content_id),
            str(letter.author_id),
            str(letter.user_id),
            str(letter.attempts),
            f"{render.age(now_ms, letter.failed_ms)} ago",
            render.one_line(letter.error, 120),
        )
    out.print(table if answer.dead_letters else "no dead letters")


@admin.command(epilog="\b\nExamples:\n  feedcore admin replay 17 18\n  feedcore admin replay --all")
@click.argument("job", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Put all dead letters back.")
@server_option
def replay(job: tuple[int, ...], everything: bool, server: Server) -> None:
    """Put dead letters back into the queue: the JOBs named, or --all."""
    if bool(job) == everything:
        raise click.UsageError("name jobs, or say --all")
    with admin_stub(server) as stub:
        request = admin_pb2.ReplayDeadLettersRequest(job_ids=job)
        answer = stub.ReplayDeadLetters(request, timeout=CALL_TIMEOUT_S)
    click.echo(f"put back: {answer.replayed}")


@admin.command("rebuild-feed", epilog="\b\nExample:\n  feedcore admin rebuild-feed 42")
@click.argument("user", type=ID)
@server_option
def rebuild_feed(user: int, server: Server) -> None:
    """Refill the stored feed of USER; pages are pulled meanwhile."""
    with admin_stub(server) as stub:
        stub.RebuildFeed(admin_pb2.RebuildFeedRequest(user_id=user), timeout=CALL_TIMEOUT_S)
    click.echo(f"rebuild of the feed of {user} is queued")


@admin.command(epilog="\b\nExample:\n  feedcore admin explain 42 379913372368117762")
@click.argument("user", type=ID)
@click.argument("content", type=ID)
@json_option
@server_option
def explain(user: int, content: int, as_json: bool, server: Server) -> None:
    """Why CONTENT is, or is not, in the feed of USER."""
    with admin_stub(server) as stub:
        request = admin_pb2.ExplainRequest(user_id=user, content_id=content)
        answer = stub.Explain(request, timeout=CALL_TIMEOUT_S)
    if as_json:
        print_json(answer)
        return
    for part in render.explanation_tables(answer, SystemClock().now_ms()):
        out.print(part, markup=False) if isinstance(part, str) else out.print(part)


@click.command(
    epilog="\b\nExamples:\n  feedcore audit\n  feedcore audit --sample 1000 --seed 7 --json"
)
@click.option(
    "--sample",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Users to look at.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same users."
)
@json_option
@server_option
def audit(sample: int, seed: int, as_json: bool, server: Server) -> int:
    """Recompute sampled feeds by brute force and compare; exit code 1 if anything is wrong."""
    with admin_stub(server) as stub:
        request = admin_pb2.AuditRequest(sample=sample, seed=seed)
        answer = stub.Audit(request, timeout=AUDIT_TIMEOUT_S)
    wrong = answer.missing + answer.duplicate + answer.unexpected
    if as_json:
        print_json(answer)
        return 1 if wrong else 0
    click.echo(
        f"{answer.users} users, {answer.expected} items expected: {answer.missing} missing, "
        f"{answer.duplicate} duplicate, {answer.unexpected} unexpected"
    )
    for finding in answer.findings:
        click.echo(f"  {finding}")
    return 1 if wrong else 0
