"""Filters: one verdict an entry, with the reason. Explain and the receipt read the same verdicts.

The twin of feedcore._native.algorithms.visibility. Verdicts are checked in the order of their
numbers and the first that applies is the answer. To the viewer's own items only DELETED and HIDDEN
apply. Not for cutting at retention: the merge does that by bounds.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from feedcore.domain.entry import VISIBILITY_MASK, Visibility, rows
from feedcore.domain.idset import U64Set, unpack_ids


class Verdict(IntEnum):
    """KEEP, or why the item is left out."""

    KEEP = 0
    DELETED = 1
    BLOCKED = 2
    UNFOLLOWED = 3
    MUTED = 4
    SNOOZED = 5
    HIDDEN = 6
    AUDIENCE = 7


class Audience(NamedTuple):
    """The viewer's side, as id arrays; `require_follow` False for feeds of strangers' posts."""

    viewer_id: int
    followees: bytes
    muted: bytes
    snoozed: bytes
    blocked: bytes
    hidden: bytes
    require_follow: bool


def judge(entries: bytes, audience: Audience, tombstones: U64Set) -> bytes:
    """One Verdict byte an entry, in their order."""
    viewer = audience.viewer_id
    followees = frozenset(unpack_ids(audience.followees))
    muted = frozenset(unpack_ids(audience.muted))
    snoozed = frozenset(unpack_ids(audience.snoozed))
    blocked = frozenset(unpack_ids(audience.blocked))
    hidden = frozenset(unpack_ids(audience.hidden))
    verdicts = bytearray()
    for content_id, author, _, flags in rows(entries):
        own = author == viewer
        audience_flag = flags & VISIBILITY_MASK
        followed = author in followees
        if content_id in tombstones:
            verdict = Verdict.DELETED
        elif not own and author in blocked:
            verdict = Verdict.BLOCKED
        elif not own and audience.require_follow and not followed:
            verdict = Verdict.UNFOLLOWED
        elif not own and author in muted:
            verdict = Verdict.MUTED
        elif not own and author in snoozed:
            verdict = Verdict.SNOOZED
        elif content_id in hidden:
            verdict = Verdict.HIDDEN
        elif own or audience_flag == Visibility.PUBLIC:
            verdict = Verdict.KEEP
        elif audience_flag == Visibility.FOLLOWERS and followed:
            verdict = Verdict.KEEP
        else:
            verdict = Verdict.AUDIENCE
        verdicts.append(verdict)
    return bytes(verdicts)
