"""Epoch counters in a map that processes share: no bump of one is lost to another."""

from __future__ import annotations

import mmap
import multiprocessing
from pathlib import Path

import pytest

from feedcore.codecs import epochs


def _bump(path: str, times: int) -> None:
    from feedcore._native.store.epochs import Epochs

    with open(path, "r+b") as file:
        shared = Epochs(memoryview(mmap.mmap(file.fileno(), epochs.EPOCHS_BYTES)))
    for _ in range(times):
        shared.bump(epochs.VIEWER, 42)
        shared.advance()


def test_no_bump_of_two_processes_is_lost(tmp_path: Path) -> None:
    compiled = pytest.importorskip("feedcore._native.store.epochs", reason="the twin is not atomic")
    path = tmp_path / "epochs.map"
    path.write_bytes(bytes(epochs.EPOCHS_BYTES))
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_bump, args=(str(path), 200_000)) for _ in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
        assert one.exitcode == 0
    with path.open("r+b") as file:
        shared = compiled.Epochs(memoryview(mmap.mmap(file.fileno(), epochs.EPOCHS_BYTES)))
    assert shared.read(epochs.VIEWER, 42) == shared.generation == 400_000
