"""What the Kafka adapters are told: where the brokers are, names, sizes. Bounds that are not for
operators stand beside the code that keeps them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from feedcore.errors import ConfigError
from feedcore.ports import Lane

PARTITIONS_MAX = 1_024  # of one lane: more fan-out consumers than any cluster has
REPLICATION_MAX = 3
PREFIX_CHARS_MAX = 64
# legal characters of a topic; without "_", which collides with "." in the names of metrics
_PREFIX = re.compile(r"[A-Za-z0-9.\-]*\Z")


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """`servers`: HOST:PORT, comma-separated. `prefix` comes before every topic and group."""

    servers: str
    prefix: str = "feedcore."
    partitions: int = 12  # of each lane: so many consumers can share it
    replication: int = REPLICATION_MAX  # at most; fewer brokers have fewer copies
    client_id: str = "feedcore"

    def __post_init__(self) -> None:
        if not self.servers:
            raise ConfigError("kafka.servers: empty; HOST:PORT, several separated by commas")
        if not 1 <= self.partitions <= PARTITIONS_MAX:
            raise ConfigError(f"kafka.partitions: {self.partitions}; 1 to {PARTITIONS_MAX}")
        if not 1 <= self.replication <= REPLICATION_MAX:
            raise ConfigError(f"kafka.replication: {self.replication}; 1 to {REPLICATION_MAX}")
        if len(self.prefix) > PREFIX_CHARS_MAX or not _PREFIX.match(self.prefix):
            raise ConfigError(
                f"kafka.prefix: {self.prefix!r}; at most {PREFIX_CHARS_MAX} of letters, digits, . -"
            )

    def topic(self, lane: Lane) -> str:
        """Topic of one lane."""
        return f"{self.prefix}fanout.{lane.name.lower()}"

    @property
    def group(self) -> str:
        """The fan-out workers' consumer group."""
        return f"{self.prefix}fanout"

    @property
    def events(self) -> str:
        """Topic of feed events."""
        return f"{self.prefix}events"
