"""Reading protobuf's wire format, field by field, without Python. Inline, for other modules.

Invariants: nothing is read outside the message; tags, lengths, numbers and groups that protobuf's
own parser (upb) refuses are refused here, and no others. `fields_left` bounds the work: each field
that is begun takes one from it, those of unknown groups included, and at 0 reading ends.

Source of the format: Protocol Buffers, "Encoding"; of the bounds that it leaves open: upb.
"""

from libc.stddef cimport size_t
from libc.stdint cimport INT32_MAX, uint8_t, uint32_t, uint64_t

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
    size_t fields_left

cdef struct field_t:
    uint32_t tag
    uint64_t number  # value of a varint
    const uint8_t* text  # of a blob
    size_t size


cdef inline int read_varint(reader_t* reader, int bytes_max, uint64_t* value) noexcept nogil:
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


cdef inline int read_tag(reader_t* reader, uint32_t* tag) noexcept nogil:
    cdef uint64_t value
    if reader.fields_left == 0:
        return -1
    reader.fields_left -= 1
    if read_varint(reader, HEAD_BYTES_MAX, &value) < 0 or value > <uint64_t>0xFFFFFFFF:
        return -1
    tag[0] = <uint32_t>value
    return 0


cdef inline int pass_bytes(reader_t* reader, uint64_t size) noexcept nogil:
    if size > <uint64_t>(reader.end - reader.at):
        return -1
    reader.at += size
    return 0


cdef inline int read_value(reader_t* reader, field_t* field) noexcept nogil:
    """The value after a tag, but for groups."""
    cdef uint64_t size
    cdef int wire_type = field.tag & 7
    if wire_type == VARINT:
        return read_varint(reader, VARINT_BYTES_MAX, &field.number)
    if wire_type == BLOB:
        if read_varint(reader, HEAD_BYTES_MAX, &size) < 0 or size > <uint64_t>INT32_MAX:
            return -1
        field.text = reader.at
        field.size = size
        return pass_bytes(reader, size)
    if wire_type == FIXED64:
        return pass_bytes(reader, 8)
    if wire_type == FIXED32:
        return pass_bytes(reader, 4)
    return -1


cdef inline int skip_group(reader_t* reader, uint32_t tag) noexcept nogil:
    """Up to the end of the group that this tag began. Field number 0 passes here, as it does in
    upb."""
    cdef uint32_t open_tags[DEPTH_MAX]
    cdef int depth = 1
    cdef field_t field
    open_tags[0] = tag
    while depth:
        if read_tag(reader, &field.tag) < 0:
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
        elif read_value(reader, &field) < 0:
            return -1
    return 0


cdef inline int read_field(reader_t* reader, field_t* field) noexcept nogil:
    """The next field of the message; of a group only its tag."""
    if read_tag(reader, &field.tag) < 0 or field.tag < 8:
        return -1
    if field.tag & 7 == GROUP:
        return skip_group(reader, field.tag)
    return read_value(reader, field)
