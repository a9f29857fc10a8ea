"""Each objective against its paper's formula, written out densely, in values and gradients."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from sae_features.training.objectives import batchtopk, objective_of
from sae_features.training.objectives.step import Context
from sae_features.training.settings import TRAINED_ARCHITECTURES, TrainingSettings

D, F, N, K = 6, 24, 40, 3
SPARSITY = 0.3


def made(architecture, *, seed=0, dead=None, **choices):
    """Parameters that are away from their first values, rows, and a context."""
    settings = TrainingSettings(architecture=architecture, n_latents=F, k=K, **choices)
    generator = torch.Generator().manual_seed(seed)
    first = objective_of(architecture).initial(D, settings, generator)
    parameters = {
        name: (
            tensor.double() + 0.1 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        ).requires_grad_()
        for name, tensor in first.items()
    }
    if "threshold" in parameters:
        parameters["threshold"] = (parameters["threshold"].detach().abs() + 0.2).requires_grad_()
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return parameters, x, Context(settings, SPARSITY, dead)


def pre_of(p, x):
    return (x - p["b_dec"]) @ p["W_enc"].T + p.get("b_enc", 0)


def gradients(loss, parameters):
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameters[name]) if gradient is None else gradient
        for name, gradient in zip(parameters, found, strict=True)
    }


def assert_same(step, wanted, parameters):
    """Losses by name are those wanted, and so are the gradients of each."""
    assert step.losses.keys() == wanted.keys()
    for name, loss in wanted.items():
        torch.testing.assert_close(step.losses[name], loss, msg=lambda m, n=name: f"{n}: {m}")
        found, expected = gradients(step.losses[name], parameters), gradients(loss, parameters)
        for parameter, gradient in expected.items():
            torch.testing.assert_close(
                found[parameter], gradient, msg=lambda m, p=parameter, n=name: f"d {n} / d {p}: {m}"
            )


def mse(x, reconstruction):
    return (x - reconstruction).square().sum(dim=1).mean()


def step_of(architecture, parameters, x, context):
    step = objective_of(architecture).step(parameters, x, context)
    return step, {name: loss.clone() for name, loss in step.losses.items()}


@pytest.fixture(autouse=True)
def keep_graphs(monkeypatch):
    original = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *a, **k: original(*a, **{"retain_graph": True, **k})
    )


@pytest.mark.parametrize("unit_norm", [True, False])
def test_relu(unit_norm):
    p, x, context = made("relu", unit_norm=unit_norm)
    f = pre_of(p, x).relu()
    weights = 1 if unit_norm else p["W_dec"].norm(dim=1)
    wanted = {
        "mse": mse(x, f @ p["W_dec"] + p["b_dec"]),
        "l1": SPARSITY * (f * weights).sum(dim=1).mean(),
    }
    step = objective_of("relu").step(p, x, context)
    assert_same(step, wanted, p)
    torch.testing.assert_close(step.error, (x - f @ p["W_dec"] - p["b_dec"]).detach())
    assert step.fires.tolist() == (f > 0).sum(dim=0).tolist()


def gated_parts(p, x):
    product = (x - p["b_dec"]) @ p["W_enc"].T
    gate = product + p["b_gate"]
    magnitude = (product * p["r_mag"].exp() + p["b_mag"]).relu()
    return gate, (gate > 0) * magnitude


@pytest.mark.parametrize("unit_norm", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_gated(unit_norm, frozen):
    p, x, context = made("gated", unit_norm=unit_norm, freeze_aux_decoder=frozen)
    gate, f = gated_parts(p, x)
    weights = 1 if unit_norm else p["W_dec"].norm(dim=1)
    W, b = (p[name].detach() if frozen else p[name] for name in ("W_dec", "b_dec"))
    wanted = {
        "mse": mse(x, f @ p["W_dec"] + p["b_dec"]),
        "l1": SPARSITY * (gate.relu() * weights).sum(dim=1).mean(),
        "aux": mse(x, gate.relu() @ W + b),
    }
    step = objective_of("gated").step(p, x, context)
    assert_same(step, wanted, p)
    assert step.fires.tolist() == (f > 0).sum(dim=0).tolist()


def test_the_auxiliary_loss_of_gated_gives_the_decoder_no_gradient():
    p, x, context = made("gated")
    step = objective_of("gated").step(p, x, context)
    names = ("W_dec", "r_mag", "b_mag")
    assert torch.autograd.grad(step.losses["aux"], [p[name] for name in names], allow_unused=True) == (
        None,
        None,
        None,
    )
    # b_dec gets what goes through the encoder, and nothing as the decoder's bias
    gate, _ = gated_parts(p, x)
    through_encoder = gradients(
        (x - gate.relu() @ p["W_dec"].detach() - p["b_dec"].detach()).square().sum(dim=1).mean(), p
    )
    torch.testing.assert_close(gradients(step.losses["aux"], p)["b_dec"], through_encoder["b_dec"])
    assert gradients(step.losses["aux"], p)["W_enc"].abs().sum() > 0


def test_the_penalty_of_gated_leaves_magnitudes_alone():
    p, x, context = made("gated")
    found = gradients(objective_of("gated").step(p, x, context).losses["l1"], p)
    for name in ("W_dec", "r_mag", "b_mag"):
        assert found[name].abs().sum() == 0
    assert found["b_gate"].abs().sum() > 0


def test_without_a_tied_gate_r_mag_learns_nothing():
    p, x, context = made("gated", tie_gate=False)
    total = sum(objective_of("gated").step(p, x, context).losses.values())
    assert gradients(total, p)["r_mag"].abs().sum() == 0


def topk_codes(p, x):
    pre = pre_of(p, x)
    at = pre.topk(K, dim=1).indices
    return torch.zeros_like(pre).scatter(1, at, pre.gather(1, at).relu())


def test_topk():
    p, x, context = made("topk")
    f = topk_codes(p, x)
    step = objective_of("topk").step(p, x, context)
    assert_same(step, {"mse": mse(x, f @ p["W_dec"] + p["b_dec"])}, p)
    assert step.fires.tolist() == (f > 0).sum(dim=0).tolist()


@pytest.mark.parametrize("aux_k", [2, 9, None])
def test_dead_latents_reconstruct_the_error(aux_k):
    dead = torch.zeros(F, dtype=torch.bool)
    dead[[1, 4, 5, 9, 20]] = True
    p, x, context = made("topk", dead=dead, aux_k=aux_k)
    f = topk_codes(p, x)
    error = (x - f @ p["W_dec"] - p["b_dec"]).detach()
    pre = ((x - p["b_dec"]).detach() @ p["W_enc"].T + p["b_enc"]).masked_fill(~dead, -math.inf)
    at = pre.topk(min(aux_k or D // 2, 5), dim=1).indices
    codes = torch.zeros_like(pre).scatter(1, at, pre.gather(1, at).relu())
    aux = (error - codes @ p["W_dec"]).square().sum() / error.square().sum() / 32
    wanted = {"mse": mse(x, f @ p["W_dec"] + p["b_dec"]), "aux": aux}
    assert_same(objective_of("topk").step(p, x, context), wanted, p)


def batch_codes(p, x):
    pre = pre_of(p, x)
    flat = pre.flatten()
    at = flat.topk(K * N).indices
    return torch.zeros_like(flat).scatter(0, at, flat[at].relu()).view_as(pre)


def test_batchtopk():
    p, x, context = made("batchtopk")
    f = batch_codes(p, x)
    step = objective_of("batchtopk").step(p, x, context)
    assert_same(step, {"mse": mse(x, f @ p["W_dec"] + p["b_dec"])}, p)
    assert step.least == pytest.approx(float(f[f > 0].min().detach()))
    assert int(step.fires.sum()) == K * N


def test_matryoshka():
    p, x, context = made("matryoshka", prefixes=(4, 10, F))
    f = batch_codes(p, x)
    of_prefixes = [mse(x, f[:, :end] @ p["W_dec"][:end] + p["b_dec"]) for end in (4, 10, F)]
    wanted = {"mse": of_prefixes[2] / 3, "prefixes": (of_prefixes[0] + of_prefixes[1]) / 3}
    assert_same(objective_of("matryoshka").step(p, x, context), wanted, p)


class Jump(torch.autograd.Function):
    """The papers' pseudo-derivatives, of matrices."""

    @staticmethod
    def forward(ctx, p, threshold, width):
        ctx.save_for_backward(p, threshold)
        ctx.width = width
        return p * (p > threshold), (p > threshold).double()

    @staticmethod
    def backward(ctx, of_f, of_h):
        p, threshold = ctx.saved_tensors
        kernel = ((p - threshold) / ctx.width).abs() < 0.5
        of_threshold = kernel * (-(threshold / ctx.width) * of_f - of_h / ctx.width)
        return (p > threshold) * of_f, of_threshold.sum(dim=0), None


@pytest.mark.parametrize("target", [None, 5.0])
@pytest.mark.parametrize("bandwidth", [0.1, 2.0])
def test_jumprelu(target, bandwidth):
    choices = {"target_l0": target} if target else {"sparsity": SPARSITY}
    p, x, context = made("jumprelu", bandwidth=bandwidth, **choices)
    f, fires = Jump.apply(pre_of(p, x), p["threshold"], bandwidth)
    l0 = fires.sum() / N
    penalty = (l0 / target - 1).square() if target else l0
    wanted = {"mse": mse(x, f @ p["W_dec"] + p["b_dec"]), "l0_penalty": SPARSITY * penalty}
    step = objective_of("jumprelu").step(p, x, context)
    assert_same(step, wanted, p)
    assert step.fires.tolist() == (f > 0).sum(dim=0).tolist()


@pytest.mark.parametrize("k", [1, 3, 24])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_the_largest_of_a_batch_are_those_that_sorting_finds(k, shift):
    pre = torch.randn(30, F, generator=torch.Generator().manual_seed(k)) + shift
    flat = pre.flatten()
    order = flat.argsort(descending=True)[: k * 30]
    wanted = order[flat[order] > 0].sort().values
    assert batchtopk.largest_of_batch(pre, k).tolist() == wanted.tolist()


def test_the_largest_of_a_batch_may_all_lie_in_few_rows():
    pre = torch.full((640, F), -1.0)
    pre[3] = torch.arange(1.0, F + 1)
    assert batchtopk.largest_of_batch(pre, 2).tolist() == list(range(3 * F, 4 * F))


@pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
def test_what_is_finished_computes_what_was_trained(architecture):
    from sae_features import SparseAutoencoder

    p, x, context = made(architecture)
    step = objective_of(architecture).step(p, x, context)
    plain = {name: tensor.detach() for name, tensor in p.items()}
    parts = objective_of(architecture).finished(plain, 4.0, step.least * (1 - 1e-9))
    if architecture == "topk":
        parts["k"] = K
    sae = SparseAutoencoder(**parts)
    torch.testing.assert_close(x / 4 - sae.reconstruct(x / 4), step.error / 4)


@pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
def test_bfloat16_decides_what_fires_and_nothing_else(architecture):
    p, x, context = made(architecture)
    p = {name: tensor.detach().float().requires_grad_() for name, tensor in p.items()}
    exact = objective_of(architecture).step(p, x.float(), context)
    settings = replace(context.settings, dtype="bfloat16")
    rough = objective_of(architecture).step(p, x.float(), replace(context, settings=settings))
    assert exact.losses.keys() == rough.losses.keys()
    for name, loss in exact.losses.items():
        assert rough.losses[name].dtype == torch.float32
        assert float(rough.losses[name].detach()) == pytest.approx(float(loss.detach()), rel=0.02)


@pytest.mark.parametrize(
    ("architecture", "choices", "encoder", "decoder"),
    [
        ("relu", {}, 0.1, 1.0),
        ("relu", {"unit_norm": False}, 0.1, 0.1),
        ("gated", {}, 0.1, 1.0),
        ("gated", {"unit_norm": False}, 0.1, 1.0),
        ("topk", {}, 0.1, 1.0),
        ("batchtopk", {}, 0.1, 1.0),
        ("matryoshka", {}, 0.1, 1.0),
        ("jumprelu", {}, 1.0, 1.0),
    ],
)
def test_first_directions_are_shared_and_encoder_rows_are_small(architecture, choices, encoder, decoder):
    settings = TrainingSettings(architecture=architecture, n_latents=F, k=K, **choices)
    first = objective_of(architecture).initial(D, settings, torch.Generator().manual_seed(0))
    norms = {name: first[name].norm(dim=1) for name in ("W_enc", "W_dec")}
    torch.testing.assert_close(norms["W_enc"], torch.full((F,), encoder))
    torch.testing.assert_close(norms["W_dec"], torch.full((F,), decoder))
    torch.testing.assert_close(first["W_enc"] / encoder, first["W_dec"] / decoder)
