"""Who has published lately, numbered: a cached page asks whether anybody on its viewer's list has
posted since the page was generated."""

from __future__ import annotations

# Seconds of posts at our peak: older pages are generated anew.
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
        self.first = 0  # the number of the oldest author that is remembered

    def add(self, author_id: int) -> None:
        """The next number."""
        self.authors.append(author_id)
        if len(self.authors) > 2 * POSTED_KEPT:
            del self.authors[:POSTED_KEPT]
            self.first += POSTED_KEPT
