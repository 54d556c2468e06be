"""Compiled twin of feedcore.domain.visibility: one verdict byte an entry.

Id arrays are searched where they lie; only tombstones are hashed. Followees are looked up by binary
search without branches: building a hash of 500 costs more than 500 lookups, of 100,000 far more.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint64_t

from feedcore._native.codecs.idset cimport Table, U64Set, table_has
from feedcore._native.codecs.packed cimport (
    ENTRY_BYTES,
    Ids,
    as_bytes,
    be16,
    be64,
    data_of,
    entries_count,
    ids_have,
    ids_of,
)

cdef enum Verdict:
    KEEP = 0
    DELETED = 1
    BLOCKED = 2
    UNFOLLOWED = 3
    MUTED = 4
    SNOOZED = 5
    HIDDEN = 6
    AUDIENCE = 7

cdef enum:
    VISIBILITY_MASK = 3
    PUBLIC = 0
    FOLLOWERS = 1

cdef struct Viewer:
    uint64_t id
    Ids followees
    Ids muted
    Ids snoozed
    Ids blocked
    Ids hidden
    bint require_follow


cdef inline uint8_t _judge(
    const Viewer* viewer, const Table* tombstones, const uint8_t* entry
) noexcept nogil:
    cdef uint64_t content_id = ~be64(entry), author = be64(entry + 8)
    cdef uint16_t audience = be16(entry + 18) & VISIBILITY_MASK
    cdef bint followed
    if table_has(tombstones, content_id):
        return DELETED
    if author == viewer.id:
        return HIDDEN if ids_have(viewer.hidden, content_id) else KEEP
    if ids_have(viewer.blocked, author):
        return BLOCKED
    followed = True
    if viewer.require_follow or audience == FOLLOWERS:
        followed = ids_have(viewer.followees, author)
    if viewer.require_follow and not followed:
        return UNFOLLOWED
    if ids_have(viewer.muted, author):
        return MUTED
    if ids_have(viewer.snoozed, author):
        return SNOOZED
    if ids_have(viewer.hidden, content_id):
        return HIDDEN
    if audience == PUBLIC or (audience == FOLLOWERS and followed):
        return KEEP
    return AUDIENCE


def judge(entries, audience, U64Set tombstones not None):
    """See the twin."""
    cdef bytes data = as_bytes(entries), out, followees, muted, snoozed, blocked, hidden
    cdef Py_ssize_t n = entries_count(data), i
    cdef const uint8_t* at = data_of(data)
    cdef uint8_t* to
    cdef Viewer viewer
    viewer_id, followees, muted, snoozed, blocked, hidden, require_follow = audience
    viewer.id = viewer_id
    viewer.followees = ids_of(followees)
    viewer.muted = ids_of(muted)
    viewer.snoozed = ids_of(snoozed)
    viewer.blocked = ids_of(blocked)
    viewer.hidden = ids_of(hidden)
    viewer.require_follow = require_follow
    out = PyBytes_FromStringAndSize(NULL, n)
    to = <uint8_t*>PyBytes_AS_STRING(out)
    for i in range(n):
        to[i] = _judge(&viewer, &tombstones.table, at + i * ENTRY_BYTES)
    return out
