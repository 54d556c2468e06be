"""The cache of resident data: bound, contents, counters, scans, what it costs, what it lets go, and
code of others that runs in the middle.
"""

from __future__ import annotations

import gc
import itertools
import random
import tracemalloc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

compiled = pytest.importorskip(
    "feedcore._native.feed.cache", reason="compiled modules are not built"
)

Cache, Cached, CachedObject = compiled.Cache, compiled.Cached, compiled.CachedObject
ENTRY, SHARE = compiled.ENTRY_BYTES, compiled.SHARE_MAX


class Item(CachedObject):
    """With weak references, to see it go."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


KEYS = st.sampled_from([-2, 0, 1, 2**62, b"", b"key", (0, 1), (1, b"a")])  # few, so that they meet
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["get", "get", "peek", "put", "put", "put", "again", "drop", "resize"]),
        KEYS,
        st.integers(0, 400),
    ),
    max_size=120,
)


class Model:
    """A cache and what it must hold at most: for each key what was put last."""

    def __init__(self, bytes_max: int) -> None:
        self.cache = Cache(bytes_max)
        self.bytes_max = bytes_max
        self.last: dict[Any, Any] = {}
        self.sizes: dict[Any, int] = {}
        self.count = {"hits": 0, "misses": 0, "refused": 0}

    def fits(self, size: int) -> bool:
        return size + ENTRY <= self.bytes_max // SHARE

    def get(self, key: Any, _size: int) -> None:
        found = self.cache.get(key)
        self.count["misses" if found is None else "hits"] += 1
        assert found is None or found is self.last[key]

    def peek(self, key: Any, _size: int) -> None:
        found = self.cache.peek(key)
        assert (found is None) == (key not in self.cache)
        assert found is None or (found is self.last[key] and found.key == key)

    def put(self, key: Any, size: int) -> None:
        value = CachedObject((key, size))
        kept = self.cache.put(key, value, size)
        self.count["refused"] += not self.fits(size)
        assert kept == (key in self.cache)
        assert kept or not self.fits(size) or key in self.last  # only a new one is always kept
        self.last[key], self.sizes[key] = value, size

    def again(self, key: Any, size: int) -> None:
        """The same object, whether it is still there or not."""
        value = self.last.get(key)
        if value is None:
            return
        self.count["refused"] += not self.fits(size)
        assert self.cache.put(key, value, size) == (self.cache.peek(key) is value)
        self.sizes[key] = size

    def drop(self, key: Any, _size: int) -> None:
        there = key in self.cache
        assert self.cache.drop(key) == there
        assert key not in self.cache

    def resize(self, key: Any, size: int) -> None:
        value = self.cache.peek(key)
        if value is None:
            assert self.cache.resize(self.last.get(key, Cached()), size) == 0
            return
        self.count["refused"] += not self.fits(size)
        kept = self.cache.resize(value, size)
        assert kept == (self.cache.peek(key) is value)
        self.sizes[key] = size

    def check(self) -> None:
        there = [key for key in self.last if key in self.cache]
        used = sum(self.sizes[key] + ENTRY for key in there)
        assert self.cache.bytes_used == used <= self.bytes_max
        assert len(self.cache) == len(there)
        assert all(self.cache.peek(key).size == self.sizes[key] for key in there)
        assert all(self.cache.peek(key).frequency <= 3 for key in there)
        counted = {name: getattr(self.cache, name) for name in self.count}
        assert counted == self.count


@settings(max_examples=300, deadline=None)
@given(OPERATIONS, st.sampled_from([0, 1_000, 2_000, 3_000, 6_000, 1 << 20]))
def test_any_order_of_calls(operations: list[tuple[str, Any, int]], bytes_max: int) -> None:
    model = Model(bytes_max)
    for name, key, size in operations:
        getattr(model, name)(key, size)
        model.check()
    model.cache.clear()
    assert model.cache.bytes_used == len(model.cache) == 0
    assert not any(key in model.cache for key in model.last)


def test_a_large_cache_under_churn_agrees_with_a_dict() -> None:
    draw, bound = random.Random(4), 4_000 * (ENTRY + 50)
    cache, last = Cache(bound), {}
    for step in range(60_000):
        key = draw.randrange(12_000)
        last[key] = CachedObject(step)
        assert cache.put(key, last[key], draw.randrange(100))
        if step % 3 == 0:
            cache.drop(draw.randrange(12_000))
        cache.get(draw.randrange(2_000))
        assert cache.bytes_used <= bound
    there = [key for key in last if key in cache]
    assert all(cache.peek(key) is last[key] for key in there)
    assert len(there) == len(cache) > 3_000
    for key in there:  # and it shrinks again
        assert cache.drop(key)
    assert cache.bytes_used == len(cache) == 0


def filled(entries: int) -> Any:
    return Cache(entries * (ENTRY + 100))


def load(cache: Any, key: Any) -> bool:
    """A hit; else it is put."""
    if cache.get(key) is not None:
        return True
    cache.put(key, CachedObject(), 100)
    return False


def test_a_scan_leaves_the_hot_set() -> None:
    cache, hot = filled(1_000), range(500)
    for key in [*hot, *hot, *hot, *range(-1_500, 0)]:
        load(cache, key)
    for key in range(1_000_000, 1_010_000):
        load(cache, key)
    assert sum(key in cache for key in hot) > 450


def test_a_hot_set_wins_while_a_scan_runs() -> None:
    """Each key comes back after 1,500 others: none would ever be a hit in an LRU of 1,000."""
    cache, scan = filled(1_000), itertools.count(1_000_000)
    for _ in range(6):
        hits = 0
        for key in range(500):
            hits += load(cache, key)
            for _ in range(2):
                load(cache, next(scan))
    assert hits > 450


def test_what_comes_back_while_its_ghost_is_there_outlives_a_scan() -> None:
    cache = filled(1_000)
    for key in range(2_000):  # none is hit: the first thousand leave, as ghosts
        load(cache, key)
    back = range(900, 1_000)
    for key in back:
        assert not load(cache, key)
    for key in range(10_000, 12_000):
        load(cache, key)
    assert sum(key in cache for key in back) > 75
    assert sum(key in cache for key in range(1_100, 1_200)) == 0


def test_a_hit_counts_to_three_and_a_peek_counts_nothing() -> None:
    cache, value = filled(10), CachedObject()
    cache.put("key", value, 0)
    seen = []
    for _ in range(5):
        assert cache.peek("key") is value
        seen.append(value.frequency)
        cache.get("key")
    assert seen == [0, 1, 2, 3, 3]
    assert (cache.hits, cache.misses) == (5, 0)


def test_what_is_too_large_takes_away_what_it_should_replace() -> None:
    cache = Cache(SHARE * (ENTRY + 1_000))
    assert cache.put("key", CachedObject(), 1_000)
    assert not cache.put("key", CachedObject(), 1_001)
    assert not cache.put("huge", CachedObject(), 2**64 - 1)
    assert (len(cache), cache.refused, cache.evicted) == (0, 2, 0)
    value = CachedObject()
    assert cache.put("key", value, 1_000)
    assert cache.resize(value, 1_001) == 0
    assert (len(cache), cache.bytes_used, cache.refused) == (0, 0, 3)


def test_what_grows_in_the_small_queue_does_not_cost_the_main_queue() -> None:
    cache, hot = filled(100), range(100)
    for key in [*hot, *hot, *hot, *range(1_000, 1_100)]:
        load(cache, key)
    main = [key for key in hot if key in cache]
    small = [key for key in range(1_000, 1_100) if key in cache]
    assert len(main) > 85 and len(small) > 8
    for key in small:
        if key in cache:
            cache.resize(cache.peek(key), 300)
    assert [key for key in hot if key in cache] == main
    assert sum(key in cache for key in small) < len(small) - 4


def test_what_left_has_no_size_here() -> None:
    cache, value = filled(10), CachedObject()
    cache.put("key", value, 1)
    cache.drop("key")
    assert cache.resize(value, 50) == 0
    assert cache.bytes_used == 0


def test_a_value_is_in_one_place() -> None:
    one, two, value = filled(10), filled(10), CachedObject()
    one.put("key", value, 1)
    with pytest.raises(ValueError, match="another"):
        one.put("other", value, 1)
    with pytest.raises(ValueError, match="another"):
        two.put("key", value, 1)
    assert two.resize(value, 5) == 0 and value.size == 1
    assert one.put("key", value, 2) and one.bytes_used == ENTRY + 2
    del one  # what outlives its cache can go into another
    assert two.put("key", value, 1)


def test_wrong_arguments() -> None:
    cache: Any = filled(10)
    with pytest.raises(TypeError, match="unhashable"):
        cache.get([])
    with pytest.raises(TypeError, match="unhashable"):
        cache.put([], CachedObject(), 1)
    for call in (lambda: cache.put("key", None, 1), lambda: cache.resize(None, 1)):
        with pytest.raises(TypeError, match="value"):
            call()
    with pytest.raises(OverflowError):
        cache.put("key", CachedObject(), -1)
    with pytest.raises(OverflowError):
        Cache(-1)


@pytest.mark.parametrize("way", ["evict", "drop", "replace", "refuse", "resize", "clear", "end"])
def test_what_leaves_is_freed_without_the_collector(way: str, no_collector: None) -> None:
    cache = filled(50)
    seen = []
    for key in range(50):
        item = Item()
        seen.append(weakref.ref(item))
        assert cache.put(key, item, 100)
    del item
    assert all(one() is not None for one in seen)
    if way == "evict":
        for key in range(1_000, 1_050):
            cache.put(key, CachedObject(), 100)
    for key in range(50):
        if way == "drop":
            cache.drop(key)
        if way == "replace":
            cache.put(key, CachedObject(), 100)
        if way == "refuse":
            cache.put(key, CachedObject(), 1 << 40)
        if way == "resize":
            cache.resize(cache.peek(key), 1 << 40)
    if way == "clear":
        cache.clear()
    if way == "end":
        del cache
    assert not any(one() is not None for one in seen)


def test_the_collector_does_not_track_plain_entries() -> None:
    assert not gc.is_tracked(Cached())
    assert not gc.is_tracked(filled(1))


@pytest.mark.parametrize("entries", [900, 1_500, 4_000, 8_200])
def test_an_entry_costs_what_is_accounted(entries: int, no_collector: None) -> None:
    """16 slots a power of two hold 1 to 2 per entry: the counts are around such powers."""
    keys = list(range(10_000_000, 10_000_000 + 3 * entries))
    cache = Cache(entries * ENTRY)
    tracemalloc.start()
    try:
        for key in keys:
            cache.put(key, CachedObject(), 0)
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(cache) == entries
    assert 80 * entries < cost <= cache.bytes_used


def test_what_few_entries_cost_after_there_were_many(no_collector: None) -> None:
    cache = Cache(8_192 * ENTRY)
    tracemalloc.start()
    try:
        for key in range(8_192):
            cache.put(key, CachedObject(), 0)
        for key in range(8_192):
            cache.drop(key)
        for key in range(20):
            cache.put(key, CachedObject(), 0)
        cost, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert cost < 20 * ENTRY + 20 * 64  # the keys


class Restless(CachedObject):
    """Its destructor uses the cache."""

    cache: Any = None

    def __del__(self) -> None:
        cache = Restless.cache
        if cache is not None:
            Restless.freed += 1
            assert cache.bytes_used <= cache.bytes_max
            cache.drop(Restless.freed % 7)
            if Restless.freed % 5 == 0:
                cache.put(Restless.freed % 11, CachedObject(), 300)
            if Restless.freed % 97 == 0:
                cache.clear()

    freed = 0


def test_destructors_may_use_the_cache() -> None:
    draw = random.Random(9)
    cache = Restless.cache = Cache(20_000)
    try:
        for _ in range(20_000):
            key, size = draw.randrange(60), draw.randrange(2_000)
            cache.put(key, Restless(), size)
            cache.get(draw.randrange(60))
            found = cache.peek(draw.randrange(60))
            if found is not None:
                cache.resize(found, draw.randrange(2_500))
            del found
        assert Restless.freed > 10_000
        there = [cache.peek(key) for key in range(60) if key in cache]
        assert len(there) == len(cache)
        assert cache.bytes_used == sum(one.size + ENTRY for one in there)
    finally:
        Restless.cache = None


class Meddling:
    """A key whose equality uses the cache."""

    def __init__(self, number: int, cache: Any) -> None:
        self.number, self.cache, self.meddle = number, cache, 0

    def __hash__(self) -> int:
        return self.number % 3

    def __eq__(self, other: object) -> bool:
        if self.meddle > 0:
            self.meddle -= 1
            self.cache.drop(other)
            self.cache.put(-self.meddle, CachedObject(), 100)
        return isinstance(other, Meddling) and self.number == other.number


def test_equality_may_use_the_cache() -> None:
    draw, cache = random.Random(2), filled(20)
    for _ in range(5_000):
        key = Meddling(draw.randrange(30), cache)
        key.meddle = draw.randrange(3)
        cache.put(key, CachedObject(key), 100)
        found = cache.get(Meddling(key.number, cache))
        assert found is None or found.value.number == key.number
        assert cache.bytes_used == len(cache) * (ENTRY + 100) <= cache.bytes_max


class Storing(Meddling):
    """Its equality puts something else, once."""

    def __eq__(self, other: object) -> bool:
        if b"else" not in self.cache:
            self.cache.put(b"else", CachedObject(), 100)
        return isinstance(other, Meddling) and self.number == other.number

    __hash__ = Meddling.__hash__


def test_a_lookup_begins_again_when_equality_changed_the_cache() -> None:
    cache = filled(20)
    for key in (Meddling(9, cache), Storing(3, cache)):  # equal hashes: one bucket
        cache.put(key, CachedObject(key.number), 100)
    cache.drop(b"else")
    found = cache.get(Meddling(9, cache))
    assert b"else" in cache
    assert found is not None and found.value == 9
