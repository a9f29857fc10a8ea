"""The whole flow on real weights: MiniLM and the SAEs that its plugin ships."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from transformers import AutoModel, AutoTokenizer

from sae_features import ActivationFeaturizer, SAEFeaturizer, load_backbone, load_sae
from sae_features.datasets import load_movie_snippets
from sae_features.errors import SAEFeaturesWarning
from sae_features.models import find_model
from sae_features.packaged_assets import fetch

REPOSITORY = Path(__file__).parents[2]
LAYERS = (2, 3, 5)
TOLERANCE = 1e-5
MAX_FLIPPED_SHARE = 0.15
"""Share of texts in which one latent may flip at its threshold (6–12 % were seen with random SAEs)."""


@pytest.fixture(scope="module")
def texts():
    """Real texts of very different lengths."""
    snippets = load_movie_snippets().data[:24]
    return [*snippets, "Yes.", " ".join(snippets[:9]), snippets[0].split()[0]]


@pytest.fixture(scope="module")
def reference():
    """The original library's model and tokenizer, from the fetched folder."""
    folder = fetch("minilm")
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def hidden_states(reference, text):
    model, tokenizer = reference
    with torch.no_grad():
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=256)
        return model(**inputs, output_hidden_states=True).hidden_states


def assert_equal_but_for_flips(ours, theirs):
    """Rows agree to 1e-5 of their largest value; where they do not, one latent flipped."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    scale = np.maximum(np.abs(theirs).max(axis=1, keepdims=True), 1e-12)
    off = np.abs(ours - theirs) > TOLERANCE * scale
    flipped = off.any(axis=1)
    assert off.sum(axis=1).max(initial=0) <= 2, "more than a latent in and a latent out"
    return int(flipped.sum())


def assert_few(flips, n_texts):
    assert flips <= MAX_FLIPPED_SHARE * n_texts, f"{flips} flips in {n_texts} texts"


def test_the_weights_of_the_alias_are_those_of_the_fetched_folder():
    assert find_model("minilm").weights_digest == find_model(fetch("minilm")).weights_digest


@pytest.mark.parametrize("layer", range(6))
def test_every_layer_equals_hidden_states_plus_one(reference, texts, layer):
    activations = load_backbone("minilm").activations(texts, layer=layer, max_length=256)
    for i, text in enumerate(texts):
        expected = hidden_states(reference, text)[layer + 1][0, 1:-1].numpy()
        assert activations[i].shape == expected.shape
        error = np.abs(activations[i] - expected).max() / np.abs(expected).max()
        assert error <= TOLERANCE


@pytest.mark.parametrize("layer", LAYERS)
def test_features_equal_the_formula_on_the_original_hidden_states(reference, texts, layer):
    sae = load_sae(f"minilm-topk-4k/layer_{layer}")
    expected = []
    for text in texts:
        x = hidden_states(reference, text)[layer + 1][0, 1:-1]
        pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        kept = pre >= pre.topk(sae.k, dim=1).values[:, -1:]
        expected.append(torch.where(kept, pre.relu(), 0).amax(dim=0).numpy())
    found = SAEFeaturizer(layer=layer, sparse_output=False).transform(texts)
    assert_few(assert_equal_but_for_flips(found, np.stack(expected)), len(texts))


@pytest.mark.parametrize("layer", LAYERS)
def test_the_saes_are_whole_and_belong_to_the_model(layer):
    sae = load_sae(f"minilm-topk-4k/layer_{layer}")
    assert (sae.d_in, sae.n_latents, sae.architecture) == (384, 4096, "topk")
    assert sae.hook_point == (layer, "resid_post")
    assert sae.metadata["model"]["digest"] == find_model("minilm").weights_digest
    assert len(sae.labels) > 0.99 * sae.n_latents
    norms = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms), atol=2e-3, rtol=0)


def test_the_sae_explains_held_out_movie_snippets():
    """The snippets are in no training corpus; the card's own held-out figure is 0.2 or so."""
    sae = load_sae("minilm-topk-4k/layer_3")
    x = load_backbone("minilm").activations(load_movie_snippets().data[:200], layer=3).values
    x = torch.from_numpy(x)
    error = (x - sae.reconstruct(x)).square().sum()
    assert error / (x - x.mean(dim=0)).square().sum() < 0.35


def test_latents_hidden_states_and_control_see_the_same_tokens(texts):
    long = [" ".join(texts * 2)]
    assert find_model("minilm").context == 256
    featurizers = [SAEFeaturizer(), ActivationFeaturizer(), SAEFeaturizer(sae="random:64:4")]
    for featurizer in featurizers:
        with pytest.warns(SAEFeaturesWarning, match="1 of 1 texts are longer than 256 tokens"):
            found = featurizer.transform(long)
        with pytest.warns(SAEFeaturesWarning):
            expected = clone(featurizer).set_params(max_length=256, cache=False).transform(long)
        assert abs(found - expected).max() == 0


@pytest.fixture(scope="module")
def alone(texts):
    featurizer = SAEFeaturizer(cache=False, sparse_output=False, pooling="sum")
    return np.concatenate([featurizer.transform([text]) for text in texts])


def test_features_do_not_depend_on_batch_order_or_company(texts, alone):
    flips = seen = 0

    @settings(max_examples=12, deadline=None, database=None)
    @given(data=st.data())
    def draw(data):
        nonlocal flips, seen
        order = data.draw(st.permutations(range(len(texts))))
        chosen = order[: data.draw(st.integers(1, len(texts)))]
        batch_size = data.draw(st.sampled_from([None, 1, 3, 8, 64]))
        featurizer = SAEFeaturizer(
            cache=False, sparse_output=False, pooling="sum", batch_size=batch_size
        )
        together = featurizer.transform([texts[i] for i in chosen])
        flips += assert_equal_but_for_flips(together, alone[chosen])
        seen += len(chosen)

    draw()
    assert_few(flips, seen)


def test_hidden_states_do_not_depend_on_company(texts):
    featurizer = ActivationFeaturizer(cache=False, pooling="mean")
    together = featurizer.transform(texts)
    for i, text in enumerate(texts):
        single = featurizer.transform([text])[0]
        assert np.abs(together[i] - single).max() <= TOLERANCE * np.abs(single).max()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of loky's, at fork
def test_grid_search_gives_the_same_scores_with_one_and_two_processes():
    data = load_movie_snippets()
    X, y = data.data[:90], data.target[:90]
    pipeline = make_pipeline(SAEFeaturizer(), MaxAbsScaler(), LogisticRegression(max_iter=500))
    grid = {
        "saefeaturizer__pooling": ["max", "mean", "count"],
        "saefeaturizer__threshold": [None, 0.5],
        "logisticregression__C": [0.1, 1.0],
    }
    results = [
        GridSearchCV(pipeline, grid, cv=3, scoring="f1_macro", n_jobs=n_jobs).fit(X, y).cv_results_
        for n_jobs in (1, 2)
    ]
    np.testing.assert_allclose(
        results[0]["mean_test_score"], results[1]["mean_test_score"], rtol=0, atol=1e-12
    )
    assert len(set(results[0]["mean_test_score"])) > 1


def test_clone_pickle_and_skops_give_the_same_features(texts, tmp_path):
    featurizer = SAEFeaturizer(layer=5, pooling="mean").fit(texts)
    expected = featurizer.transform(texts).toarray()
    stored = pickle.dumps(featurizer)
    assert len(stored) < 5_000, "weights do not belong into a pickle"
    skops.io.dump(featurizer, tmp_path / "featurizer.skops")
    trusted = skops.io.get_untrusted_types(file=tmp_path / "featurizer.skops")
    assert trusted == ["sae_features.featurizer.SAEFeaturizer"]
    copies = [
        clone(featurizer),
        pickle.loads(stored),
        skops.io.load(tmp_path / "featurizer.skops", trusted=trusted),
    ]
    for copy in copies:
        np.testing.assert_array_equal(copy.transform(texts).toarray(), expected)


def test_an_installed_wheel_runs_outside_the_repository(tmp_path):
    """The wheels hold all that the default needs: code, SAEs, data set, entry points."""
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    plugin = REPOSITORY / "plugins" / "sae-features-bert"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", wheels, REPOSITORY, plugin], check=True)
    subprocess.run([*pip, "install", "--no-deps", "--target", site, *wheels.iterdir()], check=True)
    program = (
        "import json, sae_features\n"
        "from sae_features import SAEFeaturizer, list_families\n"
        "from sae_features.datasets import load_movie_snippets\n"
        "rows = SAEFeaturizer(feature_names='label').fit_transform(load_movie_snippets().data[:2])\n"
        "import sae_features_bert\n"
        "files = [sae_features.__file__, sae_features_bert.__file__]\n"
        "print(json.dumps([files, list(list_families()), rows.shape, rows.nnz]))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files, families, shape, nnz = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(site) for file in files)
    assert "bert" in families  # other plugins may be installed beside this interpreter
    assert shape == [2, 4096]
    assert nnz > 64
