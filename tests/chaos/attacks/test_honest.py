"""Heavy use that is honest is not taken for an attack: cancels, early resets, hasty clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.chaos.attacks.arena import MIB, Server, sampled
from tests.chaos.attacks.catalogue import (
    DUPLEX,
    HELLO,
    INPUT,
    SETTINGS,
    SETTINGS_ACK,
    STEP_STREAMS,
    STREAMS_MAX,
    UNARY,
    WIDE,
    Calls,
    message,
    reset,
)
from tests.conftest import LONG
from tests.support.rawclient import PREFACE, raw_frame

# It measures how long callers wait, and memory.
pytestmark = pytest.mark.alone

CANCELS_PER_S, CANCEL_SECONDS = 1_000, 20 if LONG else 4
SHORT_CALLS = 10_000
BATCH = 10  # calls of one write, so that they come evenly
MEMORY_MAX = 64 * MIB
RST, PING, GOAWAY, ACK, END_STREAM = 3, 6, 7, 1, 1
PATIENCE_S = 20.0
BARRIER = raw_frame(PING, 0, 0, b"are you?")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """With the usual bounds."""
    with Server({}) as server:
        yield server


class Client:
    """One connection; looks at no more than the heads of frames."""

    def __init__(self, server: Server, hello: bytes = HELLO) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = self._socket.makefile("rb")
        self.ended: list[int] = []  # streams whose answers are complete
        self.refused: list[int] = []  # streams that the server has reset
        self.pongs = 0
        self.send(hello + WIDE)

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_until(self, condition: Callable[[], bool]) -> None:
        """Reads until it is so. Raises AssertionError for GOAWAY and the end."""
        while not condition():
            head = self._input.read(9)
            assert len(head) == 9, "the server hung up"
            body = self._input.read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            assert kind != GOAWAY, f"cut off: {body!r}"
            if kind == PING and flags & ACK:
                self.pongs += 1
            elif kind == RST:
                self.refused.append(stream)
            elif stream and flags & END_STREAM:
                self.ended.append(stream)

    def still_served(self) -> None:
        """Reads until a PING is answered: all that was sent before has been seen."""
        before = self.pongs
        self.send(BARRIER)
        self.read_until(lambda: self.pongs > before)

    def close(self) -> None:
        self._input.close()
        self._socket.close()


@pytest.mark.parametrize("path", [UNARY, INPUT, DUPLEX], ids=["unary", "client stream", "duplex"])
def test_a_thousand_cancels_a_second(server: Server, path: str) -> None:
    count = CANCELS_PER_S * CANCEL_SECONDS
    raw = Calls(path)(count, reset)
    size = len(raw) // count
    client = Client(server)
    with sampled(server) as samples:
        began_s = time.monotonic()
        for batch in range(count // BATCH):
            # The first call's headers are longer; the remainder goes with the last batch.
            client.send(raw[batch * BATCH * size : (batch + 1) * BATCH * size])
            ahead_s = began_s + (batch + 1) * BATCH / CANCELS_PER_S - time.monotonic()
            if ahead_s > 0:
                time.sleep(ahead_s)
        client.send(raw[count // BATCH * BATCH * size :])
        client.still_served()
    assert max(samples) - samples[0] <= MEMORY_MAX
    client.close()


def test_ten_thousand_short_calls_with_early_resets(server: Server) -> None:
    client = Client(server)
    client.send(Calls(UNARY)(SHORT_CALLS, lambda s: message(s) + reset(s)))
    client.still_served()
    client.close()


def test_ten_thousand_short_calls_with_resets_after_the_answer(server: Server) -> None:
    # What clients do whose server answers early: every answer is followed by a reset of theirs.
    client, calls = Client(server), Calls("/no/such")
    for part in calls.steps(SHORT_CALLS, lambda s: b""):
        client.send(part)
        client.read_until(lambda: len(client.ended) == STEP_STREAMS)
        client.send(b"".join(map(reset, client.ended)))
        client.ended.clear()
    client.still_served()
    client.close()


def test_a_thousand_calls_before_the_limit_is_known(server: Server) -> None:
    # A client may open what it likes until it has the server's SETTINGS: the rest is refused, and
    # the client tries again.
    client = Client(server, PREFACE + raw_frame(SETTINGS, 0, 0))
    client.send(Calls(UNARY)(1_000, lambda s: b""))
    client.read_until(lambda: len(client.refused) == 1_000 - STREAMS_MAX)
    client.send(SETTINGS_ACK)
    client.still_served()
    client.close()


def test_many_calls_that_fail(server: Server) -> None:
    client, calls = Client(server), Calls("/no/such")
    for part in calls.steps(20 * SHORT_CALLS if LONG else 2 * SHORT_CALLS, message):
        client.send(part)
        client.read_until(lambda: len(client.ended) == STEP_STREAMS)
        client.ended.clear()
    client.still_served()
    client.close()
