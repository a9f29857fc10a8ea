"""The store on disk: values by content, shared, bounded; what cannot be kept is told of."""

from __future__ import annotations

import os
import sqlite3
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.test_codec import VALUES
from store.workload import IDENTITY, WHO, count_wrong, digests_of, is_same, value_of

from sae_features.errors import SAEFeaturesWarning, StoreError
from sae_features.pooled import PooledItem
from sae_features.store import disk, index
from sae_features.store.disk import DiskStore

DIGESTS = digests_of(30)
OTHER = "0" * 64


@pytest.fixture
def store(tmp_path):
    store = DiskStore(tmp_path / "store")
    yield store
    store.close()


def values_of(digests):
    return {digest: value_of(digest) for digest in digests}


def shards(store):
    return sorted(store.folder.glob("shards/??/*.safetensors"))


def test_values_are_found_by_identity_and_digest(store):
    values = values_of(DIGESTS)
    store.put_many(IDENTITY, values, WHO)
    asked = [*DIGESTS[5:9], b"missing", *DIGESTS[5:7]]
    found = store.get_many(IDENTITY, asked)
    assert set(found) == set(DIGESTS[5:9]) == store.has_many(IDENTITY, asked)
    assert count_wrong(found) == 0
    assert store.get_many(OTHER, DIGESTS) == {} == store.get_many(IDENTITY, [])
    assert store.has_many(OTHER, DIGESTS) == set() == store.has_many(IDENTITY, [])


def test_more_digests_than_a_statement_may_have(store):
    digests = digests_of(2500)
    states = PooledItem(np.ones((4, 2), np.float32), 3)
    store.put_many(IDENTITY, dict.fromkeys(digests, states), WHO)
    assert set(store.get_many(IDENTITY, digests)) == store.has_many(IDENTITY, digests) == set(digests)
    assert store.claim("run", digests) == digests
    store.release("run", digests)
    assert store.stats()["claims"] == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(VALUES, max_size=5))
def test_values_of_all_kinds_in_one_put(store, values):
    store.clear()
    keyed = dict(zip(DIGESTS, values, strict=False))
    store.put_many(IDENTITY, keyed, WHO)
    found = store.get_many(IDENTITY, DIGESTS)
    assert set(found) == set(keyed)
    assert all(is_same(found[digest], value) for digest, value in keyed.items())


def test_the_first_value_stays(store):
    first, second = (PooledItem(np.full((4, 2), i, np.float32), i) for i in (1, 2))
    store.put_many(IDENTITY, {DIGESTS[0]: first}, WHO)
    store.put_many(IDENTITY, {DIGESTS[0]: second, DIGESTS[1]: second}, WHO)
    found = store.get_many(IDENTITY, DIGESTS)
    assert is_same(found[DIGESTS[0]], first)
    assert is_same(found[DIGESTS[1]], second)


def test_the_first_of_two_that_put_at_the_same_time_stays(store, monkeypatch):
    first, second = (PooledItem(np.full((4, 2), i, np.float32), i) for i in (1, 2))
    monkeypatch.setattr(disk, "present_of", lambda *_: set())  # as neither sees the other's
    store.put_many(IDENTITY, {DIGESTS[0]: first}, WHO)
    store.put_many(IDENTITY, {DIGESTS[0]: second}, WHO)
    assert is_same(store.get_many(IDENTITY, DIGESTS)[DIGESTS[0]], first)
    assert len(shards(store)) == store.stats()["shards"] == 1


def test_digests_must_be_digests(store):
    with pytest.raises(ValueError, match="A digest must have 32 bytes"):
        store.put_many(IDENTITY, {b"short": value_of(DIGESTS[0])}, WHO)
    with pytest.raises(TypeError, match="of type str; expected codes or pooled states"):
        store.put_many(IDENTITY, {DIGESTS[0]: "text"}, WHO)


def test_another_object_sees_what_was_put(store):
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    other = DiskStore(store.folder)
    assert set(other.get_many(IDENTITY, DIGESTS)) == set(DIGESTS)
    store.clear()
    assert other.get_many(IDENTITY, DIGESTS) == {}
    other.close()


def test_large_puts_become_several_shards(store, monkeypatch):
    monkeypatch.setattr(disk, "SHARD_BYTES", 600)
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert 3 < len(shards(store)) < len(DIGESTS)
    assert count_wrong(store.get_many(IDENTITY, DIGESTS)) == 0


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o277])
def test_all_is_private_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        store = DiskStore(tmp_path / "store")
        store.put_many(IDENTITY, values_of(DIGESTS), WHO)
        store.claim("run", DIGESTS)
        places = [store.folder, *store.folder.rglob("*")]
        modes = {place.name: stat.S_IMODE(place.lstat().st_mode) for place in places}
        store.close()
    finally:
        os.umask(before)
    assert len(places) > 5
    assert modes == {
        place.name: 0o700 if place.is_dir() else 0o600 for place in places if place.exists()
    } | {name: 0o600 for name in modes if name.startswith("index.sqlite")}


def test_the_folder_stays_where_it_was_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = DiskStore(Path("store"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert (tmp_path / "store" / "index.sqlite").exists()
    store.close()


def test_names_that_mean_something_in_addresses(tmp_path):
    store = DiskStore(tmp_path / "a b?mode=ro#c%20ä")
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert len(store.get_many(IDENTITY, DIGESTS)) == len(DIGESTS)
    assert (store.folder / "index.sqlite").exists()
    store.close()


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    states = {d: PooledItem(np.zeros((4, 1000), np.float32), 1) for d in DIGESTS}
    store = DiskStore(tmp_path / "store", max_bytes=70_000)  # four of them
    for digest in DIGESTS[:4]:
        store.put_many(IDENTITY, {digest: states[digest]}, WHO)
    store.get_many(IDENTITY, DIGESTS[:1])
    store.put_many(IDENTITY, {DIGESTS[4]: states[DIGESTS[4]]}, WHO)
    assert store.has_many(IDENTITY, DIGESTS) == {DIGESTS[i] for i in (0, 2, 3, 4)}
    store.put_many(IDENTITY, {d: states[d] for d in DIGESTS[5:8]}, WHO)
    assert (
        store.has_many(IDENTITY, DIGESTS) == {DIGESTS[i] for i in (0, 5, 6, 7)}
        or len(store.has_many(IDENTITY, DIGESTS)) == 4
    )
    assert sum(path.stat().st_size for path in shards(store)) == store.stats()["bytes"] <= 70_000
    store.close()


def test_a_value_larger_than_the_store_is_told_of_and_not_kept(tmp_path):
    store = DiskStore(tmp_path / "store", max_bytes=5000)
    large = {d: PooledItem(np.zeros((4, 1000), np.float32), 1) for d in DIGESTS[:2]}
    small = {d: PooledItem(np.zeros((4, 1), np.float32), 1) for d in DIGESTS[2:4]}
    with pytest.warns(SAEFeaturesWarning, match="the store may hold 5,000 bytes.*Make room"):
        store.put_many(IDENTITY, large | small, WHO)
    store.put_many(IDENTITY, large, WHO)  # once is enough
    assert store.has_many(IDENTITY, DIGESTS) == set(small)
    store.close()


def test_no_space_is_told_of_once_and_nothing_is_left(store, monkeypatch):
    store.put_many(IDENTITY, values_of(DIGESTS[:3]), WHO)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "write_whole", full)
    with pytest.warns(SAEFeaturesWarning) as told:
        store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert str(told[0].message) == (
        f"Values could not be kept in {store.folder}: No space left on device. They are used now and "
        "computed again another time. Make room there, or name another folder as the cache."
    )
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    monkeypatch.undo()
    assert store.has_many(IDENTITY, DIGESTS) == set(DIGESTS[:3])
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert store.has_many(IDENTITY, DIGESTS) == set(DIGESTS)


def test_an_index_without_space_leaves_no_shard(store):
    store.put_many(IDENTITY, values_of(DIGESTS[:3]), WHO)
    pages = store.index.run(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    store.index.run(lambda db: db.execute(f"PRAGMA max_page_count = {pages}").fetchall())
    many = {d: PooledItem(np.zeros((4, 1), np.float32), 1) for d in digests_of(3000, "more")}
    with pytest.warns(SAEFeaturesWarning, match="database or disk is full"):
        store.put_many(IDENTITY, many, WHO)
    assert len(shards(store)) == 1
    assert store.claim("run", list(many)) == list(many)  # it goes on without claims
    store.release("run", list(many))
    assert count_wrong(store.get_many(IDENTITY, DIGESTS)) == 0


def test_a_busy_index_is_told_of(store, monkeypatch):
    monkeypatch.setattr(index, "BUSY_SECONDS", 0.05)
    store.put_many(IDENTITY, values_of(DIGESTS[:3]), WHO)
    with sqlite3.connect(store.index.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.warns(SAEFeaturesWarning, match="database is locked"):
            store.put_many(IDENTITY, values_of(DIGESTS), WHO)
        assert len(store.get_many(IDENTITY, DIGESTS)) == 3  # readers are not stopped
        assert store.claim("run", DIGESTS[5:]) == DIGESTS[5:]
        other.execute("ROLLBACK")
    other.close()
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert store.has_many(IDENTITY, DIGESTS) == set(DIGESTS)


def test_an_interrupted_transaction_is_not_left_open(store):
    store.put_many(IDENTITY, values_of(DIGESTS[:3]), WHO)

    def interrupted(db):
        db.execute("BEGIN IMMEDIATE")
        db.execute("DELETE FROM items")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.index.run(interrupted)
    assert len(store.get_many(IDENTITY, DIGESTS)) == 3
    store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert store.has_many(IDENTITY, DIGESTS) == set(DIGESTS)


def test_a_damaged_value_is_told_of_and_computed_again(store):
    store.put_many(IDENTITY, values_of(DIGESTS[:10]), WHO)
    (path,) = shards(store)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1  # one of the last columns: of few items
    path.write_bytes(data)
    with pytest.warns(SAEFeaturesWarning) as told:
        found = store.get_many(IDENTITY, DIGESTS[:10])
    lost = set(DIGESTS[:10]) - set(found)
    assert 0 < len(lost) < 10
    assert str(told[0].message) == (
        f"{len(lost)} of 10 values in {path} were damaged or missing and are computed again."
    )
    assert len(told) == 1
    assert count_wrong(found) == 0
    assert store.has_many(IDENTITY, DIGESTS) == set(found)
    assert set(store.get_many(IDENTITY, DIGESTS)) == set(found)  # and told no more
    store.put_many(IDENTITY, values_of(lost), WHO)
    assert count_wrong(store.get_many(IDENTITY, DIGESTS)) == 0


def test_a_shard_of_another_identity_in_its_place(store):
    store.put_many(IDENTITY, values_of(DIGESTS[:10]), WHO)
    (mine,) = shards(store)
    store.put_many(OTHER, {d: value_of(d, OTHER) for d in DIGESTS[:10]}, WHO)
    (other,) = set(shards(store)) - {mine}
    mine.write_bytes(other.read_bytes())
    with pytest.warns(SAEFeaturesWarning, match="10 of 10 values"):
        assert store.get_many(IDENTITY, DIGESTS) == {}
    assert not mine.exists()


def test_a_shard_that_went_while_it_was_read_is_not_damaged(store, monkeypatch):
    store.put_many(IDENTITY, values_of(DIGESTS[:10]), WHO)
    genuine = disk.places_of

    def then_evicted(db, identity, digests):
        places = genuine(db, identity, digests)
        store.clear()
        return places

    monkeypatch.setattr(disk, "places_of", then_evicted)
    assert store.get_many(IDENTITY, DIGESTS) == {}  # and no warning


def test_too_many_open_files_are_no_damage(store, monkeypatch):
    store.put_many(IDENTITY, values_of(DIGESTS[:10]), WHO)

    def none_left(*_, **__):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "read_shard", none_left)
        assert store.get_many(IDENTITY, DIGESTS) == {}
    assert len(store.get_many(IDENTITY, DIGESTS)) == 10


def test_a_temporary_store_is_not_made_again(tmp_path):
    store = DiskStore(tmp_path / "gone", temporary=True)
    assert store.get_many(IDENTITY, DIGESTS) == {}
    assert store.claim("run", DIGESTS) == DIGESTS
    store.release("run", DIGESTS)
    with pytest.warns(SAEFeaturesWarning, match="could not be kept"):
        store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert not store.folder.exists()


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    store = DiskStore(tmp_path / "file")
    with pytest.warns(SAEFeaturesWarning, match="Not a directory|File exists"):
        store.put_many(IDENTITY, values_of(DIGESTS), WHO)
    assert store.get_many(IDENTITY, DIGESTS) == {}
    with pytest.raises(StoreError, match="cannot be used.*name another folder"):
        store.stats()


def test_many_openers_at_once_make_one_index(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    def put(i):
        store = DiskStore(tmp_path / "store")
        store.put_many(IDENTITY, values_of(DIGESTS[i : i + 3]), WHO)
        store.close()

    with warnings.catch_warnings(), ThreadPoolExecutor(10) as pool:
        warnings.simplefilter("error")
        list(pool.map(put, range(0, 30, 3)))
    store = DiskStore(tmp_path / "store")
    assert store.has_many(IDENTITY, DIGESTS) == set(DIGESTS)
    assert {path.name for path in store.folder.iterdir()} <= {
        "index.sqlite", "index.sqlite-wal", "index.sqlite-shm", "shards",
    }  # fmt: skip
    store.close()
