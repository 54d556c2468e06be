"""Bounds of the serving side, each with its reason. Bounds of the engine are in feedcore.limits."""

from __future__ import annotations

from feedcore.limits import BODY_CHARS_MAX, PAGE_SIZE_MAX

# --- messages ------------------------------------------------------------------------------------
# An import batch of 5,000 posts of 10,000 characters would be 200 MB; loaders cut batches by bytes,
# too.
REQUEST_BYTES_MAX = 8 * 1024 * 1024
# What a request may have beyond the fields of our contract, for callers who know a newer one.
REQUEST_SPARE_BYTES = 1_024
ETAG_BYTES_MAX = 256  # ours have 16 characters; gateways pass on what browsers made of them
PAGE_TOKEN_BYTES_MAX = 64  # ours have 16
SYMBOL_BYTES_MAX = 512  # names of services, messages and files; ours are below 80
# A full page of the longest posts in 4-byte characters is 4 MB; contents come in batches of at most
# 500.
RESPONSE_BYTES_MAX = 32 * 1024 * 1024
METADATA_BYTES_MAX = 16 * 1024  # the gRPC default is 8 KiB; a trace state and a token fit twice

# --- calls ---------------------------------------------------------------------------------------
CALLS_PER_WORKER_MAX = 1_024  # at 1 ms a call that is a second of work: more would only wait
# Work queued before a request above which reads of feeds are refused: a page that comes later than
# 50 ms is a miss of its goal, and what is refused early costs a fiftieth of what is served late.
SHED_AFTER_S = 0.02
SHED_LASTING_S = 0.5  # a pause, or a crowd that comes at once, is served late, not refused
SHED_RELIEF_S = 2.0  # ten retry hints: callers that were sent away have come back
SHED_RETRY_MS = 200  # ten times that: the pile is gone when callers come back
STREAMS_PER_CONNECTION_MAX = 256  # one connection cannot take more than a quarter of a worker
# Streams that wait, for a message of their caller (Import, reflection) or for news to tell it
# (Health.Watch): they do no work, so they are no calls at work and have budgets of their own. The
# first of each connection always has its place, since every gRPC client may watch health.
WAITING_PER_CONNECTION_MAX = 128  # half of its streams: the others are left to its calls
WAITING_PER_WORKER_MAX = 4_096  # beyond the first of each connection: at 12 KB each 50 MB
STREAM_IDLE_S = 900.0  # between two messages of a stream: a loader may read its source so long
WATCHERS_PER_TURN = 256  # told of one change of health; at some 10 us each a turn is below 5 ms
CONTENTS_BATCH_MAX = 500  # ids of one BatchGetContents
REPLAY_JOBS_MAX = 10_000  # ids of one ReplayDeadLetters; none at all means every one
# Of a worker: an audit of 10,000 users must not be what a page waits for.
AUDIT_SHARE = 0.5
DEADLINE_MAX_S = 365 * 24 * 3600.0  # grpc.aio says "no deadline" with one in the far future
SLOW_CALL_MS = 100  # a warning in the log: the ceiling of the fastest promise (CheckNew)
HEALTH_SERVICES_MAX = 100  # of one List of the health service, as gRFC A90 says

# --- bytes in flight: native transport -----------------------------------------------------------
# What a caller may send ahead on one stream before its handler takes it: 10 Gbit/s over 0.2 ms.
STREAM_WINDOW_BYTES = 256 * 1024
# Credited as bytes arrive (one stalled stream must not stall the others), so it bounds nothing but
# a round trip's worth of all streams together.
CONNECTION_WINDOW_BYTES = 1024 * 1024
# A stream of replies waits for its reader above this; 26 pages of 2.5 KB.
SEND_BYTES_PER_STREAM = 64 * 1024
# Replies that wait for their readers: three of the largest, 37,500 pages, or 384 KB for each call
# that a connection may have open (the interop cases ask for 314 KB in each, all at once). Above it
# the call that asks for more is cut off, for the reader does not read.
SEND_BYTES_PER_CONNECTION = 96 * 1024 * 1024
SEND_BYTES_PER_WORKER = 512 * 1024 * 1024
# Requests that are not whole or not answered: twelve of the largest at once, or 384 KB for each of
# as many as a connection may have open (the interop cases upload 272 KB in each, interleaved).
RECEIVE_BYTES_PER_CONNECTION = 96 * 1024 * 1024
RECEIVE_BYTES_PER_WORKER = 256 * 1024 * 1024
SOCKET_WRITE_BYTES = 256 * 1024  # queued at the socket; above it nothing is read from the peer
# What each connection may hold of either whatever the others hold: 100 pages, or a call each of
# 1 KB on all its streams. 16,000 connections that all use it would hold 8 GB; 1,000 do 500 MB.
RESERVE_BYTES_PER_CONNECTION = 256 * 1024
READ_BUFFER_BYTES = 64 * 1024  # one a worker; then other connections have their turn

# --- connections ---------------------------------------------------------------------------------
CONNECTIONS_PER_WORKER_MAX = 16_000  # at 24 KB each 400 MB; below the usual limit of open files
# Of the limit of open files, for the store and for what is not ours; a quarter of lower limits.
OPEN_FILES_RESERVE = 512
OPEN_FILES_MIN = 256  # a process has 20 to 40 itself: with fewer it has no room for callers
OPEN_FILES_COUNTED_MAX = 1_000  # connections: up to here descriptors are counted, in 0.5 ms
# A rolling restart sends every client here within moments. What finds this queue full is not lost:
# the caller's kernel tries again, first after a second. (net.core.somaxconn may be lower.)
ACCEPT_BACKLOG = 4_096
ACCEPTS_PER_TURN = 64  # then the supervisor looks after its children, a worker after its calls
ACCEPT_RETRY_S = 0.01  # with every worker's queue full, or no descriptor free: then again
ACCEPT_TOLD_EVERY_S = 1.0  # at most: a storm of connections has a wait every few milliseconds
ACCEPT_REPORT_S = 0.02  # how stale the acceptor's knowledge of closed connections may be
KEEPALIVE_TIME_MS = 60_000  # notices a peer that vanished within a minute and a bit
KEEPALIVE_TIMEOUT_MS = 20_000  # the default of gRPC
PING_INTERVAL_MIN_MS = (
    10_000  # clients may ping every 10 s; the default of 5 min punishes mobile back ends
)

CONNECTION_AGE_JITTER = 0.1  # +-10 % (gRFC A9): what began together does not end together
GOAWAY_ACK_S = 5.0  # wait for the peer to have seen the first GOAWAY; grpc-go waits as long
LINGER_S = 1.0  # after our end of file the peer has so long to read the last frames

# Phases a peer may not stay in: honest ones take a round trip or two.
TLS_HANDSHAKE_S = 10.0
OPENING_S = 10.0  # preface, SETTINGS and the acknowledgement of ours
HEADERS_S = 10.0  # one header block, from its first frame to its last
# Between two pieces of a message, and until the first one of a call, a stream's, too.
REQUEST_STALL_S = 30.0
SEND_STALL_S = 60.0  # a reply is ready and the peer gives its stream no room
WRITE_STALL_S = 20.0  # the peer's socket takes nothing at all

# --- guards: token buckets (burst, then tokens a second) ----------------------------------------
# Resets of unfinished calls. 10,000 calls cancelled at once are an application that gives up; rapid
# reset (CVE-2023-44487) brings 100,000 a second.
RESET_BURST, RESETS_PER_S = 20_000, 2_000
# Errors of HTTP/2 (20 tokens each) and refused streams (1 each): a client that opens 1,000 calls
# before it has our limit of streams is honest; MadeYouReset (CVE-2025-8671) makes an error a call.
GLITCH_BURST, GLITCHES_PER_S = 4_000, 200
# Frames that do nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown ones). Each
# frame we send pays for two, so that acknowledgements and window updates cost an honest peer none.
USELESS_FRAMES_BURST, USELESS_FRAMES_PER_S = 1_000, 100
OUTBOUND_FRAMES_MAX = 10_000  # answers waiting to be sent after one read: ten for each stream

# --- metrics over HTTP --------------------------------------------------------------------------
METRICS_CONNECTIONS_MAX = 32  # scrapers are one or two; more are a fault, or no scrapers
METRICS_HEADER_BYTES_MAX = 8 * 1024  # what scrapers send is below 1 KB
METRICS_REQUEST_S = 5.0  # a scraper sends its request at once
METRICS_REPLY_S = 10.0  # Prometheus itself gives up after 10 s

# --- life of processes ---------------------------------------------------------------------------
LAME_DUCK_S = (
    0.25  # between NOT_SERVING and refusing calls: a watching balancer hears it in this time
)
DRAIN_EXTRA_S = 5.0  # beyond the grace a worker may take to close its store; then it is killed
START_TIMEOUT_S = 120.0  # a store of some 100 GB replays its log in less
RESTART_BACKOFF_MIN_S = 0.2  # a worker that died once is back almost at once
RESTART_BACKOFF_MAX_S = 10.0  # one that cannot stay up does not burn the machine
RESTART_FORGIVE_S = 30.0  # alive for so long: the next death counts as the first
PORT_WAIT_S = 3.0  # workers of a killed supervisor release the port within moments
PORT_RETRY_S = 0.05
# How long health may say that a worker serves whose store is gone, or that is full; a look costs
# microseconds. As often a process writes its gauges.
METRICS_REFRESH_S = 1.0
FULL_LASTS = 2  # looks in a row before a full worker is not ready: a burst is served late

assert PAGE_SIZE_MAX * BODY_CHARS_MAX * 4 <= RESPONSE_BYTES_MAX
assert REQUEST_BYTES_MAX <= RECEIVE_BYTES_PER_CONNECTION <= RECEIVE_BYTES_PER_WORKER
assert RESPONSE_BYTES_MAX <= SEND_BYTES_PER_CONNECTION <= SEND_BYTES_PER_WORKER
assert STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES
assert STREAMS_PER_CONNECTION_MAX <= CALLS_PER_WORKER_MAX
assert WAITING_PER_CONNECTION_MAX < STREAMS_PER_CONNECTION_MAX
assert RESTART_BACKOFF_MIN_S < RESTART_BACKOFF_MAX_S < RESTART_FORGIVE_S
