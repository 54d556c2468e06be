"""Builds the peers in other languages below build/peers (which git ignores).

    python -m benchmarks.transport.build [tonic] [grpc-go] [grpc-c++]

Versions are pinned by peers/tonic/Cargo.lock and peers/go/go.sum; the C++ peer takes the
distribution's gRPC. A peer whose tools are absent is left out, and the line printed says what to
install: nothing else needs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path(__file__).resolve().parent / "peers"
BUILT = ROOT / "build" / "peers"
BUILD_TIMEOUT_S = 1_200  # a first build of tonic with whole-program optimisation takes 90 s


class Peer(NamedTuple):
    """One program to build. `needs`: executable -> how to get it."""

    name: str
    binary: Path
    needs: dict[str, str]
    build: Callable[[], None]
    version: Callable[[], str]


def _run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise RuntimeError(f"{' '.join(command)} failed:\n{tail}")
    return done.stdout.strip()


def _tonic() -> None:
    target = str(BUILT / "tonic")
    _run(
        ["cargo", "build", "--release", "--locked", "--quiet", "--target-dir", target],
        SOURCES / "tonic",
    )


def _go() -> None:
    _run(["go", "build", "-o", str(BUILT / "bench-go"), "."], SOURCES / "go")


def _cpp() -> None:
    try:
        flags = _run(["pkg-config", "--cflags", "--libs", "grpc++"], SOURCES / "cpp").split()
    except RuntimeError as error:
        raise RuntimeError("gRPC's C++ headers: apt-get install libgrpc++-dev") from error
    command = ["g++", "-O2", "-std=c++17", "main.cc", "-o", str(BUILT / "bench-cpp"), *flags]
    _run(command, SOURCES / "cpp")


def _tonic_version() -> str:
    lock = (SOURCES / "tonic" / "Cargo.lock").read_text(encoding="utf-8")
    found = re.search(r'name = "tonic"\nversion = "([^"]+)"', lock)
    return f"tonic {found[1]}" if found else "tonic"


def _go_version() -> str:
    module = (SOURCES / "go" / "go.mod").read_text(encoding="utf-8")
    found = re.search(r"google.golang.org/grpc v(\S+)", module)
    return f"grpc-go {found[1]}" if found else "grpc-go"


def _cpp_version() -> str:
    return "gRPC C++ " + _run(["pkg-config", "--modversion", "grpc++"], SOURCES / "cpp")


PEERS = (
    Peer(
        "tonic",
        BUILT / "tonic" / "release" / "bench-tonic",
        {"cargo": "a Rust toolchain with cargo, 1.88 or newer"},
        _tonic,
        _tonic_version,
    ),
    Peer("grpc-go", BUILT / "bench-go", {"go": "Go 1.26 or newer"}, _go, _go_version),
    Peer(
        "grpc-c++",
        BUILT / "bench-cpp",
        {"g++": "apt-get install g++", "pkg-config": "apt-get install pkg-config"},
        _cpp,
        _cpp_version,
    ),
)


def build(peer: Peer) -> str:
    """Builds it; returns "" or why it is not there, and what would help."""
    lacking = [how for tool, how in peer.needs.items() if shutil.which(tool) is None]
    if lacking:
        return "; ".join(lacking)
    BUILT.mkdir(parents=True, exist_ok=True)
    try:
        peer.build()
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        # An old program would be measured as if it were this source.
        peer.binary.unlink(missing_ok=True)
        return str(error)
    return ""


def main() -> None:
    """Command line: names of peers, all of them if none is given."""
    wanted = set(sys.argv[1:]) or {peer.name for peer in PEERS}
    unknown = wanted - {peer.name for peer in PEERS}
    if unknown:
        sys.exit(f"no such peer: {', '.join(sorted(unknown))}")
    for peer in PEERS:
        if peer.name in wanted:
            fault = build(peer)
            print(f"{peer.name}: {'not built: ' + fault if fault else peer.version()}", flush=True)


if __name__ == "__main__":
    main()
