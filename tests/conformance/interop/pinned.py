"""What is expected of each case, and the one table of what is known to differ.

A difference is pinned, not excused: the case must go wrong in just that way, so that a transport
that gets better, or worse, is noticed.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

LONG = os.environ.get("FEEDCORE_LONG") == "1"


class Difference(NamedTuple):
    """`fault` is a pattern of what the client says, `reason` why. `always`: it cannot go well."""

    fault: str
    reason: str
    always: bool = True


_PROBE = Difference(
    "(?i)probe|invalid_argument",
    "grpc.aio does not tell a server how a message came, so that the call which only finds out "
    "whether the server checks is answered; the cases without that call must pass",
)

# (transport, case) -> what is different there, whichever client asks. "*": on every transport.
DIFFERENCES = {
    ("grpcio", "client_compressed_unary"): _PROBE,
    ("grpcio", "client_compressed_streaming"): _PROBE,
    ("*", "server_compressed_streaming_late"): Difference(
        "bytes on the wire",
        "the encoding goes out with the headers, before the first reply",
    ),
    ("grpcio", "server_compressed_not_accepted"): Difference(
        "INTERNAL.*Compression algorithm 'gzip' is disabled",
        "grpc.aio does not tell a server which encodings its caller accepts, and does not look",
    ),
    ("grpcio", "concurrent_large_unary"): Difference(
        r"failed \{\('UNAVAILABLE', '[^']*RST_STREAM with error code 7\)\)'\): \d+\}$"
        "|failed: .*status 14: Stream refused by server",
        "C-core counts a stream for some time after its client may open the next one, and refuses "
        "what is then too many; its client retries that for requests below 256 KiB only",
        always=False,
    ),
    ("grpcio", "serverStreamingShouldBeFlowControlled"): Difference(
        "expected:<Status.code=OK, description=null.* but was:<Status.code=OK, description=,",
        "C-core sends an empty message with OK; the check of that is the last one of the test",
    ),
    ("*", "very_large_request"): Difference(
        "RESOURCE_EXHAUSTED",
        "the request has 10 MiB; feedcore takes no more than 8 (REQUEST_BYTES_MAX)",
    ),
}


def judge(transport: str, case: str, fault: str | None) -> None:
    """Fails unless the case went as it must; `fault` is what the client found wrong."""
    difference = DIFFERENCES.get((transport, case)) or DIFFERENCES.get(("*", case))
    if difference is None or (fault is None and not difference.always):
        assert fault is None, fault
    else:
        assert fault is not None, f"no longer different, take it off the table: {difference}"
        assert re.search(difference.fault, fault), f"other than {difference}: {fault}"
