"""Every bound and timer of the native transport in one value, so that a test can shorten one.

The defaults are those of feedcore_server.limits, which has the reasons.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from feedcore_server import limits


@dataclass(frozen=True, slots=True)
class Bounds:
    """Names end in their unit; a `_burst` and its `_rate` (a second) are one token bucket."""

    # messages
    request_bytes_max: int = limits.REQUEST_BYTES_MAX
    reply_bytes_max: int = limits.RESPONSE_BYTES_MAX
    header_bytes_max: int = limits.METADATA_BYTES_MAX
    # calls
    streams_max: int = limits.STREAMS_PER_CONNECTION_MAX
    calls_max: int = limits.CALLS_PER_WORKER_MAX
    waiting_per_connection_max: int = limits.WAITING_PER_CONNECTION_MAX
    waiting_per_worker_max: int = limits.WAITING_PER_WORKER_MAX
    shed_after_s: float = limits.SHED_AFTER_S
    shed_lasting_s: float = limits.SHED_LASTING_S
    shed_relief_s: float = limits.SHED_RELIEF_S
    shed_retry_ms: int = limits.SHED_RETRY_MS
    # bytes in flight
    stream_window: int = limits.STREAM_WINDOW_BYTES
    connection_window: int = limits.CONNECTION_WINDOW_BYTES
    room_bytes: int = limits.SEND_BYTES_PER_STREAM
    sent_per_connection: int = limits.SEND_BYTES_PER_CONNECTION
    sent_per_worker: int = limits.SEND_BYTES_PER_WORKER
    received_per_connection: int = limits.RECEIVE_BYTES_PER_CONNECTION
    reserve_bytes: int = limits.RESERVE_BYTES_PER_CONNECTION
    received_per_worker: int = limits.RECEIVE_BYTES_PER_WORKER
    socket_write_bytes: int = limits.SOCKET_WRITE_BYTES
    # connections
    connections_max: int = limits.CONNECTIONS_PER_WORKER_MAX
    connections_per_host_max: int = limits.CONNECTIONS_PER_WORKER_MAX
    keepalive_s: float = limits.KEEPALIVE_TIME_MS / 1_000
    keepalive_timeout_s: float = limits.KEEPALIVE_TIMEOUT_MS / 1_000
    age_s: float = math.inf
    age_jitter: float = limits.CONNECTION_AGE_JITTER
    age_grace_s: float = math.inf
    idle_s: float = math.inf
    goaway_ack_s: float = limits.GOAWAY_ACK_S
    linger_s: float = limits.LINGER_S
    # phases
    tls_handshake_s: float = limits.TLS_HANDSHAKE_S
    opening_s: float = limits.OPENING_S
    headers_s: float = limits.HEADERS_S
    request_stall_s: float = limits.REQUEST_STALL_S
    stream_idle_s: float = limits.STREAM_IDLE_S
    send_stall_s: float = limits.SEND_STALL_S
    write_stall_s: float = limits.WRITE_STALL_S
    # guards
    ping_interval_s: float = limits.PING_INTERVAL_MIN_MS / 1_000
    reset_burst: float = limits.RESET_BURST
    reset_rate: float = limits.RESETS_PER_S
    glitch_burst: float = limits.GLITCH_BURST
    glitch_rate: float = limits.GLITCHES_PER_S
    useless_burst: float = limits.USELESS_FRAMES_BURST
    useless_rate: float = limits.USELESS_FRAMES_PER_S
    outbound_frames_max: int = limits.OUTBOUND_FRAMES_MAX
