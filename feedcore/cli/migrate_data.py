"""`migrate-data`: from the embedded store to the cluster."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.cli.client import examples, out
from feedcore.cli.cluster import quiet_drivers
from feedcore.cli.serving import settings_options
from feedcore.clock import SystemClock
from feedcore.compose import stores
from feedcore.config import Loaded, Settings
from feedcore.errors import ConfigError
from feedcore.limits import AUDIT_USERS_MAX

SAMPLE_DEFAULT = 100
EXIT_DIFFERENT = 1


@click.command(
    "migrate-data",
    epilog=examples(
        "feedcore migrate --config cluster.toml",
        "feedcore migrate-data --from ./data --config cluster.toml",
        "feedcore migrate-data --from ./data --set cql.contact_points=10.0.0.1:9042 --sample 1000",
    ),
)
@click.option(
    "--from",
    "source",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Directory of the embedded store. Stop its server first.",
)
@click.option(
    "--keep-secret",
    is_flag=True,
    help="Copy beside data that the cluster has, which keeps its cursor secret: cursors of the old"
    " server end.",
)
@click.option(
    "--sample",
    type=click.IntRange(0, AUDIT_USERS_MAX),
    default=SAMPLE_DEFAULT,
    show_default=True,
    help="Users whose whole feeds are compared at the end.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
@settings_options
def migrate_data(
    source: Path, keep_secret: bool, sample: int, as_json: bool, loaded: Loaded
) -> int:
    """Carry an embedded store's content into the cluster, so that nothing visible changes.

    Posts, follows, blocks, preferences, counts, settings and feeds keep their ids and times;
    cursors and idempotency keys that callers hold stay valid. Stop the embedded server, run this,
    then start servers of the cluster. Killed half way, run it again: what is there already stays as
    it is. The embedded store is only read. Exit code 1 if the comparison at the end finds a
    difference.
    """
    quiet_drivers()
    result = asyncio.run(run(loaded.settings, source, keep_secret=keep_secret, sample=sample))
    if as_json:
        document = {"equal": result.equal, **asdict(result)}
        document["tables"] = [one._asdict() | {"equal": one.equal} for one in result.tables]
        click.echo(json.dumps(document, indent=2))
        return 0 if result.equal else EXIT_DIFFERENT
    table = Table("table", "rows copied", "there before", "rows found", "")
    for one in result.tables:
        numbers = (f"{one.copied:,}", f"{one.kept:,}", f"{one.found:,}")
        table.add_row(one.table, *numbers, "" if one.equal else "MISSING")
    out.print(table)
    out.print(
        f"feeds compared: {result.users:,} users, {result.items:,} items,"
        f" {result.users_differ:,} users differ"
    )
    for line in result.findings:
        out.print(line, markup=False)
    out.print("equal" if result.equal else "NOT EQUAL: keep the embedded store, and run it again")
    return 0 if result.equal else EXIT_DIFFERENT


async def run(settings: Settings, source: Path, *, keep_secret: bool, sample: int) -> Any:
    """See `migrating.run.migrate_data`."""
    try:
        from feedcore.adapters.contracts.job_ids import JobIds
        from feedcore.adapters.cql.driver.connect import open_session
        from feedcore.migrating.run import migrate_data as copy
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; pip install feedcore[cluster]"
        ) from error
    from feedcore.services.importing import IMPORT_NODE

    clock = SystemClock()
    store = EmbeddedStore.open(source, clock, create=False, exclusive=True)
    try:
        session = await open_session(stores.cql_settings(settings))
        try:
            return await copy(
                store,
                session,
                clock,
                JobIds(settings.ids.region, IMPORT_NODE, clock),
                keep_secret=keep_secret,
                sample=sample,
                echo=lambda text: click.echo(text, err=True),
            )
        finally:
            await session.close()
    finally:
        await store.close()
