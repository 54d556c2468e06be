"""`serve` and `config show`: settings from flags, environment and file."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from feedcore import config as settings_of
from feedcore.cli import offline
from feedcore.cli.client import examples, out
from feedcore.config import Loaded, meaning_of
from feedcore.config.checking import advice

# Key -> flag and metavar, in the order of --help; the settings say what each is. Every key can also
# be given as --set KEY=VALUE.
FLAGS = {
    "store.profile": ("profile", "P"),
    "server.role": ("role", "R"),
    "store.data_dir": ("data_dir", "DIR"),
    "server.listen": ("listen", "HOST:PORT"),
    "server.listen_unix": ("listen_unix", "PATH"),
    "server.workers": ("workers", "N"),
    "server.tls_certificate": ("tls_certificate", "FILE"),
    "server.tls_key": ("tls_key", "FILE"),
    "server.tls_client_ca": ("tls_client_ca", "FILE"),
    "server.transport": ("transport", "T"),
    "server.metrics": ("metrics", "HOST:PORT"),
    "logging.level": ("log_level", "LEVEL"),
    "logging.format": ("log_format", "FORMAT"),
}


def settings_options(command: Callable[..., Any]) -> Any:
    """The flags of FLAGS, --config and --set; the command gets the settings as `loaded`: flags and
    --set over environment over file.
    """

    @functools.wraps(command)
    def with_settings(*args: Any, file: Path, assignments: tuple[str, ...], **others: Any) -> Any:
        values = {key: others.pop(flag) for key, (flag, _) in FLAGS.items()}
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise click.UsageError(
                    f"--set {assignment}: must be KEY=VALUE, such as server.workers=2"
                )
            values[key] = value
        return command(*args, loaded=settings_of.load(values, file=file), **others)

    options = [
        *(
            click.option(f"--{flag.replace('_', '-')}", metavar=metavar, help=meaning_of(key))
            for key, (flag, metavar) in FLAGS.items()
        ),
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file with settings; default: FEEDCORE_CONFIG.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any setting, by its key.",
        ),
    ]
    decorated: Any = with_settings
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


@click.command(
    epilog=examples(
        "feedcore serve",
        "feedcore serve --profile embedded --data-dir ./data --listen 127.0.0.1:50051 --workers 4",
        "feedcore serve --metrics 127.0.0.1:9100 --set fanout.push_threshold=5000",
        "feedcore serve --listen 0.0.0.0:50051 --tls-certificate server.pem --tls-key server.key",
        "FEEDCORE_SERVER__WORKERS=2 feedcore serve --config feedcore.toml",
        "feedcore serve --profile cluster --role api --config feedcore.toml",
    )
)
@settings_options
def serve(loaded: Loaded) -> int:
    """Serve feeds over gRPC until SIGTERM or Ctrl-C; then drain and end.

    A second signal ends at once. Settings are described by `feedcore config show`.
    """
    settings = loaded.settings
    from feedcore_server.processes import supervisor  # heavy, and only this command needs it

    if settings.store.profile == "embedded":
        asyncio.run(offline.prepare_store(settings.store.data_dir))
    return supervisor.run(settings)


@click.command(
    "serve-collaborators",
    epilog=examples(
        "feedcore serve-collaborators --data-dir ./data --listen 127.0.0.1:50061",
        "feedcore serve --set collaborators.ranking=127.0.0.1:50061",
    ),
)
@settings_options
def serve_collaborators(loaded: Loaded) -> int:
    """Serve content, graph and ranking of an embedded store, by the collaborators' contracts.

    One process, to try out a client of the contracts; a server may have the same directory open.
    """
    settings = loaded.settings
    from feedcore_server.processes import collaborators  # heavy, and only this command needs it

    asyncio.run(offline.prepare_store(settings.store.data_dir))
    return collaborators.run(settings, click.echo)


@click.group()
def config() -> None:
    """Look at the settings."""


@config.command(
    "show",
    epilog=examples(
        "feedcore config show",
        "feedcore config show --config feedcore.toml --json",
        "FEEDCORE_SERVER__WORKERS=2 feedcore config show --set fanout.push_threshold=500",
    ),
)
@settings_options
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def show(loaded: Loaded, as_json: bool) -> None:
    """Print every setting, its value and where the value came from.

    Flags win over environment (FEEDCORE_SECTION__KEY) over file. Settings marked hot are start
    values: what an operator set with `feedcore admin settings` is kept in the store and wins.
    """
    rows = loaded.effective()
    if as_json:
        click.echo(json.dumps([row._asdict() for row in rows], indent=2))
        return
    table = Table("setting", "value", "from", "hot", "meaning")
    for row in rows:
        table.add_row(row.key, row.value, row.source, "hot" if row.hot else "", row.description)
    out.print(table)


@config.command(
    "check",
    epilog=examples(
        "feedcore config check --config feedcore.toml",
        "feedcore config check --profile cluster --set cql.contact_points=10.0.0.1:9042",
    ),
)
@settings_options
def check(loaded: Loaded) -> int:
    """Say what is wrong with the settings, what is seldom meant, and how to mend it.

    Opens nothing and calls no engine: `feedcore doctor` does. Exit code 2 if a server would not
    start.
    """
    found = advice(loaded.settings)
    for one in found:
        click.echo(f"{one.key}: {one.text}")
    more = f"; {len(found)} to think about" if found else ""
    click.echo(f"valid, profile {loaded.settings.store.profile}{more}")
    return 0
