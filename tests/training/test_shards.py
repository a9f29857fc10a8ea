"""Activations on disk: written whole or not at all, resumed, and read as they were."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sae_features.errors import InvalidInputError, InvalidParameterError, StoreError
from sae_features.hook_point import HookPoint
from sae_features.training import shard_index, sources
from sae_features.training.shards import ShardSource, write_activations
from sae_features.training.sources import ArraySource

N, D_IN = 103, 5
SHARD = "activations-00001.safetensors"


def rows(n=N, d_in=D_IN, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d_in)).astype(np.float32)


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def data():
    return rows()


@pytest.fixture
def folder(tmp_path, data):
    write_activations(ArraySource(data, hook_point=(1, "mlp_out")), tmp_path / "acts", shard_rows=20)
    return tmp_path / "acts"


def test_what_is_read_is_what_was_written(folder, data):
    source = ShardSource(folder)
    assert (source.n_rows, source.d_in, source.hook_point) == (N, D_IN, HookPoint(1, "mlp_out"))
    assert repr(source) == "ShardSource(103 rows, d_in=5, 5 shards of float32)"
    np.testing.assert_array_equal(torch.cat(list(source.in_order(9))).numpy(), data)
    as_array = ArraySource(data)
    for batch_size in (1, 8, 30, 500):
        n = 2 * source.n_batches(batch_size)
        assert source.n_batches(batch_size) == as_array.n_batches(batch_size)
        found = take(source.batches(batch_size, seed=4), n)
        for one, other in zip(found, take(as_array.batches(batch_size, seed=4), n), strict=True):
            assert torch.equal(one, other)
    assert torch.equal(source.sample(20), as_array.sample(20))


def test_the_files_are_plain_safetensors(folder, data):
    shards = [load_file(folder / f"activations-{i:05}.safetensors") for i in range(5)]
    np.testing.assert_array_equal(torch.cat([s["activations"] for s in shards]).numpy(), data)
    index = json.loads((folder / "activations.json").read_text())
    assert index["schema"] == 1
    assert [shard["n_rows"] for shard in index["shards"]] == [len(s["activations"]) for s in shards]
    assert sorted(contents(folder)) == sorted(
        ["activations.json", *(f"activations-{i:05}.safetensors" for i in range(5))]
    )


@given(
    n=st.integers(1, 60), shard_rows=st.integers(1, 70), batch=st.integers(1, 30), d_in=st.integers(1, 4)
)
@settings(max_examples=30)
def test_any_sizes_are_read_as_they_were_written(tmp_path_factory, n, shard_rows, batch, d_in):
    data, folder = rows(n, d_in), tmp_path_factory.mktemp("acts")
    source = write_activations(ArraySource(data), folder, shard_rows=shard_rows)
    np.testing.assert_array_equal(torch.cat(list(source.in_order(batch))).numpy(), data)
    one_pass = torch.cat(take(source.batches(batch), source.n_batches(batch))).numpy()
    order = np.lexsort(one_pass.T), np.lexsort(data.T)
    np.testing.assert_array_equal(one_pass[order[0]], data[order[1]])
    source.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_are_rounded_to_the_type_on_disk(tmp_path, data, dtype):
    source = write_activations(ArraySource(data), tmp_path, dtype=dtype, shard_rows=20)
    expected = torch.from_numpy(data).to(getattr(torch, dtype)).float()
    assert torch.equal(torch.cat(list(source.in_order(10))), expected)
    assert next(source.batches(10)).dtype == torch.float32
    size = {"float32": 4}.get(dtype, 2)
    for path in tmp_path.glob("*.safetensors"):
        assert path.stat().st_size < 200 + 21 * D_IN * size


def test_what_made_the_rows_is_kept(tmp_path, data):
    metadata = {"model": {"id": "m", "digest": "ä" * 4}, "max_length": 32, "tokens": "content"}
    write_activations(ArraySource(data, metadata=metadata), tmp_path)
    assert ShardSource(tmp_path).metadata == metadata
    assert ShardSource(tmp_path).hook_point is None


def test_skipping_is_exact(folder, monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_ROWS", 4)
    monkeypatch.setattr(sources, "GROUP_ROWS", 20)
    source = ShardSource(folder)
    whole = take(source.batches(9, seed=1), 25)
    for start in range(25):
        assert torch.equal(next(source.batches(9, seed=1, start=start)), whole[start])


class Interrupted(ArraySource):
    """An array whose rows end in an error, and that says what it was asked for."""

    def __init__(self, *arguments, after=10**9, **options):
        super().__init__(*arguments, **options)
        self.after, self.given = after, []

    def in_order(self, batch_size, *, start=0):
        for number, batch in enumerate(super().in_order(batch_size, start=start), start):
            if number >= self.after:
                raise KeyboardInterrupt
            self.given.append(number)
            yield batch


@pytest.mark.parametrize("after", range(1, 5))
def test_a_second_call_goes_on_behind_the_last_whole_shard(tmp_path, folder, data, after):
    point = (1, "mlp_out")
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt):
        write_activations(Interrupted(data, after=after, hook_point=point), begun, shard_rows=20)
    with pytest.raises(StoreError) as told:
        ShardSource(begun)
    assert str(told.value) == (
        f"{str(begun)!r} is not finished: {after} shards are written. Call write_activations again "
        "with the same source."
    )
    again = Interrupted(data, hook_point=point)
    _ = again.digest  # reads all rows
    again.given.clear()
    write_activations(again, begun, shard_rows=20)
    assert again.given == list(range(after, 5))
    assert contents(begun) == contents(folder)


def test_a_folder_that_is_finished_is_left_as_it_is(folder, data):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    source = write_activations(ArraySource(data, hook_point=(1, "mlp_out")), folder, shard_rows=20)
    assert source.n_rows == N
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


WRITER = """
import sys, time
import numpy as np
from sae_features.training.shards import write_activations
from sae_features.training.sources import ArraySource

class Slow(ArraySource):
    def in_order(self, batch_size, *, start=0):
        for batch in super().in_order(batch_size, start=start):
            time.sleep(float(sys.argv[2]) if batch_size < 4096 else 0)
            yield batch

data = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
write_activations(Slow(data), sys.argv[1], shard_rows=50)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_writer_that_is_killed_loses_nothing_that_is_whole(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([sys.executable, "-c", WRITER, whole, "0"], check=True)
    rng = np.random.default_rng(0)
    n_before = 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, killed, "0.002"])
        while len(list(killed.glob("*.safetensors"))) < n_before + 3:
            assert writer.poll() is None
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        index = json.loads((killed / "activations.json").read_text())
        n_before = len(list(killed.glob("*.safetensors")))
        assert 0 <= n_before - len(index["shards"]) <= 1
        assert not index["is_complete"]
    subprocess.run([sys.executable, "-c", WRITER, killed, "0"], check=True)
    assert contents(killed) == contents(whole)
    ShardSource(killed).verify()


def test_what_a_killed_writer_left_half_written_goes(tmp_path, data, folder):
    begun = tmp_path / "begun"
    with pytest.raises(KeyboardInterrupt):
        write_activations(Interrupted(data, after=2, hook_point=(1, "mlp_out")), begun, shard_rows=20)
    (begun / "activations-00002.safetensors.draft").write_bytes(b"half")
    (begun / "activations-00002.safetensors").write_bytes(b"not in the index")
    write_activations(ArraySource(data, hook_point=(1, "mlp_out")), begun, shard_rows=20)
    assert contents(begun) == contents(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"data": rows(seed=1)}, "digest is '"),
        ({"data": rows(50)}, "n_rows is 103 there, and 50 of what is to be written"),
        ({"data": rows(d_in=4)}, "d_in is 5 there, and 4 of"),
        ({"hook_point": (2, "mlp_out")}, "hook_point['layer'] is 1 there, and 2 of"),
        ({"hook_point": None}, "hook_point is {'layer': 1, 'site': 'mlp_out'} there, and None of"),
        ({"metadata": {"tokens": "all"}}, "metadata['tokens'] is None there, and 'all' of"),
        ({"dtype": "float16"}, "dtype is 'float32' there, and 'float16' of"),
        ({"shard_rows": 21}, "shard_rows is 20 there, and 21 of"),
    ],
)
def test_activations_of_another_origin_are_refused(folder, data, change, told):
    given = {"data": data, "hook_point": (1, "mlp_out"), "metadata": {}, "dtype": "float32"}
    given |= {"shard_rows": 20} | change
    before = contents(folder)
    source = ArraySource(given["data"], hook_point=given["hook_point"], metadata=given["metadata"])
    with pytest.raises(StoreError) as error:
        write_activations(source, folder, dtype=given["dtype"], shard_rows=given["shard_rows"])
    message = str(error.value)
    assert message.startswith(f"{str(folder)!r} holds activations of another origin: ")
    assert told in message
    assert message.endswith("Choose another folder, or remove this one.")
    assert contents(folder) == before


def test_a_folder_with_other_files_is_refused(tmp_path, data):
    (tmp_path / "thesis.draft").write_text("mine")
    with pytest.raises(
        StoreError, match=r"which holds 'thesis\.draft' and no index of activations; exp"
    ):
        write_activations(ArraySource(data), tmp_path)
    assert (tmp_path / "thesis.draft").read_text() == "mine"
    with pytest.raises(StoreError, match=r"thesis\.draft', which is a file; expected a folder to write"):
        write_activations(ArraySource(data), tmp_path / "thesis.draft")


def test_two_processes_do_not_write_at_a_time(tmp_path, data):
    pytest.importorskip("fcntl")

    class Nested(ArraySource):
        def in_order(self, batch_size, *, start=0):
            write_activations(ArraySource(data), tmp_path)
            yield

    with pytest.raises(StoreError, match=r"^Another process writes activations to .*; wait for it, or "):
        write_activations(Nested(data), tmp_path, shard_rows=20)


def full_disk(monkeypatch, *, after):
    """Let the disk be full when a file is written for the ``after``-th time."""
    written = []
    genuine = Path.open

    class Full:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.stream.__enter__()
            return self

        def __exit__(self, *error):
            return self.stream.__exit__(*error)

        def write(self, data):
            written.append(len(data))
            if len(written) >= after:
                self.stream.write(data[:10])
                raise OSError(errno.ENOSPC, "No space left on device")
            return self.stream.write(data)

        def __getattr__(self, name):
            return getattr(self.stream, name)

    def opened(path, mode="r", *rest, **options):
        stream = genuine(path, mode, *rest, **options)
        return Full(stream) if mode == "wb" else stream

    monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("after", range(1, 12))
def test_a_full_disk_leaves_what_is_whole(tmp_path, monkeypatch, folder, data, after):
    begun = tmp_path / "begun"
    source = ArraySource(data, hook_point=(1, "mlp_out"))
    with monkeypatch.context() as patch:
        full_disk(patch, after=after)
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1234))
        with pytest.raises(StoreError) as error:
            write_activations(source, begun, shard_rows=20)
    assert str(error.value).startswith("No space is left for activations")
    assert "1,234 bytes are free." in str(error.value)
    assert not list(begun.glob("*.draft"))
    for name, content in contents(begun).items():
        assert name == "activations.json" or content == (folder / name).read_bytes()
    assert len(list(begun.glob("*.safetensors"))) == (after - 1) // 2
    write_activations(source, begun, shard_rows=20)
    assert contents(begun) == contents(folder)


def test_a_full_disk_is_told_of_with_what_is_free(tmp_path, monkeypatch, data):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1234))
    full_disk(monkeypatch, after=4)
    with pytest.raises(StoreError) as error:
        write_activations(ArraySource(data), tmp_path, shard_rows=20)
    assert str(error.value) == (
        f"No space is left for {SHARD} (500 bytes) in {str(tmp_path)!r}: 1,234 bytes are free. 1 shards "
        "are whole and stay; make space and call write_activations again, which goes on behind them."
    )


def test_another_failure_of_the_disk_is_told_as_it_is(tmp_path, monkeypatch, data):
    def broken(handle):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_activations(ArraySource(data), tmp_path)
    assert contents(tmp_path) == {}


def damaged(complaint):
    return rf"^The shard {SHARD} in '.*' is damaged: {complaint}.* Copy the folder again, or remove it"


def test_a_missing_shard_is_named(folder):
    (folder / SHARD).unlink()
    with pytest.raises(StoreError, match=damaged("it is missing")):
        ShardSource(folder)


@pytest.mark.parametrize("size", [0, 5, 60, 400])
def test_a_truncated_shard_is_named(folder, size):
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:size])
    with pytest.raises(StoreError, match=damaged(f"it has {size} bytes; expected {len(data)}")):
        ShardSource(folder)


@pytest.mark.parametrize("place", [0, 3, 9, 30])
def test_a_damaged_header_is_named(folder, place):
    data = bytearray((folder / SHARD).read_bytes())
    data[place] ^= 0x55
    (folder / SHARD).write_bytes(data)
    with pytest.raises(StoreError, match=damaged("")):
        ShardSource(folder)


def test_a_shard_of_other_rows_is_named(folder):
    rows_there = load_file(folder / SHARD)["activations"]
    save_file({"activations": rows_there.T.contiguous()}, folder / SHARD)
    with pytest.raises(StoreError, match=damaged("it holds .*; expected ")):
        ShardSource(folder)


def test_changed_rows_are_found_by_verify(folder):
    ShardSource(folder).verify()
    data = bytearray((folder / SHARD).read_bytes())
    data[-1] ^= 1
    (folder / SHARD).write_bytes(data)
    source = ShardSource(folder)
    with pytest.raises(StoreError, match=damaged("its content has changed")):
        source.verify()


def change_index(folder, **changes):
    path = folder / "activations.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema": 2}, r"is of schema 2; this version of sae_features reads 1\. Use the version"),
        ({"shards": None}, "is damaged: TypeError"),
        ({"shards": []}, "is damaged: ValueError: is_complete=True with 0 shards"),
        ({"shards": [{"n_rows": 1}]}, "is damaged: TypeError"),
        (
            {"shards": [{"n_rows": -1, "n_bytes": 8, "sha256": ""}]},
            r"is damaged: ValueError: sizes \[5, -1",
        ),
        ({"is_complete": "yes"}, "is damaged: ValueError: is_complete='yes'"),
        ({"origin": {}}, "is damaged: ValueError: its identity is not that of its origin"),
        ({"origin": 3}, "is damaged: TypeError"),
    ],
)
def test_a_damaged_index_is_told_of(folder, changes, told):
    change_index(folder, **changes)
    with pytest.raises(StoreError, match=rf"activations\.json {told}"):
        ShardSource(folder)


def test_an_index_that_is_no_json_is_told_of(folder):
    (folder / "activations.json").write_text("{")
    with pytest.raises(
        StoreError, match=r"activations\.json is damaged: could not be read as JSON: .*anew"
    ):
        ShardSource(folder)


def test_a_folder_without_activations_is_told_of(tmp_path):
    message = r"which holds no activations \(no activations\.json\); expected a folder that write_activ"
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StoreError, match=message):
            ShardSource(folder)


def test_rows_that_are_not_finite_are_not_written(tmp_path, data):
    data[50, 1] = np.nan
    with pytest.raises(
        InvalidInputError, match=r"not finite in batch 2 \(row 9 of it; 1 of its 20 rows\)"
    ):
        write_activations(ArraySource(data), tmp_path, shard_rows=20)


def test_rows_that_the_type_on_disk_cannot_hold_are_not_written(tmp_path, data):
    data[50, 1] = 70_000
    message = r"^Got activations up to 7e\+04 in batch 2, which float16 cannot hold; expected dtype='bfl"
    with pytest.raises(InvalidInputError, match=message):
        write_activations(ArraySource(data), tmp_path, dtype="float16", shard_rows=20)


def test_parameters_are_checked(tmp_path, data):
    with pytest.raises(
        InvalidParameterError, match=r"^Got dtype='float8'; expected one of float32, flo"
    ):
        write_activations(ArraySource(data), tmp_path, dtype="float8")
    with pytest.raises(
        InvalidParameterError, match=r"^Got shard_rows=0; expected .* integer above 0\.$"
    ):
        write_activations(ArraySource(data), tmp_path, shard_rows=0)
    odd = ArraySource(data, metadata={"path": Path()})
    with pytest.raises(InvalidParameterError, match=r"^Got metadata that are not plain JSON values: "):
        write_activations(odd, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_open_shards_hold_no_file_descriptors(folder):
    before = len(list(Path("/proc/self/fd").iterdir()))
    source = ShardSource(folder)
    list(source.in_order(10))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_progress_is_shown_when_asked_for(tmp_path, data, capsys):
    write_activations(ArraySource(data), tmp_path / "shown", shard_rows=20, verbose=True)
    assert "5/5" in capsys.readouterr().err
    write_activations(ArraySource(data), tmp_path / "not", shard_rows=20)
    assert capsys.readouterr().err == ""


def test_the_index_is_replaced_as_a_whole(folder, monkeypatch):
    """A reader never meets half an index: it is written beside, and renamed."""
    index = shard_index.ShardIndex.read(folder)
    seen = []
    genuine = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: seen.append(ShardSource(folder).n_rows) or genuine(handle)
    )
    index.write(folder)
    assert seen == [N]
