"""Names and lifetimes of everything that is kept in Redis.

    {u<user>}:e         epoch: 8 random bytes, never used twice
    feed:{u<user>}:<..> one page of that request shape
    feed:{u<user>}:w    what one page needs of its reader (`viewer row`)
    {g}:log             the node log, a stream
    {rl<bucket>}        one token bucket

Keys of one user have one hash tag, hence one slot: one MGET. `prefix` comes first in each, inside
the braces where there are some in front, so that installations may share a server. Everything has
a lifetime: a server that evicts volatile keys (volatile-ttl), or any keys (allkeys-lru), is safe.
"""

from __future__ import annotations

from feedcore.limits import DAY_MS, MINUTE_MS, SECOND_MS

EPOCH_TTL_MS = DAY_MS  # longer than anything that is compared with it is kept
PAGE_TTL_MS = 5 * MINUTE_MS  # served fresh for 30 s; the rest is for when the store is away
LOG_TTL_MS = DAY_MS  # one that ends is noticed like one that was lost, and begun anew
LOG_ENTRIES_MAX = 100_000  # 20 s of 5,000 posts a second: a node that lags more resyncs
BUCKET_TTL_MIN_MS = 10 * SECOND_MS
EPOCH_BYTES = 8


class Keys:
    """Of one installation."""

    def __init__(self, prefix: str = "") -> None:
        if not prefix.isascii() or "{" in prefix or "}" in prefix:
            raise ValueError(f"redis key prefix: {prefix!r}; ASCII without braces")
        self._prefix = prefix.encode()
        self.log = b"{%bg}:log" % self._prefix

    def epoch(self, user_id: int) -> bytes:
        """8 random bytes."""
        return b"{%bu%d}:e" % (self._prefix, user_id)

    def page(self, user_id: int, shape: bytes) -> bytes:
        """See `pages`."""
        return b"feed:{%bu%d}:%b" % (self._prefix, user_id, shape)

    def viewer(self, user_id: int) -> bytes:
        """Another length than any shape's."""
        return b"feed:{%bu%d}:w" % (self._prefix, user_id)

    def bucket(self, name: bytes) -> bytes:
        """See `limiter`."""
        return b"{%brl%b}" % (self._prefix, name)
