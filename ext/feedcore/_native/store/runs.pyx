# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled twin of feedcore.codecs.runs: building and merging of sorted runs.

Recipients are put into user order by a radix sort that is stable, fed with posts newest first: each
user's entries come out newest first without comparing one. Digits that all keys share cost nothing.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

cdef enum:
    ENTRY = 20
    SINK = 524288
    REMOVED_AT = 18
    REMOVED = 0x80

cdef uint64_t EPOCH_MS = 1704067200000
cdef uint64_t DAY_MS = 86400000

cdef struct Pair:
    uint64_t user
    uint32_t rank


cdef inline uint64_t _big(const uint8_t* p) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(8):
        value = (value << 8) | p[i]
    return value


cdef Pair* _sorted_by_user(Pair* a, Pair* b, size_t n) noexcept nogil:
    """LSD radix sort by user, 11 bits a pass, stable; returns whichever buffer holds the result."""
    cdef uint64_t common_or = 0, common_and = ~<uint64_t>0
    cdef size_t i, total, count
    cdef size_t[2048] counts
    cdef int shift
    cdef Pair* swap
    cdef uint32_t digit
    for i in range(n):
        common_or |= a[i].user
        common_and &= a[i].user
    common_or ^= common_and  # bits in which keys differ
    shift = 0
    while shift < 64:
        if (common_or >> shift) & 2047:
            memset(counts, 0, sizeof(counts))
            for i in range(n):
                counts[(a[i].user >> shift) & 2047] += 1
            total = 0
            for i in range(2048):
                count = counts[i]
                counts[i] = total
                total += count
            for i in range(n):
                digit = <uint32_t>((a[i].user >> shift) & 2047)
                b[counts[digit]] = a[i]
                counts[digit] += 1
            swap = a
            a = b
            b = swap
        shift += 11
    return a


cdef tuple _build_day(list posts):
    """`posts`: (entry, recipients) newest first, all of one day."""
    cdef size_t n = 0, i, at, users = 0, kept = 0
    cdef bytes entry, recipients
    for entry, recipients in posts:
        n += PyBytes_GET_SIZE(recipients) // 8
    if n == 0:
        return b"", b"\0\0\0\0", b""
    cdef Pair* first = <Pair*>malloc(n * sizeof(Pair))
    cdef Pair* second = <Pair*>malloc(n * sizeof(Pair))
    cdef size_t m = len(posts)
    cdef const uint8_t** texts = <const uint8_t**>malloc(m * sizeof(void*))
    cdef uint32_t* ranks = <uint32_t*>malloc(m * sizeof(uint32_t))
    cdef Pair* done
    cdef const uint64_t* ids
    cdef bytes out_users, out_offsets, out_entries
    cdef uint64_t* user_out
    cdef uint32_t* offset_out
    cdef uint8_t* entry_out
    if first == NULL or second == NULL or texts == NULL or ranks == NULL:
        free(first); free(second); free(texts); free(ranks)
        raise MemoryError()
    try:
        at = 0
        for i in range(m):
            entry, recipients = posts[i]
            texts[i] = <const uint8_t*>PyBytes_AS_STRING(entry)
            # equal entries share a rank, so that duplicates meet as neighbours
            ranks[i] = <uint32_t>i
            if i and memcmp(texts[i], texts[i - 1], ENTRY) == 0:
                ranks[i] = ranks[i - 1]
            ids = <const uint64_t*>PyBytes_AS_STRING(recipients)
            for j in range(PyBytes_GET_SIZE(recipients) // 8):
                first[at].user = ids[j]
                first[at].rank = ranks[i]
                at += 1
        with nogil:
            done = _sorted_by_user(first, second, n)
            at = 0
            for i in range(n):
                if i and done[i].user == done[at - 1].user and done[i].rank == done[at - 1].rank:
                    continue
                done[at] = done[i]
                if at == 0 or done[at].user != done[at - 1].user:
                    users += 1
                at += 1
            kept = at
        out_users = PyBytes_FromStringAndSize(NULL, users * 8)
        out_offsets = PyBytes_FromStringAndSize(NULL, (users + 1) * 4)
        out_entries = PyBytes_FromStringAndSize(NULL, kept * ENTRY)
        user_out = <uint64_t*>PyBytes_AS_STRING(out_users)
        offset_out = <uint32_t*>PyBytes_AS_STRING(out_offsets)
        entry_out = <uint8_t*>PyBytes_AS_STRING(out_entries)
        with nogil:
            users = 0
            for i in range(kept):
                if i == 0 or done[i].user != done[i - 1].user:
                    user_out[users] = done[i].user
                    offset_out[users] = <uint32_t>i
                    users += 1
                memcpy(entry_out + i * ENTRY, texts[done[i].rank], ENTRY)
            offset_out[users] = <uint32_t>kept
        return out_users, out_offsets, out_entries
    finally:
        free(first); free(second); free(texts); free(ranks)


def build_runs(rows):
    """See the twin."""
    cdef dict days = {}
    cdef bytes entries, recipients, entry
    cdef Py_ssize_t at
    cdef uint64_t content_id
    for entries, recipients in rows:
        if PyBytes_GET_SIZE(entries) % ENTRY or PyBytes_GET_SIZE(recipients) % 8:
            raise ValueError(f"delivery: {len(entries)} bytes to {len(recipients)} bytes of ids")
        for at in range(0, PyBytes_GET_SIZE(entries), ENTRY):
            entry = entries[at:at + ENTRY]
            content_id = ~_big(<const uint8_t*>PyBytes_AS_STRING(entry))
            day = ((content_id >> 22) + EPOCH_MS) // DAY_MS
            posts = days.get(day)
            if posts is None:
                posts = days[day] = []
            posts.append((entry, recipients))
    result = []
    for day in sorted(days):
        posts = days[day]
        posts.sort(key=_entry_of)
        result.append((day, *_build_day(posts)))
    return result


def _entry_of(post):
    return post[0]


cdef struct Cursor:
    const uint64_t* users
    const uint32_t* offsets
    const uint8_t* entries
    size_t count
    size_t entry_count
    size_t at
    const uint8_t* head  # next entry of the user at hand
    const uint8_t* end


cdef struct Output:
    uint64_t* users
    uint32_t* offsets
    uint8_t* entries
    size_t user_count
    size_t user_room
    size_t entry_bytes  # in the buffer
    size_t entry_room
    size_t written  # entries, in all


cdef int _grow(Output* out) noexcept nogil:
    cdef uint64_t* users
    cdef uint32_t* offsets
    cdef size_t room = out.user_room * 2
    users = <uint64_t*>realloc(out.users, room * 8)
    if users == NULL:
        return -1
    out.users = users
    offsets = <uint32_t*>realloc(out.offsets, (room + 1) * 4)
    if offsets == NULL:
        return -1
    out.offsets = offsets
    out.user_room = room
    return 0


cdef int _merge_user(Cursor* cursors, int k, uint64_t user, Output* out) noexcept nogil:
    """Appends the user's entries; -1: no memory, -2: offsets point outside their run."""
    cdef size_t need = 0, start = out.written, first, end
    cdef int i, best
    cdef uint8_t* grown
    cdef uint8_t* last = NULL
    for i in range(k):
        if cursors[i].at < cursors[i].count and cursors[i].users[cursors[i].at] == user:
            first = cursors[i].offsets[cursors[i].at]
            cursors[i].at += 1
            end = cursors[i].offsets[cursors[i].at]
            if first > end or end > cursors[i].entry_count:
                return -2
            cursors[i].head = cursors[i].entries + first * ENTRY
            cursors[i].end = cursors[i].entries + end * ENTRY
            need += cursors[i].end - cursors[i].head
        else:
            cursors[i].head = cursors[i].end = NULL
    if out.entry_bytes + need > out.entry_room:
        grown = <uint8_t*>realloc(out.entries, (out.entry_bytes + need) * 2)
        if grown == NULL:
            return -1
        out.entries = grown
        out.entry_room = (out.entry_bytes + need) * 2
    while True:
        best = -1
        for i in range(k):
            while cursors[i].head < cursors[i].end and cursors[i].head[REMOVED_AT] & REMOVED:
                cursors[i].head += ENTRY
            if cursors[i].head == cursors[i].end:
                continue
            if best < 0 or memcmp(cursors[i].head, cursors[best].head, 8) < 0:
                best = i
        if best < 0:
            break
        if last == NULL or memcmp(last, cursors[best].head, 8) != 0:
            last = out.entries + out.entry_bytes
            memcpy(last, cursors[best].head, ENTRY)
            out.entry_bytes += ENTRY
            out.written += 1
        cursors[best].head += ENTRY
    if out.written > start:
        if out.user_count + 1 >= out.user_room and _grow(out) < 0:
            return -1
        out.users[out.user_count] = user
        out.offsets[out.user_count] = <uint32_t>start
        out.user_count += 1
    return 0


cdef int _merge_until_full(Cursor* cursors, int k, Output* out) noexcept nogil:
    """1: buffer full, call again; 0: all done; below 0: see `_merge_user`."""
    cdef uint64_t user
    cdef int i, failed
    cdef bint found
    while out.entry_bytes < SINK:
        found = False
        user = 0
        for i in range(k):
            if cursors[i].at < cursors[i].count:
                if not found or cursors[i].users[cursors[i].at] < user:
                    user = cursors[i].users[cursors[i].at]
                    found = True
        if not found:
            return 0
        failed = _merge_user(cursors, k, user, out)
        if failed < 0:
            return failed
    return 1


def merge_runs(runs, sink):
    """See the twin. The GIL is released while a piece is merged."""
    cdef int k = len(runs), state = 1, i
    cdef Py_buffer* held = <Py_buffer*>calloc(3 * k + 1, sizeof(Py_buffer))
    cdef int parts = 0
    cdef Output out
    cdef Cursor* cursors = <Cursor*>malloc((k + 1) * sizeof(Cursor))
    out.user_room = 1024
    out.entry_room = SINK + 65536
    out.user_count = out.entry_bytes = out.written = 0
    out.users = <uint64_t*>malloc(out.user_room * 8)
    out.offsets = <uint32_t*>malloc((out.user_room + 1) * 4)
    out.entries = <uint8_t*>malloc(out.entry_room)
    try:
        if held == NULL or cursors == NULL:
            raise MemoryError()
        if out.users == NULL or out.offsets == NULL or out.entries == NULL:
            raise MemoryError()
        for i in range(k):
            for part in runs[i]:
                PyObject_GetBuffer(part, &held[parts], PyBUF_SIMPLE)
                parts += 1
            cursors[i].count = held[parts - 3].len // 8
            cursors[i].at = 0
            cursors[i].users = <const uint64_t*>held[parts - 3].buf
            cursors[i].offsets = <const uint32_t*>held[parts - 2].buf
            cursors[i].entries = <const uint8_t*>held[parts - 1].buf
            cursors[i].entry_count = held[parts - 1].len // ENTRY
            if held[parts - 2].len < <Py_ssize_t>((cursors[i].count + 1) * 4):
                raise ValueError("a run's offsets are too few")
        while state == 1:
            with nogil:
                state = _merge_until_full(cursors, k, &out)
            if state == -1:
                raise MemoryError()
            if state < 0:
                raise ValueError("a run's offsets point outside it")
            if out.entry_bytes:
                sink(PyBytes_FromStringAndSize(<char*>out.entries, out.entry_bytes))
                out.entry_bytes = 0
        out.offsets[out.user_count] = <uint32_t>out.written
        return (
            PyBytes_FromStringAndSize(<char*>out.users, out.user_count * 8),
            PyBytes_FromStringAndSize(<char*>out.offsets, (out.user_count + 1) * 4),
        )
    finally:
        for i in range(parts):
            PyBuffer_Release(&held[i])
        free(held)
        free(cursors); free(out.users); free(out.offsets); free(out.entries)
