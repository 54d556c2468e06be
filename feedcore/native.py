"""The only switch between compiled modules and their twins, the reference implementations in Python
(feedcore.domain, feedcore.codecs): same names, same results.

The compiled modules are used if all of them can be imported; otherwise none is.
FEEDCORE_NO_EXTENSIONS=1 chooses the twins. If modules are missing without that, a warning is
logged: the engine works, an order of magnitude slower. Not for anything but this choice.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING

from feedcore.domain.paging import Selection
from feedcore.domain.visibility import Audience, Verdict

COMPILED = os.environ.get("FEEDCORE_NO_EXTENSIONS") != "1"

if COMPILED and not TYPE_CHECKING:
    try:
        from feedcore._native.algorithms.merge import count_within, merge_newest, sort_entries
        from feedcore._native.algorithms.paging import select
        from feedcore._native.algorithms.ranking import score
        from feedcore._native.algorithms.visibility import judge
        from feedcore._native.codecs.idset import (
            U64Set,
            ids_contain,
            ids_insert,
            ids_intersect,
            ids_remove,
            ids_union,
            pack_ids,
            unpack_ids,
        )
        from feedcore._native.codecs.wire import encode_not_modified, encode_page, page_etag
        from feedcore._native.codecs.wirebounds import WireBounds
        from feedcore._native.store.engagement import (
            engagement_damaged,
            engagement_lookup,
            engagement_store,
        )
        from feedcore._native.store.epochs import Epochs
        from feedcore._native.store.runlookup import RunIndex, run_blocks, run_sums
        from feedcore._native.store.runs import build_runs, merge_runs
    except ImportError as error:
        COMPILED = False
        warnings.warn(
            f"compiled modules are missing ({error}): the slower Python twins serve;"
            " run 'make build'",
            RuntimeWarning,
            stacklevel=2,
        )

if TYPE_CHECKING or not COMPILED:
    from feedcore.codecs.engagement import (
        engagement_damaged,
        engagement_lookup,
        engagement_store,
    )
    from feedcore.codecs.epochs import Epochs
    from feedcore.codecs.runs import RunIndex, build_runs, merge_runs, run_blocks, run_sums
    from feedcore.codecs.wire import encode_not_modified, encode_page, page_etag
    from feedcore.codecs.wirebounds import WireBounds
    from feedcore.domain.idset import (
        U64Set,
        ids_contain,
        ids_insert,
        ids_intersect,
        ids_remove,
        ids_union,
        pack_ids,
        unpack_ids,
    )
    from feedcore.domain.merge import count_within, merge_newest, sort_entries
    from feedcore.domain.paging import select
    from feedcore.domain.ranking import score
    from feedcore.domain.visibility import judge

# What pages are made with has no twins, and is imported when it is asked for: only workers that
# serve feeds do, and without it `FeedService` answers everything.
_PAGES = {
    "NEEDS": "feed.draft",
    "Content": "feed.resident",
    "Draft": "feed.draft",
    "PageMaker": "feed.page",
    "Resident": "feed.resident",
    "Timeline": "feed.resident",
    "Viewer": "feed.resident",
    "decode_get_feed": "codecs.feedwire",
}

if TYPE_CHECKING:
    from feedcore._native.codecs.feedwire import decode_get_feed as decode_get_feed
    from feedcore._native.feed.draft import NEEDS as NEEDS
    from feedcore._native.feed.draft import Draft as Draft
    from feedcore._native.feed.page import PageMaker as PageMaker
    from feedcore._native.feed.resident import Content as Content
    from feedcore._native.feed.resident import Resident as Resident
    from feedcore._native.feed.resident import Timeline as Timeline
    from feedcore._native.feed.resident import Viewer as Viewer
else:

    def __getattr__(name: str) -> object:
        if name not in _PAGES:
            raise AttributeError(f"feedcore.native has no {name}")
        return getattr(import_module(f"feedcore._native.{_PAGES[name]}"), name)


__all__ = [
    "COMPILED",
    "Audience",
    "Epochs",
    "RunIndex",
    "Selection",
    "U64Set",
    "Verdict",
    "WireBounds",
    "build_runs",
    "count_within",
    "encode_not_modified",
    "encode_page",
    "engagement_damaged",
    "engagement_lookup",
    "engagement_store",
    "ids_contain",
    "ids_insert",
    "ids_intersect",
    "ids_remove",
    "ids_union",
    "judge",
    "merge_newest",
    "merge_runs",
    "pack_ids",
    "page_etag",
    "run_blocks",
    "run_sums",
    "score",
    "select",
    "sort_entries",
    "unpack_ids",
]
