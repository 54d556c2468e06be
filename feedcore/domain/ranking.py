"""Ranking: score = quality^w * recency * engagement * affinity * see_less. Author diversity is in
`paging`.

`score` is the twin of feedcore._native.algorithms.ranking: the same operations in the same order,
so that scores are equal to the bit. Scores of kept entries are above zero and finite. Parameters
are values; the versions, experiments and documents around them are in `experiments`. Not for
choosing or ordering items.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple

from feedcore.domain.entry import QUALITY_SCALE, Entry, rows
from feedcore.domain.ids import time_ms
from feedcore.domain.idset import unpack_ids
from feedcore.errors import InvalidField
from feedcore.limits import HOUR_MS

ENGAGEMENT_MAX = 64.0  # above ln of any 64-bit count: bounds what a damaged derived file can do
SCORE_MIN = 2.2250738585072014e-308  # smallest normal f64: "kept" is always above "left out" (0.0)
AFFINITY = struct.Struct("<Qf")


@dataclass(frozen=True, slots=True)
class RankingParameters:
    """Knobs of the formula; units, bounds and meaning in proto/feedcore/v1/admin.proto."""

    half_life_hours: float = 12.0
    engagement_weight: float = 0.25
    affinity_weight: float = 1.0
    see_less_factor: float = 0.2
    diversity_decay: float = 0.6
    diversity_floor: float = 0.1
    quality_weight: float = 1.0

    BOUNDS: ClassVar[Mapping[str, tuple[float, float]]] = {
        "half_life_hours": (0.1, 168.0),  # 6 minutes to the whole retention
        "engagement_weight": (0.0, 10.0),
        "affinity_weight": (0.0, 10.0),
        "see_less_factor": (0.01, 1.0),  # never 0: what is left out needs a verdict
        "diversity_decay": (0.1, 1.0),
        "diversity_floor": (0.01, 1.0),
        "quality_weight": (0.0, 4.0),
    }
    DEFAULT: ClassVar[RankingParameters]

    def validate(self, prefix: str = "parameters") -> RankingParameters:
        """Itself, if every value is a finite number within its bounds; else raises InvalidField."""
        for name, (low, high) in self.BOUNDS.items():
            value = getattr(self, name)
            bound = f"{low:g} to {high:g}"
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InvalidField(f"{prefix}.{name}", type(value).__name__, f"a number, {bound}")
            if not math.isfinite(value) or not low <= value <= high:
                raise InvalidField(f"{prefix}.{name}", f"{value:g}", bound)
        return self

    def to_document(self) -> dict[str, float]:
        """A JSON-ready mapping of all parameters."""
        return {field.name: float(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_document(
        cls, document: Mapping[str, object], prefix: str = "parameters"
    ) -> RankingParameters:
        """The parameters of `to_document`, validated; absent ones are defaults, unknown refused."""
        unknown = sorted(set(document) - set(cls.BOUNDS))
        if unknown:
            bound = f"one of {', '.join(cls.BOUNDS)}"
            raise InvalidField(f"{prefix}.{unknown[0]}", "unknown", bound)
        return cls(**document).validate(prefix)  # type: ignore[arg-type]


RankingParameters.DEFAULT = RankingParameters()
DEFAULT = RankingParameters.DEFAULT
BOUNDS = RankingParameters.BOUNDS


class ScoreTerms(NamedTuple):
    """The factors of one score, in the order they are multiplied."""

    quality: float
    recency: float
    engagement: float
    affinity: float
    see_less: float

    @property
    def score(self) -> float:
        """Their product, kept above zero."""
        product = self.quality * self.recency * self.engagement * self.affinity * self.see_less
        return max(product, SCORE_MIN)


def _terms(
    content_id: int,
    stored_quality: int,
    engagement: float,
    affinity: float,
    see_less: bool,
    params: RankingParameters,
    now_ms: int,
) -> ScoreTerms:
    quality = max(stored_quality, 1) / 1000.0
    if params.quality_weight != 1.0:
        quality = math.pow(quality, params.quality_weight)
    age_ms = max(now_ms - time_ms(content_id), 0)
    engagement = min(engagement, ENGAGEMENT_MAX) if engagement > 0.0 else 0.0
    affinity = min(affinity, 1.0) if affinity > 0.0 else 0.0
    return ScoreTerms(
        quality,
        math.exp2(-(age_ms / (params.half_life_hours * HOUR_MS))),
        1.0 + params.engagement_weight * engagement,
        1.0 + params.affinity_weight * affinity,
        params.see_less_factor if see_less else 1.0,
    )


def explain_terms(
    entry: Entry,
    engagement: float,
    affinity: float,
    see_less: bool,
    params: RankingParameters,
    now_ms: int,
) -> ScoreTerms:
    """The factors of one entry: `engagement` as SignalStore gives it, `affinity` 0 to 1."""
    stored = round(entry.quality * QUALITY_SCALE)
    return _terms(entry.content_id, stored, engagement, affinity, see_less, params, now_ms)


def affinity_of(affinity: bytes, author_id: int) -> float:
    """The viewer's affinity to one author in a packed affinity array, 0.0 if none."""
    affinities: dict[int, float] = dict(AFFINITY.iter_unpack(affinity))
    return affinities.get(author_id, 0.0)


def score(
    entries: bytes,
    verdicts: bytes,
    engagement: bytes,
    affinity: bytes,
    see_less: bytes,
    params: RankingParameters,
    now_ms: int,
) -> bytes:
    """One little-endian f64 an entry; 0.0 where the verdict is not KEEP.

    `engagement`: f32 an entry. `affinity`: packed (u64 author, f32) ascending by author.
    `see_less`: id array.
    """
    engagements = memoryview(engagement).cast("B")
    items = list(rows(entries))
    if len(verdicts) != len(items) or len(engagements) != 4 * len(items):
        raise ValueError(
            f"score: {len(items)} entries, {len(verdicts)} verdicts,"
            f" {len(engagements)} bytes of engagement; one byte and one f32 an entry"
        )
    if len(affinity) % AFFINITY.size:
        raise ValueError(f"affinity: {len(affinity)} bytes; a multiple of {AFFINITY.size}")
    affinities = dict(AFFINITY.iter_unpack(affinity))
    see_less_ids = frozenset(unpack_ids(see_less))
    rates = struct.unpack(f"<{len(items)}f", engagements)
    scores = [0.0] * len(items)
    for index, (content_id, author, stored, _) in enumerate(items):
        if verdicts[index] == 0:
            terms = _terms(
                content_id,
                stored,
                rates[index],
                affinities.get(author, 0.0),
                author in see_less_ids,
                params,
                now_ms,
            )
            scores[index] = terms.score
    return struct.pack(f"<{len(scores)}d", *scores)
