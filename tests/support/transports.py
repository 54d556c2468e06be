"""The transports there are, by name, for tests that run against each of them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from feedcore.clock import Clock
from feedcore_server.dispatch import Dispatcher
from feedcore_server.transports import Transport

_CLASSES = {
    "grpcio": ("feedcore_server.transports.grpcio", "GrpcioTransport"),
    "native": ("feedcore_server.transports.native", "NativeTransport"),
}


def _there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


TRANSPORTS = [name for name, (module, _) in _CLASSES.items() if _there(module)]


def make_transport(name: str, dispatcher: Dispatcher, clock: Clock, tls: Any = None) -> Transport:
    """A transport that is not listening yet. `tls` is for those that have it."""
    module, class_name = _CLASSES[name]
    transport = getattr(importlib.import_module(module), class_name)
    if tls is not None and name == "grpcio":
        raise ValueError("the grpcio transport has no TLS")
    made: Transport = transport(dispatcher, clock, **({} if tls is None else {"tls": tls}))
    return made
