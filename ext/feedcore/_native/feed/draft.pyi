from feedcore._native.feed.resident import Content, Timeline, Viewer

NEEDS: dict[str, int]

class Draft:
    user_id: int
    view: int
    viewer: Viewer | None
    depth: int
    missing: list[int]
    body: bytes
    shown: bytes
    item_count: int
    not_modified: bool
    background: bool
    now_ms: int
    @property
    def shape(self) -> bytes: ...
    def give_viewer(self, viewer: Viewer) -> None: ...
    def give_timelines(self, timelines: dict[int, Timeline]) -> None: ...
    def give_contents(self, contents: dict[int, Content]) -> None: ...
