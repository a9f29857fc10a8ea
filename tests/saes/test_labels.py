"""Names of latents, from whatever file people have them in."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from sae_features import SAEFeaturesWarning, SAEFeaturizer, load_sae
from sae_features.errors import AssetNotFoundError, SAEFormatError
from sae_features.releases import find_sae
from sae_features.saes import labels as module
from sae_features.saes.labels import find_labels, neuronpedia_url, read_labels

SPARSIFY = Path(__file__).parents[1] / "golden" / "sparsify" / "topk" / "files" / "layers.3"
NUMBER = "expected the number of a latent, from 0 to 9 without a decimal point, and its name as text."
PAIR = (
    "expected one of index, latent, feature, latent_index, feature_index with the latent's number and "
    "one of label, description, explanation, name with its name."
)


def written(tmp_path, content, name="labels.json"):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def read(tmp_path, content, name="labels.json"):
    return read_labels(written(tmp_path, content, name), 10)


class TestJSON:
    def test_an_object(self, tmp_path):
        assert read(tmp_path, {"7": "größe 🌍", "0": ""}) == {7: "größe 🌍"}  # an empty one is none
        assert read(tmp_path, {}) == read(tmp_path, []) == {}

    def test_a_list_as_neuronpedia_exports_it(self, tmp_path):
        rows = [
            {
                "modelId": "gpt2-small", "layer": "6-res-jb", "index": "3", "description": " cities",
                "explanationModelName": "gpt-4o-mini", "typeName": "oai_token-act-pair", "scores": [0.1],
            },
            {"modelId": "gpt2-small", "layer": "6-res-jb", "index": "9", "description": "dates"},
        ]  # fmt: skip
        assert read(tmp_path, rows) == {3: " cities", 9: "dates"}

    @pytest.mark.parametrize("index", ["index", "latent", "feature", "latent_index", "feature_index"])
    @pytest.mark.parametrize("label", ["label", "description", "explanation", "name"])
    def test_names_of_columns(self, tmp_path, index, label):
        assert read(tmp_path, [{index: 3, label: "x", "other": 1}]) == {3: "x"}

    def test_of_several_labels_the_first_counts(self, tmp_path):
        assert read(tmp_path, [{"index": i, "label": f"{i}-{n}"} for n in "ab" for i in (1, 2)]) == {
            1: "1-a", 2: "2-a",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "could not be read as JSON: Expecting property name"),
            ('"x"', "got a str; expected an object or a list."),
            (b'{"1": "\xff"}', "could not be read as JSON: 'utf-8' codec can't decode byte 0xff"),
            ({"10": "x"}, f"got '10': 'x'; {NUMBER}"),
            ({"+1": "x"}, f"got '+1': 'x'; {NUMBER}"),
            ({"١": "x"}, f"got '١': 'x'; {NUMBER}"),
            ({"1": ["x"]}, f"got '1': ['x']; {NUMBER}"),
            ([{"index": 10, "label": "x"}], f"got 10: 'x'; {NUMBER}"),
            ([{"index": -1, "label": "x"}], f"got -1: 'x'; {NUMBER}"),
            ([{"index": True, "label": "x"}], f"got True: 'x'; {NUMBER}"),
            ([{"index": 1.0, "label": "x"}], f"got 1.0: 'x'; {NUMBER}"),
            ([{"index": 1, "label": 2}], f"got 1: 2; {NUMBER}"),
            ([{"index": 1}], f"got ['index']; {PAIR}"),
            ([{"label": "x"}], f"got ['label']; {PAIR}"),
            ([{"index": None, "label": "x"}], f"got ['index', 'label']; {PAIR}"),
            ([["1", "x"]], f"got ['1', 'x']; {PAIR}"),
            (
                {"1": "x" * 10_001},
                "got a label of 10001 characters for latent 1; expected at most 10000.",
            ),
        ],
        ids=lambda content: str(content)[:24],
    )
    def test_what_is_refused(self, tmp_path, content, message):
        path = written(tmp_path, content)
        with pytest.raises(SAEFormatError, match=f"^{re.escape(f'{path}: {message}')}") as raised:
            read_labels(path, 10)
        assert len(str(raised.value)) < 500 + len(str(path))

    def test_the_longest_label(self, tmp_path):
        assert read(tmp_path, {"1": "x" * 10_000}) == {1: "x" * 10_000}

    def test_a_file_that_is_too_large(self, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "MAX_BYTES", 20)
        for name in ("labels.json", "labels.csv"):
            with pytest.raises(SAEFormatError, match=r"got more than 20 bytes\.$"):
                read(tmp_path, "x" * 21, name)


class TestCSV:
    @pytest.mark.parametrize(
        "content",
        [
            "index,label\n3,x\n1,y\n",
            "index,label\r\n3,x\r\n1,y\r\n",
            "other,explanation,feature\n0,x,3\n0,y,1\n",
            b"\xef\xbb\xbfindex,description\n3,x\n1,y\n",
            '"index","label"\n"3","x"\n"1","y"\n3,z\n',
        ],
    )
    def test_a_table(self, tmp_path, content):
        assert read(tmp_path, content, "labels.csv") == {3: "x", 1: "y"}

    def test_labels_may_hold_anything(self, tmp_path):
        content = 'index,label\n0,"a, ""b""\nc"\n1,größe 🌍\n2,\n'
        assert read(tmp_path, content, "labels.csv") == {0: 'a, "b"\nc', 1: "größe 🌍"}

    def test_no_rows(self, tmp_path):
        assert read(tmp_path, "index,label\n", "labels.csv") == {}
        assert read(tmp_path, "index,label\n3\n", "labels.csv") == {}  # an empty label is none

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("3,x\n4,y\n", f"got ['3', 'x']; {PAIR}"),
            ("", f"got []; {PAIR}"),
            ("number,text\n", f"got ['number', 'text']; {PAIR}"),
            ("index,label\n10,x\n", f"got '10': 'x'; {NUMBER}"),
            ("index,label\n1.0,x\n", f"got '1.0': 'x'; {NUMBER}"),
            ("index,label\n,x\n", f"got '': 'x'; {NUMBER}"),
            (b"index,label\n1,\xff\n", "could not be read as CSV: 'utf-8' codec can't decode byte 0xff"),
            (
                "index,label\n1," + "x" * 200_000,
                "could not be read as CSV: field larger than field limit",
            ),
            (
                "index,label\n1," + "x" * 20_000,
                "got a label of 20000 characters for latent 1; expected at",
            ),
        ],
        ids=lambda content: str(content)[:24],
    )
    def test_what_is_refused(self, tmp_path, content, message):
        path = written(tmp_path, content, "labels.csv")
        with pytest.raises(SAEFormatError, match=f"^{re.escape(f'{path}: {message}')}"):
            read_labels(path, 10)


class TestFiles:
    def test_none_has_to_be_there(self, tmp_path):
        assert find_labels(tmp_path) is None

    def test_either_is_found(self, tmp_path):
        path = written(tmp_path, {"1": "x"})
        assert find_labels(tmp_path) == path
        path.unlink()
        path = written(tmp_path, "index,label\n2,y\n", "labels.csv")
        assert find_labels(tmp_path) == path

    def test_of_several_saes_each_has_its_own(self, tmp_path):
        written(tmp_path, {"1": "x"})
        own = written(tmp_path, {"2": "y"}, "layer_3.labels.json")
        assert find_labels(tmp_path, "layer_3") == own
        assert find_labels(tmp_path, "layer_4") is None
        written(tmp_path, "", "layer_3.labels.csv")
        with pytest.raises(
            SAEFormatError, match=r"^Got layer_3\.labels\.json and layer_3\.labels\.csv in "
        ):
            find_labels(tmp_path, "layer_3")

    def test_both_are_one_too_many(self, tmp_path):
        written(tmp_path, {"1": "x"})
        written(tmp_path, "index,label\n2,y\n", "labels.csv")
        message = f"Got labels.json and labels.csv in {tmp_path}; expected one of them. Keep one."
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
            find_labels(tmp_path)

    def test_a_file_of_any_name_can_be_read(self, tmp_path):
        assert read_labels(written(tmp_path, {"1": "x"}, "mine.JSON"), 2) == {1: "x"}
        with pytest.raises(SAEFormatError, match=r"expected labels in a \.json or \.csv file\.$"):
            read_labels(written(tmp_path, "x", "mine.txt"), 2)
        with pytest.raises(
            AssetNotFoundError, match=r"nowhere\.json'; expected a file of labels there\.$"
        ):
            read_labels(tmp_path / "nowhere.json", 2)


class TestBesideAnSAE:
    @pytest.fixture
    def folder(self, tmp_path):
        return Path(shutil.copytree(SPARSIFY, tmp_path / "layers.3"))

    @pytest.mark.parametrize(
        ("name", "content"),
        [("labels.csv", "index,label\n2,y\n5,z\n"), ("labels.json", '{"2": "y", "5": "z"}')],
    )
    def test_of_another_format(self, folder, name, content):
        digest = load_sae(folder).digest
        written(folder, content, name)
        sae = load_sae(folder)
        assert sae.labels == load_sae(folder / "sae.safetensors").labels == {2: "y", 5: "z"}
        assert sae.digest == digest
        names = SAEFeaturizer(sae=str(folder), feature_names="label").get_feature_names_out()
        assert (names[2], names[5], len(names)) == ("y", "z", 16)

    def test_that_has_no_such_latent(self, folder):
        written(folder, "index,label\n16,y\n", "labels.csv")
        message = r"labels\.csv: got '16': 'y'; expected .*\. The SAE is loaded without labels\.$"
        with pytest.warns(SAEFeaturesWarning, match=message):
            assert load_sae(folder).labels == {}  # they are of someone else, perhaps
        with pytest.raises(
            SAEFormatError, match=r"labels\.csv: got '16': 'y'; expected the number of a"
        ):
            _ = find_sae(folder).labels

    def test_they_are_kept_in_our_own_format(self, folder, tmp_path):
        written(folder, "index,label\n2,y\n", "labels.csv")
        saved = load_sae(folder).save(tmp_path / "ours")
        assert load_sae(saved).labels == {2: "y"}
        shutil.copy(folder / "labels.csv", saved)
        with pytest.raises(SAEFormatError, match=r"expected one of them\. Keep one\.$"):
            load_sae(saved)
        load_sae(folder).save(saved)  # whatever labels stood there
        assert load_sae(saved).labels == {2: "y"}


class TestNeuronpedia:
    def test_a_page(self):
        metadata = {"neuronpedia_id": "gemma-2-2b/12-gemmascope-res-16k"}
        expected = "https://www.neuronpedia.org/gemma-2-2b/12-gemmascope-res-16k/7"
        assert neuronpedia_url(metadata, 7) == expected

    @pytest.mark.parametrize(
        "place",
        [
            None,
            3,
            "",
            "gemma",
            "a/b/c",
            "a b/c",
            "a/b?c",
            "a/b#c",
            "//",
            "https://evil/x",
            "ä/b",
            "a/b\n",
        ],
    )
    def test_no_page(self, place):
        assert neuronpedia_url({"neuronpedia_id": place}, 7) is None
        assert neuronpedia_url({}, 7) is None
