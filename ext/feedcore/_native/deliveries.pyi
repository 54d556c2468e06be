from typing import Sequence

Rows = Sequence[tuple[bytes, bytes]]

def sort_deliveries(rows: Rows) -> list[tuple[int, Rows]]: ...
