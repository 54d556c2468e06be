"""Settings of one node, whichever engines keep the data: serving, ids, memory, fan-out, logs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from feedcore.config.types import HOT, Address, OptionalAddress, OptionalPath, Section
from feedcore.limits import HYSTERESIS_PERCENT_MAX, PUSH_THRESHOLD_MAX

REGION_MAX = 31  # 5 bits of an id
NODE_MAX = 126  # 7 bits of an id, less the last one, which imports use
WORKERS_MAX = NODE_MAX  # each worker needs its own node number, and a rolling restart one more
DRAIN_GRACE_S_MAX = 300  # init systems kill after 90 s to 300 s anyway
AGE_S_MAX = 7 * 86_400  # a week; longer is as good as never
CALLER_RATE_MAX = 1e9  # more than any node answers
CACHE_MB_MAX = 1 << 20  # a terabyte: no machine gives a process more


def available_cores() -> int:
    """Cores this process may use: containers and taskset give fewer than the machine has."""
    return max(1, min(WORKERS_MAX, len(os.sched_getaffinity(0))))


class ServerSettings(Section):
    """The processes that answer calls."""

    role: Literal["all", "api", "fanout"] = Field(
        "all",
        description="what this node does: api answers calls, fanout fans posts out, all does both",
    )
    listen: Address = Field(
        "127.0.0.1:50051", description="HOST:PORT to serve gRPC on; port 0: any free one"
    )
    workers: int = Field(
        default_factory=available_cores,
        ge=1,
        le=WORKERS_MAX,
        description="API processes on that port; default: the cores this process may use",
    )
    listen_unix: OptionalPath = Field(
        None, description="path of a unix socket to serve gRPC on, too; empty: none"
    )
    transport: Literal["auto", "native", "grpcio"] = Field(
        "auto",
        description="what carries gRPC; auto: native where libnghttp2 allows it, else grpcio",
    )
    tls_certificate: OptionalPath = Field(
        None, description="PEM certificate chain for TLS; empty: no TLS. Reloaded when it changes"
    )
    tls_key: OptionalPath = Field(None, description="PEM key of that certificate")
    tls_client_ca: OptionalPath = Field(
        None, description="PEM authorities; given: every caller must show a certificate of one"
    )
    max_connection_age_s: float = Field(
        1_800.0,
        ge=0,
        le=AGE_S_MAX,
        description="connections end gracefully at this age, +-10 %; 0: never",
    )
    max_connection_age_grace_s: float = Field(
        60.0, ge=0, le=AGE_S_MAX, description="seconds that calls on them get; 0: no limit"
    )
    max_connection_idle_s: float = Field(
        0.0, ge=0, le=AGE_S_MAX, description="connections without a call end after this; 0: never"
    )
    caller_rate: float = Field(
        0.0,
        ge=0,
        le=CALLER_RATE_MAX,
        description="calls a second that one caller (subject of its TLS certificate, else its"
        " address) may make, over all nodes of a cluster; 0: no limit",
    )
    metrics: OptionalAddress = Field(
        "", description="HOST:PORT for Prometheus metrics; empty: none"
    )
    drain_grace_s: float = Field(
        10.0,
        ge=0,
        le=DRAIN_GRACE_S_MAX,
        description="seconds that calls under way get when the server stops",
    )


class StoreSettings(Section):
    """Where data lives."""

    profile: Literal["embedded", "cluster"] = Field(
        "embedded",
        description="which engines keep the data: embedded, a directory of this machine; cluster,"
        " ScyllaDB or Cassandra with Kafka and Redis",
    )
    data_dir: Path = Field(
        Path("./data"),
        description="directory of the embedded store; in a cluster of files that are this node's"
        " own and may be lost",
    )


class IdSettings(Section):
    """The region and node bits of content ids; two nodes that share them would give one id
    twice.
    """

    region: int = Field(0, ge=0, le=REGION_MAX, description="region number in every content id")
    node_base: int = Field(
        0,
        ge=0,
        le=NODE_MAX,
        description="first node number; a server uses one a worker and one for rolling restarts",
    )


class CacheSettings(Section):
    """Caches of each worker; no answer needs them."""

    pages_mb: int = Field(
        128,
        ge=0,
        le=CACHE_MB_MAX,
        description="megabytes a worker keeps of whole pages, for refreshes and retries; 0: none",
    )
    resident_mb: int = Field(
        512,
        ge=0,
        le=CACHE_MB_MAX,
        description="megabytes a worker keeps of what pages are made from: packed windows,"
        " timelines, posts; 0: none, every page reads the store",
    )


class FanoutSettings(Section):
    """Start values of the hot settings (feedcore admin settings)."""

    push_threshold: int = Field(
        10_000,
        ge=0,
        le=PUSH_THRESHOLD_MAX,
        json_schema_extra=HOT,
        description="authors with at least this many followers are pulled; 0: everybody is",
    )
    hysteresis_percent: int = Field(
        10,
        ge=0,
        le=HYSTERESIS_PERCENT_MAX,
        json_schema_extra=HOT,
        description="back to push below threshold * (1 - h/100): authors at the edge do not flap",
    )
    rest_lane_paused: bool = Field(
        False,
        json_schema_extra=HOT,
        description="true: followers not active lately wait for fan-out",
    )
    paused: bool = Field(
        False,
        json_schema_extra=HOT,
        description="true: no fan-out (readers see posts anyway)",
    )


class LoggingSettings(Section):
    """Logs of the server processes; they go to stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level written: debug, info, warning or error"
    )
    format: Literal["json", "console"] = Field(
        "json", description="json for machines, console for people"
    )
