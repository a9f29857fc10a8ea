"""Features written block by block: the same file as at once, in little memory, whole or not at all."""

from __future__ import annotations

import os
import tracemalloc
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sae_features import feature_files, feature_writer
from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.feature_files import fitting_integer, read
from sae_features.feature_writer import FeatureWriter

ROWS = sp.csr_matrix(np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]], np.float32))
NAMES = ["f.npz", "f.parquet"]


def random_rows(n_items, n_features, density=0.3, seed=0):
    return sp.random(n_items, n_features, density, "csr", np.float32, random_state=seed)


def write(path, blocks, n_features, provenance=None):
    with FeatureWriter(path, n_features) as writer:
        for rows in blocks:
            writer.append(rows)
        return writer.finish(provenance or {})


def assert_same(rows, expected):
    assert rows.shape == expected.shape
    np.testing.assert_array_equal(rows.indptr, expected.indptr)
    np.testing.assert_array_equal(rows.indices, expected.indices)
    np.testing.assert_array_equal(rows.data, expected.data)


class TestBlocks:
    @given(
        n_items=st.integers(0, 30),
        n_features=st.integers(1, 12),
        density=st.sampled_from([0, 0.1, 0.5, 1]),
        seed=st.integers(0, 99),
        cuts=st.lists(st.integers(0, 30), max_size=8),
        sizes=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    )
    @example(n_items=0, n_features=3, density=0, seed=0, cuts=[], sizes=(1, 1, 1))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
    def test_in_blocks_is_as_at_once(self, tmp_path, n_items, n_features, density, seed, cuts, sizes):
        rows = random_rows(n_items, n_features, density, seed)
        bounds = sorted({0, n_items, *(min(cut, n_items) for cut in cuts)})
        blocks = [rows[start:stop] for start, stop in pairwise(bounds)]
        for name in NAMES:
            with pytest.MonkeyPatch.context() as patch:
                for size, value in zip(("BLOCK", "GROUP_ROWS", "GROUP_VALUES"), sizes, strict=True):
                    patch.setattr(feature_writer, size, value)
                path = write(tmp_path / name, blocks, n_features, {"n": n_items})
            found, provenance = read(path)
            assert_same(found, rows)
            assert provenance == {"n": n_items}
            if name == "f.npz":
                loaded = sp.load_npz(path)
                assert_same(loaded, rows)
                assert (loaded.format, loaded.dtype) == ("csr", "float32")

    def test_the_numbers_so_far(self, tmp_path):
        with FeatureWriter(tmp_path / "f.npz", 3) as writer:
            assert (writer.n_items, writer.n_values) == (0, 0)
            writer.append(ROWS)
            writer.append(ROWS[:1])
            assert (writer.n_items, writer.n_values) == (4, 4)

    @pytest.mark.parametrize("name", NAMES)
    def test_arrays_and_slices_of_matrices(self, tmp_path, name):
        spare = sp.csr_matrix(  # scipy lets the arrays be longer than what the rows hold
            (np.arange(1, 9, dtype=np.float32), np.zeros(8, np.int32), np.array([0, 1, 2])), shape=(2, 3)
        )
        path = write(tmp_path / name, [sp.csr_array(ROWS), spare], 3)
        np.testing.assert_array_equal(
            read(path)[0].toarray(), [[0, 1.5, 0], [0, 0, 0], [2, 0, 3], [1, 0, 0], [2, 0, 0]]
        )

    def test_row_groups(self, tmp_path, monkeypatch):
        pq = pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr(feature_writer, "GROUP_VALUES", 50)
        monkeypatch.setattr(feature_writer, "GROUP_ROWS", 4)
        tens, sixties = (sp.csr_matrix(np.ones((n, 60), np.float32)) for n in (10, 3))
        tens[:, 10:] = 0
        tens.eliminate_zeros()
        path = write(tmp_path / "f.parquet", [tens, sixties], 60)
        kept = pq.ParquetFile(path).metadata
        sizes = [kept.row_group(i).num_rows for i in range(kept.num_row_groups)]
        assert sizes == [4, 4, 2, 1, 1, 1]
        assert_same(read(path)[0], sp.vstack([tens, sixties], "csr"))

    @pytest.mark.parametrize(
        ("rows", "error", "text"),
        [
            (ROWS.astype("float64"), InputTypeError, "expected CSR rows of float32"),
            (ROWS.tocsc(), InputTypeError, "Got csc_matrix; expected CSR rows of float32"),
            (ROWS[:, :2], InvalidInputError, "Got rows of 2 features; expected 3"),
        ],
    )
    def test_other_rows(self, tmp_path, rows, error, text):
        with FeatureWriter(tmp_path / "f.npz", 3) as writer, pytest.raises(error, match=text):
            writer.append(rows)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("index", [3, -1])
    def test_rows_that_are_no_csr(self, tmp_path, index):
        rows = ROWS.copy()
        rows.indices[0] = index
        with (
            FeatureWriter(tmp_path / "f.npz", 3) as writer,
            pytest.raises(InvalidInputError, match="Got rows that are no valid CSR: .*ind"),
        ):
            writer.append(rows)


class TestIntegers:
    """int32 where it is wide enough, as scipy has it."""

    def test_the_boundary(self):
        assert fitting_integer(-1) == np.int32
        assert fitting_integer(2**31 - 1) == np.int32
        assert fitting_integer(2**31) == np.int64

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(
        ("most", "n_features", "indices", "indptr"),
        [
            (6, 3, "int32", "int32"),
            (5, 3, "int32", "int64"),  # six values
            (6, 8, "int64", "int32"),
            (2, 8, "int64", "int64"),
        ],
    )
    def test_wider_ones_where_they_are_needed(
        self, tmp_path, monkeypatch, name, most, n_features, indices, indptr
    ):
        rows = sp.csr_matrix((ROWS.data, ROWS.indices, ROWS.indptr), shape=(3, n_features))
        monkeypatch.setattr(feature_files, "MOST_INT32", most)
        path = write(tmp_path / name, [rows, rows], n_features)
        expected = sp.vstack([rows, rows], "csr")
        assert_same(read(path)[0], expected)
        if name == "f.npz":
            with zipfile.ZipFile(path) as container:
                for member, kind in (("indices", indices), ("indptr", indptr)):
                    with container.open(f"{member}.npy") as stream:
                        assert np.lib.format.read_array(stream).dtype == kind
            assert_same(sp.load_npz(path), expected)
        else:
            pq = pytest.importorskip("pyarrow.parquet")
            assert str(pq.read_schema(path).field("indices").type.value_type) == indices

    def test_wide_indices_become_narrow(self, tmp_path):
        rows = ROWS.copy()
        rows.indices, rows.indptr = rows.indices.astype(np.int64), rows.indptr.astype(np.int64)
        found, _ = read(write(tmp_path / "f.npz", [rows], 3))
        assert_same(found, ROWS)
        assert found.indices.dtype == "int32"


class TestMemory:
    @pytest.mark.parametrize("name", NAMES)
    def test_it_does_not_grow_with_the_rows(self, tmp_path, monkeypatch, name):
        pa = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet")
        monkeypatch.setattr(feature_writer, "GROUP_VALUES", 1 << 15)
        monkeypatch.setattr(feature_writer, "BLOCK", 1 << 13)
        rows = random_rows(256, 200)
        usual, peaks = pa.default_memory_pool(), []
        for n_blocks in (50, 400):
            pool = pa.proxy_memory_pool(usual)
            pa.set_memory_pool(pool)
            tracemalloc.start()
            try:
                write(tmp_path / name, (rows for _ in range(n_blocks)), 200)
                peaks.append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
            finally:
                tracemalloc.stop()
                pa.set_memory_pool(usual)
        assert 400 * (rows.data.nbytes + rows.indices.nbytes) > 49_000_000
        assert peaks[1] < peaks[0] + 500_000
        assert peaks[1] < 2_000_000


def interrupt(*_args, **_options):
    raise KeyboardInterrupt


class TestWholeOrNotAtAll:
    def test_nothing_is_seen_before_the_end(self, tmp_path):
        with FeatureWriter(tmp_path / "f.npz", 3) as writer:
            writer.append(ROWS)
            if os.name != "nt":
                assert not list(tmp_path.iterdir())
            writer.finish({})
            assert [path.name for path in tmp_path.iterdir()] == ["f.npz"]

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    @pytest.mark.parametrize("is_old", [False, True])
    def test_an_error_between_rows(self, tmp_path, name, error, is_old):
        if is_old:
            write(tmp_path / name, [ROWS], 3, {"old": True})

        def blocks():
            yield ROWS
            raise error

        with pytest.raises(error):
            write(tmp_path / name, blocks(), 3)
        self.check_left(tmp_path, name, is_old)

    @pytest.mark.parametrize("is_old", [False, True])
    @pytest.mark.parametrize(
        ("name", "place", "what"),
        [
            ("f.npz", feature_writer, "_put"),
            ("f.npz", feature_writer, "_write_npy"),
            ("f.npz", np.lib.format, "write_array"),
            ("f.npz", Path, "replace"),
            ("f.parquet", FeatureWriter, "_groups"),
            ("f.parquet", feature_writer, "_get"),
        ],
    )
    def test_ctrl_c_at_any_time(self, tmp_path, name, is_old, place, what):
        if is_old:
            write(tmp_path / name, [ROWS], 3, {"old": True})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, what, interrupt)
            with pytest.raises(KeyboardInterrupt):
                write(tmp_path / name, [ROWS], 3)
        self.check_left(tmp_path, name, is_old)

    @pytest.mark.parametrize("name", NAMES)
    def test_without_finish_there_is_no_file(self, tmp_path, name):
        with FeatureWriter(tmp_path / name, 3) as writer:
            writer.append(ROWS)
        self.check_left(tmp_path, name, is_old=False)

    def test_a_provenance_that_is_no_json(self, tmp_path):
        with FeatureWriter(tmp_path / "f.npz", 3) as writer:
            writer.append(ROWS)
            with pytest.raises(TypeError):
                writer.finish({"n": object()})
            writer.finish({"n": 1})
        assert read(tmp_path / "f.npz")[1] == {"n": 1}

    @pytest.mark.parametrize("fails", [1, 2, 3])
    def test_half_an_append_is_written_over(self, tmp_path, monkeypatch, fails):
        """A disk may be full for a moment."""
        calls, genuine = [], feature_writer._put

        def put(stream, position, array):
            calls.append(1)
            if len(calls) == fails:
                raise OSError(28, "No space left on device")
            genuine(stream, position, array)

        with FeatureWriter(tmp_path / "f.npz", 3) as writer:
            writer.append(ROWS[2:])
            monkeypatch.setattr(feature_writer, "_put", put)
            with pytest.raises(OSError, match="No space"):
                writer.append(ROWS[2:])
            monkeypatch.setattr(feature_writer, "_put", genuine)
            writer.append(ROWS)
            writer.finish({})
        assert_same(read(tmp_path / "f.npz")[0], sp.vstack([ROWS[2:], ROWS], "csr"))

    def test_nothing_is_added_after_the_end(self, tmp_path):
        with FeatureWriter(tmp_path / "f.npz", 3) as writer:
            writer.finish({})
            with pytest.raises(ValueError, match="closed file"):
                writer.append(ROWS)

    @staticmethod
    def check_left(folder, name, is_old):
        assert [path.name for path in folder.iterdir()] == [name] * is_old
        if is_old:
            rows, provenance = read(folder / name)
            assert_same(rows, ROWS)
            assert provenance == {"old": True}
