"""Where a server listens, and what it says when it cannot: unix sockets, settings of TLS."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from feedcore.config import Settings
from feedcore_pb.v1 import feed_pb2, feed_pb2_grpc
from tests.support.certificates import Authority
from tests.support.server import ServerProcess
from tests.support.tls import Pair

CALL_TIMEOUT_S = 20.0
END_WITHIN_S = 60.0


def get_feed(target: str) -> feed_pb2.GetFeedResponse:
    with grpc.insecure_channel(target) as channel:
        stub = feed_pb2_grpc.FeedServiceStub(channel)
        return stub.GetFeed(feed_pb2.GetFeedRequest(user_id=1), timeout=CALL_TIMEOUT_S)


def refused(tmp_path: Path, *settings: str) -> tuple[int, str]:
    """(exit code, the one line that says why) of a server that cannot start."""
    command = [sys.executable, "-m", "feedcore_server", "server.listen=127.0.0.1:0"]
    command += [f"store.data_dir={tmp_path}/refused", "server.workers=1", *settings]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=END_WITHIN_S, check=False
    )
    lines = done.stderr.splitlines()
    (line,) = [line for line in lines if line.startswith("feedcore cannot start: ")]
    return done.returncode, line


# --- unix sockets --------------------------------------------------------------------------------
@pytest.fixture
def path() -> Iterator[Path]:
    """A short one: addresses of unix sockets have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="feedcore-") as folder:
        yield Path(folder) / "grpc.sock"


def test_a_unix_socket_serves_beside_the_port_and_goes_with_the_server(
    tmp_path: Path, path: Path
) -> None:
    with ServerProcess(tmp_path / "data", "--set", f"server.listen_unix={path}") as server:
        assert any(f"feedcore ready on unix:{path}" in line for line in server.lines)
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert get_feed(f"unix:{path}").HasField("receipt")
        assert get_feed(server.address).HasField("receipt")
        assert server.stop() == 0
    assert not path.exists()


def test_a_unix_socket_has_no_tls(tmp_path: Path, path: Path) -> None:
    flags = Pair(*Authority(tmp_path / "authority").issue("server")).flags
    with ServerProcess(tmp_path / "data", *flags, "--listen-unix", str(path)):
        assert get_feed(f"unix:{path}").HasField("receipt")


def test_what_a_killed_server_has_left_is_replaced(tmp_path: Path, path: Path) -> None:
    flags = ("--listen-unix", str(path))
    killed = ServerProcess(tmp_path / "data", *flags)
    killed.kill()
    assert path.exists(), "nobody cleaned up"
    with ServerProcess(tmp_path / "data", *flags):
        assert get_feed(f"unix:{path}").HasField("receipt")


def test_a_socket_that_is_in_use_is_refused_and_left_alone(tmp_path: Path, path: Path) -> None:
    with ServerProcess(tmp_path / "data", "--listen-unix", str(path)):
        code, line = refused(tmp_path, f"server.listen_unix={path}")
        assert code == 1
        assert f"server.listen_unix {path}: another server listens on it" in line
        assert get_feed(f"unix:{path}").HasField("receipt")


def test_paths_that_cannot_be_are_named(tmp_path: Path, path: Path) -> None:
    file = path.with_name("file")
    file.write_text("no socket")
    for bad, words in (
        (file, "is no socket"),
        (path.parent / "absent" / "grpc.sock", "No such file or directory"),
        (path.with_name("x" * 120), "too long"),
    ):
        code, line = refused(tmp_path, f"server.listen_unix={bad}")
        assert code == 1
        assert f"server.listen_unix {bad}: " in line and words in line, line
    assert file.read_text() == "no socket"


def test_a_socket_that_may_not_be_looked_at_is_named(tmp_path: Path, path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may look at every socket")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(path))
        theirs.listen()
        path.chmod(0)
        code, line = refused(tmp_path, f"server.listen_unix={path}")
    assert code == 1 and f"server.listen_unix {path}: Permission denied" in line


def test_grpcio_and_a_unix_socket_exclude_each_other(tmp_path: Path, path: Path) -> None:
    code, line = refused(tmp_path, f"server.listen_unix={path}", "server.transport=grpcio")
    assert code == 2 and "server.listen_unix" in line and "native" in line


def test_where_native_cannot_be_had_a_unix_socket_is_refused(tmp_path: Path, path: Path) -> None:
    """`auto` falls back to grpc.aio, which does not listen there: nobody may believe it does."""
    settings = Settings.model_validate(
        {
            "server": {"listen": "127.0.0.1:0", "workers": 1, "listen_unix": str(path)},
            "store": {"data_dir": str(tmp_path / "data")},
        }
    )
    program = (
        "import sys; sys.modules['feedcore._native.http2.h2'] = None\n"  # as where it is not built
        "from feedcore.config import Settings\n"
        "from feedcore_server.processes import supervisor\n"
        f"sys.exit(supervisor.run(Settings.model_validate_json({settings.model_dump_json()!r})))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=END_WITHIN_S, check=False
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("feedcore cannot")]
    assert "server.listen_unix" in line and "not built" in line


# --- settings of TLS -----------------------------------------------------------------------------
def test_settings_of_tls_that_do_not_fit_are_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server")
    absent, garbage = tmp_path / "absent.pem", tmp_path / "garbage.pem"
    garbage.write_text("no PEM at all")
    both = (f"server.tls_certificate={certificate}", f"server.tls_key={key}")
    for settings, code, words in (
        ((f"server.tls_certificate={certificate}",), 2, "server.tls_key: give both or neither"),
        ((f"server.tls_key={key}",), 2, "server.tls_certificate"),
        ((f"server.tls_client_ca={certificate}",), 2, "server.tls_client_ca: needs"),
        ((both[0], f"server.tls_key={absent}"), 1, f"server.tls_key {absent}"),
        ((f"server.tls_certificate={garbage}", both[1]), 1, f"server.tls_certificate {garbage}"),
        ((both[0], f"server.tls_key={authority.issue('other')[1]}"), 1, "mismatch"),
        ((*both, f"server.tls_client_ca={absent}"), 1, f"server.tls_client_ca {absent}"),
        ((*both, f"server.tls_client_ca={garbage}"), 1, f"server.tls_client_ca {garbage}"),
    ):
        found, line = refused(tmp_path, *settings)
        assert found == code and words in line, line
