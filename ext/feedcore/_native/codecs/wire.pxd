"""What other compiled modules use of wire: a page written without tuples of Python.

A page is: for each item item_measure, added up; blob_size of the receipt and text_size of each
text; one buffer; item_write for each; put_text and put_blob in the order of the fields. item_write
needs item_measure before it, with the same view.
"""
from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport TIME_SHIFT, data_of

cdef extern from *:
    """
    #ifndef FEEDCORE_WIRE
    #define FEEDCORE_WIRE
    #include <stdint.h>
    static inline int fc_varint_size(uint64_t v) {
        return (9 * (64 - __builtin_clzll(v | 1)) + 64) >> 6;
    }
    /* 2024-01-01T00:00Z, where the milliseconds of content ids begin */
    #define FC_EPOCH_MS UINT64_C(1704067200000)
    #endif
    """
    int varint_size "fc_varint_size"(uint64_t v) noexcept nogil
    const uint64_t EPOCH_MS "FC_EPOCH_MS"

# proto/feedcore/v1/feed.proto, View
cdef enum:
    VIEW_FULL = 0
    VIEW_COMPACT = 1
    VIEW_IDS = 2

# Tags of GetFeedResponse: number << 3 | type, 0 varint, 2 length-delimited.
cdef enum:
    TAG_NEXT_CURSOR = 0x12
    TAG_HEAD = 0x1A
    TAG_ETAG = 0x22
    TAG_NOT_MODIFIED = 0x28
    TAG_RECEIPT = 0x32

cdef struct page_item_t:
    uint64_t content_id
    uint64_t author_id
    uint64_t published_at_ms
    uint64_t likes
    uint64_t comments
    uint64_t shares
    uint64_t reason
    double score
    const uint8_t* content  # borrowed: it must outlive the item
    int64_t content_size  # -1: no content
    uint32_t content_crc  # zlib's crc32 of the content, 0 for none; only etag_of reads it
    size_t counts_size  # by item_measure
    size_t size  # by item_measure

cdef inline uint64_t published_at_ms(uint64_t content_id) noexcept nogil:
    return (content_id >> TIME_SHIFT) + EPOCH_MS

cdef inline size_t number_size(uint64_t value) noexcept nogil:
    """Of a field with a one-byte tag; nothing if it has its default."""
    return 1 + varint_size(value) if value else 0

cdef inline size_t blob_size(size_t size) noexcept nogil:
    """Of a length-delimited field with a one-byte tag."""
    return 1 + varint_size(size) + size

cdef inline size_t text_size(bytes text) noexcept:
    """Of a string field; nothing if it is empty."""
    return blob_size(PyBytes_GET_SIZE(text)) if PyBytes_GET_SIZE(text) else 0

cdef inline uint8_t* put_varint(uint8_t* to, uint64_t value) noexcept nogil:
    while value > 0x7F:
        to[0] = <uint8_t>(value | 0x80)
        value >>= 7
        to += 1
    to[0] = <uint8_t>value
    return to + 1

cdef inline uint8_t* put_number(uint8_t* to, uint8_t tag, uint64_t value) noexcept nogil:
    if value:
        to[0] = tag
        to = put_varint(to + 1, value)
    return to

cdef inline uint8_t* put_blob(
    uint8_t* to, uint8_t tag, const uint8_t* data, size_t size
) noexcept nogil:
    to[0] = tag
    to = put_varint(to + 1, size)
    memcpy(to, data, size)
    return to + size

cdef inline uint8_t* put_text(uint8_t* to, uint8_t tag, bytes text) noexcept:
    if PyBytes_GET_SIZE(text):
        to = put_blob(to, tag, data_of(text), PyBytes_GET_SIZE(text))
    return to

cdef size_t item_measure(page_item_t* item, int view) noexcept nogil
cdef uint8_t* item_write(const page_item_t* item, int view, uint8_t* to) noexcept nogil
cdef bytes etag_of(
    page_item_t* items, Py_ssize_t n, uint64_t config_version, bint next_exists, uint64_t flags
)
