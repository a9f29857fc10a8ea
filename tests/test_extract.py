"""Items from a file or a folder, features to a file."""

from __future__ import annotations

import itertools
import json
import os
import string
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp

from sae_features import SAEFeaturizer, extract, feature_writer
from sae_features.errors import (
    AssetNotFoundError,
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
)
from sae_features.items import Items

ROWS = sp.csr_matrix(np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]], np.float32))


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

    def test_a_folder_that_cannot_be_written_to(self, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may do all
        with pytest.raises(InvalidParameterError, match="cannot be written to; choose another one"):
            extract.check_output(tmp_path / "f.npz")

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


class Letters:
    """A stand-in for SAEFeaturizer: how often each letter stands in a text; no model runs."""

    model_, model_digest_, layer_, site_, sae_digest_ = "letters", "0" * 64, 1, "resid_post", "1" * 64
    n_features_out_ = 26

    def __init__(self, chunk=4, modality="text", before_block=lambda number: None):
        self.chunk, self.modality, self.before_block = chunk, modality, before_block
        self.fitted_with, self.n_items = None, None

    def fit(self, X):
        self.fitted_with = X
        return self

    def get_params(self):
        return {"chunk": self.chunk}

    def read_items(self, X):
        return Items(self.modality, X), None

    def iter_transform(self, X, *, n_items=None):
        self.n_items = n_items
        texts = iter(X)
        for number in itertools.count():
            block = list(itertools.islice(texts, self.chunk))
            if not block:
                return
            self.before_block(number)
            yield letters(block)


def letters(texts):
    counts = [[str(text).count(letter) for letter in string.ascii_lowercase] for text in texts]
    return sp.csr_matrix(np.array(counts, np.float32))


def interrupt(number):
    if number == 2:
        raise KeyboardInterrupt


TEXTS = [f"{word} {i}" for i, word in enumerate(["calm", "river", "snow", "", "the sea"] * 5)]


class TestExtractToFile:
    """A file of items to a file of features, in one stream."""

    @pytest.fixture
    def source(self, tmp_path):
        path = tmp_path / "texts.txt"
        path.write_text("\n".join(TEXTS) + "\n")
        return path

    @pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
    @pytest.mark.parametrize("chunk", [1, 4, 25, 100])
    def test_a_stream_is_as_the_whole(self, tmp_path, source, name, chunk):
        featurizer = Letters(chunk)
        written = extract.extract_to_file(featurizer, source, tmp_path / name)
        rows, provenance = extract.read_features(tmp_path / name)
        np.testing.assert_array_equal(rows.toarray(), letters(TEXTS).toarray())
        assert written == (tmp_path / name, 25, 26, rows.nnz)
        assert (featurizer.fitted_with, featurizer.n_items) == (TEXTS[:1], 25)
        assert (provenance["n_items"], provenance["model"]) == (25, "letters")
        assert provenance["input"] == extract.source_of(source, None)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "texts.txt"])

    def test_a_column(self, tmp_path):
        source = tmp_path / "a.csv"
        source.write_text("id,body\n1,aa\n2,b\n")
        extract.extract_to_file(Letters(), source, tmp_path / "f.npz", column="body")
        rows, provenance = extract.read_features(tmp_path / "f.npz")
        assert rows.toarray()[:, :2].tolist() == [[2, 0], [0, 1]]
        assert provenance["input"]["column"] == "body"

    def test_a_folder_of_images(self, tmp_path):
        source = tmp_path / "images"
        source.mkdir()
        for name in ("b.png", "a.jpg"):
            (source / name).write_bytes(b"no picture; a name will do")
        extract.extract_to_file(Letters(modality="image"), source, tmp_path / "f.npz")
        rows, provenance = extract.read_features(tmp_path / "f.npz")
        expected = letters([source / "a.jpg", source / "b.png"]).toarray()
        np.testing.assert_array_equal(rows.toarray(), expected)
        assert provenance["input"]["images"] == ["a.jpg", "b.png"]

    def test_a_bad_row_is_found_before_a_model_runs(self, tmp_path):
        source = tmp_path / "a.jsonl"
        source.write_text('{"text": "a"}\n' * 89_999 + '{"text": null}\n')
        featurizer = Letters()
        with pytest.raises(InvalidInputError, match="a.jsonl, line 90000: got text=None"):
            extract.extract_to_file(featurizer, source, tmp_path / "f.npz")
        assert featurizer.fitted_with is None
        assert list(tmp_path.iterdir()) == [source]

    def test_a_missing_image_is_found_before_a_model_runs(self, tmp_path):
        (tmp_path / "a.png").touch()
        source = tmp_path / "paths.txt"
        source.write_text(f"{tmp_path}/a.png\n" * 50 + f"{tmp_path}/none.png\n")
        featurizer = Letters(modality="image")
        text = "paths.txt: got '.*none.png' as item 50; expected an image there"
        with pytest.raises(InvalidInputError, match=text):
            extract.extract_to_file(featurizer, source, tmp_path / "f.npz")
        assert featurizer.n_items is None

    @pytest.mark.parametrize("name", ["a.txt", "a.csv"])
    def test_no_items(self, tmp_path, name):
        source = tmp_path / name
        source.write_text("text\n" if name == "a.csv" else "")
        with pytest.raises(InvalidInputError, match=f"{name} has no items; expected at least one"):
            extract.extract_to_file(Letters(), source, tmp_path / "f.npz")

    def test_the_output_comes_first(self, tmp_path):
        with pytest.raises(InvalidParameterError, match="expected a file of kind .npz or .parquet"):
            extract.extract_to_file(Letters(), tmp_path / "none.txt", tmp_path / "f.csv")

    @pytest.mark.parametrize("name", ["f.npz", "f.parquet"])
    def test_ctrl_c_leaves_nothing_but_the_old_file(self, tmp_path, source, name):
        for is_old in (False, True):
            if is_old:
                extract.write_features(tmp_path / name, ROWS, {"old": True})
            with pytest.raises(KeyboardInterrupt):
                extract.extract_to_file(Letters(before_block=interrupt), source, tmp_path / name)
            expected = ["texts.txt", name] if is_old else ["texts.txt"]
            assert sorted(path.name for path in tmp_path.iterdir()) == sorted(expected)
        assert extract.read_features(tmp_path / name)[1] == {"old": True}

    @pytest.mark.parametrize("content", ["more\n" * 26, "fewer\n" * 24, "others\n" * 25])
    def test_a_file_that_changes_meanwhile(self, tmp_path, source, content):
        featurizer = Letters(before_block=lambda number: number == 3 and source.write_text(content))
        with pytest.raises(InvalidInputError, match="texts.txt changed while it was read; run again"):
            extract.extract_to_file(featurizer, source, tmp_path / "f.npz")
        assert list(tmp_path.iterdir()) == [source]

    def test_a_file_that_is_only_touched(self, tmp_path, source):
        featurizer = Letters(before_block=lambda _: os.utime(source, (1, 1)))
        extract.extract_to_file(featurizer, source, tmp_path / "f.npz")
        assert extract.read_features(tmp_path / "f.npz")[1]["input"] == extract.source_of(source, None)

    def test_memory_does_not_grow_with_the_items(self, tmp_path, monkeypatch):
        monkeypatch.setattr(feature_writer, "BLOCK", 1 << 12)
        source, peaks = tmp_path / "a.txt", []
        for n_items in (2_000, 20_000):
            source.write_text("a calm river runs to the sea\n" * n_items)
            tracemalloc.start()
            try:
                extract.extract_to_file(Letters(chunk=500), source, tmp_path / "f.npz")
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
        assert extract.read_features(tmp_path / "f.npz")[0].nnz * 8 > 1_500_000
        assert peaks[1] < peaks[0] + 300_000


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
