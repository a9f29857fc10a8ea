"""Folding: the same function with fewer conventions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import varied_sae

from sae_features.errors import SAEFormatError
from sae_features.saes.conventions import ARCHITECTURES
from sae_features.saes.folding import (
    decoder_norms,
    fold_center,
    fold_scales,
    scale_inputs,
    scale_latents,
    scale_outputs,
    unit_decoder,
)

quick = settings(max_examples=10)
scales = st.floats(0.01, 100)
seeds = st.integers(0, 10_000)
FIXED = ("relu", "gated", "jumprelu")
"""Those whose latents do not compete."""


def close(got, expected):
    size = float(expected.abs().max()) or 1.0
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * size)


def inputs(sae, seed=1, n=16):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, sae.d_in, generator=generator, dtype=torch.float64).to(sae.dtype)


def with_tensors(sae, fold, *arguments):
    before = {name: tensor.clone() for name, tensor in sae.tensors()}
    given = dict(sae.tensors())
    folded = fold(given, *arguments)
    for name, tensor in before.items():  # pure: neither the mapping nor a tensor has changed
        assert given[name] is getattr(sae, name)
        assert torch.equal(given[name], tensor)
    return replace(sae, **folded)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@quick
@given(scale=scales, seed=seeds, subtract_b_dec=st.booleans())
def test_an_encoder_takes_what_was_scaled(architecture, scale, seed, subtract_b_dec):
    sae = varied_sae(architecture, seed=seed, subtract_b_dec=subtract_b_dec)
    folded = with_tensors(sae, scale_inputs, scale)
    if subtract_b_dec:  # it is subtracted after the scale
        folded = replace(folded, b_dec=sae.b_dec / scale)
    x = inputs(sae, seed)
    close(folded.encode(x), sae.encode(x * scale))


@quick
@given(scale=scales, seed=seeds)
def test_a_decoder_gives_what_was_scaled(scale, seed):
    sae = varied_sae("relu", seed=seed, latent_scale=True)
    folded = with_tensors(sae, scale_outputs, scale)
    f = torch.rand(7, sae.n_latents, dtype=sae.dtype)
    close(folded.decode(f), sae.decode(f) * scale)


def test_outputs_of_an_encoder_alone_are_its_bias():
    sae = varied_sae("relu", W_dec=None)
    assert set(scale_outputs(dict(sae.tensors()), 2.0)) == set(dict(sae.tensors()))


@pytest.mark.parametrize("architecture", FIXED)
@quick
@given(seed=seeds, dtype=st.sampled_from([torch.float64, torch.float32]), latent_scale=st.booleans())
def test_latents_are_scaled_and_outputs_kept(architecture, seed, dtype, latent_scale):
    sae = varied_sae(architecture, seed=seed, dtype=dtype, latent_scale=latent_scale, skip=True)
    factors = (
        torch.rand(sae.n_latents, generator=torch.Generator().manual_seed(seed)).to(dtype) * 3 + 0.1
    )
    folded = with_tensors(sae, scale_latents, factors)
    x = inputs(sae, seed)
    close(folded.encode(x), sae.encode(x) * factors)
    close(folded.reconstruct(x), sae.reconstruct(x))


def test_latents_that_compete_are_compared_after_they_are_scaled():
    zeros = torch.zeros(2)
    sae = varied_sae(
        "topk", d_in=2, n_latents=2, dtype=torch.float32, k=1, subtract_b_dec=False, W_enc=torch.eye(2),
        b_enc=zeros, b_dec=zeros, W_dec=torch.eye(2),
    )  # fmt: skip
    x = torch.tensor([[3.0, 2.0]])
    assert sae.reconstruct(x).tolist() == [[3, 0]]
    scaled = with_tensors(sae, scale_latents, torch.tensor([1.0, 2.0]))
    assert scaled.encode(x).tolist() == [[0, 4]]
    assert scaled.reconstruct(x).tolist() == [[0, 2]]


@pytest.mark.parametrize("architecture", FIXED)
@quick
@given(seed=seeds)
def test_a_decoder_of_norm_1(architecture, seed):
    sae = varied_sae(architecture, seed=seed)
    folded = with_tensors(sae, unit_decoder)
    close(folded.W_dec.norm(dim=1), torch.ones(sae.n_latents, dtype=sae.dtype))
    x = inputs(sae, seed)
    close(folded.encode(x), sae.encode(x) * sae.W_dec.norm(dim=1))
    close(folded.reconstruct(x), sae.reconstruct(x))


def test_a_latent_without_a_direction_stays_as_it_is():
    sae = varied_sae("relu")
    sae.W_dec[3] = 0
    assert decoder_norms(dict(sae.tensors()))[3] == 1
    folded = with_tensors(sae, unit_decoder)
    assert folded.W_dec.isfinite().all()
    x = inputs(sae)
    assert torch.equal(folded.encode(x)[:, 3], sae.encode(x)[:, 3])
    close(folded.reconstruct(x), sae.reconstruct(x))


OPTIONS = [
    {},
    {"subtract_b_dec": False},
    {"d_out": 4},
    {"skip": True},
    {"d_out": 4, "skip": True},
    {"subtract_b_dec": False, "denormalize": False, "skip": True},
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@quick
@given(scale=st.none() | scales, latent_scale=st.booleans(), seed=seeds)
def test_scales_are_folded(architecture, options, scale, latent_scale, seed):
    norm = {} if scale is None else {"input_norm": "scale", "norm_scale": scale}
    sae = varied_sae(architecture, latent_scale=latent_scale, seed=seed, **options, **norm)
    folded = fold_scales(sae)
    assert (folded.norm_scale, folded.input_norm, folded.latent_scale) == (None, "none", None)
    x = inputs(sae, seed)
    latents = sae.encode(x)
    close(folded.encode(x), latents)
    assert torch.equal(folded.encode(x) != 0, latents != 0)
    close(folded.decode(latents), sae.decode(latents))
    close(folded.reconstruct(x), sae.reconstruct(x))
    again = fold_scales(folded)
    for name, tensor in folded.tensors():
        assert torch.equal(getattr(again, name), tensor)


@pytest.mark.parametrize("input_norm", ["layer_norm", "rms_norm"])
def test_norms_of_each_row_stay(input_norm):
    sae = varied_sae("topk", input_norm=input_norm, latent_scale=True, selection_scale=True)
    folded = fold_scales(sae)
    assert (folded.input_norm, folded.latent_scale) == (input_norm, None)
    assert torch.equal(folded.selection_scale, sae.selection_scale)
    x = inputs(sae)
    assert torch.equal(folded.encode(x), sae.encode(x))
    close(folded.reconstruct(x), sae.reconstruct(x))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@quick
@given(scale=st.none() | scales, seed=seeds, mean=st.floats(-50, 50))
def test_the_mean_is_taken_off_in_the_encoder(architecture, options, scale, seed, mean):
    sae = varied_sae(architecture, seed=seed, input_norm="center", norm_scale=scale, **options)
    folded = fold_center(sae)
    assert (folded.input_norm, folded.norm_scale) == ("none" if scale is None else "scale", scale)
    x = inputs(sae, seed) + mean
    latents = sae.encode(x)
    close(folded.encode(x), latents)
    assert torch.equal(folded.encode(x) != 0, latents != 0)
    close(folded.decode(latents), sae.decode(latents))
    missing = x.mean(dim=1, keepdim=True) if sae.denormalize else 0.0
    close(folded.reconstruct(x) + missing, sae.reconstruct(x))
    close(folded.W_enc.mean(dim=0), torch.zeros(sae.n_latents, dtype=sae.dtype))
    again = fold_center(folded)
    assert again is folded


def test_a_mean_folded_is_written_out():
    """(x - mean(x) - b_dec) @ W_enc + b_enc, with numbers."""
    sae = varied_sae(
        "relu", d_in=2, n_latents=1, input_norm="center", W_enc=torch.tensor([[3.0], [1.0]]),
        b_enc=torch.tensor([10.0]), b_dec=torch.tensor([1.0, 2.0]), W_dec=torch.ones(1, 2),
    )  # fmt: skip
    folded = fold_center(sae)
    assert folded.W_enc.tolist() == [[1], [-1]]
    assert folded.b_enc.tolist() == [4]  # 10 - 2 * (1 + 2)
    x = torch.tensor([[7.0, 5.0]])  # less its mean: [1, -1]
    assert sae.encode(x).tolist() == folded.encode(x).tolist() == [[(1 - 1) * 3 + (-1 - 2) * 1 + 10]]
    assert sae.reconstruct(x).tolist() == [[7 + 1 + 6, 7 + 2 + 6]]


def test_an_encoder_alone_can_be_folded():
    sae = varied_sae("relu", W_dec=None, latent_scale=True, input_norm="scale", norm_scale=0.5)
    folded = fold_scales(sae)
    assert (folded.W_dec, folded.latent_scale) == (None, None)
    x = inputs(sae)
    close(folded.encode(x), sae.encode(x))


def test_where_nothing_is_folded_nothing_changes():
    sae = varied_sae("jumprelu", skip=True, metadata={"a": 1}, labels={0: "x"})
    folded = fold_scales(sae)
    for name, tensor in sae.tensors():
        assert getattr(folded, name) is tensor
    assert (folded.metadata, folded.labels) == (sae.metadata, sae.labels)
    assert folded.digest == sae.digest


def test_a_bias_in_two_units_cannot_be_folded():
    sae = varied_sae("relu", input_norm="scale", norm_scale=2.0, denormalize=False)
    message = r"^Got subtract_b_dec with denormalize=False; its norm_scale cannot be folded\.$"
    with pytest.raises(SAEFormatError, match=message):
        fold_scales(sae)
