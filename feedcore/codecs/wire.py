"""Wire bytes of feedcore.v1.GetFeedResponse, written without a protobuf library. The twin of
_native.wire.

Invariant: parsing the bytes with the generated code gives exactly these values (a test compares
them), fields in ascending order, defaults left out. Field numbers are those of
proto/feedcore/v1/{feed,types}.proto and never change. Not for requests and not for other messages:
those go through the generated code.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from feedcore.codecs.protowire import bytes_field, text_field, uint_field
from feedcore.domain.ids import time_ms

VIEW_FULL = 0
VIEW_COMPACT = 1
VIEW_IDS = 2

ETAG_BYTES = 12  # 96 bits: a collision needs 2^48 pages of one user
PAGE_NUMBERS = struct.Struct("<QQ?")
ITEM_NUMBERS = struct.Struct("<QQQQQqI")


class PageItem(NamedTuple):
    """One item of a page. `content` None: without, and without counts."""

    content_id: int
    author_id: int
    content: bytes | None
    likes: int
    comments: int
    shares: int
    score: float
    reason: int


def _item(item: PageItem, view: int) -> bytes:
    content_id, author_id, content, likes, comments, shares, score, reason = item
    out = uint_field(1, content_id) + uint_field(2, author_id) + uint_field(3, time_ms(content_id))
    if view == VIEW_FULL and content is not None:
        out += bytes_field(4, content)
    if view != VIEW_IDS:
        out += bytes_field(
            5, uint_field(1, likes) + uint_field(2, comments) + uint_field(3, shares)
        )
        if score != 0.0:
            out += b"\x31" + struct.pack("<d", score)
    return out + uint_field(7, reason)


def encode_page(
    items: Sequence[PageItem], next_cursor: str, head: str, etag: str, receipt: bytes, view: int
) -> bytes:
    """A page; `receipt` is an encoded Receipt. View 1: no content, 2: nor counts and score."""
    parts = [bytes_field(1, _item(item, view)) for item in items]
    parts += [
        text_field(2, next_cursor),
        text_field(3, head),
        text_field(4, etag),
        bytes_field(6, receipt),
    ]
    return b"".join(parts)


def encode_not_modified(head: str, etag: str, receipt: bytes) -> bytes:
    """The answer to if_none_match when the page is unchanged: no items, no cursor."""
    return text_field(3, head) + text_field(4, etag) + uint_field(5, 1) + bytes_field(6, receipt)


def page_etag(items: Sequence[PageItem], config_version: int, next_exists: bool, flags: int) -> str:
    """Names a page by its ids, their order, counts and contents; not by scores, which fall as time
    passes.

    `flags`: what else the caller's answer depends on, such as the view. A content counts by its
    size and CRC-32: a post never changes, so the id alone nearly names it. 16 characters of
    base64url.
    """
    parts = [PAGE_NUMBERS.pack(config_version, flags, next_exists)]
    for content_id, author_id, content, likes, comments, shares, _, _ in items:
        size = -1 if content is None else len(content)
        crc = zlib.crc32(content or b"")
        parts.append(ITEM_NUMBERS.pack(content_id, author_id, likes, comments, shares, size, crc))
    digest = hashlib.blake2b(b"".join(parts), digest_size=ETAG_BYTES).digest()
    return base64.urlsafe_b64encode(digest).decode()
