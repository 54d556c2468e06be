"""`migrate`: the tables of the cluster profile."""

from __future__ import annotations

import asyncio
import logging

import click

from feedcore.cli.client import examples
from feedcore.cli.serving import settings_options
from feedcore.compose import stores
from feedcore.config import Loaded

WAIT_S_MAX = 3_600  # an hour: a cluster that is being built
DRIVERS = ("acsylla", "cassandra", "aiokafka")  # loggers


def quiet_drivers() -> None:
    """What a command has to say of engines, it says itself."""
    for name in DRIVERS:
        # a driver sets the level of its logger by itself
        logging.getLogger(name).addFilter(lambda _record: False)


@click.command(
    epilog=examples(
        "feedcore migrate --config feedcore.toml",
        "feedcore migrate --set cql.contact_points=10.0.0.1:9042 --set cql.replication=3 --wait 60",
    )
)
@settings_options
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(0, WAIT_S_MAX),
    default=0,
    help="Seconds to wait for nodes that do not answer yet.",
)
def migrate(loaded: Loaded, wait_s: float) -> None:
    """Make the keyspace and its tables in the cluster, or bring them up to date.

    Run it before a new version of feedcore; again changes nothing, several at once wait for one
    another. Servers refuse tables that are not up to date.
    """
    settings = loaded.settings
    quiet_drivers()
    applied = asyncio.run(
        stores.migrate_cluster(settings, wait_s, lambda text: click.echo(text, err=True))
    )
    keyspace = settings.cql.keyspace
    for name in applied:
        click.echo(f"{keyspace}: {name} applied")
    click.echo(f"{keyspace}: up to date")
