"""The bulkhead's bounds under callers that come, leave and are cancelled at any moment."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedcore.errors import Overloaded
from feedcore.resilience.bulkhead import Bulkhead
from tests.unit.resilience.simulated import pause, simulate

ACTIVE, WAITING = 2, 3


async def turns(count: int = 3) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        await turn


class Ward:
    """Callers of one bulkhead, and what was seen of it."""

    def __init__(self) -> None:
        self.bulkhead = Bulkhead("a store", active_max=ACTIVE, waiting_max=WAITING)
        self.inside = 0
        self.entered: list[int] = []
        self.refused: list[int] = []

    async def call(self, number: int, seconds: float) -> None:
        try:
            async with self.bulkhead:
                self.inside += 1
                assert self.inside <= ACTIVE
                self.entered.append(number)
                try:
                    await pause(seconds)
                finally:
                    self.inside -= 1
        except Overloaded:
            assert self.bulkhead.active == ACTIVE and self.bulkhead.waiting == WAITING
            self.refused.append(number)


def test_who_waits_enters_in_order_and_the_rest_is_refused() -> None:
    async def main() -> None:
        ward = Ward()
        await asyncio.gather(*(ward.call(number, 1.0) for number in range(7)))
        assert ward.entered == [0, 1, 2, 3, 4] and ward.refused == [5, 6]
        assert ward.bulkhead.active == ward.bulkhead.waiting == 0

    simulate(main())


def test_the_refusal_names_the_bound() -> None:
    async def main() -> None:
        one = Bulkhead("a store", active_max=1, waiting_max=0)
        async with one:
            with pytest.raises(Overloaded, match="a store is full .1 calls, 0 waiting"):
                async with one:
                    raise AssertionError("inside")

    simulate(main())


def test_a_place_given_to_who_was_cancelled_in_that_turn_goes_on() -> None:
    async def main() -> None:
        ward = Ward()
        waiting: list[asyncio.Task[None]] = []

        async def leaves() -> None:
            async with ward.bulkhead:
                await pause(1.0)
            waiting[0].cancel()  # the place is its, and it has not run yet

        first = [asyncio.create_task(one) for one in (leaves(), ward.call(1, 9.0))]
        await pause(0.5)
        waiting += [asyncio.create_task(ward.call(number, 1.0)) for number in (2, 3)]
        await asyncio.wait(first + waiting)
        assert waiting[0].cancelled() and first[0].exception() is None
        assert ward.entered == [1, 3] and ward.bulkhead.active == 0

    simulate(main())


async def test_places_go_in_the_order_of_the_calls() -> None:
    bulkhead = Bulkhead("the test", active_max=2, waiting_max=3)
    assert bulkhead.try_enter() and bulkhead.try_enter() and not bulkhead.try_enter()
    order: list[int] = []

    async def call(name: int) -> None:
        await bulkhead.enter()
        order.append(name)

    calls = [asyncio.create_task(call(name)) for name in range(3)]
    await turns()
    assert (bulkhead.active, bulkhead.waiting) == (2, 3)
    with pytest.raises(Overloaded, match="3 waiting"):
        await bulkhead.enter()
    calls[1].cancel()
    await turns()
    assert bulkhead.waiting == 2
    for _ in range(4):
        bulkhead.leave()
    await turns()
    assert order == [0, 2] and bulkhead.active == 0
    await bulkhead.emptied()


async def test_who_ends_waits_until_the_last_has_left() -> None:
    bulkhead = Bulkhead("the test", active_max=1, waiting_max=3)
    await bulkhead.enter()
    first = asyncio.create_task(bulkhead.enter())
    second = asyncio.create_task(bulkhead.enter())
    await turns()
    bulkhead.leave()  # to the first
    first.cancel()
    await turns()
    assert first.cancelled() and second.done() and not second.cancelled()
    assert (bulkhead.active, bulkhead.waiting) == (1, 0)
    ended = asyncio.create_task(bulkhead.emptied())
    await turns()
    assert not ended.done()
    bulkhead.leave()
    await turns()
    assert ended.done()


@given(
    callers=st.lists(
        st.tuples(
            st.sampled_from([0.0, 0.1, 0.2, 0.5]),  # comes so long after the one before
            st.sampled_from([0.0, 0.1, 0.3, 1.0]),  # stays inside for
            st.sampled_from([None, 0.0, 0.1, 0.2, 0.5]),  # is cancelled so long after coming
        ),
        max_size=30,
    ),
    seed=st.integers(0, 100),
)
def test_bounds_hold_and_nothing_is_left(
    callers: list[tuple[float, float, float | None]], seed: int
) -> None:
    async def main() -> None:
        ward = Ward()
        loop = asyncio.get_running_loop()
        tasks = []
        for number, (after, stays, cancelled) in enumerate(callers):
            if after:
                await pause(after)
            task = asyncio.ensure_future(ward.call(number, stays))
            if cancelled is not None:
                loop.call_later(cancelled, task.cancel)
            tasks.append(task)
            assert ward.bulkhead.active <= ACTIVE and ward.bulkhead.waiting <= WAITING
        await asyncio.gather(*tasks, return_exceptions=True)
        assert ward.bulkhead.active == ward.bulkhead.waiting == ward.inside == 0
        assert ward.entered == sorted(ward.entered), "in the order of asking"
        for task in tasks:
            assert task.cancelled() or task.exception() is None

    simulate(main(), seed=seed, late_s=0.2)
