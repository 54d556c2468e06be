"""Counting for a load generator: a histogram of latencies, a recorder of answers, the schedule of
arrivals. All times are nanoseconds of one monotonic clock that the caller reads.

A Histogram is log-linear like HdrHistogram with 3 significant digits: values below 2,048 ns are
exact, others lie in 1,024 equal parts of their power of two, so that a percentile is at most 0.1 %
above the exact one and never below it. Recording is a shift and an addition.

A Schedule knows when calls are due, whatever the answers do. What is due waits in a bounded queue;
what finds the queue full is dropped and counted, never forgotten.

Not for: I/O, clocks, what an answer means.
"""
from libc.math cimport log
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from *:
    """
    static inline int fc_bits(uint64_t v) { return 64 - __builtin_clzll(v | 1); }
    """
    int bits_of "fc_bits"(uint64_t v) noexcept nogil

cdef enum:
    LINEAR = 2048  # values below are counted one by one
    HALF = 1024  # parts of each power of two above
    LINEAR_BITS = 11
    SLOTS = 33792  # 33 * 1,024: the last power of two is 2^41..2^42
    UNKNOWN = 2

cdef int64_t VALUE_MAX = (<int64_t>1 << 42) - 1  # 73 minutes
cdef double NS = 1e9


cdef inline size_t slot_of(int64_t value) noexcept nogil:
    cdef int shift
    if value < LINEAR:
        return <size_t>value
    shift = bits_of(<uint64_t>value) - LINEAR_BITS
    return <size_t>(shift * HALF + (value >> shift))


cdef inline int64_t highest_of(size_t slot) noexcept nogil:
    """The largest value of a slot."""
    cdef int64_t shift
    if slot < LINEAR:
        return <int64_t>slot
    shift = <int64_t>(slot // HALF) - 1
    return ((<int64_t>slot - shift * HALF + 1) << shift) - 1


cdef class Histogram:
    """Latencies in nanoseconds; see the module. `count`, `min` and `max` are exact."""

    def __cinit__(self):
        self.counts = <uint64_t *>calloc(SLOTS, sizeof(uint64_t))
        if self.counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.counts)

    cdef void add(self, int64_t value) noexcept:
        if value < 0:
            value = 0
        if self.count == 0 or value < self.min:
            self.min = value
        if value > self.max:
            self.max = value
        self.count += 1
        self.total += <double>value
        self.counts[slot_of(value if value < VALUE_MAX else VALUE_MAX)] += 1

    def record(self, int64_t value):
        """Counts one value; below 0 counts as 0, above 73 minutes as that."""
        self.add(value)

    def merge(self, Histogram other not None):
        """Adds another one's counts to this one's."""
        cdef Py_ssize_t slot
        if other.count == 0:
            return
        if self.count == 0 or other.min < self.min:
            self.min = other.min
        if other.max > self.max:
            self.max = other.max
        self.count += other.count
        self.total += other.total
        for slot in range(SLOTS):
            self.counts[slot] += other.counts[slot]

    def clear(self):
        """Forgets everything."""
        memset(self.counts, 0, SLOTS * sizeof(uint64_t))
        self.count = 0
        self.min = self.max = 0
        self.total = 0

    @property
    def mean(self):
        """Nanoseconds; 0 of nothing."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, double percent):
        """The value that `percent` of all values do not exceed, at most 0.1 % above the exact one;
        0 of nothing."""
        cdef double exact = self.count * percent / 100.0
        cdef uint64_t wanted = <uint64_t>exact
        cdef uint64_t seen = 0
        cdef Py_ssize_t slot
        if self.count == 0:
            return 0
        if wanted < exact:
            wanted += 1
        if wanted < 1:
            wanted = 1
        for slot in range(SLOTS):
            seen += self.counts[slot]
            if seen >= wanted:
                return min(highest_of(slot), self.max)
        return self.max

    def buckets(self):
        """[(largest value, count), ...] of all slots that hold anything, ascending."""
        cdef Py_ssize_t slot
        return [
            (highest_of(slot), self.counts[slot]) for slot in range(SLOTS) if self.counts[slot]
        ]


cdef class Recorder:
    """Counts answers of `methods` methods. What lies in [from_ns, until_ns) is *measured*: by its
    intended start if `by_start`, else by the time of its answer.

    `histograms`: latency of measured calls with status OK, by method; `failed`: of all others.
    `answered`: measured calls; `body_bytes`: bytes of their messages; `started`: all calls that
    were submitted. `seconds`: see `tick`."""

    def __cinit__(self, int methods, int64_t from_ns, int64_t until_ns, bint by_start):
        if methods < 1:
            raise ValueError(f"methods: {methods}; at least 1")
        self.statuses = <uint64_t *>calloc(methods * STATUSES, sizeof(uint64_t))
        if self.statuses == NULL:
            raise MemoryError
        self.methods = methods
        self.from_ns = from_ns
        self.until_ns = until_ns
        self.by_start = by_start
        self.histograms = [Histogram() for _ in range(methods)]
        self.failed = Histogram()
        self.second = Histogram()
        self.seconds = []

    def __dealloc__(self):
        free(self.statuses)

    cdef int note(
        self, int method, int status, int64_t start_ns, int64_t now_ns, size_t size
    ) except -1:
        cdef int64_t at = start_ns if self.by_start else now_ns
        cdef int64_t latency = now_ns - start_ns
        if status < 0 or status >= STATUSES:
            status = UNKNOWN
        self.second.add(latency)
        if status == 0:
            self.second_ok += 1
        else:
            self.second_failed += 1
        if at < self.from_ns or at >= self.until_ns:
            return 0
        self.answered += 1
        self.body_bytes += size
        self.statuses[method * STATUSES + status] += 1
        if status == 0:
            (<Histogram>self.histograms[method]).add(latency)
        else:
            self.failed.add(latency)
        return 0

    def record(self, int method, int status, int64_t start_ns, int64_t now_ns, size_t size):
        """Counts one answer of `size` bytes."""
        if not 0 <= method < self.methods:
            raise ValueError(f"method: {method}; 0 to {self.methods - 1}")
        self.note(method, status, start_ns, now_ns, size)

    def counts(self, int method):
        """status -> measured calls of that method, only those above 0."""
        if not 0 <= method < self.methods:
            raise ValueError(f"method: {method}; 0 to {self.methods - 1}")
        return {
            status: self.statuses[method * STATUSES + status]
            for status in range(STATUSES)
            if self.statuses[method * STATUSES + status]
        }

    def tick(self, double at_s):
        """Closes a second: appends (at_s, OK answers, other answers, p50, p99, max) of what was
        answered since the last tick, measured or not, to `seconds`; returns it."""
        line = (
            at_s, self.second_ok, self.second_failed, self.second.percentile(50),
            self.second.percentile(99), self.second.max,
        )
        self.second.clear()
        self.second_ok = self.second_failed = 0
        self.seconds.append(line)
        return line


cdef class Schedule:
    """Arrivals from `start_ns` on: for each (seconds, rate a second) of `steps`, at constant
    distance or as a Poisson process. At most `capacity` (rounded up to a power of two) wait.

    `over`: no more will arrive. `arrivals`: so far, with the `dropped` ones. `waiting_max`: the
    longest queue. `lateness`: how long after its time each arrival was noticed, which is the
    generator's own delay."""

    def __cinit__(
        self, steps, int64_t start_ns, uint64_t seed, bint poisson, uint64_t capacity
    ):
        cdef uint64_t size = 1
        self.steps = [(float(seconds), float(rate)) for seconds, rate in steps]
        if not self.steps or any(
            not (0 < seconds < 1e6 and 0 < rate < 1e8) for seconds, rate in self.steps
        ):
            raise ValueError(f"steps: {steps!r:.200}; (seconds, rate), each above 0")
        if not 1 <= capacity <= 1 << 28:
            raise ValueError(f"capacity: {capacity}; 1 to 2^28")
        while size < capacity:
            size *= 2
        self.ring = <int64_t *>calloc(size, sizeof(int64_t))
        if self.ring == NULL:
            raise MemoryError
        self.mask = size - 1
        self.state = seed
        self.poisson = poisson
        self.lateness = Histogram()
        self.step = -1
        self.next_at = self.step_end = start_ns
        self._advance_step()
        self.draw()

    def __dealloc__(self):
        free(self.ring)

    def _advance_step(self):
        """Goes to the next step."""
        self.step += 1
        if self.step >= len(self.steps):
            self.over = True
            return
        seconds, rate = self.steps[self.step]
        self.next_at = self.step_end
        self.step_end += seconds * NS
        self.gap = NS / rate

    cdef void draw(self) noexcept:
        """The time of the next arrival. A Poisson process has no memory: beyond the end of a step
        it begins anew there, with the new rate."""
        cdef uint64_t z
        while not self.over:
            if self.poisson:
                self.state += <uint64_t>0x9E3779B97F4A7C15  # splitmix64
                z = self.state
                z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
                z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
                z ^= z >> 31
                self.next_at -= log((<double>(z >> 11) + 1.0) / 9007199254740992.0) * self.gap
            else:
                self.next_at += self.gap
            if self.next_at < self.step_end:
                return
            self._advance_step()

    def advance(self, int64_t now_ns):
        """Queues everything that is due; how many wait now."""
        while not self.over and self.next_at <= now_ns:
            self.arrivals += 1
            self.lateness.add(now_ns - <int64_t>self.next_at)
            if self.tail - self.head > self.mask:
                self.dropped += 1
            else:
                self.ring[self.tail & self.mask] = <int64_t>self.next_at
                self.tail += 1
            self.draw()
        if self.tail - self.head > self.waiting_max:
            self.waiting_max = self.tail - self.head
        return self.tail - self.head

    @property
    def waiting(self):
        """Arrivals that are due and not taken."""
        return self.tail - self.head

    @property
    def next_ns(self):
        """When the next arrival is due; meaningless once `over`."""
        return <int64_t>self.next_at

    cdef int64_t take(self) noexcept:
        """The intended start of the oldest that waits; there must be one."""
        cdef int64_t at = self.ring[self.head & self.mask]
        self.head += 1
        return at

    def pop(self):
        """The same; IndexError if none waits."""
        if self.tail == self.head:
            raise IndexError("no arrival waits")
        return self.take()
