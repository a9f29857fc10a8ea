"""The store in memory: bounded, the first value stays, the least recently used goes; its claims."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_features.store import memory
from sae_features.store.memory import ENTRY_BYTES, MemoryStore


def value(nbytes=1000 - ENTRY_BYTES % 1000):
    return np.zeros(nbytes, np.uint8)


SIZE = ENTRY_BYTES + value().nbytes
"""What an entry takes."""


def store_for(n_entries):
    return MemoryStore(n_entries * SIZE)


def test_values_are_found_by_identity_and_digest():
    store = MemoryStore()
    first, second = value(), value()
    store.put_many("one", {b"a": first, b"b": second})
    found = store.get_many("one", [b"b", b"missing", b"a", b"b"])
    assert set(found) == {b"a", b"b"}
    assert found[b"a"] is first
    assert found[b"b"] is second
    assert store.get_many("two", [b"a", b"b"]) == {}
    assert store.get_many("one", []) == {}


def test_the_first_value_stays():
    store = MemoryStore()
    first = value()
    store.put_many("one", {b"a": first})
    store.put_many("one", {b"a": value(5000)})
    assert store.get_many("one", [b"a"])[b"a"] is first
    assert store.nbytes == SIZE
    assert len(store) == 1


def test_what_was_not_used_for_longest_goes_first():
    store = store_for(3)
    for digest in (b"a", b"b", b"c"):
        store.put_many("one", {digest: value()})
    store.get_many("one", [b"a"])  # used again
    store.put_many("one", {b"d": value()})
    assert set(store.get_many("one", [b"a", b"b", b"c", b"d"])) == {b"a", b"c", b"d"}
    store.put_many("two", {b"e": value(), b"f": value()})
    assert set(store.get_many("one", [b"a", b"b", b"c", b"d"])) == {b"d"}
    assert set(store.get_many("two", [b"e", b"f"])) == {b"e", b"f"}


def test_bytes_are_bounded():
    store = store_for(2)
    store.put_many("one", {b"%d" % i: value() for i in range(50)})
    assert store.nbytes == 2 * SIZE == store.max_bytes
    assert set(store.get_many("one", [b"%d" % i for i in range(50)])) == {b"48", b"49"}


def test_entries_without_bytes_are_counted_too():
    store = MemoryStore(10 * ENTRY_BYTES)
    store.put_many("one", {b"%d" % i: value(0) for i in range(50)})
    assert len(store) == 10


def test_a_value_larger_than_the_store_drives_nothing_out():
    store = store_for(2)
    store.put_many("one", {b"a": value(), b"b": value()})
    store.put_many("one", {b"huge": value(2 * SIZE)})
    assert set(store.get_many("one", [b"a", b"b", b"huge"])) == {b"a", b"b"}
    assert store.nbytes == 2 * SIZE


def test_a_store_without_room_keeps_nothing():
    store = MemoryStore(0)
    store.put_many("one", {b"a": value()})
    assert len(store) == store.nbytes == 0


def test_everything_is_forgotten():
    store = MemoryStore()
    store.put_many("one", {b"a": value()})
    store.clear()
    assert len(store) == store.nbytes == 0
    assert store.get_many("one", [b"a"]) == {}
    store.put_many("one", {b"a": value()})
    assert store.nbytes == SIZE


def test_the_store_of_the_process_is_bounded():
    assert isinstance(memory.SHARED, MemoryStore)
    assert memory.SHARED.max_bytes == memory.MAX_BYTES == 512 * 2**20


class Model:
    """The same in a few slow lines: a list, the most recently used last."""

    def __init__(self, max_bytes):
        self.max_bytes = max_bytes
        self.entries = []

    def nbytes(self):
        return sum(v.nbytes + ENTRY_BYTES for _, v in self.entries)

    def get(self, key):
        for entry in self.entries:
            if entry[0] == key:
                self.entries.remove(entry)
                self.entries.append(entry)
                return entry[1]
        return None

    def put(self, key, value):
        if (
            all(known != key for known, _ in self.entries)
            and value.nbytes + ENTRY_BYTES <= self.max_bytes
        ):
            self.entries.append((key, value))
        while self.nbytes() > self.max_bytes:
            self.entries.pop(0)


steps = st.lists(
    st.tuples(
        st.booleans(), st.sampled_from(["x", "y"]), st.sampled_from([b"a", b"b", b"c", b"d"]),
        st.integers(0, 6000),
    ),
    max_size=30,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(steps=steps, max_bytes=st.sampled_from([0, 3000, 8000, 10**6]))
def test_it_does_what_the_slow_model_does(steps, max_bytes):
    store, model = MemoryStore(max_bytes), Model(max_bytes)
    for is_put, identity, digest, size in steps:
        if is_put:
            new = value(size)
            store.put_many(identity, {digest: new})
            model.put((identity, digest), new)
        else:
            assert store.get_many(identity, [digest]).get(digest) is model.get((identity, digest))
        assert store.nbytes == model.nbytes() <= max_bytes
        assert len(store) == len(model.entries)


@pytest.mark.parametrize("n_entries", [3, 1000])
def test_threads_agree_on_the_first_value(n_entries):
    store = store_for(n_entries)
    digests = [b"%d" % i for i in range(20)]
    tickets = count()

    def work(_):
        for _ in range(30):
            store.put_many("one", {digest: (value(), next(tickets))[0] for digest in digests})
            found = store.get_many("one", digests)
            assert len(found) <= 20
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert store.nbytes == len(store) * SIZE <= store.max_bytes
    if n_entries == 1000:  # nothing was driven out, so all threads see one value each
        for digest in digests:
            assert len({id(found[digest]) for found in results}) == 1


def test_what_is_there_is_told_without_counting_as_used():
    store = store_for(2)
    store.put_many("one", {b"a": value(), b"b": value()})
    assert store.has_many("one", [b"a", b"c"]) == {b"a"}
    store.put_many("one", {b"c": value()})
    assert store.has_many("one", [b"a", b"b", b"c"]) == {b"b", b"c"}


def test_a_snapshot_says_who_computed():
    store = MemoryStore()
    first = value()
    store.put_many("one", {b"a": first}, "someone")
    store.put_many("one", {b"b": first})
    store.put_many("two", {b"a": first})
    assert store.snapshot() == {
        "one": ("someone", {b"a": first, b"b": first}),
        "two": ("", {b"a": first}),
    }
    assert store.n_put == 3


def in_thread(work, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def test_a_claim_is_of_one_thread():
    store = MemoryStore()
    assert store.claim("run", [b"b", b"a", b"b"]) == [b"b", b"a"]
    assert store.claim("run", [b"a"]) == [b"a"]  # its own
    assert store.claim("other run", [b"a"]) == [b"a"]
    assert in_thread(store.claim, "run", [b"a", b"c", b"b"]) == [b"c"]
    in_thread(store.release, "run", [b"a", b"b"])  # not that thread's to release
    assert in_thread(store.claim, "run", [b"a"]) == []
    store.release("run", [b"a", b"b", b"unknown"])
    assert in_thread(store.claim, "run", [b"a", b"b"]) == [b"a", b"b"]


def test_waiting_ends_with_a_claim_of_another_thread():
    store = MemoryStore()
    claimed, end = threading.Event(), threading.Event()

    def hold():
        store.claim("run", [b"a", b"b"])
        claimed.set()
        end.wait()
        store.release("run", [b"b"])

    holder = threading.Thread(target=hold)
    holder.start()
    claimed.wait()
    started = time.monotonic()
    store.wait("run", [b"a"], 0.05)
    assert time.monotonic() - started >= 0.05
    threading.Timer(0.05, end.set).start()
    store.wait("run", [b"a", b"b"], 60)
    assert time.monotonic() - started < 30
    holder.join()


def test_nothing_is_waited_for_without_claims_of_others():
    store = MemoryStore()
    store.claim("run", [b"a"])
    started = time.monotonic()
    store.wait("run", [b"a", b"b"], 60)
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_is_not_stopped_by_locks_and_claims_of_threads_that_it_does_not_have():
    store, end = MemoryStore(), threading.Event()

    def keep_busy():
        store.claim("run", [b"a"])
        while not end.is_set():
            store.put_many("one", {b"a": value()})

    thread = threading.Thread(target=keep_busy)
    thread.start()
    while not store.has_many("one", [b"a"]):
        pass
    for _ in range(20):
        child = os.fork()
        if child == 0:
            os._exit(store.claim("run", [b"a"]) != [b"a"] or not store.get_many("one", [b"a"]))
        assert os.waitpid(child, 0)[1] == 0
    end.set()
    thread.join()
