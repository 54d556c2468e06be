"""Choosing a page out of one window, and moving the scroll's state. The twin of
feedcore._native.algorithms.paging.

State of a scroll: head H, low-water b, and `served`, the id array of ids at or below b that were on
a page.

Invariants, before and after each page:
1. everything in (b, H] was served, or filtered when the scroll passed it;
2. what is at or below b was served exactly if it is in `served`;
3. b never rises, `served` holds at most SERVED_SET_MAX ids.

A step: candidates are the kept entries of the window (the newest W at or below b) that are not in
`served`. The page is chosen greedily: effective score = score * max(decay^k, floor), k = items of
that author already chosen; ties go to the newer item. b moves to the highest candidate left over,
or below the window if none is. If `served` could overflow, the page takes the highest candidates
first, as many as would not fit: they lie above the new b and so need not be remembered. Not for
deciding what is visible, nor for encoding a cursor.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Sequence
from typing import NamedTuple

from feedcore.domain.entry import content_ids, rows
from feedcore.domain.idset import pack_ids, unpack_ids
from feedcore.domain.ranking import RankingParameters
from feedcore.limits import SERVED_SET_MAX


class Selection(NamedTuple):
    """One page: `chosen` indexes into the window's entries in page order, `scores` beside them
    (descending).

    `low_water` and `served` are the scroll's new state. `end`: nothing is left in this window and
    no window below it can hold anything.
    """

    chosen: list[int]
    scores: list[float]
    low_water: int
    served: bytes
    end: bool


def _greedy(
    pool: Sequence[int],
    wanted: int,
    authors: Sequence[int],
    scores: Sequence[float],
    factors: Sequence[float],
    counts: dict[int, int],
) -> list[tuple[int, float]]:
    """The `wanted` best of `pool` as (index, effective score), best first; `counts` is carried on.

    The heap is lazy: an effective score only falls as its author is chosen, so an old value is an
    upper bound, and an item whose value is current when it comes up is the best there is.
    """

    def key(index: int) -> float:
        value = scores[index] * factors[counts.get(authors[index], 0)]
        return -value if value > 0.0 else 0.0  # what is no number ranks last

    heap = [(key(index), index) for index in pool]
    heapq.heapify(heap)
    chosen: list[tuple[int, float]] = []
    while heap and len(chosen) < wanted:
        stale, index = heap[0]
        current = key(index)
        if current != stale:
            heapq.heapreplace(heap, (current, index))
            continue
        heapq.heappop(heap)
        chosen.append((index, abs(current)))
        counts[authors[index]] = counts.get(authors[index], 0) + 1
    return chosen


def diversity_factors(params: RankingParameters, page_size: int) -> list[float]:
    """max(decay^k, floor) for k = 0 .. page_size; 1.0 for k = 0 whatever the floor."""
    factors, power = [1.0], 1.0
    for _ in range(page_size):
        power = power * params.diversity_decay
        factors.append(max(power, params.diversity_floor))
    return factors


def select(
    entries: bytes,
    verdicts: bytes,
    scores: bytes,
    served: bytes,
    page_size: int,
    params: RankingParameters,
    window_limit: int,
) -> Selection:
    """One page of a window. `verdicts` from judge, `scores` from score (f64 LE), `served` an id
    array.

    `window_limit`: how many entries the window was asked to hold; fewer mean that nothing is below
    it.
    """
    ids = content_ids(entries)
    if len(verdicts) != len(ids) or len(scores) != 8 * len(ids):
        raise ValueError(
            f"select: {len(ids)} entries, {len(verdicts)} verdicts, {len(scores)} bytes of scores;"
            " one byte and one f64 an entry"
        )
    authors = [row[1] for row in rows(entries)]
    values = struct.unpack(f"<{len(ids)}d", scores)
    already = unpack_ids(served)
    seen = frozenset(already)
    candidates = [i for i, id_ in enumerate(ids) if verdicts[i] == 0 and id_ not in seen]
    factors = diversity_factors(params, page_size)

    overflow = page_size - (SERVED_SET_MAX - len(already))
    forced = candidates[: min(max(0, overflow), page_size)]
    if forced:
        counts: dict[int, int] = {}
        for index in forced:
            counts[authors[index]] = counts.get(authors[index], 0) + 1
        rest = _greedy(
            candidates[len(forced) :], page_size - len(forced), authors, values, factors, counts
        )
        pool = forced + [index for index, _ in rest]
    else:
        pool = candidates
    page = _greedy(pool, page_size, authors, values, factors, {})

    chosen = [index for index, _ in page]
    taken = frozenset(chosen)
    left = next((index for index in candidates if index not in taken), None)
    end = left is None and len(ids) < window_limit
    if left is not None:
        low_water = ids[left]
    else:
        low_water = max(ids[-1] - 1, 0) if ids else 0
    kept = [id_ for id_ in already if id_ <= low_water]
    kept += [ids[index] for index in chosen if ids[index] <= low_water]
    return Selection(chosen, [value for _, value in page], low_water, pack_ids(kept), end)
