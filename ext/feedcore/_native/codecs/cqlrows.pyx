"""Compiled twin of feedcore.codecs.cqlrows: a result's values, copied or decoded in one pass."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from feedcore._native.codecs.packed cimport be16, be64

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint32_t fc_cql_be32(const void *p) {
        uint32_t v;
        memcpy(&v, p, 4);
        return __builtin_bswap32(v);
    }
    """
    uint32_t be32 "fc_cql_be32"(const void* p) noexcept nogil

cdef enum:
    GLOBAL_TABLE = 0x01
    MORE_PAGES = 0x02
    NO_METADATA = 0x04
    METADATA_CHANGED = 0x08
    ASCII = 0x01
    BIGINT = 0x02
    BLOB = 0x03
    BOOLEAN = 0x04
    COUNTER = 0x05
    DOUBLE = 0x07
    FLOAT = 0x08
    INT = 0x09
    TEXT = 0x0A
    VARCHAR = 0x0D
    SMALLINT = 0x13
    TINYINT = 0x14
    CUSTOM = 0x00
    LIST = 0x20
    MAP = 0x21
    SET = 0x22
    UDT = 0x30
    TUPLE = 0x31
    DEPTH_MAX = 32

cdef struct Reader:
    const uint8_t* start
    const uint8_t* at
    const uint8_t* end


cdef Reader _reader(bytes body) noexcept:
    cdef Reader reader
    reader.start = <const uint8_t*>PyBytes_AS_STRING(body)
    reader.at = reader.start
    reader.end = reader.start + PyBytes_GET_SIZE(body)
    return reader


cdef const uint8_t* _take(Reader* reader, Py_ssize_t size) except NULL:
    cdef const uint8_t* at = reader.at
    if size < 0 or size > reader.end - at:
        raise ValueError(
            f"CQL rows: {reader.end - reader.start} bytes end within a field at"
            f" {at - reader.start}"
        )
    reader.at += size
    return at


cdef inline int32_t _i32(Reader* reader) except? -1:
    return <int32_t>be32(_take(reader, 4))


cdef inline Py_ssize_t _u16(Reader* reader) except -1:
    return be16(_take(reader, 2))


cdef Py_ssize_t _count(Reader* reader, str what) except -1:
    cdef int32_t count = _i32(reader)
    if count < 0:
        raise ValueError(f"CQL rows: {count} {what}")
    return count


cdef int _skip_string(Reader* reader) except -1:
    _take(reader, _u16(reader))
    return 0


cdef Py_ssize_t _type_code(Reader* reader, int depth) except -1:
    cdef Py_ssize_t code, fields
    if depth > DEPTH_MAX:
        raise ValueError(f"CQL rows: types nested deeper than {DEPTH_MAX}")
    code = _u16(reader)
    if code == CUSTOM:
        _skip_string(reader)
    elif code == LIST or code == SET:
        _type_code(reader, depth + 1)
    elif code == MAP:
        _type_code(reader, depth + 1)
        _type_code(reader, depth + 1)
    elif code == TUPLE:
        for _ in range(_u16(reader)):
            _type_code(reader, depth + 1)
    elif code == UDT:
        _skip_string(reader)
        _skip_string(reader)
        fields = _u16(reader)
        for _ in range(fields):
            _skip_string(reader)
            _type_code(reader, depth + 1)
    return code


cdef tuple _head(Reader* reader):
    """(columns, their codes or None, paging state or None)."""
    cdef int32_t flags = _i32(reader), size
    cdef Py_ssize_t columns = _count(reader, "columns"), code
    cdef bytearray codes
    cdef bytes state = None
    if flags & MORE_PAGES:
        size = _i32(reader)
        if size >= 0:
            state = PyBytes_FromStringAndSize(<const char*>_take(reader, size), size)
    if flags & NO_METADATA:
        return columns, None, state
    if flags & METADATA_CHANGED:
        _skip_string(reader)
    if flags & GLOBAL_TABLE:
        _skip_string(reader)
        _skip_string(reader)
    codes = bytearray()
    for _ in range(columns):
        if not flags & GLOBAL_TABLE:
            _skip_string(reader)
            _skip_string(reader)
        _skip_string(reader)
        code = _type_code(reader, 0)
        codes.append(code if code < 256 else 0)
    return columns, bytes(codes), state


cdef Py_ssize_t _rows(Reader* reader, Py_ssize_t columns) except -1:
    cdef Py_ssize_t rows = _count(reader, "rows")
    if rows and not columns:
        raise ValueError(f"CQL rows: {rows} rows of no columns")
    return rows


cdef int _check_end(Reader* reader) except -1:
    if reader.at != reader.end:
        raise ValueError(
            f"CQL rows: {reader.end - reader.start} bytes; the rows end at"
            f" {reader.at - reader.start}"
        )
    return 0


def pack_result(bytes body):
    """See the twin."""
    cdef Reader reader = _reader(body)
    cdef Py_ssize_t columns, rows, place, length
    cdef int32_t size
    cdef uint8_t* out
    columns, _, state = _head(&reader)
    rows = _rows(&reader, columns)
    whole = PyBytes_FromStringAndSize(NULL, reader.end - reader.at)
    out = <uint8_t*>PyBytes_AS_STRING(whole)
    length = 0
    for place in range(rows * columns):
        size = _i32(&reader)
        if size > 0:
            memcpy(out + length, _take(&reader, size), size)
            length += size
    _check_end(&reader)
    return state, whole[:length]


cdef object _fixed(uint8_t code, const uint8_t* at, int32_t size):
    cdef uint32_t bits
    cdef uint64_t wide
    cdef float single
    cdef double real
    cdef int32_t wanted = (
        8 if code in (BIGINT, COUNTER, DOUBLE) else 4 if code in (INT, FLOAT)
        else 2 if code == SMALLINT else 1
    )
    if size == 0:
        return None
    if size != wanted:
        raise ValueError(f"CQL rows: {size} bytes for a value of {wanted}")
    if code == BIGINT or code == COUNTER:
        return <int64_t>be64(at)
    if code == TINYINT:
        return <int8_t>at[0]
    if code == INT:
        return <int32_t>be32(at)
    if code == SMALLINT:
        return <int16_t>be16(at)
    if code == BOOLEAN:
        return at[0] != 0
    if code == FLOAT:
        bits = be32(at)
        memcpy(&single, &bits, 4)
        return <double>single
    wide = be64(at)
    memcpy(&real, &wide, 8)
    return real


cdef object _decoded(Reader* reader, uint8_t code):
    cdef int32_t size = _i32(reader)
    cdef const uint8_t* at
    if size < 0:
        return None
    at = _take(reader, size)
    if code == BLOB:
        return PyBytes_FromStringAndSize(<const char*>at, size)
    if code == ASCII or code == TEXT or code == VARCHAR:
        return PyUnicode_DecodeUTF8(<const char*>at, size, NULL)
    return _fixed(code, at, size)


cdef bint _known(const uint8_t* codes, Py_ssize_t columns) noexcept:
    cdef Py_ssize_t i
    for i in range(columns):
        if codes[i] not in (ASCII, BIGINT, BLOB, BOOLEAN, COUNTER, DOUBLE, FLOAT, INT, TEXT,
                            VARCHAR, SMALLINT, TINYINT):
            return False
    return True


def unpack_result(bytes body, bytes codes=b""):
    """See the twin."""
    cdef Reader reader = _reader(body)
    cdef Py_ssize_t columns, rows, row, column
    cdef const uint8_t* kinds
    cdef list result
    cdef tuple values
    columns, own, state = _head(&reader)
    if own is not None:
        codes = own
    kinds = <const uint8_t*>PyBytes_AS_STRING(codes)
    if PyBytes_GET_SIZE(codes) != columns or not _known(kinds, columns):
        return state, None
    rows = _rows(&reader, columns)
    result = []
    for row in range(rows):
        values = PyTuple_New(columns)
        for column in range(columns):
            value = _decoded(&reader, kinds[column])
            Py_INCREF(value)
            PyTuple_SET_ITEM(values, column, value)
        result.append(values)
    _check_end(&reader)
    return state, result
