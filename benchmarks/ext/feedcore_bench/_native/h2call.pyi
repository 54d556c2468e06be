from collections.abc import Sequence

class Call: ...

class Template:
    path: str
    def __init__(
        self,
        path: str,
        authority: str = "localhost",
        timeout_ms: int | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        user_agent: str = "feedcore-bench",
    ) -> None: ...
