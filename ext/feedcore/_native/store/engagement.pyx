# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled twin of feedcore.codecs.engagement: lookups in the shared engagement table."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef enum:
    ENTRY = 20
    SET_SLOTS = 4

cdef uint64_t MULTIPLIER = 0x9E3779B97F4A7C15

cdef uint64_t STEP = 0xD1B54A32D192ED03

cdef struct Slot:
    uint64_t content_id
    uint64_t word  # the value, and in the high half its check: read and written at once


cdef inline uint64_t _word(uint64_t content_id, uint32_t bits) noexcept nogil:
    cdef uint64_t mixed = (content_id ^ (bits * STEP)) * MULTIPLIER
    return (mixed >> 32 << 32) | bits


cdef inline float _value(uint32_t bits) noexcept nogil:
    cdef float value
    memcpy(&value, &bits, sizeof(value))
    return value


cdef inline uint64_t _content_id(const uint8_t* entry) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = (value << 8) | entry[i]
    return ~value


cdef inline size_t _first_slot(size_t sets, int shift, uint64_t content_id) noexcept nogil:
    # a table of one set would shift by 64
    return 0 if sets == 1 else ((content_id * MULTIPLIER) >> shift) * SET_SLOTS


cdef inline int _shift(size_t sets) noexcept nogil:
    cdef int bits = 0
    while sets > 1:
        sets >>= 1
        bits += 1
    return 64 - bits


def engagement_lookup(table not None, bytes entries):
    """See the twin."""
    cdef Py_buffer view
    PyObject_GetBuffer(table, &view, PyBUF_SIMPLE)
    try:
        return _lookup(<const Slot*>view.buf, view.len, entries)
    finally:
        PyBuffer_Release(&view)


cdef bytes _lookup(const Slot* slots, Py_ssize_t size, bytes entries):
    cdef size_t sets = size // (sizeof(Slot) * SET_SLOTS)
    cdef int shift = _shift(sets), i
    cdef Py_ssize_t count = PyBytes_GET_SIZE(entries) // ENTRY, n
    cdef const uint8_t* entry = <const uint8_t*>PyBytes_AS_STRING(entries)
    cdef bytes result = PyBytes_FromStringAndSize(NULL, count * 4)
    cdef float* out = <float*>PyBytes_AS_STRING(result)
    cdef uint64_t content_id, word
    cdef const Slot* slot
    for n in range(count):
        content_id = _content_id(entry + n * ENTRY)
        slot = slots + _first_slot(sets, shift, content_id)
        out[n] = 0.0
        for i in range(SET_SLOTS):
            if slot[i].content_id == content_id:
                word = slot[i].word
                if word == _word(content_id, <uint32_t>word):
                    out[n] = _value(<uint32_t>word)
                break
    return result


def engagement_store(table not None, uint64_t content_id, float value):
    """See the twin."""
    cdef Py_buffer view
    PyObject_GetBuffer(table, &view, PyBUF_WRITABLE)
    try:
        return _store(<Slot*>view.buf, view.len, content_id, value)
    finally:
        PyBuffer_Release(&view)


cdef bint _store(Slot* slots, Py_ssize_t size, uint64_t content_id, float value):
    cdef size_t sets = size // (sizeof(Slot) * SET_SLOTS)
    cdef Slot* slot = slots + _first_slot(sets, _shift(sets), content_id)
    cdef int i, place = 0
    cdef uint32_t bits
    cdef uint64_t word
    memcpy(&bits, &value, sizeof(bits))
    word = _word(content_id, bits)
    for i in range(SET_SLOTS):
        if slot[i].content_id == content_id:
            slot[i].word = word
            return True
        if slot[i].content_id < slot[place].content_id:
            place = i
    if slot[place].content_id > content_id:
        return False
    slot[place].content_id = 0
    slot[place].word = word
    slot[place].content_id = content_id
    return True


def engagement_damaged(table not None):
    """See the twin."""
    cdef Py_buffer view
    cdef size_t i, count, found = 0
    cdef const Slot* slots
    PyObject_GetBuffer(table, &view, PyBUF_SIMPLE)
    try:
        slots, count = <const Slot*>view.buf, view.len // sizeof(Slot)
        with nogil:
            for i in range(count):
                if slots[i].content_id:
                    found += slots[i].word != _word(slots[i].content_id, <uint32_t>slots[i].word)
        return found
    finally:
        PyBuffer_Release(&view)
