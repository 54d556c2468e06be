"""A cache bounded in bytes whose hot part survives scans: S3-FIFO, for compiled callers.

Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023. What
is new enters a small queue (a tenth of the bytes); what was hit twice when it reaches that queue's
end moves on to the main queue; the rest leaves, and its ghost (a mark of its key) stays for as many
further evictions as there are entries. What comes back while its ghost is there enters the main
queue at once. At the end of the main queue each hit since the last tour buys another one, at most
three. A hit moves nothing: it counts one byte up.

Invariants: bytes_used <= bytes_max whenever other code can run; an entry is in one queue and in one
bucket, or in neither; the cache owns one reference to each entry, links own none, so nothing here
waits for the cyclic collector. Code of others runs in three places: a key's hash and equality,
while entries are looked up, before anything is changed; a collection, when the list of victims is
made, which is therefore the first thing done; destructors, when everything is changed. A lookup
during which entries came or went begins again.

Not for more than one thread; not for ages and epochs (the caller looks at what it gets); not for
values that refer to their cache: the cyclic collector does not look inside a cache.
"""

cimport cython
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport Py_EQ, PyObject, PyObject_Hash, PyObject_RichCompareBool
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    OUT = 0
    SMALL = 1
    MAIN = 2
    SMALL_SHARE = 10  # the small queue's part of the bytes is 1 / 10, the paper's; a quarter costs
    # one point of hits in most traces (ADR 9)
    PROMOTE_AT = 2  # hits in the small queue: the paper's ("accessed more than once")
    FREQUENCY_MAX = 3  # two bits, the paper's
    ENTRY_SHARE = 8  # an entry may take 1 / 8 of the bytes: a larger one pushes out too much
    # What an entry costs beside its value and key, by tracemalloc (tests/unit/test_cache.py): 80
    # bytes of a Cached, 16 more where the collector tracks a subclass, and 16 to 43 of buckets and
    # ghosts: 1 to 8 / 3 slots of 16 bytes.
    ENTRY_OVERHEAD = 144
    BITS_MIN = 4  # 16 buckets and ghosts: 256 bytes that are not accounted
    BITS_MAX = 34  # a mark has 32 bits, to which a group of four ghosts adds two
    GROUP = 4  # ghosts a key may be in: 32 bytes, half a cache line

ENTRY_BYTES = ENTRY_OVERHEAD
SHARE_MAX = ENTRY_SHARE


@cython.no_gc
cdef class Cached:
    """A cache entry: subclasses add their fields.

    The cyclic collector does not track it, unless a subclass has fields that may be in a cycle;
    keys must not be.
    """


cdef class CachedObject(Cached):
    """Any object as a cache entry."""

    def __init__(self, value=None):
        self.value = value


cdef inline uint64_t _mixed(Py_hash_t hashed) noexcept nogil:
    """Spreads hashes (ints hash to themselves) over the high bits; Knuth, TAOCP 3, 6.4."""
    return <uint64_t>hashed * <uint64_t>0x9E3779B97F4A7C15ULL


cdef inline uint32_t _mark(uint64_t mixed) noexcept nogil:
    return <uint32_t>(mixed >> 32) | 1


cdef inline size_t _group(uint32_t mark, int bits) noexcept nogil:
    return (<uint64_t>mark >> (34 - bits)) * GROUP


cdef void _ghost_add(Ghost* ghosts, int bits, uint32_t mark, uint32_t time, uint32_t now) noexcept:
    """Takes a free slot of its group, else the oldest one."""
    cdef Ghost* slot = ghosts + _group(mark, bits)
    cdef Ghost* oldest = slot
    cdef int i
    for i in range(GROUP):
        if slot[i].mark == 0:
            oldest = slot + i
            break
        if now - slot[i].time > now - oldest.time:
            oldest = slot + i
    oldest.mark = mark
    oldest.time = time


cdef void _push(Queue* queue, Cached entry) noexcept:
    entry.newer = NULL
    entry.older = queue.newest
    if queue.newest != NULL:
        (<Cached>queue.newest).newer = <PyObject*>entry
    else:
        queue.oldest = <PyObject*>entry
    queue.newest = <PyObject*>entry
    queue.bytes += entry.size + ENTRY_OVERHEAD
    queue.count += 1


cdef void _pull(Queue* queue, Cached entry) noexcept:
    if entry.newer != NULL:
        (<Cached>entry.newer).older = entry.older
    else:
        queue.newest = entry.older
    if entry.older != NULL:
        (<Cached>entry.older).newer = entry.newer
    else:
        queue.oldest = entry.newer
    entry.newer = NULL
    entry.older = NULL
    queue.bytes -= entry.size + ENTRY_OVERHEAD
    queue.count -= 1


@cython.final
cdef class Cache:
    """Cached by key (hashable: ints, bytes, small tuples), `bytes_max` bytes at most; 0 caches
    nothing.

    The bytes of an entry are the `size` its caller gives (value and key) and ENTRY_BYTES. An entry
    of more than bytes_max / SHARE_MAX is refused. Counters only grow; clear() does not reset them.
    """

    def __cinit__(self, size_t bytes_max):
        self.bytes_max = bytes_max

    def __dealloc__(self):
        cdef Cached entry
        cdef PyObject* at
        while self.small.count + self.main.count:
            at = self.small.oldest if self.small.count else self.main.oldest
            entry = <Cached>at
            self._leave(entry)
            Py_DECREF(entry)
        PyMem_RawFree(self.buckets)
        PyMem_RawFree(self.ghosts)

    def __len__(self):
        return self.small.count + self.main.count

    def __contains__(self, key):
        return self._find(key, PyObject_Hash(key)) != NULL

    cpdef Cached get(self, object key):
        """The value of the key, counted as a hit; None, counted as a miss."""
        cdef PyObject* found = self._find(key, PyObject_Hash(key))
        cdef Cached entry
        if found == NULL:
            self.misses += 1
            return None
        entry = <Cached>found
        self.hits += 1
        if entry.frequency < FREQUENCY_MAX:
            entry.frequency += 1
        return entry

    cpdef Cached peek(self, object key):
        """The value of the key, or None; counts nothing."""
        cdef PyObject* found = self._find(key, PyObject_Hash(key))
        return None if found == NULL else <Cached>found

    cpdef bint put(self, object key, Cached value, size_t size) except -1:
        """Keeps value under key in place of what was there, which it follows in its queue. False:
        not kept, and nothing is under key any more. ValueError: value is kept elsewhere.
        """
        cdef list victims = []
        cdef Py_hash_t hashed = PyObject_Hash(key)
        cdef PyObject* found
        cdef Cached old
        cdef object former_key
        cdef uint8_t place
        if value is None:
            raise TypeError("value: None; a Cached is needed")
        found = self._find(key, hashed)
        old = None if found == NULL else <Cached>found
        if old is value:
            return self.resize(value, size)
        if value.place != OUT:
            raise ValueError("value: it is cached under another key or in another cache")
        if not self._fits(size):
            self.refused += 1
            if old is not None:
                self._leave(old)
                Py_DECREF(old)
            return False
        self._scale()
        former_key = value.key  # its destructor waits, too
        value.size = size
        value.hash = hashed
        value.key = key
        if old is not None:
            self._exchange(old, value)
            Py_INCREF(value)
            Py_DECREF(old)
            self._evict(0, victims)
            return value.place != OUT
        place = MAIN if self._returns(hashed) else SMALL
        self._evict(size + ENTRY_OVERHEAD, victims)
        value.frequency = 0
        self._enter(value, place)
        Py_INCREF(value)
        return True

    cpdef bint drop(self, object key) except -1:
        """Removes the value of the key; False if there was none."""
        cdef PyObject* found = self._find(key, PyObject_Hash(key))
        cdef Cached entry
        if found == NULL:
            return False
        entry = <Cached>found
        self._leave(entry)
        Py_DECREF(entry)
        return True

    cpdef int resize(self, Cached value, size_t size) except -1:
        """Changes the size of an entry. 1: it is still cached; 0: it is not."""
        cdef list victims = []
        cdef Queue* queue
        if value is None:
            raise TypeError("value: None; a Cached is needed")
        if value.owner != <void*>self:
            return 0
        if not self._fits(size):
            self.refused += 1
            self._leave(value)
            Py_DECREF(value)
            return 0
        queue = &self.main if value.place == MAIN else &self.small
        queue.bytes += size - value.size  # modulo 2^64: right in both directions
        self.bytes_used += size - value.size
        value.size = size
        self._evict(0, victims)
        return value.place != OUT

    def clear(self):
        """Removes everything, the ghosts too."""
        cdef list victims = []
        cdef Cached entry
        cdef PyObject* at
        while self.small.count + self.main.count:
            at = self.small.oldest if self.small.count else self.main.oldest
            entry = <Cached>at
            victims.append(entry)
            self._leave(entry)
            Py_DECREF(entry)
        PyMem_RawFree(self.buckets)
        PyMem_RawFree(self.ghosts)
        self.buckets = NULL
        self.ghosts = NULL
        self.bits = 0

    cdef PyObject* _find(self, object key, Py_hash_t hashed) except? NULL:
        """Borrowed; NULL if there is none."""
        cdef uint64_t version
        cdef PyObject* at
        cdef Cached entry
        cdef bint same
        while self.buckets != NULL:
            entry = None  # after a new beginning it may be the last that holds it
            version = self.version
            at = self.buckets[_mixed(hashed) >> (64 - self.bits)]
            while at != NULL:
                if (<Cached>at).hash == hashed:
                    entry = <Cached>at
                    if entry.key is key:
                        return at
                    same = PyObject_RichCompareBool(entry.key, key, Py_EQ)
                    if version != self.version:
                        break
                    if same:
                        return at
                at = (<Cached>at).chain
            if version == self.version:
                break
        return NULL

    cdef bint _fits(self, size_t size) noexcept:
        cdef size_t most = self.bytes_max // ENTRY_SHARE
        return most >= ENTRY_OVERHEAD and size <= most - ENTRY_OVERHEAD

    cdef int _scale(self) except -1:
        """At most 8 / 3 buckets an entry (above the fewest), so that ENTRY_OVERHEAD covers them."""
        cdef size_t count = self.small.count + self.main.count + 1
        if self.buckets == NULL:
            self._rebuild(BITS_MIN)
        elif count > <size_t>1 << self.bits and self.bits < BITS_MAX:
            self._rebuild(self.bits + 1)
        elif 8 * count < <size_t>3 << self.bits and self.bits > BITS_MIN:
            self._rebuild(self.bits - 1)
        return 0

    cdef int _rebuild(self, int bits) except -1:
        cdef PyObject** buckets = <PyObject**>PyMem_RawCalloc(<size_t>1 << bits, sizeof(PyObject*))
        cdef Ghost* ghosts = <Ghost*>PyMem_RawCalloc(<size_t>1 << bits, sizeof(Ghost))
        cdef size_t i, to
        cdef PyObject* at
        cdef PyObject* after
        if buckets == NULL or ghosts == NULL:
            PyMem_RawFree(buckets)
            PyMem_RawFree(ghosts)
            raise MemoryError()
        if self.buckets != NULL:
            for i in range(<size_t>1 << self.bits):
                at = self.buckets[i]
                while at != NULL:
                    after = (<Cached>at).chain
                    to = _mixed((<Cached>at).hash) >> (64 - bits)
                    (<Cached>at).chain = buckets[to]
                    buckets[to] = at
                    at = after
                if self.ghosts[i].mark != 0:
                    _ghost_add(
                        ghosts, bits, self.ghosts[i].mark, self.ghosts[i].time, self.clock
                    )
        PyMem_RawFree(self.buckets)
        PyMem_RawFree(self.ghosts)
        self.buckets = buckets
        self.ghosts = ghosts
        self.bits = bits
        self.version += 1
        return 0

    cdef bint _returns(self, Py_hash_t hashed) noexcept:
        """Whether the key's ghost is there; it is not afterwards."""
        cdef uint32_t mark = _mark(_mixed(hashed))
        cdef Ghost* slot = self.ghosts + _group(mark, self.bits)
        cdef int i
        for i in range(GROUP):
            if slot[i].mark == mark:
                slot[i].mark = 0
                return self.clock - slot[i].time <= self.small.count + self.main.count
        return False

    cdef void _enter(self, Cached entry, uint8_t place) noexcept:
        cdef size_t to = _mixed(entry.hash) >> (64 - self.bits)
        _push(&self.main if place == MAIN else &self.small, entry)
        entry.place = place
        entry.owner = <void*>self
        entry.chain = self.buckets[to]
        self.buckets[to] = <PyObject*>entry
        self.bytes_used += entry.size + ENTRY_OVERHEAD
        self.version += 1

    cdef void _leave(self, Cached entry) noexcept:
        """The cache's reference to it is the caller's now."""
        cdef PyObject** link = self.buckets + (_mixed(entry.hash) >> (64 - self.bits))
        while link[0] != <PyObject*>entry:
            link = &(<Cached>link[0]).chain
        link[0] = entry.chain
        entry.chain = NULL
        _pull(&self.main if entry.place == MAIN else &self.small, entry)
        entry.place = OUT
        entry.owner = NULL
        self.bytes_used -= entry.size + ENTRY_OVERHEAD
        self.version += 1

    cdef void _exchange(self, Cached old, Cached entry) noexcept:
        """Puts entry where old was: what is written again and again and never read must not stay
        at the head of its queue.
        """
        cdef uint8_t place = old.place
        cdef PyObject* newer = old.newer
        cdef PyObject* older = old.older
        cdef Queue* queue = &self.main if place == MAIN else &self.small
        entry.frequency = old.frequency
        self._leave(old)
        self._enter(entry, place)
        if newer == NULL:
            return
        _pull(queue, entry)
        entry.newer = newer
        entry.older = older
        (<Cached>newer).older = <PyObject*>entry
        if older != NULL:
            (<Cached>older).newer = <PyObject*>entry
        else:
            queue.oldest = <PyObject*>entry
        queue.bytes += entry.size + ENTRY_OVERHEAD
        queue.count += 1

    cdef int _evict(self, size_t room, list victims) except -1:
        """Evicts until there is room. Evicted entries stay in victims, so that destructors run
        later."""
        cdef size_t small_bytes = self.bytes_max // SMALL_SHARE
        cdef Cached entry
        while self.bytes_used + room > self.bytes_max:
            if self.small.count and (self.small.bytes > small_bytes or not self.main.count):
                entry = <Cached>self.small.oldest
                if entry.frequency >= PROMOTE_AT:
                    _pull(&self.small, entry)
                    _push(&self.main, entry)
                    entry.place = MAIN
                    entry.frequency = 0
                    continue
                victims.append(entry)
                self.clock += 1
                _ghost_add(
                    self.ghosts, self.bits, _mark(_mixed(entry.hash)), self.clock, self.clock
                )
            else:
                entry = <Cached>self.main.oldest
                if entry.frequency:
                    entry.frequency -= 1
                    _pull(&self.main, entry)
                    _push(&self.main, entry)
                    continue
                victims.append(entry)
            self._leave(entry)
            Py_DECREF(entry)
            self.evicted += 1
        return 0
