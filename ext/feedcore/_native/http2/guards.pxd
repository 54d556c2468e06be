"""What guards a session, in C: token buckets, and a look at the heads of frames."""
from libc.stdint cimport int32_t, uint8_t
from libc.string cimport memcpy

ctypedef struct bucket_t:
    double tokens
    double last  # when it was last filled up

cdef inline void fill_bucket(bucket_t *bucket, double burst, double now) noexcept:
    bucket.tokens = burst
    bucket.last = now

cdef inline bint spend(
    bucket_t *bucket, double cost, double burst, double rate, double now
) noexcept:
    """Takes `cost` tokens; False if there are not so many."""
    bucket.tokens += (now - bucket.last) * rate
    bucket.last = now
    if bucket.tokens > burst:
        bucket.tokens = burst
    bucket.tokens -= cost
    return bucket.tokens >= 0

cdef enum:
    FRAME_HEAD_BYTES = 9
    PREFACE_BYTES = 24
    LAST_KNOWN_TYPE = 9  # CONTINUATION (RFC 9113, 6)

# Where the stream of frames is. `skip` begins with PREFACE_BYTES.
ctypedef struct heads_t:
    size_t skip  # bytes until the next head
    uint8_t head[9]
    uint8_t have

cdef inline size_t next_head(heads_t *heads, const uint8_t *data, size_t length) noexcept:
    """How many bytes it takes until the next head is whole (`have` is FRAME_HEAD_BYTES then), at
    most all."""
    cdef size_t part
    cdef size_t at = 0
    if heads.have == FRAME_HEAD_BYTES:
        heads.have = 0
    while at < length and heads.have < FRAME_HEAD_BYTES:
        if heads.skip:
            part = heads.skip if heads.skip < length - at else length - at
            heads.skip -= part
        else:
            part = FRAME_HEAD_BYTES - heads.have
            if part > length - at:
                part = length - at
            memcpy(&heads.head[heads.have], data + at, part)
            heads.have += <uint8_t>part
            if heads.have == FRAME_HEAD_BYTES:
                heads.skip = (
                    (<size_t>heads.head[0] << 16) | (<size_t>heads.head[1] << 8) | heads.head[2])
        at += part
    return at

cdef inline int32_t stream_of(const heads_t *heads) noexcept:
    """The stream of a head that is whole."""
    return ((heads.head[5] & 0x7F) << 24) | (heads.head[6] << 16) | (heads.head[7] << 8) | (
        heads.head[8])
