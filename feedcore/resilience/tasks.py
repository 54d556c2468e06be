"""Tasks that go on behind the calls, each with an owner that ends it.

    running -> over      its owner has cancelled it, or let it return
            -> failed    by an error that nothing expected: told to the loop at once, as fatal

Without that an owner who waits only at the end would keep the error to itself, and the process
would go on as half of one: acknowledging what others are never told of. A server process ends on
what is fatal, and its supervisor starts another. Not for tasks that somebody awaits meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

FATAL = "feedcore_fatal"  # the key in the context that a loop's exception handler gets


def start(coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
    """The caller keeps the task, and ends it."""
    task = asyncio.get_running_loop().create_task(coroutine, name=name)
    task.add_done_callback(_look_at)
    return task


def _look_at(task: asyncio.Task[None]) -> None:
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        context = {
            "message": f"{task.get_name()}: failed, and this process cannot do without it",
            "exception": error,
            "task": task,
            FATAL: True,
        }
        task.get_loop().call_exception_handler(context)
