"""What is measured: rows (connections x streams), sizes of replies, and how long all of it takes.

Every server answers the same paths, `/bench.Bench/Reply<size>`, with the same bytes. One *cell* is
one server at one row and size; a round visits every cell once, servers in turn, so that whatever
else the machine does hurts all alike.
"""

from __future__ import annotations

from typing import NamedTuple

REQUEST = b"\x0a\x08" + b"a" * 8  # 10 bytes: a message with one bytes field of 8
SIZES = (100, 2_500, 16_384)
MAIN_SIZE = 2_500  # a page of a feed; the goals are set at this size
WARM_UP_S = 0.5  # connections, windows and caches settle in less
CELL_OVERHEAD_S = 0.15  # starting and ending h2load


class Row(NamedTuple):
    """So many connections with so many streams each."""

    connections: int
    streams: int

    @property
    def name(self) -> str:
        """As tables print it: 8x32."""
        return f"{self.connections}x{self.streams}"

    @classmethod
    def parse(cls, text: str) -> Row:
        """The row of a name; ValueError says what is wrong with it."""
        connections, _, streams = text.partition("x")
        if not (connections.isdecimal() and streams.isdecimal()):
            raise ValueError(f"row {text!r}: write CONNECTIONSxSTREAMS, as in 8x32")
        return cls(int(connections), int(streams))


ROWS = (Row(1, 1), Row(4, 8), Row(8, 32), Row(16, 64))
ONE_BY_ONE, MIDDLE, FULL = ROWS[0], ROWS[2], ROWS[3]
SIDE_ROWS = (ONE_BY_ONE, MIDDLE, FULL)  # at the sizes beside the main one, to save time


class Cell(NamedTuple):
    """One thing to measure in every round."""

    server: str
    row: Row
    size: int


def size_name(size: int) -> str:
    """Bytes as tables print them."""
    names = {100: "100 B", 2_500: "2.5 KB", 16_384: "16 KB"}
    return names.get(size, f"{size} B")


def path(size: int) -> str:
    """The method that answers with so many bytes."""
    return f"/bench.Bench/Reply{size}"


def frame(message: bytes) -> bytes:
    """A gRPC message on the wire: not compressed, length, bytes."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def reply(size: int) -> bytes:
    """What every server answers."""
    return b"x" * size


def estimate_s(cells: int, rounds: int, seconds: float) -> float:
    """How long the measuring takes."""
    return cells * rounds * (seconds + WARM_UP_S + CELL_OVERHEAD_S)
