"""`serve` and `config show`: settings from flags, environment and file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from feedcore import config as settings_of
from feedcore.cli import offline
from feedcore.cli.client import out
from feedcore.config import Loaded
from feedcore.config.checking import advice

Command = TypeVar("Command", bound=Callable[..., Any])

# Flag -> key. Every key can also be given as --set KEY=VALUE.
FLAGS = {
    "listen": "server.listen",
    "listen_unix": "server.listen_unix",
    "tls_certificate": "server.tls_certificate",
    "tls_key": "server.tls_key",
    "tls_client_ca": "server.tls_client_ca",
    "workers": "server.workers",
    "transport": "server.transport",
    "metrics": "server.metrics",
    "profile": "store.profile",
    "role": "server.role",
    "data_dir": "store.data_dir",
    "log_level": "logging.level",
    "log_format": "logging.format",
}


def settings_options(command: Command) -> Command:
    """The flags of FLAGS, --config and --set."""
    for decorator in (
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting, by its key.",
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file with settings; default: FEEDCORE_CONFIG.",
        ),
        click.option("--log-format", metavar="FORMAT", help="json or console."),
        click.option("--log-level", metavar="LEVEL", help="debug, info, warning or error."),
        click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus metrics there."),
        click.option(
            "--transport",
            metavar="T",
            help="What carries gRPC: native, grpcio, or auto for native where it can be had.",
        ),
        click.option(
            "--tls-client-ca",
            metavar="FILE",
            help="Ask every caller for a certificate of these authorities (PEM).",
        ),
        click.option("--tls-key", metavar="FILE", help="Key of that certificate (PEM)."),
        click.option(
            "--tls-certificate", metavar="FILE", help="Serve with TLS: certificate chain (PEM)."
        ),
        click.option("--workers", metavar="N", help="API processes; default: the cores."),
        click.option("--listen-unix", metavar="PATH", help="Serve on a unix socket, too."),
        click.option(
            "--listen", metavar="HOST:PORT", help="Where to serve gRPC; port 0: any free one."
        ),
        click.option("--data-dir", metavar="DIR", help="Directory of the embedded store."),
        click.option("--role", metavar="R", help="What this node does: all, api or fanout."),
        click.option("--profile", metavar="P", help="Engines: embedded (default) or cluster."),
    ):
        command = decorator(command)
    return command


def read_settings(file: Path | None, assignments: tuple[str, ...], flags: dict[str, Any]) -> Loaded:
    """Flags and --set over environment over file."""
    values = {FLAGS[name]: value for name, value in flags.items()}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise click.UsageError(
                f"--set {assignment}: must be KEY=VALUE, such as server.workers=2"
            )
        values[key] = value
    return settings_of.load(values, file=file)


@click.command(
    epilog="""
\b
Examples:
  feedcore serve
  feedcore serve --profile embedded --data-dir ./data --listen 127.0.0.1:50051 --workers 4
  feedcore serve --metrics 127.0.0.1:9100 --set fanout.push_threshold=5000
  feedcore serve --listen 0.0.0.0:50051 --tls-certificate server.pem --tls-key server.key
  FEEDCORE_SERVER__WORKERS=2 feedcore serve --config feedcore.toml
  feedcore serve --profile cluster --role api --config feedcore.toml
"""
)
@settings_options
def serve(file: Path | None, assignments: tuple[str, ...], **flags: Any) -> int:
    """Serve feeds over gRPC until SIGTERM or Ctrl-C; then drain and end.

    A second signal ends at once. Settings are described by `feedcore config show`.
    """
    settings = read_settings(file, assignments, flags).settings
    from feedcore_server.processes import supervisor  # heavy, and only this command needs it

    if settings.store.profile == "embedded":
        asyncio.run(offline.prepare_store(settings.store.data_dir))
    return supervisor.run(settings)


@click.command(
    "serve-collaborators",
    epilog="""
\b
Examples:
  feedcore serve-collaborators --data-dir ./data --listen 127.0.0.1:50061
  feedcore serve --set collaborators.ranking=127.0.0.1:50061
""",
)
@settings_options
def serve_collaborators(file: Path | None, assignments: tuple[str, ...], **flags: Any) -> int:
    """Serve content, graph and ranking of an embedded store, by the collaborators' contracts.

    One process, to try out a client of the contracts; a server may have the same directory open.
    """
    settings = read_settings(file, assignments, flags).settings
    from feedcore_server.processes import collaborators  # heavy, and only this command needs it

    asyncio.run(offline.prepare_store(settings.store.data_dir))
    return collaborators.run(settings, click.echo)


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command(
    "show",
    epilog="""
\b
Examples:
  feedcore config show
  feedcore config show --config feedcore.toml --json
  FEEDCORE_SERVER__WORKERS=2 feedcore config show --set fanout.push_threshold=500
""",
)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(file: Path | None, assignments: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Print every setting, its value and where the value came from.

    Flags win over environment (FEEDCORE_SECTION__KEY) over file. Settings marked hot are start
    values: what an operator set with `feedcore admin settings` is kept in the store and wins.
    """
    rows = read_settings(file, assignments, flags).effective()
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    table = Table("setting", "value", "from", "hot", "meaning")
    for row in rows:
        table.add_row(row.key, row.value, row.source, "hot" if row.hot else "", row.description)
    out.print(table)


@config.command(
    "check",
    epilog="""
\b
Examples:
  feedcore config check --config feedcore.toml
  feedcore config check --profile cluster --set cql.contact_points=10.0.0.1:9042,10.0.0.2:9042
""",
)
@settings_options
def check(file: Path | None, assignments: tuple[str, ...], **flags: Any) -> int:
    """Say what is wrong with the settings, what is seldom meant, and how to mend it.

    Opens nothing and calls nobody: `feedcore doctor` does. Exit code 2 if a server would not start.
    """
    settings = read_settings(file, assignments, flags).settings
    found = advice(settings)
    for one in found:
        click.echo(f"{one.key}: {one.text}")
    click.echo(
        f"valid, profile {settings.store.profile}"
        + (f"; {len(found)} to think about" if found else "")
    )
    return 0
