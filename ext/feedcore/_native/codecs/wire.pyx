"""Compiled twin of feedcore.codecs.wire: sizes first, then one buffer is filled.

Field tags are written as constants: (number << 3) | type, types 0 varint, 1 fixed 64, 2
length-delimited. wire.pxd has what other modules need to do the same. Not for parsing.
"""

from hashlib import blake2b
from zlib import crc32

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from feedcore._native.codecs.base64url cimport base64url_encode, base64url_size
from feedcore._native.codecs.packed cimport as_bytes, data_of

cdef enum:
    ETAG_BYTES = 12
    PAGE_HASHED = 17
    ITEM_HASHED = 52


cdef int _load(page_item_t* item, row, list held) except -1:
    """The numbers of one item; `held` keeps its content alive."""
    cdef bytes content
    cdef tuple fields
    if not isinstance(row, tuple):  # a typed parameter would take no NamedTuple
        raise TypeError(f"page item: {type(row).__name__}; a PageItem")
    fields = <tuple>row
    item.content_id = fields[0]
    item.author_id = fields[1]
    item.published_at_ms = published_at_ms(item.content_id)
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


cdef size_t item_measure(page_item_t* item, int view) noexcept nogil:
    """Bytes the item takes in a page of that view; item_write needs it."""
    item.size = (
        number_size(item.content_id)
        + number_size(item.author_id)
        + number_size(item.published_at_ms)
        + number_size(item.reason)
    )
    if view == VIEW_FULL and item.content_size >= 0:
        item.size += blob_size(item.content_size)
    if view != VIEW_IDS:
        item.counts_size = (
            number_size(item.likes) + number_size(item.comments) + number_size(item.shares)
        )
        item.size += blob_size(item.counts_size) + (9 if item.score != 0.0 else 0)
    return blob_size(item.size)


cdef uint8_t* item_write(const page_item_t* item, int view, uint8_t* to) noexcept nogil:
    """Writes the item as a field of a page; answers the end of it."""
    to[0] = 0x0A
    to = put_varint(to + 1, item.size)
    to = put_number(to, 0x08, item.content_id)
    to = put_number(to, 0x10, item.author_id)
    to = put_number(to, 0x18, item.published_at_ms)
    if view == VIEW_FULL and item.content_size >= 0:
        to = put_blob(to, 0x22, item.content, item.content_size)
    if view != VIEW_IDS:
        to[0] = 0x2A
        to = put_varint(to + 1, item.counts_size)
        to = put_number(to, 0x08, item.likes)
        to = put_number(to, 0x10, item.comments)
        to = put_number(to, 0x18, item.shares)
        if item.score != 0.0:
            to[0] = 0x31
            memcpy(to + 1, &item.score, 8)
            to += 9
    return put_number(to, 0x38, item.reason)


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
    cdef page_item_t* loaded = <page_item_t*>malloc((n + 1) * sizeof(page_item_t))
    if loaded == NULL:
        raise MemoryError()
    try:
        size = blob_size(PyBytes_GET_SIZE(receipt_bytes))
        size += text_size(cursor_text) + text_size(head_text) + text_size(etag_text)
        for i in range(n):
            _load(&loaded[i], items[i], held)
            size += item_measure(&loaded[i], view)
        out = PyBytes_FromStringAndSize(NULL, size)
        to = <uint8_t*>PyBytes_AS_STRING(out)
        for i in range(n):
            to = item_write(&loaded[i], view, to)
        to = put_text(to, TAG_NEXT_CURSOR, cursor_text)
        to = put_text(to, TAG_HEAD, head_text)
        to = put_text(to, TAG_ETAG, etag_text)
        put_blob(to, TAG_RECEIPT, data_of(receipt_bytes), PyBytes_GET_SIZE(receipt_bytes))
        return out
    finally:
        free(loaded)


def encode_not_modified(str head not None, str etag not None, receipt):
    """See the twin."""
    cdef bytes head_text = head.encode(), etag_text = etag.encode()
    cdef bytes receipt_bytes = as_bytes(receipt)
    cdef size_t size = text_size(head_text) + text_size(etag_text) + 2
    cdef bytes out
    cdef uint8_t* to
    size += blob_size(PyBytes_GET_SIZE(receipt_bytes))
    out = PyBytes_FromStringAndSize(NULL, size)
    to = <uint8_t*>PyBytes_AS_STRING(out)
    to = put_text(to, TAG_HEAD, head_text)
    to = put_text(to, TAG_ETAG, etag_text)
    to = put_number(to, TAG_NOT_MODIFIED, 1)
    put_blob(to, TAG_RECEIPT, data_of(receipt_bytes), PyBytes_GET_SIZE(receipt_bytes))
    return out


cdef bytes etag_of(
    page_item_t* items, Py_ssize_t n, uint64_t config_version, bint next_exists, uint64_t flags
):
    """The etag in ASCII, of items that have their content_crc; see page_etag of the twin."""
    cdef bytes hashed = PyBytes_FromStringAndSize(NULL, PAGE_HASHED + n * ITEM_HASHED)
    cdef bytes digest, text
    cdef uint8_t* to = <uint8_t*>PyBytes_AS_STRING(hashed)
    cdef Py_ssize_t i
    memcpy(to, &config_version, 8)
    memcpy(to + 8, &flags, 8)
    to[16] = next_exists
    to += PAGE_HASHED
    for i in range(n):
        memcpy(to, &items[i].content_id, 8)
        memcpy(to + 8, &items[i].author_id, 8)
        memcpy(to + 16, &items[i].likes, 8)
        memcpy(to + 24, &items[i].comments, 8)
        memcpy(to + 32, &items[i].shares, 8)
        memcpy(to + 40, &items[i].content_size, 8)
        memcpy(to + 48, &items[i].content_crc, 4)
        to += ITEM_HASHED
    digest = blake2b(hashed, digest_size=ETAG_BYTES).digest()
    text = PyBytes_FromStringAndSize(NULL, base64url_size(ETAG_BYTES))
    base64url_encode(<uint8_t*>PyBytes_AS_STRING(text), data_of(digest), ETAG_BYTES)
    return text


def page_etag(items, uint64_t config_version, bint next_exists, uint64_t flags):
    """See the twin."""
    cdef Py_ssize_t n = len(items), i
    cdef list held = []
    cdef page_item_t* loaded = <page_item_t*>malloc((n + 1) * sizeof(page_item_t))
    if loaded == NULL:
        raise MemoryError()
    try:
        for i in range(n):
            _load(&loaded[i], items[i], held)
            loaded[i].content_crc = crc32(items[i][2]) if loaded[i].content_size > 0 else 0
        return etag_of(loaded, n, config_version, next_exists, flags).decode("ascii")
    finally:
        free(loaded)
