"""MiniLM over real texts as a source of activations: from the corpus to shards and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sae_features.datasets import load_movie_snippets
from sae_features.models import find_model
from sae_features.packaged_assets import fetch
from sae_features.training.shards import ShardSource, write_activations
from sae_features.training.streams import BackboneSource

LAYER = 3
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def texts():
    return load_movie_snippets().data[:120]


@pytest.fixture
def source(texts):
    return BackboneSource("minilm", texts, layer=LAYER, max_length=128, buffer_rows=1000)


@pytest.fixture(scope="module")
def hidden_states(texts):
    """The rows of content tokens, by the original library, text after text."""
    folder = fetch("minilm")
    model, tokenizer = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for text in texts:
            inputs = tokenizer(text, return_tensors="pt")
            states = model(**inputs, output_hidden_states=True).hidden_states
            rows.append(states[LAYER + 1][0, 1:-1])
    return torch.cat(rows)


def test_a_pass_holds_the_hidden_states_of_the_original_library(source, hidden_states):
    assert source.n_rows == len(hidden_states)
    scale = hidden_states.abs().max()
    in_order = torch.cat(list(source.in_order(256)))
    assert (in_order - hidden_states).abs().max() <= TOLERANCE * scale
    batches = source.batches(256, seed=1)
    one_pass = torch.cat([next(batches) for _ in range(source.n_batches(256))])
    distances, nearest = torch.cdist(one_pass.double(), hidden_states.double()).min(dim=1)
    assert distances.max() <= 10 * TOLERANCE * scale
    assert len(set(nearest.tolist())) >= 0.999 * len(hidden_states)  # equal contexts are equal rows
    assert torch.equal(next(source.batches(256, seed=1, start=9)), next(batches_from(source, 9)))


def batches_from(source, start):
    batches = source.batches(256, seed=1)
    for _ in range(start):
        next(batches)
    return batches


def test_shards_hold_what_the_model_gives(source, hidden_states, tmp_path):
    written = write_activations(source, tmp_path, dtype="float16", shard_rows=512)
    read = torch.cat(list(ShardSource(tmp_path).in_order(300)))
    expected = torch.cat(list(source.in_order(512))).half().float()
    assert torch.equal(read, expected)
    np.testing.assert_allclose(read, hidden_states, atol=2e-3 * float(hidden_states.abs().max()))
    assert written.metadata["model"] == find_model("minilm").record
    assert written.metadata["corpus"]["n_items"] == 120
    written.verify()
