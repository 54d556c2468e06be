"""GetStatus says what callers meet: all that the server needs is asked, and named if it is away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedcore_pb.v1 import admin_pb2
from tests.support.redisserver import free_port
from tests.support.server import ServerProcess

NAMES = ("content", "graph", "ranking")


def components(server: ServerProcess) -> dict[str, admin_pb2.ComponentStatus]:
    return {
        one.name: one for one in server.admin.GetStatus(admin_pb2.GetStatusRequest()).components
    }


@pytest.fixture
def dead() -> str:
    """Address at which nobody listens."""
    return f"127.0.0.1:{free_port()}"


class Silent:
    """Takes connections and says nothing."""

    def __init__(self, listener: socket.socket) -> None:
        self.address = "{}:{}".format(*listener.getsockname())
        self.accepted: list[socket.socket] = []
        self._listener = listener
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()

    def _accept(self) -> None:
        while True:
            try:
                self.accepted.append(self._listener.accept()[0])
            except OSError:  # it is closed: the test is over
                return


@pytest.fixture
def silent() -> Iterator[Silent]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Silent(listener)
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        made.thread.join()
        for one in made.accepted:
            one.close()


def test_what_works_is_named(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        found = components(server)
    assert all(one.ok for one in found.values()), found
    assert "is writable" in found["store: directory"].detail
    assert {"store", "feeds", "fanout", "store: disk", "store: feeds"} <= found.keys()


def test_services_that_are_away_are_not_ok(tmp_path: Path, dead: str) -> None:
    flags = [word for name in NAMES for word in ("--set", f"collaborators.{name}={dead}")]
    with ServerProcess(tmp_path / "data", *flags) as server:
        found = components(server)
    for name in NAMES:
        one = found[f"collaborators: {name} {dead}"]
        assert not one.ok
        assert f"start it, or correct collaborators.{name}" in one.detail


def test_any_number_of_callers_probe_once(tmp_path: Path, silent: Silent) -> None:
    with ServerProcess(tmp_path / "data") as server:
        pass  # the store is made: nothing of that is in what follows
    flag = f"collaborators.ranking={silent.address}"
    with ServerProcess(tmp_path / "data", "--set", flag) as server:
        before = len(silent.accepted)
        request = admin_pb2.GetStatusRequest()
        calls = [server.admin.GetStatus.future(request) for _ in range(50)]
        for call in calls:
            (one,) = [one for one in call.result().components if silent.address in one.name]
            assert not one.ok
        # A client connects anew when it is not answered, but not for each caller.
        assert 1 <= len(silent.accepted) - before < 10
