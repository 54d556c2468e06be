"""Commands that open the store in this process: `backup`, `restore`, `rebuild`, and loading with
--data-dir.

Invariant: at most one process of a data directory does fan-out (fanout.lock). A load leaves it to a
server that runs on the directory, and does it here if there is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import click

from feedcore import config
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.adapters.embedded import backup as backups
from feedcore.adapters.embedded.rebuild import rebuild as rebuild_feeds
from feedcore.clock import SystemClock
from feedcore.compose import Role, compose
from feedcore.compose.collaborators import open_collaborators
from feedcore.loading.batches import Batch
from feedcore.services.importing import IMPORT_NODE, ImportOutcome, ImportService


class StoreSink:
    """Applies batches through the import service, in this process."""

    def __init__(self, importing: ImportService) -> None:
        self._importing = importing

    async def stream(self, batches: Iterator[Batch]) -> AsyncIterator[tuple[Batch, ImportOutcome]]:
        """One commit a batch."""
        for batch in batches:
            yield batch, await self._importing.apply(batch)


async def prepare_store(data_dir: Path) -> None:
    """Makes the store, or migrates it, before several processes open it at once; refuses a bad one.

    Here a refusal is one line for the person who starts the server, not the log of a worker.
    """
    store = EmbeddedStore.open(data_dir, SystemClock())
    await store.close()


@asynccontextmanager
async def store_sink(data_dir: Path) -> AsyncIterator[StoreSink]:
    """A sink on the store in `data_dir`, made if there is none; fan-out is done when this ends."""
    settings = config.load({"store.data_dir": data_dir}).settings
    async with compose(settings, Role.OFFLINE, SystemClock(), node=IMPORT_NODE) as engine:
        yield StoreSink(engine.importing)
        if engine.store.merger is not None:
            click.echo("fan-out", err=True)
            await engine.background.drain()
        else:
            click.echo("the server that runs on this directory does the fan-out", err=True)


def _directory_option(*, exists: bool) -> Callable[[Any], Any]:
    return click.option(
        "--data-dir",
        type=click.Path(exists=exists, file_okay=False, path_type=Path),
        default=config.StoreSettings.model_fields["data_dir"].default,
        show_default=True,
        help="Directory of the embedded store.",
    )


_data_dir = _directory_option(exists=True)
_data_dir_to_make = _directory_option(exists=False)


@click.command(epilog="\b\nExample:\n  feedcore rebuild --data-dir ./data")
@_data_dir
def rebuild(data_dir: Path) -> None:
    """Derive all stored feeds again, from posts and graph. Stop the server first."""
    items = asyncio.run(run_rebuild(data_dir))
    click.echo(f"rebuilt: {items:,} feed items")


@click.command(epilog="\b\nExample:\n  feedcore backup /backups/monday.db --data-dir ./data")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_data_dir
def backup(file: Path, data_dir: Path) -> None:
    """Copy the system of record into FILE; a server may run, and nobody waits for it.

    The copy is of one moment, and is read through before it has its name. Stored feeds are not in
    it: they are derived again from it.
    """
    made = backups.backup(data_dir, file, SystemClock().now_ms())
    click.echo(f"{file}: {made.posts:,} posts, {made.bytes / 1e6:,.1f} MB")


@click.command(epilog="\b\nExample:\n  feedcore restore /backups/monday.db --data-dir ./data")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_data_dir_to_make
def restore(file: Path, data_dir: Path) -> None:
    """Put a backup in the place of a store, and derive all stored feeds. Stop the server first.

    The store that was there is kept in a directory of its own. Killed after the copy, the next
    server derives the feeds while it serves.
    """
    found, aside = backups.restore(file, data_dir, SystemClock().now_ms())
    if aside is not None:
        click.echo(f"the store that was there is in {aside}; delete it when nobody needs it")
    click.echo(f"restored: {found.posts:,} posts")
    items = asyncio.run(run_rebuild(data_dir))
    click.echo(f"rebuilt: {items:,} feed items")


async def run_rebuild(data_dir: Path) -> int:
    """Feed items derived. Killed half way, it is to be started again."""
    store = EmbeddedStore.open(
        data_dir,
        SystemClock(),
        writer_role=True,
        create=False,
        exclusive=True,
        merge_thread=False,
    )
    try:
        async with open_collaborators(config.load().settings.collaborators, store.clock) as others:
            return await rebuild_feeds(
                store, lambda items: click.echo(f"{items:,} items", err=True), others.graph
            )
    finally:
        await store.close()
