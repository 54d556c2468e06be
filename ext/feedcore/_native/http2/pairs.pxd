"""Header pairs that go out, as the library wants them."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t
from libc.stdlib cimport malloc
from libc.string cimport memcpy

from feedcore._native.http2 cimport nghttp2 as h2
from feedcore._native.http2.nghttp2 cimport nghttp2_nv

cdef enum:
    NO_COPY = 6  # NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE


cdef inline void constant(
    nghttp2_nv *nv, const char *name, size_t name_length, const char *value, size_t value_length
) noexcept:
    nv.name = <uint8_t *>name
    nv.namelen = name_length
    nv.value = <uint8_t *>value
    nv.valuelen = value_length
    nv.flags = NO_COPY


cdef inline nghttp2_nv *array_of(const nghttp2_nv *first, size_t count, list pairs) except NULL:
    """`first` and then `pairs` as one array for the library, which copies what it points at. Pairs
    other than the status are never indexed: they differ from call to call and would drive the
    constant ones out of the peer's table."""
    cdef size_t at = count
    cdef nghttp2_nv *array = <nghttp2_nv *>malloc((count + len(pairs)) * sizeof(nghttp2_nv))
    if array == NULL:
        raise MemoryError
    if count:
        memcpy(array, first, count * sizeof(nghttp2_nv))
    for name, value in pairs:
        array[at].name = <uint8_t *>PyBytes_AS_STRING(<bytes>name)
        array[at].namelen = PyBytes_GET_SIZE(<bytes>name)
        array[at].value = <uint8_t *>PyBytes_AS_STRING(<bytes>value)
        array[at].valuelen = PyBytes_GET_SIZE(<bytes>value)
        array[at].flags = (
            h2.NGHTTP2_NV_FLAG_NONE if name == b"grpc-status" else h2.NGHTTP2_NV_FLAG_NO_INDEX)
        at += 1
    return array
