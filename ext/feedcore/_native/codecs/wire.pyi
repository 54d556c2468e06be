from collections.abc import Sequence

from feedcore.codecs.wire import PageItem

def encode_page(
    items: Sequence[PageItem], next_cursor: str, head: str, etag: str, receipt: bytes, view: int
) -> bytes: ...
def encode_not_modified(head: str, etag: str, receipt: bytes) -> bytes: ...
def page_etag(
    items: Sequence[PageItem], config_version: int, next_exists: bool, flags: int
) -> str: ...
