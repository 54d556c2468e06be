"""What is kept of one user in Redis, as bytes: pages, and viewer rows, each with its proof.

    proof   u8 format, 7 unused | 8 epoch | 16 incarnation | u64 u64 log position | i64 made_ms
    page    proof | u32 sizes of followees, content ids, body | the three
    row     proof | i64 snoozed_until_ms | u64 seen_run | u32 depth | u8 built | 8 u32 sizes | parts

Little-endian. `epoch` is the viewer's key, and `position` the log's, as they were read before
anything was loaded; `incarnation` names the servers that said so. The followees are there so that a
node that does not keep the viewer can tell whether somebody they follow has posted since. Not for
judging a proof (cluster.proofs).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from feedcore.ports.page_cache import SharedPage
from feedcore.ports.preferences import ViewerFilters
from feedcore.ports.resident import ViewerRow

_FORMAT = 2
_PROOF = struct.Struct("<B7x8s16sQQq")
_PAGE = struct.Struct("<III")
_ROW = struct.Struct("<qQIB8I")
_PARTS = 8
# Above this many followees a page costs more to keep than to make.
PAGE_FOLLOWEES_BYTES_MAX = 8 * 5_000
PAGE_BYTES_MAX = 512 * 1024  # 100 items of 2.5 KB and a half
ROW_BYTES_MAX = 256 * 1024  # 10,000 preferences, 10,000 followees and a window
_LOW = (1 << 64) - 1


class Proof(NamedTuple):
    """What was known before the load began."""

    epoch: bytes
    incarnation: bytes
    position: int
    made_ms: int

    def pack(self) -> bytes:
        """The first bytes of whatever it vouches for."""
        position = self.position
        return _PROOF.pack(
            _FORMAT, self.epoch, self.incarnation, position >> 64, position & _LOW, self.made_ms
        )


class KeptPage(NamedTuple):
    """One page."""

    proof: Proof
    followees: bytes
    page: SharedPage


class KeptRow(NamedTuple):
    """One viewer, loaded with that depth."""

    proof: Proof
    depth: int
    row: ViewerRow


def _proof_of(data: bytes) -> Proof | None:
    if len(data) < _PROOF.size:
        return None
    form, epoch, incarnation, high, low, made_ms = _PROOF.unpack_from(data)
    if form != _FORMAT:
        return None
    return Proof(epoch, incarnation, high << 64 | low, made_ms)


def pack_page(kept: KeptPage) -> bytes | None:
    """None if it is too large to be worth it."""
    followees, (body, shown) = kept.followees, kept.page
    if len(followees) > PAGE_FOLLOWEES_BYTES_MAX or len(body) > PAGE_BYTES_MAX:
        return None
    sizes = _PAGE.pack(len(followees), len(shown), len(body))
    return b"".join((kept.proof.pack(), sizes, followees, shown, body))


def unpack_page(data: bytes) -> KeptPage | None:
    """None for another format, or what is not whole."""
    proof = _proof_of(data)
    start = _PROOF.size + _PAGE.size
    if proof is None or len(data) < start:
        return None
    followees, shown, size = _PAGE.unpack_from(data, _PROOF.size)
    middle = start + followees
    body = middle + shown
    if len(data) != body + size or followees % 8 or shown % 8:
        return None
    return KeptPage(proof, data[start:middle], SharedPage(data[body:], data[middle:body]))


def pack_row(kept: KeptRow) -> bytes | None:
    """None if it is too large to be worth it."""
    row = kept.row
    parts = (row.followees, *row.filters, row.entries)
    if sum(map(len, parts)) > ROW_BYTES_MAX:
        return None
    head = _ROW.pack(
        row.snoozed_until_ms, row.seen_run, kept.depth, row.built, *(len(part) for part in parts)
    )
    return b"".join((kept.proof.pack(), head, *parts))


def unpack_row(data: bytes) -> KeptRow | None:
    """None for another format, or what is not whole."""
    proof = _proof_of(data)
    at = _PROOF.size + _ROW.size
    if proof is None or len(data) < at:
        return None
    until_ms, seen_run, depth, built, *sizes = _ROW.unpack_from(data, _PROOF.size)
    if len(data) != at + sum(sizes):
        return None
    parts = []
    for size in sizes:
        parts.append(data[at : at + size])
        at += size
    filters = ViewerFilters(*parts[1 : _PARTS - 1])
    row = ViewerRow(parts[0], filters, until_ms, bool(built), parts[-1], seen_run)
    return KeptRow(proof, depth, row)


assert len(ViewerFilters._fields) == _PARTS - 2
