"""Compiled twin of feedcore.domain.wire: sizes first, then one buffer is filled.

Field tags are written as constants: (number << 3) | type, types 0 varint, 1 fixed 64, 2
length-delimited. Not for parsing.
"""

from base64 import urlsafe_b64encode
from hashlib import blake2b

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from feedcore._native.packed cimport TIME_SHIFT, as_bytes, data_of

cdef extern from *:
    """
    static inline int fc_varint_size(uint64_t v) {
        return (9 * (64 - __builtin_clzll(v | 1)) + 64) >> 6;
    }
    """
    int varint_size "fc_varint_size"(uint64_t v) noexcept nogil

cdef enum:
    VIEW_FULL = 0
    VIEW_IDS = 2
    ETAG_BYTES = 12
    ITEM_HASHED = 48

cdef uint64_t EPOCH_MS = 1704067200000

cdef struct Item:
    uint64_t content_id
    uint64_t author_id
    uint64_t published_at_ms
    uint64_t likes
    uint64_t comments
    uint64_t shares
    uint64_t reason
    double score
    const uint8_t* content
    int64_t content_size  # -1: no content
    size_t counts_size
    size_t size


cdef inline size_t _number_size(uint64_t value) noexcept nogil:
    """Of a field with a one-byte tag; nothing if it has its default."""
    return 1 + varint_size(value) if value else 0


cdef inline size_t _blob_size(size_t size) noexcept nogil:
    return 1 + varint_size(size) + size


cdef inline uint8_t* _varint(uint8_t* to, uint64_t value) noexcept nogil:
    while value > 0x7F:
        to[0] = <uint8_t>(value | 0x80)
        value >>= 7
        to += 1
    to[0] = <uint8_t>value
    return to + 1


cdef inline uint8_t* _number(uint8_t* to, uint8_t tag, uint64_t value) noexcept nogil:
    if value:
        to[0] = tag
        to = _varint(to + 1, value)
    return to


cdef inline uint8_t* _blob(
    uint8_t* to, uint8_t tag, const uint8_t* data, size_t size
) noexcept nogil:
    to[0] = tag
    to = _varint(to + 1, size)
    memcpy(to, data, size)
    return to + size


cdef int _load(Item* item, tuple fields, list held) except -1:
    """The numbers of one item; `held` keeps its content alive."""
    cdef bytes content
    item.content_id = fields[0]
    item.author_id = fields[1]
    item.published_at_ms = (item.content_id >> TIME_SHIFT) + EPOCH_MS
    item.content_size = -1
    item.content = NULL
    if fields[2] is not None:
        content = as_bytes(fields[2])
        held.append(content)
        item.content = data_of(content)
        item.content_size = PyBytes_GET_SIZE(content)
    item.likes = fields[3]
    item.comments = fields[4]
    item.shares = fields[5]
    item.score = fields[6]
    item.reason = fields[7]
    return 0


cdef size_t _measure(Item* item, int view) noexcept nogil:
    """Bytes the item takes in that view; what the view leaves out is taken off it."""
    if view != VIEW_FULL:
        item.content_size = -1
    item.size = (
        _number_size(item.content_id)
        + _number_size(item.author_id)
        + _number_size(item.published_at_ms)
        + _number_size(item.reason)
    )
    if item.content_size >= 0:
        item.size += _blob_size(item.content_size)
    if view != VIEW_IDS:
        item.counts_size = (
            _number_size(item.likes) + _number_size(item.comments) + _number_size(item.shares)
        )
        item.size += _blob_size(item.counts_size) + (9 if item.score != 0.0 else 0)
    return _blob_size(item.size)


cdef uint8_t* _write(const Item* item, int view, uint8_t* to) noexcept nogil:
    to[0] = 0x0A
    to = _varint(to + 1, item.size)
    to = _number(to, 0x08, item.content_id)
    to = _number(to, 0x10, item.author_id)
    to = _number(to, 0x18, item.published_at_ms)
    if item.content_size >= 0:
        to = _blob(to, 0x22, item.content, item.content_size)
    if view != VIEW_IDS:
        to[0] = 0x2A
        to = _varint(to + 1, item.counts_size)
        to = _number(to, 0x08, item.likes)
        to = _number(to, 0x10, item.comments)
        to = _number(to, 0x18, item.shares)
        if item.score != 0.0:
            to[0] = 0x31
            memcpy(to + 1, &item.score, 8)
            to += 9
    return _number(to, 0x38, item.reason)


cdef inline size_t _text_size(bytes text) noexcept:
    return _blob_size(PyBytes_GET_SIZE(text)) if PyBytes_GET_SIZE(text) else 0


cdef inline uint8_t* _text(uint8_t* to, uint8_t tag, bytes text) noexcept:
    return _blob(to, tag, data_of(text), PyBytes_GET_SIZE(text)) if PyBytes_GET_SIZE(text) else to


def encode_page(
    items, str next_cursor not None, str head not None, str etag not None, receipt, int view
):
    """See the twin."""
    cdef bytes cursor_text = next_cursor.encode(), head_text = head.encode()
    cdef bytes etag_text = etag.encode(), receipt_bytes = as_bytes(receipt), out
    cdef Py_ssize_t n = len(items), i = 0
    cdef list held = []
    cdef size_t size
    cdef uint8_t* to
    cdef Item* loaded = <Item*>malloc((n + 1) * sizeof(Item))
    if loaded == NULL:
        raise MemoryError()
    try:
        size = _blob_size(PyBytes_GET_SIZE(receipt_bytes))
        size += _text_size(cursor_text) + _text_size(head_text) + _text_size(etag_text)
        for i in range(n):
            _load(&loaded[i], items[i], held)
            size += _measure(&loaded[i], view)
        out = PyBytes_FromStringAndSize(NULL, size)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(n):
            to = _write(&loaded[i], view, to)
        to = _text(to, 0x12, cursor_text)
        to = _text(to, 0x1A, head_text)
        to = _text(to, 0x22, etag_text)
        _blob(to, 0x32, data_of(receipt_bytes), PyBytes_GET_SIZE(receipt_bytes))
        return out
    finally:
        free(loaded)


def encode_not_modified(str head not None, str etag not None, receipt):
    """See the twin."""
    cdef bytes head_text = head.encode(), etag_text = etag.encode()
    cdef bytes receipt_bytes = as_bytes(receipt)
    cdef size_t size = _text_size(head_text) + _text_size(etag_text) + 2
    cdef bytes out
    cdef uint8_t* to
    size += _blob_size(PyBytes_GET_SIZE(receipt_bytes))
    out = PyBytes_FromStringAndSize(NULL, size)
    to = <uint8_t*>PyBytes_AS_STRING(out)
    to = _text(to, 0x1A, head_text)
    to = _text(to, 0x22, etag_text)
    to = _number(to, 0x28, 1)
    _blob(to, 0x32, data_of(receipt_bytes), PyBytes_GET_SIZE(receipt_bytes))
    return out


def page_etag(items, uint64_t config_version, bint next_exists, uint64_t flags):
    """See the twin."""
    cdef Py_ssize_t n = len(items), i
    cdef list held = []
    cdef size_t size = 17
    cdef bytes hashed
    cdef uint8_t* to
    cdef Item* loaded = <Item*>malloc((n + 1) * sizeof(Item))
    if loaded == NULL:
        raise MemoryError()
    try:
        for i in range(n):
            _load(&loaded[i], items[i], held)
            size += ITEM_HASHED + max(loaded[i].content_size, 0)
        hashed = PyBytes_FromStringAndSize(NULL, size)
        to = <uint8_t*>PyBytes_AS_STRING(hashed)
        memcpy(to, &config_version, 8)
        memcpy(to + 8, &flags, 8)
        to[16] = next_exists
        to += 17
        for i in range(n):
            memcpy(to, &loaded[i].content_id, 8)
            memcpy(to + 8, &loaded[i].author_id, 8)
            memcpy(to + 16, &loaded[i].likes, 8)
            memcpy(to + 24, &loaded[i].comments, 8)
            memcpy(to + 32, &loaded[i].shares, 8)
            memcpy(to + 40, &loaded[i].content_size, 8)
            to += ITEM_HASHED
            if loaded[i].content_size > 0:
                memcpy(to, loaded[i].content, loaded[i].content_size)
                to += loaded[i].content_size
    finally:
        free(loaded)
    return urlsafe_b64encode(blake2b(hashed, digest_size=ETAG_BYTES).digest()).decode()
