"""Java and the published artifacts of Kafka and Cassandra, fetched once by Maven into a cache.

A cache folder is named by its pom's hash and appears whole or not at all: a second start needs
no network, a changed pom a new folder. Not for building anything.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from .state import Unavailable, locked

POMS = Path(__file__).parent / "poms"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "feedcore" / "services"
# Both run on it; Cassandra 5.0 on nothing newer.
JAVA_MAJOR = 17
JAVA_HINT = f"on Debian and Ubuntu: apt-get install openjdk-{JAVA_MAJOR}-jre-headless"
# 110 MB of jars over a slow line.
FETCH_S = 540
PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"


def java() -> str:
    """The path of a Java of the right version, JAVA_HOME's first."""
    home = os.environ.get("JAVA_HOME")
    tried = [Path(home) / "bin" / "java"] if home else []
    found = shutil.which("java")
    tried += [Path(found)] if found else []
    tried += sorted(Path("/usr/lib/jvm").glob(f"*{JAVA_MAJOR}*/bin/java"))
    for path in tried:
        if path.exists() and major(path) == JAVA_MAJOR:
            return str(path)
    names = ", ".join(f"{path} is {major(path)}" for path in tried if path.exists())
    raise Unavailable(f"needs Java {JAVA_MAJOR} ({names or 'there is none'}); {JAVA_HINT}")


def major(path: Path) -> int | None:
    said = subprocess.run(
        [str(path), "-version"], capture_output=True, text=True, timeout=60, check=False
    )
    match = re.search(r'version "(\d+)', said.stderr)
    return int(match[1]) if match else None


def classpath(kind: str, cache: Path) -> str:
    """The jars of one engine as a class path, fetched when they are not there."""
    pom = POMS / f"{kind}.xml"
    digest = hashlib.sha256(pom.read_bytes()).hexdigest()[:12]
    folder = cache / f"{kind}-{digest}"
    if not folder.is_dir():
        with locked(cache / "lock"):
            if not folder.is_dir():
                fetch(pom, folder)
    return str(folder / "*")


def fetch(pom: Path, folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable("needs Maven to fetch jars; on Debian and Ubuntu: apt-get install maven")
    print(f"fetching what {pom.name} names into {folder}", flush=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        jars = Path(scratch) / "jars"
        shutil.copy(pom, Path(scratch) / "pom.xml")
        command = [maven, "-B", "-q", "-f", scratch, PLUGIN]
        command += [f"-DoutputDirectory={jars}", "-DincludeScope=runtime"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=FETCH_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"Maven took more than {FETCH_S} s for {pom}") from error
        if done.returncode != 0:
            last = "\n".join(done.stdout.splitlines()[-15:])
            raise Unavailable(f"Maven could not fetch what {pom} names:\n{last}")
        jars.rename(folder)
