"""SAEs written as SAELens does: the same numbers, its own words, and an error where it has none."""

from __future__ import annotations

import json
import re
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import varied_sae

from sae_features import load_sae
from sae_features.errors import InvalidParameterError, SAEFeaturesWarning, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.parameters import DTYPES
from sae_features.saes.formats import find_format

SCALE = {"input_norm": "scale", "norm_scale": 0.37}
METADATA = {
    "model": {"id": "openai-community/gpt2", "revision": "abc"}, "max_length": 128, "prepend_bos": True,
    "neuronpedia_id": "gpt2-small/6-res-jb", "dataset": "owner/text",
}  # fmt: skip

PLAIN = [
    ("relu", {}, "standard"),
    ("relu", {"subtract_b_dec": False}, "standard"),
    ("relu", {"input_norm": "layer_norm"}, "standard"),
    ("gated", {}, "gated"),
    ("gated", {"input_norm": "rms_norm"}, "gated"),
    ("topk", {}, "topk"),
    ("topk", {"k": 12}, "topk"),
    ("jumprelu", {}, "jumprelu"),
    ("jumprelu", {"input_norm": "rms_norm", "subtract_b_dec": False}, "jumprelu"),
    ("relu", {"d_out": 4}, "transcoder"),
    ("relu", {"subtract_b_dec": False, "hook_point_out": HookPoint(2, "mlp_out")}, "transcoder"),
    ("relu", {"d_out": 7, "skip": True}, "skip_transcoder"),
    ("relu", {"subtract_b_dec": False, "skip": True}, "skip_transcoder"),
    ("relu", {"d_out": 4, "input_norm": "layer_norm", "denormalize": False}, "transcoder"),
    ("jumprelu", {"d_out": 4}, "jumprelu_transcoder"),
    ("jumprelu", {"d_out": 4, "skip": True}, "jumprelu_skip_transcoder"),
]
"""SAEs in which nothing is folded, and what SAELens calls them."""


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


@pytest.mark.parametrize(("architecture", "options", "kind"), PLAIN)
def test_where_nothing_is_folded_the_weights_are_the_same(tmp_path, architecture, options, kind):
    sae = varied_sae(architecture, dtype=torch.float32, **options)
    folder = sae.save(tmp_path / "sae", format="saelens")
    assert sorted(path.name for path in folder.iterdir()) == ["cfg.json", "sae_weights.safetensors"]
    assert find_format(folder)[0] == "saelens"
    assert config_of(folder)["architecture"] == kind
    again = load_sae(folder)
    assert [name for name, _ in again.tensors()] == [name for name, _ in sae.tensors()]
    for name, tensor in sae.tensors():
        assert torch.equal(getattr(again, name), tensor), name
    assert again.conventions() == sae.conventions()
    assert_same_numbers(again, sae)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        *((architecture, SCALE) for architecture in ("relu", "gated", "topk", "jumprelu")),
        *(
            (architecture, {"latent_scale": True})
            for architecture in ("relu", "gated", "topk", "jumprelu")
        ),
        ("relu", {"latent_scale": True, "subtract_b_dec": False, **SCALE}),
        ("relu", {"d_out": 4, "skip": True, "latent_scale": True, **SCALE}),
        ("jumprelu", {"d_out": 4, "denormalize": False, **SCALE}),
        ("relu", {"latent_scale": True, "input_norm": "rms_norm"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scales_are_folded(tmp_path, architecture, options, dtype):
    sae = varied_sae(architecture, dtype=dtype, **options)
    folder = sae.save(tmp_path / "sae", format="saelens")
    again = load_sae(folder, dtype=str(dtype).removeprefix("torch."))
    assert (again.norm_scale, again.latent_scale) == (None, None)
    assert_same_numbers(again, sae)


@pytest.mark.parametrize("architecture", ["relu", "gated", "topk", "jumprelu"])
@pytest.mark.parametrize("scale", [None, 0.37])
def test_centring_is_folded_and_the_mean_that_is_lost_is_warned_of(tmp_path, architecture, scale):
    sae = varied_sae(architecture, input_norm="center", norm_scale=scale)
    with pytest.warns(SAEFeaturesWarning) as caught:
        folder = sae.save(tmp_path / "sae", format="saelens")
    assert [str(warning.message) for warning in caught] == [
        "input_norm='center' was folded into the encoder: SAELens has no words for it. Latents are the "
        "same, but reconstructions lack the mean of each input."
    ]
    assert config_of(folder)["normalize_activations"] == "none"
    again = load_sae(folder, dtype="float64")
    x = inputs(sae) + 5
    assert torch.equal(again.encode(x) != 0, sae.encode(x) != 0)
    close(again.encode(x), sae.encode(x))
    close(again.reconstruct(x) + x.mean(dim=1, keepdim=True), sae.reconstruct(x))


def test_centring_without_a_mean_to_give_back_is_folded_silently(tmp_path):
    sae = varied_sae("relu", input_norm="center", denormalize=False)
    again = load_sae(sae.save(tmp_path / "sae", format="saelens"), dtype="float64")
    assert_same_numbers(again, sae)


@settings(max_examples=20)
@given(
    architecture=st.sampled_from(["relu", "gated", "topk", "jumprelu"]), seed=st.integers(0, 9999),
    sizes=st.tuples(st.integers(2, 9), st.integers(3, 20)), scale=st.none() | st.floats(0.01, 100),
    latent_scale=st.booleans(), subtract_b_dec=st.booleans(),
)  # fmt: skip
def test_any_sae_is_given_back(
    tmp_path_factory, architecture, seed, sizes, scale, latent_scale, subtract_b_dec
):
    norm = {} if scale is None else {"input_norm": "scale", "norm_scale": scale}
    sae = varied_sae(
        architecture, d_in=sizes[0], n_latents=sizes[1], seed=seed, latent_scale=latent_scale,
        subtract_b_dec=subtract_b_dec, **norm,
    )  # fmt: skip
    folder = sae.save(tmp_path_factory.mktemp("sae"), format="saelens")
    assert_same_numbers(load_sae(folder, dtype="float64"), sae)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_type_on_disk(tmp_path, dtype):
    sae = varied_sae("relu", dtype=torch.float32)
    folder = sae.save(tmp_path / "sae", format="saelens", dtype=dtype)
    wanted = getattr(torch, dtype)
    assert config_of(folder)["dtype"] == dtype
    stored = load_file(folder / "sae_weights.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {wanted}
    assert torch.equal(load_sae(folder, dtype=dtype).W_enc, sae.W_enc.to(wanted))


def test_matrices_lie_as_in_saelens(tmp_path):
    sae = varied_sae("relu", d_in=6, d_out=4, n_latents=12, skip=True, dtype=torch.float32)
    stored = load_file(sae.save(tmp_path, format="saelens") / "sae_weights.safetensors")
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert shapes == {
        "W_enc": (6, 12), "W_dec": (12, 4), "b_enc": (12,), "b_dec": (4,), "W_skip": (4, 6)
    }  # fmt: skip
    assert torch.equal(stored["W_skip"], sae.W_skip.T)


def test_the_configuration(tmp_path):
    sae = varied_sae("topk", hook_point=HookPoint(6, "resid_pre"), metadata=METADATA)
    config = config_of(sae.save(tmp_path, format="saelens"))
    metadata = config.pop("metadata")
    assert config == {
        "architecture": "topk", "d_in": 6, "d_sae": 12, "k": 3, "dtype": "float64", "device": "cpu",
        "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
        "rescale_acts_by_decoder_norm": False,
    }  # fmt: skip
    assert metadata.pop("sae_lens_version").startswith("6.")  # it reads others differently
    assert metadata == {
        "sae_lens_training_version": None, "model_name": "openai-community/gpt2", "context_size": 128,
        "hook_name": "blocks.6.hook_resid_pre", "hook_name_out": None, "hook_head_index": None,
        "prepend_bos": True, "neuronpedia_id": "gpt2-small/6-res-jb", "dataset_path": "owner/text",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("input_norm", "stated"), [("layer_norm", "layer_norm"), ("rms_norm", "constant_norm_rescale")]
)
def test_norms_have_other_names(tmp_path, input_norm, stated):
    folder = varied_sae("relu", input_norm=input_norm).save(tmp_path, format="saelens")
    assert config_of(folder)["normalize_activations"] == stated


def test_what_is_known_comes_back(tmp_path):
    sae = varied_sae("relu", hook_point=HookPoint(6, "mlp_out"), metadata=METADATA)
    again = load_sae(sae.save(tmp_path, format="saelens"))
    assert again.hook_point == HookPoint(6, "mlp_out")
    assert again.metadata == {
        **METADATA, "model": "openai-community/gpt2", "hook_name": "blocks.6.hook_mlp_out"
    }  # fmt: skip
    assert again.latent_url(3) == "https://www.neuronpedia.org/gpt2-small/6-res-jb/3"
    unknown = load_sae(varied_sae("relu").save(tmp_path / "b", format="saelens"))
    assert (unknown.hook_point, unknown.metadata) == (None, {})


@pytest.mark.parametrize("model", ["owner/name", {"id": "owner/name"}, {"digest": "ab" * 32}, None])
def test_a_model_is_a_name(tmp_path, model):
    metadata = {} if model is None else {"model": model}
    folder = varied_sae("relu", metadata=metadata).save(tmp_path, format="saelens")
    expected = "owner/name" if model in ("owner/name", {"id": "owner/name"}) else None
    assert config_of(folder)["metadata"]["model_name"] == expected


@pytest.mark.parametrize(
    ("site", "name"),
    [
        ("resid_pre", "hook_resid_pre"), ("resid_mid", "hook_resid_mid"), ("attn_out", "hook_attn_out"),
        ("resid_post", "hook_resid_post"), ("mlp_out", "hook_mlp_out"), ("attn_z", "attn.hook_z"),
        ("mlp_hidden", "mlp.hook_post"),
    ],
)  # fmt: skip
def test_hook_points_are_named_as_in_transformer_lens(tmp_path, site, name):
    point, out = HookPoint(6, site), HookPoint(7, site)
    sae = varied_sae("relu", d_out=4, hook_point=point, hook_point_out=out)
    folder = sae.save(tmp_path, format="saelens")
    metadata = config_of(folder)["metadata"]
    assert metadata["hook_name"] == f"blocks.6.{name}"
    assert metadata["hook_name_out"] == f"blocks.7.{name}"
    again = load_sae(folder)
    assert (again.hook_point, again.hook_point_out) == (point, out)


def test_a_hook_name_that_only_the_metadata_know_is_kept(tmp_path):
    sae = varied_sae("relu", metadata={"hook_name": "blocks.3.ln1.hook_normalized"})
    folder = sae.save(tmp_path, format="saelens")
    assert config_of(folder)["metadata"]["hook_name"] == "blocks.3.ln1.hook_normalized"
    assert load_sae(folder).metadata["hook_name"] == "blocks.3.ln1.hook_normalized"


def test_a_hook_point_counts_more_than_a_name_in_the_metadata(tmp_path):
    metadata = {"hook_name": "blocks.3.hook_resid_post"}
    sae = varied_sae("relu", hook_point=HookPoint(4, "resid_pre"), metadata=metadata)
    folder = sae.save(tmp_path, format="saelens")
    assert config_of(folder)["metadata"]["hook_name"] == "blocks.4.hook_resid_pre"
    assert load_sae(folder).hook_point == HookPoint(4, "resid_pre")


@pytest.mark.parametrize(
    ("architecture", "options", "complaint"),
    [
        ("relu", {"W_dec": None}, "no decoder"),
        ("groupmax", {}, "architecture='groupmax'"),
        ("topk", {"topk_relu": False}, "topk_relu=False: SAELens drops negative values"),
        ("topk", {"selection_scale": True}, "selection_scale"),
        ("topk", {"d_out": 4}, "architecture='topk' of a transcoder"),
        ("gated", {"subtract_b_dec": False, "skip": True}, "architecture='gated' of a transcoder"),
        ("relu", {"skip": True}, "a transcoder that subtracts b_dec"),
        ("jumprelu", {"hook_point_out": HookPoint(1)}, "a transcoder that subtracts b_dec"),
        (
            "relu", {"input_norm": "rms_norm", "denormalize": False},
            "input_norm='rms_norm' with denormalize=False",
        ),
        (
            "relu", {"input_norm": "layer_norm", "d_out": 4},
            "input_norm='layer_norm' with denormalize=True",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("exists", [True, False])
def test_what_saelens_has_no_words_for(tmp_path, architecture, options, complaint, exists):
    place = tmp_path / "sae"
    if exists:
        varied_sae("relu").save(place, format="saelens")
    before = {path.name: path.read_bytes() for path in place.iterdir()} if exists else None
    message = (
        f"Got an SAE with {complaint}, which SAELens has no words for. Save it with "
        "format='sae-features'."
    )
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
        varied_sae(architecture, **options).save(place, format="saelens")
    assert place.exists() == exists
    if exists:
        assert {path.name: path.read_bytes() for path in place.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"denormalize": False, **SCALE},
            "Got subtract_b_dec with denormalize=False; its norm_scale cannot be folded.",
        ),
        (
            {"b_dec": torch.full((6,), torch.nan).double()},
            "The SAE to be saved: b_dec holds NaN or infinity; expected finite torch.float64 weights.",
        ),
        ({"metadata": {"dataset": {1}}}, "cfg.json holds only plain JSON values: Object of type set"),
    ],
    ids=["two units", "NaN", "metadata"],
)
def test_what_cannot_be_written(tmp_path, options, message):
    folder = varied_sae("relu", seed=3).save(tmp_path / "sae", format="saelens")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for place in (folder, tmp_path / "new"):
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}"):
            varied_sae("relu", **options).save(place, format="saelens")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_another_type_on_disk_is_refused(tmp_path):
    with pytest.raises(InvalidParameterError, match=r"^Got dtype='int8'; expected one of float32"):
        varied_sae("relu").save(tmp_path / "sae", format="saelens", dtype="int8")
    assert not (tmp_path / "sae").exists()


FORMATS = ("sae-features", "saelens", "sparsify")


@pytest.mark.parametrize("before", FORMATS)
@pytest.mark.parametrize("after", FORMATS)
def test_a_folder_holds_the_sae_that_was_saved_last(tmp_path, before, after):
    first, second = varied_sae("topk", seed=1), varied_sae("topk", seed=2, n_latents=9)
    first.save(tmp_path / "sae", format=before)
    folder = second.save(tmp_path / "sae", format=after)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_sae(folder, dtype="float64")
    assert find_format(folder)[0] == after
    assert again.n_latents == 9
    assert torch.equal(again.W_enc, second.W_enc)


@pytest.mark.parametrize("after", FORMATS)
def test_labels_of_another_sae_do_not_stay(tmp_path, after):
    varied_sae("topk", seed=1, labels={11: "of the first"}).save(tmp_path / "sae")
    folder = varied_sae("topk", seed=2, n_latents=9).save(tmp_path / "sae", format=after)
    assert load_sae(folder).labels == {}


@pytest.mark.parametrize("format_name", FORMATS)
def test_labels_are_written_in_any_format(tmp_path, format_name):
    sae = varied_sae("topk", labels={3: "größe"})
    assert load_sae(sae.save(tmp_path / "sae", format=format_name)).labels == {3: "größe"}


@pytest.mark.parametrize("format_name", FORMATS)
def test_weights_of_another_library_are_left_alone(tmp_path, format_name):
    (tmp_path / "params.npz").write_bytes(b"of someone else")
    message = (
        f"Got {str(tmp_path)!r}, which holds params.npz; expected a folder without weights of another "
        "library, which would make it ambiguous. Choose another one."
    )
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
        varied_sae("topk").save(tmp_path, format=format_name)
    assert [path.name for path in tmp_path.iterdir()] == ["params.npz"]
    path = tmp_path / "params.npz"
    with pytest.raises(SAEFormatError, match="which is a file; expected a folder to save to"):
        varied_sae("topk").save(path, format=format_name)
    assert path.read_bytes() == b"of someone else"


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "README.md").write_text("card")
    varied_sae("relu").save(tmp_path, format="saelens")
    assert (tmp_path / "README.md").read_text() == "card"
