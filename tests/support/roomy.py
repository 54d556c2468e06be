"""Bounds of requests that leave room for everything: cases of the protocol send requests of every
size, and what each method of feedcore may have is another matter.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.empty_pb2 import Empty

from feedcore.codecs.bounds import Bound, Policy
from feedcore_server.limits import REQUEST_BYTES_MAX
from feedcore_server.parsing import Parser


class _AnyField(dict[str, Bound]):
    """As much of every field as a request has room for."""

    def get(self, _name: str, _default: Any = None) -> Bound:
        return Bound(REQUEST_BYTES_MAX, REQUEST_BYTES_MAX)


ROOMY = Policy(_AnyField(), REQUEST_BYTES_MAX, REQUEST_BYTES_MAX)
NO_FIELDS = Parser(Empty, ROOMY)
