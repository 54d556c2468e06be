"""The deadline is the nearest one of those around, and nobody else's."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from feedcore.resilience import deadline
from feedcore.resilience.coalescing import Coalescer
from tests.unit.resilience.simulated import pause, simulate


def test_without_a_caller_there_is_only_the_default() -> None:
    async def main() -> None:
        assert deadline.current() is None and deadline.remaining_s(0.1) == 0.1
        with deadline.within(2.0):
            assert deadline.remaining_s(5.0) == 2.0 and deadline.remaining_s(0.1) == 0.1
            await pause(3.0)
            assert deadline.remaining_s(0.1) == 0.0
        assert deadline.current() is None

    simulate(main())


@given(st.floats(0.0, 10.0), st.lists(st.floats(0.0, 10.0), max_size=6))
def test_steps_inside_steps_never_move_it_away(callers: float, steps: list[float]) -> None:
    async def main() -> None:
        now = deadline.loop_now()
        deadline.begin(now + callers)

        def nested(left: list[float], nearest: float) -> None:
            before = deadline.current()
            if left:
                with deadline.within(left[0]):
                    found = deadline.current()
                    assert found is not None and found == min(nearest, now + left[0])
                    nested(left[1:], found)
            assert deadline.current() == before

        nested(steps, now + callers)

    simulate(main())


def test_tasks_inherit_it_and_do_not_share_it() -> None:
    async def main() -> None:
        now = deadline.loop_now()
        deadline.begin(now + 1.0)

        async def child() -> float | None:
            before = deadline.current()
            deadline.begin(now + 9.0)
            return before

        assert await asyncio.create_task(child()) == now + 1.0
        assert deadline.current() == now + 1.0

    simulate(main())


def test_a_load_that_is_shared_has_nobodys_deadline() -> None:
    async def main() -> None:
        seen: list[float | None] = []

        async def fetch(keys: list[int]) -> list[int]:
            seen.append(deadline.current())
            return keys

        loads = Coalescer("numbers", fetch, batch_max=10, waiting_max=10)
        deadline.begin(deadline.loop_now() + 0.001)
        mine = deadline.current()
        assert await loads.get(1) == 1
        assert seen == [None] and deadline.current() == mine

    simulate(main())
