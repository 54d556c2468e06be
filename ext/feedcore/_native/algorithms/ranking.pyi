from feedcore.domain.ranking import RankingParameters

def score(
    entries: bytes,
    verdicts: bytes,
    engagement: bytes,
    affinity: bytes,
    see_less: bytes,
    params: RankingParameters,
    now_ms: int,
) -> bytes: ...
