"""Several processes open one new directory: each ends well, and there is one store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

OPEN_AND_CLOSE = """
import asyncio, sys
from feedcore.adapters.embedded.store import EmbeddedStore
from feedcore.clock import SystemClock

async def main():
    await EmbeddedStore.open(sys.argv[1], SystemClock()).close()

asyncio.run(main())
"""


def test_processes_may_open_a_new_directory_at_the_same_moment(tmp_path: Path) -> None:
    for number in range(6):
        command = [sys.executable, "-c", OPEN_AND_CLOSE, str(tmp_path / str(number))]
        openers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
        told = [opener.communicate(timeout=60)[1].decode() for opener in openers]
        assert all(opener.returncode == 0 for opener in openers), told
        assert (tmp_path / str(number) / "store.db").exists()
        assert not list((tmp_path / str(number)).glob("store.db.new*"))
