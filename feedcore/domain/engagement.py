"""What interactions weigh: in a post's engagement, and in a user's affinity to its author.

    like 1    comment 2    share 3    click 0.1    hide 0

Kinds are numbered from 1 in this order (`ports.signals.InteractionKind`). Not for ranking, which
gets engagement and affinity ready made.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence

from feedcore.limits import AFFINITY_AUTHORS_MAX

WEIGHTS = (1.0, 2.0, 3.0, 0.1, 0.0)
LEAST_WEIGHT = 1e-6  # below: what is left of taking the same weights back in another order
_SHARE = struct.Struct("<Qf")


def weight_of_counts(counts: Sequence[int]) -> float:
    """Of counted interactions, by kind."""
    return sum(count * weight for count, weight in zip(counts, WEIGHTS, strict=True))


def engagement_of(weight: float) -> float:
    """ln(1 + weight) of a post's weight: the sum of its interactions'."""
    return math.log1p(max(weight, 0.0))


def weight_of(engagement: float) -> float:
    """The reverse of `engagement_of`, as exactly as f32 allows."""
    return math.expm1(engagement)


def strongest(weights: Mapping[int, float]) -> list[tuple[int, float]]:
    """(author, weight) of the AFFINITY_AUTHORS_MAX authors that weigh most, ascending by author; of
    equals the smaller ids.
    """
    positive = ((author, weight) for author, weight in weights.items() if weight > LEAST_WEIGHT)
    return sorted(sorted(positive, key=lambda one: (-one[1], one[0]))[:AFFINITY_AUTHORS_MAX])


def pack_shares(strong: list[tuple[int, float]]) -> bytes:
    """Packed (u64 author, f32 share) of what `strongest` gave: the shares are 1 together."""
    total = sum(weight for _, weight in strong)
    return b"".join(_SHARE.pack(author, weight / total) for author, weight in strong)
