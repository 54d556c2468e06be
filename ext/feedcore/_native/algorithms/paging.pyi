from feedcore.domain.paging import Selection
from feedcore.domain.ranking import RankingParameters

def select(
    entries: bytes,
    verdicts: bytes,
    scores: bytes,
    served: bytes,
    page_size: int,
    params: RankingParameters,
    window_limit: int,
) -> Selection: ...
