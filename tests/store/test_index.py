"""The index: whole before others see it, built anew when damaged, never inherited by a child."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from store.workload import IDENTITY, WHO, count_wrong, digests_of, value_of

from sae_features.errors import SAEFeaturesWarning, StoreError
from sae_features.store import index
from sae_features.store.disk import DiskStore
from sae_features.store.tables import transaction

DIGESTS = digests_of(20)


@pytest.fixture
def store(tmp_path):
    store = DiskStore(tmp_path / "store")
    put(store, DIGESTS)
    yield store
    store.close()


def put(store, digests):
    store.put_many(IDENTITY, {digest: value_of(digest) for digest in digests}, WHO)


def asides(store):
    return sorted(path.name for path in store.folder.glob("index.sqlite.damaged-*"))


@pytest.mark.parametrize(
    "garbage",
    [b"", b"garbage", bytes(8192), b"SQLite format 3\x00" + bytes(8192)],
    ids=["empty", "short", "zeros", "header"],
)
def test_garbage_is_set_aside_and_the_index_built_of_the_shards(store, garbage):
    store.close()
    store.index.path.write_bytes(garbage)
    with pytest.warns(SAEFeaturesWarning) as told:
        found = store.get_many(IDENTITY, DIGESTS)
    assert set(found) == set(DIGESTS)
    assert count_wrong(found) == 0
    (aside,) = asides(store)
    assert (store.folder / aside).read_bytes() == garbage
    assert str(told[0].message) == (
        f"The index {store.index.path} was damaged; it was set aside as {aside} and built anew from the "
        "shards. Nothing needs to be done."
    )
    assert store.stats()["identities"][0]["who"] == {"model": "fake"}
    put(store, digests_of(3, "more"))
    assert store.stats()["items"] == 23


def test_damage_that_shows_while_in_use(store):
    other = DiskStore(store.folder)
    assert len(other.get_many(IDENTITY, DIGESTS)) == 20
    store.index.run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    size = store.index.path.stat().st_size
    with store.index.path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    store.close()
    with pytest.warns(SAEFeaturesWarning, match="built anew"):
        found = DiskStore(store.folder).get_many(IDENTITY, DIGESTS)
    assert count_wrong(found) == 0
    assert len(found) == 20
    put(other, digests_of(3, "more"))  # has noticed that its file is another one
    assert len(other.get_many(IDENTITY, DIGESTS)) == 20
    assert store.stats()["items"] == 23
    assert len(asides(store)) == 1
    other.close()


def test_several_that_find_the_same_damage_set_it_aside_once(store):
    store.close()
    store.index.path.write_bytes(b"garbage" * 1000)

    def get(_):
        mine = DiskStore(store.folder)
        found = mine.get_many(IDENTITY, DIGESTS)
        mine.close()
        return len(found)

    with pytest.warns(SAEFeaturesWarning) as told, ThreadPoolExecutor(6) as pool:
        assert list(pool.map(get, range(6))) == [20] * 6
    assert len(told) == len(asides(store)) == 1


def test_a_removed_index_is_built_of_the_shards_and_meets_no_log_of_another(store):
    old = DiskStore(store.folder)
    old.get_many(IDENTITY, DIGESTS)
    store.close()
    store.index.path.unlink()  # the log stays, of an index that is no more
    found = store.get_many(IDENTITY, DIGESTS)
    assert count_wrong(found) == 0
    assert len(found) == 20
    old.get_many(IDENTITY, DIGESTS)
    put(store, digests_of(3, "more"))
    assert old.stats()["items"] == 23
    old.close()
    assert store.stats()["items"] == 23


def test_a_damaged_shard_does_not_stop_the_building(store):
    put(store, digests_of(3, "more"))
    store.close()
    paths = sorted(store.folder.glob("shards/*/*"))
    paths[0].write_bytes(b"garbage")
    store.index.path.unlink()
    assert store.stats()["shards"] == 1
    assert store.verify()["orphans"] == 1
    assert not paths[0].exists()


def test_a_newer_schema_is_an_error_that_says_what_to_do(store):
    store.index.run(lambda db: db.execute("PRAGMA user_version = 7").fetchall())
    store.close()
    with pytest.raises(StoreError) as told:
        store.get_many(IDENTITY, DIGESTS)
    assert str(told.value) == (
        f"The store {store.folder} has schema 7; this version of sae-features reads schema 1. Upgrade "
        "sae-features, or name another folder."
    )
    assert isinstance(told.value, RuntimeError)
    assert asides(store) == []


def test_a_database_of_another_program_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        db.execute("CREATE TABLE songs (title TEXT)")
    db.close()
    before = (tmp_path / "index.sqlite").read_bytes()
    with pytest.raises(StoreError, match=r"is a database of another program \(tables songs\)"):
        DiskStore(tmp_path).get_many(IDENTITY, DIGESTS)
    assert (tmp_path / "index.sqlite").read_bytes() == before


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "file_system_of", lambda folder: "nfs4")
    store = DiskStore(tmp_path / "store")
    for call in (
        lambda: store.get_many(IDENTITY, DIGESTS),
        lambda: put(store, DIGESTS),
        lambda: store.claim("run", DIGESTS),
    ):
        with pytest.raises(StoreError) as told:
            call()
    assert str(told.value) == (
        f"The folder {store.folder} lies on a network file system (nfs4), where SQLite's write-ahead "
        "log does not work and processes could not share it. Name a folder on a local disk, or use "
        "cache=None, which keeps values in memory."
    )
    assert not store.folder.exists()


def test_the_log_does_not_grow_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "WAL_BYTES", 2**16)
    store = DiskStore(tmp_path / "store")
    for i in range(40):
        put(store, digests_of(400, f"{i} "))
    log = store.index.path.with_name("index.sqlite-wal")
    assert log.stat().st_size < 8 * 2**20
    store.index.run(lambda db: db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall())
    put(store, digests_of(1, "last"))
    assert log.stat().st_size <= 2**16
    store.close()
    assert not log.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_no_connection_is_inherited(store):
    assert store.index._db is not None
    end = threading.Event()

    def keep_busy():
        while not end.is_set():
            store.get_many(IDENTITY, DIGESTS)
            store.release("run", store.claim("run", DIGESTS))

    threads = [threading.Thread(target=keep_busy) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for i in range(20):
            child = os.fork()
            if child == 0:
                is_clean = store.index._db is None
                put(store, digests_of(2, f"child {i} "))
                os._exit(not (is_clean and len(store.get_many(IDENTITY, DIGESTS)) == 20))
            assert os.waitpid(child, 0)[1] == 0
    finally:
        end.set()
        for thread in threads:
            thread.join()
    assert store.stats()["items"] == 60
    assert store.index.run(lambda db: db.execute("PRAGMA integrity_check").fetchone()) == ("ok",)


def test_a_child_that_ends_does_not_take_the_lock_of_its_parent(store):
    """The locks of POSIX go when any handle of a process is closed; a child's are its own."""
    child = os.fork()
    if child == 0:
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    put(store, digests_of(2, "after"))
    assert store.stats()["items"] == 22


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, sqlite3.OperationalError])
def test_a_transaction_that_fails_is_rolled_back_at_once(store, error):
    def fail(db):
        with transaction(db):
            db.execute("DELETE FROM items")
            raise error

    with pytest.raises(error):
        store.index.run(fail)
    assert not store.index._db.in_transaction  # or all others would wait for this process
    assert store.stats()["items"] == 20


def test_an_index_that_ends_in_another_thread_leaves_no_lock_behind(store):
    """Its thread may be gone when a fork, which takes all locks, still finds it."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.index.__del__).result()
    assert store.index.lock.acquire(timeout=5)
    store.index.lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_stores_that_come_and_go_in_threads_do_not_stop_a_fork(tmp_path):
    end = threading.Event()

    def come_and_go(number):
        while not end.is_set():
            put(DiskStore(tmp_path / str(number)), digests_of(1))

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            child = os.fork()
            if child == 0:
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        end.set()
        for thread in threads:
            thread.join()
