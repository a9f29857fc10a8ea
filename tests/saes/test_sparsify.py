"""SAEs of sparsify: what its files may say, and SAEs written as it does."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import edit_json, varied_sae

from sae_features import load_sae
from sae_features.errors import SAEFeaturesWarning, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.parameters import DTYPES
from sae_features.saes.formats import find_format

GOLDEN = Path(__file__).parents[1] / "golden" / "sparsify"
SCALE = {"input_norm": "scale", "norm_scale": 0.37}


def inputs(sae, n=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, sae.d_in, generator=generator, dtype=torch.float64).to(sae.dtype)


def close(got, expected):
    size = float(expected.abs().max()) or 1.0
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6 * size)


def assert_same_numbers(again, sae):
    x = inputs(sae)
    latents = sae.encode(x)
    assert torch.equal(again.encode(x) != 0, latents != 0)
    close(again.encode(x), latents)
    close(again.decode(latents), sae.decode(latents))
    close(again.reconstruct(x), sae.reconstruct(x))


def config_of(folder):
    return json.loads((folder / "cfg.json").read_text())


class TestReading:
    @pytest.fixture
    def folder(self, tmp_path):
        return Path(shutil.copytree(GOLDEN / "topk" / "files" / "layers.3", tmp_path / "layers.3"))

    def test_the_folder_names_the_module(self, folder, tmp_path):
        assert load_sae(folder).hook_point == HookPoint(3)
        assert load_sae(folder).metadata == {"hook_name": "layers.3"}
        other = folder.rename(tmp_path / "mine")
        assert (load_sae(other).hook_point, load_sae(other).metadata) == (None, {})

    def test_a_transcoder_reads_and_writes_where_its_folder_says(self, folder):
        edit_json(folder / "cfg.json", transcode=True)
        sae = load_sae(folder)
        assert (sae.hook_point, sae.hook_point_out) == (HookPoint(3, "resid_pre"), HookPoint(3))
        assert sae.metadata == {"hook_name": "layers.3.input", "hook_name_out": "layers.3"}
        assert not sae.subtract_b_dec

    @pytest.mark.parametrize(
        ("transcode", "metadata"),
        [
            (True, {"hook_name": "layers.3.mlp.input", "hook_name_out": "layers.3.mlp"}),
            (False, {"hook_name": "layers.3.mlp"}),
        ],
    )
    def test_what_a_module_means_is_left_to_the_family(self, folder, tmp_path, transcode, metadata):
        edit_json(folder / "cfg.json", transcode=transcode)
        sae = load_sae(folder.rename(tmp_path / "layers.3.mlp"))
        assert (sae.hook_point, sae.hook_point_out, sae.metadata) == (None, None, metadata)

    def test_what_files_need_not_say(self, folder):
        edit_json(folder / "cfg.json", num_latents=None, expansion_factor=None, activation=None)
        message = (
            r"got encoder\.weight of shape \(16, 6\); expected \(192, 6\), with d_in=6 and n_latents=192"
        )
        with pytest.raises(SAEFormatError, match=message):
            load_sae(folder)  # 32 latents per dimension, as in the library
        edit_json(folder / "cfg.json", num_latents=16)
        assert load_sae(folder).architecture == "topk"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"d_in": "6"}, "got d_in='6'; expected an integer from 1 to 2147483647."),
            ({"d_in": None}, "got no d_in; expected an integer from 1 to 2147483647."),
            ({"num_latents": -1}, "got num_latents=-1; expected an integer from 0 to 2147483647."),
            ({"activation": "relu"}, "Got activation='relu'; expected one of topk, groupmax."),
            ({"signed": True}, "got signed=true; expected latents that are not negative."),
            ({"signed": 1}, "got signed=1; expected true or false."),
            ({"transcode": "no"}, "got transcode='no'; expected true or false."),
            ({"k": 0}, "got k=0; expected an integer from 1 to 2147483647."),
            ({"k": 4.0}, "got k=4.0; expected an integer from 1 to 2147483647."),
        ],
    )
    def test_what_a_configuration_cannot_say(self, folder, change, message):
        edit_json(folder / "cfg.json", **change)
        with pytest.raises(SAEFormatError, match=f"^{re.escape(f'{folder}/cfg.json: {message}')}"):
            load_sae(folder, format="sparsify")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"k": 17}, "Got k=17; expected an integer from 1 to 16 (n_latents)."),
            (
                {"activation": "groupmax", "k": 5},
                "Got k=5; expected a divisor of n_latents=16 for groupmax.",
            ),
            ({"skip_connection": True}, "expected 'W_skip' among them."),
            ({"num_latents": 8}, "got encoder.weight of shape (16, 6); expected (8, 6), with d_in=6"),
            ({"d_in": 7}, "got encoder.weight of shape (16, 6); expected (16, 7), with d_in=7"),
        ],
    )
    def test_what_does_not_fit_the_weights(self, folder, change, message):
        edit_json(folder / "cfg.json", **change)
        with pytest.raises(SAEFormatError, match=re.escape(message)):
            load_sae(folder)


EXPRESSIBLE = [
    {}, {"subtract_b_dec": False}, {"skip": True}, {"subtract_b_dec": False, "skip": True},
]  # fmt: skip


class TestWriting:
    @pytest.mark.parametrize("architecture", ["topk", "groupmax"])
    @pytest.mark.parametrize("options", EXPRESSIBLE, ids=str)
    def test_where_nothing_is_folded_the_weights_are_the_same(self, tmp_path, architecture, options):
        sae = varied_sae(architecture, dtype=torch.float32, **options)
        folder = sae.save(tmp_path / "sae", format="sparsify")
        assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae.safetensors"]
        assert find_format(folder)[0] == "sparsify"
        again = load_sae(folder)
        assert [name for name, _ in again.tensors()] == [name for name, _ in sae.tensors()]
        for name, tensor in sae.tensors():
            assert torch.equal(getattr(again, name), tensor), name
        assert again.conventions() == sae.conventions()
        assert_same_numbers(again, sae)

    @pytest.mark.parametrize("architecture", ["topk", "groupmax"])
    @pytest.mark.parametrize(
        "options", [*EXPRESSIBLE, {"subtract_b_dec": False, "denormalize": False}], ids=str
    )
    @pytest.mark.parametrize(
        "scales", [SCALE, {"latent_scale": True}, {"latent_scale": True, **SCALE}], ids=str
    )
    def test_scales_are_folded(self, tmp_path, architecture, options, scales):
        sae = varied_sae(architecture, **options, **scales)
        again = load_sae(sae.save(tmp_path / "sae", format="sparsify"), dtype="float64")
        assert (again.norm_scale, again.latent_scale) == (None, None)
        assert_same_numbers(again, sae)

    @pytest.mark.parametrize("architecture", ["topk", "groupmax"])
    def test_centring_is_folded(self, tmp_path, architecture):
        sae = varied_sae(architecture, input_norm="center", subtract_b_dec=True)
        with pytest.warns(SAEFeaturesWarning, match="into the encoder: sparsify has no words for it"):
            folder = sae.save(tmp_path / "sae", format="sparsify")
        again = load_sae(folder, dtype="float64")
        x = inputs(sae) + 5
        close(again.encode(x), sae.encode(x))
        close(again.reconstruct(x) + x.mean(dim=1, keepdim=True), sae.reconstruct(x))

    @settings(max_examples=20)
    @given(
        sizes=st.tuples(st.integers(1, 9), st.integers(1, 20)), data=st.data(),
        seed=st.integers(0, 9999), groupmax=st.booleans(),
        scale=st.none() | st.floats(0.01, 100), skip=st.booleans(),
    )  # fmt: skip
    def test_any_sae_is_given_back(self, tmp_path_factory, sizes, data, seed, groupmax, scale, skip):
        d_in, n_latents = sizes
        known = [k for k in range(1, n_latents + 1) if not groupmax or n_latents % k == 0]
        sae = varied_sae(
            "groupmax" if groupmax else "topk", d_in=d_in, n_latents=n_latents, seed=seed, skip=skip,
            k=data.draw(st.sampled_from(known)),
            **({} if scale is None else {"input_norm": "scale", "norm_scale": scale}),
        )  # fmt: skip
        folder = sae.save(tmp_path_factory.mktemp("sae"), format="sparsify")
        assert_same_numbers(load_sae(folder, dtype="float64"), sae)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_type_on_disk(self, tmp_path, dtype):
        sae = varied_sae("topk", dtype=torch.float32)
        folder = sae.save(tmp_path, format="sparsify", dtype=dtype)
        stored = load_file(folder / "sae.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {getattr(torch, dtype)}
        assert torch.equal(load_sae(folder, dtype=dtype).W_dec, sae.W_dec.to(getattr(torch, dtype)))

    def test_matrices_lie_as_in_sparsify(self, tmp_path):
        sae = varied_sae("topk", d_in=6, n_latents=12, skip=True)
        stored = load_file(sae.save(tmp_path, format="sparsify") / "sae.safetensors")
        assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == {
            "encoder.weight": (12, 6), "encoder.bias": (12,), "W_dec": (12, 6), "b_dec": (6,),
            "W_skip": (6, 6),
        }  # fmt: skip
        assert torch.equal(stored["encoder.weight"], sae.W_enc.T)
        assert torch.equal(stored["W_skip"], sae.W_skip.T)

    @pytest.mark.parametrize(("n_latents", "factor"), [(12, 2), (15, 2), (5, 1)])
    def test_the_configuration(self, tmp_path, n_latents, factor):
        folder = varied_sae("topk", n_latents=n_latents).save(tmp_path, format="sparsify")
        assert config_of(folder) == {
            "activation": "topk", "expansion_factor": factor, "normalize_decoder": False,
            "num_latents": n_latents, "k": 3, "multi_topk": False, "skip_connection": False,
            "transcode": False, "d_in": 6,
            "sae_features": {"hook_point": None, "hook_point_out": None, "metadata": {}},
        }  # fmt: skip

    def test_transcoders_and_skip_connections_are_stated(self, tmp_path):
        sae = varied_sae("groupmax", subtract_b_dec=False, skip=True)
        config = config_of(sae.save(tmp_path, format="sparsify"))
        assert (config["activation"], config["transcode"], config["skip_connection"]) == (
            "groupmax", True, True
        )  # fmt: skip

    @pytest.mark.parametrize("name", ["sae", "layers.5"])
    @pytest.mark.parametrize("transcode", [False, True])
    def test_what_is_known_comes_back_whatever_the_folder_is_called(self, tmp_path, name, transcode):
        sae = varied_sae(
            "topk",
            subtract_b_dec=not transcode,
            hook_point=HookPoint(6, "mlp_out"),
            hook_point_out=HookPoint(7) if transcode else None,
            metadata={"model": {"id": "owner/name"}, "max_length": 128},
            labels={3: "größe"},
        )
        folder = sae.save(tmp_path / name, format="sparsify")
        again = load_sae(folder)
        assert (again.hook_point, again.hook_point_out) == (sae.hook_point, sae.hook_point_out)
        assert (again.metadata, again.labels) == (sae.metadata, sae.labels)
        added = config_of(folder)["sae_features"]
        assert added["hook_point"] == {"layer": 6, "site": "mlp_out"}
        edit_json(folder / "cfg.json", sae_features={"hook_point": {"layer": -1, "site": "mlp_out"}})
        with pytest.raises(
            SAEFormatError, match="got hook_point=.*expected a layer counted from 0 and a"
        ):
            load_sae(folder)

    @pytest.mark.parametrize(
        ("architecture", "options", "complaint"),
        [
            *((name, {}, f"architecture={name!r}") for name in ("relu", "gated", "jumprelu")),
            ("topk", {"W_dec": None}, "no decoder"),
            ("topk", {"selection_scale": True}, "selection_scale"),
            ("topk", {"topk_relu": False}, "topk_relu=False"),
            ("topk", {"input_norm": "rms_norm"}, "input_norm='rms_norm'"),
            ("groupmax", {"input_norm": "layer_norm"}, "input_norm='layer_norm'"),
            ("groupmax", {"d_out": 4}, "d_out=4 and d_in=6"),
        ],
    )
    @pytest.mark.parametrize("exists", [True, False])
    def test_what_sparsify_has_no_words_for(self, tmp_path, architecture, options, complaint, exists):
        place = tmp_path / "sae"
        if exists:
            varied_sae("topk").save(place, format="sparsify")
        before = {path.name: path.read_bytes() for path in place.iterdir()} if exists else None
        message = (
            f"Got an SAE with {complaint}, which sparsify has no words for. Save it with "
            "format='sae-features'."
        )
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
            varied_sae(architecture, **options).save(place, format="sparsify")
        assert place.exists() == exists
        if exists:
            assert {path.name: path.read_bytes() for path in place.iterdir()} == before

    def test_a_bias_in_two_units_cannot_be_folded(self, tmp_path):
        sae = varied_sae("topk", denormalize=False, **SCALE)
        with pytest.raises(SAEFormatError, match=r"its norm_scale cannot be folded\.$"):
            sae.save(tmp_path / "sae", format="sparsify")
        assert not (tmp_path / "sae").exists()

    @pytest.mark.parametrize("case", sorted(path.name for path in GOLDEN.iterdir()))
    def test_what_sparsify_wrote_is_written_as_it_was(self, tmp_path, case):
        (place,) = (path.parent for path in (GOLDEN / case).rglob("cfg.json"))
        sae = load_sae(place)
        again = sae.save(tmp_path / place.name, format="sparsify")
        before, after = load_file(place / "sae.safetensors"), load_file(again / "sae.safetensors")
        assert set(after) == set(before)
        for name, tensor in before.items():
            assert torch.equal(after[name], tensor.float()), name
        other = load_sae(again)
        assert (other.conventions(), other.hook_point) == (sae.conventions(), sae.hook_point)
        assert other.hook_point_out == sae.hook_point_out
