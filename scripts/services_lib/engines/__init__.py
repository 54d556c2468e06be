"""The engines by kind: how each is laid out, started and asked."""

from __future__ import annotations

from .cassandra import Cassandra
from .kafka import Kafka
from .parts import Engine
from .redis import Redis

ENGINES: dict[str, Engine] = {engine.kind: engine for engine in (Redis(), Kafka(), Cassandra())}
