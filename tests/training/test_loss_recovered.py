"""Losses with an SAE spliced in equal those of hooks by hand, one text at a time, without padding."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from tiny import BERT, varied_sae

from sae_features.architectures import Architecture, Patches, Text
from sae_features.errors import (
    CheckpointError,
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
)
from sae_features.families import ModelFamily, families
from sae_features.hook_point import HookPoint
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.saes.random_control import random_autoencoder
from sae_features.testing.tiny import write_tiny
from sae_features.training.language_models import load_language_model
from sae_features.training.loss_recovered import loss_recovered, losses_recovered

LLAMA = Architecture("llama", (Text(first_token_is_sink=True),))
VIT = Architecture("vit", (Patches(),))
T5 = Architecture("t5", loader="T5EncoderModel", tiny={"feed_forward_proj": "gated-gelu"})
FAMILY = ModelFamily("any", (LLAMA, BERT, VIT, T5))
PLUGINS = tuple(families().values())
DECODERS = {
    "gemma", "gemma2", "gemma3_text", "gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3",
    "qwen3_moe",
}  # fmt: skip
ENCODERS = {"bert", "modernbert", "mpnet", "roberta", "xlm-roberta"}
TEXTS = ["the river is near", "a", "warm light", "an old stone in the far valley", "b c", "snow song"]
D, LAYER = 32, 1
POINT = HookPoint(LAYER)


@pytest.fixture(autouse=True)
def _families(use_families):
    use_families(FAMILY)


@pytest.fixture(scope="module")
def causal_folder(tmp_path_factory):
    """A random Llama with its head; no BOS, so that the first token is a sink."""
    folder = write_tiny(LLAMA, tmp_path_factory.mktemp("models") / "causal", template="plain")
    return with_head(folder, transformers.AutoModelForCausalLM)


@pytest.fixture(scope="module")
def masked_folder(tmp_path_factory, tiny_bert):
    """A random BERT with its head."""
    folder = tmp_path_factory.mktemp("models") / "masked"
    shutil.copytree(tiny_bert, folder)
    return with_head(folder, transformers.AutoModelForMaskedLM)


def with_head(folder, kind):
    torch.manual_seed(3)
    model = kind.from_config(transformers.AutoConfig.from_pretrained(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (1.5 / parameter[0].numel() ** 0.5))
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def causal(causal_folder):
    return load_language_model(causal_folder)


@pytest.fixture
def masked(masked_folder):
    return load_language_model(masked_folder)


@pytest.fixture(params=["causal", "masked"])
def lm(request):
    return request.getfixturevalue(request.param)


def sae_of(kind="random", d=D, point=POINT, **fields):
    """An SAE that gives back something, exactly what it takes, or always the same."""
    if kind == "random":
        return varied_sae("relu", d_in=d, n_latents=40, dtype=torch.float32, hook_point=point, **fields)
    eye = torch.eye(d)
    return SparseAutoencoder(
        "relu",
        W_enc=torch.cat([eye, -eye], dim=1),
        b_enc=torch.zeros(2 * d),
        b_dec=torch.zeros(d),
        W_dec=torch.cat([eye, -eye]) * (kind == "identity"),
        subtract_b_dec=False,
        hook_point=point,
        **fields,
    )


def by_hand(lm, ids, predicted, targets, change=None, where=None):
    """Sum of the losses at some positions of one text, with a hook that is not ours."""
    handles = []
    if change is not None:

        def hook(_module, _args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.clone()
            hidden[0, where] = change(hidden[0, where])
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handles.append(lm.backbone.stack.blocks[LAYER].register_forward_hook(hook))
    with torch.no_grad():
        logits = lm.model(input_ids=torch.tensor([ids])).logits[0, predicted]
    for handle in handles:
        handle.remove()
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum"))


class TestCausal:
    def total(self, lm, change=None):
        loss, count = 0.0, 0
        for text in TEXTS:
            ids = lm.backbone.tokenizer(text)["input_ids"]
            if len(ids) == 1:
                continue
            where = list(range(1, len(ids)))  # all but the sink
            loss += by_hand(lm, ids, list(range(len(ids) - 1)), ids[1:], change, where)
            count += len(ids) - 1
        return loss / count, count

    def test_the_figures_are_those_of_hooks_by_hand(self, causal):
        sae = sae_of()
        result = loss_recovered(sae, causal, TEXTS)
        original, count = self.total(causal)
        spliced = self.total(causal, sae.reconstruct)[0]
        zero = self.total(causal, torch.zeros_like)[0]
        assert result.n_predictions == count == sum(len(text) - 1 for text in TEXTS)
        assert result.ce_original == pytest.approx(original, rel=1e-5)
        assert result.ce_sae == pytest.approx(spliced, rel=1e-5)
        assert result.ce_zero == pytest.approx(zero, rel=1e-5)
        expected = 1 - (spliced - original) / (zero - original)
        assert result.loss_recovered_zero == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert abs(spliced - original) > 0.05
        assert abs(zero - original) > 0.05

    def test_the_mean_is_that_of_the_tokens_that_are_replaced(self, causal):
        rows = []

        def keep(hidden):
            rows.append(hidden)
            return hidden

        self.total(causal, keep)
        mean = torch.cat(rows).mean(dim=0)
        expected = self.total(causal, mean.expand_as)[0]
        result = loss_recovered(sae_of(), causal, TEXTS, ablation="mean")
        assert result.ce_mean == pytest.approx(expected, rel=1e-5)
        always_mean = replace(sae_of("zero"), b_dec=mean)
        again = loss_recovered(always_mean, causal, TEXTS, ablation="mean")
        assert again.ce_sae == pytest.approx(again.ce_mean, rel=1e-5)
        assert again.loss_recovered_mean == pytest.approx(0, abs=1e-3)

    def test_the_divergence(self, causal):
        sae, (text,) = sae_of(), TEXTS[:1]
        logs = []
        for change in (None, sae.reconstruct):
            ids = torch.tensor([causal.backbone.tokenizer(text)["input_ids"]])

            def hook(_module, _args, output, change=change):
                hidden = output[0] if isinstance(output, tuple) else output
                if change is not None:
                    hidden = torch.cat([hidden[:, :1], change(hidden[0, 1:])[None]], dim=1)
                return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

            handle = causal.backbone.stack.blocks[LAYER].register_forward_hook(hook)
            with torch.no_grad():
                logs.append(causal.model(input_ids=ids).logits[0, :-1].double().log_softmax(dim=-1))
            handle.remove()
        expected = (logs[0].exp() * (logs[0] - logs[1])).sum(dim=-1).mean()
        assert loss_recovered(sae, causal, [text]).kl == pytest.approx(float(expected), rel=1e-4)

    def test_all_tokens_take_the_sink_along(self, causal):
        content = loss_recovered(sae_of("zero"), causal, TEXTS)
        everything = loss_recovered(sae_of("zero"), causal, TEXTS, tokens="all")
        assert everything.n_predictions == content.n_predictions  # nothing precedes it
        assert everything.ce_original == pytest.approx(content.ce_original)
        assert everything.ce_sae != pytest.approx(content.ce_sae, rel=1e-4)

    def test_a_bos_is_not_replaced_but_predicts(self, tmp_path):
        folder = with_head(write_tiny(LLAMA, tmp_path / "bos"), transformers.AutoModelForCausalLM)
        lm = load_language_model(folder)
        result = loss_recovered(sae_of("zero"), lm, ["abc"])
        ids = lm.backbone.tokenizer("abc")["input_ids"]
        expected = by_hand(lm, ids, [0, 1, 2], ids[1:], torch.zeros_like, [1, 2, 3])
        assert result.n_predictions == 3
        assert result.ce_sae == pytest.approx(expected / 3, rel=1e-5)

    def test_a_head_that_is_tied_to_the_embeddings_needs_no_weights_of_its_own(self, tmp_path):
        folder = write_tiny(LLAMA, tmp_path / "tied", template="plain", tie_word_embeddings=True)
        assert loss_recovered(sae_of("identity"), str(folder), TEXTS).loss_recovered_zero == 1


class TestMasked:
    def test_the_figures_are_those_of_hooks_by_hand(self, masked, monkeypatch):
        asked = []
        forward = masked.model.forward

        def spy(**inputs):
            asked.append(inputs["input_ids"][0].tolist())
            return forward(**inputs)

        sae = sae_of()
        tokenizer = masked.backbone.tokenizer
        losses, count = np.zeros(3), 0
        with monkeypatch.context() as patch:
            patch.setattr(masked.model, "forward", spy)
            for text in TEXTS:
                loss_recovered(sae, masked, [text], ablation="zero")
        for text, seen in zip(TEXTS, asked[::3], strict=True):
            ids = tokenizer(text)["input_ids"]
            hidden = [i for i, (a, b) in enumerate(zip(ids, seen, strict=True)) if a != b]
            assert {seen[i] for i in hidden} == {tokenizer.mask_token_id}
            assert len(hidden) == max(1, round(0.15 * (len(ids) - 2)))
            where, targets = list(range(1, len(ids) - 1)), [ids[i] for i in hidden]
            for n, change in enumerate((None, sae.reconstruct, torch.zeros_like)):
                losses[n] += by_hand(masked, seen, hidden, targets, change, where)
            count += len(hidden)
        result = loss_recovered(sae, masked, TEXTS, ablation="zero")
        assert result.n_predictions == count
        found = (result.ce_original, result.ce_sae, result.ce_zero)
        np.testing.assert_allclose(found, losses / count, rtol=1e-5)

    def test_the_seed_decides_what_is_masked(self, masked):
        sae = sae_of()
        long = [" ".join(TEXTS)]
        first = loss_recovered(sae, masked, long)
        assert loss_recovered(sae, masked, long) == first
        assert loss_recovered(sae, masked, long, seed=1).ce_original != first.ce_original


def close(a, b):
    a, b = a.asdict(), b.asdict()
    return all(a[name] == pytest.approx(b[name], rel=1e-4, abs=1e-5) for name in a)


def test_an_identity_loses_nothing(lm):
    result = loss_recovered(sae_of("identity"), lm, TEXTS)
    assert result.ce_sae == result.ce_original
    assert result.kl == 0
    assert (result.loss_recovered_zero, result.loss_recovered_mean) == (1, 1)


def test_zeros_lose_all(lm):
    result = loss_recovered(sae_of("zero"), lm, TEXTS)
    assert result.ce_sae == result.ce_zero != result.ce_original
    assert result.loss_recovered_zero == 0
    assert result.kl > 0


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_neither_batches_nor_order_nor_company_matter(lm, batch_size):
    sae = sae_of()
    whole = loss_recovered(sae, lm, TEXTS)
    assert close(loss_recovered(sae, lm, TEXTS, batch_size=batch_size), whole)
    assert close(loss_recovered(sae, lm, TEXTS[::-1], batch_size=batch_size), whole)
    parts = [
        loss_recovered(sae, lm, [text], ablation="zero") for text in TEXTS if text != "a" or lm.is_masked
    ]
    n = np.array([part.n_predictions for part in parts])
    assert n.sum() == whole.n_predictions
    mean = np.dot([part.ce_sae for part in parts], n) / n.sum()
    assert mean == pytest.approx(whole.ce_sae, rel=1e-5)


def test_several_saes_share_the_runs_without_them(lm):
    saes = [sae_of(), sae_of("identity"), sae_of(seed=7)]
    together = losses_recovered(saes, lm, TEXTS)
    assert together == [loss_recovered(sae, lm, TEXTS) for sae in saes]


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_only_the_ablation_that_is_asked_for(causal, ablation):
    other = {"zero": "mean", "mean": "zero"}[ablation]
    result = loss_recovered(sae_of(), causal, TEXTS, ablation=ablation).asdict()
    assert result[f"ce_{other}"] is result[f"loss_recovered_{other}"] is None
    both = loss_recovered(sae_of(), causal, TEXTS).asdict()
    assert result[f"loss_recovered_{ablation}"] == both[f"loss_recovered_{ablation}"]


@pytest.mark.parametrize("name", sorted(DECODERS | ENCODERS))
def test_every_family_of_language_models(tmp_path, use_families, name):
    architecture = next(a for family in PLUGINS for a in family.architectures if a.model_type == name)
    use_families(*PLUGINS)
    folder = write_tiny(architecture, tmp_path / name, template="cls_sep" if name in ENCODERS else "bos")
    if name in ENCODERS:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        tokenizer.mask_token = tokenizer.unk_token
        tokenizer.save_pretrained(folder)
    kind = transformers.AutoModelForMaskedLM if name in ENCODERS else transformers.AutoModelForCausalLM
    lm = load_language_model(with_head(folder, kind))
    for site in set(lm.backbone.sites) - {"resid_mid", "embedding"}:
        point = HookPoint(2, site)
        sae = sae_of("identity", d=lm.backbone.width(point), point=point)
        result = loss_recovered(sae, lm, TEXTS[:2])
        assert result.ce_sae == result.ce_original, site
        assert result.ce_zero != result.ce_original, site


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "attn_z", "mlp_in", "mlp_hidden", "mlp_out"])
def test_every_site_that_can_be_written(lm, site):
    point = HookPoint(2, site)
    d = lm.backbone.width(point)
    result = loss_recovered(sae_of("identity", d=d, point=point), lm, TEXTS)
    assert result.ce_sae == result.ce_original
    assert result.ce_zero != result.ce_original


def test_a_norm_before_its_gain(causal):
    point = HookPoint(2, "mlp_normalized")
    result = loss_recovered(sae_of("identity", point=point), causal, TEXTS)
    assert result.ce_sae == result.ce_original != result.ce_zero
    behind = loss_recovered(sae_of("zero", point=HookPoint(2, "mlp_in")), causal, TEXTS)
    assert result.ce_zero == pytest.approx(behind.ce_zero, rel=1e-5)  # without a bias zeros stay zeros


def test_where_an_sae_says_nothing_the_layer_is_given(causal):
    sae = sae_of(point=None)
    assert loss_recovered(sae, causal, TEXTS, layer=LAYER) == loss_recovered(sae_of(), causal, TEXTS)
    assert loss_recovered(sae, causal, TEXTS, layer=-1) == loss_recovered(sae, causal, TEXTS, layer=3)
    with pytest.raises(InvalidParameterError, match="^Got an SAE that does not say where it belongs"):
        loss_recovered(sae, causal, TEXTS)


def test_the_recorded_length_truncates(causal):
    sae = sae_of(metadata={"max_length": 5})
    with pytest.warns(
        SAEFeaturesWarning, match="of 6 texts are longer than 5 tokens and were truncated"
    ):
        result = loss_recovered(sae, causal, TEXTS)
    assert result.n_predictions == sum(min(len(text), 5) - 1 for text in TEXTS)
    chunked = loss_recovered(sae, causal, TEXTS, overflow="chunk")
    assert chunked.n_predictions == sum(len(text) - 1 for text in TEXTS)
    assert loss_recovered(sae, causal, TEXTS, max_length=64) == loss_recovered(sae_of(), causal, TEXTS)


def test_texts_without_tokens_are_told_of(masked):
    with pytest.warns(
        SAEFeaturesWarning, match="1 of 2 texts have no token .*; nothing is predicted in"
    ):
        result = loss_recovered(sae_of(), masked, ["", TEXTS[0]])
    assert result == loss_recovered(sae_of(), masked, TEXTS[:1])


def test_progress_is_shown_where_asked_for(causal, capsys):
    loss_recovered(sae_of(), causal, TEXTS)
    assert capsys.readouterr().err == ""
    loss_recovered(sae_of(), causal, TEXTS, verbose=True)
    assert "loss recovered" in capsys.readouterr().err


class TestErrors:
    def test_files_without_the_head(self, tiny_bert, tmp_path):
        message = (
            r"^The model .* has no whole language-model head \(AutoModelForMaskedLM\), without which"
        )
        with pytest.raises(CheckpointError, match=message):
            loss_recovered(sae_of(), tiny_bert, TEXTS)
        folder = write_tiny(LLAMA, tmp_path / "untied", tie_word_embeddings=False)
        with pytest.raises(
            CheckpointError, match=r"\(AutoModelForCausalLM\).*\(lm_head.weight\); they would"
        ):
            loss_recovered(sae_of(), folder, TEXTS)

    def test_a_tokenizer_without_a_mask(self, tmp_path):
        folder = write_tiny(BERT, tmp_path / "model", template="cls_sep")
        with_head(folder, transformers.AutoModelForMaskedLM)
        with pytest.raises(
            CheckpointError, match="^The tokenizer of .* has no mask token; expected one"
        ):
            load_language_model(folder)

    @pytest.mark.parametrize(
        ("architecture", "message"),
        [
            (VIT, "^Got model=.*, which takes no texts; expected a language model"),
            (T5, "^Got model=.* of type 't5', which is neither a causal nor a masked"),
        ],
    )
    def test_models_that_predict_no_words(self, tmp_path, architecture, message):
        folder = write_tiny(architecture, tmp_path / "model")
        with pytest.raises(InvalidParameterError, match=message):
            loss_recovered(sae_of(), folder, TEXTS)

    @pytest.mark.parametrize(
        ("sae", "message"),
        [
            (
                sae_of(point=HookPoint(1, "resid_mid")),
                "which can be read but not replaced: the residual",
            ),
            (sae_of(hook_point_out=HookPoint(2)), "^Got a transcoder"),
            (random_autoencoder(D, 8, 2), "^This SAE has no decoder"),
            (
                sae_of(d=16),
                "^The SAE takes activations of size 16, but the model .* has 32 at layer 1, res",
            ),
            (sae_of(point=HookPoint(4)), "^Got layer=4; expected 0 to 3"),
            (
                sae_of(metadata={"model": {"id": "other", "digest": "0" * 64}}),
                r"^The SAE belongs to the model 'other' \(weights 000000000000…\), but .* has other",
            ),
        ],
    )
    def test_saes_that_do_not_fit(self, causal, sae, message):
        with pytest.raises(InvalidParameterError, match=message):
            loss_recovered(sae, causal, TEXTS)

    @pytest.mark.parametrize("place", [{"layer": 2}, {"site": "resid_pre"}])
    def test_another_place_than_its_own(self, causal, place):
        message = r"^Got \(layer \d, resid_\w+\), but the SAE is of \(layer 1, resid_post\); leave layer"
        with pytest.raises(InvalidParameterError, match=message):
            loss_recovered(sae_of(), causal, TEXTS, **place)

    def test_saes_of_several_places(self, causal):
        saes = [sae_of(), sae_of(point=HookPoint(2))]
        with pytest.raises(InvalidParameterError, match="^Got SAEs of several hook points "):
            losses_recovered(saes, causal, TEXTS)
        with pytest.raises(InvalidParameterError, match="^Got no SAE; expected at least one"):
            losses_recovered([], causal, TEXTS)

    def test_nothing_to_predict(self, causal):
        with pytest.raises(InvalidInputError, match="^Got texts without a token to predict; expected"):
            loss_recovered(sae_of(), causal, ["a"])
        with pytest.raises(InputTypeError, match="^Got a single str; expected a sequence"):
            loss_recovered(sae_of(), causal, "a text")

    def test_an_sae_that_gives_no_numbers(self, causal):
        sae = sae_of("zero")
        sae = replace(sae, b_dec=sae.b_dec * float("nan"))
        with pytest.raises(
            InvalidInputError, match="^Got a cross-entropy of nan from the model .* with act"
        ):
            loss_recovered(sae, causal, TEXTS)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"ablation": "noise"}, "^Got ablation='noise'; expected one of zero, mean, both"),
            ({"batch_size": 0}, "^Got batch_size=0; expected None or"),
            ({"tokens": "some"}, "^Got tokens='some'; expected"),
        ],
    )
    def test_options(self, causal, option, message):
        with pytest.raises(InvalidParameterError, match=message):
            loss_recovered(sae_of(), causal, TEXTS, **option)
