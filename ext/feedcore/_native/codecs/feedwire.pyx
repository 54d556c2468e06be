"""Requests of feedcore.v1.FeedService from their wire bytes: GetFeedRequest, CheckNewRequest.

Invariants: the same values, or the same refusal, as protobuf's own parser (upb) has for the same
bytes; nothing is allocated, nothing is read outside the message. The last of a field's values
counts; a number is cut to its field's width; what has an unknown number, or a known one with
another wire type, is skipped; all strings must be UTF-8, also those that a later one replaces. Not
for replies (wire), nor for other requests: those go through the generated code.

Source of the format: Protocol Buffers, "Encoding"; of the bounds that it leaves open: upb.
"""

from cpython.bytes cimport PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport INT32_MAX, int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport data_of

# Wire types. 6 and 7 mean nothing.
cdef enum:
    VARINT = 0
    FIXED64 = 1
    BLOB = 2
    GROUP = 3
    GROUP_END = 4
    FIXED32 = 5

cdef enum:
    VARINT_BYTES_MAX = 10
    HEAD_BYTES_MAX = 5  # of tags and lengths, which are 32 bits
    DEPTH_MAX = 100  # groups in groups: protobuf's own default

cdef struct reader_t:
    const uint8_t* at
    const uint8_t* end

cdef struct field_t:
    uint32_t tag
    uint64_t number  # value of a varint
    const uint8_t* text  # of a blob
    size_t size


cdef inline int _varint(reader_t* reader, int bytes_max, uint64_t* value) noexcept nogil:
    """-1 if it does not end in time; bits above 64 are lost."""
    cdef int shift = 0
    cdef uint8_t byte
    if reader.at < reader.end and reader.at[0] < 0x80:
        value[0] = reader.at[0]
        reader.at += 1
        return 0
    value[0] = 0
    while reader.at < reader.end and shift < 7 * bytes_max:
        byte = reader.at[0]
        reader.at += 1
        value[0] |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return 0
        shift += 7
    return -1


cdef inline int _tag(reader_t* reader, uint32_t* tag) noexcept nogil:
    cdef uint64_t value
    if _varint(reader, HEAD_BYTES_MAX, &value) < 0 or value > <uint64_t>0xFFFFFFFF:
        return -1
    tag[0] = <uint32_t>value
    return 0


cdef inline int _pass(reader_t* reader, uint64_t size) noexcept nogil:
    if size > <uint64_t>(reader.end - reader.at):
        return -1
    reader.at += size
    return 0


cdef int _value(reader_t* reader, field_t* field) noexcept nogil:
    """The value after a tag, but for groups."""
    cdef uint64_t size
    cdef int wire_type = field.tag & 7
    if wire_type == VARINT:
        return _varint(reader, VARINT_BYTES_MAX, &field.number)
    if wire_type == BLOB:
        if _varint(reader, HEAD_BYTES_MAX, &size) < 0 or size > <uint64_t>INT32_MAX:
            return -1
        field.text = reader.at
        field.size = size
        return _pass(reader, size)
    if wire_type == FIXED64:
        return _pass(reader, 8)
    if wire_type == FIXED32:
        return _pass(reader, 4)
    return -1


cdef int _skip_group(reader_t* reader, uint32_t tag) noexcept nogil:
    """Up to the end of the group that this tag began. Field number 0 passes here, as it does in
    upb."""
    cdef uint32_t open_tags[DEPTH_MAX]
    cdef int depth = 1
    cdef field_t field
    open_tags[0] = tag
    while depth:
        if _tag(reader, &field.tag) < 0:
            return -1
        if field.tag & 7 == GROUP:
            if depth == DEPTH_MAX:
                return -1
            open_tags[depth] = field.tag
            depth += 1
        elif field.tag & 7 == GROUP_END:
            depth -= 1
            # same number, and the type one above
            if field.tag != open_tags[depth] + 1:
                return -1
        elif _value(reader, &field) < 0:
            return -1
    return 0


cdef int _field(reader_t* reader, field_t* field) noexcept nogil:
    """The next field of the message; of a group only its tag."""
    if _tag(reader, &field.tag) < 0 or field.tag < 8:
        return -1
    if field.tag & 7 == GROUP:
        return _skip_group(reader, field.tag)
    return _value(reader, field)


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
    out.user_id, out.page_size, out.view = 0, 0, 0
    out.cursor, out.cursor_size = NULL, 0
    out.etag, out.etag_size = NULL, 0
    while reader.at < reader.end:
        if _field(&reader, &field) < 0:
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
    out.user_id, out.head, out.head_size = 0, NULL, 0
    while reader.at < reader.end:
        if _field(&reader, &field) < 0:
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
