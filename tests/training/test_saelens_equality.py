"""What is trained here and saved for SAELens computes the same there, from activations as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_features.training import SAETrainer, TrainingSettings
from sae_features.training.settings import TRAINED_ARCHITECTURES

sae_lens = pytest.importorskip("sae_lens", reason="a peer, not a dependency")

D, F, K = 24, 40, 3
ROUNDING = 1e-6
"""Of float32, about 8 units in the last place, relative to the row's largest value."""
KINDS = {"relu": "standard", "gated": "gated", "topk": "topk"}
"""What SAELens calls them; the others become jumprelu."""
PLACES = {"around 0": (1.0, 0.0, "none"), "far and large": (64.0, 320.0, "mean")}
"""Factor and shift of the rows, and what training takes off them."""


def planted(n, seed):
    """Rows that are sums of a few of F directions."""
    directions = np.random.default_rng(99).normal(size=(F, D))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    generator = np.random.default_rng(seed)
    codes = generator.uniform(1, 3, (n, F)) * (generator.random((n, F)) < K / F)
    return (codes @ directions).astype(np.float32)


@pytest.fixture(scope="module", params=TRAINED_ARCHITECTURES)
def architecture(request):
    return request.param


@pytest.fixture(scope="module", params=PLACES.values(), ids=PLACES)
def trained(request, architecture, tmp_path_factory):
    """An SAE, the folder that it was saved to, and rows that it has not seen."""
    factor, shift, center = request.param
    settings = TrainingSettings(
        architecture=architecture, n_latents=F, k=K, epochs=8, batch_size=200, center=center
    )
    sae = SAETrainer(settings, device="cpu").train(planted(2000, 0) * factor + shift)[0].sae
    folder = sae.save(tmp_path_factory.mktemp("saved") / "sae", format="saelens")
    return sae, folder, torch.from_numpy(planted(300, 1) * factor + shift)


def load(folder):
    return sae_lens.SAE.load_from_disk(folder)


def error(found, expected):
    """Return the largest difference, relative to the largest value of its row."""
    size = expected.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    return float(((found - expected).abs() / size).max())


@torch.no_grad()
def differences(theirs, sae, x):
    """Return how many latents fire in one only, and the errors of latents, decoder and both."""
    latents, found = sae.encode(x), theirs.encode(x)
    return (
        int(((found != 0) != (latents != 0)).sum()),
        error(found, latents),
        error(theirs.decode(latents), sae.decode(latents)),
        error(theirs(x), sae.reconstruct(x)),
    )


def test_latents_and_reconstructions_are_equal(trained, architecture):
    sae, folder, x = trained
    theirs = load(folder)
    assert theirs.cfg.architecture() == KINDS.get(architecture, "jumprelu")
    assert theirs.cfg.normalize_activations == "none"  # centre and scale are in its weights
    n_flips, *errors = differences(theirs, sae, x)
    assert n_flips == 0
    assert max(errors) <= ROUNDING


@torch.no_grad()
def test_there_is_something_to_compare(trained):
    _, folder, x = trained
    theirs = load(folder)
    fires = theirs.encode(x) != 0
    assert 1 < float(fires.sum()) / len(x) < F / 2
    assert float(fires.any(dim=0).double().mean()) > 0.5
    unexplained = (x - theirs(x)).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert unexplained < 0.9


def test_a_hundredth_of_any_weight_would_be_seen(trained):
    sae, folder, x = trained
    names = [name for name, _ in load(folder).named_parameters()]
    assert {"W_enc", "W_dec", "b_dec"} < set(names)
    for name in names:
        theirs = load(folder)
        weights = theirs.get_parameter(name).data
        weights += 1e-2 * weights.square().mean().sqrt()
        n_flips, *errors = differences(theirs, sae, x)
        assert n_flips > 0 or max(errors) > 100 * ROUNDING, name
