"""Worlds on disk: a store that a server can serve at once, and what the load must know of it.

A world is made once and kept below build/bench by its parameters; every run serves a copy, so that
no run changes what the next one finds. Posts are dated relative to the making: a world that is
older than AGE_MAX_MS is made again. Invariant: `world.json` is written last, so that a world that
is there is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "build" / "bench"
FORMAT = 1  # of what is kept; another number, another world
AGE_MAX_MS = 12 * 3_600_000  # posts lie in six of seven days of retention: a day is left, half kept

PEOPLE, WINDOWS, SIZES = "people", "windows", "sizes"

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Spec:
    """Parameters of a world. `scale` multiplies follower counts; `graph` names a file instead. In
    worlds of SIZES well known authors post, as much as fills everybody's page twice."""

    kind: str
    users: int
    seed: int
    scale: float = 1.0
    posts_per_user: float = 2.5
    graph: str = ""

    @property
    def digest(self) -> str:
        """Names the folder."""
        parts = [str(FORMAT), json.dumps(asdict(self), sort_keys=True)]
        if self.graph:
            stat = Path(self.graph).stat()
            parts.append(f"{stat.st_size} {stat.st_mtime_ns}")
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def __str__(self) -> str:
        of = self.graph or f"{self.users:,} users"
        return f"{self.kind}, {of}, seed {self.seed}, followers x {self.scale:g}"


@dataclass
class World:
    """What the load knows. `authors`: (author, number of followers, some of them) of those that
    scenarios publish as: `ordinary` have about 500 followers (times scale), `celebrity` the most.
    """

    spec: Spec
    folder: Path
    made_ms: int
    seconds: float
    users: list[int]
    activity: list[int]
    push_threshold: int
    edges: int
    median_followers: int
    mean_followers: float
    posts: int
    deliveries: int
    ordinary: list[tuple[int, int, list[int]]] = field(default_factory=list)
    celebrity: tuple[int, int, list[int]] | None = None

    def describe(self) -> dict[str, object]:
        """For reports."""
        return {
            "world": str(self.spec),
            "users": len(self.users),
            "follows": self.edges,
            "median followers": self.median_followers,
            "mean followers": round(self.mean_followers, 1),
            "best known": self.celebrity[1] if self.celebrity else 0,
            "push threshold": self.push_threshold,
            "posts": self.posts,
            "deliveries": self.deliveries,
            "made in s": round(self.seconds, 1),
        }

    def save(self) -> None:
        """Writes world.json; after everything else."""
        data = asdict(self)
        del data["folder"]
        draft = self.folder / "world.json.new"
        draft.write_text(json.dumps(data), encoding="utf-8")
        draft.replace(self.folder / "world.json")

    @classmethod
    def load(cls, folder: Path) -> World | None:
        """None if there is no whole world."""
        path = folder / "world.json"
        if not path.exists():
            return None
        data = json.loads(path.read_text(encoding="utf-8"))
        data["spec"] = Spec(**data["spec"])
        data["ordinary"] = [tuple(one) for one in data["ordinary"]]
        data["celebrity"] = tuple(data["celebrity"]) if data["celebrity"] else None
        return cls(folder=folder, **data)

    def copy(self, target: Path) -> Path:
        """A data directory that a server may change. Run files are written once: they are linked,
        everything else is copied."""
        source = self.folder / "data"
        for path in sorted(source.rglob("*")):
            to = target / path.relative_to(source)
            if path.is_dir():
                to.mkdir(parents=True, exist_ok=True)
            elif path.suffix == ".run":
                _link(path, to)
            elif not path.name.endswith(".lock"):
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, to)
        return target


def _link(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)
    except OSError:  # another file system
        shutil.copyfile(path, to)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def obtain(spec: Spec, echo: Echo, cache: Path = CACHE) -> World:
    """The world of the cache, made if it is not there, too old, or of other parameters."""
    from feedcore_bench import building  # opens stores: not for those who only read results

    folder = cache / spec.digest
    world = World.load(folder)
    if world is not None and now_ms() - world.made_ms < AGE_MAX_MS:
        return world
    if folder.exists():
        shutil.rmtree(folder)
    echo(f"making the world ({spec})")
    return building.build(spec, folder, echo)
