"""Stores are counted, verified and cleared as a whole."""

from __future__ import annotations

import os

import pytest
from store.workload import IDENTITY, WHO, digests_of, value_of

from sae_features.errors import StoreError
from sae_features.store.disk import DiskStore
from sae_features.store.private import locked

DIGESTS = digests_of(20)
OTHER = "0" * 64


@pytest.fixture
def store(tmp_path):
    store = DiskStore(tmp_path / "store", max_bytes=10**7)
    for part in (DIGESTS[:10], DIGESTS[10:]):
        store.put_many(IDENTITY, {digest: value_of(digest) for digest in part}, WHO)
    store.put_many(OTHER, {digest: value_of(digest, OTHER) for digest in DIGESTS[:5]}, "no JSON")
    yield store
    store.close()


def shards(store):
    return sorted(store.folder.glob("shards/??/*"))


def test_stats(store):
    store.claim("run", DIGESTS[:3])
    sizes = sum(path.stat().st_size for path in shards(store))
    found = store.stats()
    identities = found.pop("identities")
    assert found == {
        "folder": str(store.folder),
        "schema": 1,
        "generation": 0,
        "items": 25,
        "shards": 3,
        "bytes": sizes,
        "max_bytes": 10**7,
        "claims": 3,
    }
    of_bytes = [row.pop("bytes") for row in identities]
    assert sum(of_bytes) == sizes
    assert identities == [
        {"identity": IDENTITY, "who": {"model": "fake"}, "kind": "codes", "items": 20, "shards": 2},
        {"identity": OTHER, "who": {}, "kind": "states", "items": 5, "shards": 1},
    ]
    store.release("run", DIGESTS)


def test_nothing_is_made_to_be_counted(tmp_path):
    store = DiskStore(tmp_path / "nothing")
    assert store.stats()["items"] == 0
    assert store.stats()["identities"] == []
    assert store.verify() == {"shards": 0, "items": 0, "damaged": 0, "missing_files": 0, "orphans": 0}
    assert store.clear() == {"items": 0, "shards": 0, "bytes": 0}
    assert not store.folder.exists()


def test_a_whole_store_is_verified(store):
    before = shards(store)
    assert store.verify() == {"shards": 3, "items": 25, "damaged": 0, "missing_files": 0, "orphans": 0}
    assert shards(store) == before


def test_what_is_damaged_missing_or_nobodys_is_removed(store):
    first = store.index.run(lambda db: db.execute("SELECT name FROM shards ORDER BY id").fetchall())
    paths = [store.path_of(name) for (name,) in first]
    data = bytearray(paths[0].read_bytes())
    data[-100] ^= 1
    paths[0].write_bytes(data)
    paths[2].unlink()
    orphan = paths[1].with_name("f" * 32 + ".safetensors")
    orphan.write_bytes(paths[1].read_bytes())
    draft = paths[1].with_name("e" * 32 + ".draft")
    draft.write_bytes(b"half")
    foreign = paths[1].with_name("notes.txt")
    foreign.write_text("not ours")
    found = store.verify()
    assert 0 < found["damaged"] < 10
    assert found == {
        "shards": 2,
        "items": 20 - found["damaged"],
        "damaged": found["damaged"],
        "missing_files": 1,
        "orphans": 2,
    }
    assert not orphan.exists()
    assert not draft.exists()
    assert foreign.exists()
    again = store.verify()
    assert again == {
        "shards": 2,
        "items": found["items"],
        "damaged": 0,
        "missing_files": 0,
        "orphans": 0,
    }
    assert store.stats()["items"] == found["items"]


def test_files_of_a_writer_are_not_taken_for_nobodys(store):
    orphan = store.folder / "shards" / "ff" / ("f" * 32 + ".safetensors")
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"about to be added")
    os.utime(orphan, (1, 1))
    with locked(store.folder / "shards", shared=True):
        assert store.verify()["orphans"] == 0
    assert orphan.exists()
    assert store.verify()["orphans"] == 1


def test_clear_removes_all_values_and_says_how_many(store):
    store.claim("run", DIGESTS[:3])
    sizes = sum(path.stat().st_size for path in shards(store))
    assert store.clear() == {"items": 25, "shards": 3, "bytes": sizes}
    assert shards(store) == []
    found = store.stats()
    assert (found["items"], found["bytes"], found["generation"], found["claims"]) == (0, 0, 1, 3)
    store.release("run", DIGESTS)
    assert store.clear() == {"items": 0, "shards": 0, "bytes": 0}
    store.put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    assert set(store.get_many(IDENTITY, DIGESTS)) == {DIGESTS[0]}


def test_what_cannot_be_done_is_an_error(tmp_path):
    (tmp_path / "store").write_text("a file")
    store = DiskStore(tmp_path / "store")
    for call in (store.stats, store.verify, store.clear):
        with pytest.raises(StoreError, match="cannot be used: .*Check its permissions"):
            call()
