"""One vector per item, by each way of pooling, against its formula."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import BERT

from sae_features.backbones.backbone import Backbone
from sae_features.backbones.embedding import (
    POOLING_MODES,
    Dense,
    EmbeddingHead,
    SentencePooling,
    read_pooling,
)
from sae_features.errors import CheckpointError, InvalidParameterError
from sae_features.hook_point import HookPoint

STATES = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32))
LENGTHS = (5, 2, 1)
ATTENDED = torch.tensor([[1] * n + [0] * (5 - n) for n in LENGTHS])
FORMULAS = {
    "cls_token": lambda x: x[0],
    "mean_tokens": lambda x: x.mean(axis=0),
    "max_tokens": lambda x: x.max(axis=0),
    "mean_sqrt_len_tokens": lambda x: x.sum(axis=0) / np.sqrt(len(x)),
    "weightedmean_tokens": lambda x: np.arange(1, len(x) + 1) @ x / np.arange(1, len(x) + 1).sum(),
    "lasttoken": lambda x: x[-1],
}
"""Of the tokens of one text, (tokens, d), without padding."""


def by_hand(modes, states=STATES, lengths=LENGTHS):
    rows = [
        np.concatenate([FORMULAS[mode](x[:n].double().numpy()) for mode in modes])
        for x, n in zip(states, lengths, strict=True)
    ]
    return np.stack(rows)


class TestPooling:
    def test_every_mode_has_a_formula_here(self):
        assert FORMULAS.keys() == set(POOLING_MODES)

    @pytest.mark.parametrize("mode", POOLING_MODES)
    def test_by_its_formula(self, mode):
        found = SentencePooling((mode,))(STATES, ATTENDED)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, by_hand([mode]), rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize("mode", POOLING_MODES)
    def test_padding_does_not_matter_whatever_stands_there(self, mode):
        spoilt = STATES.masked_fill(ATTENDED[:, :, None] == 0, 1e6)
        pooling = SentencePooling((mode,))
        torch.testing.assert_close(pooling(spoilt, ATTENDED), pooling(STATES, ATTENDED))
        alone = pooling(STATES[1:2, :2], ATTENDED[1:2, :2])
        torch.testing.assert_close(alone, pooling(STATES, ATTENDED)[1:2])

    @given(modes=st.lists(st.sampled_from(POOLING_MODES), min_size=1, max_size=4, unique=True))
    def test_several_lie_side_by_side(self, modes):
        pooling = SentencePooling(tuple(modes))
        found = pooling(STATES, ATTENDED)
        assert pooling.width(4) == 4 * len(modes) == found.shape[1]
        np.testing.assert_allclose(found, by_hand(modes), rtol=1e-6, atol=1e-6)

    def test_dense_layers_follow_in_order_and_then_the_length_is_1(self):
        generator = np.random.default_rng(1)
        weights = [generator.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (3, 6))]
        bias = generator.standard_normal(6).astype(np.float32)
        layers = (
            Dense(torch.from_numpy(weights[0]), torch.from_numpy(bias), "Tanh"),
            Dense(torch.from_numpy(weights[1]), None, "Identity"),
        )
        pooling = SentencePooling(("mean_tokens",), layers, normalizes=True)
        assert pooling.width(4) == 3
        expected = np.tanh(by_hand(["mean_tokens"]) @ weights[0].T + bias) @ weights[1].T
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(pooling(STATES, ATTENDED), expected, rtol=1e-5, atol=1e-6)

    def test_it_is_computed_in_float32(self):
        pooling = SentencePooling(("mean_tokens",))
        found = pooling(STATES.half(), ATTENDED)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, by_hand(["mean_tokens"], STATES.half()), rtol=1e-6, atol=1e-6)


def module(kind, path="", module="sentence_transformers.models"):
    return {"idx": 0, "name": "0", "path": path, "type": f"{module}.{kind}"}


def write_modules(folder, *kinds):
    modules = [module(kind, f"{number}_{kind}" if number else "") for number, kind in enumerate(kinds)]
    for entry in modules[1:]:
        (folder / entry["path"]).mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(modules))
    return [folder / entry["path"] for entry in modules[1:]]


def write_pooling(place, **config):
    (place / "config.json").write_text(json.dumps({"word_embedding_dimension": 4, **config}))


def write_dense(place, *, activation="torch.nn.modules.activation.Tanh", bias=True, seed=0):
    torch.manual_seed(seed)
    tensors = {"linear.weight": torch.randn(6, 4)}
    if bias:
        tensors["linear.bias"] = torch.randn(6)
    save_file(tensors, place / "model.safetensors")
    config = {"in_features": 4, "out_features": 6, "bias": bias, "activation_function": activation}
    (place / "config.json").write_text(json.dumps(config))
    return tensors


class TestReading:
    def test_where_no_file_says_so(self, tmp_path):
        assert read_pooling(tmp_path) is None

    @pytest.mark.parametrize("mode", POOLING_MODES)
    def test_modes_of_older_files(self, tmp_path, mode):
        (place,) = write_modules(tmp_path, "Transformer", "Pooling")
        write_pooling(place, **{f"pooling_mode_{name}": name == mode for name in POOLING_MODES})
        assert read_pooling(tmp_path) == SentencePooling((mode,))

    @pytest.mark.parametrize(
        ("stated", "mode"),
        [
            ("cls", "cls_token"),
            ("mean", "mean_tokens"),
            ("max", "max_tokens"),
            ("mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
            ("weightedmean", "weightedmean_tokens"),
            ("lasttoken", "lasttoken"),
        ],
    )
    def test_modes_of_newer_files(self, tmp_path, stated, mode):
        (place,) = write_modules(tmp_path, "Transformer", "Pooling")
        write_pooling(place, pooling_mode=stated)
        assert read_pooling(tmp_path) == SentencePooling((mode,))

    def test_several_modes_in_sentence_transformers_order(self, tmp_path):
        (place,) = write_modules(tmp_path, "Transformer", "Pooling")
        write_pooling(place, pooling_mode_mean_tokens=True, pooling_mode_cls_token=True)
        assert read_pooling(tmp_path).modes == ("cls_token", "mean_tokens")

    @pytest.mark.parametrize("bias", [True, False])
    def test_dense_and_normalize(self, tmp_path, bias):
        pooling, dense, _ = write_modules(tmp_path, "Transformer", "Pooling", "Dense", "Normalize")
        write_pooling(pooling, pooling_mode="mean")
        tensors = write_dense(dense, bias=bias)
        found = read_pooling(tmp_path)
        assert (found.modes, found.normalizes, len(found.dense)) == (("mean_tokens",), True, 1)
        assert found.dense[0].activation == "Tanh"
        assert torch.equal(found.dense[0].weight, tensors["linear.weight"])
        assert (found.dense[0].bias is not None) == bias
        assert found.width(4) == 6


class TestWhatIsNotKnown:
    @pytest.mark.parametrize(
        "kinds",
        [
            ("Transformer", "Pooling", "Normalize", "Dense"),
            ("Transformer", "Dense", "Pooling"),
            ("Transformer", "Pooling", "Pooling"),
            ("Transformer", "Pooling", "LayerNorm"),
            ("Transformer", "WeightedLayerPooling"),
        ],
    )
    def test_modules_in_another_order_or_of_another_kind(self, tmp_path, kinds):
        for place, kind in zip(write_modules(tmp_path, *kinds), kinds[1:], strict=True):
            if kind == "Pooling":
                write_pooling(place, pooling_mode="mean")
            if kind == "Dense":
                write_dense(place)
        with pytest.raises(CheckpointError) as raised:
            read_pooling(tmp_path)
        wrong = {"Dense", "Pooling", "LayerNorm", "WeightedLayerPooling"}
        kind = str(raised.value).split("'")[1]
        assert kind in wrong & set(kinds)
        assert str(raised.value) == (
            f"{tmp_path} pools with a module {kind!r}; expected Pooling, then Dense, then Normalize."
        )

    @pytest.mark.parametrize("kinds", [(), ("Transformer",), ("Transformer", "Normalize")])
    def test_no_pooling_at_all(self, tmp_path, kinds):
        write_modules(tmp_path, *kinds)
        with pytest.raises(CheckpointError) as raised:
            read_pooling(tmp_path)
        assert str(raised.value) == f"{tmp_path}/modules.json does not say how tokens are pooled."

    def test_a_model_that_is_no_transformer(self, tmp_path):
        (place,) = write_modules(tmp_path, "StaticEmbedding", "Pooling")
        write_pooling(place, pooling_mode="mean")
        with pytest.raises(CheckpointError, match="does not say how tokens are pooled"):
            read_pooling(tmp_path)

    @pytest.mark.parametrize("path", ["../1_Pooling", "/etc", "1_Pooling/../..", "a/b", "~", ".."])
    def test_folders_elsewhere(self, tmp_path, path):
        modules = [module("Transformer"), module("Pooling", path)]
        (tmp_path / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(CheckpointError) as raised:
            read_pooling(tmp_path)
        assert str(raised.value) == (
            f"{tmp_path / 'modules.json'} names the folder {path!r}; expected one beside it."
        )

    @pytest.mark.parametrize("content", ["{", "3", '["a"]', '[{"type": "x"}]'])
    def test_a_damaged_list(self, tmp_path, content):
        (tmp_path / "modules.json").write_text(content)
        with pytest.raises(
            CheckpointError, match="modules.json is damaged; expected a list of modules.$"
        ):
            read_pooling(tmp_path)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({}, "names no mode of pooling that is known here."),
            ({"pooling_mode": "attention"}, "names no mode of pooling that is known here."),
            (
                {"pooling_mode": "mean", "include_prompt": False},
                "leaves the prompt out of pooling; that is not known here.",
            ),
        ],
    )
    def test_modes(self, tmp_path, config, message):
        (place,) = write_modules(tmp_path, "Transformer", "Pooling")
        write_pooling(place, **config)
        with pytest.raises(CheckpointError) as raised:
            read_pooling(tmp_path)
        assert str(raised.value) == f"{place / 'config.json'} {message}"

    @pytest.mark.parametrize("content", [None, "{", "[]"])
    def test_a_pooling_that_cannot_be_read(self, tmp_path, content):
        (place,) = write_modules(tmp_path, "Transformer", "Pooling")
        if content is not None:
            (place / "config.json").write_text(content)
        with pytest.raises(
            CheckpointError, match=rf"^{place}/config.json (cannot be read|does not hold)"
        ):
            read_pooling(tmp_path)

    def test_activations(self, tmp_path):
        pooling, dense = write_modules(tmp_path, "Transformer", "Pooling", "Dense")
        write_pooling(pooling, pooling_mode="mean")
        write_dense(dense, activation="torch.nn.modules.activation.GELU")
        with pytest.raises(CheckpointError) as raised:
            read_pooling(tmp_path)
        assert str(raised.value) == (
            f"{dense} has the activation 'torch.nn.modules.activation.GELU'; expected one of Identity, "
            "Tanh."
        )

    @pytest.mark.parametrize("damage", ["missing", "damaged", "other names"])
    def test_weights_of_dense(self, tmp_path, damage):
        pooling, dense = write_modules(tmp_path, "Transformer", "Pooling", "Dense")
        write_pooling(pooling, pooling_mode="mean")
        write_dense(dense)
        weights = dense / "model.safetensors"
        if damage == "missing":
            weights.unlink()
        elif damage == "damaged":
            weights.write_bytes(b"no safetensors")
        else:
            save_file({"weight": torch.zeros(2, 2)}, weights)
        with pytest.raises(CheckpointError, match=rf"^{dense} has no readable model.safetensors with"):
            read_pooling(tmp_path)


class TestHead:
    """Its own head, or pooling as the files say."""

    def test_the_models_own(self):
        head = EmbeddingHead("pooler_output", None)
        assert head.exists
        assert head.width(SimpleNamespace(), 8) == 8
        output = SimpleNamespace(pooler_output=STATES[:, 0].half())
        found = head.vectors(output, None)
        assert found.dtype == torch.float32
        assert torch.equal(found, STATES[:, 0].half().float())

    def test_a_projection_has_a_width_of_its_own(self):
        head = EmbeddingHead("image_embeds", None)
        assert head.width(SimpleNamespace(projection_dim=5), 8) == 5

    @pytest.mark.parametrize(
        ("head", "reason"),
        [
            (
                EmbeddingHead("pooler_output", None, has_random_weights=True),
                "whose weights lack the head that pools",
            ),
            (
                EmbeddingHead(None, None),
                "whose files do not say how tokens are pooled (modules.json of sentence-transformers)",
            ),
        ],
    )
    def test_where_there_is_none(self, head, reason):
        assert not head.exists
        with pytest.raises(InvalidParameterError) as raised:
            head.refuse(("resid_pre", "resid_post"))
        assert str(raised.value) == (
            f"Got site='embedding' for a model {reason}; it has resid_pre, resid_post."
        )

    def test_a_model_that_does_not_give_what_is_declared(self):
        head = EmbeddingHead("pooler_output", None)
        for output in (SimpleNamespace(pooler_output=None), SimpleNamespace()):
            with pytest.raises(InvalidParameterError) as raised:
                head.vectors(output, None)
            assert str(raised.value) == "Got site='embedding' for a model that gives no pooler_output."


@pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
class TestBackbone:
    """With modules.json of a sentence-transformers model."""

    @pytest.fixture
    def backbone(self, tiny_bert, tmp_path):
        folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
        place, _ = write_modules(folder, "Transformer", "Pooling", "Normalize")
        write_pooling(place, pooling_mode="mean")
        return Backbone.load(folder, BERT, device="cpu", dtype="float32")

    TEXTS = ("the river flows near the old stone mountain", "", "a calm sea", "winter " * 30)

    def test_special_tokens_are_pooled_too(self, backbone):
        found = backbone.activations(list(self.TEXTS), site="embedding")
        assert found.offsets.tolist() == [0, 1, 2, 3, 4]
        states = backbone.activations(list(self.TEXTS), tokens="all")
        for i in range(4):
            mean = states[i].astype(np.float64).mean(axis=0)
            np.testing.assert_allclose(found[i][0], mean / np.linalg.norm(mean), atol=1e-6)

    def test_a_text_without_tokens_has_a_vector(self, backbone):
        """Of what its tokenizer adds."""
        assert backbone.activations([""], site="embedding").values.shape == (1, 32)

    def test_beside_hook_points_in_one_run(self, backbone):
        points = ["embedding", (0, "mlp_out"), (2, "resid_post")]
        n_runs = []
        handle = backbone.model.register_forward_pre_hook(lambda *_: n_runs.append(1))
        both = backbone.activations(list(self.TEXTS), points=points)
        handle.remove()
        assert len(n_runs) == 1
        assert list(both) == [HookPoint(2, "embedding"), HookPoint(0, "mlp_out"), HookPoint(2)]
        for (layer, site), acts in both.items():
            options = {} if site == "embedding" else {"layer": layer}
            alone = backbone.activations(list(self.TEXTS), site=site, **options)
            assert acts.offsets.tolist() == alone.offsets.tolist()
            np.testing.assert_allclose(acts.values, alone.values, rtol=1e-5, atol=1e-5)

    def test_batches_do_not_matter(self, backbone):
        texts = list(self.TEXTS)
        together = backbone.activations(texts, site="embedding").values
        for batch_size in (1, 3):
            found = backbone.activations(texts[::-1], site="embedding", batch_size=batch_size).values
            np.testing.assert_allclose(found[::-1], together, atol=1e-6)

    def test_it_is_of_the_last_block(self, backbone):
        assert backbone.sites[-1] == "embedding"
        assert backbone.parse("embedding") == backbone.parse((-1, "embedding")) == (2, "embedding")
        with pytest.raises(InvalidParameterError) as raised:
            backbone.activations(["sea"], layer=1, site="embedding")
        assert str(raised.value) == (
            "Got layer=1 with site='embedding', which is made of the last block's output; leave the "
            "layer out, or give -1."
        )

    def test_width(self, backbone):
        assert backbone.width(HookPoint(2, "embedding")) == 32
