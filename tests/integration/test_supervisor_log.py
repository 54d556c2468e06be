"""What the supervisor logs has the format that the settings ask for, as all processes' lines."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.support.server import ServerProcess

PATIENCE_S = 60.0


def logged(server: ServerProcess, event: str) -> list[str]:
    """Its log lines that name the event, of the supervisor."""
    return [line for line in server.lines if event in line and "supervisor" in line]


def run_through(data_dir: Path, *flags: str) -> ServerProcess:
    """A server that has lost a worker, made its callers wait, and has been rolled over."""
    with ServerProcess(data_dir, *flags, workers=1) as server:
        deadline_s = time.monotonic() + PATIENCE_S
        worker = next(
            one
            for one in psutil.Process(server.process.pid).children()
            if any("processes.worker" in word for word in one.cmdline())
        )
        worker.kill()
        while not logged(server, "restarting"):
            assert time.monotonic() < deadline_s, server.lines
            time.sleep(0.05)
        server.process.send_signal(signal.SIGHUP)
        while not logged(server, "done after"):
            assert time.monotonic() < deadline_s, server.lines
            time.sleep(0.05)
        server.stop()
        server.reader.join(PATIENCE_S)
    return server


def test_every_line_is_json_where_logs_are(tmp_path: Path) -> None:
    server = run_through(tmp_path / "data")
    lines = [line for line in server.lines if not line.startswith("feedcore ready")]
    parsed = [json.loads(line) for line in lines]
    ours = [line for line in parsed if line["role"] == "supervisor"]
    assert {"restarting", "rolling restart"} <= {line["event"] for line in ours}
    for line in parsed:
        assert {"event", "level", "timestamp", "role", "pid"} <= set(line), line


@pytest.mark.parametrize("flags", [("--log-format", "console")])
def test_lines_are_for_people_where_logs_are(tmp_path: Path, flags: tuple[str, ...]) -> None:
    server = run_through(tmp_path / "data", *flags)
    assert logged(server, "restarting") and not any(line.startswith("{") for line in server.lines)
