"""The cache's policy beside others, and what a call of it costs.

    python -m benchmarks.micro.bench_cache [--small]

Hit rates of S3-FIFO (feedcore._native.feed.cache), LRU (an OrderedDict here) and W-TinyLFU
(theine, if the extra `bench` is installed), all with room for the same number of entries of one
size, on seeded traces: Zipf; Zipf with scans of keys that never come back; people who load a feed,
scroll, refresh within seconds and return hours later, as the keys of their pages and of their
windows. An access that misses puts. The cost is that of calls from Python: compiled callers pay
less. --small checks that our hits on short traces are what they were when this was written.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

from benchmarks.micro.report import print_table

SEED = 26
ENTRY_SIZE = 1_000
SCAN_EVERY, SCAN_LENGTH = 20_000, 10_000  # a third of the accesses are a scan's
DAY_S = 86_400.0
SMALL_HITS = {  # ours, of the small traces, by the order of TRACES and of SHARES
    "Zipf 0.8": (27_158, 51_432),
    "Zipf 1.0": (48_656, 71_549),
    "Zipf 1.0, scans": (48_686, 71_576),
    "feed pages": (21_383, 35_548),
    "feed windows": (51_912, 63_766),
}
SHARES = (0.01, 0.1)  # of the distinct keys (scans aside) that fit
ROUNDS, CALLS = 11, 100_000

Trace = Sequence[Hashable]


def zipf(keys: int, exponent: float, accesses: int) -> list[int]:
    """Rank r is drawn with a weight of r ** -exponent."""
    weights = itertools.accumulate(rank**-exponent for rank in range(1, keys + 1))
    return random.Random(SEED).choices(range(keys), cum_weights=list(weights), k=accesses)


def scanned(accesses: list[int]) -> list[int]:
    """With scans between: keys below zero, each once."""
    fresh, mixed = itertools.count(-1, -1), []
    for place in range(0, len(accesses), SCAN_EVERY):
        mixed += accesses[place : place + SCAN_EVERY]
        mixed += itertools.islice(fresh, SCAN_LENGTH)
    return mixed


def people(users: int, sessions: int) -> list[tuple[int, int]]:
    """(user, page), in the order of time, over a day: a session is a load and 0 to 10 pages a few
    seconds apart; in one of three the first page is loaded again within seconds. Users are drawn by
    Zipf 0.8 (the most active load hourly, most a few times or never), each at any time of the day.
    """
    draw = random.Random(SEED)
    events = []
    for user in zipf(users, 0.8, sessions):
        at = draw.uniform(0, DAY_S)
        events.append((at, user, 0))
        if draw.random() < 1 / 3:
            events.append((at + draw.uniform(1, 15), user, 0))
        for page in range(1, min(10, int(draw.expovariate(1 / 3))) + 1):
            at += draw.uniform(2, 30)
            events.append((at, user, page))
    return [(user, page) for _, user, page in sorted(events)]


def traces(scale: int) -> dict[str, Trace]:
    """By name; scale 1 is small, 10 is full."""
    keys, accesses = 10_000 * scale, 100_000 * scale
    pages = people(5_000 * scale, 20_000 * scale)
    return {
        "Zipf 0.8": zipf(keys, 0.8, accesses),
        "Zipf 1.0": zipf(keys, 1.0, accesses),
        "Zipf 1.0, scans": scanned(zipf(keys, 1.0, accesses)),
        "feed pages": pages,
        "feed windows": [user for user, _ in pages],
    }


def distinct(trace: Trace) -> int:
    return sum(not (isinstance(key, int) and key < 0) for key in set(trace))


def hits_ours(trace: Trace, entries: int) -> int:
    from feedcore._native.feed.cache import ENTRY_BYTES, Cache, Cached

    cache = Cache(entries * (ENTRY_SIZE + ENTRY_BYTES))
    for key in trace:
        if cache.get(key) is None:
            cache.put(key, Cached(), ENTRY_SIZE)
    assert cache.bytes_used <= cache.bytes_max
    return cache.hits


def hits_lru(trace: Trace, entries: int) -> int:
    cache: OrderedDict[Hashable, None] = OrderedDict()
    hits = 0
    for key in trace:
        if key in cache:
            hits += 1
            cache.move_to_end(key)
            continue
        cache[key] = None
        if len(cache) > entries:
            cache.popitem(last=False)
    return hits


def hits_tinylfu(trace: Trace, entries: int) -> int:
    import theine

    cache = theine.Cache(entries, nolock=True)
    hits = 0
    for key in trace:
        _, found = cache.get(key)
        if found:
            hits += 1
        else:
            cache.set(key, True)
    cache.close()
    return hits


def policies() -> dict[str, Callable[[Trace, int], int]]:
    """Those that can run here, ours first."""
    found = {"S3-FIFO": hits_ours, "LRU": hits_lru}
    try:
        import theine
    except ImportError:
        print("theine is not installed (extra `bench`): no W-TinyLFU")
    else:
        assert theine
        found["W-TinyLFU"] = hits_tinylfu
    return found


def compare() -> None:
    chosen, rows = policies(), []
    for name, trace in traces(10).items():
        keys = distinct(trace)
        for share in SHARES:
            rates = [hits(trace, int(keys * share)) / len(trace) for hits in chosen.values()]
            best = max(rates)
            shown = [f"**{rate:.1%}**" if rate == best else f"{rate:.1%}" for rate in rates]
            rows.append([name, f"{len(trace):,}", f"{keys:,}", f"{share:.0%}", *shown])
    head = ["trace", "accesses", "keys", "that fit", *chosen]
    print_table(f"Hit rates (seed {SEED})", head, rows)


def ns_a_call(work: Callable[[], int]) -> float:
    """Median of rounds; work gives its number of calls."""
    rounds = []
    for _ in range(ROUNDS):
        before = time.perf_counter_ns()
        calls = work()
        rounds.append((time.perf_counter_ns() - before) / calls)
    return statistics.median(rounds)


def price() -> None:
    """Calls from Python, with the loop around them taken off."""
    from feedcore._native.feed.cache import ENTRY_BYTES, Cache, Cached

    rows = []
    for entries in (1_000, 100_000):
        keys = [key.to_bytes(8, "little") for key in range(entries)]
        order = random.Random(SEED).choices(keys, k=CALLS)
        cache = Cache(4 * entries * ENTRY_BYTES)
        for key in keys:
            cache.put(key, Cached(), 0)
        churned, fresh = Cache(entries * ENTRY_BYTES), itertools.count(1 << 40)

        table = dict.fromkeys(keys)

        def nothing(order: list[bytes] = order) -> int:
            for _key in order:
                pass
            return CALLS

        def get(order: list[bytes] = order, call: Callable = cache.get) -> int:
            for key in order:
                call(key)
            return CALLS

        def plain(order: list[bytes] = order, call: Callable = table.get) -> int:
            for key in order:
                call(key)
            return CALLS

        def miss(call: Callable = cache.get) -> int:
            for key in range(CALLS):
                call(key)
            return CALLS

        def put(call: Callable = churned.put, fresh: itertools.count = fresh) -> int:
            for key in itertools.islice(fresh, CALLS):
                call(key, Cached(), 0)
            return CALLS

        loop = ns_a_call(nothing)
        costs = [ns_a_call(work) - loop for work in (get, plain, miss, put)]
        rows.append([f"{entries:,}", *(f"{cost:.0f} ns" for cost in costs)])
    head = ["entries", "get, a hit", "the same of a dict", "get, a miss", "make and put, evicting"]
    print_table("Cost of a call from Python", head, rows)


def check() -> None:
    """Our hits on the small traces."""
    for name, trace in traces(1).items():
        keys = distinct(trace)
        hits = tuple(hits_ours(trace, int(keys * share)) for share in SHARES)
        assert hits == SMALL_HITS[name], f"{name}: {hits} hits, not {SMALL_HITS[name]}"
    print("small: the hits are what they were")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="check results, measure nothing")
    if parser.parse_args().small:
        check()
        return
    compare()
    price()


if __name__ == "__main__":
    main()
