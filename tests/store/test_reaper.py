"""The end of a process is seen, and only a session's folder is ever removed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sae_features.store import reaper
from sae_features.store.reaper import is_alive, owner_of, remove, start_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def folder(tmp_path):
    """A session's folder, of this process."""
    root = tmp_path / reaper.root_name()
    root.mkdir(mode=0o700)
    return make(root / ("a" * 32))


def make(folder, pid=None, start=None):
    folder.mkdir(mode=0o700)
    pid = os.getpid() if pid is None else pid
    owner = {"pid": pid, "start": start_of(pid) if start is None else start, "host": "here"}
    (folder / "owner.json").write_text(json.dumps(owner))
    (folder / "shards").mkdir()
    (folder / "shards" / "x").write_text("x")
    return folder


def sleeper():
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_processes_that_live():
    own = start_of(os.getpid())
    assert own.isdigit()
    assert is_alive(os.getpid(), own)
    assert not is_alive(os.getpid(), "1")  # the number was given to another
    assert not is_alive(os.getpid(), "")
    assert is_alive(1, start_of(1))


def test_processes_that_have_ended():
    process = sleeper()
    start = start_of(process.pid)
    assert is_alive(process.pid, start)
    process.kill()
    end = time.monotonic() + 10
    while is_alive(process.pid, start):  # although nobody has waited for it
        assert time.monotonic() < end
    process.communicate()
    assert not is_alive(process.pid, start)
    assert start_of(process.pid) == ""
    assert not is_alive(2**22 + 1, "1")
    assert not is_alive(2**70, "1")


def test_a_program_may_be_called_anything(monkeypatch, tmp_path):
    line = "77 (a) b ) S " + " ".join(str(number) for number in range(4, 53))
    monkeypatch.setattr(reaper.Path, "read_text", lambda *_, **__: line)
    assert start_of(77) == "22"


def test_a_session_is_removed(folder):
    remove(folder)
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: folder.chmod(0o755),
        lambda folder: folder.parent.chmod(0o755),
        lambda folder: (folder / "owner.json").unlink(),
        lambda folder: (folder / "owner.json").write_text("{}"),
        lambda folder: (folder / "owner.json").write_text("[]"),
        lambda folder: (folder / "owner.json").write_text("no JSON"),
    ],
)
def test_nothing_else_is_removed(folder, spoil):
    spoil(folder)
    remove(folder)
    assert (folder / "shards" / "x").exists()


def test_other_places_are_not_removed(folder, tmp_path):
    other = make(tmp_path / ("b" * 32))  # not in the folder of sessions
    named = make(folder.parent / "named")
    link = folder.parent / ("c" * 32)
    link.symlink_to(other)
    for place in (other, named, link, tmp_path, folder.parent, tmp_path / "nothing"):
        remove(place)
    assert all((place / "shards" / "x").exists() for place in (other, named, folder))
    assert link.is_symlink()


def test_a_link_within_is_not_followed(folder, tmp_path):
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "x").write_text("x")
    (folder / "link").symlink_to(treasure)
    remove(folder)
    assert (treasure / "x").exists()


@pytest.mark.parametrize("has_handle", [True, False])
def test_the_script_waits_and_removes(folder, has_handle, tmp_path):
    process = sleeper()
    start = start_of(process.pid)
    mine = make(folder.parent / ("d" * 32), process.pid, start)
    script = reaper.__file__
    if not has_handle:  # an old kernel
        script = tmp_path / "reaper.py"
        source = Path(reaper.__file__).read_text(encoding="utf-8")
        script.write_text(source.replace("os.pidfd_open(pid)", "os.no_such_call(pid)"))
    command = [sys.executable, "-I", "-S", str(script), str(mine), str(process.pid), start]
    subprocess.run(command, check=True, timeout=30)  # it goes on in a child
    time.sleep(0.2)
    assert mine.exists()
    process.kill()
    process.communicate()
    end = time.monotonic() + 15
    while mine.exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert folder.exists()


def test_the_script_removes_only_the_session_of_whom_it_waited_for(folder):
    process = sleeper()
    start = start_of(process.pid)
    process.kill()
    process.communicate()
    command = [sys.executable, "-I", "-S", reaper.__file__, str(folder), str(process.pid), start]
    subprocess.run(command, check=True, timeout=30)
    time.sleep(0.5)
    assert owner_of(folder)["pid"] == os.getpid()


def test_the_script_needs_nothing_but_python():
    source = f"import runpy, sys; runpy.run_path({reaper.__file__!r}); print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", source], check=True, capture_output=True, text=True
    )
    assert not {"numpy", "sae_features", "sqlite3"} & set(done.stdout.split())
