"""Coalescing: one load in flight a key, and loads of one loop turn in one batch.

State of a key: absent -> waiting (asked for; its batch begins with the next turn of the loop) ->
loading (its batch is under way) -> absent. A batch has one future, which every caller that asks for
one of its keys awaits.

Invariants: a key is loaded by one batch at a time; a caller that is cancelled or runs out of
time affects no other caller and no load, which has no caller's deadline; a failed batch fails
the callers that wait for it and is not remembered; the batch's task is owned here and awaited by
`close`. Not for keeping results: caches do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from feedcore.errors import Overloaded
from feedcore.resilience import deadline

K = TypeVar("K")
V = TypeVar("V")


class _Batch(Generic[K, V]):
    """Keys that are loaded together, and later their values."""

    __slots__ = ("done", "keys", "values")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.keys: list[K] = []
        self.values: dict[K, V] = {}
        self.done = done


class Coalescer(Generic[K, V]):
    """`fetch(keys)` gives one value a key, in their order; at most `batch_max` keys at a time."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[list[K]], Coroutine[Any, Any, Sequence[V]]],
        *,
        batch_max: int,
        waiting_max: int,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._batch_of: dict[K, _Batch[K, V]] = {}
        self._open: list[_Batch[K, V]] = []  # of this turn; only the last has room
        self._waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.batches = 0
        self.loaded = 0
        self.joined = 0  # times that a key was asked for which was under way already

    async def get(self, key: K) -> V:
        """The value. Raises what its batch raised, and Overloaded if too many keys wait."""
        batch = self._join(key)
        await asyncio.shield(batch.done)
        return batch.values[key]

    async def get_all(self, keys: Sequence[K]) -> list[V]:
        """The values, in the order of the keys."""
        batches = [self._join(key) for key in keys]
        for batch in dict.fromkeys(batches):
            await asyncio.shield(batch.done)
        return [batch.values[key] for batch, key in zip(batches, keys, strict=True)]

    def fetch_now(self, keys: list[K]) -> dict[K, V]:
        """Loads at once, ahead of waiting callers: only for a source that does not suspend."""
        fetching = self._fetch(keys)
        try:
            fetching.send(None)
        except StopIteration as done:
            self.batches += 1
            self.loaded += len(keys)
            return dict(zip(keys, done.value, strict=True))
        fetching.close()
        raise RuntimeError(f"loading {self._name} at once: the source waited")

    async def close(self) -> None:
        """Waits for what is under way."""
        while self._tasks or self._open:
            await asyncio.sleep(0)
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _join(self, key: K) -> _Batch[K, V]:
        batch = self._batch_of.get(key)
        if batch is not None:
            self.joined += 1
            return batch
        if self._waiting >= self._waiting_max:
            raise Overloaded(f"the queue of {self._name}", f"{self._waiting_max} keys")
        if not self._open or len(self._open[-1].keys) >= self._batch_max:
            self._add_batch()
        batch = self._open[-1]
        batch.keys.append(key)
        self._batch_of[key] = batch
        self._waiting += 1
        return batch

    def _add_batch(self) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        # the callers of a failed batch may all be gone
        done.add_done_callback(_look_at)
        if not self._open:
            loop.call_soon(self._begin)
        self._open.append(_Batch(done))

    def _begin(self) -> None:
        # this turn's context is a copy of the first caller's
        deadline.forget()
        loop = asyncio.get_running_loop()
        batches, self._open, self._waiting = self._open, [], 0
        for batch in batches:
            task = loop.create_task(self._load(batch), name=f"load {self._name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load(self, batch: _Batch[K, V]) -> None:
        try:
            values = await self._fetch(batch.keys)
            batch.values = dict(zip(batch.keys, values, strict=True))
            self.loaded += len(batch.keys)
        except BaseException as error:
            batch.done.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            batch.done.set_result(None)
        finally:
            self.batches += 1
            for key in batch.keys:
                del self._batch_of[key]


def _look_at(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()
