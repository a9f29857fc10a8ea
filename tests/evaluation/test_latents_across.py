from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.latents_across import language_bound, latent_overlap, top_latents


def latents(n=60, width=15, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.random((n, width)) * (rng.random((n, width)) < 0.4)
    rows[:, 4], rows[:, 7] = 0, 10.1  # one that is silent, one that is the same everywhere
    return rows.astype(np.float32)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("scaler", [MaxAbsScaler(), StandardScaler(with_mean=False)])
def test_top_latents_are_those_whose_contributions_vary_most(n_classes, scaler):
    X, y = latents(), np.arange(60) % n_classes
    pipeline = make_pipeline(scaler, LogisticRegression(C=10, max_iter=5000)).fit(sp.csr_matrix(X), y)
    scaled = pipeline[0].transform(X.astype(np.float64))
    spread = np.zeros(15)
    for coefficients in pipeline[1].coef_:
        for latent, coefficient in enumerate(coefficients):
            spread[latent] = max(spread[latent], (scaled[:, latent] * coefficient).std())
    spread[[4, 7]] = 0
    expected = sorted(np.flatnonzero(spread), key=lambda latent: -spread[latent])
    for rows in (sp.csr_matrix(X), X):
        assert top_latents(pipeline, rows, 50) == expected
        assert top_latents(pipeline, rows, 3) == expected[:3]


def test_a_tree_has_no_coefficients():
    X = latents()
    pipeline = make_pipeline(MaxAbsScaler(), DecisionTreeClassifier()).fit(X, np.arange(60) % 2)
    assert top_latents(pipeline, X, 5) == []


def row_of(language, top, fold=0, **values):
    row = {"setting": "in_language", "control": "none", "method": "sae", "classifier": "logistic"}
    row |= {"width": 100, "seed": 0, "fold": fold, "train_on": language}
    return row | {"chosen": {"C": 1.0, "top_latents": top}} | values


def test_overlap_is_a_mean_over_folds():
    rows = [
        row_of("en", [1, 2, 3, 4]), row_of("de", [3, 2, 9, 8]), row_of("it", [7]),
        row_of("en", [5, 6, 7], 1), row_of("de", [5, 6, 7], 1), row_of("it", [8, 9, 7], 1),
        row_of("en", [3, 2, 9], setting="few_shot_4"), row_of("de", [0], control="permuted"),
        row_of("en", [1], method="states", chosen={"C": 1.0}),
    ]  # fmt: skip
    found = {(each.train_on, each.other): each for each in latent_overlap(rows, k=3)}
    assert list(found) == [("en", "de"), ("en", "it"), ("de", "it")]
    # of the first three: {1, 2, 3} and {3, 2, 9} share 2 of 4, {5, 6, 7} are all shared
    assert found["en", "de"].jaccard == pytest.approx((2 / 4 + 1) / 2)
    assert found["en", "it"].jaccard == pytest.approx((0 + 1 / 5) / 2)
    assert found["de", "it"].jaccard == pytest.approx((0 + 1 / 5) / 2)
    assert found["en", "de"].by_chance == pytest.approx(0.09 / (6 - 0.09))
    one_of_it = 0.03 / (4 - 0.03)
    assert found["en", "it"].by_chance == pytest.approx((one_of_it + 0.09 / (6 - 0.09)) / 2)
    assert {(each.method, each.k) for each in found.values()} == {("sae", 3)}


def test_overlap_by_chance_is_that_of_random_sets():
    rng = np.random.default_rng(0)
    rows = []
    for fold in range(2000):
        rows += [row_of(name, rng.permutation(40)[:8].tolist(), fold, width=40) for name in ("en", "de")]
    (found,) = latent_overlap(rows, k=8)
    assert found.jaccard == pytest.approx(found.by_chance, abs=0.01)


def test_classifiers_are_not_mixed_up():
    rows = [
        row_of("en", [1, 2]), row_of("de", [1, 2]),
        row_of("en", [3, 4], classifier="ridge"), row_of("de", [5, 6], classifier="ridge"),
    ]  # fmt: skip
    (found,) = latent_overlap(rows, k=2)
    assert found.jaccard == pytest.approx(0.5)


def test_results_without_latents():
    with pytest.raises(
        InvalidInputError, match="Got no rows with latents; expected results of a cross-"
    ):
        latent_overlap([row_of("en", [], chosen=None)])


def test_matrices_hold_what_overlap_needs(matrix):
    found = latent_overlap(matrix.results.rows, k=5)
    assert {(each.train_on, each.other) for each in found} == {("en", "de"), ("en", "it"), ("de", "it")}
    assert {each.method for each in found} == {
        "tiny-bert layer 1 topk max", "tiny-bert layer 1 topk max, centred per language",
    }  # fmt: skip
    assert all(0 <= each.jaccard <= 1 for each in found)


@pytest.mark.parametrize("min_items", [1, 5])
def test_bound_latents_fire_in_one_language(min_items):
    X = latents(width=30)
    languages = np.array(["en", "de", "it"])[np.arange(60) % 7 % 3]
    X[languages != "de", 0] = 0
    X[:, 1] = np.arange(60) == 3
    found = language_bound(sp.csr_matrix(X), languages.tolist(), min_items=min_items)
    names = ["de", "en", "it"]
    for latent in range(30):
        shares = [(X[languages == name, latent] > 0).mean() for name in names]
        np.testing.assert_allclose(found.shares[:, latent], shares)
        if (X[:, latent] > 0).sum() < min_items:
            assert np.isnan(found.bound[latent])
        else:
            expected = (max(shares) / sum(shares) - 1 / 3) / (2 / 3)
            assert found.bound[latent] == pytest.approx(expected)
            assert shares[found.language[latent]] == max(shares)
    assert (found.bound[0], found.language[0], found.bound[7]) == (1, 0, pytest.approx(0))
    assert np.isnan(found.bound[1]) == (min_items == 5)


def test_what_has_no_language():
    X = sp.csr_matrix(latents(3))
    with pytest.raises(InvalidParameterError, match="Got items of 1 language; expected at least two."):
        language_bound(X, ["en"] * 3)
    with pytest.raises(InvalidInputError, match="Got 2 languages for 3 rows; expected one each."):
        language_bound(X, ["en", "de"])
