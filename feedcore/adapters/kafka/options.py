"""Options of the Kafka adapters: where the brokers are, names, sizes, how to log in. Bounds that
are not for operators stand beside the code that keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka.helpers import create_ssl_context

from feedcore.errors import ConfigError
from feedcore.ports import Lane


@dataclass(frozen=True, slots=True)
class KafkaOptions:
    """`brokers`: HOST:PORT of some. `prefix` comes before every topic and group."""

    brokers: tuple[str, ...]
    prefix: str = "feedcore."
    partitions: int = 12  # of each lane: so many consumers can share it
    replication: int = 3  # at most; fewer brokers have fewer copies
    client_id: str = "feedcore"
    user: str = ""
    password: str = field(default="", repr=False)
    tls_ca: Path | None = None

    def __post_init__(self) -> None:
        if not self.brokers:
            raise ConfigError("kafka.brokers: none; at least one HOST:PORT")

    @property
    def where(self) -> str:
        """For messages."""
        return f"kafka at {', '.join(self.brokers)}"

    def connecting(self) -> dict[str, Any]:
        """Arguments that every client of the library takes."""
        arguments: dict[str, Any] = {
            "bootstrap_servers": list(self.brokers),
            "client_id": self.client_id,
            "security_protocol": ("SASL_" if self.user else "")
            + ("SSL" if self.tls_ca else "PLAINTEXT"),
        }
        if self.user:
            arguments |= {
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_plain_username": self.user,
                "sasl_plain_password": self.password,
            }
        if self.tls_ca is not None:
            try:
                arguments["ssl_context"] = create_ssl_context(cafile=str(self.tls_ca))
            except OSError as error:
                raise ConfigError(f"kafka.tls_ca: {self.tls_ca}: {error}") from error
        return arguments

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
