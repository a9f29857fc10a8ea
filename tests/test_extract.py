"""Texts from files, features to files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.sparse as sp

from sae_features import SAEFeaturizer, extract
from sae_features.errors import AssetNotFoundError, InvalidInputError, InvalidParameterError

ROWS = sp.csr_matrix(np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]], np.float32))


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestReading:
    def test_a_line_is_a_text(self, tmp_path):
        path = written(tmp_path, "a.txt", "one\n\nthree\u2028still three\n")
        assert extract.read_texts(path) == ["one", "", "three\u2028still three"]

    @pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
    def test_a_column_of_a_table(self, tmp_path, name, tab):
        path = written(tmp_path, name, f'\ufeffid{tab}text\n1{tab}"two\nlines"\n2{tab}b\n')
        assert extract.read_texts(path) == ["two\nlines", "b"]
        assert extract.read_texts(path, "id") == ["1", "2"]

    def test_a_field_of_json_lines(self, tmp_path):
        path = written(tmp_path, "a.jsonl", '{"text": "a", "body": "x"}\n{"text": "b", "body": "y"}')
        assert extract.read_texts(path) == ["a", "b"]
        assert extract.read_texts(path, "body") == ["x", "y"]

    def test_the_only_column_needs_no_name(self, tmp_path):
        assert extract.read_texts(written(tmp_path, "a.csv", "review\ngood\n")) == ["good"]

    def test_very_long_fields(self, tmp_path):
        long = "x" * 300_000
        assert extract.read_texts(written(tmp_path, "a.csv", f"text\n{long}\n")) == [long]

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
    def test_empty_files(self, tmp_path, name):
        path = written(tmp_path, name, "text\n" if name == "a.csv" else "")
        assert extract.read_texts(path) == []

    @pytest.mark.parametrize(
        ("name", "content", "column", "error", "text"),
        [
            ("a.xlsx", "", None, InvalidParameterError, "Got 'a.xlsx'; expected a file of kind .txt"),
            ("a.txt", "x", "text", InvalidParameterError, "a .txt file has no columns"),
            ("a.txt", b"ab\xff", None, InvalidInputError, "not UTF-8 .byte 2"),
            ("a.csv", "id,body\n1,x\n", None, InvalidParameterError, "choose one of id, body"),
            ("a.csv", "id,text\n1,x\n2\n", None, InvalidInputError, "line 3: got 1 fields; expected 2"),
            ("a.jsonl", '{"text": "a"}\n\n', None, InvalidInputError, "line 2: not JSON"),
            ("a.jsonl", '["a"]\n', None, InvalidInputError, "line 1: expected a JSON object"),
            ("a.jsonl", '{"text": 1}\n', None, InvalidInputError, "line 1: got text=1"),
        ],
    )
    def test_bad_files(self, tmp_path, name, content, column, error, text):
        with pytest.raises(error, match=text):
            extract.read_texts(written(tmp_path, name, content), column)

    def test_no_file(self, tmp_path):
        with pytest.raises(AssetNotFoundError, match="expected a file there"):
            extract.read_texts(tmp_path / "none.txt")


class TestWriting:
    @pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
    def test_round_trip(self, tmp_path, name):
        path = extract.write_features(tmp_path / name, ROWS, {"model": "m"})
        rows, provenance = extract.read_features(path)
        assert provenance == {"model": "m"}
        assert (rows.dtype, rows.indices.dtype) == ("float32", "int32")
        np.testing.assert_array_equal(rows.toarray(), ROWS.toarray())
        assert [p.name for p in tmp_path.iterdir()] == [name]

    def test_scipy_reads_the_npz(self, tmp_path):
        path = extract.write_features(tmp_path / "f.npz", ROWS, {})
        np.testing.assert_array_equal(sp.load_npz(path).toarray(), ROWS.toarray())

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("f.csv", "Got 'f.csv'; expected a file of kind .npz or .parquet"),
            ("no/f.npz", "does not exist"),
        ],
    )
    def test_bad_outputs(self, tmp_path, name, text):
        with pytest.raises(InvalidParameterError, match=text):
            extract.check_output(tmp_path / name)

    def test_a_failure_leaves_the_old_file(self, tmp_path):
        path = extract.write_features(tmp_path / "f.npz", ROWS, {"n": 1})
        with pytest.raises(TypeError):
            extract.write_features(path, ROWS, {"n": object()})
        assert extract.read_features(path)[1] == {"n": 1}
        assert [p.name for p in tmp_path.iterdir()] == ["f.npz"]


def test_provenance_is_json_and_names_digests(tiny_bert, tiny_sae_folder):
    featurizer = SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk"), pooling="mean").fit(["a"])
    provenance = json.loads(json.dumps(extract.provenance_of(featurizer, n_items=1)))
    assert provenance["model_digest"] == featurizer.model_digest_
    assert provenance["sae_digest"] == featurizer.sae_digest_
    assert provenance["parameters"]["pooling"] == "mean"
    assert provenance["parameters"]["model"] == str(tiny_bert)
    assert provenance["n_items"] == 1
