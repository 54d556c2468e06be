"""Clients of other stacks, built once and kept below build/ (which git ignores).

A build is named by a digest of what it is made from, made in a directory beside its place and moved
there when complete: a build that was interrupted is never used, and two test runs at once are safe.
What is downloaded comes through the package client of each language, pinned by its lock file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.support.testserver import ROOT
from tests.support.tools import lacking, tool

HERE = Path(__file__).resolve().parent
_failed: dict[str, str] = {}  # builds that failed in this run are not tried again
CACHE = ROOT / "build" / "interop"
PLAY_WITHIN_S = 600.0  # all cases of a client, the long variants included
BUILD_WITHIN_S = 900.0  # a first build on a slow network; later ones take none


def built(name: str, sources: list[Path], make: Callable[[Path], None]) -> Path:
    """The directory that `make` fills, called only if there is none for these sources. A build that
    fails ends the test like a missing tool: the package registry may be out of reach."""
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    place = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            if name in _failed:
                lacking(_failed[name])
            for outdated in CACHE.glob(f"{name}-*"):
                shutil.rmtree(outdated)
            staging = CACHE / f"{name}-unfinished"
            staging.mkdir()
            try:
                make(staging)
            except subprocess.SubprocessError as error:
                _failed[name] = f"the {name} client cannot be built: {error}\n{error.output or ''}"
                lacking(_failed[name])
            staging.rename(place)
    return place


def run(command: list[str], folder: Path, **environment: str) -> None:
    """Runs a step of a build. Raises subprocess.SubprocessError with its output."""
    subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_WITHIN_S,
        check=True,
    )


class Faults(dict[str, str | None]):
    """What a client found wrong, by case; a case that it did not play has gone wrong."""

    end = ""  # how the client ended, if not well

    def __missing__(self, case: str) -> str:
        return f"{case} was not played: {self.end or 'the client does not know it'}"


def played(command: list[str], **environment: str) -> Faults:
    """Runs a client that plays cases and prints a line of JSON for each."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = ""
    try:
        output, log = process.communicate(timeout=PLAY_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        output, log = process.communicate()
        end = f"the client did not end in {PLAY_WITHIN_S} s; "
    lines = [json.loads(line) for line in output.splitlines() if line.startswith('{"case')]
    faults = Faults({line["case"]: line["fault"] for line in lines})
    if process.returncode != 0:
        faults.end = f"{end}the client ended with {process.returncode}: {log[-4_000:]}"
    return faults


def go_tools() -> Path:
    """Directory with the official Go interop client (`client`) and `grpcurl`."""
    go = tool("go", "apt-get install golang-go, where that is Go 1.26 or newer")
    sources = [HERE / "go" / "go.mod", HERE / "go" / "go.sum"]

    def make(target: Path) -> None:
        command = [go, "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-o", f"{target}/"]
        # The toolchain that is there: the go command would download another one.
        run([*command, "tool"], HERE / "go", GOTOOLCHAIN="local")

    return built("go", sources, make)


def node_modules() -> Path:
    """The `node_modules` that the Node client needs."""
    tool("node", "apt-get install nodejs")
    npm = tool("npm", "apt-get install npm")
    sources = [HERE / "node" / "package.json", HERE / "node" / "package-lock.json"]

    def make(target: Path) -> None:
        for source in sources:
            shutil.copy(source, target)
        flags = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
        run([npm, "ci", *flags], target)

    return built("node", sources, make) / "node_modules"


def java_classpath() -> str:
    """Class path of the official Java interop client and of our runner of it."""
    tool("java", "apt-get install default-jdk-headless")
    javac = tool("javac", "apt-get install default-jdk-headless")
    maven = tool("mvn", "apt-get install maven")
    sources = [HERE / "java" / "pom.xml", HERE / "java" / "Cases.java"]

    def make(target: Path) -> None:
        flags = ["-B", "-q", "-f", str(sources[0]), f"-Dmdep.outputFile={target}/classpath"]
        run([maven, *flags, "dependency:build-classpath"], target)
        jars = (target / "classpath").read_text()
        run([javac, "-cp", jars, "-d", str(target / "classes"), str(sources[1])], target)

    made = built("java", sources, make)
    return f"{made / 'classes'}:{(made / 'classpath').read_text().strip()}"
