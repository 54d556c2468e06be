"""Compiled twin of feedcore.domain.epochs: atomic counters in shared memory."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from feedcore.domain.epochs import EPOCHS_BYTES

cdef enum:
    HEADER_BYTES = 64
    ERA_AT = 24
    GENERATION_AT = 32


cdef class Epochs:
    """See the twin."""

    def __init__(self, uint8_t[::1] buffer not None):
        if buffer.shape[0] != EPOCHS_BYTES:
            raise ValueError(f"epochs: {buffer.shape[0]} bytes; {EPOCHS_BYTES}")
        self.view = buffer
        self.slots = <uint32_t*>&buffer[HEADER_BYTES]
        self.generation_at = <uint64_t*>&buffer[GENERATION_AT]
        self.era_at = <uint32_t*>&buffer[ERA_AT]

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
