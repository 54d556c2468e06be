"""Commands that open the store in this process: `rebuild`, and loading with --data-dir.

Invariant: at most one process of a data directory does fan-out (fanout.lock). A load leaves it to a
server that runs on the directory, and does it here if there is none.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from feedcore import config
from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import Clock
from feedcore.loading.batches import Batch, Receipt, Refusal
from feedcore.services.engine import Engine, build_engine
from feedcore.services.hot import HotSettings
from feedcore.services.importing import (
    IMPORT_NODE,
    ImportBatch,
    ImportService,
    InteractionRow,
    PostRow,
)


class StoreSink:
    """Applies batches through the import service, in this process."""

    def __init__(self, importing: ImportService) -> None:
        self._importing = importing

    async def stream(self, batches: Iterator[Batch]) -> AsyncIterator[tuple[Batch, Receipt]]:
        """One commit a batch."""
        for batch in batches:
            outcome = await self._importing.apply(
                ImportBatch(
                    follows=batch.follows,
                    mutes=batch.mutes,
                    posts=[PostRow(*row) for row in batch.posts],
                    interactions=[InteractionRow(*row) for row in batch.interactions],
                )
            )
            refused = [Refusal(*refusal) for refusal in outcome.refused]
            yield batch, Receipt(outcome.applied, outcome.unchanged, refused)


def engine_of(store: EmbeddedStore, clock: Clock) -> Engine:
    """The services over an open store, with the start values of environment and file."""
    settings = config.load().settings
    fanout = settings.fanout
    start = HotSettings(
        push_threshold=fanout.push_threshold,
        hysteresis_percent=fanout.hysteresis_percent,
        rest_lane_paused=fanout.rest_lane_paused,
        fanout_paused=fanout.paused,
    )
    return build_engine(store, start, clock, region=settings.ids.region, node=IMPORT_NODE)
