from collections.abc import Sequence

from feedcore.codecs.wirebounds import Found, Node

class WireBounds:
    def __init__(self, nodes: Sequence[Node], fields_max: int) -> None: ...
    def check(self, raw: bytes) -> Found | None: ...
