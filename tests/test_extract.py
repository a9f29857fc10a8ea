"""Texts from files, features to files."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import scipy.sparse as sp

from sae_features import SAEFeaturizer, extract
from sae_features.errors import (
    AssetNotFoundError,
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
)

# Characters at which str.splitlines ends a line, and files do not.
ODD = "a\u2028b\x85c\x0cd\x0be\x1cf\x1dg\x1eh"
ROWS = sp.csr_matrix(np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]], np.float32))


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestReading:
    def test_a_line_is_a_text(self, tmp_path):
        path = written(tmp_path, "a.txt", f"one\n\n{ODD}\rstill three\n")
        assert extract.read_texts(path) == ["one", "", f"{ODD}\rstill three"]

    def test_windows_line_ends(self, tmp_path):
        assert extract.read_texts(written(tmp_path, "a.txt", "one\r\n\r\ntwo\r\n")) == ["one", "", "two"]
        path = written(tmp_path, "a.jsonl", '{"text": "one"}\r\n{"text": "two"}\r\n')
        assert extract.read_texts(path) == ["one", "two"]

    @pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
    def test_a_column_of_a_table(self, tmp_path, name, tab):
        path = written(tmp_path, name, f'\ufeffid{tab}text\n1{tab}"two\nlines"\n2{tab}b\n')
        assert extract.read_texts(path) == ["two\nlines", "b"]
        assert extract.read_texts(path, "id") == ["1", "2"]

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
    @pytest.mark.parametrize("text", [ODD, "two\r\nlines", "two\nlines", 'a "word"'])
    def test_a_field_of_a_table_comes_as_it_is(self, tmp_path, name, text):
        quoted = text.replace('"', '""')
        path = written(tmp_path, name, f'text\r\n"{quoted}"\r\nb\r\n')
        assert extract.read_texts(path) == [text, "b"]

    def test_odd_characters_need_no_quotes(self, tmp_path):
        assert extract.read_texts(written(tmp_path, "a.csv", f"text\n{ODD}\n")) == [ODD]
        path = written(tmp_path, "a.jsonl", json.dumps({"text": ODD}, ensure_ascii=False))
        assert extract.read_texts(path) == [ODD]

    def test_a_repeated_column_can_stand_beside_the_chosen_one(self, tmp_path):
        assert extract.read_texts(written(tmp_path, "a.csv", "x,text,x\n1,a,2\n")) == ["a"]

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
            ("a.csv", 'id,text\n1,"a\nb",\n', None, InvalidInputError, "line 2: got 3 fields"),
            (
                "a.csv",
                'text\na\n"b\nc\n',
                None,
                InvalidInputError,
                "a.csv, line 3: unexpected end of data",
            ),
            ("a.tsv", '"text\na\n', None, InvalidInputError, "a.tsv, line 1: unexpected end of data"),
            ("a.csv", 'text\n"a"b\n', None, InvalidInputError, "a.csv, line 2: ',' expected after"),
            ("a.csv", "text,text\na,b\n", None, InvalidInputError, "a.csv has 2 columns 'text'; rename"),
            ("a.csv", "id,id\n1,2\n", "id", InvalidInputError, "a.csv has 2 columns 'id'; rename"),
            ("a.jsonl", "[" * 100_000, None, InvalidInputError, "line 1: not JSON"),
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

    @pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
    @pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
    @pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o002, 0o664)])
    def test_files_follow_the_umask(self, tmp_path, name, umask, mode):
        before = os.umask(umask)
        try:
            path = extract.write_features(tmp_path / name, ROWS, {})
        finally:
            os.umask(before)
        assert path.stat().st_mode & 0o777 == mode

    @pytest.mark.parametrize("rows", [ROWS.astype("float64"), ROWS.tocsc(), ROWS.toarray()])
    def test_only_what_can_be_read_is_written(self, tmp_path, rows):
        with pytest.raises(InputTypeError, match="expected CSR rows of float32"):
            extract.write_features(tmp_path / "f.npz", rows, {})
        assert not list(tmp_path.iterdir())


class TestReadingFeatures:
    @pytest.mark.parametrize(
        ("name", "error", "text"),
        [
            ("f.csv", InvalidParameterError, "Got 'f.csv'; expected a file of kind .npz or .parquet"),
            ("f.npz", AssetNotFoundError, "expected a file there"),
            ("f.parquet", AssetNotFoundError, "expected a file there"),
        ],
    )
    def test_no_features(self, tmp_path, name, error, text):
        with pytest.raises(error, match=text):
            extract.read_features(tmp_path / name)


def test_provenance_is_json_and_names_digests(tiny_bert, tiny_sae_folder):
    featurizer = SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk"), pooling="mean").fit(["a"])
    provenance = json.loads(json.dumps(extract.provenance_of(featurizer, n_items=1)))
    assert provenance["model_digest"] == featurizer.model_digest_
    assert provenance["sae_digest"] == featurizer.sae_digest_
    assert provenance["parameters"]["pooling"] == "mean"
    assert provenance["parameters"]["model"] == str(tiny_bert)
    assert provenance["n_items"] == 1
