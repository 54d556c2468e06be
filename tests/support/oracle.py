"""Feeds by brute force from raw files, written apart from the engine: it shares no code and no
format with it.
"""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

RETENTION_MS = 7 * 86_400_000


class RawPost(NamedTuple):
    """A line of the posts file, with its time shifted."""

    author: int
    at_ms: int
    text: str
    likes: int
    comments: int


@dataclass(slots=True)
class World:
    """The raw input, read the plain way."""

    follows: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    mutes: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    posts: dict[int, list[RawPost]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, folder: Path, newest_ms: int) -> World:
        """Reads follows, mutes and posts; times are shifted so that the newest post is at
        `newest_ms`.
        """
        world = cls()
        for name, edges in (("follows", world.follows), ("mutes", world.mutes)):
            with gzip.open(folder / f"{name}.tsv.gz", "rt") as lines:
                for line in lines:
                    source, target = map(int, line.split())
                    if source != target:
                        edges[source].add(target)
        with gzip.open(folder / "posts.csv.gz", "rt", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        shift = newest_ms - max(int(row["created_at_ms"]) for row in rows)
        for row in rows:
            at_ms = int(row["created_at_ms"]) + shift
            author = int(row["author_id"])
            post = RawPost(author, at_ms, row["text"], int(row["likes"]), int(row["comments"]))
            world.posts[author].append(post)
        return world

    def feed(self, user: int, since_ms: int) -> Counter[RawPost]:
        """Every post since `since_ms` that belongs into the user's feed."""
        authors = (self.follows[user] | {user}) - self.mutes[user]
        if user in self.mutes[user]:
            authors.add(user)
        return Counter(
            post
            for author in authors
            for post in self.posts.get(author, ())
            if post.at_ms >= since_ms
        )
