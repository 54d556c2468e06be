from typing import Any

from feedcore._native.feed.cache import Cache, Cached
from feedcore._native.store.epochs import Epochs
from feedcore.ports import Content as ContentRow
from feedcore.ports.resident import ViewerRow

def packed_and_back(followees: bytes, entries: bytes) -> tuple[bytes, bytes, bytes, bytes]: ...

class Viewer(Cached):
    user_id: int
    epoch: int
    followee_count: int
    entries: int
    whole: bool
    seen_run: int
    def __init__(self, user_id: int, epoch: int, row: ViewerRow, depth: int) -> None: ...
    def has_published_nothing(self, own_epoch: int) -> None: ...
    def dump(self) -> tuple[bytes, bytes]: ...

class Timeline(Cached):
    epoch: int
    entries: bytes
    def __init__(self, epoch: int, entries: bytes) -> None: ...

class Content(Cached):
    epoch: int
    content: bytes | None
    def __init__(self, epoch: int, content: ContentRow | None) -> None: ...

class Page(Cached):
    body: bytes
    etag: bytes
    head: bytes
    receipt: bytes
    shown: bytes

class Resident:
    viewers: Cache
    timelines: Cache
    contents: Cache
    pages: Cache
    epochs: Epochs
    def __init__(
        self,
        epochs: Any,
        viewers_bytes: int,
        timelines_bytes: int,
        contents_bytes: int,
        pages_bytes: int,
    ) -> None: ...
    def keep_viewer(self, viewer: Viewer) -> None: ...
    def keep_timeline(self, author_id: int, timeline: Timeline) -> None: ...
    def keep_content(self, content_id: int, content: Content) -> None: ...
    def lacking_timelines(self, author_ids: list[int]) -> list[int]: ...
    def clear(self) -> None: ...
