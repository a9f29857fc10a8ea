from __future__ import annotations

import hashlib

import pytest

from sae_features.commands.corpora import read_corpus
from sae_features.errors import InputTypeError, InvalidInputError, InvalidParameterError


def test_equal_items_are_on_one_side(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a\nb\na\nb\nc\nd\n" * 5)
    for seed in range(10):
        split = read_corpus(path, held_out=0.4, seed=seed)
        assert len(split.held_out) == 2
        assert not set(split.trained) & set(split.held_out)
        assert set(split.trained) | set(split.held_out) == set("abcd")
    again = read_corpus(path, held_out=0.4, seed=9)
    assert again == split


def test_nothing_to_hold_out_of(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a\n")
    with pytest.raises(InvalidInputError, match="a.txt has one item only"):
        read_corpus(path, held_out=0.5)
    with pytest.raises(InvalidParameterError, match=r"Got held_out=1\.5"):
        read_corpus(path, held_out=1.5)
    assert read_corpus(path).trained == ["a"]


def test_the_record_says_what_was_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,n\na,1\nb,2\nc,3\n")
    record = read_corpus(path, held_out=0.01).record
    assert record == {
        "file": "a.csv", "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "column": None,
        "n_items": 3, "n_trained": 2, "n_held_out": 1,
    }  # fmt: skip
    assert read_corpus(path, "n").trained == ["1", "2", "3"]


def test_images_are_split_as_files(tmp_path):
    from PIL import Image

    for name in "abcd":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    split = read_corpus(tmp_path, modalities=("image",), held_out=0.5)
    assert sorted(path.name for path in [*split.trained, *split.held_out]) == [
        "a.png", "b.png", "c.png", "d.png",
    ]  # fmt: skip
    assert split.record["folder"] == tmp_path.name
    assert "images" not in split.record
    with pytest.raises(InputTypeError, match="images need a vision model"):
        read_corpus(tmp_path, modalities=("text",))
