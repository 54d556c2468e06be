"""Rate limits as token buckets in Redis: one rate for a caller, whichever node they call.

A bucket holds at most `burst` tokens and gains `rate_per_s` of them; a call takes `cost`, or is
refused with the time until it could be served. It is one key, changed by a script in one step, by
the server's own clock. Redis away: a bucket of the same rate in this process, so that a caller gets
at most so much from each node. Not for protecting this node from overload (admission).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from redis.exceptions import NoScriptError

from feedcore.adapters.redis.batcher import Batcher
from feedcore.adapters.redis.keys import BUCKET_TTL_MIN_MS, Keys
from feedcore.clock import Clock
from feedcore.errors import Unavailable
from feedcore.ports.limiter import Allowance

LOCAL_BUCKETS_MAX = 100_000  # callers of one node while Redis is away: 20 MB
RETRY_AFTER_MAX_MS = 60_000  # beyond a minute, when exactly says nothing

# KEYS bucket; ARGV rate per ms, burst, cost, ttl ms. Answers {allowed, ms until it would be}.
# A bucket that is not there is full: it was not used for longer than it takes to fill.
_SCRIPT = b"""
local t = redis.call('TIME')
local now = t[1] * 1000 + t[2] / 1000
local rate, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local kept = redis.call('HMGET', KEYS[1], 'n', 'at')
local tokens = burst
if kept[1] then
  tokens = math.min(burst, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * rate)
end
local allowed, wait = 0, 0
if tokens >= cost then
  tokens = tokens - cost
  allowed = 1
else
  wait = math.ceil((cost - tokens) / rate)
end
redis.call('HSET', KEYS[1], 'n', string.format('%.6f', tokens), 'at', string.format('%.3f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {allowed, wait}
"""
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest()


class RateLimiter:
    """See `ports.limiter.Limiter`. One a process."""

    def __init__(self, batcher: Batcher, keys: Keys, clock: Clock) -> None:
        self._batcher = batcher
        self._keys = keys
        self._clock = clock
        self._local: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        self.refused = 0
        self.local = 0  # decisions made without Redis

    async def take(
        self, name: bytes, rate_per_s: float, burst: float, cost: float = 1.0
    ) -> Allowance:
        """Of the bucket of that name. `burst` >= `cost`: what is never allowed is no rate."""
        if rate_per_s <= 0 or burst < cost:
            raise ValueError(f"bucket: {rate_per_s}/s, {burst}; a rate, and room for {cost}")
        key = self._keys.bucket(name)
        ttl_ms = max(int(burst / rate_per_s * 1_000) + 1, BUCKET_TTL_MIN_MS)
        arguments = (key, rate_per_s / 1_000, burst, cost, ttl_ms)
        try:
            try:
                # equal calls of one turn are as many calls: a write, not a question
                reply = await self._batcher.tell(key, "EVALSHA", _SHA, 1, *arguments).reply()
            except NoScriptError:
                reply = await self._batcher.tell(key, "EVAL", _SCRIPT, 1, *arguments).reply()
        except Unavailable:
            return self._take_locally(name, rate_per_s, burst, cost)
        return self._answer(allowed=bool(reply[0]), wait_ms=int(reply[1]))

    def _take_locally(self, name: bytes, rate_per_s: float, burst: float, cost: float) -> Allowance:
        self.local += 1
        now = self._clock.monotonic()
        tokens, at = self._local.pop(name, (burst, now))
        tokens = min(burst, tokens + max(0.0, now - at) * rate_per_s)
        allowed = tokens >= cost
        wait_ms = 0 if allowed else int((cost - tokens) / rate_per_s * 1_000) + 1
        self._local[name] = (tokens - cost if allowed else tokens, now)
        if len(self._local) > LOCAL_BUCKETS_MAX:
            self._local.popitem(last=False)
        return self._answer(allowed=allowed, wait_ms=wait_ms)

    def _answer(self, *, allowed: bool, wait_ms: int) -> Allowance:
        self.refused += not allowed
        return Allowance(allowed, min(wait_ms, RETRY_AFTER_MAX_MS))
