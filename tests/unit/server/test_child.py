"""A server process that has lost what works behind its calls ends, for its supervisor to start
another.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest

from feedcore.config import Settings
from feedcore.resilience import tasks
from feedcore_server.processes import child as child_process
from feedcore_server.processes.child import EXIT_FAULT, Child

WITHIN_S = 5.0


async def fails(after: asyncio.Event) -> None:
    await after.wait()
    raise ZeroDivisionError("nobody expected this")


@pytest.mark.parametrize("fatal", [True, False])
def test_it_drains_and_says_so_by_its_exit_code(tmp_path: Path, fatal: bool) -> None:
    reader, writer = os.pipe()
    settings = Settings.model_validate({"store": {"data_dir": str(tmp_path)}})
    drained = False

    async def run(child: Child, stop: asyncio.Event) -> None:
        nonlocal drained
        child.ready(1)
        go = asyncio.Event()
        if fatal:
            task = tasks.start(fails(go), "the ledger")
        else:  # somebody's own business
            task = asyncio.get_running_loop().create_task(fails(go))
            asyncio.get_running_loop().call_later(0.1, stop.set)
        go.set()
        async with asyncio.timeout(WITHIN_S):
            await stop.wait()
        assert isinstance(task.exception(), ZeroDivisionError)
        drained = True

    child = Child(settings, "api", 0, 0, 0, -1, writer)
    code = asyncio.run(child_process._main(child, run))
    with os.fdopen(reader, "rb") as told:
        assert json.loads(told.readline()) == {"ready": 1}
    assert (code, drained) == (EXIT_FAULT if fatal else 0, True)
