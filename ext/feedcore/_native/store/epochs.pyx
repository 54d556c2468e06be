"""Compiled twin of feedcore.codecs.epochs: atomic counters in shared memory."""

from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from feedcore.codecs.epochs import EPOCHS_BYTES

cdef enum:
    HEADER_BYTES = 64
    ERA_AT = 24
    GENERATION_AT = 32


cdef class Epochs:
    """See the twin."""

    def __init__(self, buffer not None):
        cdef Py_buffer view
        cdef uint8_t* at
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        if view.len != EPOCHS_BYTES:
            PyBuffer_Release(&view)
            raise ValueError(f"epochs: {view.len} bytes; {EPOCHS_BYTES}")
        if self.held:
            PyBuffer_Release(&self.view)
        self.view, self.held = view, True
        at = <uint8_t*>view.buf
        self.slots = <uint32_t*>(at + HEADER_BYTES)
        self.generation_at = <uint64_t*>(at + GENERATION_AT)
        self.era_at = <uint32_t*>(at + ERA_AT)

    def __dealloc__(self):
        if self.held:
            PyBuffer_Release(&self.view)

    def close(self):
        """See the twin. What is read or bumped afterwards goes nowhere."""
        nowhere = bytearray(EPOCHS_BYTES)
        Epochs.__init__(self, nowhere)

    def read(self, int kind, uint64_t ident):
        """See the twin."""
        return self.at(kind, ident)

    def bump(self, int kind, uint64_t ident):
        """See the twin."""
        add32(self.slots + epoch_slot(kind, ident))

    @property
    def generation(self):
        """See the twin."""
        return load64(self.generation_at)

    def advance(self):
        """See the twin."""
        add64(self.generation_at)

    @property
    def era(self):
        """See the twin."""
        return load32(self.era_at)

    def begin_era(self):
        """See the twin."""
        add32(self.era_at)
