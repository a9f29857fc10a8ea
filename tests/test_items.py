"""Items as scikit-learn hands them over, and a clear word about everything that is none."""

from __future__ import annotations

import enum
import hashlib
import re
from collections import UserList, deque
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from sae_features.errors import InputTypeError, InvalidInputError
from sae_features.items import IMAGE_SEQUENCES, check_items, check_texts, text_digest

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

TEXTS = ["", " two  words\n", "héllo 🌍\x00", "a"]
EXPECTED = "a list, tuple, 1-D array, pandas or polars Series, or a data frame of one column"
needs_string_dtype = pytest.mark.skipif(
    not hasattr(np.dtypes, "StringDType"), reason="numpy before 2.0 has no StringDType"
)


def string_dtype(**options):
    return np.dtypes.StringDType(**options)


def image():
    """Something that says it is an image of Pillow's, which is not installed everywhere."""
    return type("Image", (), {"__module__": "PIL.Image"})()


KINDS = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "UserList": UserList,
    "object array": lambda texts: np.array(texts, dtype=object),
    "column of objects": lambda texts: np.array(texts, dtype=object).reshape(-1, 1),
    "masked array": lambda texts: np.ma.array(np.array(texts, dtype=object), mask=False),
    "Series": pd.Series,
    "Series of objects": lambda texts: pd.Series(texts, dtype=object),
    "Series of strings": lambda texts: pd.Series(texts, dtype="string"),
    "Series of Arrow strings": lambda texts: pd.Series(texts, dtype=pd.ArrowDtype(pa.string())),
    "Series of categories": lambda texts: pd.Series(texts, dtype="category"),
    "Series with a shuffled index": lambda texts: pd.Series(texts, index=[3, 1, 1, 0]),
    "Index": pd.Index,
    "pandas array": lambda texts: pd.array(texts, dtype="string"),
    "values of a Series": lambda texts: pd.Series(texts).to_frame("a")["a"].array,
    "data frame": lambda texts: pd.DataFrame({"text": texts}),
    "data frame with a numbered column": lambda texts: pd.DataFrame({7: texts}),
    "data frame with two levels": lambda texts: pd.DataFrame({("a", "b"): texts}),
    "polars Series": pl.Series,
    "polars Series of categories": lambda texts: pl.Series(texts, dtype=pl.Categorical),
    "polars data frame": lambda texts: pl.DataFrame({"text": texts}),
    "Arrow array": pa.array,
    "Arrow chunked array": lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_sequence_gives_the_same_texts(kind):
    texts = check_texts(KINDS[kind](TEXTS))
    assert texts == TEXTS
    assert type(texts) is list
    assert {type(text) for text in texts} == {str}


@needs_string_dtype
def test_arrays_of_numpy_strings():
    assert check_texts(np.array(TEXTS, dtype=string_dtype())) == TEXTS
    assert check_texts(np.array(TEXTS, dtype=string_dtype(na_object=None)).reshape(-1, 1)) == TEXTS


def test_arrays_of_fixed_width_strings():
    # numpy itself strips trailing NULs from these
    texts = check_texts(np.array(["ab", " c ", ""]))
    assert texts == ["ab", " c ", ""]
    assert {type(text) for text in texts} == {str}
    assert check_texts(np.array([["ab"], ["c"]])) == ["ab", "c"]


@given(st.lists(st.text(), min_size=1, max_size=6))
@settings(deadline=None, max_examples=50)
def test_texts_come_back_unchanged_and_in_order(texts):
    assert check_texts(texts) == texts
    assert check_texts(np.array(texts, dtype=object)) == texts
    assert check_texts(pl.Series(texts)) == texts


def test_subclasses_of_str_become_the_text_that_they_hold():
    class Color(str, enum.Enum):  # noqa: UP042 prints as Color.RED
        RED = "red"

    texts = check_texts([Color.RED, np.str_("np"), "plain"])
    assert texts == ["red", "np", "plain"]
    assert {type(text) for text in texts} == {str}


def test_the_list_that_was_given_is_not_the_one_returned():
    given_list = ["a"]
    assert check_texts(given_list) is not given_list


def refused(X, error, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        check_texts(X)


@pytest.mark.parametrize("X", ["a text", np.str_("a text"), b"bytes"])
def test_a_single_text_is_not_a_sequence_of_texts(X):
    message = f"Got a single {type(X).__name__}; expected a sequence of texts: wrap it in a list."
    refused(X, InputTypeError, message)


def test_a_generator_can_be_read_only_once():
    what = f"which can be read only once; expected {EXPECTED}: pass list(X)."
    refused((text for text in TEXTS), InputTypeError, f"Got a generator, {what}")
    refused(map(str, [1]), InputTypeError, f"Got a map, {what}")
    refused(iter(TEXTS), InputTypeError, f"Got a list_iterator, {what}")


def not_sequences():
    import torch

    yield {"a": 1}
    yield {"a"}
    yield {"a": 1}.keys()
    yield 3
    yield None
    yield torch.zeros(2)
    yield sparse.csr_matrix((2, 1))
    yield sparse.csr_array((2, 1))
    yield Path("a.txt")
    yield image()
    yield pa.table({"text": ["a"]})
    yield pl.LazyFrame({"text": ["a"]})


@pytest.mark.parametrize("X", list(not_sequences()), ids=lambda X: type(X).__name__)
def test_what_is_no_sequence_is_refused_by_its_type(X):
    refused(X, InputTypeError, f"Got X of type {type(X).__name__}; expected {EXPECTED}.")


@pytest.mark.parametrize(
    "X",
    [[], (), np.array([], dtype=object), np.empty((0, 1), object), pd.Series([], dtype=object),
     pl.Series([], dtype=pl.String), pd.DataFrame({"a": []}), pl.DataFrame({"a": []})],
    ids=lambda X: type(X).__name__,
)  # fmt: skip
def test_nothing_is_refused(X):
    refused(X, InvalidInputError, "Got no items; expected at least one text.")


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_two_columns_are_refused_by_their_names(library):
    hint = "expected one: select the column of texts, or use a ColumnTransformer."
    frame = library.DataFrame({"title": ["a"], "body": ["b"]})
    refused(frame, InvalidInputError, f"Got a data frame of 2 columns (title, body); {hint}")
    wide = library.DataFrame({str(i): ["a"] for i in range(9)})
    refused(wide, InvalidInputError, f"Got a data frame of 9 columns (0, 1, 2, 3, 4); {hint}")


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((), ""), ((2, 2), ""), ((0, 2), ""), ((2, 4, 3), " Images need a vision model."),
     ((2, 4, 4, 3), " Images need a vision model.")],
)  # fmt: skip
def test_arrays_of_other_shapes_are_refused(shape, hint):
    message = f"Got an array of shape {shape}; expected one text per row.{hint}"
    refused(np.zeros(shape, np.uint8), InvalidInputError, message)


def missing():
    drop = "expected a text. Drop or fill missing items first."
    yield ["a", None], f"Got None as item 1; {drop}"
    yield ("a", float("nan")), f"Got nan as item 1; {drop}"
    yield ["a", np.nan, None], f"Got nan as item 1; {drop}"
    yield ["a", "b", np.float64("nan")], f"Got {np.float64('nan')!r} as item 2; {drop}"
    yield ["a", pd.NA], f"Got <NA> as item 1; {drop}"
    yield ["a", pd.NaT], f"Got NaT as item 1; {drop}"
    yield np.array([None, "a"], dtype=object), f"Got None as item 0; {drop}"
    yield np.ma.array(["a", "b"], mask=[False, True]), f"Got None as item 1; {drop}"
    yield pd.Series(["a", None]), f"Got {pd.Series(['a', None])[1]!r} as item 1; {drop}"
    yield pd.Series(["a", None], dtype=object), f"Got None as item 1; {drop}"
    yield pd.Series(["a", None], dtype="string"), f"Got <NA> as item 1; {drop}"
    yield pd.Series(["a", pd.NA], dtype=pd.ArrowDtype(pa.string())), f"Got <NA> as item 1; {drop}"
    yield pd.Series(["a", None], dtype="category"), f"Got nan as item 1; {drop}"
    yield pd.DataFrame({"t": ["a", None]}, dtype=object), f"Got None as item 1; {drop}"
    yield pl.Series(["a", None]), f"Got None as item 1; {drop}"
    yield pl.DataFrame({"t": ["a", None]}), f"Got None as item 1; {drop}"
    yield pa.array(["a", None]), f"Got None as item 1; {drop}"


@pytest.mark.parametrize(("X", "message"), list(missing()))
def test_a_missing_text_is_named_by_its_position(X, message):
    refused(X, InvalidInputError, message)


@needs_string_dtype
@pytest.mark.parametrize("na_object", [None, np.nan, pd.NA], ids=repr)
def test_a_missing_numpy_string_is_named_by_its_position(na_object):
    X = np.array(["a", na_object], dtype=string_dtype(na_object=na_object))
    message = f"Got {na_object!r} as item 1; expected a text. Drop or fill missing items first."
    refused(X, InvalidInputError, message)


@pytest.mark.parametrize(
    ("item", "name"),
    [(3, "int"), (2.5, "float"), (True, "bool"), (np.float32(1), "float32"), (["a"], "list"),
     ({"a": 1}, "dict"), (np.array(["a"]), "ndarray"), (object(), "object")],
)  # fmt: skip
def test_an_item_of_another_type_is_named_by_type_and_position(item, name):
    refused(["a", item, None], InputTypeError, f"Got {name} as item 1; expected a text.")


def test_arrays_of_numbers_are_refused():
    refused(np.array([1.0, 2.0]), InputTypeError, "Got float as item 0; expected a text.")
    refused(range(3), InputTypeError, "Got int as item 0; expected a text.")
    refused(bytearray(b"ab"), InputTypeError, "Got int as item 0; expected a text.")
    refused(pd.Series([1, 2]), InputTypeError, "Got int as item 0; expected a text.")


@pytest.mark.parametrize("X", [["a", b"b"], np.array([b"a"], dtype=object), np.array([b"a"])])
def test_bytes_are_to_be_decoded(X):
    position = len(X) - 1
    message = f"Got bytes as item {position}; expected a text: decode it, as in item.decode('utf-8')."
    refused(X, InputTypeError, message)


@pytest.mark.parametrize(
    ("item", "name"),
    [(np.zeros((4, 4), np.uint8), "ndarray"), (np.zeros((4, 4, 3), np.uint8), "ndarray"),
     (Path("cat.png"), type(Path()).__name__), (image(), "Image")],
)  # fmt: skip
def test_images_need_a_vision_model(item, name):
    hint = "This model reads texts; images need a vision model."
    refused(["a", item], InputTypeError, f"Got {name} as item 1; expected a text. {hint}")


def test_a_lone_surrogate_is_refused_with_a_repair_that_works():
    text = "ab\ud800c"
    message = (
        "Item 1 has a lone surrogate at character 2, which no tokenizer takes; repair it with "
        "text.encode('utf-8', 'replace').decode()."
    )
    refused(["a", text], InvalidInputError, message)
    assert check_texts([text.encode("utf-8", "replace").decode()]) == ["ab?c"]


def test_the_first_item_that_cannot_be_used_is_the_one_named():
    refused(["a", 1, None, b""], InputTypeError, "Got int as item 1; expected a text.")


def test_a_digest_is_of_the_exact_bytes():
    assert text_digest("héllo") == hashlib.sha256(b"text\0h\xc3\xa9llo").digest()
    variants = ["a", "A", " a", "a ", "a\n", "\u00e9", "e\u0301", ""]
    assert len({text_digest(text) for text in variants}) == len(variants)


class TestImages:
    """``check_items``: for models that take images, and for those that take texts, too."""

    ONLY_IMAGES = ("image",)
    BOTH = ("text", "image")
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)

    @pytest.fixture(autouse=True)
    def _pillow(self):
        pytest.importorskip("PIL")

    @pytest.fixture
    def paths(self, tmp_path):
        """Two files; nothing is opened before it must be."""
        files = [tmp_path / "one.png", tmp_path / "two.png"]
        for number, file in enumerate(files):
            file.write_bytes(bytes([number]))
        return files

    @staticmethod
    def refused(X, modalities, error, message):
        with pytest.raises(error) as raised:
            check_items(X, modalities)
        assert str(raised.value) == message

    def test_a_model_of_texts_takes_texts_as_ever(self):
        items = check_items(pd.Series(TEXTS), ("text",))
        assert (items.modality, items.values, len(items)) == ("text", TEXTS, 4)
        assert items.digests() == [text_digest(text) for text in TEXTS]
        with pytest.raises(InputTypeError, match="This model reads texts; images need a vision model"):
            check_items([self.grey], ("text",))

    @pytest.mark.parametrize("modalities", [ONLY_IMAGES, BOTH])
    def test_paths_arrays_and_pictures_side_by_side(self, paths, modalities):
        from PIL import Image

        given_items = [paths[0], self.grey, Image.fromarray(self.grey), paths[1]]
        items = check_items(given_items, modalities)
        assert items.modality == "image"
        assert [picture.source for picture in items.values] == given_items
        digests = items.digests()
        assert digests[1] == digests[2]
        assert len(set(digests)) == 3

    def test_where_texts_are_taken_too_strings_are_texts(self, paths):
        names = [str(path) for path in paths]
        as_texts = check_items(names, self.BOTH)
        assert (as_texts.modality, as_texts.values) == ("text", names)
        as_images = check_items(names, self.ONLY_IMAGES)
        assert as_images.modality == "image"
        assert [picture.source for picture in as_images.values] == paths
        assert check_items(paths, self.BOTH).digests() == as_images.digests()

    def test_texts_among_images(self, paths):
        message = (
            "Got a text as item {} among images; expected items of one kind. Give paths of images as "
            "pathlib.Path."
        )
        self.refused([paths[0], "a calm sea"], self.BOTH, InputTypeError, message.format(1))
        self.refused(["a calm sea", self.grey], self.BOTH, InputTypeError, message.format(0))
        with pytest.raises(
            InvalidInputError, match="^Got 'a calm sea' as item 1; expected a file there"
        ):
            check_items([paths[0], "a calm sea"], self.ONLY_IMAGES)

    @pytest.mark.parametrize("modalities", [ONLY_IMAGES, BOTH])
    @pytest.mark.parametrize("item", [None, float("nan"), pd.NA])
    def test_a_missing_image(self, modalities, item):
        message = f"Got {item!r} as item 1; expected an image. Drop missing items first."
        self.refused([self.grey, item], modalities, InvalidInputError, message)

    @pytest.mark.parametrize("modalities", [ONLY_IMAGES, BOTH])
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_an_array_of_images(self, modalities, channels):
        X = np.arange(3 * 4 * 5 * channels, dtype=np.uint8).reshape(3, 4, 5, channels)
        items = check_items(X, modalities)
        assert (items.modality, len(items)) == ("image", 3)
        for picture, array in zip(items.values, X, strict=True):
            np.testing.assert_array_equal(picture.source, array)

    @pytest.mark.parametrize("modalities", [ONLY_IMAGES, BOTH])
    @pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3), (2, 4, 5), (1, 2, 4, 5, 3)])
    def test_arrays_of_other_shapes(self, modalities, shape):
        message = (
            f"Got an array of shape {shape}; expected (n, height, width, 3). Wrap a single image in a "
            "list; give grey ones as list(X)."
        )
        self.refused(np.zeros(shape, np.uint8), modalities, InvalidInputError, message)

    def test_grey_images_as_a_list(self):
        X = np.zeros((2, 4, 5), np.uint8)
        assert len(check_items(list(X), self.ONLY_IMAGES)) == 2

    @pytest.mark.parametrize("shape", [(2, 4, 5, 3)])
    def test_an_array_of_numbers_that_are_no_pixels(self, shape):
        message = (
            "Got an array of float64 as item 0; expected uint8, 0 to 255. Multiply by 255 and round."
        )
        self.refused(np.zeros(shape), self.ONLY_IMAGES, InvalidInputError, message)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda paths: pd.DataFrame({"path": paths}),
            lambda paths: pd.Series(paths, index=[7, 7]),
            lambda paths: np.array(paths, dtype=object),
            lambda paths: np.array(paths, dtype=object).reshape(-1, 1),
            lambda paths: pl.DataFrame({"path": pl.Series(paths, dtype=pl.Object)}),
            tuple,
            deque,
        ],
    )
    @pytest.mark.parametrize("modalities", [ONLY_IMAGES, BOTH])
    def test_a_column_of_paths(self, paths, wrap, modalities):
        items = check_items(wrap(paths), modalities)
        assert items.modality == "image"
        assert [picture.source for picture in items.values] == paths

    @pytest.mark.parametrize("wrap", [pd.Series, pl.Series, lambda names: pd.DataFrame({"path": names})])
    def test_a_column_of_names_of_files(self, paths, wrap):
        items = check_items(wrap([str(path) for path in paths]), self.ONLY_IMAGES)
        assert [picture.source for picture in items.values] == paths

    def test_a_data_frame_of_several_columns(self, paths):
        X = pd.DataFrame({"path": paths, "label": [0, 1]})
        with pytest.raises(InvalidInputError, match=r"^Got a data frame of 2 columns \(path, label\)"):
            check_items(X, self.ONLY_IMAGES)

    def test_a_single_image_is_no_sequence(self, paths):
        from PIL import Image

        picture = Image.fromarray(self.grey)
        for X in (paths[0], str(paths[0]), picture, b"bytes"):
            message = (
                f"Got a single {type(X).__name__}; expected a sequence of images: wrap it in a list."
            )
            self.refused(X, self.ONLY_IMAGES, InputTypeError, message)

    @pytest.mark.parametrize("X", [{"a": 1}, 3, None, pa.table({"path": ["a"]})], ids=repr)
    def test_what_is_no_sequence(self, X):
        message = f"Got X of type {type(X).__name__}; expected {IMAGE_SEQUENCES}."
        self.refused(X, self.ONLY_IMAGES, InputTypeError, message)

    def test_a_generator(self):
        message = (
            f"Got a generator, which can be read only once; expected {IMAGE_SEQUENCES}: pass list(X)."
        )
        self.refused((self.grey for _ in range(2)), self.ONLY_IMAGES, InputTypeError, message)

    @pytest.mark.parametrize("modalities", [ONLY_IMAGES, BOTH])
    @pytest.mark.parametrize(
        "X", [[], (), np.zeros((0, 4, 5, 3), np.uint8), pd.Series([], dtype=object)]
    )
    def test_nothing(self, modalities, X):
        message = "Got no items; expected at least one image."
        self.refused(X, modalities, InvalidInputError, message)
