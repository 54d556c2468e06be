"""Clients of other stacks, built by `make interop-clients`, kept below build/ (git ignores it).

    python -m tests.conformance.interop.builds

builds what is missing or outdated, and says what cannot be built here and why. Tests use what is
there and build nothing. A build is named by a digest of what it is made from, made in a directory
beside its place and moved there when complete: a build that was interrupted is never used, and two
at once are safe. What is downloaded comes through the package client of each language, pinned by
its lock file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.support.testserver import ROOT
from tests.support.tools import IN_CI, lacking, tool

HERE = Path(__file__).resolve().parent
CACHE = ROOT / "build" / "interop"
PLAY_WITHIN_S = 600.0  # all cases of a client, the long variants included
BUILD_WITHIN_S = 900.0  # a first build on a slow network; later ones take none


@dataclass(frozen=True)
class Client:
    """What a client is made from, and how: `needs` is executable -> how to get it, `make` fills an
    empty directory.
    """

    name: str
    sources: tuple[Path, ...]
    needs: dict[str, str]
    make: Callable[[Path], None]

    @property
    def place(self) -> Path:
        """Where it is, or will be."""
        content = b"".join(source.read_bytes() for source in self.sources)
        return CACHE / f"{self.name}-{hashlib.sha256(content).hexdigest()[:16]}"


def built(client: Client) -> Path:
    """Its directory. Ends the test like a missing tool where there is none."""
    for name, how in client.needs.items():
        tool(name, how)
    if not client.place.is_dir():
        lacking(f"the {client.name} client is not built; make interop-clients builds it")
    return client.place


def build(client: Client) -> str:
    """Makes its directory if there is none for these sources; "" or why it cannot be made: a tool
    is missing, or the package registry is out of reach.
    """
    for name, how in client.needs.items():
        if shutil.which(name) is None:
            return f"{name} is not installed; get it with: {how}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{client.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if client.place.is_dir():
            return ""
        for outdated in CACHE.glob(f"{client.name}-*"):
            shutil.rmtree(outdated)
        staging = CACHE / f"{client.name}-unfinished"
        staging.mkdir()
        try:
            client.make(staging)
        except subprocess.SubprocessError as error:
            return f"{error}\n{error.output or ''}"
        staging.rename(client.place)
    return ""


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


def _go(target: Path) -> None:
    command = ["go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-o", f"{target}/"]
    # The toolchain that is there: the go command would download another one.
    run([*command, "tool"], HERE / "go", GOTOOLCHAIN="local")


def _node(target: Path) -> None:
    for source in NODE.sources:
        shutil.copy(source, target)
    flags = ["--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    run(["npm", "ci", *flags], target)


def _java(target: Path) -> None:
    pom, runner = JAVA.sources
    flags = ["-B", "-q", "-f", str(pom), f"-Dmdep.outputFile={target}/classpath"]
    run(["mvn", *flags, "dependency:build-classpath"], target)
    jars = (target / "classpath").read_text()
    run(["javac", "-cp", jars, "-d", str(target / "classes"), str(runner)], target)


GO = Client(
    "go",
    (HERE / "go" / "go.mod", HERE / "go" / "go.sum"),
    {"go": "apt-get install golang-go, where that is Go 1.26 or newer"},
    _go,
)
NODE = Client(
    "node",
    (HERE / "node" / "package.json", HERE / "node" / "package-lock.json"),
    {"node": "apt-get install nodejs", "npm": "apt-get install npm"},
    _node,
)
_JDK = "apt-get install default-jdk-headless"
JAVA = Client(
    "java",
    (HERE / "java" / "pom.xml", HERE / "java" / "Cases.java"),
    {"java": _JDK, "javac": _JDK, "mvn": "apt-get install maven"},
    _java,
)


def go_tools() -> Path:
    """Directory with the official Go interop client (`client`) and `grpcurl`."""
    return built(GO)


def node_modules() -> Path:
    """The `node_modules` that the Node client needs."""
    return built(NODE) / "node_modules"


def java_classpath() -> str:
    """Class path of the official Java interop client and of our runner of it."""
    made = built(JAVA)
    return f"{made / 'classes'}:{(made / 'classpath').read_text().strip()}"


def main() -> int:
    """Builds all; 1 if one cannot be built where CI=true."""
    wanted = [client for client in (GO, NODE, JAVA) if not client.place.is_dir()]
    begun = time.monotonic()
    code = 0
    # Side by side: each waits for downloads most of the time.
    with ThreadPoolExecutor(max_workers=3) as pool:
        for client, trouble in zip(wanted, pool.map(build, wanted), strict=True):
            if trouble:
                print(f"interop client {client.name}: NOT BUILT, its tests skip: {trouble}")
                code = int(IN_CI)
            else:
                print(f"interop client {client.name}: ready, {time.monotonic() - begun:.0f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
