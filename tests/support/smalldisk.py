"""A small file system of its own, for tests that fill it, take it away, or make it read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(mount: Path, megabytes: int) -> Iterator[Path]:
    """Mounted at `mount`; the test is skipped where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(mount)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.strip()}")
    try:
        yield mount
    finally:
        # lazily: a test that failed may have left something open, and the next one mounts its own
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def remount(mount: Path, options: str) -> None:
    """Changes options: ro, say, where nothing is open for writing."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(mount)], check=True)


@contextmanager
def failing_disk(mount: Path, megabytes: int) -> Iterator[tuple[Path, Path]]:
    """(an ext4 of its own, the file that makes the kernel think that it failed: read-only then)."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a disk that fails")
    mount.mkdir()
    image = mount.with_suffix(".image")
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    options = "loop,errors=remount-ro"
    for command in (["mkfs.ext4", "-q", str(image)], ["mount", "-o", options, image, str(mount)]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"cannot mount a disk that fails: {done.stderr.strip()}")
    try:
        command = ["findmnt", "-n", "-o", "SOURCE", "--target", str(mount)]
        source = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        assert source.startswith("/dev/loop")
        yield mount, Path("/sys/fs/ext4") / Path(source).name / "trigger_fs_error"
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes every byte that is left."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    continue
            except OSError:
                continue
    return ballast
