"""A draft: one page, or one check for new content, on its way. Its state table is in `page`.

Invariant: a draft owns what was given to it, whether the caches keep it or not. It only holds data:
`page` does the work.
"""

from libc.stdlib cimport free

from feedcore._native.feed.resident cimport Page, Viewer

NEEDS = {
    "done": DONE,
    "viewer": NEEDS_VIEWER,
    "depth": NEEDS_DEPTH,
    "timelines": NEEDS_TIMELINES,
    "contents": NEEDS_CONTENTS,
    "generic": GENERIC,
}


cdef class Draft:
    """One answer on its way."""

    def __dealloc__(self):
        free(self.items)

    @property
    def shape(self):
        """What one user's same requests have in common: page size, view and cursor, as bytes."""
        return (self.page_size << 2 | self.view).to_bytes(4, "little") + self.cursor

    def give_viewer(self, Viewer viewer not None):
        """What NEEDS_VIEWER or NEEDS_DEPTH asked for."""
        self.viewer = viewer

    def give_timelines(self, dict timelines not None):
        """author id -> Timeline, for all `missing`."""
        self.timelines = timelines if self.timelines is None else {**self.timelines, **timelines}

    def give_contents(self, dict contents not None):
        """content id -> Content, for all `missing`."""
        self.contents = contents if self.contents is None else {**self.contents, **contents}
