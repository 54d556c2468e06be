"""The bytes of a fan-out job: in a message, in an outbox row, in a dead letter.

Layout of version 1, big-endian:

    u8 version | u8 kind | u8 lane | u8 zero | u64 job_id | u64 content_id | u64 author_id
    u64 user_id | u64 after | u64 delivered | u32 attempts | i64 created_ms | entry, 0 or 20 bytes

Invariants: one job is always the same bytes; what cannot be read is Unreadable and nothing else,
whatever the bytes are. A new field is a new version, written only when every node reads it.
"""

from __future__ import annotations

import struct

from feedcore.domain.entry import ENTRY_BYTES
from feedcore.errors import FeedcoreError
from feedcore.ports import FanoutJob, JobKind, Lane

VERSION = 1
_HEAD = struct.Struct(">BBBxQQQQQQIq")
_KINDS = {JobKind.POST: 1, JobKind.BACKFILL: 2, JobKind.REMOVE: 3, JobKind.REBUILD: 4}
_KIND_OF = {number: kind for kind, number in _KINDS.items()}
_KEY = struct.Struct(">QQ")
JOB_BYTES_MAX = _HEAD.size + ENTRY_BYTES


class Unreadable(FeedcoreError):
    """Bytes that are no job of a version this program knows; the message says why."""


def encode(job: FanoutJob) -> bytes:
    """The job's bytes. ValueError for what has no place in them (a bug of the caller)."""
    if len(job.entry) not in (0, ENTRY_BYTES):
        raise ValueError(f"entry: {len(job.entry)} bytes; 0 or {ENTRY_BYTES}")
    try:
        head = _HEAD.pack(
            VERSION,
            _KINDS[job.kind],
            job.lane,
            job.job_id,
            job.content_id,
            job.author_id,
            job.user_id,
            job.after,
            job.delivered,
            job.attempts,
            job.created_ms,
        )
    except struct.error as error:
        raise ValueError(f"fan-out job {job.job_id}: {error}") from error
    return head + job.entry


def decode(data: bytes) -> FanoutJob:
    """The job of these bytes; Unreadable if there is none."""
    if not data:
        raise Unreadable("job: 0 bytes")
    if data[0] != VERSION:
        raise Unreadable(f"job: version {data[0]}; this program knows {VERSION}")
    if len(data) not in (_HEAD.size, _HEAD.size + ENTRY_BYTES):
        raise Unreadable(f"job: {len(data)} bytes; {_HEAD.size} or {JOB_BYTES_MAX}")
    _, kind, lane, job_id, content, author, user, after, delivered, attempts, created = (
        _HEAD.unpack_from(data)
    )
    if kind not in _KIND_OF:
        raise Unreadable(f"job: kind {kind}; 1 to {len(_KIND_OF)}")
    if lane >= len(Lane):
        raise Unreadable(f"job: lane {lane}; 0 to {len(Lane) - 1}")
    return FanoutJob(
        job_id=job_id,
        kind=_KIND_OF[kind],
        lane=Lane(lane),
        content_id=content,
        author_id=author,
        user_id=user,
        entry=data[_HEAD.size :],
        after=after,
        delivered=delivered,
        attempts=attempts,
        created_ms=created,
    )


def key_of(job: FanoutJob) -> bytes:
    """What decides the partition.

    Chunks of one post spread over all of them; jobs of one user and author keep their order.
    """
    if job.kind is JobKind.POST:
        return _KEY.pack(job.content_id, job.after)
    return _KEY.pack(job.user_id, job.author_id)
