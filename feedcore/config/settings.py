"""All sections together, and what they must be in relation to each other."""

from __future__ import annotations

from pydantic import Field, model_validator

from feedcore.config.engines import (
    CollaboratorSettings,
    CqlSettings,
    KafkaSettings,
    RedisSettings,
)
from feedcore.config.node import (
    NODE_MAX,
    CacheSettings,
    FanoutSettings,
    IdSettings,
    LoggingSettings,
    ServerSettings,
    StoreSettings,
)
from feedcore.config.types import Section


class Settings(Section):
    """All settings, validated. `Settings()` is the defaults."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    ids: IdSettings = Field(default_factory=IdSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    fanout: FanoutSettings = Field(default_factory=FanoutSettings)
    cql: CqlSettings = Field(default_factory=CqlSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    collaborators: CollaboratorSettings = Field(default_factory=CollaboratorSettings)
    logging: LoggingSettings = Field(default_factory=LoggingSettings)

    @model_validator(mode="after")
    def _nodes_fit(self) -> Settings:
        last = max(self.ids.node_base, fanout_node(self))
        if self.server.role != "fanout":
            last = max(last, self.ids.node_base + self.server.workers)
        if last > NODE_MAX:
            raise ValueError(
                f"ids.node_base {self.ids.node_base} with {self.server.workers} workers: the last"
                f" process would be node {last}; nodes are 0 to {NODE_MAX}"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Settings:
        server = self.server
        if (server.tls_certificate is None) != (server.tls_key is None):
            raise ValueError("server.tls_certificate and server.tls_key: give both or neither")
        if server.tls_client_ca is not None and server.tls_certificate is None:
            raise ValueError("server.tls_client_ca: needs server.tls_certificate and tls_key")
        if server.listen_unix is not None and server.transport == "grpcio":
            raise ValueError("server.listen_unix: only the native transport listens on it")
        return self

    @model_validator(mode="after")
    def _profile_has_its_engines(self) -> Settings:
        if self.store.profile == "cluster":
            for key in ("cql.contact_points", "kafka.brokers", "redis.nodes"):
                section, name = key.split(".")
                if not getattr(getattr(self, section), name):
                    raise ValueError(f"{key}: the cluster profile needs at least one HOST:PORT")
            return self
        if self.server.caller_rate:
            raise ValueError("server.caller_rate: needs the cluster profile, whose Redis counts")
        if self.server.role != "all":
            raise ValueError(
                f"server.role = {self.server.role}: the embedded profile is one machine whose"
                " processes share a directory; its role is all"
            )
        return self


def fanout_node(settings: Settings) -> int:
    """The node number of the fan-out process. In a cluster it gives out job ids: after the workers
    and their spare one, where there are any.
    """
    base, server = settings.ids.node_base, settings.server
    if settings.store.profile == "embedded" or server.role != "all":
        return base
    return base + server.workers + 1
