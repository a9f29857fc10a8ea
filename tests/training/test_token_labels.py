from __future__ import annotations

from collections import Counter, defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import random_sae

from sae_features.errors import InvalidParameterError
from sae_features.hook_point import HookPoint
from sae_features.training.streams import BackboneSource
from sae_features.training.token_labels import check_has_tokens, labelled_rows, token_labels


class Letters:
    """A tokenizer of letters."""

    def __len__(self):
        return 26

    def convert_ids_to_tokens(self, token):
        return chr(ord("a") + token)

    def decode(self, tokens):
        return " " + self.convert_ids_to_tokens(tokens[0])


def test_labels_are_the_tokens_with_the_largest_discounted_means():
    generator = np.random.default_rng(0)
    sae = random_sae("topk", d_in=8, n_latents=12, k=2)
    rows = torch.from_numpy(generator.normal(size=(300, 8)).astype(np.float32))
    ids = generator.integers(0, 26, 300)
    sums = defaultdict(Counter)
    for row, token in zip(sae.encode(rows).numpy(), ids, strict=True):
        for latent in np.flatnonzero(row):
            sums[latent][int(token)] += float(row[latent])
    seen = Counter(ids.tolist())
    expected = {}
    for latent, of_tokens in sums.items():
        best = sorted(of_tokens, key=lambda t: -of_tokens[t] / (seen[t] + 20))[:3]
        expected[int(latent)] = " ".join(chr(ord("a") + token) for token in best)
    assert token_labels(sae, rows, ids, Letters()) == expected


def test_rows_come_with_their_tokens(tiny_bert, bert):
    texts = ["a calm river", "", "the sea and the sun"]
    source = BackboneSource(str(tiny_bert), texts, layer=1)
    rows, ids, tokenizer = labelled_rows(source, 1000)
    assert rows.shape == (8, 32)
    found = Counter(tokenizer.convert_ids_to_tokens(ids.tolist()))
    assert found == Counter("a calm river the sea and the sun".split())
    in_order = torch.cat(list(source.in_order(100)))
    river = rows[tokenizer.convert_ids_to_tokens(ids.tolist()).index("river")]
    torch.testing.assert_close(river, in_order[2], rtol=1e-5, atol=1e-5)


def test_no_tokens():
    def source(modality, site):
        return SimpleNamespace(items=SimpleNamespace(modality=modality), hook_point=HookPoint(1, site))

    check_has_tokens(source("text", "resid_post"))
    for modality, site in (("image", "resid_post"), ("text", "embedding")):
        with pytest.raises(InvalidParameterError, match=r"Leave --label out\.$"):
            check_has_tokens(source(modality, site))
