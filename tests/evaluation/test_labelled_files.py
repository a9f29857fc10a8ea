from __future__ import annotations

import hashlib
import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sae_features.errors import (
    AssetNotFoundError,
    InvalidInputError,
    InvalidParameterError,
    MissingDependencyError,
)
from sae_features.evaluation.labelled_files import Columns, read_labelled
from sae_features.input_files import read_texts

ROWS = [
    {"review": "good film", "stars": 5, "author": "x", "lang": "en", "side": "train"},
    {"review": "schlecht", "stars": 1, "author": "y", "lang": "de", "side": "train"},
    {"review": 'it is "so,\nso"', "stars": 1, "author": "x", "lang": "en", "side": "test"},
]
NAMES = {"text": "review", "label": "stars", "group": "author", "split": "side"}


def write_csv(path, rows, delimiter=","):
    def field(value):
        return '"' + str(value).replace('"', '""') + '"'

    lines = [delimiter.join(rows[0]), *(delimiter.join(map(field, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_tsv(path, rows):
    return write_csv(path, rows, "\t")


WRITERS = {".csv": write_csv, ".tsv": write_tsv, ".jsonl": write_jsonl, ".parquet": write_parquet}
every_kind = pytest.mark.parametrize("kind", list(WRITERS))


@every_kind
def test_tables_of_all_kinds_hold_the_same(tmp_path, kind):
    path = WRITERS[kind](tmp_path / f"reviews{kind}", ROWS)
    data = read_labelled(path, columns=NAMES)
    assert data.name == "reviews"
    assert data.items == [row["review"] for row in ROWS]
    assert (data.labels.tolist(), data.classes) == (["5", "1", "1"], ("1", "5"))
    assert (data.groups.tolist(), data.split.tolist()) == (["x", "y", "x"], ["train", "train", "test"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.source == {"file": path.name, "sha256": digest, "columns": NAMES}
    english = read_labelled(
        path, columns=Columns("review", "stars"), where={"lang": "en"}, rename={"5": "good"}, name="en"
    )
    assert (english.name, english.items) == ("en", [ROWS[0]["review"], ROWS[2]["review"]])
    assert (english.labels.tolist(), english.groups, english.split) == (["good", "1"], None, None)
    assert read_labelled(path, columns=NAMES, where={"stars": 1}).items == [
        row["review"] for row in ROWS[1:]
    ]


@pytest.mark.parametrize(
    ("kind", "values", "labels"),
    [
        (".jsonl", [True, False], ["true", "false"]),
        (".jsonl", [1, 1.0], ["1", "1"]),
        (".jsonl", ["1", 0], ["1", "0"]),
        (".parquet", pa.array([1, 0], pa.int8()), ["1", "0"]),
        (".parquet", pa.array([1.0, 0.0], pa.float32()), ["1", "0"]),
        (".parquet", pa.array([True, False]), ["true", "false"]),
        (".parquet", pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
    ],
)
def test_labels_that_are_no_texts(tmp_path, kind, values, labels):
    path = tmp_path / f"data{kind}"
    if kind == ".parquet":
        pq.write_table(pa.table({"text": ["x", "y"], "label": values}), path)
    else:
        write_jsonl(path, [{"text": "x", "label": values[0]}, {"text": "y", "label": values[1]}])
    assert read_labelled(path).labels.tolist() == labels


@every_kind
def test_a_column_that_is_not_there(tmp_path, kind):
    path = WRITERS[kind](tmp_path / f"reviews{kind}", ROWS)
    for columns, where, asked in (
        ({"text": "reviw"}, None, "Got text column='reviw'; .* Did you mean 'review'?"),
        (
            {"text": "review"},
            None,
            "Got label column='label'; expected one of review, stars, author, lang, side.",
        ),
        (NAMES | {"group": "autor"}, None, "Got group column='autor'; .* Did you mean 'author'?"),
        (NAMES, {"language": "en"}, "Got where column='language'; expected one of"),
    ):
        with pytest.raises(InvalidParameterError, match=f"reviews: {asked}"):
            read_labelled(path, columns=columns, where=where)


@pytest.mark.parametrize(
    ("kind", "at"), [(".csv", "line 5"), (".tsv", "line 5"), (".jsonl", "line 4"), (".parquet", "row 3")]
)
@pytest.mark.parametrize("column", ["review", "stars", "author", "side"])
def test_a_row_that_lacks_something_is_named(tmp_path, kind, at, column):
    """The third row has a line end in quotes, so that lines of a CSV are not rows."""
    lacking = ROWS[0] | {column: None if kind in {".jsonl", ".parquet"} else ""}
    path = WRITERS[kind](tmp_path / f"reviews{kind}", [ROWS[0], ROWS[1], ROWS[2], lacking])
    at = "line 6" if kind in {".csv", ".tsv"} else at
    with pytest.raises(InvalidInputError) as error:
        read_labelled(path, columns=NAMES)
    assert str(error.value) == f"reviews, {at}: {column} is missing; fill it in, or leave the row out."


def test_labels_that_cannot_be_are_named_by_their_line(tmp_path):
    good = {"text": "x", "label": 1}
    for label in (0.5, ["a"], "  "):
        path = write_jsonl(tmp_path / "data.jsonl", [good, good, {"text": "y", "label": label}])
        message = f"data: label: got {label!r} at item of line 3; expected a text or a whole number."
        with pytest.raises(InvalidInputError, match=re.escape(message)):
            read_labelled(path)
    path = write_jsonl(tmp_path / "data.jsonl", [good, {"label": 1, "txt": "x"}])
    with pytest.raises(InvalidInputError, match="data, line 2: text is missing"):
        read_labelled(path)
    path = write_jsonl(tmp_path / "data.jsonl", [good, {"text": 3, "label": 1}])
    with pytest.raises(InvalidInputError, match="data, line 2: got text=3; expected a text."):
        read_labelled(path)
    pq.write_table(
        pa.table({"text": ["x", "y"], "label": [1.0, float("nan")]}), tmp_path / "data.parquet"
    )
    with pytest.raises(InvalidInputError, match="data, row 1: label is missing"):
        read_labelled(tmp_path / "data.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\nx,1\ny\n", "data.csv, line 3: got 1 fields; expected 2."),
        ("text,label,label\nx,1,0\n", "data.csv has several columns 'label'; rename all but one."),
        ("text,label\n", "data: it has no rows."),
        ("", "data: it has no rows."),
        ("text,label\nx,1\n", "data: none of its 1 rows has {'label': '2'}."),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, text, message):
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=re.escape(message)):
        read_labelled(path, where={"label": "2"} if "none of" in message else None)


def test_parquet(tmp_path, monkeypatch):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 no such thing PAR1")
    with pytest.raises(InvalidInputError, match="data.parquet is damaged or no Parquet"):
        read_labelled(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        MissingDependencyError, match=r'install it with `pip install "sae-features\[parquet'
    ):
        read_labelled(path)


class TestFolders:
    def test_tables_of_train_and_test(self, tmp_path):
        write_csv(tmp_path / "train.csv", [row | {"split": "dev"} for row in ROWS[:2]])
        write_jsonl(tmp_path / "test.jsonl", ROWS[2:])
        write_csv(tmp_path / "other.csv", ROWS)
        data = read_labelled(tmp_path, columns={"text": "review", "label": "stars"}, name="mine")
        assert data.items == [row["review"] for row in ROWS]
        assert data.split.tolist() == ["train", "train", "test"]
        assert (data.name, set(data.source)) == ("mine", {"train", "test", "columns"})
        write_jsonl(tmp_path / "test.jsonl", [{"review": "x", "stars": None}])
        with pytest.raises(InvalidInputError, match="mine, test.jsonl, line 1: stars is missing"):
            read_labelled(tmp_path, columns={"text": "review", "label": "stars"}, name="mine")

    def test_one_side_alone_and_two_of_one_side(self, tmp_path):
        write_csv(tmp_path / "train.csv", ROWS)
        with pytest.raises(
            InvalidInputError, match="has train.csv alone; expected tables train and test"
        ):
            read_labelled(tmp_path, columns=NAMES)
        write_csv(tmp_path / "test.csv", ROWS)
        write_jsonl(tmp_path / "train.jsonl", ROWS)
        with pytest.raises(
            InvalidInputError, match="has train.csv and train.jsonl; expected one of them."
        ):
            read_labelled(tmp_path, columns=NAMES)

    def images(self, root, *names):
        for i, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2, 3), i, np.uint8)).save(path)
        return root

    def test_folders_of_images_are_labels(self, tmp_path):
        root = self.images(tmp_path / "pets", "cat/1.png", "cat/more/2.png", "dog/3.png")
        (root / "dog" / "notes.txt").write_text("x")
        data = read_labelled(root, rename={"cat": "feline"})
        assert [path.relative_to(root).as_posix() for path in data.items] == [
            "cat/1.png", "cat/more/2.png", "dog/3.png",
        ]  # fmt: skip
        assert (data.name, data.labels.tolist(), data.split) == (
            "pets",
            ["feline", "feline", "dog"],
            None,
        )
        assert (data.modality, data.source["folder"]) == ("image", "pets")

    def test_split_images(self, tmp_path):
        root = self.images(tmp_path / "pets", "train/cat/1.png", "train/dog/2.png", "test/cat/a/3.png")
        data = read_labelled(root)
        assert data.labels.tolist() == ["cat", "cat", "dog"]
        assert data.split.tolist() == ["test", "train", "train"]

    def test_a_label_may_be_called_train(self, tmp_path):
        root = self.images(tmp_path / "vehicles", "train/1.png", "car/2.png")
        assert read_labelled(root).labels.tolist() == ["car", "train"]

    @pytest.mark.parametrize(
        "names",
        [
            ("train/cat/1.png", "train/dog/2.png"),
            ("train/cat/1.png", "test/cat/2.png", "val/cat/3.png"),
            ("train/cat/1.png", "cat/2.png"),
        ],
    )
    def test_sides_that_are_no_labels(self, tmp_path, names):
        root = self.images(tmp_path / "pets", *names)
        with pytest.raises(
            InvalidInputError, match="pets has the folders .*; expected train and test with"
        ):
            read_labelled(root)

    def test_what_images_do_not_have(self, tmp_path):
        root = self.images(tmp_path / "pets", "cat/1.png", "2.png")
        with pytest.raises(
            InvalidInputError, match="pets: '2.png' lies in no folder; expected a folder for"
        ):
            read_labelled(root)
        with pytest.raises(
            InvalidParameterError, match="Got where with the folder pets, which has no tables"
        ):
            read_labelled(root, where={"split": "train"})
        with pytest.raises(InvalidParameterError, match="Got columns with the folder pets"):
            read_labelled(root, columns={"group": "breed"})
        (tmp_path / "empty").mkdir()
        with pytest.raises(AssetNotFoundError, match="has no images; expected files of kind"):
            read_labelled(tmp_path / "empty")

    def test_tables_of_paths_of_images(self, tmp_path):
        self.images(tmp_path, "pictures/1.png", "pictures/2.png")
        rows = [{"text": f"pictures/{i}.png", "label": i} for i in (1, 2)]
        data = read_labelled(write_csv(tmp_path / "pets.csv", rows))
        assert data.items == [tmp_path / "pictures" / f"{i}.png" for i in (1, 2)]


class TestHub:
    def test_it_needs_datasets(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(MissingDependencyError) as error:
            read_labelled("hub:owner/reviews")
        assert str(error.value) == (
            "hub:owner/reviews needs datasets; install it with `pip install datasets`."
        )

    @pytest.fixture
    def hub(self, monkeypatch):
        """The package, as far as it is used: ``hub(train=[...])`` says what is loaded."""

        class ClassLabel:
            names = ("negative", "positive")

        class Side(list):
            @property
            def features(self):
                return {"label": ClassLabel(), "text": object()}

        package, asked = SimpleNamespace(ClassLabel=ClassLabel), []

        def hold(**sides):
            def load_dataset(name, config):
                asked.append((name, config))
                return {side: Side(rows) for side, rows in sides.items()}

            package.load_dataset = load_dataset
            return asked

        monkeypatch.setitem(sys.modules, "datasets", package)
        hold.package = package
        return hold

    def test_names_of_labels_and_its_own_split(self, hub):
        asked = hub(
            train=[{"text": "a", "label": 1, "split": "x"}],
            test=[{"text": "b", "label": 0, "split": "y"}],
            validation=[{"text": "c", "label": 0, "split": "z"}],
        )  # fmt: skip
        data = read_labelled("hub:owner/reviews:german")
        assert asked == [("owner/reviews", "german")]
        assert (data.items, data.labels.tolist()) == (["a", "b"], ["positive", "negative"])
        assert (data.name, data.split.tolist()) == ("owner/reviews:german", ["train", "test"])
        assert data.source["hub"] == "owner/reviews:german"

    def test_a_split_in_a_column(self, hub):
        hub(
            all=[{"text": "a", "label": 1, "split": "test"}, {"text": "b", "label": 0, "split": "train"}]
        )
        assert read_labelled("hub:reviews").split is None
        assert read_labelled("hub:reviews", columns={"split": "split"}).split.tolist() == [
            "test",
            "train",
        ]

    @pytest.mark.parametrize("label", [-1, None])
    def test_items_without_a_label(self, hub, label):
        hub(train=[{"text": "a", "label": 0}], test=[{"text": "b", "label": label}])
        with pytest.raises(
            InvalidInputError, match="reviews, test row 0: label is missing; fill it in, or"
        ):
            read_labelled("hub:reviews")

    def test_what_cannot_be_loaded(self, hub):
        def load_dataset(name, config):
            raise FileNotFoundError("no such data set")

        hub.package.load_dataset = load_dataset
        with pytest.raises(
            AssetNotFoundError, match="Got hub:reviews, which cannot be loaded: no such data"
        ):
            read_labelled("hub:reviews")


def test_what_cannot_be_asked_for(tmp_path):
    path = write_csv(tmp_path / "reviews.csv", ROWS)
    for error, given, message in (
        (
            InvalidParameterError,
            {"path": tmp_path / "a.txt"},
            "Got 'a.txt'; expected a folder, or a table of",
        ),
        (AssetNotFoundError, {"path": tmp_path / "a.csv"}, "expected a file there."),
        (AssetNotFoundError, {"path": tmp_path / "review.csv"}, "there. Did you mean 'reviews.csv'?"),
        (InvalidParameterError, {"path": 3}, "Got path=3; expected a file, a folder, or hub:NAME."),
        (
            InvalidParameterError,
            {"columns": {"labels": "x"}},
            "Got column='labels'.* Did you mean 'label'?",
        ),
        (InvalidParameterError, {"where": "en"}, "Got where='en'; expected values by name."),
        (
            InvalidParameterError,
            {"columns": NAMES, "rename": {"6": "x"}},
            "reviews: Got label='6'; expected",
        ),
    ):
        with pytest.raises(error, match=message):
            read_labelled(**{"path": path} | given)


@pytest.mark.parametrize("lines", ["text;label\na;1\nb;0", "text;label\na, b;1\nc;0"])
def test_another_separator_is_suspected(tmp_path, lines):
    (tmp_path / "mine.csv").write_text(lines)
    with pytest.raises(
        (InvalidParameterError, InvalidInputError), match="separated by ';'\\? A .csv has commas"
    ):
        read_labelled(tmp_path / "mine.csv")
    with pytest.raises(
        (InvalidParameterError, InvalidInputError), match="separated by ';'\\? A .csv has commas"
    ):
        read_texts(tmp_path / "mine.csv", "text")
