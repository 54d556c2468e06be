"""Compiled twin of feedcore.domain.ranking.score: equal to the bit.

The same operations in the same order. Built without contraction of a * b + c into one rounding,
which would change last bits between machines.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport exp2, pow
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport (
    ENTRY_BYTES,
    Ids,
    TIME_SHIFT,
    as_bytes,
    be16,
    be64,
    data_of,
    entries_count,
    ids_have,
    ids_of,
)

cdef enum:
    AFFINITY_BYTES = 12

cdef int64_t EPOCH_MS = 1704067200000
cdef double HOUR_MS = 3600000
cdef double ENGAGEMENT_MAX = 64.0
cdef double SCORE_MIN = 2.2250738585072014e-308

cdef struct Knobs:
    double half_life_ms
    double engagement
    double affinity
    double see_less
    double quality


cdef double _affinity(const uint8_t* records, size_t n, uint64_t author) noexcept nogil:
    """Of the author, 0 if there is no record."""
    cdef size_t half
    cdef uint64_t id
    cdef float value
    cdef const uint8_t* base = records
    if n == 0:
        return 0.0
    while n > 1:
        half = n >> 1
        memcpy(&id, base + half * AFFINITY_BYTES, 8)
        base += <size_t>(id <= author) * half * AFFINITY_BYTES
        n -= half
    memcpy(&id, base, 8)
    if id != author:
        return 0.0
    memcpy(&value, base + 8, 4)
    return value


cdef inline double _score(
    const uint8_t* entry,
    double engagement,
    double affinity,
    bint see_less,
    const Knobs* knobs,
    int64_t now_ms,
) noexcept nogil:
    cdef uint64_t content_id = ~be64(entry)
    cdef uint64_t stored = be16(entry + 16)
    cdef int64_t age_ms = now_ms - (<int64_t>(content_id >> TIME_SHIFT) + EPOCH_MS)
    cdef double quality, recency, value
    quality = <double>(stored if stored > 0 else 1) / 1000.0
    if knobs.quality != 1.0:
        quality = pow(quality, knobs.quality)
    if age_ms < 0:
        age_ms = 0
    if not engagement > 0.0:
        engagement = 0.0
    elif engagement > ENGAGEMENT_MAX:
        engagement = ENGAGEMENT_MAX
    if not affinity > 0.0:
        affinity = 0.0
    elif affinity > 1.0:
        affinity = 1.0
    recency = exp2(-(<double>age_ms / knobs.half_life_ms))
    value = quality * recency
    value = value * (1.0 + knobs.engagement * engagement)
    value = value * (1.0 + knobs.affinity * affinity)
    value = value * (knobs.see_less if see_less else 1.0)
    return value if value > SCORE_MIN else SCORE_MIN


def score(entries, verdicts, engagement, affinity, see_less, params, int64_t now_ms):
    """See the twin."""
    cdef bytes data = as_bytes(entries), judged = as_bytes(verdicts), rates = as_bytes(engagement)
    cdef bytes liked = as_bytes(affinity), less = as_bytes(see_less), out
    cdef Py_ssize_t n = entries_count(data), i
    cdef const uint8_t* at = data_of(data)
    cdef const uint8_t* verdict = data_of(judged)
    cdef const float* rate = <const float*>data_of(rates)
    cdef const uint8_t* records = data_of(liked)
    cdef size_t record_count
    cdef Ids less_ids = ids_of(less)
    cdef uint64_t author
    cdef Knobs knobs
    cdef double* to
    if PyBytes_GET_SIZE(judged) != n or PyBytes_GET_SIZE(rates) != 4 * n:
        raise ValueError(
            f"score: {n} entries, {len(judged)} verdicts,"
            f" {len(rates)} bytes of engagement; one byte and one f32 an entry"
        )
    if PyBytes_GET_SIZE(liked) % AFFINITY_BYTES:
        raise ValueError(f"affinity: {len(liked)} bytes; a multiple of {AFFINITY_BYTES}")
    record_count = PyBytes_GET_SIZE(liked) // AFFINITY_BYTES
    knobs.half_life_ms = <double>params.half_life_hours * HOUR_MS
    knobs.engagement = params.engagement_weight
    knobs.affinity = params.affinity_weight
    knobs.see_less = params.see_less_factor
    knobs.quality = params.quality_weight
    out = PyBytes_FromStringAndSize(NULL, n * sizeof(double))
    to = <double*>PyBytes_AS_STRING(out)
    for i in range(n):
        if verdict[i] != 0:
            to[i] = 0.0
            continue
        author = be64(at + i * ENTRY_BYTES + 8)
        to[i] = _score(
            at + i * ENTRY_BYTES,
            rate[i],
            _affinity(records, record_count, author),
            ids_have(less_ids, author),
            &knobs,
            now_ms,
        )
    return out
