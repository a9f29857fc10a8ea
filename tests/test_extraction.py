from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import BERT, D_MODEL, SITES_OF_BERT, WORDS, random_sae

from sae_features import SparseAutoencoder, readers
from sae_features.backbones.backbone import Backbone
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.extraction import codes_of_activations, extract
from sae_features.hook_point import HookPoint
from sae_features.items import Items
from sae_features.parameters import POOLINGS
from sae_features.pooled import PooledCodes, PooledItem
from sae_features.pooling import ACTIVATION_POOLINGS, keep_token_top_n, pool_activations, pool_codes
from sae_features.ragged import TokenActivations, TokenCodes
from sae_features.readers import (
    CodesOrPooledReader,
    CodesReader,
    PooledReader,
    RowReader,
    encode_tokens,
)
from sae_features.saes import autoencoder

TEXTS = ["the river flows near the old stone", "", "a calm sea", "winter " * 90, "[SEP]", "rain"]
ARCHITECTURES = ("relu", "topk", "jumprelu")


@pytest.fixture
def runs(bert):
    """A list that gets the shape of each batch that the model runs."""
    shapes = []
    handle = bert.model.embeddings.register_forward_hook(lambda *args: shapes.append(args[2].shape[:2]))
    yield shapes
    handle.remove()


@pytest.fixture
def overflowing(tiny_bert, tmp_path):
    """Load a BERT in which the embedding of "sea" is beyond float16."""
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    sea = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["sea"]
    weights["embeddings.word_embeddings.weight"][sea] *= 1e6
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return lambda dtype: Backbone.load(folder, BERT, device="cpu", dtype=dtype)


def dense(codes: TokenCodes) -> np.ndarray:
    return codes.tocsr().toarray()


def assert_same_codes(codes: TokenCodes, expected: TokenCodes) -> None:
    for name in ("indices", "values", "token_offsets", "item_offsets"):
        np.testing.assert_array_equal(getattr(codes, name), getattr(expected, name), err_msg=name)
    assert codes.n_latents == expected.n_latents


class TestReaders:
    """Several layers, several SAEs and the hidden states, in one run of the model."""

    def test_one_run_serves_all_and_gives_what_each_gives_alone(self, bert, runs):
        policy = bert.token_policy(max_length=12, overflow="chunk")
        readers = [
            CodesReader(HookPoint(0), random_sae("topk")),
            CodesReader(HookPoint(2), random_sae("relu", seed=1)),
            CodesReader(HookPoint(2), random_sae("jumprelu", seed=2, n_latents=30)),
            PooledReader(HookPoint(1, "resid_pre"), D_MODEL),
            PooledReader(HookPoint(2), D_MODEL),
        ]
        together = extract(bert, Items("text", TEXTS), policy, readers, batch_size=4)
        n_together = len(runs)
        assert n_together == 3  # 1 + 1 + 9 + 1 windows that are run, 4 at a time
        assert len(together.values) == len(readers)
        for reader, values in zip(readers, together.values, strict=True):
            runs.clear()
            alone = extract(bert, Items("text", TEXTS), policy, [reader], batch_size=4)
            assert len(runs) == n_together
            assert (alone.truncated, alone.empty) == (together.truncated, together.empty)
            for value, expected in zip(values, alone.values[0], strict=True):
                if isinstance(value, TokenCodes):
                    assert_same_codes(value, expected)
                else:
                    np.testing.assert_array_equal(value.rows, expected.rows)
                    assert value.n_tokens == expected.n_tokens

    def test_the_model_stops_after_the_last_layer_that_is_read(self, bert):
        ran = []
        handles = [
            block.register_forward_hook(lambda *_, i=i: ran.append(i), prepend=True)
            for i, block in enumerate(bert.stack.blocks)
        ]
        readers = [PooledReader(HookPoint(0), D_MODEL), PooledReader(HookPoint(1), D_MODEL)]
        extract(bert, Items("text", ["sea"]), bert.token_policy(), readers)
        for handle in handles:
            handle.remove()
        assert ran == [0, 1]

    @pytest.mark.filterwarnings("ignore::sae_features.errors.SAEFeaturesWarning")
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_codes_are_those_of_the_activations(self, bert, architecture):
        sae, point = random_sae(architecture), HookPoint(1)
        (codes,) = extract(
            bert, Items("text", TEXTS), bert.token_policy(), [CodesReader(point, sae)]
        ).values
        acts = bert.activations(TEXTS, layer=1)
        for item, value in enumerate(codes):
            expected = sae.encode(torch.from_numpy(acts[item].copy())).numpy()
            assert len(value) == 1
            np.testing.assert_allclose(dense(value), expected, atol=1e-5)
            assert (dense(value) != 0).sum() == len(value.values)
            assert value.values.dtype == np.float32
            assert value.indices.dtype == np.uint16

    def test_windows_of_an_item_are_joined_in_order(self, bert):
        words = [WORDS[i] for i in range(25)]
        sae, point = random_sae("relu"), HookPoint(1)
        readers = [CodesReader(point, sae), PooledReader(point, D_MODEL)]
        policy = bert.token_policy(max_length=6, overflow="chunk")
        texts = ["sea", " ".join(words), "sky"]
        codes, pooled = extract(bert, Items("text", texts), policy, readers, batch_size=3).values
        acts = bert.activations(texts, layer=1, max_length=6, overflow="chunk")
        for item in range(3):
            one = TokenActivations(acts[item], np.array([0, len(acts[item])]))
            np.testing.assert_allclose(
                dense(codes[item]), dense(codes_of_activations(sae, one)), atol=1e-5
            )
            assert codes[item].item_offsets.tolist() == [0, len(acts[item])]
            assert pooled[item].n_tokens == len(acts[item])
            for pooling in ACTIVATION_POOLINGS:
                np.testing.assert_allclose(
                    pooled[item].pool(pooling), pool_activations(one, pooling)[0], rtol=1e-5, atol=1e-5
                )
        assert len(acts[1]) == 25

    @pytest.mark.parametrize("texts", [["", "[SEP]"], ["", "sea"]])
    def test_items_without_tokens_have_empty_codes_and_zero_rows(self, bert, texts):
        readers = [CodesReader(HookPoint(0), random_sae()), PooledReader(HookPoint(0), D_MODEL)]
        extracted = extract(bert, Items("text", texts), bert.token_policy(), readers)
        codes, pooled = (values[0] for values in extracted.values)
        assert (len(codes), len(codes.values), codes.item_offsets.tolist()) == (1, 0, [0, 0])
        assert codes.tocsr().shape == (0, 48)
        for pooling in ACTIVATION_POOLINGS:
            np.testing.assert_array_equal(pooled.pool(pooling), np.zeros(D_MODEL, np.float32))
        assert extracted.empty[0] == 0

    def test_what_was_truncated_or_empty_is_told(self, bert):
        extracted = extract(
            bert, Items("text", TEXTS), bert.token_policy(), [PooledReader(HookPoint(0), D_MODEL)]
        )
        assert (extracted.truncated, extracted.empty) == ([3], [1, 4])

    def test_a_site_that_cannot_be_read_is_refused(self, bert):
        reader = PooledReader(HookPoint(1, "mlp_normalized"), D_MODEL)
        message = f"^Got site='mlp_normalized', which block 1 .* it has {SITES_OF_BERT}.$"
        with pytest.raises(InvalidParameterError, match=message):
            extract(bert, Items("text", ["sea"]), bert.token_policy(), [reader])

    def test_values_do_not_share_memory_with_their_batch(self, bert):
        readers = [CodesReader(HookPoint(0), random_sae()), PooledReader(HookPoint(0), D_MODEL)]
        codes, pooled = extract(bert, Items("text", ["sea", "sky"]), bert.token_policy(), readers).values
        assert codes[0].values.base is None
        assert pooled[0].rows.base is None
        assert pooled[0].nbytes == 4 * D_MODEL * 4


@settings(max_examples=15)
@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join), min_size=1, max_size=5),
    batch_size=st.none() | st.integers(1, 5),
    overflow=st.sampled_from(["truncate", "chunk"]),
)
def test_progress_comes_to_the_number_of_items(bert, texts, batch_size, overflow):
    told = []
    policy = bert.token_policy(max_length=6, overflow=overflow)
    readers = [PooledReader(HookPoint(0), D_MODEL)]
    extracted = extract(
        bert,
        Items("text", texts),
        policy,
        readers,
        batch_size=batch_size,
        progress=lambda *counts: told.append(counts),
    )
    items, tokens = np.array(told).T
    assert items.sum() == len(texts) == len(extracted.values[0])
    assert items.min() >= 0
    windows = bert.windows(Items("text", texts), policy)
    assert tokens.sum() == windows.lengths[windows.counts > 0].sum()


def test_hidden_states_of_windows_without_tokens_do_not_count():
    reader = PooledReader(HookPoint(1), 2)
    nothing = PooledItem(np.zeros((4, 2), np.float32), 0)
    some = PooledItem(np.full((4, 2), -1, np.float32), 3)
    other = PooledItem(np.full((4, 2), -2, np.float32), 2)
    assert reader.join([nothing, some, nothing]) is some
    joined = reader.join([nothing, some, other, nothing])
    assert joined.rows[:, 0].tolist() == [-1, -3, -1, -2]
    assert joined.n_tokens == 5
    assert reader.join([nothing]).n_tokens == 0


class TestRows:
    """Features pooled while they are computed, or from codes: the same."""

    def rows_of(self, bert, reader, texts, *, max_length=8, batch_size=3):
        policy = bert.token_policy(max_length=max_length, overflow="chunk")
        (values,) = extract(bert, Items("text", texts), policy, [reader], batch_size=batch_size).values
        return values

    def check(self, found, expected, pooling):
        for item, codes in zip(found, expected, strict=True):
            row = np.zeros(codes.n_latents, np.float32)
            indices, values = item.pool(pooling)
            row[indices] = values
            want = pool_codes(codes, pooling).toarray()[0]
            np.testing.assert_allclose(row, want, rtol=1e-5, atol=1e-5 * max(1, abs(want).max()))
            assert (np.diff(indices) > 0).all()

    @pytest.mark.parametrize("chunk", [1, 10**6])
    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gated", "groupmax"])
    def test_of_every_pooling_and_architecture(self, bert, architecture, pooling, chunk, monkeypatch):
        monkeypatch.setattr(autoencoder, "CACHE_BYTES", chunk)
        monkeypatch.setattr(autoencoder, "CHUNK_ROWS", 5)
        sae, point = random_sae(architecture), HookPoint(1)
        codes = self.rows_of(bert, CodesReader(point, sae), TEXTS)
        self.check(self.rows_of(bert, RowReader(point, sae, pooling), TEXTS), codes, pooling)

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_where_few_latents_fire(self, bert, pooling):
        sae = replace(random_sae("jumprelu"), threshold=torch.full((48,), 2.0))
        codes = self.rows_of(bert, CodesReader(HookPoint(1), sae), TEXTS)
        assert 0 < sum(len(value.values) for value in codes) < 200
        rows = self.rows_of(bert, RowReader(HookPoint(1), sae, pooling), TEXTS)
        self.check(rows, codes, pooling)

    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_with_few_latents_of_each_token(self, bert, pooling):
        sae, point = random_sae("relu"), HookPoint(1)
        codes = self.rows_of(bert, CodesReader(point, sae), TEXTS)
        few = [keep_token_top_n(value, 2) for value in codes]
        rows = self.rows_of(bert, RowReader(point, sae, pooling, token_top_n=2), TEXTS)
        self.check(rows, few, pooling)

    def test_negative_latents(self, bert):
        sae = replace(random_sae("topk", k=40), topk_relu=False)
        codes = self.rows_of(bert, CodesReader(HookPoint(1), sae), TEXTS)
        assert min(value.values.min(initial=0) for value in codes) < 0
        for pooling in POOLINGS:
            rows = self.rows_of(bert, RowReader(HookPoint(1), sae, pooling), TEXTS)
            self.check(rows, codes, pooling)

    @pytest.mark.parametrize("pooling", POOLINGS)
    @pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated"])
    def test_where_many_latents_fire_codes_are_kept_pooled(self, bert, architecture, pooling):
        sae, point = random_sae(architecture), HookPoint(1)
        codes = self.rows_of(bert, CodesReader(point, sae), TEXTS)
        kept = self.rows_of(bert, CodesOrPooledReader(point, sae), TEXTS)
        filled = [bool(value.item_offsets[-1]) for value in codes]
        assert [isinstance(value, PooledCodes) for value in kept] == filled
        kept, codes = (
            [value for value, has in zip(values, filled, strict=True) if has] for values in (kept, codes)
        )
        self.check(kept, codes, pooling)
        assert [k.n_tokens for k in kept] == [c.item_offsets[-1] for c in codes]

    def test_where_few_fire_they_are_kept_as_they_are(self, bert):
        sae, point = random_sae("topk", n_latents=400), HookPoint(1)
        codes = self.rows_of(bert, CodesReader(point, sae), TEXTS)
        kept = self.rows_of(bert, CodesOrPooledReader(point, sae), TEXTS)
        for value, expected in zip(kept, codes, strict=True):
            assert_same_codes(value, expected)

    def test_codes_of_a_very_long_item_are_kept_pooled(self, bert, monkeypatch):
        sae, point = random_sae("topk", n_latents=400), HookPoint(1)
        codes = self.rows_of(bert, CodesReader(point, sae), TEXTS)
        monkeypatch.setattr(readers, "MAX_CODES_BYTES", 1000)
        kept = self.rows_of(bert, CodesOrPooledReader(point, sae), TEXTS)
        forms = [isinstance(value, PooledCodes) for value in kept]
        assert forms == [value.nbytes > 1000 for value in codes]
        assert sum(forms) == 1
        (item,) = [value for value in kept if isinstance(value, PooledCodes)]
        (long,) = [value for value in codes if value.nbytes > 1000]
        for pooling in POOLINGS:
            self.check([item], [long], pooling)

    def test_latents_too_large_for_half_precision_are_an_error(self):
        sae = replace(random_sae("relu"), b_enc=torch.full((48,), 1e5))
        reader = CodesReader(HookPoint(1), sae, "float16")
        with pytest.raises(InvalidParameterError, match="float16 holds at most 65,504: unset SAE"):
            reader.read(torch.zeros(2, D_MODEL), np.array([2]))

    def test_nothing_of_the_size_of_tokens_and_latents_is_made(self, bert):
        sae = random_sae("relu", n_latents=40_000)
        values = torch.randn(3000, D_MODEL)
        reader = RowReader(HookPoint(1), sae, "max")
        sizes = []
        genuine = SparseAutoencoder.pre_activations

        def watched(self, x):
            for pre in genuine(self, x):
                sizes.append(pre.nbytes)
                yield pre

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SparseAutoencoder, "pre_activations", watched)
            rows = reader.read(values, np.array([1000, 2000]))
        assert max(sizes) <= autoencoder.CHUNK_BYTES
        assert sum(sizes) == 3000 * 40_000 * 4
        expected = torch.stack([part.amax(0) for part in sae.encode(values).split([1000, 2000])])
        for row, wanted in zip(rows, expected.numpy(), strict=True):
            np.testing.assert_array_equal(row.indices, wanted.nonzero()[0])
            np.testing.assert_allclose(row.values, wanted[row.indices], rtol=1e-5)


class TestActivationsThatAreNotFinite:
    """float16 overflows: TopK would give NaN, JumpReLU rows of zeros."""

    @pytest.mark.parametrize("architecture", [*ARCHITECTURES, None])
    @pytest.mark.parametrize(("positions", "named"), [(None, 1), ([10, 5, 0], 5)])
    def test_the_item_and_the_next_step_are_named(self, overflowing, architecture, positions, named):
        backbone = overflowing("float16")
        point = HookPoint(1)
        reader = (
            CodesReader(point, random_sae(architecture))
            if architecture
            else PooledReader(point, D_MODEL)
        )
        with pytest.raises(InvalidInputError) as raised:
            extract(
                backbone,
                Items("text", ["rain", "a calm sea", "the sea"]),
                backbone.token_policy(),
                [reader],
                positions=positions,
            )
        assert str(raised.value) == (
            f"Got activations that are not finite for item {named} at layer 1, resid_post, computed in "
            "float16. They are too large for it: use dtype='float32' or 'bfloat16'."
        )

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_wider_types_hold_them(self, overflowing, dtype):
        backbone = overflowing(dtype)
        reader = PooledReader(HookPoint(1), D_MODEL)
        ((_, pooled),) = extract(
            backbone, Items("text", ["rain", "sea"]), backbone.token_policy(), [reader]
        ).values
        assert np.isfinite(pooled.rows).all()

    def test_other_items_are_not_concerned(self, overflowing):
        backbone = overflowing("float16")
        extract(
            backbone,
            Items("text", ["rain"]),
            backbone.token_policy(),
            [PooledReader(HookPoint(1), D_MODEL)],
        )


class TestPooledItem:
    rows = np.array([[3, 4], [6, 2], [1, 4], [2, -2]], np.float32)

    @pytest.mark.parametrize(
        ("pooling", "expected"),
        [("max", [3, 4]), ("sum", [6, 2]), ("mean", [2, 2 / 3]), ("first", [1, 4]), ("last", [2, -2])],
    )
    def test_all_poolings_from_what_is_kept(self, pooling, expected):
        item = PooledItem(self.rows, 3)
        np.testing.assert_allclose(item.pool(pooling), expected, rtol=1e-6)
        assert item.pool(pooling).dtype == np.float32


class TestEncodeTokens:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_ragged_items(self, architecture):
        sae = random_sae(architecture)
        values = torch.randn(7, D_MODEL)
        offsets = np.array([0, 3, 3, 7])
        codes = encode_tokens(sae, values, offsets)
        assert len(codes) == 3
        np.testing.assert_allclose(dense(codes), sae.encode(values).numpy(), atol=1e-6)
        np.testing.assert_allclose(dense(codes[2]), sae.encode(values[3:]).numpy(), atol=1e-6)
        assert codes[1].tocsr().shape == (0, 48)

    def test_no_tokens_at_all(self):
        acts = TokenActivations(np.empty((0, D_MODEL), np.float32), np.array([0, 0]))
        codes = codes_of_activations(random_sae(), acts)
        assert (len(codes), codes.tocsr().shape) == (1, (0, 48))

    def test_activations_that_are_read_only(self):
        values = np.random.default_rng(0).standard_normal((4, D_MODEL)).astype(np.float32)
        values.flags.writeable = False
        codes = codes_of_activations(random_sae(), TokenActivations(values, np.array([0, 1, 4])))
        assert codes.tocsr().shape == (4, 48)
