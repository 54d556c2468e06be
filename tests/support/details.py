"""Details of a status, as a client reads them with grpcio-status."""

from __future__ import annotations

from typing import Any, NamedTuple

from google.rpc import error_details_pb2
from grpc_status import rpc_status


class Details(NamedTuple):
    """Empty, or None, for what the status does not have."""

    reason: str = ""
    domain: str = ""
    field: str = ""
    description: str = ""
    retry_ms: int | None = None


def details_of(error: Any) -> Details:
    """Raises ValueError if they contradict the status itself."""
    status = rpc_status.from_call(error)
    told = Details()
    for one in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if one.Unpack(info):
            told = told._replace(reason=info.reason, domain=info.domain)
        elif one.Unpack(bad):
            (violation,) = bad.field_violations
            told = told._replace(field=violation.field, description=violation.description)
        elif one.Unpack(retry):
            told = told._replace(retry_ms=retry.retry_delay.ToMilliseconds())
    return told
