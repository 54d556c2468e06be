"""Tells the store of calls that failed. Innermost, so that it hears what handlers raise.

Not for answers: the error goes on as it came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from feedcore_server.context import CallContext
from feedcore_server.dispatch import Interceptor, Proceed


def remembered(note_failure: Callable[[BaseException], None]) -> Interceptor:
    """The interceptor."""

    async def intercept(call: CallContext, request: Any, proceed: Proceed) -> bytes:
        try:
            return await proceed(call, request)
        except Exception as error:
            note_failure(error)
            raise

    return intercept
