"""Who has published lately, numbered: what a kept page asks about the time since it was made."""

from __future__ import annotations

# Seconds of posts at our peak: pages that are older than that are looked at no more.
POSTED_KEPT = 4_096
# Authors with many followers who published since somebody asked: a batch of timelines.
PUBLISHED_KEPT = 64


class PublishedAuthors:
    """Pulled authors who published since they were last taken; of too many the newest."""

    def __init__(self) -> None:
        self._authors: dict[int, None] = {}

    def add(self, author_id: int) -> None:
        """The newest."""
        self._authors.pop(author_id, None)
        self._authors[author_id] = None
        if len(self._authors) > PUBLISHED_KEPT:
            del self._authors[next(iter(self._authors))]

    def take(self) -> list[int]:
        """In the order of their last posts."""
        taken, self._authors = self._authors, {}
        return list(taken)


class PostedAuthors:
    """Authors of pushed posts, numbered as they were seen; the oldest are forgotten."""

    def __init__(self) -> None:
        self.authors: list[int] = []
        self.first = 0  # the number of the first one that is kept

    def add(self, author_id: int) -> None:
        """The next number."""
        self.authors.append(author_id)
        if len(self.authors) > 2 * POSTED_KEPT:
            del self.authors[:POSTED_KEPT]
            self.first += POSTED_KEPT
