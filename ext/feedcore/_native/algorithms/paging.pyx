"""Compiled twin of feedcore.domain.paging.select; state and invariants are written there.

The candidates are a binary heap, best on top; only as much of it is ordered as the page needs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, qsort

from feedcore._native.codecs.packed cimport (
    ENTRY_BYTES,
    Ids,
    as_bytes,
    be64,
    data_of,
    entries_count,
    ids_of,
)

from feedcore.domain.paging import Selection
from feedcore.limits import SERVED_SET_MAX

cdef Py_ssize_t SERVED_MAX = SERVED_SET_MAX

cdef struct Item:
    double value  # effective score when it was last looked at: never less than now
    Py_ssize_t index

cdef struct Page:
    const uint8_t* entries
    const double* scores
    const double* factors
    uint64_t* authors  # of what was counted
    Py_ssize_t counted


cdef inline uint64_t _author(const Page* page, Py_ssize_t index) noexcept nogil:
    return be64(page.entries + index * ENTRY_BYTES + 8)


cdef inline double _value(const Page* page, Py_ssize_t index) noexcept nogil:
    """Effective score. Counting the author is a look at all that were counted: 100 at most."""
    cdef uint64_t author = _author(page, index)
    cdef Py_ssize_t i, used = 0
    cdef double value
    for i in range(page.counted):
        used += page.authors[i] == author
    value = page.scores[index] * page.factors[used]
    return value if value > 0.0 else 0.0  # what is no number ranks last


cdef inline bint _better(const Item* a, const Item* b) noexcept nogil:
    return a.value > b.value or (a.value == b.value and a.index < b.index)


cdef inline void _sink(Item* heap, Py_ssize_t n, Py_ssize_t at) noexcept nogil:
    cdef Item moving = heap[at]
    cdef Py_ssize_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and _better(&heap[child + 1], &heap[child]):
            child += 1
        if not _better(&heap[child], &moving):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moving


cdef Py_ssize_t _greedy(
    Page* page, Item* heap, Py_ssize_t n, Py_ssize_t wanted, Item* out
) noexcept nogil:
    """The best of the heap's items into `out`, best first; how many. Uses the heap up."""
    cdef Py_ssize_t i, made = 0
    cdef double current
    for i in range(n):
        heap[i].value = _value(page, heap[i].index)
    i = n >> 1
    while i > 0:
        i -= 1
        _sink(heap, n, i)
    while n > 0 and made < wanted:
        current = _value(page, heap[0].index)
        if current != heap[0].value:
            heap[0].value = current
            _sink(heap, n, 0)
            continue
        out[made] = heap[0]
        made += 1
        page.authors[page.counted] = _author(page, heap[0].index)
        page.counted += 1
        n -= 1
        heap[0] = heap[n]
        if n > 1:
            _sink(heap, n, 0)
    return made


cdef int _compare(const void* a, const void* b) noexcept nogil:
    cdef uint64_t x = (<const uint64_t*>a)[0], y = (<const uint64_t*>b)[0]
    return (x > y) - (x < y)


cdef bytes _served(
    const Page* page, Ids already, const Item* chosen, Py_ssize_t made, uint64_t low_water
):
    """The id array of all served ids at or below the low-water key."""
    cdef Py_ssize_t i, n = 0
    cdef uint64_t content_id
    cdef bytes out
    cdef uint64_t* ids = <uint64_t*>malloc((already.count + made + 1) * sizeof(uint64_t))
    if ids == NULL:
        raise MemoryError()
    for i in range(<Py_ssize_t>already.count):
        if already.at[i] <= low_water:
            ids[n] = already.at[i]
            n += 1
    for i in range(made):
        content_id = ~be64(page.entries + chosen[i].index * ENTRY_BYTES)
        if content_id <= low_water:
            ids[n] = content_id
            n += 1
    qsort(ids, n, sizeof(uint64_t), _compare)
    out = PyBytes_FromStringAndSize(<char*>ids, n * sizeof(uint64_t))
    free(ids)
    return out


cdef Py_ssize_t _candidates(
    const uint8_t* entries, const uint8_t* verdicts, Py_ssize_t n, Ids served, Item* out
) noexcept nogil:
    """Kept and not served, newest first. Both lists are ordered: one walk."""
    cdef Py_ssize_t i, made = 0, place = <Py_ssize_t>served.count - 1
    cdef uint64_t content_id
    for i in range(n):
        if verdicts[i] != 0:
            continue
        content_id = ~be64(entries + i * ENTRY_BYTES)
        while place >= 0 and served.at[place] > content_id:
            place -= 1
        if place >= 0 and served.at[place] == content_id:
            continue
        out[made].index = i
        made += 1
    return made


cdef Py_ssize_t _first_left(const Item* candidates, Py_ssize_t n, uint8_t* taken) noexcept nogil:
    """Index of the newest candidate that was not taken, -1 if all were."""
    cdef Py_ssize_t i
    for i in range(n):
        if not taken[candidates[i].index]:
            return candidates[i].index
    return -1


cdef Py_ssize_t _choose(
    Page* page,
    const Item* candidates,
    Py_ssize_t n,
    Py_ssize_t wanted,
    Py_ssize_t forced,
    Item* heap,
    Item* chosen,
) noexcept nogil:
    """A page of `wanted` items in page order, the `forced` newest among them; how many."""
    cdef Py_ssize_t i, made
    if forced > n:
        forced = n
    if forced > 0:
        for i in range(forced):
            chosen[i].index = candidates[i].index
            page.authors[page.counted] = _author(page, candidates[i].index)
            page.counted += 1
        for i in range(forced, n):
            heap[i - forced].index = candidates[i].index
        n = forced + _greedy(page, heap, n - forced, wanted - forced, chosen + forced)
        for i in range(n):
            heap[i].index = chosen[i].index
        page.counted = 0
    else:
        for i in range(n):
            heap[i].index = candidates[i].index
    made = _greedy(page, heap, n, wanted, chosen)
    return made


def select(
    entries, verdicts, scores, served, Py_ssize_t page_size, params, Py_ssize_t window_limit
):
    """See the twin."""
    cdef bytes data = as_bytes(entries), judged = as_bytes(verdicts)
    cdef bytes ranked = as_bytes(scores), old = as_bytes(served)
    cdef Py_ssize_t n = entries_count(data), i, left, made, forced, count
    cdef Ids already = ids_of(old)
    cdef uint64_t low_water
    cdef double decay = params.diversity_decay, floor = params.diversity_floor, power = 1.0
    cdef Page page
    cdef Item* items
    cdef double* factors
    cdef uint8_t* taken
    if PyBytes_GET_SIZE(judged) != n or PyBytes_GET_SIZE(ranked) != 8 * n:
        raise ValueError(
            f"select: {n} entries, {len(judged)} verdicts, {len(ranked)} bytes of scores;"
            " one byte and one f64 an entry"
        )
    if page_size < 0:
        page_size = 0
    items = <Item*>malloc((2 * n + page_size + 1) * sizeof(Item))
    factors = <double*>malloc((2 * page_size + 2) * sizeof(double))
    taken = <uint8_t*>malloc(n + 1)
    if items == NULL or factors == NULL or taken == NULL:
        free(items)
        free(factors)
        free(taken)
        raise MemoryError()
    try:
        factors[0] = 1.0
        for i in range(page_size):
            power = power * decay
            factors[i + 1] = power if power > floor else floor
        page.entries = data_of(data)
        page.scores = <const double*>data_of(ranked)
        page.factors = factors
        page.authors = <uint64_t*>(factors + page_size + 1)
        page.counted = 0
        count = _candidates(page.entries, data_of(judged), n, already, items)
        forced = page_size - (SERVED_MAX - <Py_ssize_t>already.count)
        forced = min(max(0, forced), page_size)
        made = _choose(&page, items, count, page_size, forced, items + n, items + 2 * n)
        for i in range(n):
            taken[i] = 0
        for i in range(made):
            taken[items[2 * n + i].index] = 1
        left = _first_left(items, count, taken)
        if left < 0:
            left = n - 1
            low_water = ~be64(page.entries + left * ENTRY_BYTES) if n else 0
            low_water -= low_water > 0
            end = n < window_limit
        else:
            low_water = ~be64(page.entries + left * ENTRY_BYTES)
            end = False
        return Selection(
            [items[2 * n + i].index for i in range(made)],
            [items[2 * n + i].value for i in range(made)],
            low_water,
            _served(&page, already, items + 2 * n, made, low_water),
            end,
        )
    finally:
        free(items)
        free(factors)
        free(taken)
