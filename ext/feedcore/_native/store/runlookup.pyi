from collections.abc import Sequence

from feedcore.codecs.runs import RunView

class RunIndex:
    newest_run: int
    def __init__(self, views: Sequence[RunView]) -> None: ...
    def window(
        self, user_id: int, first_day: int, last_day: int, at_or_below: int, limit: int
    ) -> list[bytes]: ...
    def since(self, user_id: int, seen_run: int) -> list[bytes]: ...
