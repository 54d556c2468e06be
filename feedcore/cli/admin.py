"""`admin ...` and `audit`: the calls of an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from google.protobuf.json_format import Parse, ParseError
from rich.table import Table

from feedcore.cli import render
from feedcore.cli.client import ID, Answer, Server, call, examples, json_option, server_option
from feedcore.clock import SystemClock
from feedcore_pb.v1 import admin_pb2, admin_pb2_grpc

AUDIT_TIMEOUT_S = 3_600.0  # 10,000 users at some hundred milliseconds each
STUB = admin_pb2_grpc.AdminServiceStub
PARAMETERS = tuple(field.name for field in admin_pb2.RankingParameters.DESCRIPTOR.fields)


@click.group(epilog=examples("feedcore admin status", "feedcore admin explain 42 123456789 --json"))
def admin() -> None:
    """Look at a running server and change it."""


@admin.command(epilog=examples("feedcore admin status", "feedcore admin status --json"))
@json_option
@server_option
def status(server: Server) -> Answer:
    """Components, operations, fan-out lanes and figures of the store."""
    reply = call(server, STUB, "GetStatus", admin_pb2.GetStatusRequest())
    return Answer(reply, render.status_tables(reply, SystemClock().now_ms()))


@admin.command(
    epilog=examples(
        "feedcore admin ranking",
        "feedcore admin ranking --version 3 --json > ranking.json",
        "feedcore admin ranking --set half_life_hours=6 --set affinity_weight=2",
        "feedcore admin ranking --file ranking.json",
    )
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
    version: int, assignments: tuple[str, ...], file: Path | None, server: Server
) -> Answer:
    """Show or change the ranking parameters. Scrolls in progress keep theirs."""
    changes = parse_assignments(assignments)
    config = call(server, STUB, "GetRanking", admin_pb2.GetRankingRequest(version=version))
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
        config = call(server, STUB, "SetRanking", request)
    return Answer(config, [render.parameters_table(config)])


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
    epilog=examples(
        "feedcore admin settings",
        "feedcore admin settings --push-threshold 5000 --hysteresis-percent 20",
        "feedcore admin settings --pause-rest-lane",
    )
)
@click.option(
    "--push-threshold", type=click.IntRange(0), help="Authors with so many followers are pulled."
)
@click.option("--hysteresis-percent", type=click.IntRange(0), help="0 to 50.")
@click.option(
    "--pause-rest-lane/--resume-rest-lane",
    "rest_lane_paused",
    default=None,
    help="Followers not active lately.",
)
@click.option(
    "--pause-fanout/--resume-fanout",
    "fanout_paused",
    default=None,
    help="All fan-out; readers see posts anyway.",
)
@json_option
@server_option
def settings(server: Server, **options: Any) -> Answer:
    """Show or change the hot settings. They are kept in the store and win over start values."""
    changes = admin_pb2.SetSettingsRequest(**options)  # None: not given, so not in the message
    if changes.ListFields():
        reply = call(server, STUB, "SetSettings", changes)
    else:
        reply = call(server, STUB, "GetSettings", admin_pb2.GetSettingsRequest())
    title = f"hot settings, version {reply.version}"
    table = Table("setting", "value", title=title, title_justify="left")
    for name in changes.DESCRIPTOR.fields_by_name:
        value = getattr(reply, name)
        table.add_row(name, str(value).lower() if isinstance(value, bool) else f"{value:,}")
    return Answer(reply, [table])


@admin.command("dead-letters", epilog=examples("feedcore admin dead-letters --limit 20"))
@click.option(
    "--limit",
    type=click.IntRange(1, 1_000),
    default=100,
    show_default=True,
    help="At most so many.",
)
@json_option
@server_option
def dead_letters(limit: int, server: Server) -> Answer:
    """List fan-out jobs that failed for good, oldest first."""
    request = admin_pb2.ListDeadLettersRequest(limit=limit)
    reply = call(server, STUB, "ListDeadLetters", request)
    table = render.dead_letters_table(reply, SystemClock().now_ms())
    return Answer(reply, [table if reply.dead_letters else "no dead letters"])


@admin.command(epilog=examples("feedcore admin replay 17 18", "feedcore admin replay --all"))
@click.argument("job", type=ID, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Put all dead letters back.")
@server_option
def replay(job: tuple[int, ...], everything: bool, server: Server) -> None:
    """Put dead letters back into the queue: the JOBs named, or --all."""
    if bool(job) == everything:
        raise click.UsageError("name jobs, or say --all")
    request = admin_pb2.ReplayDeadLettersRequest(job_ids=job)
    click.echo(f"put back: {call(server, STUB, 'ReplayDeadLetters', request).replayed}")


@admin.command("rebuild-feed", epilog=examples("feedcore admin rebuild-feed 42"))
@click.argument("user", type=ID)
@server_option
def rebuild_feed(user: int, server: Server) -> None:
    """Refill the stored feed of USER; pages are pulled meanwhile."""
    call(server, STUB, "RebuildFeed", admin_pb2.RebuildFeedRequest(user_id=user))
    click.echo(f"rebuild of the feed of {user} is queued")


@admin.command(epilog=examples("feedcore admin explain 42 379913372368117762"))
@click.argument("user", type=ID)
@click.argument("content", type=ID)
@json_option
@server_option
def explain(user: int, content: int, server: Server) -> Answer:
    """Why CONTENT is, or is not, in the feed of USER."""
    request = admin_pb2.ExplainRequest(user_id=user, content_id=content)
    reply = call(server, STUB, "Explain", request)
    return Answer(reply, render.explanation_tables(reply, SystemClock().now_ms()))


@click.command(epilog=examples("feedcore audit", "feedcore audit --sample 1000 --seed 7 --json"))
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
def audit(sample: int, seed: int, server: Server) -> Answer:
    """Recompute sampled feeds by brute force and compare; exit code 1 if anything is wrong."""
    request = admin_pb2.AuditRequest(sample=sample, seed=seed)
    reply = call(server, STUB, "Audit", request, AUDIT_TIMEOUT_S)
    summary = (
        f"{reply.users} users, {reply.expected} items expected: {reply.missing} missing, "
        f"{reply.duplicate} duplicate, {reply.unexpected} unexpected"
    )
    wrong = reply.missing + reply.duplicate + reply.unexpected
    findings = [f"  {finding}" for finding in reply.findings]
    return Answer(reply, [summary, *findings], 1 if wrong else 0)
