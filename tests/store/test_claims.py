"""Claims: one of several computes, the dead hold nothing, and no clock on the wall decides."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from store.workload import digests_of

from sae_features.store import claims
from sae_features.store.disk import DiskStore

DIGESTS = digests_of(6)
A, B, C, *_ = DIGESTS
HOLD = """
import sys, time
from pathlib import Path
from sae_features.store.disk import DiskStore
store = DiskStore(Path(sys.argv[1]))
print(len(store.claim("run", [bytes.fromhex(digest) for digest in sys.argv[2:]])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def store(tmp_path):
    store = DiskStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def holder(store):
    """Another process that has claimed A and B."""
    command = [sys.executable, "-c", HOLD, str(store.folder), A.hex(), B.hex()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "2\n"
        yield process
        process.send_signal(signal.SIGCONT)
        process.kill()


def rows(store, table):
    return store.index.run(lambda db: db.execute(f"SELECT * FROM {table}").fetchall())


def in_thread(work, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def test_a_claim_is_of_one_thread_and_one_run(store):
    assert store.claim("run", [B, A, B]) == [B, A]
    assert store.claim("run", [A]) == [A]  # its own
    assert in_thread(store.claim, "run", [A, C, B]) == [C]
    assert in_thread(store.claim, "other run", [A]) == [A]
    in_thread(store.release, "run", [A, B])  # not that thread's
    assert in_thread(store.claim, "run", [A, B]) == []
    store.release("run", [A, B, C])  # C is another thread's
    assert in_thread(store.claim, "run", [A, B, C]) == [A, B]
    assert store.claim("run", []) == []


def test_nothing_is_left_after_the_last_release(store):
    store.claim("run", DIGESTS)
    store.release("run", DIGESTS[:3])
    assert len(rows(store, "claims")) == 3
    assert len(rows(store, "claimants")) == 1
    store.release("run", DIGESTS[3:])
    assert rows(store, "claims") == rows(store, "claimants") == []


def test_another_process_holds_what_it_claimed(store, holder):
    assert store.claim("run", [A, B, C]) == [C]
    assert store.stats()["claims"] == 3
    started = time.monotonic()
    store.wait("run", [A, B], 0.2)
    assert 0.2 <= time.monotonic() - started < 10


def test_what_a_killed_process_held_is_free_at_once(store, holder):
    holder.kill()  # not yet waited for
    started = time.monotonic()
    store.wait("run", [A], 30)
    assert store.claim("run", [A, B, C]) == [A, B, C]
    assert time.monotonic() - started < 10
    store.release("run", DIGESTS)
    assert rows(store, "claims") == rows(store, "claimants") == []


def test_any_claim_removes_what_the_dead_have_left(store, holder):
    holder.kill()
    holder.wait()
    assert store.claim("another run", [C]) == [C]
    assert [row[1] for row in rows(store, "claims")] == [C]


def test_a_process_that_is_silent_is_dead_by_the_count_of_who_waits(store, holder, monkeypatch):
    monkeypatch.setattr(claims, "SILENT_SECONDS", 0.3)
    holder.send_signal(signal.SIGSTOP)
    assert store.claim("run", [A]) == []  # seen for the first time
    store.wait("run", [A, B], 30)
    assert store.claim("run", [A]) == [A]


def test_a_beat_starts_the_count_again(store, holder, monkeypatch):
    monkeypatch.setattr(claims, "SILENT_SECONDS", 0.4)
    for _ in range(8):
        store.index.run(lambda db: db.execute("UPDATE claimants SET beat = beat + 1").rowcount)
        store.wait("run", [A], 0.1)
    assert store.claim("run", [A]) == []


def test_who_was_suspended_has_not_watched(store, holder, monkeypatch):
    monkeypatch.setattr(claims, "SILENT_SECONDS", 3.0)
    assert store.claim("run", [A]) == []
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 3600)
    assert store.claim("run", [A]) == []


def test_processes_that_hold_claims_are_heard_of(store, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.01)
    store.claim("run", [A])
    end = time.monotonic() + 30
    while rows(store, "claimants")[0][4] < 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    store.release("run", [A])
    while store.claims._beating:
        assert time.monotonic() < end
        time.sleep(0.01)
    store.claim("run", [A])  # and again
    while not rows(store, "claimants")[0][4]:
        assert time.monotonic() < end
        time.sleep(0.01)
    store.release("run", [A])


def test_the_number_of_a_process_may_be_given_to_another(store, monkeypatch):
    store.index.run(
        lambda db: db.executescript(
            f"INSERT INTO claimants VALUES ('x', {os.getpid()}, '12', '{claims.host()}', 0);"
            f"INSERT INTO claims VALUES ('run', x'{A.hex()}', 'x');"
        )
    )
    assert store.claim("run", [A]) == [A]


def test_a_process_of_another_host_is_judged_by_its_beat_alone(store, monkeypatch):
    monkeypatch.setattr(claims, "SILENT_SECONDS", 0.2)
    store.index.run(
        lambda db: db.executescript(
            "INSERT INTO claimants VALUES ('x', 2147483600, '12', 'elsewhere', 0);"
            f"INSERT INTO claims VALUES ('run', x'{A.hex()}', 'x');"
        )
    )
    assert store.claim("run", [A]) == []
    store.wait("run", [A], 30)
    assert store.claim("run", [A]) == [A]


def test_a_claim_without_a_claimant_is_nobodys(store):
    store.index.run(
        lambda db: db.execute("INSERT INTO claims VALUES ('run', ?, 'nobody')", (A,)).rowcount
    )
    assert store.claim("run", [A]) == [A]


def test_waiting_ends_when_one_of_the_claims_does(store):
    claimed, end = threading.Event(), threading.Event()

    def hold():
        store.claim("run", [A, B])
        claimed.set()
        end.wait()
        store.release("run", [B])

    thread = threading.Thread(target=hold)
    thread.start()
    claimed.wait()
    threading.Timer(0.1, end.set).start()
    started = time.monotonic()
    store.wait("run", [A, B, C], 60)
    assert time.monotonic() - started < 30
    thread.join()


def test_nothing_is_waited_for_without_claims_of_others(store):
    store.claim("run", [A])
    started = time.monotonic()
    store.wait("run", [A, C], 60)
    store.wait("run", [], 60)
    assert time.monotonic() - started < 30
    store.release("run", [A])


def test_a_release_that_cannot_be_written_is_made_up_for(store, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.05)
    store.claim("run", [A, B])
    store.index.run(lambda db: db.execute("PRAGMA query_only = ON").fetchall())
    store.release("run", [A])
    assert len(rows(store, "claims")) == 2
    store.index.run(lambda db: db.execute("PRAGMA query_only = OFF").fetchall())
    end = time.monotonic() + 30
    while len(rows(store, "claims")) > 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    store.release("run", [B])


def test_a_folder_that_was_removed_is_not_made_again_for_a_beat(store, monkeypatch):
    import shutil

    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.02)
    store.claim("run", [A])
    shutil.rmtree(store.folder)
    time.sleep(0.2)
    assert not store.folder.exists()
    assert not store.claims._beating
