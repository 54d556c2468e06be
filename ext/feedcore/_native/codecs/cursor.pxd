"""What other compiled modules use of cursor: cursors and head tokens without objects of Python."""
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

# feedcore.codecs.cursor.Cursor, but for the served ids.
cdef struct cursor_t:
    uint64_t owner
    uint64_t head
    uint64_t low_water
    uint64_t ranked_at_ms
    uint64_t config_version
    uint64_t issued_ms
    int origin

cdef bytes seal_cursor(const cursor_t* cursor, bytes served, bytes key)
cdef bytes open_cursor(
    const uint8_t* text, size_t size, bytes key, uint64_t owner, int64_t now_ms, cursor_t* out
)
cdef bytes seal_head(uint64_t owner, uint64_t head_id, bytes key)
cdef int64_t open_head(
    const uint8_t* text, size_t size, bytes key, uint64_t owner
) except -2
