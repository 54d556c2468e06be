from collections.abc import Sequence

Second = tuple[float, int, int, int, int, int]

class Histogram:
    count: int
    min: int
    max: int
    def record(self, value: int) -> None: ...
    def merge(self, other: Histogram) -> None: ...
    def clear(self) -> None: ...
    @property
    def mean(self) -> float: ...
    def percentile(self, percent: float) -> int: ...
    def buckets(self) -> list[tuple[int, int]]: ...

class Recorder:
    histograms: list[Histogram]
    failed: Histogram
    seconds: list[Second]
    answered: int
    body_bytes: int
    started: int
    def __init__(self, methods: int, from_ns: int, until_ns: int, by_start: bool) -> None: ...
    def record(
        self, method: int, status: int, start_ns: int, now_ns: int, size: int
    ) -> None: ...
    def counts(self, method: int) -> dict[int, int]: ...
    def tick(self, at_s: float) -> Second: ...

class Schedule:
    over: bool
    arrivals: int
    dropped: int
    waiting_max: int
    lateness: Histogram
    def __init__(
        self,
        steps: Sequence[tuple[float, float]],
        start_ns: int,
        seed: int,
        poisson: bool,
        capacity: int,
    ) -> None: ...
    def advance(self, now_ns: int) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def next_ns(self) -> int: ...
    def pop(self) -> int: ...
