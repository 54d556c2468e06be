"""Requests of feedcore.v1.FeedService from their wire bytes: GetFeedRequest, CheckNewRequest.

Invariants: the same values, or the same refusal, as protobuf's own parser (upb) has for the same
bytes; nothing is allocated, nothing is read outside the message. The last of a field's values
counts; a number is cut to its field's width; what has an unknown number, or a known one with
another wire type, is skipped; all strings must be UTF-8, also those that a later one replaces. Not
for replies (wire), nor for other requests: those go through the generated code.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport SIZE_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport data_of
from feedcore._native.codecs.protoread cimport BLOB, VARINT, field_t, read_field, reader_t


cdef inline bint _continues(const uint8_t* at, int n, uint8_t low, uint8_t high) noexcept nogil:
    """Whether n continuation bytes are there, the first of them within its bounds."""
    cdef int i
    if not low <= at[0] <= high:
        return False
    for i in range(1, n):
        if at[i] & 0xC0 != 0x80:
            return False
    return True


cdef bint _is_utf8(const uint8_t* at, size_t size) noexcept nogil:
    """RFC 3629, 4: no overlong forms, no surrogates, nothing above U+10FFFF."""
    cdef const uint8_t* end = at + size
    cdef uint64_t eight
    cdef uint8_t first
    cdef int n
    while at < end:
        if end - at >= 8:
            memcpy(&eight, at, 8)
            if not eight & <uint64_t>0x8080808080808080ULL:
                at += 8
                continue
        first = at[0]
        at += 1
        if first < 0x80:
            continue
        n = 1 if first < 0xE0 else 2 if first < 0xF0 else 3
        if first < 0xC2 or first > 0xF4 or end - at < n:
            return False
        if not _continues(
            at,
            n,
            0xA0 if first == 0xE0 else 0x90 if first == 0xF0 else 0x80,
            0x9F if first == 0xED else 0x8F if first == 0xF4 else 0xBF,
        ):
            return False
        at += n
    return True


cdef inline int _take(const field_t* field, const uint8_t** text, size_t* size) noexcept nogil:
    """Of a string field: -1 if it is none."""
    if not _is_utf8(field.text, field.size):
        return -1
    text[0] = field.text if field.size else NULL
    size[0] = field.size
    return 0


cdef int decode_feed_request(
    const uint8_t* data, size_t size, feed_request_t* out
) noexcept nogil:
    """0, or -1 if protobuf refuses the message as a GetFeedRequest."""
    cdef reader_t reader
    cdef field_t field
    reader.at, reader.end = data, data + size
    reader.fields_left = SIZE_MAX  # the bytes bound the work
    out.user_id, out.page_size, out.view = 0, 0, 0
    out.cursor, out.cursor_size = NULL, 0
    out.etag, out.etag_size = NULL, 0
    while reader.at < reader.end:
        if read_field(&reader, &field) < 0:
            return -1
        if field.tag == (1 << 3 | VARINT):
            out.user_id = field.number
        elif field.tag == (2 << 3 | VARINT):
            out.page_size = <uint32_t>field.number
        elif field.tag == (3 << 3 | BLOB):
            if _take(&field, &out.cursor, &out.cursor_size) < 0:
                return -1
        elif field.tag == (4 << 3 | VARINT):
            out.view = <int32_t><uint32_t>field.number
        elif field.tag == (5 << 3 | BLOB):
            if _take(&field, &out.etag, &out.etag_size) < 0:
                return -1
    return 0


cdef int decode_check_request(
    const uint8_t* data, size_t size, check_request_t* out
) noexcept nogil:
    """0, or -1 if protobuf refuses the message as a CheckNewRequest."""
    cdef reader_t reader
    cdef field_t field
    reader.at, reader.end = data, data + size
    reader.fields_left = SIZE_MAX  # the bytes bound the work
    out.user_id, out.head, out.head_size = 0, NULL, 0
    while reader.at < reader.end:
        if read_field(&reader, &field) < 0:
            return -1
        if field.tag == (1 << 3 | VARINT):
            out.user_id = field.number
        elif field.tag == (2 << 3 | BLOB):
            if _take(&field, &out.head, &out.head_size) < 0:
                return -1
    return 0


cdef str _text(const uint8_t* text, size_t size):
    return (<const char*>text)[:size].decode("utf-8") if size else ""


def decode_get_feed(bytes data not None):
    """(user_id, page_size, cursor, view, if_none_match); None if the message is refused."""
    cdef feed_request_t out
    if decode_feed_request(data_of(data), PyBytes_GET_SIZE(data), &out) < 0:
        return None
    return (
        out.user_id,
        out.page_size,
        _text(out.cursor, out.cursor_size),
        out.view,
        _text(out.etag, out.etag_size),
    )


def decode_check_new(bytes data not None):
    """(user_id, head); None if the message is refused."""
    cdef check_request_t out
    if decode_check_request(data_of(data), PyBytes_GET_SIZE(data), &out) < 0:
        return None
    return out.user_id, _text(out.head, out.head_size)
