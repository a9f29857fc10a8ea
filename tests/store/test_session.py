"""One search, several processes: what a session shares, with whom, and what becomes of it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from joblib import Parallel, delayed
from store.workload import (
    IDENTITY,
    WHO,
    count_wrong,
    digests_of,
    fill,
    fill_shuffled,
    read_log,
    value_of,
)

from sae_features.store import reaper, session
from sae_features.store.disk import DiskStore
from sae_features.store.memory import SHARED
from sae_features.store.session import OwnerStore, Session

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
DIGESTS = digests_of(40)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A place of its own for sessions; no session before, none after."""
    session.release()
    monkeypatch.setattr(session, "_root", lambda: tmp_path)
    yield tmp_path / reaper.root_name()
    session.release()
    SHARED.clear()


class Estimator:
    """Pickles as an estimator of the library does."""

    def __getstate__(self):
        return {"session": session.announce()}

    def __setstate__(self, state):
        session.adopt(state["session"])

    def work(self, digests, log, seed):
        values = fill_shuffled(session.store(), digests, log, seed=seed, pause=0.01)
        assert count_wrong(values) == 0
        return os.getpid(), type(session.store()).__name__


def in_thread(work, *arguments):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


BEGIN = f"""
import json, sys
sys.path.append({str(Path(__file__).parents[1])!r})
from store.workload import *
from sae_features.store import session
record, *more = map(json.loads, sys.argv[1:])
"""
ADOPT = """
session.adopt(record)
print(json.dumps([type(session.store()).__name__, session.announce()]))
"""
FILL = """
session.adopt(record)
values = fill_shuffled(session.store(), digests_of(200), *more, seed=1, pause=0.02)
print(json.dumps([len(values), count_wrong(values)]))
"""


def elsewhere(source, *arguments):
    """Run a few lines in a fresh process and return what they print."""
    command = [sys.executable, "-c", BEGIN + source, *map(json.dumps, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_workers_share_with_each_other_and_with_their_owner(tmp_path, backend):
    log, estimator = tmp_path / "log", Estimator()
    first = fill(session.store(), DIGESTS[:10], log)
    assert count_wrong(first) == 0
    for _ in range(2):  # the second time, workers of loky are the same ones
        work = [delayed(estimator.work)(DIGESTS[i : i + 30], log, i) for i in (0, 5, 10, 0)]
        found = Parallel(n_jobs=2, backend=backend)(work)
        assert {kind for _, kind in found} == {"DiskStore"}
        assert os.getpid() not in {pid for pid, _ in found}
    assert estimator.work(DIGESTS, log, 0) == (os.getpid(), "OwnerStore")
    counts, again = read_log(log)
    assert again == []
    assert counts == dict.fromkeys(counts, 1)
    assert len(counts) == 40
    assert len(SHARED) == 40  # what workers computed came into memory


def test_a_reused_worker_serves_nothing_of_a_session_that_was_left(tmp_path):
    estimator, pids = Estimator(), []
    for number in range(2):
        log = tmp_path / f"log {number}"
        work = [delayed(estimator.work)(DIGESTS, log, i) for i in range(2)]
        pids.append({pid for pid, _ in Parallel(n_jobs=2, backend="loky")(work)})
        assert sum(read_log(log)[0].values()) == 40
        session.release()
        SHARED.clear()
    assert pids[0] & pids[1]


def test_threads_use_memory_and_compute_once(tmp_path, place):
    log, estimator = tmp_path / "log", Estimator()
    work = [delayed(estimator.work)(DIGESTS, log, i) for i in range(4)]
    found = Parallel(n_jobs=4, backend="threading")(work)
    assert set(found) == {(os.getpid(), "OwnerStore")}
    assert sum(read_log(log)[0].values()) == 40
    assert not place.exists()


def test_an_owner_that_computes_beside_its_workers(tmp_path):
    log, announced = tmp_path / "log", in_thread(session.announce)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(elsewhere, FILL, announced, str(log))
        while not Path(announced["folder"]).exists():
            time.sleep(0.01)
        values = fill(session.store(), digests_of(200), log, pause=0.02)
        assert there.result() == [200, 0]
    assert count_wrong(values) == 0
    counts, again = read_log(log)
    assert again == []
    assert sum(counts.values()) == 200


def test_announcing_makes_nothing(place):
    record = session.announce()
    assert json.loads(json.dumps(record)) == record
    assert record == session.announce() == in_thread(session.announce)  # nothing to write out
    assert record["pid"] == os.getpid()
    assert Path(record["folder"]).parent == place
    assert not place.exists()


def test_values_are_written_out_for_workers_and_not_when_an_estimator_is_saved(place):
    values = {digest: value_of(digest) for digest in DIGESTS}
    session.store().put_many(IDENTITY, values, WHO)
    record = session.announce()
    assert not place.exists()
    assert in_thread(session.announce) == record
    disk = DiskStore(Path(record["folder"]))
    assert count_wrong(disk.get_many(IDENTITY, DIGESTS)) == 0
    assert disk.stats()["items"] == 40
    assert disk.stats()["identities"][0]["who"] == {"model": "fake"}
    disk.close()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (place, Path(record["folder"]))]
    assert modes == [0o700, 0o700]


def test_what_is_new_goes_to_the_folder_as_well(place):
    session.store().put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    folder = Path(in_thread(session.announce)["folder"])
    session.store().put_many(IDENTITY, {DIGESTS[1]: value_of(DIGESTS[1])}, WHO)
    disk = DiskStore(folder)
    assert (
        disk.has_many(IDENTITY, DIGESTS)
        == session.store().has_many(IDENTITY, DIGESTS)
        == set(DIGESTS[:2])
    )
    SHARED.clear()
    assert set(session.store().get_many(IDENTITY, DIGESTS)) == set(DIGESTS[:2])
    disk.close()


def test_claims_of_the_owner_hold_for_workers_and_threads(place):
    session.store().put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    owner, (a, b, c) = session.store(), DIGESTS[:3]
    assert owner.claim("run", [a]) == [a]  # before there is a folder
    worker = DiskStore(Path(in_thread(session.announce)["folder"]))
    assert owner.claim("run", [b]) == [b]
    assert in_thread(worker.claim, "run", [b, c]) == [c]
    assert owner.claim("run", [b, c]) == [b]
    assert in_thread(owner.claim, "run", [a, b, c]) == []
    started = time.monotonic()
    in_thread(owner.wait, "run", [a], 0.1)  # a claim in memory
    owner.wait("run", [c], 0.1)  # one in the folder
    assert 0.2 <= time.monotonic() - started < 20
    owner.release("run", [a, b])
    assert in_thread(owner.claim, "run", [a, b, c]) == [a, b]
    worker.close()


def test_a_worker_passes_on_the_session_that_it_shares():
    record = session.announce()
    assert elsewhere(ADOPT, record) == ["DiskStore", record]


def test_a_child_is_a_worker_of_the_session():
    record = session.announce()
    child = os.fork()
    if child == 0:
        is_worker = type(session.store()) is DiskStore and session.announce() == record
        os._exit(not is_worker)
    assert os.waitpid(child, 0)[1] == 0
    assert Path(record["folder"]).is_dir()


def test_a_child_that_ends_as_python_does_leaves_the_folder(place):
    session.store().put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    folder = Path(in_thread(session.announce)["folder"])
    child = os.fork()
    if child == 0:
        session._leave()  # what Python does at the end
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert folder.is_dir()


@pytest.mark.parametrize(
    "change",
    [
        {"pid": 2**22 + 1},
        {"pid": -1},
        {"pid": 0},
        {"pid": 2**70},
        {"pid": "1"},
        {"start": "1"},
        {"host": "elsewhere"},
        {"folder": ""},
        {"folder": "relative/" + "a" * 32},
        {"folder": str(Path.home())},
        {"folder": 3},
        {"more": 1},
    ],
)
def test_records_that_mean_nothing_here_are_ignored(change):
    record = session.announce()
    assert elsewhere(ADOPT, record | change)[0] == "OwnerStore"


def test_half_a_record_is_ignored():
    session.adopt({"folder": "x"})
    assert type(session.store()) is OwnerStore


def test_a_folder_that_others_may_enter_is_not_shared(place):
    record = session.announce()
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    assert elsewhere(ADOPT, record)[0] == "OwnerStore"
    place.rmdir()
    elsewhere_folder = place.with_name("real")
    elsewhere_folder.mkdir(mode=0o700)
    place.symlink_to(elsewhere_folder)
    assert elsewhere(ADOPT, record)[0] == "OwnerStore"
    place.unlink()


def test_a_place_that_is_another_ones_is_not_used(place, monkeypatch):
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    session.store().put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    record = in_thread(session.announce)  # nothing is written, and nothing raised
    assert list(place.iterdir()) == []
    assert set(session.store().get_many(IDENTITY, DIGESTS)) == {DIGESTS[0]}
    monkeypatch.setattr(session._state, "owner", os.getppid())  # as in a worker
    assert session.store() is SHARED
    place.chmod(0o700)
    assert record["folder"]


def test_without_any_place_there_is_memory(monkeypatch):
    monkeypatch.setattr(session, "_root", lambda: None)
    session.store().put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    record = in_thread(session.announce)
    assert record["folder"] == ""
    assert set(session.store().get_many(IDENTITY, DIGESTS)) == {DIGESTS[0]}
    assert elsewhere(ADOPT, record)[0] == "OwnerStore"


def test_a_process_that_began_on_its_own_stays_so():
    record = session.announce()
    source = "fill(session.store(), digests_of(2))" + ADOPT
    assert elsewhere(source, record)[0] == "OwnerStore"


def test_a_worker_whose_owner_has_ended_is_its_own(tmp_path):
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = reaper.start_of(owner.pid)
    folder = tmp_path / reaper.root_name() / ("a" * 32)
    session.adopt(Session(str(folder), owner.pid, start, session.host())._asdict())
    assert type(session.store()) is DiskStore
    assert folder.is_dir()
    owner.communicate(b"\n")
    assert type(session.store()) is OwnerStore
    assert session.announce()["pid"] == os.getpid()
    end = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < end, "nobody removed it"
        time.sleep(0.02)


def test_release_removes_the_folder_and_the_next_session_is_another(place):
    session.store().put_many(IDENTITY, {DIGESTS[0]: value_of(DIGESTS[0])}, WHO)
    record = in_thread(session.announce)
    neighbour = place / ("b" * 32)
    neighbour.mkdir(mode=0o700)
    assert Path(record["folder"]).is_dir()
    session.release()
    assert not Path(record["folder"]).exists()
    assert neighbour.is_dir()
    assert session.announce()["folder"] != record["folder"]


def test_of_many_that_make_the_folder_one_starts_the_reaper(place, monkeypatch):
    started = []
    monkeypatch.setattr(session, "_start_reaper", started.append)
    mine = session._current()
    barrier = threading.Barrier(8)

    def make(_):
        barrier.wait()
        session._make(mine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(8)))
    assert started == [mine]
    assert [path.name for path in place.iterdir()] == [Path(mine.folder).name]
    assert json.loads((Path(mine.folder) / "owner.json").read_text())["pid"] == os.getpid()


def test_a_temporary_folder_on_a_network_is_passed_over(monkeypatch):
    monkeypatch.undo()
    session._root.cache_clear()
    monkeypatch.setattr(
        session, "file_system_of", lambda place: "nfs4" if str(place) == "/nfs" else "tmpfs"
    )
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: "/nfs")
    monkeypatch.setattr(Path, "is_dir", lambda _: True)
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert session._root() == Path("/dev/shm")
    session._root.cache_clear()


def test_sessions_of_owners_that_ended_are_swept(place):
    place.mkdir(mode=0o700)
    record = session.announce()
    cases = {
        "ended": {"pid": 2**22 + 1, "start": "5"},
        "other start": {"start": "5"},
        "earlier boot": {"host": "name boot space"},
        "alive": {},
        "elsewhere": {"host": session.host() + "x"},
    }
    folders = {}
    for number, (case, change) in enumerate(cases.items()):
        folders[case] = place / (str(number) * 32)
        folders[case].mkdir(mode=0o700)
        (folders[case] / "owner.json").write_text(json.dumps(record | change))
    names = {
        "half made": "a" * 32 + ".new-" + "0" * 16,
        "half gone": "b" * 32 + ".gone",
        "foreign": "notes",
    }
    for case, name in names.items():
        folders[case] = place / name
        folders[case].mkdir(mode=0o700)
        os.utime(folders[case], (1, 1))
    folders["just made"] = place / ("c" * 32 + ".new-" + "0" * 16)
    folders["just made"].mkdir(mode=0o700)
    reaper.sweep(place, session.host())
    left = {case for case, folder in folders.items() if folder.exists()}
    assert left == {"alive", "elsewhere", "foreign", "just made"}
