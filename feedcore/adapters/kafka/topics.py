"""Topics: made when they are missing, looked at when they are there.

A lane's topic keeps jobs as long as feeds keep items: an older job has nothing left to deliver.
Existing topics are never changed: what differs from the options is logged, since an operator may
have chosen it. Not for more partitions later: keys would move, and with them the order of a pair.
"""

from __future__ import annotations

import logging

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from feedcore.adapters.kafka.options import KafkaOptions
from feedcore.errors import StoreError, Unavailable
from feedcore.limits import DAY_MS, RETENTION_MS
from feedcore.ports import Lane

EVENTS_KEPT_MS = DAY_MS  # events are for systems that read along, not an archive
REQUEST_TIMEOUT_MS = 5_000
IN_SYNC_MIN = 2  # copies that have a job before it counts as queued, where there are three

log = logging.getLogger(__name__)


async def ensure_topics(options: KafkaOptions) -> None:
    """Makes the topics that are missing. Unavailable if no broker answers."""
    admin = AIOKafkaAdminClient(
        **options.connecting(),
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    try:
        await admin.start()
        await _ensure(admin, options)
    except (KafkaError, OSError) as error:
        raise Unavailable(f"{options.where}: {error!r}") from error
    finally:
        await admin.close()


async def _ensure(admin: AIOKafkaAdminClient, options: KafkaOptions) -> None:
    brokers = len((await admin.describe_cluster())["brokers"])
    replication = min(options.replication, max(brokers, 1))
    kept_ms = {options.topic(lane): RETENTION_MS for lane in Lane}
    kept_ms[options.events] = EVENTS_KEPT_MS
    there = set(await admin.list_topics())
    missing = [
        NewTopic(
            name=name,
            num_partitions=options.partitions,
            replication_factor=replication,
            topic_configs={
                "retention.ms": str(ms),
                "min.insync.replicas": str(IN_SYNC_MIN if replication > IN_SYNC_MIN else 1),
                "unclean.leader.election.enable": "false",
            },
        )
        for name, ms in kept_ms.items()
        if name not in there
    ]
    if missing:
        response = (await admin.create_topics(missing)).to_object()
        for topic in response["topic_errors"]:
            error = for_code(topic["error_code"])
            if topic["error_code"] and error is not TopicAlreadyExistsError:
                raise StoreError(f"topic {topic['topic']}: {error.__name__}")
        log.info("made topics %s", ", ".join(topic.name for topic in missing))
    _check(await admin.describe_topics(list(kept_ms)), options, replication)


def _check(described: list[dict], options: KafkaOptions, replication: int) -> None:
    for topic in described:
        partitions = topic["partitions"]
        if len(partitions) != options.partitions and partitions:
            log.warning(
                "topic %s has %d partitions, the settings say %d; it stays as it is",
                topic["topic"],
                len(partitions),
                options.partitions,
            )
        copies = min((len(one["replicas"]) for one in partitions), default=replication)
        if copies < replication:
            log.warning(
                "topic %s has %d copies, with these brokers it could have %d",
                topic["topic"],
                copies,
                replication,
            )
