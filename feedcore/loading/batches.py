"""Batches of rows, bounded, that remember the line each row stood on.

Invariant: at most `rows_max` rows in all, as the Import call allows, and at most BATCH_BYTES_MAX of
text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from feedcore.loading.readers import Line
from feedcore.services.importing import ImportBatch, PostRow

BATCH_ROWS_MAX = 5_000  # bound of ImportBatch in admin.proto
# gRPC refuses messages above 4 MiB by default; half leaves room for framing
BATCH_BYTES_MAX = 2 * 1024 * 1024
ROW_BYTES = 64  # ids, times and tags of a row, generously
LISTS = ("follows", "mutes", "posts", "interactions")


@dataclass(slots=True)
class Batch(ImportBatch):
    """Rows of one batch; `lines[list][i]` is where row i of that list stood (empty for made-up
    rows).
    """

    batch_id: int = 0
    lines: dict[str, list[int]] = field(default_factory=dict)


def in_batches(
    list_name: str, lines: Iterable[Line], rows_max: int = BATCH_ROWS_MAX
) -> Iterator[Batch]:
    """Batches of one list, in order."""
    batch, size = Batch(batch_id=1), 0
    for line in lines:
        cost = row_bytes(line.row)
        if len(batch) and (len(batch) >= rows_max or size + cost > BATCH_BYTES_MAX):
            yield batch
            batch, size = Batch(batch_id=batch.batch_id + 1), 0
        getattr(batch, list_name).append(line.row)
        batch.lines.setdefault(list_name, []).append(line.line)
        size += cost
    if len(batch):
        yield batch


def row_bytes(row: Any) -> int:
    """Bytes of a row on the wire, an upper bound."""
    if isinstance(row, PostRow):
        # Four bytes a character is the most UTF-8 takes; counting exactly would encode every body
        # twice.
        return ROW_BYTES + 4 * len(row.body) + len(row.post_key)
    return ROW_BYTES
