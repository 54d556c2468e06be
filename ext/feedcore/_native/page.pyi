from collections.abc import Callable

from feedcore._native.resident import Content, Outbox, Resident, Viewer
from feedcore.clock import Clock
from feedcore.domain.experiments import RankingConfig
from feedcore.ports.resident import ResidentSource

NEEDS: dict[str, int]

class Draft:
    user_id: int
    view: int
    viewer: Viewer | None
    depth: int
    missing: list[int]
    body: bytes
    item_count: int
    not_modified: bool
    silent: bool
    def give_viewer(self, viewer: Viewer) -> None: ...
    def give_outboxes(self, outboxes: dict[int, Outbox]) -> None: ...
    def give_contents(self, contents: dict[int, Content]) -> None: ...

class PageMaker:
    resident: Resident
    pages_kept: int
    pages_made: int
    checks_kept: int
    checks_made: int
    shown_dropped: int
    items_served: int
    not_modified: int
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
    def kept(self, draft: Draft) -> bytes | None: ...
    def take_shown(self, most: int) -> tuple[list[tuple[bytes, int]], int]: ...
    def take_due(self) -> list[tuple[int, int, int, bytes]]: ...
    def look(self) -> None: ...
    def close(self) -> None: ...
