"""Tasks that go on behind the calls, each with an owner that ends it.

    running -> over      its owner has cancelled it, or let it return
            -> failed    by an error that nothing expected: reported to the loop at once, as fatal

Otherwise an owner that awaits the task only at the end would learn of the error too late, and the
process would go on without a part of itself: acknowledging writes that it does not announce. A
server process ends on a fatal error, and its supervisor starts another. Not for tasks that their
starter awaits.
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
