"""What a node of the cluster profile is told: one engine each, and who it is."""

from __future__ import annotations

from dataclasses import dataclass

from feedcore.adapters.cql.driver.options import CqlSettings
from feedcore.adapters.kafka.options import KafkaOptions


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """`urls`: of one server, or of any nodes of a cluster; with user and password in them."""

    urls: tuple[str, ...]
    cluster: bool
    prefix: str
    deadline_s: float

    def __repr__(self) -> str:
        return f"RedisOptions({len(self.urls)} urls, cluster={self.cluster})"


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """`region` and `node` as in content ids: no two processes that run share them."""

    cql: CqlSettings
    redis: RedisOptions
    kafka: KafkaOptions
    region: int
    node: int
