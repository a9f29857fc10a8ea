from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import edit_json, random_sae

from sae_features import load_backbone, weights
from sae_features.errors import AssetNotFoundError, InvalidParameterError
from sae_features.models import find_model
from sae_features.weights import (
    MAX_BACKBONES,
    MAX_SAES,
    choose_device,
    loaded_counts,
    release_weights,
    shared_sae,
)


class TestBackbones:
    def test_equal_content_is_loaded_once(self, tiny_family, tiny_bert):
        backbone = load_backbone("tiny", device="cpu")
        assert load_backbone("tests/tiny-bert", device="cpu", dtype="float32") is backbone
        assert load_backbone(tiny_bert, device="cpu") is backbone
        assert loaded_counts() == {"backbones": 1, "saes": 0}

    def test_another_tokenizer_is_another_backbone(self, tiny_family, tiny_bert, tmp_path):
        copy = shutil.copytree(tiny_bert, tmp_path / "copy")
        edit_json(copy / "tokenizer_config.json", padding_side="left")
        assert load_backbone(copy, device="cpu") is not load_backbone("tiny", device="cpu")
        assert find_model(copy).weights_digest == find_model("tiny").weights_digest

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
    def test_dtype_is_computed_in(self, tiny_family, dtype):
        backbone = load_backbone("tiny", device="cpu", dtype=dtype)
        assert backbone.model.dtype == getattr(torch, dtype)

    def test_float32_is_the_default_whatever_the_files_hold(self, tiny_family, tiny_bert, tmp_path):
        from transformers import BertModel

        folder = shutil.copytree(tiny_bert, tmp_path / "half")
        BertModel.from_pretrained(tiny_bert, dtype=torch.bfloat16).save_pretrained(folder)
        assert load_backbone(folder, device="cpu").model.dtype == torch.float32

    def test_the_least_recently_used_one_goes_first(self, tiny_family):
        names = ("float32", "float64", "bfloat16")
        first, second = (load_backbone("tiny", device="cpu", dtype=name) for name in names[:2])
        assert load_backbone("tiny", device="cpu", dtype="float32") is first
        load_backbone("tiny", device="cpu", dtype="bfloat16")
        assert loaded_counts()["backbones"] == MAX_BACKBONES == 2
        assert load_backbone("tiny", device="cpu", dtype="float32") is first
        assert load_backbone("tiny", device="cpu", dtype="float64") is not second

    def test_two_threads_load_it_once(self, tiny_family, monkeypatch):
        from sae_features.backbones.backbone import Backbone

        genuine, barrier, loads = Backbone.load, threading.Barrier(2), []

        def load(folder, architecture, **options):
            loads.append(folder)
            return genuine(folder, architecture, **options)

        def ask(_):
            barrier.wait(10)
            return load_backbone("tiny", device="cpu")

        monkeypatch.setattr(Backbone, "load", load)
        with ThreadPoolExecutor(2) as pool:
            one, other = pool.map(ask, range(2))
        assert one is other
        assert len(loads) == 1

    def test_what_fails_to_load_is_not_kept(self, tiny_family, monkeypatch):
        from sae_features.backbones.backbone import Backbone

        with monkeypatch.context() as patch:
            patch.setattr(Backbone, "load", lambda *_, **__: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                load_backbone("tiny", device="cpu")
        assert loaded_counts()["backbones"] == 0
        assert load_backbone("tiny", device="cpu").n_layers == 3

    def test_an_unknown_model(self, tiny_family):
        with pytest.raises(AssetNotFoundError, match="^Got model='tinny'; expected an alias"):
            load_backbone("tinny")


class TestSAEs:
    def test_one_digest_is_made_once(self):
        sae = random_sae()
        assert shared_sae("digest", "cpu", "float32", lambda _: sae) is sae
        assert shared_sae("digest", "cpu", "float32", lambda _: pytest.fail("made again")) is sae

    def test_it_is_made_for_the_device(self):
        assert shared_sae("digest", "cpu", "float32", lambda device: device) == "cpu"
        assert shared_sae("digest", "meta", "float32", lambda device: device) == "meta"

    def test_their_number_is_bounded(self):
        for number in range(MAX_SAES + 3):
            shared_sae(str(number), "cpu", "float32", lambda _: object())
        assert loaded_counts() == {"backbones": 0, "saes": MAX_SAES}


def test_release_says_how_many_it_let_go(tiny_family):
    backbone = load_backbone("tiny", device="cpu")
    shared_sae("digest", "cpu", "float32", lambda _: object())
    assert release_weights() == 2
    assert loaded_counts() == {"backbones": 0, "saes": 0}
    assert release_weights() == 0
    assert load_backbone("tiny", device="cpu") is not backbone


class TestDevices:
    def test_without_accelerator_it_is_the_cpu(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        assert choose_device(None) == "cpu"

    def test_an_accelerator_is_taken(self, monkeypatch):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert choose_device(None) == "mps"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_device(None) == "cuda"

    @pytest.mark.parametrize("device", ["gpu", "", "cuda:99"])
    def test_what_torch_cannot_use(self, device):
        message = f"^Got device='{device}', which torch cannot use here: .+"
        with pytest.raises(InvalidParameterError, match=message):
            choose_device(device)

    @pytest.mark.parametrize("options", [{"device": 0}, {"dtype": "float8"}, {"dtype": torch.float32}])
    def test_options_are_checked_before_anything_is_loaded(self, tiny_family, options):
        with pytest.raises(InvalidParameterError, match=f"^Got {next(iter(options))}="):
            load_backbone("tiny", **options)
        assert weights.loaded_counts()["backbones"] == 0
