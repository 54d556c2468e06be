"""What cannot be opened is refused by name, and nothing is changed."""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
import struct
import zlib
from pathlib import Path

import pytest

from feedcore import native
from feedcore.adapters.embedded import EmbeddedStore, schema
from feedcore.adapters.embedded import store as store_module
from feedcore.adapters.embedded.locks import FileLock
from feedcore.adapters.embedded.rebuild import rebuild
from feedcore.adapters.embedded.schema import SCHEMA_VERSION
from feedcore.clock import ManualClock
from feedcore.domain import ids
from feedcore.errors import StoreError
from feedcore.ports import Delivery
from tests.contract.engine import START_MS, entry_of


def hashes(folder: Path) -> dict[str, str]:
    """Every file's digest, by name; lock files are always empty."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A closed store with one run."""
    folder = tmp_path / "data"
    store = EmbeddedStore.open(folder, ManualClock(START_MS), writer_role=True, merge_thread=False)
    entry = entry_of(ids.make(START_MS, 0, 0, 1), 9)
    await store.feeds.deliver([Delivery(entry, native.pack_ids([1, 2]))])
    await store.merge_all()
    await store.close()
    return folder


def refused(folder: Path, match: str, **options: bool) -> None:
    """Opening raises StoreError with that text, and changes no file."""
    before = hashes(folder)
    with pytest.raises(StoreError, match=match):
        EmbeddedStore.open(folder, ManualClock(START_MS), **options)
    assert hashes(folder) == before


async def test_a_newer_store(data: Path) -> None:
    with sqlite3.connect(data / "store.db") as conn:
        conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    conn.close()
    refused(data, f"schema version {SCHEMA_VERSION + 1}, this program knows {SCHEMA_VERSION}")


async def test_a_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "store.db") as conn:
        conn.execute("CREATE TABLE theirs (x)")
    conn.close()
    refused(tmp_path, "belongs to another program")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"hello" * 100)
    refused(tmp_path, "not a store")


async def test_a_torn_database(data: Path) -> None:
    path = data / "store.db"
    path.write_bytes(path.read_bytes()[:8_192])
    refused(data, "corrupt")


async def test_a_database_whose_pages_are_scrambled(data: Path) -> None:
    path = data / "store.db"
    content = path.read_bytes()
    path.write_bytes(content[:100] + b"\xff" * (len(content) - 100))
    refused(data, "corrupt")


async def test_feeds_that_are_missing(data: Path) -> None:
    (data / "feeds").rename(data / "elsewhere")
    refused(data, "feedcore rebuild")


async def test_feeds_of_another_store(data: Path) -> None:
    (data / "feeds" / "FEEDS").write_bytes(b"00" * 16)
    refused(data, "feeds of another store")


async def test_feeds_without_a_store(data: Path) -> None:
    for path in data.glob("store.db*"):
        path.unlink()
    refused(data, "no store.db")


async def test_no_store_where_none_is_to_be_made(tmp_path: Path) -> None:
    refused(tmp_path, "no store", create=False)


async def test_a_directory_that_another_process_has_for_itself(data: Path) -> None:
    alone = EmbeddedStore.open(
        data, ManualClock(START_MS), writer_role=True, exclusive=True, merge_thread=False
    )
    refused(data, "being rebuilt or migrated")
    await alone.close()


async def test_a_directory_in_use_cannot_be_had_exclusively(data: Path) -> None:
    shared = EmbeddedStore.open(data, ManualClock(START_MS))
    refused(data, "in use by other processes", exclusive=True)
    await shared.close()


async def test_a_second_fan_out_process(data: Path) -> None:
    first = EmbeddedStore.open(data, ManualClock(START_MS), writer_role=True, merge_thread=False)
    refused(data, "fan-out process already", writer_role=True)
    await first.close()
    again = EmbeddedStore.open(data, ManualClock(START_MS), writer_role=True, merge_thread=False)
    await again.close()


async def test_a_run_that_is_gone_is_named_when_it_is_read(data: Path) -> None:
    for path in data.glob("feeds/*/*.run"):
        path.unlink()
    store = EmbeddedStore.open(data, ManualClock(START_MS))
    window = await store.feeds.window(1, b"", ids.ID_MAX, 0, 10)
    assert window.damaged.endswith("1.run is missing") and not any(window.sources)
    await store.close()


async def test_a_run_that_is_torn_is_named_when_it_is_read(data: Path) -> None:
    (path,) = data.glob("feeds/*/*.run")
    path.write_bytes(path.read_bytes()[:-4])
    store = EmbeddedStore.open(data, ManualClock(START_MS))
    window = await store.feeds.window(1, b"", ids.ID_MAX, 0, 10)
    assert "torn" in window.damaged and not any(window.sources)
    await store.close()


async def test_a_run_of_an_older_version_is_read_without_sums(data: Path) -> None:
    (path,) = data.glob("feeds/*/*.run")
    content = bytearray(path.read_bytes())
    header = struct.unpack_from("<8s16sQQQQII", content)
    index = content[-3 * 4 - 3 * 4 : -3 * 4]  # of two users: offsets; sums and a block are left out
    users = content[-3 * 4 - 3 * 4 - 16 : -3 * 4 - 3 * 4]
    tail = users + index
    entries = content[64:84]
    old = struct.pack("<8s16sQQQQII", b"FEEDRUN1", *header[1:5], 0, header[6], zlib.crc32(tail))
    path.write_bytes(old + entries + entries + tail)
    store = EmbeddedStore.open(data, ManualClock(START_MS), writer_role=True, merge_thread=False)
    window = await store.feeds.window(2, b"", ids.ID_MAX, 0, 10)
    assert window.sources == [entries] and not window.damaged
    assert store.merger is not None
    assert not store.merger.verify_some(1 << 20) and store.merger.set_aside == 0
    await store.close()


async def test_an_interrupted_rebuild_is_named(data: Path) -> None:
    alone = EmbeddedStore.open(
        data, ManualClock(START_MS), writer_role=True, exclusive=True, merge_thread=False
    )

    class Killed(Exception):
        """Stands for the end of the process."""

    def kill(items: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        await rebuild(alone, kill)
    await alone.close()
    refused(data, "rebuild was interrupted")


async def test_the_secret_and_the_data_stay(data: Path) -> None:
    one = EmbeddedStore.open(data, ManualClock(START_MS))
    two = EmbeddedStore.open(data, ManualClock(START_MS))
    assert one.secret == two.secret
    assert len(one.secret) == 32
    window = await two.feeds.window(1, b"", ids.ID_MAX, 0, 10)
    assert [len(source) for source in window.sources] == [20]
    await one.close()
    await two.close()


async def test_a_missing_or_torn_engagement_map_is_made_again(data: Path) -> None:
    (data / "engagement.map").write_bytes(b"torn")
    store = EmbeddedStore.open(data, ManualClock(START_MS))
    assert store.signals.engagement(entry_of(5, 9)) == b"\0\0\0\0"
    await store.close()


async def test_an_older_store_is_migrated_when_it_is_opened_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = (*schema.MIGRATIONS, "CREATE TABLE notes (text TEXT NOT NULL)")
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    for module in (schema, store_module):
        monkeypatch.setattr(module, "SCHEMA_VERSION", len(newer))
    # Somebody still serves with the old program: nothing is changed.
    other = FileLock(data / "store.lock")
    assert other.try_acquire(shared=True)
    before = hashes(data)
    with pytest.raises(StoreError, match="migrated; stop the other processes"):
        EmbeddedStore.open(data, ManualClock(START_MS))
    assert hashes(data) == before
    other.close()
    store = EmbeddedStore.open(data, ManualClock(START_MS), writer_role=True, merge_thread=False)
    assert schema.stored_version(data / "store.db") == len(newer)
    assert store.connection.execute("SELECT count(*) FROM notes").fetchone() == (0,)
    there = await store.feeds.delivered(1, ids.make(START_MS, 0, 0, 1))
    assert there, "what was there is still there"
    await store.close()


def written_before(folder: Path, *statements: str) -> None:
    """As a version left it that took ids of 64 bits and asked nothing."""
    with sqlite3.connect(folder / "store.db") as conn:
        conn.execute("DELETE FROM meta WHERE key NOT IN ('store_id', 'secret')")
        for statement in statements:
            conn.execute(statement)
    conn.close()


@pytest.mark.parametrize(
    "row",
    [
        "followees VALUES (-1, x'0900000000000000')",
        "authors (author_id, followers) VALUES (-1, 1)",
        "relations VALUES (1, 1, -1, 0, 0)",
        "viewers VALUES (-1, 5)",
    ],
)
async def test_ids_of_64_bits_are_refused_with_the_line_that_lists_them(
    data: Path, row: str
) -> None:
    written_before(data, f"INSERT INTO {row}")
    with pytest.raises(StoreError, match=str(2**64 - 1)) as refusal:
        EmbeddedStore.open(data, ManualClock(START_MS))
    command = re.search(r'\(sqlite3 (\S+) "(.*)"\)', str(refusal.value))
    assert command is not None
    with contextlib.closing(sqlite3.connect(command[1])) as conn:
        listed = [str(one[0]) for one in conn.execute(command[2])]
    assert listed == [str(2**64 - 1)]
    with pytest.raises(StoreError, match="ids are 1 to"):
        EmbeddedStore.open(data, ManualClock(START_MS))


async def test_a_store_without_them_is_asked_once(data: Path) -> None:
    written_before(data, f"INSERT INTO viewers VALUES ({2**63 - 1}, 5)")
    store = EmbeddedStore.open(data, ManualClock(START_MS))
    await store.close()
    with sqlite3.connect(data / "store.db") as conn:
        conn.execute("INSERT INTO viewers VALUES (-1, 5)")  # which nobody can do any more
    conn.close()
    store = EmbeddedStore.open(data, ManualClock(START_MS))
    await store.close()
