from __future__ import annotations

import dataclasses
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from tiny import WORDS, edit_json

from sae_features import once
from sae_features.backbones.backbone import Backbone
from sae_features.computation import Computation, Means, Wish
from sae_features.errors import SAEFeaturesWarning
from sae_features.items import Items, text_digest
from sae_features.notices import Notices
from sae_features.once import rows_of
from sae_features.pooling import pool_codes
from sae_features.ragged import TokenCodes
from sae_features.store.memory import MemoryStore
from sae_features.targets import Request, resolve_target

pytestmark = pytest.mark.usefixtures("tiny_family")

SAE = "tiny-sae/layer_1"
N_LATENTS = 48


def computation(request=None, *, with_sae=True, **choices):
    target = resolve_target(request or Request("tiny", sae=SAE), with_sae=with_sae)
    defaults = {
        "tokens": "content",
        "prompt": None,
        "max_length": None,
        "overflow": "truncate",
        "dtype": "float32",
    }
    return Computation(target, **{**defaults, **choices})


def pool(values):
    return pool_codes(TokenCodes.concatenate(list(values.values()), N_LATENTS), "max").toarray()


CODES = Wish(needs_codes=True)


def rows(texts, who=None, *, pool=pool, notices=None, wish=CODES, **means):
    told = notices or Notices()
    result = rows_of(
        who or computation(),
        Items("text", texts),
        pool,
        np.concatenate,
        wish=wish,
        means=Means(device="cpu", **means),
        notices=told,
    )
    if notices is None:
        told.warn()
    return result


class TestOnce:
    def test_each_text_is_computed_once_and_the_order_is_kept(self, seen):
        texts = ["the sea", "a river", "the sea", "rain", "a river", "the sea"]
        result = rows(texts)
        assert seen == ["the sea", "a river", "rain"]
        assert result.shape == (6, N_LATENTS)
        for text, row in zip(texts, result, strict=True):
            np.testing.assert_allclose(row, rows([text])[0], atol=1e-5)
        np.testing.assert_array_equal(result[[0, 1, 0, 3, 1, 0]], result)

    def test_texts_differ_by_every_character(self, seen):
        rows(["sea", "Sea", " sea", "sea "])
        assert seen == [" sea", "sea ", "sea", "Sea"]  # the longest first

    def test_what_the_store_has_is_not_computed(self, seen):
        store = MemoryStore()
        first = rows(["the sea", "rain"], store=store)
        assert len(store) == 2
        seen.clear()
        again = rows(["snow", "rain", "the sea", "snow"], store=store)
        assert seen == ["snow"]
        np.testing.assert_array_equal(again[[2, 1]], first)
        seen.clear()
        rows(["rain", "snow"], store=store)
        assert seen == []

    def test_without_a_store_it_is_computed_again(self, seen):
        rows(["sea"])
        rows(["sea"])
        assert seen == ["sea", "sea"]

    def test_another_computation_finds_nothing(self, seen):
        store = MemoryStore()
        for layer in (1, 2):
            rows(["sea"], computation(Request("tiny", sae=f"tiny-sae/layer_{layer}")), store=store)
        assert seen == ["sea", "sea"]
        assert len(store) == 2

    def test_the_store_keeps_the_first_value(self):
        store, who = MemoryStore(), computation()
        kept = _codes_of_latent_7()
        store.put_many(who.identity, {text_digest("sea"): kept})
        assert rows(["sea"], who, store=store)[0].nonzero()[0].tolist() == [7]

    def test_a_store_too_small_for_anything(self, seen):
        store = MemoryStore(max_bytes=0)
        texts = ["sea", "sky", "sea"]
        with pytest.warns(SAEFeaturesWarning, match=r"the 0.0 MiB of the store: .* keep them on disk"):
            found = rows(texts, store=store)
        np.testing.assert_array_equal(found, rows(texts))
        assert len(store) == 0

    @pytest.mark.parametrize("limit", ["CHUNK_ITEMS", "CHUNK_CHARACTERS"])
    def test_chunks_of_texts_change_nothing(self, monkeypatch, seen, limit):
        texts = [" ".join(WORDS[i : i + 1 + i % 7]) for i in [*range(20), *range(5)]]
        whole = rows(texts)
        seen.clear()
        monkeypatch.setattr(once, limit, 3 if limit == "CHUNK_ITEMS" else 40)
        pooled = []

        def pool_and_count(values):
            pooled.append(len(values))
            return pool(values)

        parts = rows(texts, pool=pool_and_count, batch_size=2)
        assert len(pooled) > 3
        assert sum(pooled) == len(seen) == 20
        np.testing.assert_allclose(parts, whole, atol=1e-5)

    def test_progress_comes_to_the_number_of_texts(self):
        store, told = MemoryStore(), []
        rows(["sea"], store=store)
        rows(["sky", "sea", "sky", "rain"], store=store, progress=lambda *told_: told.append(told_))
        assert sum(items for items, _ in told) == 4
        assert sum(tokens for _, tokens in told) == 2 * 3  # CLS, the word, SEP

    def test_hidden_states_without_an_sae(self):
        who = computation(Request("tiny", layer=1), with_sae=False)
        texts = ["the sea", "rain", "the sea"]
        result = rows(
            texts, who, pool=lambda values: np.stack([v.pool("mean") for v in values.values()])
        )
        from sae_features import load_backbone

        acts = load_backbone("tiny", device="cpu").activations(texts, layer=1)
        expected = np.stack([acts[item].mean(axis=0) for item in range(3)])
        np.testing.assert_allclose(result, expected, atol=1e-5)


class TestWarnings:
    LONG = "winter " * 80

    def caught(self, texts, **options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rows(texts, **options)
        assert all(warning.category is SAEFeaturesWarning for warning in caught)
        return [str(warning.message) for warning in caught]

    def test_one_of_each_kind_with_counts_and_the_first_position(self, monkeypatch):
        texts = ["sea", "", self.LONG, "[SEP]", self.LONG + "sea", self.LONG, ""]
        expected = [
            "3 of 7 texts are longer than 64 tokens and were truncated (the first is item 2); "
            "overflow='chunk' uses all of them.",
            "3 of 7 texts have no token that counts (the first is item 1); their rows are zero.",
        ]
        assert self.caught(texts) == expected
        monkeypatch.setattr(once, "CHUNK_ITEMS", 1)
        assert self.caught(texts) == expected

    def test_they_come_again_only_with_texts_that_were_not_met(self):
        store = MemoryStore()
        assert len(self.caught([self.LONG, ""], store=store)) == 2
        assert self.caught([self.LONG, ""], store=store) == []
        (message,) = self.caught(["sea", self.LONG, self.LONG + "sea"], store=store)
        assert message.startswith(
            "At least 1 of 3 texts are longer than 64 tokens and were truncated (the first "
        )
        assert "is item 2)" in message

    def test_chunking_loses_nothing(self):
        assert self.caught([self.LONG], who=computation(overflow="chunk")) == []

    def test_max_length_is_named(self):
        (message,) = self.caught([self.LONG], who=computation(max_length=9))
        assert "longer than 9 tokens" in message

    def test_rows_without_tokens_are_zero(self):
        with pytest.warns(SAEFeaturesWarning, match="have no token that counts"):
            result = rows(["", "sea"])
        assert (result[0] == 0).all()
        assert (result[1] != 0).any()


class TestIdentity:
    @pytest.mark.parametrize(
        "choices",
        [
            {"tokens": "all"},
            {"prompt": "query: {}"},
            {"max_length": 20},
            {"overflow": "chunk"},
            {"dtype": "bfloat16"},
            {"kept_dtype": "float16"},
        ],
    )
    def test_it_changes_with_every_choice(self, choices):
        assert computation(**choices).identity != computation().identity

    @pytest.mark.parametrize(
        "request_",
        [
            Request("tiny", sae="tiny-sae/layer_2"),
            Request("tiny", layer=1, sae="random:48:5"),
            Request("tiny", layer=2, sae="random:48:5"),
            Request("tiny", layer=1, site="resid_pre", sae="random:48:5"),
            Request("tiny", layer=1, sae="random:48:6"),
            Request("tiny", layer=1, sae="random:48:5:1"),
            Request("tiny-xlmr", layer=1, sae="random:48:5"),
        ],
    )
    def test_it_changes_with_every_part_of_the_target(self, request_):
        others = {
            computation(Request("tiny", sae=SAE)).identity,
            computation(Request("tiny", layer=0, sae="random:48:5")).identity,
        }
        assert computation(request_).identity not in others

    def test_it_differs_with_and_without_an_sae(self):
        at_layer = Request("tiny", layer=1)
        assert computation(at_layer, with_sae=False).identity != computation(at_layer).identity

    def test_it_is_of_the_content_and_not_of_the_name(self, tiny_bert, tiny_sae_folder, tmp_path):
        from tiny import random_sae

        copy = shutil.copytree(tiny_bert, tmp_path / "copy")
        same = random_sae("topk").save(
            tmp_path / "same"
        )  # its files hold no model, and no other numbers
        for request in (
            Request("tests/tiny-bert", sae=SAE),
            Request(copy, sae=SAE),
            Request("tiny", sae=SAE, layer=1),
            Request("tiny", sae=SAE, layer=-2),
            Request("tiny", sae=same),
        ):
            assert computation(request).identity == computation().identity

    @pytest.mark.parametrize("spoil", ["weights", "tokenizer"])
    def test_it_changes_with_the_files_of_the_model(self, tiny_bert, tmp_path, spoil):
        folder = Path(shutil.copytree(tiny_bert, tmp_path / "copy"))
        request = Request(folder, layer=1, sae="random:48:5")
        before = computation(request).identity
        if spoil == "weights":
            (folder / "model.safetensors").write_bytes(b"other")
        else:
            edit_json(folder / "tokenizer_config.json", padding_side="left")
        assert computation(request).identity != before

    def test_it_changes_with_the_compute_version_of_the_family(self, tiny_family, use_families):
        before = computation().identity
        use_families(dataclasses.replace(tiny_family, compute_version=2))
        assert computation().identity != before

    def test_numpy_integers_are_integers(self):
        who = computation(Request("tiny", layer=np.int64(1), sae=SAE), max_length=np.int64(20))
        assert who.identity == computation(max_length=20).identity

    def test_batch_size_and_device_are_not_in_it(self):
        names = {field.name for field in dataclasses.fields(Computation)}
        assert names == {
            "target", "tokens", "prompt", "max_length", "overflow", "dtype", "modality", "kept_dtype",
        }  # fmt: skip


class TestWhatTheSAESays:
    def test_its_context_is_the_longest_window(self, tiny_sae_folder, seen):
        folder = tiny_sae_folder(metadata={"max_length": 6})
        who = computation(Request("tiny", sae=folder))
        assert who.longest == 6
        with pytest.warns(SAEFeaturesWarning, match="longer than 6 tokens"):
            short = rows(["the river flows near the old stone"], who)
        np.testing.assert_allclose(short, rows(["the river flows near"], who), atol=1e-5)

    def test_what_is_given_goes_first(self, tiny_sae_folder):
        folder = tiny_sae_folder(metadata={"max_length": 6})
        assert computation(Request("tiny", sae=folder), max_length=20).longest == 20

    def test_a_context_beyond_the_model_is_cut_to_it(self, tiny_sae_folder):
        folder = tiny_sae_folder(metadata={"max_length": 1024})
        with pytest.warns(SAEFeaturesWarning, match="longer than 64 tokens"):
            rows(["sea " * 100], computation(Request("tiny", sae=folder)))

    @pytest.mark.parametrize("says", [True, False])
    def test_whether_a_bos_stands_first(self, tiny_sae_folder, monkeypatch, says):
        policies = []
        genuine = Backbone.windows

        def windows(self, items, policy, positions=None):
            policies.append(policy)
            return genuine(self, items, policy, positions)

        monkeypatch.setattr(Backbone, "windows", windows)
        folder = tiny_sae_folder(metadata={"prepend_bos": says})
        who = computation(Request("tiny-xlmr", layer=1, sae=folder))
        rows(["sea"], who)
        assert policies[0].prepend_bos is who.prepend_bos is says
        silent = computation(Request("tiny-xlmr", layer=1, sae=tiny_sae_folder(metadata={})))
        assert silent.prepend_bos is None
        assert silent.identity != who.identity


def _codes_of_latent_7():
    return TokenCodes(
        np.array([7], np.int32),
        np.array([1.0], np.float32),
        np.array([0, 1]),
        np.array([0, 1]),
        N_LATENTS,
    )
