"""What a CQL session needs to know, and the bounds of every session."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from feedcore.errors import ConfigError, StoreError

# requests of a process under way at once: 1,024 keep some 40 MB/s of rows moving at 20 ms, and
# are far below the 32,768 that one connection numbers
IN_FLIGHT_MAX = 1_024
# calls that wait for one of those; at 20 K requests/s the last one waits half a second
WAITING_MAX = 10_000
MANY_AT_ONCE = 256  # of one read_many or write_many: the rest of the flight is for others
# Of all write_packed of a session: fan-out, which no caller waits for. Writes under way lie in the
# nodes' queues, and those of publishers queue behind them. 64 rows keep a process busy where a row
# takes 4 ms; a cluster that needs longer gets less. Measured beside mixed load on one small node:
# post to visible p99 0.3 s, with 128 0.65 s, with all of the flight 1.1 s; deliveries/s alone the
# same within noise.
PACKED_IN_FLIGHT_MAX = 64
FETCH_SIZE = 5_000  # rows a page of a result: 100 KB of feed entries
# what a process prepares; the engine has some hundred statements, so more is text made of values
PREPARED_MAX = 2_000
SPECULATIVE_DELAY_MS = 20  # a replica that has not answered by then is one of the slow percent
SPECULATIVE_MAX = 1  # a second replica, never the whole cluster
RECONNECT_MS = 500  # a node that is back takes traffic within a second
# A node that hangs with its connections open is left alone after SILENT_S; until then every third
# request of three nodes waits for its own timeout. The drivers' defaults are a minute; a node that
# collects garbage for some seconds need not be connected anew.
HEARTBEAT_S, SILENT_S = 2, 8
SCHEMA_AGREEMENT_S = 30.0  # nodes gossip once a second; a busy cluster needs several rounds
CONNECT_TIMEOUT_S = 2.0  # for a node that does not answer at all, each contact point
REQUEST_TIMEOUT_S = 2.0  # the servers' own default for writes; deadlines of callers are shorter
OPEN_TIMEOUT_S = 10.0  # all contact points together

DriverName = Literal["acsylla", "scylla-driver"]
DRIVER_DEFAULT: DriverName = "acsylla"  # docs/adr/0011-cql-driver.md


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. `ca`: authorities whose certificates nodes show; certificate and key: our own."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class CqlSettings:
    """How to reach a cluster. `contact_points`: HOST:PORT, any nodes of it. Without a keyspace the
    session is for `migrate` alone. `local_dc` empty: that of the contact points.
    """

    contact_points: tuple[str, ...]
    keyspace: str = ""
    local_dc: str = ""
    driver: DriverName = DRIVER_DEFAULT
    user: str = ""
    password: str = field(default="", repr=False)
    tls: Tls | None = None
    request_timeout_s: float = REQUEST_TIMEOUT_S
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    in_flight_max: int = IN_FLIGHT_MAX
    waiting_max: int = WAITING_MAX


def addresses(contact_points: tuple[str, ...]) -> list[tuple[str, int]]:
    """(host, port) of each; ConfigError for one that is not HOST:PORT."""
    if not contact_points:
        raise ConfigError("cql contact points: none; at least one HOST:PORT")
    split = []
    for point in contact_points:
        host, colon, port = point.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise ConfigError(f"cql contact points: {point!r}; must be HOST:PORT")
        split.append((host.removeprefix("[").removesuffix("]"), int(port)))
    return split


def no_keyspace(settings: CqlSettings) -> StoreError:
    """The error where the keyspace is not there yet, with what to run."""
    points = ", ".join(settings.contact_points)
    return StoreError(
        f"CQL at {points}: no keyspace {settings.keyspace!r}; run 'feedcore migrate' first"
    )


def tls_context(settings: CqlSettings) -> ssl.SSLContext | None:
    """None without TLS."""
    if settings.tls is None:
        return None
    context = ssl.create_default_context(cafile=str(settings.tls.ca))
    # nodes are known by address, which their certificates seldom name; their authority vouches
    context.check_hostname = False
    if settings.tls.certificate is not None:
        context.load_cert_chain(settings.tls.certificate, settings.tls.key)
    return context
