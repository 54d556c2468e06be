from collections.abc import Callable

from feedcore._native.feed.draft import Draft
from feedcore._native.feed.resident import Resident
from feedcore.clock import Clock
from feedcore.domain.experiments import RankingConfig
from feedcore.ports.resident import ResidentSource

class PageCounts:
    pages_cached: int
    pages_generated: int
    checks_cached: int
    checks_generated: int
    shown_dropped: int
    items_served: int
    not_modified: int

class PageMaker:
    resident: Resident
    counts: PageCounts
    load_now: Callable[[Draft, int], bool] | None
    def __init__(
        self,
        resident: Resident,
        source: ResidentSource,
        ranking: Callable[[], RankingConfig],
        clock: Clock,
        seen: Callable[[int, int], object],
        secret: bytes,
    ) -> None: ...
    def begin(
        self, user_id: int, page_size: int, view: int, cursor: str, etag: str
    ) -> Draft | None: ...
    def begin_check(self, user_id: int, head: str) -> Draft | None: ...
    def go_on(self, draft: Draft) -> int: ...
    def cached(self, draft: Draft) -> bytes | None: ...
    def is_current(self, draft: Draft) -> bool: ...
    def take_shown(self, most: int) -> tuple[list[tuple[bytes, int]], int]: ...
    def take_refreshes(self) -> list[tuple[int, int, int, bytes]]: ...
    def follow_replica(self) -> None: ...
    def close(self) -> None: ...
