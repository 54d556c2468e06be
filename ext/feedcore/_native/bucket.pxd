"""Token buckets, in C: the guards of a session."""

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
