"""`LatentAligner`: what scikit-learn asks of it, what it measures, and rows read by an SAE."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny import varied_sae

from sae_features.errors import (
    DigestMismatchError,
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
)
from sae_features.evaluation.alignment import METHODS, LatentAligner
from sae_features.evaluation.maps.few_latents import fit_few_latents
from sae_features.evaluation.maps.matching import match_latents
from sae_features.evaluation.maps.ridge import fit_ridge
from sae_features.ragged import TokenActivations

every_method = pytest.mark.parametrize("method", METHODS)


def models(n=300, seed=0):
    """Rows of two models: what each has are noisy copies of the same six causes, and some of its own."""
    rng = np.random.default_rng(seed)
    causes = rng.exponential(size=(n, 6)) * (rng.random((n, 6)) < 0.4)
    of_b = np.hstack([causes[:, [3, 0, 5, 1, 2, 4]] * 2, rng.exponential(size=(n, 4))])
    of_a = np.hstack([causes * 0.5, rng.exponential(size=(n, 2)), np.zeros((n, 1))])
    noisy = (rows * rng.uniform(0.7, 1.3, rows.shape) for rows in (of_b, of_a))
    return tuple(rows.astype(np.float32) for rows in noisy)


def dense(rows):
    return rows.toarray() if sparse.issparse(rows) else rows


@parametrize_with_checks(
    [
        LatentAligner(),
        LatentAligner(one_to_one=True, holdout=0),
        LatentAligner("least_squares"),
        LatentAligner("sparse", n_nonzero=2),
        LatentAligner("sparse", positive=True),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


class TestWhatIsLearnt:
    def test_each_method_is_its_map_on_all_items(self):
        X, Y = models()
        expected = {
            "correlation": match_latents(X, Y, least=0.3, one_to_one=True),
            "least_squares": fit_ridge(X, Y),
            "sparse": fit_few_latents(X, Y, n_nonzero=3, least=0.3, positive=True),
        }
        given = {"min_correlation": 0.3, "one_to_one": True, "n_nonzero": 3, "positive": True}
        for method, learned in expected.items():
            aligner = LatentAligner(method, **given).fit(X, Y)
            np.testing.assert_allclose(dense(aligner.transform(X)), dense(learned.apply(X)), rtol=1e-6)
            np.testing.assert_array_equal(aligner.matched_, learned.matched)
            np.testing.assert_array_equal(aligner.alpha_, getattr(learned, "alpha", None))

    @every_method
    def test_sparse_and_dense_rows_give_the_same(self, method):
        X, Y = models()
        expected = LatentAligner(method).fit(X, Y)
        for container in (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
            found = LatentAligner(method).fit(container(X), container(Y))
            np.testing.assert_allclose(found.correlations_, expected.correlations_, atol=1e-9)
            aligned = dense(found.transform(container(X)))
            np.testing.assert_allclose(aligned, dense(expected.transform(X)), atol=1e-6)

    @every_method
    def test_what_is_aligned_is_what_is_true(self, method):
        X, Y = models(600)
        aligner = LatentAligner(method).fit(X[:400], Y[:400])
        aligned = dense(aligner.transform(X[400:]))
        for latent in range(6):
            assert np.corrcoef(aligned[:, latent], Y[400:, latent])[0, 1] > 0.9

    def test_a_given_strength_is_used(self):
        X, Y = models()
        assert LatentAligner("least_squares", alpha=3.0).fit(X, Y).alpha_ == 3.0
        assert set(LatentAligner("sparse", alpha=3.0).fit(X, Y).alpha_[:6]) == {3.0}
        assert LatentAligner(alpha=3.0).fit(X, Y).alpha_ is None

    @every_method
    def test_shuffled_pairs_teach_nothing(self, method):
        X, Y = models(600)
        scores, held_out = [], []
        for seed in range(20):  # one shuffle may relate them either way by chance
            shuffled = np.random.default_rng(seed).permutation(400)
            aligner = LatentAligner(method).fit(X[shuffled], Y[:400])
            scores.append(aligner.score(X[400:], Y[400:]))
            held_out.append(np.nanmean(aligner.correlations_))
        for values in (scores, held_out):
            assert abs(np.mean(values)) < max(4 * np.std(values, ddof=1) / 20**0.5, 0.01)
            assert np.std(values) < 0.15
        assert LatentAligner(method).fit(X[:400], Y[:400]).score(X[400:], Y[400:]) > 0.65


class TestDiagnostics:
    @every_method
    def test_correlations_are_those_of_items_held_out(self, method):
        X, Y = models()
        aligner = LatentAligner(method, holdout=0.3, random_state=4).fit(X, Y)
        order = np.random.RandomState(4).permutation(300)
        held, others = order[:90], order[90:]
        aligned = dense(LatentAligner(method).fit(X[others], Y[others]).transform(X[held]))
        for latent in range(8):
            found = aligned[:, latent]
            expected = np.corrcoef(found, Y[held, latent])[0, 1] if found.std() else 0.0
            assert aligner.correlations_[latent] == pytest.approx(expected, abs=1e-5)
        assert np.isnan(aligner.correlations_[8])  # silent in A

    def test_what_is_matched(self):
        X, Y = models()
        aligner = LatentAligner().fit(X, Y)
        assert aligner.matched_.tolist() == [True] * 6 + [False] * 3
        assert aligner.share_matched_ == 6 / 8  # the ninth never fires
        assert LatentAligner("least_squares").fit(X, Y).share_matched_ == 1.0

    @every_method
    def test_the_score_is_the_mean_over_what_varies(self, method):
        X, Y = models()
        aligner = LatentAligner(method, holdout=0).fit(X[:200], Y[:200])
        assert np.isnan(aligner.correlations_).all()
        aligned = dense(aligner.transform(X[200:]))
        pairs = zip(aligned.T[:8], Y[200:].T[:8], strict=True)
        expected = [np.corrcoef(a, b)[0, 1] if a.std() else 0.0 for a, b in pairs]
        assert aligner.score(X[200:], Y[200:]) == pytest.approx(np.mean(expected), abs=1e-6)
        assert np.isnan(aligner.score(X[200:], np.ones_like(Y[200:])))

    def test_too_few_items_are_not_held_out(self):
        X, Y = models(5)
        assert np.isnan(LatentAligner().fit(X, Y).correlations_).all()
        assert np.isfinite(LatentAligner(holdout=0.4).fit(X, Y).correlations_).any()


class TestScikitLearn:
    @every_method
    def test_rows_are_float32(self, method):
        X, Y = models()
        aligned = LatentAligner(method).fit(X, Y).transform(X.astype(np.float64))
        assert aligned.dtype == np.float32
        if method == "least_squares":
            assert isinstance(aligned, np.ndarray)
            return
        assert (aligned.format, aligned.indices.dtype, aligned.nnz) == ("csr", np.int32, aligned.nnz)
        assert aligned.has_canonical_format
        assert np.count_nonzero(aligned.data) == aligned.nnz

    @pytest.mark.skipif(
        "sparse_interface" not in sklearn.get_config(), reason="needs a newer scikit-learn"
    )
    def test_the_container_is_what_scikit_learn_is_set_to(self):
        X, Y = models()
        aligner = LatentAligner().fit(X, Y)
        for interface, kind in (("spmatrix", sparse.csr_matrix), ("sparray", sparse.csr_array)):
            with sklearn.config_context(sparse_interface=interface):
                assert type(aligner.transform(X)) is kind

    @every_method
    def test_it_is_cloned_pickled_and_searched(self, method):
        X, Y = models()
        aligner = LatentAligner(method).fit(X, Y)
        assert clone(aligner).get_params() == aligner.get_params()
        again = pickle.loads(pickle.dumps(aligner))
        np.testing.assert_array_equal(dense(again.transform(X)), dense(aligner.transform(X)))
        grid = {"alpha": [1e-3, 1e3], "min_correlation": [0.2, 0.9]}
        search = GridSearchCV(LatentAligner(method, holdout=0), grid, cv=3).fit(X, Y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()
        if method != "correlation":
            assert search.best_params_["alpha"] == 1e-3

    def test_it_stands_in_a_pipeline(self):
        X, Y = models()
        pipeline = make_pipeline(MaxAbsScaler(), LatentAligner("sparse")).fit(X, Y)
        scaled = X / X.max(axis=0)
        expected = LatentAligner("sparse").fit(scaled, Y).transform(scaled)
        np.testing.assert_allclose(pipeline.transform(X).toarray(), expected.toarray(), rtol=1e-5)

    def test_one_column_may_be_one_dimensional(self):
        X, Y = models()
        aligner = LatentAligner("least_squares").fit(X, Y[:, 0])
        assert aligner.transform(X).shape == (300, 1)

    def test_names(self):
        pd = pytest.importorskip("pandas")
        X, Y = models()
        aligner = LatentAligner("least_squares").fit(X, Y)
        assert aligner.get_feature_names_out().tolist() == [f"latent_{i}" for i in range(9)]
        named = pd.DataFrame(Y, columns=[f"of_a_{i}" for i in range(9)])
        of_b = pd.DataFrame(X, columns=[f"of_b_{i}" for i in range(10)])
        aligner.set_output(transform="pandas").fit(of_b, named)
        assert aligner.transform(of_b).columns.tolist() == list(named.columns)
        with pytest.raises(InvalidInputError, match="input_features is not equal"):
            aligner.get_feature_names_out(["else"])
        assert aligner.fit(X, Y).get_feature_names_out()[0] == "latent_0"

    def test_it_must_be_fitted(self):
        X, Y = models()
        for call in ("transform", "encode"):
            with pytest.raises(NotFittedError):
                getattr(LatentAligner(), call)(X)
        with pytest.raises(NotFittedError):
            LatentAligner().score(X, Y)


class TestThroughAnSAE:
    D_B, D_A = 7, 6

    @pytest.fixture
    def sae(self):
        return varied_sae("topk", d_in=self.D_A, n_latents=20, dtype=torch.float32)

    @pytest.fixture
    def folder(self, sae, tmp_path):
        return sae.save(tmp_path / "sae")

    def activations(self, n=200, seed=0):
        rng = np.random.default_rng(seed)
        of_a = rng.normal(size=(n, self.D_A))
        of_b = of_a @ rng.normal(size=(self.D_A, self.D_B)) + 0.01 * rng.normal(size=(n, self.D_B))
        return of_b.astype(np.float32), of_a.astype(np.float32)

    def by_hand(self, sae, activations):
        return sae.encode(torch.from_numpy(activations.astype(np.float32))).numpy()

    def test_rows_are_mapped_and_then_encoded(self, sae, folder):
        X, Y = self.activations()
        aligner = LatentAligner("least_squares", sae=folder).fit(X, Y)
        aligned = aligner.transform(X)
        assert (aligned.format, aligned.shape, aligner.n_features_out_) == ("csr", (200, 20), 20)
        expected = self.by_hand(sae, fit_ridge(X, Y).apply(X))
        np.testing.assert_allclose(aligned.toarray(), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(aligner.encode(Y).toarray(), self.by_hand(sae, Y), rtol=1e-6)
        assert np.nanmean(aligner.correlations_) > 0.9
        assert aligner.share_matched_ == 1.0
        assert aligner.get_feature_names_out()[19] == "latent_19"
        assert aligner.score(X, Y) > 0.9

    def test_tokens_are_mapped_encoded_and_pooled(self, sae, folder):
        X, Y = self.activations()
        offsets = np.concatenate([[0], np.sort(np.random.default_rng(1).integers(0, 200, 39)), [200]])
        of_b, of_a = (TokenActivations(rows, offsets.astype(np.int64)) for rows in (X, Y))
        for pooling, pool in (("max", np.max), ("mean", np.mean), ("sum", np.sum)):
            aligner = LatentAligner("least_squares", sae=folder, pooling=pooling).fit(of_b, of_a)
            codes = self.by_hand(sae, fit_ridge(X, Y).apply(X))
            pieces = np.split(codes, offsets[1:-1])
            expected = [pool(piece, axis=0) if len(piece) else np.zeros(20) for piece in pieces]
            aligned = aligner.transform(of_b)
            np.testing.assert_allclose(aligned.toarray(), expected, rtol=1e-4, atol=1e-5)
        order = np.random.RandomState(0).permutation(40)
        tokens = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in np.sort(order[8:])])
        codes = self.by_hand(sae, fit_ridge(X[tokens], Y[tokens]).apply(X)), self.by_hand(sae, Y)
        held = [[np.sum(part[offsets[i] : offsets[i + 1]], axis=0) for i in order[:8]] for part in codes]
        for latent, (found, true) in enumerate(zip(*(np.transpose(part) for part in held), strict=True)):
            if true.std() and found.std():
                expected = np.corrcoef(found, true)[0, 1]
                assert aligner.correlations_[latent] == pytest.approx(expected, abs=1e-4)

    def test_the_random_control_fits_any_size(self):
        X, Y = self.activations()
        aligner = LatentAligner("least_squares", sae="random:30:4").fit(X, Y)
        assert aligner.transform(X).nnz <= 4 * 200
        assert aligner.n_features_out_ == 30

    def test_another_sae_is_refused(self, folder):
        X, Y = self.activations()
        aligner = LatentAligner("least_squares", sae=folder).fit(X, Y)
        again = pickle.loads(pickle.dumps(aligner))
        np.testing.assert_array_equal(again.transform(X).toarray(), aligner.transform(X).toarray())
        for other in ("random:20:3", None):
            aligner.set_params(sae=other)
            message = (
                f"^This aligner was fitted with sae_digest_='{aligner.sae_digest_}', but sae={other!r}"
            )
            with pytest.raises(DigestMismatchError, match=message):
                aligner.transform(X)
        aligner.set_params(sae="random:20:3")
        assert aligner.fit(X, Y).transform(X).shape == (200, 20)

    def test_an_sae_that_does_not_fit_is_named(self, folder):
        X, Y = self.activations()
        message = f"Got sae={str(folder)!r}, which takes activations of size 6, and rows of A of size 7"
        with pytest.raises(InvalidParameterError, match="^" + re.escape(message)):
            LatentAligner("least_squares", sae=folder).fit(Y, X)
        with pytest.raises(
            InvalidParameterError, match="with method='sparse'; an SAE reads activations"
        ):
            LatentAligner("sparse", sae=folder).fit(X, Y)
        aligner = LatentAligner("least_squares", sae=folder).fit(X, Y)
        with pytest.raises(InvalidInputError, match=r"^Got Y with 7 columns; expected 6, as in fit\.$"):
            aligner.encode(X)
        with pytest.raises(InvalidParameterError, match=r"^Got sae=None; expected an SAE"):
            LatentAligner().fit(X, Y).encode(Y)

    def test_tokens_must_agree(self, folder):
        X, Y = self.activations(5)
        tokens = TokenActivations(X, np.array([0, 2, 5]))
        aligner = LatentAligner("least_squares", sae=folder)
        with pytest.raises(InvalidInputError, match="^Got 2 tokens in X and 3 in Y for item 0; tokens"):
            aligner.fit(tokens, TokenActivations(Y, np.array([0, 3, 5])))
        with pytest.raises(InvalidInputError, match="^Got tokens of 2 items as X and of 1 as Y"):
            aligner.fit(tokens, TokenActivations(Y, np.array([0, 5])))
        with pytest.raises(InputTypeError, match="^Got X and Y as TokenActivations and ndarray"):
            aligner.fit(tokens, Y)
        with pytest.raises(InvalidParameterError, match="^Got token activations and sae=None"):
            LatentAligner().fit(tokens, tokens)
        with pytest.raises(InvalidParameterError, match="^Got token activations and sae=None"):
            LatentAligner().fit(X, Y).transform(tokens)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"method": "cca"}, "Got method='cca'; expected one of correlation, least_squares, sparse."),
        ({"min_correlation": 0}, "Got min_correlation=0; expected a number above 0 and at most 1."),
        ({"min_correlation": 1.5}, "Got min_correlation=1.5; expected a number above 0 and at most 1."),
        ({"n_nonzero": 0}, "Got n_nonzero=0; expected"),
        ({"n_nonzero": None}, "Got n_nonzero=None; expected an integer above 0."),
        ({"alpha": 0.0}, "Got alpha=0.0; expected a number above 0, or None."),
        ({"alpha": "1"}, "Got alpha='1'; expected a number above 0, or None."),
        ({"holdout": -0.1}, "Got holdout=-0.1; expected a number from 0 to 0.9."),
        ({"holdout": True}, "Got holdout=True; expected a number from 0 to 0.9."),
        ({"pooling": "men"}, "Got pooling='men'; expected one of max, mean"),
        ({"device": 1}, "Got device=1; expected None or a string"),
    ],
)
def test_bad_parameters_are_named_in_fit(params, message):
    with pytest.raises(InvalidParameterError, match="^" + re.escape(message)):
        LatentAligner(**params).fit(*models(10))


def test_rows_must_be_of_the_same_items():
    X, Y = models(10)
    with pytest.raises(
        InvalidInputError, match="^Got 10 rows as X and 9 as Y; expected rows of the same"
    ):
        LatentAligner().fit(X, Y[:9])
    with pytest.raises(InvalidInputError, match="^Got Y=None; LatentAligner requires y"):
        LatentAligner().fit(X, None)
    with pytest.raises(ValueError, match="contains NaN"):
        LatentAligner().fit(X, np.where(Y > 1, np.nan, Y))
