"""Settings -> probes of everything that the profile needs, for `doctor` and for status.

Invariant: probes open connections of their own, as a caller's process would, so that they say what
is there now and not what a client of this process remembers. Not for the probes themselves: each
engine's are beside its adapter.
"""

from __future__ import annotations

from feedcore.adapters.common.probing import Probe, run_probes
from feedcore.adapters.embedded import probe as embedded_probe
from feedcore.clock import Clock
from feedcore.compose import stores
from feedcore.config import Settings
from feedcore.ports.finding import Finding


async def diagnose(settings: Settings, clock: Clock, timeout_s: float) -> list[Finding]:
    """What each probe found within `timeout_s`; all run concurrently. Raises ConfigError if a
    client library is missing.
    """
    return await run_probes(probes_of(settings, clock, timeout_s), timeout_s)


def probes_of(settings: Settings, clock: Clock, timeout_s: float) -> list[Probe]:
    """Of everything that the profile needs. Raises ConfigError if a client library is missing."""
    found: list[Probe] = []
    if settings.store.profile == "embedded":
        found += embedded_probe.probes(settings.store.data_dir)
    else:
        options = stores.cluster_options(settings, settings.ids.node_base)
        from feedcore.adapters.cql.schema import probe as cql_probe
        from feedcore.adapters.kafka import probe as kafka_probe
        from feedcore.adapters.redis import probe as redis_probe

        redis = options.redis
        found += cql_probe.probes(options.cql, clock, timeout_s)
        found += redis_probe.probes(redis.urls, redis.cluster, settings.redis.nodes, clock)
        found += kafka_probe.probes(options.kafka, clock)
    others = settings.collaborators
    wanted = {"content": others.content, "graph": others.graph, "ranking": others.ranking}
    if any(wanted.values()):
        from feedcore.adapters.collaborators import probe as collaborators_probe

        for name, addresses in wanted.items():
            found += collaborators_probe.probes(
                name, addresses, others.deadline_ms, clock, timeout_s
            )
    return found
