from __future__ import annotations

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import BERT, MAX_POSITIONS, SITES_OF_BERT, WORDS, edit_json

from sae_features.backbones import backbone as backbone_module
from sae_features.backbones import batches as batches_module
from sae_features.backbones.backbone import Backbone
from sae_features.backbones.text import TextInput
from sae_features.errors import (
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
)
from sae_features.hook_point import HookPoint
from sae_features.items import Items

TEXTS = [
    "the river flows near the old stone mountain",
    "",
    "a calm sea",
    "zebra!",
    "The [SEP] Sky  is </s> bright, very bright.",
    "winter " * 30,
]
texts_of_words = st.lists(
    st.lists(st.sampled_from([*WORDS, "[SEP]", "Zürich", "x9!"]), max_size=25).map(" ".join),
    min_size=1,
    max_size=6,
)


@pytest.fixture
def folder(tiny_bert, tmp_path):
    """A copy of the tiny BERT that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


def load(folder, dtype="float32"):
    return Backbone.load(folder, BERT, device="cpu", dtype=dtype)


def with_tokenizer(backbone, **changes):
    tokenizer = copy.deepcopy(backbone.tokenizer)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return Backbone(backbone.model, backbone.architecture, {"text": TextInput(tokenizer)})


def assert_close(values, expected):
    """Within 1e-5 of each item's largest value."""
    assert values.shape == expected.shape
    if values.size:
        assert np.abs(values - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
class TestActivations:
    def test_they_are_the_hidden_states_at_the_content_tokens(self, bert):
        encoded = bert.tokenizer(["the river flows"], return_tensors="pt")
        with torch.inference_mode():
            hidden = bert.model(**encoded, output_hidden_states=True).hidden_states
        for layer in range(3):
            acts = bert.activations(["the river flows"], layer=layer)
            np.testing.assert_array_equal(acts[0], hidden[layer + 1][0, 1:4].numpy())
            acts = bert.activations(["the river flows"], layer=layer, site="resid_pre", tokens="all")
            np.testing.assert_array_equal(acts[0], hidden[layer][0].numpy())

    def test_shapes_and_types(self, bert):
        acts = bert.activations(TEXTS, layer=1)
        assert (acts.values.dtype, acts.offsets.dtype) == (np.float32, np.int64)
        assert np.diff(acts.offsets).tolist() == [8, 0, 3, 6, 13, 30]
        assert acts.values.shape == (acts.offsets[-1], 32)
        assert acts[1].shape == (0, 32)

    def test_only_texts_without_tokens(self, bert):
        acts = bert.activations(["", "[SEP]"])
        assert (acts.values.shape, acts.offsets.tolist()) == ((0, 32), [0, 0, 0])

    def test_the_last_layer_is_the_default(self, bert):
        last, named = bert.activations(["a calm sea"]), bert.activations(["a calm sea"], layer=2)
        np.testing.assert_array_equal(last.values, named.values)

    def test_a_prompt_changes_values_but_not_which_tokens_count(self, bert):
        plain = bert.activations(TEXTS, layer=1)
        prompted = bert.activations(TEXTS, layer=1, prompt="query: {}")
        assert plain.offsets.tolist() == prompted.offsets.tolist()
        assert not np.allclose(plain.values, prompted.values, atol=0.01)

    def test_windows_are_joined_in_order(self, bert):
        words = WORDS[:11]
        whole = bert.activations([" ".join(words), "sea"], max_length=5, overflow="chunk", layer=1)
        parts = [" ".join(words[start : start + 3]) for start in range(0, 11, 3)]
        alone = np.concatenate([bert.activations([part], layer=1).values for part in parts])
        assert_close(whole[0], alone)
        assert_close(whole[1], bert.activations(["sea"], layer=1).values)

    def test_truncation_takes_the_first_window(self, bert):
        cut = bert.activations([" ".join(WORDS[:11])], max_length=5, layer=1)
        assert_close(cut[0], bert.activations([" ".join(WORDS[:3])], layer=1)[0])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"layer": 3}, "^Got layer=3; expected 0 to 2"),
            (
                {"site": "mlp_normalized"},
                f"^Got site='mlp_normalized', which block 2 .* it has {SITES_OF_BERT}.$",
            ),
            ({"site": "resid"}, "^Got site='resid', which block 2 .* Did you mean 'resid_pre'.$"),
            ({"site": "embedding"}, "^Got site='embedding' for a model whose files do not say how"),
            ({"max_length": 65}, "^Got max_length=65; this model takes at most 64 tokens"),
            ({"overflow": "cut"}, "^Got overflow='cut'"),
            ({"batch_size": 0}, "^Got batch_size=0; expected None or an integer above 0"),
            ({"batch_size": -1}, "^Got batch_size=-1; expected None or an integer above 0"),
        ],
    )
    def test_what_cannot_be(self, bert, options, message):
        with pytest.raises(InvalidParameterError, match=message):
            bert.activations(["sea"], **options)

    @pytest.mark.parametrize("point", [(0,), (0, 1, 2), (0, 3), (0, ["resid_pre"]), 3, None])
    def test_what_is_no_hook_point(self, bert, point):
        with pytest.raises(InvalidParameterError) as raised:
            bert.activations(["sea"], points=[point])
        assert str(raised.value) == f"Got the hook point {point!r}; expected (layer, site) or a name."

    def test_several_points_by_any_of_their_names(self, bert):
        points = [(1, "mlp_hidden"), "blocks.0.hook_resid_post", "encoder.layer.1.output.dense"]
        found = bert.activations(TEXTS, points=points)
        parsed = [HookPoint(1, "mlp_hidden"), HookPoint(0), HookPoint(1, "mlp_out")]
        assert list(found) == parsed
        for layer, site in parsed:
            alone = bert.activations(TEXTS, layer=layer, site=site)
            np.testing.assert_array_equal(found[layer, site].values, alone.values)
            assert found[layer, site].offsets.tolist() == alone.offsets.tolist()
        assert found[1, "mlp_hidden"].values.shape[1] == 64

    def test_points_and_a_layer_contradict_each_other(self, bert):
        with pytest.raises(InvalidParameterError, match="^Got both layer and points; expected one of"):
            bert.activations(["sea"], points=[(0, "resid_pre")], layer=1)

    def test_items_are_checked(self, bert):
        with pytest.raises(InvalidInputError, match="^Got None as item 1; expected a text"):
            bert.activations(["sea", None])


class TestWarnings:
    """As the estimators warn: once of each kind, naming the caller's line."""

    def test_truncated_and_empty_texts(self, bert):
        texts = ["sea", "", "winter " * 30, "", "winter " * 30]
        with pytest.warns(SAEFeaturesWarning) as told:
            bert.activations(texts, max_length=12)
        assert [str(each.message) for each in told] == [
            "2 of 5 texts are longer than 12 tokens and were truncated (the first is item 2); "
            "overflow='chunk' uses all of them.",
            "2 of 5 texts have no token that counts (the first is item 1); they have no activations.",
        ]
        assert {each.filename for each in told} == {__file__}

    def test_nothing_is_lost_and_nothing_told(self, bert):
        texts = ["sea", "winter " * 30]
        chunked = bert.activations(texts, max_length=12, overflow="chunk")
        assert np.diff(chunked.offsets).tolist() == np.diff(bert.activations(texts).offsets).tolist()


def test_activations_that_are_not_finite_name_their_item(bert):
    """Also where the weights are at fault, and not the type."""
    broken = Backbone(copy.deepcopy(bert.model), BERT, bert.inputs)
    sea = bert.tokenizer.convert_tokens_to_ids("sea")
    broken.model.embeddings.word_embeddings.weight[sea] = torch.nan
    with pytest.raises(InvalidInputError) as raised:
        broken.activations(["rain", "a hill", "the sea"], layer=0)
    assert str(raised.value) == (
        "Got activations that are not finite for item 2 at layer 0, resid_post, computed in float32. "
        "The model's weights may be damaged."
    )
    broken.activations(["rain", "a hill"])


@pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
class TestInvariance:
    """An item's values do not depend on what is computed beside it."""

    @settings(max_examples=25)
    @given(
        texts=texts_of_words,
        layer=st.integers(0, 2),
        batch_size=st.none() | st.integers(1, 4),
        tokens=st.sampled_from(["content", "all"]),
        data=st.data(),
    )
    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    def test_batch_and_order(self, request, name, texts, layer, batch_size, tokens, data):
        backbone = request.getfixturevalue(name)
        order = data.draw(st.permutations(range(len(texts))))
        options = {"layer": layer, "tokens": tokens}
        together = backbone.activations([texts[i] for i in order], batch_size=batch_size, **options)
        for position, item in enumerate(order):
            assert_close(together[position], backbone.activations([texts[item]], **options)[0])

    @settings(max_examples=15)
    @given(texts=texts_of_words, batch_size=st.none() | st.integers(1, 4))
    def test_chunks(self, bert, texts, batch_size):
        options = {"layer": 1, "max_length": 7, "overflow": "chunk", "prompt": "query: {}"}
        together = bert.activations(texts, batch_size=batch_size, **options)
        for item, text in enumerate(texts):
            assert_close(together[item], bert.activations([text], **options)[0])

    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    @pytest.mark.parametrize("changes", [{"padding_side": "left"}, {"pad_token": None}])
    def test_how_the_tokenizer_pads(self, request, name, changes):
        backbone = request.getfixturevalue(name)
        other = with_tokenizer(backbone, **changes)
        acts, expected = (each.activations(TEXTS, layer=1) for each in (other, backbone))
        for item in range(len(TEXTS)):
            assert_close(acts[item], expected[item])

    def test_padding_and_truncation_in_the_tokenizer_file(self, bert, folder):
        path = folder / "tokenizer.json"
        truncation = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
        padding = {
            "strategy": {"Fixed": 9},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        }
        edit_json(path, truncation=truncation, padding=padding)
        acts, expected = (each.activations(TEXTS, layer=1) for each in (load(folder), bert))
        assert acts.offsets.tolist() == expected.offsets.tolist()
        assert_close(acts.values, expected.values)


class TestMaxLength:
    def test_the_least_of_model_and_tokenizer(self, bert):
        assert bert.max_length == MAX_POSITIONS == 64
        assert with_tokenizer(bert, model_max_length=20).max_length == 20
        assert with_tokenizer(bert, model_max_length=int(1e30)).max_length == 64

    def test_positions_of_roberta_start_behind_the_padding(self, xlmr):
        assert xlmr.model.config.max_position_embeddings == 66
        assert xlmr.max_length == 64

    @pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
    @pytest.mark.parametrize("name", ["bert", "xlmr"])
    def test_the_longest_window_runs_beside_a_short_one(self, request, name):
        backbone = request.getfixturevalue(name)
        acts = backbone.activations(["sea " * 100, "sea"], layer=1)
        assert np.diff(acts.offsets).tolist() == [62, 1]


class TestRun:
    def batches(self, backbone, texts, **options):
        windows = backbone.windows(Items("text", texts), backbone.token_policy())
        return list(backbone.run(windows, [HookPoint(0)], **options))

    def test_the_longest_go_first_and_those_without_tokens_not_at_all(self, bert):
        batches = self.batches(bert, TEXTS, batch_size=2)
        assert [batch.windows.tolist() for batch in batches] == [[5, 4], [0, 3], [2]]
        assert [batch.lengths[HookPoint(0)].tolist() for batch in batches] == [[30, 13], [8, 6], [3]]
        for batch in batches:
            assert batch.values[HookPoint(0)].shape == (batch.lengths[HookPoint(0)].sum(), 32)

    def test_without_a_size_padded_tokens_are_bounded(self, bert, monkeypatch):
        monkeypatch.setattr(batches_module, "TOKEN_BUDGET", 40)
        batches = self.batches(bert, TEXTS)
        assert [batch.windows.tolist() for batch in batches] == [[5], [4, 0], [3, 2]]

    def test_a_window_beyond_the_budget_runs_alone(self, bert, monkeypatch):
        monkeypatch.setattr(batches_module, "TOKEN_BUDGET", 3)
        assert [len(batch.windows) for batch in self.batches(bert, TEXTS)] == [1] * 5

    @pytest.mark.parametrize(
        "point", [HookPoint(0, "mlp_normalized"), HookPoint(3), HookPoint(0, "embedding")]
    )
    def test_a_point_that_cannot_be_read_is_refused(self, bert, point):
        windows = bert.windows(Items("text", ["sea"]), bert.token_policy())
        with pytest.raises(InvalidParameterError, match="^Got (site|layer)="):
            next(bert.run(windows, [HookPoint(0), point]))

    def test_one_pass_serves_several_points(self, bert):
        points = [HookPoint(-1), HookPoint(0), HookPoint(2)]
        windows = bert.windows(Items("text", TEXTS), bert.token_policy())
        (batch,) = bert.run(windows, points)
        assert set(batch.values) == set(points)
        assert torch.equal(batch.values[HookPoint(-1)], batch.values[HookPoint(2)])


SOME = ["sea", "a river near the stone", "rain", "winter snow on an old hill", "calm"]


def test_what_does_not_fit_a_gpu_is_run_by_halves(bert, monkeypatch):
    expected = bert.activations(SOME, layer=1, batch_size=100)
    genuine, shapes = backbone_module.read_points, []

    def small_gpu(model, taps, inputs, **options):
        shapes.append(tuple(inputs["input_ids"].shape))
        if len(inputs["input_ids"]) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return genuine(model, taps, inputs, **options)

    monkeypatch.setattr(backbone_module, "read_points", small_gpu)
    found = bert.activations(SOME, layer=1, batch_size=100)
    assert [n for n, _ in shapes] == [5, 3, 2, 1, 2]
    assert shapes[-1][1] < shapes[0][1]  # halves are padded to their own longest
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    np.testing.assert_array_equal(found.offsets, expected.offsets)


def test_a_window_that_does_not_fit_alone_is_an_error(bert, monkeypatch):
    def no_gpu(*args, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backbone_module, "read_points", no_gpu)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        bert.activations(SOME, layer=1)


def test_two_threads_at_different_layers_get_their_own(bert):
    texts = [" ".join(WORDS[start : start + 9]) for start in range(40)]
    expected = [bert.activations(texts, layer=layer, batch_size=4).values for layer in range(3)]

    def work(number):
        layer = number % 3
        return layer, bert.activations(texts, layer=layer, batch_size=4).values

    with ThreadPoolExecutor(3) as pool:
        for layer, values in pool.map(work, range(12)):
            np.testing.assert_array_equal(values, expected[layer])


class TestSeveralPoints:
    points = ((1, "resid_post"), (-1, "mlp_out"), "encoder.layer.0", "blocks.1.hook_resid_mid")

    def test_each_by_what_was_asked_for_and_by_layer_and_site(self, bert):
        acts = bert.activations(TEXTS[:1], points=list(self.points))
        assert list(acts) == [(1, "resid_post"), (2, "mlp_out"), (0, "resid_post"), (1, "resid_mid")]
        for point in self.points:
            assert acts[point] is acts[bert.parse(point)]
        assert "1 items, 8 tokens, d=32" in repr(acts[1, "resid_post"])

    def test_another_one_is_missed_by_name(self, bert):
        acts = bert.activations(TEXTS[:1], points=list(self.points))
        with pytest.raises(
            KeyError, match=r"Got \(2, 'resid_post'\); expected one of \(1, 'resid_post'\), .*"
        ):
            acts[2, "resid_post"]
        assert (2, "resid_post") not in acts

    def test_it_pickles(self, bert):
        acts = bert.activations(TEXTS[:1], points=list(self.points))
        copied = pickle.loads(pickle.dumps(acts))
        np.testing.assert_array_equal(copied["encoder.layer.0"].values, acts["encoder.layer.0"].values)

    @pytest.mark.parametrize(
        ("points", "given"),
        [("encoder.layer.0", "the hook point 'encoder.layer.0'"),
         ((1, "resid_post"), r"the hook point \(1, 'resid_post'\)"), ([], "no hook points")],
    )  # fmt: skip
    def test_one_alone_is_to_be_wrapped(self, bert, points, given):
        with pytest.raises(InvalidParameterError, match=f"^Got {given} as points; expected a list of"):
            bert.activations(TEXTS[:1], points=points)

    def test_widths_by_any_name(self, bert):
        assert bert.width((-1, "mlp_hidden")) == bert.width("encoder.layer.2.output.dense.input") == 64
        assert repr(bert) == "Backbone(BertModel, n_layers=3, d_model=32)"
