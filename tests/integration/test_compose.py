"""The composition root: what each role opens, and that nothing stays open whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import ManualClock
from feedcore.compose import Role, compose
from feedcore.config import Settings
from feedcore.errors import ClockWentBack, StoreError
from feedcore.limits import CLOCK_AHEAD_MAX_MS

START_MS = 1_780_000_000_000
NOBODY = "127.0.0.1:1"  # no service listens there, and none is asked


def settings_of(data_dir: Path, **collaborators: str) -> Settings:
    document = {"store": {"data_dir": str(data_dir)}, "collaborators": collaborators}
    return Settings.model_validate(document)


async def assert_nobody_has(data_dir: Path) -> None:
    """Another process could have the directory for itself."""
    store = EmbeddedStore.open(data_dir, ManualClock(START_MS), exclusive=True)
    await store.close()


@pytest.mark.parametrize("role", list(Role))
async def test_everything_is_closed_with_the_block(tmp_path: Path, role: Role) -> None:
    settings = settings_of(tmp_path, graph=NOBODY, content=NOBODY, ranking=NOBODY)
    with pytest.raises(ZeroDivisionError):
        async with compose(settings, role, ManualClock(START_MS)) as engine:
            with pytest.raises(StoreError):
                await assert_nobody_has(tmp_path)
            assert (engine.store.merger is not None) == (role in (Role.FANOUT, Role.OFFLINE))
            raise ZeroDivisionError
    await assert_nobody_has(tmp_path)


async def test_a_worker_that_cannot_open_leaves_nothing_open(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path, graph=NOBODY), ManualClock(START_MS)
    async with compose(settings_of(tmp_path), Role.API, clock) as engine:
        await engine.publish.publish(1, "from the future")
    early = ManualClock(START_MS - 2 * CLOCK_AHEAD_MAX_MS)
    with pytest.raises(ClockWentBack, match=r"clock: \d+ ms behind the newest post stored"):
        async with compose(settings, Role.API, early):
            raise AssertionError("ids would be given out twice")
    await assert_nobody_has(tmp_path)


async def test_one_process_of_a_directory_fans_out(tmp_path: Path) -> None:
    settings, clock = settings_of(tmp_path), ManualClock(START_MS)
    async with compose(settings, Role.FANOUT, clock):
        with pytest.raises(StoreError, match="has a fan-out process already"):
            async with compose(settings, Role.FANOUT, clock):
                raise AssertionError("two processes would merge")
        async with compose(settings, Role.OFFLINE, clock) as offline:
            assert offline.store.merger is None, "the server's process does the fan-out"
    async with compose(settings, Role.FANOUT, clock) as engine:
        assert engine.store.merger is not None
    await assert_nobody_has(tmp_path)


@pytest.mark.parametrize("role", [Role.API, Role.FANOUT, Role.OFFLINE])
async def test_every_role_that_fans_out_or_serves_asks_the_collaborators(
    tmp_path: Path, role: Role
) -> None:
    settings = settings_of(tmp_path, graph=NOBODY, content=NOBODY)
    async with compose(settings, role, ManualClock(START_MS)) as engine:
        ports = engine.fanout._graph, engine.graph._graph, engine.publish._graph
        assert all(one is not engine.store.graph for one in ports)
        assert engine.resident is None, "compiled pages know the store alone"


async def test_the_collaborators_server_answers_by_itself(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, graph=NOBODY)
    async with compose(settings, Role.COLLABORATORS, ManualClock(START_MS)) as engine:
        assert engine.graph._graph is engine.store.graph
