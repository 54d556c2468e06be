"""Redis servers of a test's own, which it may pause, kill and start again; and a small cluster.

Not for tests that can share one: those take the address from FEEDCORE_TEST_REDIS if there is one.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

UP_WITHIN_S = 20.0


def require() -> str:
    """The path of redis-server; without one the test is skipped, or fails if it must run."""
    found = shutil.which("redis-server")
    if found is None:
        why = "redis-server is not installed (apt-get install redis-server)"
        if os.environ.get("FEEDCORE_REQUIRE_SERVICES") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return found


def free_port() -> int:
    """Below the ports whose cluster bus (port + 10,000) would not fit."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port < 55_000:
            return port


class RedisServer:
    """One process. Nothing is kept over a restart unless `save` is called."""

    def __init__(self, directory: Path, *, port: int = 0, options: tuple[str, ...] = ()) -> None:
        self._path = require()
        self._directory = directory
        self._options = options
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Returns when it answers."""
        command = [self._path, "--port", str(self.port), "--dir", str(self._directory)]
        command += ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        end = time.monotonic() + UP_WITHIN_S
        while time.monotonic() < end:
            try:
                if self.command("PING").startswith(b"+PONG"):
                    return
            except OSError:
                time.sleep(0.02)
        raise TimeoutError(f"redis on port {self.port} did not answer within {UP_WITHIN_S} s")

    def command(self, *words: str) -> bytes:
        """The first 64 KB of the raw answer, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            return connection.recv(65_536)

    def pause(self) -> None:
        """It holds its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """It goes on."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """At once, with everything it holds."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """Also if it is paused."""
        if self._process is not None:
            self.kill()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class RedisCluster:
    """Three masters without replicas."""

    def __init__(self, directory: Path) -> None:
        self.servers: list[RedisServer] = []
        try:
            self._start(directory)
        except BaseException:
            self.close()
            raise

    def _start(self, directory: Path) -> None:
        for number in range(3):
            home = directory / f"node{number}"
            home.mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "5000")
            self.servers.append(RedisServer(home, options=options))
        for number, server in enumerate(self.servers):
            first, last = number * 16_384 // 3, (number + 1) * 16_384 // 3 - 1
            server.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            server.command("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            if number:
                server.command("CLUSTER", "MEET", "127.0.0.1", str(self.servers[0].port))
        end = time.monotonic() + UP_WITHIN_S
        while not all(b"cluster_state:ok" in one.command("CLUSTER", "INFO")
                      and b"cluster_known_nodes:3" in one.command("CLUSTER", "INFO")
                      for one in self.servers):  # fmt: skip
            if time.monotonic() > end:
                raise TimeoutError(f"the redis cluster is not whole within {UP_WITHIN_S} s")
            time.sleep(0.05)

    @property
    def urls(self) -> list[str]:
        """Of all nodes."""
        return [server.url for server in self.servers]

    def close(self) -> None:
        """All of them."""
        for server in self.servers:
            server.close()
