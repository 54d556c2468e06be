"""ContentSource: contents with their counts, read from one replica each.

A replica may lack a post that is acknowledged: what is missing is asked for once more at quorum, so
that an item never drops out of a page for a replica that was away. A replica may also lack a
deletion: what the node knows to be deleted is left out whatever it says.
"""

from __future__ import annotations

from collections.abc import Sequence

from feedcore.adapters.contracts.replica import Replica
from feedcore.adapters.cql.driver.session import Consistency, Session, Statement
from feedcore.ports import Content
from feedcore.resilience.gather import gather_all

_SELECT = "SELECT content FROM posts WHERE content_id = ?"
_CONTENT = Statement(_SELECT, Consistency.ONE, speculative=True)
_CONTENT_FOR_SURE = Statement(_SELECT)
_COUNTS = Statement(
    "SELECT likes, comments, shares FROM post_counts WHERE content_id = ?",
    Consistency.ONE,
    speculative=True,
)


class CqlContentSource:
    """See `ports.content.ContentSource`."""

    def __init__(self, session: Session, replica: Replica) -> None:
        self._session = session
        self._replica = replica

    async def contents(self, content_ids: Sequence[int]) -> list[Content | None]:
        """Two point reads an item, all concurrently."""
        keys = [(content_id,) for content_id in content_ids]
        found, counts = await gather_all(
            self._session.read_many(_CONTENT, keys), self._session.read_many(_COUNTS, keys)
        )
        deleted = self._replica.state.tombstones
        missing = [
            at
            for at, rows in enumerate(found)
            if not (rows and rows[0][0] is not None) and content_ids[at] not in deleted
        ]
        if missing:
            again = await self._session.read_many(_CONTENT_FOR_SURE, [keys[at] for at in missing])
            for at, rows in zip(missing, again, strict=True):
                found[at] = rows
            deleted = self._replica.state.tombstones
        return [
            None if content_id in deleted else _content(rows, count)
            for content_id, rows, count in zip(content_ids, found, counts, strict=True)
        ]


def _content(rows: list[tuple], counts: list[tuple]) -> Content | None:
    if not rows or rows[0][0] is None:
        return None
    likes, comments, shares = counts[0] if counts else (0, 0, 0)
    return Content(rows[0][0], likes or 0, comments or 0, shares or 0)
