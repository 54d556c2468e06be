"""What guards a session, in C: token buckets, and a look at the heads of frames."""
from libc.stdint cimport uint8_t
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

cdef inline size_t unknown_frames(heads_t *heads, const uint8_t *data, size_t length) noexcept:
    """Frames of types that HTTP/2 does not know, whose heads end in these bytes: the library passes
    over them without a word."""
    cdef size_t part
    cdef size_t found = 0
    while length:
        if heads.skip:
            part = heads.skip if heads.skip < length else length
            heads.skip -= part
        else:
            part = FRAME_HEAD_BYTES - heads.have
            if part > length:
                part = length
            memcpy(&heads.head[heads.have], data, part)
            heads.have += <uint8_t>part
            if heads.have == FRAME_HEAD_BYTES:
                heads.have = 0
                heads.skip = (
                    (<size_t>heads.head[0] << 16) | (<size_t>heads.head[1] << 8) | heads.head[2])
                found += heads.head[3] > LAST_KNOWN_TYPE
        data += part
        length -= part
    return found
