"""Bounds of the serving side, each with its reason. Bounds of the engine are in feedcore.limits."""

from __future__ import annotations

from feedcore.limits import BODY_CHARS_MAX, PAGE_SIZE_MAX

# --- messages ------------------------------------------------------------------------------------
# An import batch of 5,000 posts of 10,000 characters would be 200 MB; loaders cut batches by bytes,
# too.
REQUEST_BYTES_MAX = 8 * 1024 * 1024
# A full page of the longest posts in 4-byte characters is 4 MB; contents come in batches of at most
# 500.
RESPONSE_BYTES_MAX = 32 * 1024 * 1024
METADATA_BYTES_MAX = 16 * 1024  # the gRPC default is 8 KiB; a trace state and a token fit twice

# --- calls ---------------------------------------------------------------------------------------
CALLS_PER_WORKER_MAX = 1_024  # at 1 ms a call that is a second of work: more would only wait
STREAMS_PER_CONNECTION_MAX = 256  # one connection cannot take more than a quarter of a worker
CONTENTS_BATCH_MAX = 500  # ids of one BatchGetContents
REPLAY_JOBS_MAX = 10_000  # ids of one ReplayDeadLetters; none at all means every one
DEADLINE_MAX_S = 365 * 24 * 3600.0  # grpc.aio says "no deadline" with one in the far future
SLOW_CALL_MS = 100  # a warning in the log: the ceiling of the fastest promise (CheckNew)
REFLECTION_ERROR_MESSAGE_MAX = (
    256  # names of symbols come back in errors: never more than this of them
)

# --- connections ---------------------------------------------------------------------------------
KEEPALIVE_TIME_MS = 60_000  # notices a peer that vanished within a minute and a bit
KEEPALIVE_TIMEOUT_MS = 20_000  # the default of gRPC
PING_INTERVAL_MIN_MS = (
    10_000  # clients may ping every 10 s; the default of 5 min punishes mobile back ends
)

# --- life of processes ---------------------------------------------------------------------------
LAME_DUCK_S = (
    0.25  # between NOT_SERVING and refusing calls: a watching balancer hears it in this time
)
DRAIN_EXTRA_S = 5.0  # beyond the grace a worker may take to close its store; then it is killed
START_TIMEOUT_S = 120.0  # a store of some 100 GB replays its log in less
RESTART_BACKOFF_MIN_S = 0.2  # a worker that died once is back almost at once
RESTART_BACKOFF_MAX_S = 10.0  # one that cannot stay up does not burn the machine
RESTART_FORGIVE_S = 30.0  # alive for so long: the next death counts as the first
PORT_WAIT_S = 3.0  # workers of a killed supervisor let go of the port within moments
PORT_RETRY_S = 0.05
METRICS_REFRESH_S = 1.0  # how often the fan-out process writes its gauges

assert PAGE_SIZE_MAX * BODY_CHARS_MAX * 4 <= RESPONSE_BYTES_MAX
assert STREAMS_PER_CONNECTION_MAX <= CALLS_PER_WORKER_MAX
assert RESTART_BACKOFF_MIN_S < RESTART_BACKOFF_MAX_S < RESTART_FORGIVE_S
