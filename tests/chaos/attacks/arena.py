"""Where an attack is watched: the server's process, the attacker's process, an honest caller and
the server's memory.

Not for verdicts: the tests say what is too much. Figures go to standard output, so that `pytest -s`
shows them all.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hpack
import psutil

from tests.chaos.attacks.catalogue import HELLO, UNARY, WIDE, Calls, message
from tests.support.rawclient import raw_frame
from tests.support.testservice import pb

ROOT = Path(__file__).resolve().parents[3]
READY_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
CALL_WITHIN_S = 10.0  # an honest call that takes longer has failed
CALM_CALLS = 200  # before the attack; the latency that it is compared with
FAILURES_MAX = 10  # of honest calls: more tell nothing new
PAUSE_S = 0.002  # between honest calls
SAMPLE_S = 0.02  # of the server's memory
MIB = 1 << 20
REQUEST: bytes = pb.SimpleRequest(
    response_size=300, payload=pb.Payload(body=bytes(200))
).SerializeToString()
END_STREAM = 1
HEADERS, SETTINGS, PING, GOAWAY = 1, 4, 6, 7


class Server:
    """The server's process; a context manager that ends it, and asserts that it had lived."""

    def __init__(self, bounds: dict[str, float], *files: Path) -> None:
        self.files = files
        self._log = tempfile.TemporaryFile("w+")
        command = [sys.executable, "-m", "tests.chaos.attacks.serve", json.dumps(bounds)]
        self._process = subprocess.Popen(
            [*command, *map(str, files)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.port = int(_line(self._process).split()[1])
        self.watched = psutil.Process(self._process.pid)

    @property
    def memory(self) -> int:
        """Resident bytes."""
        return int(self.watched.memory_info().rss)

    @property
    def log(self) -> str:
        """What the server wrote to stderr."""
        self._log.seek(0)
        return self._log.read()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_exception: object) -> None:
        early = self._process.poll()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            code = self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        assert (early, code) == (None, 0), f"the server ended with {early}, {code}:\n{self.log}"


def _line(process: subprocess.Popen[str]) -> str:
    """The first line a process prints; it is killed if that does not come."""
    watch = threading.Timer(READY_WITHIN_S, process.kill)
    watch.start()
    assert process.stdout is not None
    line = process.stdout.readline()
    watch.cancel()
    assert line, "a process of the test did not get ready"
    return line


class HonestCaller:
    """Calls one after the other on one connection and measures each. Reads what it must."""

    def __init__(self, server: Server) -> None:
        opened = socket.create_connection(("127.0.0.1", server.port), timeout=CALL_WITHIN_S)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.files:
            context = ssl.create_default_context(cafile=server.files[0])
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2"])
            opened = context.wrap_socket(opened)
        self._socket = opened
        self._input = self._socket.makefile("rb")
        self._socket.sendall(HELLO + WIDE)
        blocks = Calls(UNARY)(2, lambda stream: b"")
        first = int.from_bytes(blocks[:3], "big") + 9
        self._first, self._rest = blocks[9:first], blocks[first + 9 :]
        self._stream = -1
        self._decoder = hpack.Decoder()
        self._headers: list[tuple[str, str]] = []  # the newest that came
        self.failures: list[str] = []

    def call(self) -> float:
        """Seconds that one call took; a failure is noted."""
        self._stream += 2
        block = self._rest if self._stream > 1 else self._first
        began_s = time.monotonic()
        try:
            request = message(self._stream, REQUEST)
            self._socket.sendall(raw_frame(HEADERS, 4, self._stream, block) + request)
            frames = self._frames_until_the_end()
        except (OSError, EOFError) as error:
            self.failures.append(repr(error))
            return CALL_WITHIN_S
        if frames != [HEADERS, 0, HEADERS]:
            self.failures.append(f"frames of types {frames}, {self._headers}")
        return time.monotonic() - began_s

    def _frames_until_the_end(self) -> list[int]:
        seen: list[int] = []
        while True:
            head = self._input.read(9)
            if len(head) < 9:
                raise EOFError("the server closed an honest connection")
            body = self._input.read(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == GOAWAY:
                raise EOFError(f"GOAWAY for an honest connection: {body[8:]!r}")
            if kind == PING and not flags:
                self._socket.sendall(raw_frame(PING, 1, 0, body))
            if kind == HEADERS:
                self._headers = self._decoder.decode(body)
            if stream == self._stream:
                seen.append(kind)
                if kind not in (0, HEADERS) or flags & END_STREAM:
                    return seen

    def close(self) -> None:
        """Hangs up."""
        self._input.close()
        self._socket.close()


@dataclass
class Outcome:
    """What an attack did. Times in seconds, memory in bytes; `held`: connections of the attacker
    that the server still had when the attack ended."""

    calm_p99: float
    p99: float
    slowest: float
    calls: int
    failures: list[str]
    grown: int
    kept: int
    cpu: float
    held: int
    attacker: dict[str, Any]

    def __str__(self) -> str:
        return (
            f"p99 {self.calm_p99 * 1e3:.1f} -> {self.p99 * 1e3:.1f} ms"
            f" (slowest {self.slowest * 1e3:.0f} of {self.calls}), memory +{self.grown // MIB} MiB"
            f" (kept {self.kept // MIB}), server CPU {self.cpu:.1f} s, holds {self.held},"
            f" {self.attacker}"
        )

    @property
    def ends(self) -> dict[str, int]:
        """How the attacker's connections ended."""
        return dict(self.attacker["ends"])


@contextmanager
def sampled(server: Server) -> Iterator[list[int]]:
    """Samples of the server's memory while the block runs."""
    samples, stop = [server.memory], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_S):
            samples.append(server.memory)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()


def attacked(server: Server, group: str, name: str, seconds: float) -> Outcome:
    """Runs one attack, and calls honestly meanwhile."""
    command = [sys.executable, "-m", "tests.chaos.attacks.attacker", group, name]
    attacker = subprocess.Popen(
        [*command, str(server.port), str(seconds)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _line(attacker)  # its bytes are made
        honest = HonestCaller(server)
        calm = sorted(_spaced(honest) for _ in range(CALM_CALLS))
        before_cpu = sum(server.watched.cpu_times()[:2])
        assert attacker.stdin is not None
        attacker.stdin.write("go\n")
        attacker.stdin.flush()
        latencies, files, held = [], server.watched.num_fds(), 0
        with sampled(server) as samples:
            while attacker.poll() is None and len(honest.failures) < FAILURES_MAX:
                held = server.watched.num_fds() - files
                latencies.append(_spaced(honest))
            # Once more when all is over: the connection has outlived the attack.
            latencies.append(_spaced(honest))
        cpu = sum(server.watched.cpu_times()[:2]) - before_cpu
        assert attacker.stdout is not None
        report = json.loads(attacker.stdout.readline() or "{}")
    finally:
        attacker.kill()
        attacker.wait()
    honest.close()
    latencies.sort()
    return Outcome(
        calm_p99=calm[len(calm) * 99 // 100],
        p99=latencies[len(latencies) * 99 // 100],
        slowest=latencies[-1],
        calls=len(latencies),
        failures=honest.failures,
        grown=max(samples) - samples[0],
        kept=server.memory - samples[0],
        cpu=cpu,
        held=held,
        attacker=report,
    )


def _spaced(honest: HonestCaller) -> float:
    took_s = honest.call()
    time.sleep(PAUSE_S)
    return took_s
