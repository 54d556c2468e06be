"""Reads an input of a fuzz target as a script: bytes become numbers and pieces, however few there
are."""

from __future__ import annotations


class Script:
    """Bytes, taken from the front; zeros when there are none left."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        """The next byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def take(self, count: int) -> bytes:
        """The next bytes, at most so many."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))
