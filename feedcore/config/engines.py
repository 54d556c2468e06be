"""Settings of the engines of the cluster profile, and of services that stand in for built-in ones.

Defaults are those of engines on this machine, as `scripts/services` and the compose file start
them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from feedcore.config.types import Addresses, OptionalPath, Secret, Section

DEADLINE_MS_MAX = 60_000  # a caller has given up long before
IN_FLIGHT_MAX = 32_768  # the stream ids of one CQL connection
REPLICATION_MAX = 7  # a quorum of more costs more than it saves
PARTITIONS_MAX = 10_000  # what a broker is said to hold


class CqlSettings(Section):
    """ScyllaDB, Apache Cassandra, or another store that speaks CQL."""

    contact_points: Addresses = Field(
        ("127.0.0.1:9042",), description="HOST:PORT of some nodes, with commas between"
    )
    local_dc: str = Field(
        "datacenter1",
        min_length=1,
        description="data centre of this node: LOCAL_ONE and LOCAL_QUORUM mean its replicas",
    )
    keyspace: str = Field(
        "feedcore",
        pattern="^[a-z][a-z0-9_]{0,47}$",
        description="keyspace of all tables; `feedcore migrate` makes it",
    )
    replication: int = Field(
        3,
        ge=1,
        le=REPLICATION_MAX,
        description="replicas of each row where `feedcore migrate` makes the keyspace; 1 for one"
        " node",
    )
    driver: Literal["auto", "acsylla", "scylla-driver"] = Field(
        "auto", description="client library; auto: the faster one that is installed"
    )
    in_flight: int = Field(
        1_024,
        ge=1,
        le=IN_FLIGHT_MAX,
        description="requests of a process that are under way at once; more wait",
    )
    timeout_ms: int = Field(
        2_000, ge=10, le=DEADLINE_MS_MAX, description="milliseconds one request may take"
    )
    user: str = Field("", description="user name; empty: no log-in")
    password: Secret = Field(SecretStr(""), description="password of that user")
    tls_ca: OptionalPath = Field(
        None, description="PEM authorities of the nodes' certificates; empty: no TLS"
    )


class RedisSettings(Section):
    """The shared page cache and the epochs; without it pages are right, and slower."""

    nodes: Addresses = Field(
        ("127.0.0.1:6379",),
        description="HOST:PORT; of a Redis Cluster some nodes, with commas between; empty: none",
    )
    cluster: bool = Field(False, description="true: the nodes are of a Redis Cluster")
    prefix: str = Field(
        "feedcore:",
        max_length=64,
        pattern="^[^{}]*$",
        description="what all keys begin with: deployments that share a Redis differ in it",
    )
    deadline_ms: int = Field(
        100, ge=1, le=DEADLINE_MS_MAX, description="milliseconds a page waits for an answer"
    )
    user: str = Field("", description="user name; empty: the default user")
    password: Secret = Field(SecretStr(""), description="password; empty: no log-in")
    tls_ca: OptionalPath = Field(
        None, description="PEM authorities of the nodes' certificates; empty: no TLS"
    )


class KafkaSettings(Section):
    """The fan-out queue and the events; without it posts are kept, and fanned out later."""

    brokers: Addresses = Field(
        ("127.0.0.1:9092",), description="HOST:PORT of some brokers, with commas between"
    )
    prefix: str = Field(
        "feedcore.",
        max_length=64,
        pattern="^[a-zA-Z0-9._-]*$",
        description="what topics and consumer groups begin with",
    )
    partitions: int = Field(
        12,
        ge=1,
        le=PARTITIONS_MAX,
        description="partitions of a topic that is made: at most so many fan-out processes share"
        " a lane",
    )
    replication: int = Field(
        3,
        ge=1,
        le=REPLICATION_MAX,
        description="replicas of a topic that is made, at most the brokers there are",
    )
    user: str = Field("", description="user name (SASL SCRAM-SHA-512); empty: no log-in")
    password: Secret = Field(SecretStr(""), description="password of that user")
    tls_ca: OptionalPath = Field(
        None, description="PEM authorities of the brokers' certificates; empty: no TLS"
    )


class CollaboratorSettings(Section):
    """Other teams' services, by the contracts in proto/feedcore/collaborators; empty: built in."""

    content: Addresses = Field((), description="HOST:PORT of content services")
    graph: Addresses = Field((), description="HOST:PORT of graph services")
    ranking: Addresses = Field((), description="HOST:PORT of ranking services")
    deadline_ms: int = Field(
        100,
        ge=1,
        le=DEADLINE_MS_MAX,
        description="milliseconds a call may take, never beyond the caller's own deadline",
    )
    active: int = Field(
        256, ge=1, le=IN_FLIGHT_MAX, description="calls of a process under way at once, each"
    )
