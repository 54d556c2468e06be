"""Feeds by brute force from raw files, written apart from the engine: it shares no code and no
format with it.
"""

from __future__ import annotations

import csv
import gzip
import random
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


def cut(folder: Path, part: Path, users: int, authors: int, seed: int) -> None:
    """A part of the raw files, in the same format: some users, their follows of some of those who
    posted in the last days, their mutes, those authors' posts of the retention.
    """
    with gzip.open(folder / "posts.csv.gz", "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    newest = max(int(row["created_at_ms"]) for row in rows)
    recent = [row for row in rows if int(row["created_at_ms"]) > newest - RETENTION_MS]
    chance = random.Random(seed)
    posting = sorted({row["author_id"] for row in recent})
    chosen = {*chance.sample(posting, authors), recent[-1]["author_id"]}  # the newest stays
    with gzip.open(folder / "follows.tsv.gz", "rt") as lines:
        follows = [line.split() for line in lines]
    some = set(chance.sample(sorted({source for source, _ in follows}), users))
    with gzip.open(folder / "mutes.tsv.gz", "rt") as lines:
        mutes = [line.split() for line in lines]
    part.mkdir()
    for name, edges in (("follows", follows), ("mutes", mutes)):
        with gzip.open(part / f"{name}.tsv.gz", "wt") as file:
            file.writelines(
                f"{source}\t{target}\n"
                for source, target in edges
                if source in some and target in chosen
            )
    with gzip.open(part / "posts.csv.gz", "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in recent if row["author_id"] in chosen)
