"""Seeded mutations of the corpus: what a fuzzer does first, without one."""

from __future__ import annotations

import random
from collections.abc import Iterator

TELLING = [0, 1, 4, 5, 9, 0x7F, 0x80, 0xFF]  # bytes at the edges of lengths and flags


def mutants(corpus: list[bytes], seed: int, count: int) -> Iterator[bytes]:
    """So many inputs, each of one or two of the corpus."""
    dice = random.Random(seed)
    for _ in range(count):
        data = bytearray(dice.choice(corpus))
        for _ in range(dice.choice([1, 1, 2, 4, 8])):
            _change(data, dice, corpus)
        yield bytes(data)


def _change(data: bytearray, dice: random.Random, corpus: list[bytes]) -> None:
    at = dice.randrange(len(data) + 1)
    kind = dice.randrange(6)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << dice.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = dice.choice(TELLING)
    elif kind == 2:
        data[at:at] = dice.randbytes(dice.randrange(1, 9))
    elif kind == 3:
        del data[at : at + dice.randrange(1, 17)]
    elif kind == 4:
        data[at:at] = data[at : at + dice.randrange(1, 33)]
    else:
        other = dice.choice(corpus)
        begin = dice.randrange(len(other) + 1)
        data[at:at] = other[begin : begin + dice.randrange(1, 65)]
