"""Coalescing: one load in flight a key, and loads of one loop turn in one batch.

State of a key: absent -> waiting (asked for, the batch of this turn has not begun) -> loading (its
batch is under way) -> absent. Each state but absent has one future, which everybody who asks for
the key waits for.

Invariants: a key is loaded by one batch at a time; what happens to one who waits (cancelled, out of
time) happens to nobody else and to no load; a failed batch fails those who wait for it and is not
remembered; the batch's task is owned here and awaited by `close`. Not for keeping results: that is
the cache's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from feedcore.errors import Overloaded

K = TypeVar("K")
V = TypeVar("V")


class Coalescer(Generic[K, V]):
    """`fetch(keys)` gives one value a key, in their order; at most `batch_max` keys at a time."""

    def __init__(
        self,
        name: str,
        fetch: Callable[[list[K]], Awaitable[Sequence[V]]],
        *,
        batch_max: int,
        waiting_max: int,
    ) -> None:
        self._name = name
        self._fetch = fetch
        self._batch_max = batch_max
        self._waiting_max = waiting_max
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._loading: dict[K, asyncio.Future[V]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self.batches = 0
        self.loaded = 0
        self.joined = 0  # asked for a key that somebody else had asked for already

    async def get(self, key: K) -> V:
        """The value; Overloaded if too many keys wait. Raises what the batch raised."""
        return await asyncio.shield(self._future(key))

    async def get_all(self, keys: Sequence[K]) -> list[V]:
        """The values, in the order of the keys."""
        futures = [self._future(key) for key in keys]
        return [await asyncio.shield(future) for future in futures]

    async def close(self) -> None:
        """Waits for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _future(self, key: K) -> asyncio.Future[V]:
        found = self._waiting.get(key) or self._loading.get(key)
        if found is not None:
            self.joined += 1
            return found
        if len(self._waiting) >= self._waiting_max:
            raise Overloaded(f"the queue of {self._name}", f"{self._waiting_max} keys")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[V] = loop.create_future()
        # a failure that nobody waits for any more was somebody's cancelled call: not an error
        future.add_done_callback(_look_at)
        self._waiting[key] = future
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._begin)
        return future

    def _begin(self) -> None:
        self._scheduled = False
        loop = asyncio.get_running_loop()
        while self._waiting:
            keys = list(self._waiting)[: self._batch_max]
            batch = {key: self._waiting.pop(key) for key in keys}
            self._loading.update(batch)
            task = loop.create_task(self._load(batch), name=f"load {self._name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _load(self, batch: dict[K, asyncio.Future[V]]) -> None:
        try:
            values = await self._fetch(list(batch))
        except BaseException as error:
            for future in batch.values():
                if not future.done():
                    future.set_exception(error)
            if not isinstance(error, Exception):
                raise
        else:
            for future, value in zip(batch.values(), values, strict=True):
                if not future.done():
                    future.set_result(value)
            self.loaded += len(batch)
        finally:
            self.batches += 1
            for key in batch:
                del self._loading[key]


def _look_at(future: asyncio.Future[V]) -> None:
    if not future.cancelled():
        future.exception()
