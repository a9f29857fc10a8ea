from __future__ import annotations

import json
import shutil

import pytest

from sae_features.errors import AssetNotFoundError, InvalidInputError, InvalidParameterError
from sae_features.evaluation.configs import Config, parameters_of
from sae_features.evaluation.sweep import FeatureSweep
from sae_features.evaluation.transfer import CrossLingualTransfer


@pytest.fixture
def config(tmp_path):
    def write(text, **how):
        path = tmp_path / "mine.toml"
        path.write_text(text, encoding="utf-8")
        return Config(path, **how)

    return write


@pytest.fixture
def table(tmp_path):
    """A table ``reviews.csv`` beside the file."""
    lines = [f"text {i},{'pos' if i % 2 else 'neg'},author {i % 5}" for i in range(20)]
    (tmp_path / "reviews.csv").write_text("\n".join(["text,label,author", *lines]))
    return "[[data]]\npath = 'reviews.csv'\n"


def test_everything_that_a_protocol_takes_may_be_said(config):
    assert {"models", "layers", "cv", "seed", "n_jobs", "cache"} <= set(parameters_of(FeatureSweep))
    own = set(parameters_of(CrossLingualTransfer)) - set(parameters_of(FeatureSweep))
    assert own == {"few_shot", "center", "train_size"}
    found = config(
        """
        models = ["minilm", {model = "e5", thresholds = ["none", 1.0], binarize = [true]}]
        thresholds = ["none", 0.5]
        token_top_n = [4, "none"]
        few_shot = [16, 0.5]
        cv = 3
        permuted = false
        """
    ).parameters(CrossLingualTransfer)
    assert found == {
        "models": ["minilm", {"model": "e5", "thresholds": [None, 1.0], "binarize": [True]}],
        "thresholds": [None, 0.5], "token_top_n": [4, None], "few_shot": [16, 0.5], "cv": 3,
        "permuted": False,
    }  # fmt: skip
    transfer = CrossLingualTransfer(**found)
    assert (transfer.latents.thresholds, transfer.few_shot, transfer.cv) == ((None, 0.5), (16, 0.5), 3)


def test_an_unknown_key_is_named_with_the_nearest(config, table):
    known = [*parameters_of(FeatureSweep), "data"]
    with pytest.raises(InvalidParameterError) as error:
        config("poolinks = ['max']").check_keys(known)
    assert str(error.value).startswith("mine.toml: Got key='poolinks'; expected one of models, layers")
    assert str(error.value).endswith("Did you mean 'poolings'?")
    config("poolings = ['max']").check_keys(known)
    with pytest.raises(
        InvalidParameterError, match=r"mine.toml, models\[1\]: Got key='laiers'.* 'layers'\?"
    ):
        config("models = ['minilm', {model = 'e5', laiers = [1]}]").parameters(FeatureSweep)
    with pytest.raises(
        InvalidParameterError, match=r"mine.toml, data\[0\]: Got key='lable'.* 'label'\?"
    ):
        config(table + "lable = 'x'").data()
    with pytest.raises(InvalidParameterError, match=r"cv is a key of the whole file; put it above"):
        config(table + "cv = 3").data()
    with pytest.raises(InvalidParameterError, match=r"group is a key of \[\[data\]\]\.$"):
        config("group = 'author'").check_keys(known)
    for name in ("folder", "verbose"):  # said on the command line
        with pytest.raises(InvalidParameterError, match=f"Got key='{name}'"):
            config(f"{name} = true").check_keys(known)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("poolings = 'max'", "mine.toml: got poolings = 'max'; expected a list: ['max']."),
        ("few_shot = 8", "mine.toml: got few_shot = 8; expected a list: [8]."),
        ("models = [3]", "mine.toml: got models[0] = 3; expected a name or a table."),
        ("models = [{layers = [1]}]", "mine.toml, models[0]: has no model; name one."),
        (
            "models = [{model = 'minilm', saes = 'a'}]",
            "mine.toml, models[0]: got saes = 'a'; expected a list",
        ),
        (
            "models = [{model = 'minilm', poolings = 'max'}]",
            "mine.toml, models[0]: got poolings = 'max'; expected a list: ['max'].",
        ),
        (
            "models = [{model = 'minilm', layers = 3}]",
            "mine.toml, models[0]: got layers = 3; expected a list",
        ),
    ],
)
def test_values_of_the_wrong_kind(config, text, message):
    with pytest.raises(InvalidParameterError) as error:
        config(text).parameters(CrossLingualTransfer)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.toml names no data; add a table [[data]] with path = "),
        ("data = 'reviews.csv'", "mine.toml: data is no list of tables; write [[data]] before each."),
        ("[data]\npath = 'reviews.csv'", "mine.toml: data is no list of tables"),
        ("data = ['reviews.csv']", "mine.toml: data is no list of tables"),
        ("data = 3", "mine.toml: data is no list of tables"),
        ("[[data]]\nname = 'x'", "mine.toml, data[0]: has no path; say where the data are."),
        ("[[data]]\npath = 3", "mine.toml, data[0]: got path = 3; expected a text."),
        ("[[data]]\npath = 'reviews.csv'\nlabel = 3", "mine.toml, data[0]: got label = 3; expected a"),
        ("[[data]]\npath = 'reviews.csv'\nmax_items = -4", "Got max_items=-4; expected"),
        ("[[data]]\npath = 'reviews.csv'\nmax_items = '9'", "Got max_items='9'; expected"),
        ("[[data]]\npath = 'reviews.csv'\nwhere = 'en'", "Got where='en'; expected values by name."),
        ("[[data]]\npath = 'reviews.csv'\ngroup = 'autor'", "reviews: Got group column='autor'"),
    ],
)  # fmt: skip
def test_data_that_cannot_be(config, table, text, message):
    with pytest.raises(InvalidParameterError) as error:
        config(text).data()
    assert str(error.value).startswith(message)


def test_data_are_read_as_they_are_told(config, table, tmp_path):
    found = config(
        table + "group = 'author'\nmax_items = 10\nname = 'mine'\nrename = {pos = 'good'}\n"
        "[[data]]\npath = 'reviews.csv'\nwhere = {author = 'author 1'}\n"
    ).data()
    assert [data.name for data in found] == ["mine", "reviews"]
    assert (len(found[0]), found[0].classes) == (10, ("good", "neg"))
    assert sorted(found[0].labels) == ["good"] * 5 + ["neg"] * 5
    assert found[0].groups.tolist() == [f"author {int(text.split()[1]) % 5}" for text in found[0].items]
    assert found[1].items == [f"text {i}" for i in (1, 6, 11, 16)]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.move(tmp_path / "reviews.csv", elsewhere / "reviews.csv")
    assert len(config(table, data=elsewhere).data()[0]) == 20
    with pytest.raises(AssetNotFoundError, match="expected a file there"):
        config(table).data()


def test_a_path_with_a_star_is_several_data_sets(config, table, tmp_path):
    shutil.copy(tmp_path / "reviews.csv", tmp_path / "more.csv")
    text = "[[data]]\npath = '*.csv'\nmax_items = 6\n"
    assert [(data.name, len(data)) for data in config(text).data()] == [("more", 6), ("reviews", 6)]
    assert len(config(text.replace("*", f"{tmp_path}/*"), data=tmp_path / "none").data()) == 2
    with pytest.raises(InvalidParameterError, match=r"data\[0\]: got a name for all of path = '\*.csv'"):
        config(text + "name = 'x'").data()
    with pytest.raises(AssetNotFoundError, match=r"data\[0\]: got path = '\*.tsv'; nothing in"):
        config("[[data]]\npath = '*.tsv'\n").data()


def test_folders_beside_the_file_are_models_and_saes(config, tmp_path, tiny_bert, tiny_saes):
    shutil.copytree(tiny_bert, tmp_path / "models" / "mine")
    shutil.copytree(tiny_saes["topk"], tmp_path / "topk")
    for text in (
        "models = [{model = 'models/mine', layers = [1], saes = ['topk', 'random:8:2']}]",
        "models = ['models/mine']\nlayers = [1]\nsaes = ['topk', 'random:8:2']",
    ):
        sweep = FeatureSweep(**config(text).parameters(FeatureSweep), baselines=())
        names = [method.name for method in sweep.methods(["a"])]
        assert names == ["mine layer 1 topk max", "mine layer 1 random:8:2 max"]
    elsewhere = tmp_path / "data"
    elsewhere.mkdir()
    shutil.move(tmp_path / "topk", elsewhere / "topk")
    sweep = FeatureSweep(**config(text, data=elsewhere).parameters(FeatureSweep), baselines=())
    assert [method.name for method in sweep.methods(["a"])] == names


def test_a_folder_with_the_name_of_a_model_is_not_that_model(config, tmp_path):
    """The folder of results of minilm.toml, say."""
    (tmp_path / "minilm").mkdir()
    (tmp_path / "minilm-topk-4k" / "layer_3").mkdir(parents=True)
    text = "models = ['minilm', {model = 'minilm'}]\nsaes = ['minilm-topk-4k/layer_3']"
    assert config(text).parameters(FeatureSweep) == {
        "models": ["minilm", {"model": "minilm"}], "saes": ["minilm-topk-4k/layer_3"],
    }  # fmt: skip


def test_a_file_that_is_none(tmp_path, config):
    with pytest.raises(AssetNotFoundError, match="expected a TOML file there."):
        Config(tmp_path / "none.toml")
    with pytest.raises(InvalidParameterError, match="mine.toml is not TOML: "):
        config("models = [")
    (tmp_path / "mine.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(InvalidParameterError, match="mine.toml is not TOML: "):
        Config(tmp_path / "mine.toml")


def test_from_a_file_to_results(config, table, tmp_path):
    words = "models = ['minilm']\nsaes = []\nstrengths = [1]\nbaselines = ['bag_of_words', 'chance']\n"
    mine = config(words + "cv = 2\n" + table)
    results = FeatureSweep(**mine.parameters(FeatureSweep), folder=tmp_path / "out").run(mine.data())
    assert {row["method"] for row in results.rows} == {"bag of words", "chance"}
    about = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert about["data"]["reviews"]["source"]["file"] == "reviews.csv"
    mine = config(words + "cv = 20\n" + table)
    with pytest.raises(InvalidInputError, match="reviews: class 'neg' has 10 different items or groups"):
        FeatureSweep(**mine.parameters(FeatureSweep)).run(mine.data())
