"""scripts/services with the real engines: up, asked, killed, up again with what they had
acknowledged, down.

Redis always; the Java engines, whose starts take half a minute for three nodes, in long runs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from scripts.services_lib import ports
from scripts.services_lib.state import load, process_started
from scripts.services_lib.wire import resp
from scripts.services_lib.wire.cql import QUORUM, Session
from scripts.services_lib.wire.kafka import Broker
from scripts.services_lib.wire.sockets import Connection, WireError
from tests.support.proxy import Proxy
from tests.support.services import Clusters, Engine, Services, bring_up, command, run

ROWS = 200
# What a cluster may take to see that a node is gone or back, on a busy machine.
NOTICED_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Whatever a test leaves running there is ended."""
    yield tmp_path
    run(tmp_path, "stop")


def ask(address: str, *words: str) -> resp.Answer:
    host, port = address.rsplit(":", 1)
    with Connection(host, int(port)) as connection:
        return resp.command(connection, *words)


def eventually(engine: Engine, code: int) -> None:
    """Waits until `check` ends with this code."""
    until = time.monotonic() + NOTICED_S
    while (done := run(engine.folder, "check")).returncode != code:
        assert time.monotonic() < until, f"check: {done.returncode}: {done.stdout}{done.stderr}"
        time.sleep(0.2)


@pytest.mark.parametrize("count", [1, 3])
def test_redis_is_up_when_start_returns_and_gone_after_stop(folder: Path, count: int) -> None:
    redis = bring_up(folder, "redis", count)
    assert len(set(redis.addresses)) == count
    assert all(ask(address, "PING") == b"PONG" for address in redis.addresses)
    assert run(folder, "status").returncode == 0
    assert run(folder, "check").stdout.split() == ["redis", "ok"]
    said = command(folder, "env").splitlines()
    assert f"FEEDCORE_TEST_REDIS={','.join(redis.addresses)}" in said
    pids = [redis.pid(index) for index in range(1, count + 1)]
    assert "stopped" in command(folder, "stop")
    assert all(process_started(pid) is None for pid in pids)
    assert run(folder, "status").returncode == 1
    with pytest.raises(ConnectionRefusedError):
        ask(redis.address, "PING")


def test_data_stay_until_they_are_wiped(folder: Path) -> None:
    redis = bring_up(folder, "redis", 1)
    ask(redis.address, "SET", "kept", "1")
    command(folder, "stop")
    command(folder, "start", "--only", "redis")
    assert ask(redis.address, "GET", "kept") == b"1"
    command(folder, "start", "--only", "redis", "--wipe")
    assert ask(redis.address, "GET", "kept") is None
    command(folder, "stop", "--wipe")
    assert not (folder / "redis-1").exists()
    assert load(folder) is None


def test_a_second_start_changes_nothing_that_runs(folder: Path) -> None:
    redis = bring_up(folder, "redis", 1)
    before = redis.pid(1)
    command(folder, "start", "--only", "redis")
    assert redis.pid(1) == before
    refused = run(folder, "start", "--only", "redis", "--redis", "3")
    assert refused.returncode == 1
    assert "--wipe" in refused.stderr


def test_a_killed_node_is_down_until_it_is_started_again(folder: Path) -> None:
    redis = bring_up(folder, "redis", 3)
    served = {node.name: slots(node.address) for node in redis.nodes}
    ask(redis.addresses[1], "SET", key_on(redis.addresses[1]), "acknowledged")
    redis.kill("redis-2")
    assert run(folder, "status").returncode == 1
    assert "redis-2" in run(folder, "check").stdout
    redis.restart(2)
    eventually(redis, 0)
    assert {node.name: slots(node.address) for node in redis.nodes} == served
    assert ask(redis.addresses[1], "GET", key_on(redis.addresses[1])) == b"acknowledged"


def slots(address: str) -> list[str]:
    """The node's own slots."""
    said = ask(address, "CLUSTER", "NODES")
    assert isinstance(said, bytes)
    own = next(line for line in said.decode().splitlines() if "myself" in line)
    return own.split()[8:]


def key_on(address: str) -> str:
    first, last = (int(part) for part in slots(address)[0].split("-"))
    keys = (f"key:{number}" for number in range(10_000))
    return next(
        key for key in keys if first <= int(str(ask(address, "CLUSTER", "KEYSLOT", key))) <= last
    )


def test_a_paused_node_is_silent_and_stops_all_the_same(folder: Path) -> None:
    redis = bring_up(folder, "redis", 1)
    host, port = redis.address.split(":")
    redis.pause(1)
    with pytest.raises(TimeoutError), Connection(host, int(port), timeout_s=0.3) as connection:
        resp.command(connection, "PING")
    redis.resume(1)
    assert ask(redis.address, "PING") == b"PONG"
    redis.pause(1)
    command(folder, "stop")
    assert not redis.nodes[0].alive()


def test_a_pid_of_another_process_is_not_the_node(folder: Path) -> None:
    redis = bring_up(folder, "redis", 1)
    state = load(folder)
    assert state is not None
    redis.kill(1)
    state.nodes["redis-1"].pid = os.getpid()
    state.save()
    assert run(folder, "status").returncode == 1
    command(folder, "stop")


def test_folders_do_not_clash(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    redis = bring_up(folder, "redis", 1)
    base = load(folder).base_port  # type: ignore[union-attr]
    other = tmp_path_factory.mktemp("other")
    taken = run(other, "start", "--only", "redis", "--base-port", str(base))
    assert taken.returncode == 1
    assert "--base-port" in taken.stderr
    moved = run(folder, "start", "--only", "redis", "--base-port", str(base + ports.SPAN))
    assert "--wipe" in moved.stderr
    second = bring_up(other, "redis", 1)
    assert second.address != redis.address
    command(other, "stop")


def test_a_start_that_fails_shows_the_log(folder: Path) -> None:
    redis = bring_up(folder, "redis", 1)
    command(folder, "stop")
    appended = next(Path(redis.nodes[0].data_dir).glob("appendonlydir/*.manifest"))
    appended.write_text("nonsense\n", encoding="utf-8")
    failed = run(folder, "start", "--only", "redis")
    assert failed.returncode == 1
    assert "manifest" in failed.stderr
    assert redis.nodes[0].log in failed.stderr


def test_what_is_missing_is_said_and_has_an_exit_code_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    done = run(folder, "start", "--only", "redis")
    assert done.returncode == 3
    assert "apt-get install redis-server" in done.stderr


async def test_a_proxy_delays_hangs_refuses_and_drops(services: Services) -> None:
    host, port = services.redis.address.split(":")
    async with Proxy(host, int(port)) as proxy:
        assert await pinged(proxy) < 0.2
        proxy.slow(0.25)
        assert await pinged(proxy) >= 0.5
        proxy.slow(0.0)
        proxy.pause()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await pinged(proxy)
        proxy.resume()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"+PONG\r\n"
        assert proxy.connections >= 1
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        proxy.refusing = True
        with pytest.raises(ConnectionResetError):
            await pinged(proxy)
        assert proxy.accepted == 5
    with pytest.raises(ConnectionRefusedError):
        await pinged(proxy)


async def pinged(proxy: Proxy) -> float:
    """Seconds that one PING takes on a new connection."""
    began = asyncio.get_running_loop().time()
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        writer.write(b"PING\r\n")
        await reader.readexactly(len(b"+PONG\r\n"))
    finally:
        writer.close()
    return asyncio.get_running_loop().time() - began


@pytest.mark.long
def test_cassandra_keeps_what_it_acknowledged_through_kill_9(services: Services) -> None:
    """One node, so that no replica hides what its commit log lost."""
    cassandra = services.cassandra
    session = cql(cassandra, 1)
    make_table(session, "kept_one", 1)
    for number in range(ROWS):
        session.query(f"INSERT INTO kept_one.rows (number) VALUES ({number})")
    cassandra.kill(1)
    cassandra.restart(1)
    session = cql(cassandra, 1)
    assert len(session.query("SELECT number FROM kept_one.rows")) == ROWS
    session.query("DROP KEYSPACE kept_one")


@pytest.mark.long
def test_cassandra_of_three_serves_quorums_with_one_killed(cluster_of: Clusters) -> None:
    cassandra = cluster_of("cassandra", 3)
    assert [node.host for node in cassandra.nodes] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    make_table(cql(cassandra, 1), "kept_three", 3)
    cassandra.kill(3)
    assert run(cassandra.folder, "status").returncode == 1
    written = cql(cassandra, 1)
    for number in range(ROWS):
        insert_until_taken(written, number)
    cassandra.restart(3)
    eventually(cassandra, 0)
    # From the node that was away: hints, or the other replicas, have what it missed.
    rows = cql(cassandra, 3).query("SELECT number FROM kept_three.rows", QUORUM)
    assert len(rows) == ROWS
    cql(cassandra, 1).query("DROP KEYSPACE kept_three")


def cql(cassandra: Engine, which: int) -> Session:
    node = cassandra.node(which)
    return Session(Connection(node.host, node.ports["client"], timeout_s=30.0))


def make_table(session: Session, keyspace: str, replicas: int) -> None:
    session.query(f"DROP KEYSPACE IF EXISTS {keyspace}")
    session.query(
        f"CREATE KEYSPACE {keyspace} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', 'datacenter1': {replicas}}}"
    )
    session.query(f"CREATE TABLE {keyspace}.rows (number int PRIMARY KEY)")


def insert_until_taken(session: Session, number: int) -> None:
    """A write may time out while the dead node still counts as alive."""
    until = time.monotonic() + NOTICED_S
    while True:
        try:
            session.query(f"INSERT INTO kept_three.rows (number) VALUES ({number})", QUORUM)
        except WireError:
            assert time.monotonic() < until
        else:
            return


@pytest.mark.long
def test_kafka_of_three_writes_with_one_killed_and_all_again_after(cluster_of: Clusters) -> None:
    kafka = cluster_of("kafka", 3)
    topic = f"killed-{time.time_ns()}"
    with broker(kafka, 1) as connection:
        Broker(connection).create_topic(topic, 1, 3)
    leader = leader_of(kafka, topic, among=(1, 2, 3))
    first = produce(kafka, topic, leader, b"before")
    kafka.kill(leader)
    others = tuple({1, 2, 3} - {leader})
    second = produce(kafka, topic, leader_of(kafka, topic, among=others), b"meanwhile")
    assert second > first
    kafka.restart(leader)
    eventually(kafka, 0)
    at = leader_of(kafka, topic, among=others)
    with broker(kafka, at) as connection:
        read = Broker(connection).fetch(topic, 0, first)
    assert b"before" in read
    assert b"meanwhile" in read


def broker(kafka: Engine, which: int) -> Connection:
    node = kafka.node(which)
    return Connection(node.host, node.ports["client"], timeout_s=30.0)


def leader_of(kafka: Engine, topic: str, among: tuple[int, ...]) -> int:
    """Waits for one of these to lead the topic's partition."""
    until = time.monotonic() + NOTICED_S
    while True:
        with broker(kafka, among[0]) as connection:
            partition = Broker(connection).metadata(topic).partitions.get(0)
        if partition is not None and partition.leader in among:
            return partition.leader
        assert time.monotonic() < until, f"{topic}: {partition}"
        time.sleep(0.2)


def produce(kafka: Engine, topic: str, leader: int, value: bytes) -> int:
    """Until it is acknowledged: a leader that is new may first have to shrink the set in sync."""
    until = time.monotonic() + NOTICED_S
    while True:
        try:
            with broker(kafka, leader) as connection:
                return Broker(connection).produce(topic, 0, value)
        except WireError:
            assert time.monotonic() < until
            time.sleep(0.2)


@pytest.mark.long
async def test_kafka_is_reached_through_a_proxy_alone(services: Services) -> None:
    node = services.kafka.nodes[0]
    proxied = node.ports["proxied"]
    async with Proxy(node.host, proxied, listen_port=proxied + 10) as proxy:
        found = await asyncio.to_thread(metadata_at, proxy.port)
    # What clients learn is the proxy's port again.
    assert found == {1: ("127.0.0.1", proxy.port)}


def metadata_at(port: int) -> dict[int, tuple[str, int]]:
    with Connection("127.0.0.1", port) as connection:
        return Broker(connection).metadata().brokers


@pytest.mark.parametrize(
    "kind",
    ["redis", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("kafka", "cassandra"))],
)
def test_it_listens_on_loopback_only(services: Services, kind: str) -> None:
    node = services.engine(kind).nodes[0]
    sockets = psutil.Process(node.pid).net_connections("inet")
    listening = {one.laddr.ip: one.laddr.port for one in sockets if one.status == "LISTEN"}
    assert listening.keys() == {"127.0.0.1"}


def test_signals_reach_the_whole_group(folder: Path) -> None:
    redis = bring_up(folder, "redis", 1)
    assert os.getpgid(redis.pid(1)) == redis.pid(1) != os.getpgid(0)
    os.killpg(redis.pid(1), signal.SIGKILL)
    redis.kill(1)
    assert not redis.nodes[0].alive()


def test_an_address_of_the_environment_is_used_as_it_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEEDCORE_TEST_KAFKA", "127.0.0.1:9")
    monkeypatch.delenv("FEEDCORE_TEST_REDIS", raising=False)
    assert Services(folder).address("kafka") == "127.0.0.1:9"
    assert Services(folder).address("redis") == Engine(folder, "redis").address


def test_a_cluster_is_whole_again_for_the_next_test(cluster_of: Clusters) -> None:
    redis = cluster_of("redis", 3)
    pids = [redis.pid(index) for index in (1, 2, 3)]
    redis.kill(1)
    redis.pause(3)
    again = cluster_of("redis", 3)
    assert again.folder == redis.folder
    assert [again.pid(2), again.pid(3)] == pids[1:]
    assert again.pid(1) != pids[0]
    assert run(again.folder, "check").returncode == 0
