"""What may happen to a store; each fault is done to one and returns a row of counts.

Used by test_faults.py, in short, and by benchmarks/store_faults.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from store.workload import (
    IDENTITY,
    SCOPE,
    WHO,
    count_wrong,
    digests_of,
    fill,
    fill_shuffled,
    read_log,
    value_of,
)

from sae_features.errors import SAEFeaturesWarning, StoreError
from sae_features.store import claims, session
from sae_features.store.disk import DiskStore

FORK = multiprocessing.get_context("fork")
SPAWN = multiprocessing.get_context("spawn")


def row(fault, store, log=None, *, identities=(IDENTITY,), digests=(), scale=1, **more):
    """Read all there is and count; ``lacking`` are lost, ``again`` were computed after they were put."""
    wrong = n_read = 0
    for identity in identities:
        values = store.get_many(identity, digests)
        n_read += len(values)
        wrong += count_wrong(values, identity, scale=scale)
    counts, again = read_log(log) if log else ({}, [])
    store.claim("another", [])  # whoever claims next removes what the dead have left
    with contextlib.closing(sqlite3.connect(store.index.path)) as db:
        (n_claims,) = db.execute("SELECT count(*) FROM claims").fetchone()
    return {
        "fault": fault,
        "tries": 1,
        "reads": n_read,
        "wrong": wrong,
        "lacking": len(identities) * len(digests) - n_read,
        "computed": sum(counts.values()),
        "again": len(again),
        "claims": n_claims,
        "told": 0,
    } | more


def start(target, *arguments, context=FORK, **options):
    process = context.Process(target=target, args=arguments, kwargs=options)
    process.start()
    return process


def finish(*processes):
    for process in processes:
        process.join(60)
        assert process.exitcode == 0, f"a process ended with {process.exitcode}"


def kill(folder, tries=100, n_items=64, workers=4):
    """SIGKILL of a worker at random moments while several fill one store."""
    store, log, everything, n_killed = DiskStore(folder / "store"), folder / "log", [], 0
    rng = random.Random(0)
    while n_killed < tries:
        name = f"kill {len(everything)} "
        everything += digests_of(n_items, name)
        processes = [
            start(fill_shuffled, store, digests_of(n_items, name), log, seed=(name, i), pause=0.004)
            for i in range(workers)
        ]
        time.sleep(rng.uniform(0.0, 0.12))
        victim = rng.choice(processes)
        victim.kill()
        victim.join()
        n_killed += victim.exitcode == -signal.SIGKILL  # else it had done all there was
        finish(*(process for process in processes if process is not victim))
    found = row("SIGKILL of 1 of 4 workers", store, log, digests=everything, tries=n_killed)
    assert found["computed"] <= len(everything) + 8 * n_killed  # what the victims had not put
    return found | {"orphans": store.verify()["orphans"]}


def interrupt(folder, tries=20, n_items=64):
    """Ctrl-C at random moments: what was put is kept, and no claim is left."""
    store, log, everything, left = DiskStore(folder / "store"), folder / "log", [], 0
    rng = random.Random(1)
    for number in range(tries):
        digests = digests_of(n_items, f"interrupt {number} ")
        everything += digests
        before = sum(read_log(log)[0].values())
        process = start(_interruptible, store, digests, log)
        while process.is_alive() and sum(read_log(log)[0].values()) == before:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode is not None
        left += store.stats()["claims"]
        fill(store, digests, log)
    return row("Ctrl-C", store, log, digests=everything, tries=tries, left=left)


def _interruptible(store, digests, log):
    with contextlib.suppress(KeyboardInterrupt):
        fill(store, digests, log, pause=0.01)


def suspend(folder, n_items=32):
    """A worker stopped while it holds claims is taken for dead; what it does later is harmless."""
    store, log, digests = DiskStore(folder / "store"), folder / "log", digests_of(n_items)
    with mock.patch.multiple(claims, BEAT_SECONDS=0.05, SILENT_SECONDS=0.5):
        process = start(fill, store, digests, log, pause=0.3)
        while not read_log(log)[0]:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGSTOP)
        fill(store, digests, log)
        os.kill(process.pid, signal.SIGCONT)
        finish(process)
    return row("worker suspended", store, log, digests=digests)


def full_disk(folder, n_items=200):
    """Files cannot grow any more, neither shards nor the index; then they can."""
    store, log, digests = DiskStore(folder / "store"), folder / "log", digests_of(n_items)
    fill(store, digests[:40], scale=30)
    for limit in (40_000, 0):
        finish(start(_fill_in_vain, store, digests, limit))
    fill(store, digests, log, scale=30)
    return row("disk full", store, log, digests=digests, scale=30, told=2)


def _fill_in_vain(store, digests, limit):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    assert _warnings_of(fill_exactly, store, digests, scale=30) == 1


def fill_exactly(store, digests, **options):
    values = fill(store, digests, **options)
    assert set(values) == set(digests)
    assert count_wrong(values, scale=options.get("scale", 1)) == 0


def _warnings_of(work, *arguments, **options):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        work(*arguments, **options)
    assert all(issubclass(warning.category, SAEFeaturesWarning) for warning in told), told
    return len(told)


def full_file_system(folder, n_items=200):
    """A file system of 1 MiB, in mounts of its own; None where the system does not allow that."""
    place = folder / "small"
    place.mkdir()
    mount = f"mount -t tmpfs -o size=1m none {place}"
    may = shutil.which("unshare") and subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False
    )
    if not may or may.returncode:
        return None
    fill_it = f"{mount} && exec {sys.executable} {__file__} {place} {n_items}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(["unshare", "-rm", "sh", "-c", fill_it], check=True, env=environment)
    store = DiskStore(folder / "store")
    fill(store, [])
    return row("file system of 1 MiB full", store, reads=n_items, told=1)


def read_only(folder, n_items=40):
    """A folder that this user may only read: reads work, puts warn once, everything is computed."""
    digests, place = digests_of(n_items), Path(tempfile.mkdtemp(prefix="sae-features-test-"))
    try:
        store = DiskStore(place / "store")
        fill(store, digests[: n_items // 2])
        store.close()
        places = [place, store.folder, *store.folder.rglob("*")]
        for path in places:
            path.chmod(0o555 if path.is_dir() else 0o444)
        finish(start(_fill_as_nobody, store, digests))
        for path in places:
            path.chmod(0o700 if path.is_dir() else 0o600)
        return row("read-only store", store, digests=digests[: n_items // 2], told=1)
    finally:
        shutil.rmtree(place)


def _fill_as_nobody(store, digests):
    if os.geteuid() == 0:
        os.setuid(65534)
    half = digests[: len(digests) // 2]
    assert set(store.get_many(IDENTITY, digests)) == store.has_many(IDENTITY, digests) == set(half)
    assert _warnings_of(fill_exactly, store, digests) == 1


def newer_schema(folder, n_items=8):
    """A store of a version to come: an error, and nothing is touched."""
    store, digests = DiskStore(folder / "store"), digests_of(n_items)
    fill(store, digests)
    store.close()

    def set_version(version):
        with contextlib.closing(sqlite3.connect(store.index.path)) as db:
            db.execute(f"PRAGMA user_version = {version}")

    set_version(2)
    told = 0
    for call in (
        lambda: store.get_many(IDENTITY, digests),
        lambda: store.put_many(IDENTITY, {digests[0]: value_of(digests[0])}, WHO),
        lambda: store.claim(SCOPE, digests),
        store.clear,
    ):
        told += _asks_for_an_upgrade(call)
    set_version(1)
    return row("store of a newer schema", store, digests=digests, told=told)


def _asks_for_an_upgrade(call):
    try:
        call()
    except StoreError as error:
        return "Upgrade" in str(error)
    return False


def flips(folder, tries=200, n_items=48, *, of_index=False):
    """A flipped bit at a random place of a shard, or of the index: never a wrong value, nor an error."""
    rng, digests, log = random.Random(2), digests_of(n_items), folder / "log"
    pristine, store = DiskStore(folder / "pristine"), DiskStore(folder / "store")
    fill(pristine, digests, block=12)
    pristine.close()
    wrong = n_read = told = lacking = 0
    for _ in range(tries):
        store.close()
        shutil.rmtree(store.folder, ignore_errors=True)
        shutil.copytree(pristine.folder, store.folder)
        files = [store.index.path] if of_index else sorted(store.folder.glob("shards/*/*"))
        _flip(rng.choice(files), rng)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            values = store.get_many(IDENTITY, digests)
            wrong += count_wrong(values)
            n_read += len(values)
            lacking += len(values) < n_items
            told += bool(warned)
            if not of_index:  # whatever is missing was told of
                assert bool(warned) == (len(values) < n_items)
            values = fill(store, digests, log)
        wrong += count_wrong(values) + count_wrong(store.get_many(IDENTITY, digests))
        n_read += 2 * n_items
        assert set(values) == set(digests)
    name = "bit flipped in the index" if of_index else "bit flipped in a shard"
    # what was lost is computed again, and that is meant
    return row(
        name, store, log, digests=digests, tries=tries, wrong=wrong, reads=n_read, told=told, again=0
    )


def flips_of_index(folder, tries=200, n_items=48):
    """A flipped bit in the index: it is set aside, or what it says does not fit, and is dropped."""
    return flips(folder, tries, n_items, of_index=True)


def _flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def torn(folder, tries=30, n_items=24):
    """A shard that ends anywhere, as after a power failure, or is gone."""
    rng, digests, log = random.Random(3), digests_of(n_items), folder / "log"
    store = DiskStore(folder / "store")
    wrong = told = 0
    fill(store, digests)
    for _ in range(tries):
        path = rng.choice(sorted(store.folder.glob("shards/*/*")))
        size = path.stat().st_size
        if rng.random() < 0.1:
            path.unlink()
        elif rng.random() < 0.5:
            os.truncate(path, rng.randrange(size))
        else:
            whole, keep = path.read_bytes(), rng.randrange(size)
            torn = whole[:keep] + bytes(size - keep)
            path.write_bytes(torn if torn != whole else whole[:-1])  # zeros may have ended it
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            wrong += count_wrong(fill(store, digests, log))
        told += bool(warned)
    return row("torn or missing shard", store, digests=digests, tries=tries, wrong=wrong, told=told)


def two_versions(folder, n_items=64):
    """Two versions of a model under one name, at the same time: no mixing."""
    store, log, digests = DiskStore(folder / "store"), folder / "log", digests_of(n_items)
    whos = [f'{{"model": "same", "weights": "{version}"}}' for version in ("first", "second")]
    identities = [hashlib.sha256(who.encode()).hexdigest() for who in whos]
    finish(
        *(
            start(fill_shuffled, store, digests, log, seed=i, identity=identity, who=who, scope=who)
            for i in range(2)
            for who, identity in zip(whos, identities, strict=True)
        )
    )
    return row("two versions of a model", store, log, identities=identities, digests=digests)


def clock_jumps(folder, n_items=128):
    """Clocks of processes that disagree by years and jump; files of the past and of the future."""
    store, log, digests = DiskStore(folder / "store"), folder / "log", digests_of(n_items)
    with mock.patch.multiple(claims, BEAT_SECONDS=0.05, SILENT_SECONDS=2.0):
        processes = [
            start(_fill_with_clock, store, digests, log, seed=i, years=years)
            for i, years in enumerate((-30, 0, 1, 70))
        ]
        while any(process.is_alive() for process in processes):
            for path in store.folder.glob("shards/*/*"):
                with contextlib.suppress(FileNotFoundError):
                    moment = random.choice([1, 2**31])
                    os.utime(path, (moment, moment))
            store.verify()
            time.sleep(0.02)
        finish(*processes)
    return row("clock jumps", store, log, digests=digests)


def _fill_with_clock(store, digests, log, seed, years):
    true = time.time
    rng = random.Random(seed)

    def jumping():
        return true() + years * 3e7 + rng.uniform(-1e6, 1e6)

    with mock.patch("time.time", jumping):
        fill_shuffled(store, digests, log, seed=seed, pause=0.02)


def everyone(folder, n_items=300):
    """Threads, children that are forked from among them, and fresh processes, all at once."""
    store, log, digests = DiskStore(folder / "store"), folder / "log", digests_of(n_items)
    fill(store, digests[:8], log)
    fresh = start(fill_in, str(store.folder), digests, log, 9, context=SPAWN)
    threads = [
        threading.Thread(
            target=fill_shuffled, args=(store, digests, log), kwargs={"seed": i, "pause": 0.01}
        )
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    children = []
    while any(thread.is_alive() for thread in threads):
        children.append(start(fill_shuffled, store, digests, log, seed=len(children), pause=0.01))
        time.sleep(0.1)
        if len(children) % 3 == 0:
            finish(*children[-3:])
    for thread in threads:
        thread.join()
    finish(fresh, *children)
    return row("threads, fork and spawn", store, log, digests=digests, tries=len(children) + 5)


def eviction(folder, n_items=200):
    """A store with too little room, used by several: values come and go, and are right."""
    store, digests = DiskStore(folder / "store", max_bytes=200_000), digests_of(n_items)
    finish(*(start(fill_shuffled, store, digests, seed=i) for i in range(4)))
    values = fill(store, digests)
    wrong = count_wrong(values)
    kept = sum(path.stat().st_size for path in store.folder.rglob("*.safetensors"))
    assert kept == store.stats()["bytes"] <= store.max_bytes
    return row("eviction", store, digests=digests, wrong=wrong) | {"lacking": 0}


def removed(folder, tries=5, n_items=48):
    """The folder is removed, or cleared, while processes use it."""
    store, digests = DiskStore(folder / "store"), digests_of(n_items)
    for number in range(tries):
        processes = [start(_fill_often, store, digests, seed=i) for i in range(3)]
        for _ in range(6):
            time.sleep(0.03)
            if number % 2:
                shutil.rmtree(store.folder, ignore_errors=True)
            else:
                store.clear()
        finish(*processes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEFeaturesWarning)
        fill(store, digests)
    return row("cleared or removed in use", store, digests=digests, tries=tries)


def _fill_often(store, digests, seed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAEFeaturesWarning)  # of what could not be kept
        for i in range(8):
            values = fill_shuffled(store, digests, seed=seed + i, pause=0.002)
            assert set(values) == set(digests)
            assert count_wrong(values) == 0


def reused_workers(folder, n_items=64):
    """Workers of joblib that live on after the store was cleared compute all again."""
    from joblib import Parallel, delayed

    store, log, digests = DiskStore(folder / "store"), folder / "log", digests_of(n_items)
    pids = []
    for _ in range(3):
        work = [delayed(fill_in)(str(store.folder), digests, str(log), i) for i in range(4)]
        pids.append(set(Parallel(n_jobs=2, backend="loky")(work)))
        counts = read_log(log)[0]
        assert set(counts.values()) == {1}, "computed again, or not at all"
        log.unlink()
        assert store.clear()["items"] == n_items
    assert pids[0] & pids[2], "the workers were not the same"
    fill(store, digests, log)
    return row("reused workers after clear", store, log, digests=digests, tries=3)


def owner_killed(folder, n_items=32):
    """SIGKILL of the process whose session it is: the shared folder goes, and nothing else."""
    told, digests = folder / "told", digests_of(n_items)
    owner = start(_own_a_session, str(told), digests, context=SPAWN)
    while not told.exists():
        time.sleep(0.01)
    shared, computed = told.read_text().split()
    assert Path(shared).is_dir()
    os.kill(owner.pid, signal.SIGKILL)
    owner.join()
    end = time.monotonic() + 10
    while os.path.lexists(shared):
        assert time.monotonic() < end, "the folder stays"
        time.sleep(0.01)
    store = DiskStore(folder / "store")
    fill(store, [])
    return row("owner of a session killed", store, reads=n_items, computed=int(computed))


def _own_a_session(told, digests):
    """Compute half, let a worker compute the rest, and read that; say where it is shared."""
    log = Path(told).with_name("log")
    fill(session.store(), digests[: len(digests) // 2], log)
    with ThreadPoolExecutor(1) as pool:  # as pools pickle what they send
        announced = pool.submit(session.announce).result()
    finish(start(_work_in_a_session, announced, digests, log, context=SPAWN))
    values = fill(session.store(), digests, log)
    assert count_wrong(values) == 0
    counts, again = read_log(log)
    assert not again
    draft = Path(told).with_name("draft")
    draft.write_text(f"{announced['folder']} {sum(counts.values())}")
    draft.rename(told)
    time.sleep(60)


def _work_in_a_session(announced, digests, log):
    session.adopt(announced)
    assert count_wrong(fill(session.store(), digests, log)) == 0


def fill_in(folder, digests, log, seed):
    from sae_features.store.settings import disk_store

    fill_shuffled(disk_store(Path(folder)), digests, log, seed=seed, pause=0.005)
    return os.getpid()


def fill_small_file_system(place, n_items):
    with mock.patch.object(claims, "BEAT_SECONDS", 0.05):
        store = DiskStore(place / "store")
        assert _warnings_of(fill_exactly, store, digests_of(n_items), scale=300) == 1
        next(store.folder.rglob("*.safetensors")).unlink()
        while store.stats()["claims"]:  # what could not be released is, once there is room
            time.sleep(0.02)


if __name__ == "__main__":
    fill_small_file_system(Path(sys.argv[1]), int(sys.argv[2]))
