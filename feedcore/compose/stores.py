"""Settings -> the store of a profile, or what its adapters want to know to connect.

Invariant: the libraries of the cluster profile are imported only where the settings ask for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from feedcore.adapters.embedded import EmbeddedStore
from feedcore.clock import Clock
from feedcore.config import Settings
from feedcore.errors import ConfigError

if TYPE_CHECKING:
    from feedcore.adapters.cluster.options import ClusterOptions
    from feedcore.adapters.cql.driver.options import CqlSettings
    from feedcore.compose.engine import Store

Waiting = Callable[[str], None]


async def open_store(
    settings: Settings, clock: Clock, *, node: int, fanout: bool, waiting: Waiting
) -> Store:
    """`fanout`: this process fans out. `waiting` is called now and then with the name of an engine
    that does not answer yet. Raises StoreError where waiting would not help.
    """
    if settings.store.profile == "embedded":
        return EmbeddedStore.open(settings.store.data_dir, clock, writer_role=fanout)
    options = cluster_options(settings, node)
    from feedcore.adapters.cluster.store import ClusterStore

    return await ClusterStore.open(options, clock, fanout=fanout, waiting=waiting)


def cluster_options(settings: Settings, node: int) -> ClusterOptions:
    """What adapters want to know. Raises ConfigError if their libraries are not installed."""
    try:
        from feedcore.adapters.cluster.options import ClusterOptions, RedisOptions
        from feedcore.adapters.kafka.options import KafkaOptions
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"store.profile = cluster: {error.name} is not installed; pip install feedcore[cluster]"
        ) from error
    redis, kafka = settings.redis, settings.kafka
    return ClusterOptions(
        cql=cql_settings(settings),
        redis=RedisOptions(
            redis_urls(settings), redis.cluster, redis.prefix, redis.deadline_ms / 1e3
        ),
        kafka=KafkaOptions(
            kafka.brokers,
            kafka.prefix,
            kafka.partitions,
            kafka.replication,
            user=kafka.user,
            password=kafka.password.get_secret_value(),
            tls_ca=kafka.tls_ca,
        ),
        region=settings.ids.region,
        node=node,
    )


def cql_settings(settings: Settings, *, keyspace: str | None = None) -> CqlSettings:
    """`keyspace` "" for a session without one: there may be none yet."""
    from feedcore.adapters.cql.driver.options import DRIVER_DEFAULT, CqlSettings, Tls

    cql = settings.cql
    return CqlSettings(
        contact_points=cql.contact_points,
        keyspace=cql.keyspace if keyspace is None else keyspace,
        local_dc=cql.local_dc,
        driver=DRIVER_DEFAULT if cql.driver == "auto" else cql.driver,
        user=cql.user,
        password=cql.password.get_secret_value(),
        tls=None if cql.tls_ca is None else Tls(cql.tls_ca),
        request_timeout_s=cql.timeout_ms / 1e3,
        in_flight_max=cql.in_flight,
    )


def redis_urls(settings: Settings) -> tuple[str, ...]:
    """With user, password and authorities in them, as redis-py takes them."""
    redis = settings.redis
    password = redis.password.get_secret_value()
    account = f"{quote(redis.user, safe='')}:{quote(password, safe='')}@" if password else ""
    scheme, query = "redis", ""
    if redis.tls_ca is not None:
        scheme, query = "rediss", f"?ssl_ca_certs={quote(str(redis.tls_ca))}"
    return tuple(f"{scheme}://{account}{node}{query}" for node in redis.nodes)


async def migrate_cluster(
    settings: Settings, wait_s: float, echo: Callable[[str], Any]
) -> list[str]:
    """Brings the keyspace to this code's schema; names of what was applied. `echo` takes a line for
    people. Raises Unavailable if no node answers within `wait_s`.
    """
    from feedcore.adapters.cql.driver.connect import open_session
    from feedcore.adapters.cql.schema.migrate import migrate
    from feedcore.errors import Unavailable

    cql = settings.cql
    deadline_s = asyncio.get_running_loop().time() + wait_s
    while True:
        try:
            session = await open_session(cql_settings(settings, keyspace=""))
            break
        except Unavailable as error:
            if asyncio.get_running_loop().time() >= deadline_s:
                raise
            echo(f"waiting for {error}")
            await asyncio.sleep(1.0)
    try:
        replication: dict[str, str | int] = {
            "class": "NetworkTopologyStrategy",
            cql.local_dc: cql.replication,
        }
        return await migrate(session, cql.keyspace, replication)
    finally:
        await session.close()
