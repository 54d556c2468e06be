"""Engines that want TLS: a server over all three of them, and what doctor says of an authority that
has not signed their certificates. TLS ends at a proxy before each real engine.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from feedcore_pb.collaborators.v1 import graph_pb2
from feedcore_pb.v1 import admin_pb2, feed_pb2, publish_pb2
from tests.support.certificates import Authority
from tests.support.clusterengine import Addresses
from tests.support.clusterservers import ClusterConfig, config_beside
from tests.support.proxy import Proxy
from tests.support.server import ServerProcess, feedcore
from tests.support.services import Clusters, Services

# With `make test` one process has all clusters, and starts each once.
pytestmark = pytest.mark.xdist_group("clusters")

CALL_TIMEOUT_S = 20.0
WITHIN_S = 60.0
PROXY_PORTS = 10  # between a broker's listener for a proxy, and what it tells clients of it
AUTHOR, READER = 50, 1


class Wrapped(NamedTuple):
    """`plain` has the tables; `settings` lead to the same through TLS."""

    plain: ClusterConfig
    settings: dict[str, str]

    def flags(self, authority: Path) -> list[str]:
        values = self.settings | dict.fromkeys(
            ("cql.tls_ca", "redis.tls_ca", "kafka.tls_ca"), str(authority)
        )
        return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
async def wrapped(
    services: Services, cluster_of: Clusters, authority: Authority, tmp_path: Path
) -> AsyncIterator[Wrapped]:
    """All three behind TLS, on this loop."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("engine"))
    (broker,) = cluster_of("kafka", 1).nodes
    at = Addresses(services.address("cassandra"), services.address("redis"), broker.address)
    proxied = broker.ports["proxied"]
    async with AsyncExitStack() as stack:

        async def behind(address: str, listen_port: int = 0) -> str:
            host, _, port = address.rpartition(":")
            proxy = Proxy(host, int(port), listen_port, tls=context)
            return (await stack.enter_async_context(proxy)).address

        settings = {
            "cql.contact_points": await behind(at.cassandra),
            "redis.nodes": await behind(at.redis),
            "kafka.brokers": await behind(f"{broker.host}:{proxied}", proxied + PROXY_PORTS),
        }
        made = await stack.enter_async_context(config_beside(at, tmp_path))
        yield Wrapped(made, settings)


async def called(call: Any, request: Any) -> Any:
    return await asyncio.to_thread(call, request, timeout=CALL_TIMEOUT_S)


async def fanned_out(server: ServerProcess) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            status = await called(server.admin.GetStatus, admin_pb2.GetStatusRequest())
            if not any(lane.jobs for lane in status.lanes):
                return
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("driver", ["acsylla", "scylla-driver"])
async def test_a_server_works_over_tls(wrapped: Wrapped, authority: Authority, driver: str) -> None:
    flags = [*wrapped.flags(authority.certificate), "--set", f"cql.driver={driver}"]
    server = wrapped.plain.node(0, "all", *flags, wait=False)
    try:
        await asyncio.to_thread(server.wait_ready)
        follow = graph_pb2.FollowRequest(follower_id=READER, followee_id=AUTHOR)
        await called(server.graph.Follow, follow)
        post = publish_pb2.PublishRequest(author_id=AUTHOR, body="over TLS")
        made = (await called(server.publish.Publish, post)).content_id
        await fanned_out(server)
        asked = admin_pb2.ExplainRequest(user_id=READER, content_id=made)
        assert (await called(server.admin.Explain, asked)).delivered_by == "push", "through Kafka"
        page = await called(server.feed.GetFeed, feed_pb2.GetFeedRequest(user_id=READER))
        assert [item.content_id for item in page.items] == [made]
        assert not page.receipt.degraded, "Redis vouches for it"
    finally:
        await asyncio.to_thread(server.__exit__)


async def test_doctor_on_certificates(
    wrapped: Wrapped, authority: Authority, tmp_path: Path
) -> None:
    file = str(wrapped.plain.file)

    async def told(by: Authority) -> tuple[int, list[dict[str, str]]]:
        words = ("doctor", "--json", "--config", file, "--timeout", "20")
        flags = wrapped.flags(by.certificate)
        done = await asyncio.to_thread(feedcore, *words, *flags, check=False)
        return done.returncode, json.loads(done.stdout)["findings"]

    code, findings = await told(authority)
    assert code == 0, findings
    code, findings = await told(Authority(tmp_path / "others", "somebody-else"))
    refused = {one["engine"] for one in findings if "its certificate is refused" in one["detail"]}
    assert code == 1 and refused == {"cql", "redis", "kafka"}, findings
