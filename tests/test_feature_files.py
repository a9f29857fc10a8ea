"""Files of features: what they hold, and that damage is found."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import scipy.sparse as sp

from sae_features import feature_files
from sae_features.errors import InvalidInputError
from sae_features.feature_writer import FeatureWriter

ROWS = sp.csr_matrix(np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]], np.float32))


def written(path, rows):
    with FeatureWriter(path, rows.shape[1]) as writer:
        writer.append(rows)
        return writer.finish({})


def npz(path, compression=zipfile.ZIP_DEFLATED, **changed):
    """Write ROWS with changed members: arrays, bytes as they are, or None for none."""
    members = {
        "data": ROWS.data,
        "indices": ROWS.indices,
        "indptr": ROWS.indptr,
        "shape": np.array(ROWS.shape),
        "format": np.array(b"csr"),
        "provenance": np.array("{}"),
    }
    with zipfile.ZipFile(path, "w", compression) as container:
        for name, value in (members | changed).items():
            if value is not None:
                content = value if isinstance(value, bytes) else npy(value)
                container.writestr(f"{name}.npy", content)
    return path


def npy(array, claimed=None):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    if claimed is not None:
        header = np.lib.format.header_data_from_array_1_0(array) | {"shape": claimed}
        start = io.BytesIO()
        np.lib.format.write_array_header_1_0(start, header)
        return start.getvalue() + array.tobytes()
    return stream.getvalue()


def parquet(path, columns=None, **metadata):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "indices": pa.array([[1], [], [0, 2]], pa.list_(pa.int32())),
            "values": pa.array([[1.5], [], [2, 3]], pa.list_(pa.float32())),
        }
        | {name: pa.array(*value) for name, value in (columns or {}).items()}
    )
    known = {"n_features": "3", "provenance": "{}"} | metadata
    known = {name: value for name, value in known.items() if value is not None}
    pq.write_table(table.replace_schema_metadata(known), path)
    return path


def ints(*values, dtype=np.int32):
    return np.array(values, dtype)


class TestReading:
    """Files may be damaged or hostile: a clear error, never a crash or a wrong matrix."""

    def test_these_files_are_right_but_for_what_a_test_changes(self, tmp_path):
        for path in (npz(tmp_path / "f.npz"), parquet(tmp_path / "f.parquet")):
            rows, provenance = feature_files.read(path)
            np.testing.assert_array_equal(rows.toarray(), ROWS.toarray())
            assert provenance == {}

    @pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
    @pytest.mark.parametrize("shape", [(0, 3), (2, 0), (3, 5)])
    def test_nothing_stored(self, tmp_path, name, shape):
        path = written(tmp_path / name, sp.csr_matrix(shape, dtype=np.float32))
        assert feature_files.read(path)[0].shape == shape

    def test_files_that_were_written_at_once(self, tmp_path):
        """Version 0.1 wrote them so."""
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        rows = sp.random(300, 50, 0.2, "csr", np.float32, random_state=0)
        facts = {"shape": np.array(rows.shape, np.int64), "format": np.array(b"csr")}
        arrays = {name: getattr(rows, name) for name in ("data", "indices", "indptr")}
        with (tmp_path / "f.npz").open("wb") as stream:
            np.savez_compressed(stream, **arrays, **facts, provenance=np.array('{"n": 1}'))
        offsets = pa.array(rows.indptr, pa.int32())
        columns = [
            pa.ListArray.from_arrays(offsets, pa.array(values)) for values in (rows.indices, rows.data)
        ]
        metadata = {"n_features": "50", "provenance": '{"n": 1}'}
        table = pa.table(columns, names=["indices", "values"]).replace_schema_metadata(metadata)
        pq.write_table(table, tmp_path / "f.parquet", row_group_size=120)
        for path in (tmp_path / "f.npz", tmp_path / "f.parquet"):
            found, provenance = feature_files.read(path)
            np.testing.assert_array_equal(found.toarray(), rows.toarray())
            assert (found.indices.dtype, found.indptr.dtype) == ("int32", "int32")
            assert provenance == {"n": 1}

    def test_wide_indices(self, tmp_path):
        wide = {"indices": ROWS.indices.astype(np.int64), "indptr": ROWS.indptr.astype(np.int64)}
        rows, _ = feature_files.read(npz(tmp_path / "f.npz", **wide))
        np.testing.assert_array_equal(rows.toarray(), ROWS.toarray())

    def test_many_equal_values(self, tmp_path):
        rows = sp.csr_matrix(np.ones((2000, 500), np.float32))
        path = written(tmp_path / "f.npz", rows)
        assert feature_files.read(path)[0].nnz == 1_000_000

    @pytest.mark.parametrize(
        ("changed", "text"),
        [
            ({"indices": ints(1, 0, 3)}, "indices"),
            ({"indices": ints(1, 0, 2**30)}, "indices"),
            ({"indices": ints(1, -1, 2)}, "indices"),
            ({"indices": ints(1, 0, 2**40, dtype=np.int64)}, "indices"),
            ({"indices": ints(1, 0)}, "indices"),
            (
                {"indices": np.array([1.0, 0, 2])},
                "indices is float64 of shape .3,.; expected int32 or int64",
            ),
            ({"indices": ints(1, 0, 2).astype(">i4")}, "indices is >i4"),
            ({"indptr": ints(0, 2, 1, 3)}, "indptr|index pointer"),
            ({"indptr": ints(1, 1, 1, 3)}, "index pointer"),
            ({"indptr": ints(0, 1, 1, 2**30)}, "index pointer"),
            ({"indptr": ints(0, 1, 1, 2)}, "3 values; its rows hold 2"),
            ({"indptr": ints(0, 1, 3)}, "index pointer"),
            ({"data": ROWS.data.astype(np.float64)}, "data is float64 of shape .3,.; expected float32"),
            ({"data": ROWS.data[None]}, "data is float32 of shape .1, 3."),
            ({"data": np.array([None] * 3)}, "data is object"),
            ({"data": npy(ROWS.data, claimed=(2**40,))}, "data does not have the size"),
            ({"data": npy(ROWS.data, claimed=(-3,))}, "data"),
            ({"data": npy(ROWS.data)[:-1]}, "data does not have the size"),
            ({"data": b"\x93NUMPY\x01\x00" + b"\xff\xff" + b"(" * 65535}, "cannot be read"),
            ({"data": b"no array"}, "cannot be read"),
            ({"data": None}, "members"),
            ({"more": ROWS.data}, "members"),
            ({"shape": ints(3, -3, dtype=np.int64)}, "negative"),
            ({"shape": ints(3, 3, 3, dtype=np.int64)}, "shape"),
            ({"shape": ints(3, dtype=np.int64)}, "got the shape .3.; expected two numbers"),
            ({"shape": np.array([3.0, 3.0])}, "shape is float64"),
            ({"format": np.array(b"csc")}, "b'csc'; expected b'csr'"),
            ({"provenance": np.array("[1]")}, "provenance is not a JSON object"),
            ({"provenance": np.array("{")}, "cannot be read"),
            ({"provenance": np.array("[" * 100_000)}, "cannot be read"),
            ({"compression": zipfile.ZIP_LZMA}, "compressed by another method"),
        ],
    )
    def test_damaged_npz(self, tmp_path, changed, text):
        path = npz(tmp_path / "f.npz", **changed)
        with pytest.raises(InvalidInputError, match=text) as caught:
            feature_files.read(path)
        assert str(caught.value).startswith("f.npz cannot be read as features: ")

    @pytest.mark.parametrize("compress_size", [None, 2**30])
    def test_sizes_that_deflate_cannot_reach(self, tmp_path, compress_size):
        path = npz(tmp_path / "f.npz", data=npy(ROWS.data, claimed=(2**28,)))
        with zipfile.ZipFile(path, "a") as container:
            info = container.getinfo("data.npy")
            info.file_size += 2**30 - ROWS.data.nbytes
            info.compress_size = compress_size or info.compress_size
            container._didModify = True
        with pytest.raises(InvalidInputError, match="data does not have the size|Overlapped"):
            feature_files.read(path)

    def test_a_member_twice(self, tmp_path):
        path = npz(tmp_path / "f.npz")
        with (
            pytest.warns(UserWarning, match="Duplicate name"),
            zipfile.ZipFile(path, "a") as container,
        ):
            container.writestr("data.npy", npy(ROWS.data))
        with pytest.raises(InvalidInputError, match="members"):
            feature_files.read(path)

    @pytest.mark.parametrize(
        ("columns", "metadata", "text"),
        [
            ({"indices": ([[1], [], [0, 3]], "list<item: int32>")}, {}, "indices"),
            ({"indices": ([[1], [], [0, -1]], "list<item: int32>")}, {}, "indices"),
            ({"indices": ([[1], [0], [2]], "list<item: int32>")}, {}, "not as many as values"),
            ({"indices": ([[1], None, [0, 2]], "list<item: int32>")}, {}, "no indices"),
            ({"indices": ([[1], [], [0, None]], "list<item: int32>")}, {}, "cannot be read"),
            ({"indices": ([1, 2, 3], "int32")}, {}, "columns"),
            ({"values": ([[1.5], [], [2, 3]], "list<item: double>")}, {}, "columns"),
            ({"more": ([1, 2, 3], "int32")}, {}, "columns"),
            ({}, {"n_features": None}, "says no n_features"),
            ({}, {"provenance": None}, "says no provenance"),
            ({}, {"n_features": "x"}, "cannot be read"),
            ({}, {"n_features": "-1"}, "negative"),
            ({}, {"n_features": "1" * 40}, "cannot be read"),
            ({}, {"provenance": "[]"}, "provenance is not a JSON object"),
        ],
    )
    def test_damaged_parquet(self, tmp_path, columns, metadata, text):
        pa = pytest.importorskip("pyarrow")
        types = {
            "int32": pa.int32(),
            "list<item: int32>": pa.list_(pa.int32()),
            "list<item: double>": pa.list_(pa.float64()),
        }
        columns = {name: (values, types[kind]) for name, (values, kind) in columns.items()}
        path = parquet(tmp_path / "f.parquet", columns, **metadata)
        with pytest.raises(InvalidInputError, match=text) as caught:
            feature_files.read(path)
        assert str(caught.value).startswith("f.parquet cannot be read as features: ")

    @pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
    def test_cut_and_flipped_files(self, tmp_path, name):
        rows = sp.random(20, 50, 0.2, "csr", np.float32, random_state=0)
        path = written(tmp_path / name, rows)
        content = path.read_bytes()
        cut = [content[:end] for end in range(0, len(content), 41)]
        flipped = [
            content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
            for at in range(0, len(content), 7)
        ]
        for damaged in cut + flipped:
            path.write_bytes(damaged)
            try:
                feature_files.read(path)[0].check_format(full_check=True)
            except InvalidInputError:
                continue
