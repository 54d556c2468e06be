"""What one worker acknowledged is in force in the next call to every other, under load.

FEEDCORE_LONG=1: 100,000 rounds.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

pytest.importorskip("feedcore_bench._native.h2client", reason="the native transport is not built")

from tests.support.rounds import Link, make_users, run
from tests.support.server import ServerProcess

LONG = os.environ.get("FEEDCORE_LONG") == "1"
ROUNDS = 100_000 if LONG else 6_000
WORKERS = 3
USERS = 48


def test_no_stale_answer_from_any_worker(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data", workers=WORKERS) as server:
        everybody = make_users(server, USERS)
        links = [Link(server.address) for _ in range(WORKERS)]
        begun_s = time.monotonic()
        checked = run(links, everybody, ROUNDS)
        took_s = time.monotonic() - begun_s
        for link in links:
            link.socket.close()
    assert checked == ROUNDS * WORKERS
    print(f"{ROUNDS} writes, {checked} reads from {WORKERS} workers in {took_s:.0f} s: none stale")
