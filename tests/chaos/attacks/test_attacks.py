"""Every attack of the catalogue: memory is bounded, an honest caller goes on, the attacker is cut
off. Each runs for a second, for ten in the long run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedcore_server import limits
from tests.chaos.attacks.arena import MIB, HonestCaller, Outcome, Server, attacked
from tests.chaos.attacks.catalogue import GROUPS
from tests.conftest import LONG
from tests.support.certificates import Authority

# It measures how long honest callers wait.
pytestmark = pytest.mark.alone

SECONDS = 10.0 if LONG else 1.0
PATIENT_SECONDS = 15.0  # at most; attacks that wait for a timer end with it
# An honest call at the attack's height. The machine may have two cores for attacker, server and
# caller, and other work besides: what is looked for are stalls, not shares.
P99_MAX_S = 0.5
P99_MAX_FOLD = 20.0
MEMORY_MAX = 64 * MIB
WORKER_BYTES = 96 * MIB  # of requests or replies that wait, in the servers of these tests
# A connection's bytes on their way into its socket: what may be queued, and one turn's frames.
SOCKET_BYTES = limits.SOCKET_WRITE_BYTES + 128 * 1024
CALM = "GOAWAY ENHANCE_YOUR_CALM"
SHORT = {
    "opening_s": 1.0,
    "headers_s": 1.0,
    "request_stall_s": 1.0,
    "send_stall_s": 2.0,
    "write_stall_s": 2.0,
    "tls_handshake_s": 1.0,
    "keepalive_s": 2.0,
    "keepalive_timeout_s": 1.0,
    "reserve_bytes": 16 * 1024,
    "socket_write_bytes": 64 * 1024,
    "sent_per_connection": WORKER_BYTES // 4,
    "sent_per_worker": WORKER_BYTES,
    "received_per_connection": WORKER_BYTES // 4,
    "received_per_worker": WORKER_BYTES,
}
# What ends the attacker's connections; attacks that are not listed may go on, for each of their
# calls is refused or bounded by itself.
# What it has sent and nobody read may reset its socket before it reads why it was cut off.
UNREAD = "GOAWAY|closed|cut off|ConnectionResetError"
CUT = {
    "rapid reset": f"{CALM} too_many_resets",
    "rapid reset of whole requests": f"{CALM} too_many_resets",
    "rapid reset of running handlers": f"{CALM} too_many_resets",
    "window overflows": "GOAWAY",
    "window overflows, in step": CALM,
    "window overflows, answers unread": UNREAD,
    "malformed headers": "GOAWAY",
    "malformed headers, in step": CALM,
    "lengths that lie": "GOAWAY",
    "lengths that lie, in step": CALM,
    "PRIORITY on itself": "GOAWAY",
    "DATA after the end": "GOAWAY STREAM_CLOSED",
    "more streams than allowed": "GOAWAY",
    "more streams than allowed, SETTINGS not acknowledged": CALM,
    "the same, answers unread": UNREAD,
    "resets of a closed stream": CALM,
    "CONTINUATION flood": "GOAWAY|closed",
    "empty CONTINUATION flood": "GOAWAY|closed",
    **{
        name: UNREAD if "unread" in name else "GOAWAY|closed|cut off" for name in GROUPS["floods"]()
    },
    "PING": f"{CALM} too_many_pings",
    "PING, in step": f"{CALM} too_many_pings",
}
LORIS_CUT = {
    "silence": "GOAWAY SETTINGS_TIMEOUT",
    "half a preface": "GOAWAY SETTINGS_TIMEOUT",
    "SETTINGS never acknowledged": "GOAWAY SETTINGS_TIMEOUT",
    "half a header block": f"{CALM} header_timeout",
    "half a frame": "GOAWAY NO_ERROR keepalive_timeout",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With the usual bounds."""
    with Server({}) as server:
        yield server


@pytest.fixture
def impatient() -> Iterator[Server]:
    """With short timers and little memory for callers."""
    with Server(SHORT) as server:
        yield server


def judge(name: str, outcome: Outcome, memory_max: int = MEMORY_MAX) -> None:
    """What holds for every attack."""
    print(f"\n{name}: {outcome}")
    assert not outcome.failures, f"an honest caller suffered: {outcome.failures[:3]}"
    bound = max(P99_MAX_S, P99_MAX_FOLD * outcome.calm_p99)
    assert outcome.p99 <= bound, f"an honest caller waits: {outcome}"
    assert outcome.grown <= memory_max, f"memory grows: {outcome}"


def judge_cut(name: str, outcome: Outcome, how: str) -> None:
    """The attacker is cut off, again and again; its last connection may be too young for it."""
    cut = sum(count for end, count in outcome.ends.items() if re.match(how, end))
    assert cut >= 1, f"{name} goes on: {outcome}"
    others = sum(outcome.ends.values()) - cut
    assert others <= max(1, cut // 5), f"{name} ends otherwise: {outcome}"


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in ("resets", "floods", "headers") for name in GROUPS[group]()],
)
def test_floods(server: Server, group: str, name: str) -> None:
    outcome = attacked(server, group, name, SECONDS)
    judge(name, outcome)
    if name in CUT:
        judge_cut(name, outcome, CUT[name])


def test_decompression_bombs(server: Server) -> None:
    outcome = attacked(server, "bodies", "decompression bomb", SECONDS)
    judge("decompression bomb", outcome)


@pytest.mark.parametrize("name", [name for name in GROUPS["bodies"]() if "bomb" not in name])
def test_hoarding_requests(impatient: Server, name: str) -> None:
    outcome = attacked(impatient, "bodies", name, 4.0)
    judge(name, outcome, WORKER_BYTES + MEMORY_MAX)


@pytest.mark.parametrize("name", GROUPS["readers"]())
def test_hoarding_replies(impatient: Server, name: str) -> None:
    outcome = attacked(impatient, "readers", name, 6.0)
    at_sockets = SOCKET_BYTES * outcome.attacker["connections"]
    judge(name, outcome, WORKER_BYTES + at_sockets + MEMORY_MAX)
    # Those who fill their share and do not read are cut off, whether or not they see it; what the
    # rest has is in the kernel's buffers, not in ours.
    stalled = WORKER_BYTES // SHORT["sent_per_connection"]
    left = outcome.attacker["connections"] - stalled
    assert outcome.held <= left, f"nobody is cut off: {outcome}"


@pytest.mark.parametrize("name", GROUPS["loris"]())
def test_slow_loris(impatient: Server, name: str) -> None:
    outcome = attacked(impatient, "loris", name, PATIENT_SECONDS)
    judge(name, outcome)
    if name == "half a request":
        # Every call is ended; a connection without calls may stay while it answers PINGs.
        assert outcome.attacker["answers"] >= outcome.attacker["connections"], str(outcome)
    else:
        judge_cut(name, outcome, LORIS_CUT[name])
        assert "survived" not in outcome.ends, f"some were forgotten: {outcome}"
    assert files_of(impatient) <= 64, "connections are kept"


@pytest.mark.parametrize("name", GROUPS["handshakes"]())
def test_slow_handshakes(tmp_path: Path, name: str) -> None:
    with Server(SHORT, *Authority(tmp_path).issue("server")) as server:
        outcome = attacked(server, "handshakes", name, PATIENT_SECONDS)
        judge(name, outcome)
        assert "survived" not in outcome.ends, f"some were forgotten: {outcome}"
        assert files_of(server) <= 64, "connections are kept"


def test_connections_are_bounded() -> None:
    with Server({"connections_max": 50, "keepalive_s": 60.0}) as server:
        outcome = attacked(server, "loris", "half a frame", 2.0)
        judge("too many connections", outcome)
        refused = outcome.attacker["connections"] - outcome.ends.get("survived", 0)
        assert refused >= 250, f"too many were let in: {outcome}"
        late = HonestCaller(server)
        late.call()
        late.close()
        assert not late.failures, "no room when the attacker has gone"


def test_connections_of_one_host_are_bounded() -> None:
    with Server({"connections_per_host_max": 50}) as server:
        outcome = attacked(server, "loris", "half a frame", 2.0)
        judge("too many connections of one host", outcome)
        refused = outcome.attacker["connections"] - outcome.ends.get("survived", 0)
        assert refused >= 250, f"too many were let in: {outcome}"


def files_of(server: Server) -> int:
    """Open files of the server, its connections among them."""
    return int(server.watched.num_fds())
