from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sae_features import SAEFeaturesError
from sae_features.training.settings import TRAINED_ARCHITECTURES, TrainingSettings, settings_of


@pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)
def test_settings_pass_through_json(architecture):
    settings = TrainingSettings(architecture=architecture, n_latents=64, prefixes=(8, 64))
    assert settings_of(json.loads(json.dumps(settings.asdict()))) == settings


def test_defaults_of_what_depends_on_the_architecture():
    assert TrainingSettings(architecture="relu", k=20).goal == 20
    assert TrainingSettings(architecture="relu", target_l0=7.5).goal == 7.5
    assert TrainingSettings(architecture="relu", sparsity=0.1).goal is None
    assert TrainingSettings(architecture="topk").goal is None
    assert TrainingSettings().rate(10) == TrainingSettings().rate(1000) == 6e-3
    assert TrainingSettings().rate(4000) == pytest.approx(3e-3)
    assert TrainingSettings().rate(10**9) == 3e-4
    assert TrainingSettings(learning_rate=0.1).rate(10**9) == 0.1
    assert TrainingSettings(architecture="matryoshka", n_latents=800).ends == (100, 200, 400, 800)
    assert TrainingSettings(architecture="matryoshka", n_latents=800, prefixes=(3, 800)).ends == (3, 800)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"architecture": "tokp"}, "Got architecture='tokp'; expected one of relu, gated, topk"),
        ({"k": 0}, "Got k=0; expected an integer above 0."),
        ({"n_latents": 2.5}, "Got n_latents=2.5; expected an integer above 0."),
        ({"k": 100, "n_latents": 64}, "Got k=100 with n_latents=64; expected k at most n_latents."),
        (
            {"architecture": "relu", "target_l0": 3, "sparsity": 0.1},
            "Got both target_l0 and sparsity; expected one of them.",
        ),
        (
            {"target_l0": 3},
            "Got target_l0=3 with architecture='topk', which keeps k latents; give k, or one of the "
            "architectures relu, gated, jumprelu.",
        ),
        (
            {"architecture": "relu", "target_l0": 5000},
            "Got target_l0=5000; expected more than 0 and less than 4096.",
        ),
        ({"learning_rate": 0}, "Got learning_rate=0; expected a number above 0."),
        ({"learning_rate": float("nan")}, "Got learning_rate=nan; expected a number above 0."),
        ({"aux_k": -1}, "Got aux_k=-1; expected an integer, 0 or more."),
        ({"seed": 1.5}, "Got seed=1.5; expected an integer, 0 or more."),
        ({"aux_weight": float("nan")}, "Got aux_weight=nan; expected 0 or more."),
        ({"warmup": 2}, "Got warmup=2; expected a share of 0 to 1."),
        ({"beta1": 1.0}, "Got beta1=1.0; expected 0 or more and less than 1."),
        (
            {"architecture": "matryoshka", "prefixes": (8, 4, 4096)},
            "Got prefixes=(8, 4, 4096); expected ascending widths that end with 4096 (n_latents).",
        ),
        (
            {"architecture": "matryoshka", "prefixes": (8, 16)},
            "Got prefixes=(8, 16); expected ascending widths that end with 4096 (n_latents).",
        ),
        ({"center": "median"}, "Got center='median'; expected one of mean, geometric_median, none"),
        ({"dtype": "float16"}, "Got dtype='float16'; expected one of float32, bfloat16"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(SAEFeaturesError, match=f"^{re.escape(message)}"):
        TrainingSettings(**wrong)


def test_numbers_of_numpy_are_plain():
    settings = TrainingSettings(
        n_latents=np.int64(64), k=np.int32(4), architecture="matryoshka", prefixes=np.array([8, 64])
    )
    assert settings_of(json.loads(json.dumps(settings.asdict()))) == settings
    assert settings.prefixes == (8, 64)


def test_k_has_no_say_where_the_penalty_is_given():
    assert TrainingSettings(architecture="relu", n_latents=16, target_l0=3).goal == 3
    assert TrainingSettings(architecture="relu", n_latents=16, sparsity=0.1).goal is None


def test_a_setting_that_is_not_known_is_refused():
    with pytest.raises(SAEFeaturesError, match=r"^Got setting='lr'; expected one of architecture"):
        settings_of({"lr": 1})
