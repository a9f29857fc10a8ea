"""`SparseAutoencoderTransformer`: what scikit-learn asks of it, what it learns, and what it refuses."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sae_features import SparseAutoencoderTransformer, load_sae
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.training.centering import center_of, scale_of
from sae_features.training.settings import PENALISED, TRAINED_ARCHITECTURES

all_architectures = pytest.mark.parametrize("architecture", TRAINED_ARCHITECTURES)


def quick(architecture="topk", **params):
    params = {"k": 3, "max_epochs": 5, "batch_size": 50, "random_state": 0} | params
    return SparseAutoencoderTransformer(params.pop("n_latents", 20), architecture=architecture, **params)


def sparse_rows(n=200, d=10, seed=0):
    """Rows of positive numbers, a third of which are not 0, far from the origin in one column."""
    rng = np.random.default_rng(seed)
    rows = rng.exponential(size=(n, d)) * (rng.random((n, d)) < 1 / 3)
    return (rows + 5.0 * (np.arange(d) == 0)).astype(np.float32)


def planted(n, seed=0, n_features=96, d=48, k=4):
    """Rows of k of 96 unit features with weights of 0.5 to 1.5, and the features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_features, d))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    weights = np.zeros((n, n_features))
    chosen = rng.random((n, n_features)).argsort(axis=1)[:, :k]
    np.put_along_axis(weights, chosen, rng.uniform(0.5, 1.5, (n, k)), axis=1)
    return (weights @ features).astype(np.float32), features


@parametrize_with_checks(
    [
        *(quick(name, n_latents=8, k=2, random_state=None) for name in TRAINED_ARCHITECTURES),
        quick(n_latents=8, k=2, sparse_output=False),
        SparseAutoencoderTransformer(max_epochs=3),
    ]
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


class TestWhatIsLearnt:
    @all_architectures
    def test_defaults_recover_a_planted_dictionary(self, architecture):
        X, features = planted(42_000)
        sparsity = {"target_l0": 4} if architecture in PENALISED else {"k": 4}
        params = {"architecture": architecture, "random_state": 0, **sparsity}
        fitted = SparseAutoencoderTransformer(96, **params).fit(X[:40_000])
        cosines = features @ fitted.components_.T
        assert cosines.max(axis=1).mean() > 0.93
        held_out = X[40_000:]
        assert fitted.transform(held_out).nnz / len(held_out) == pytest.approx(4, rel=0.15)
        assert fitted.score(held_out) > (0.6 if architecture == "relu" else 0.85)  # L1 shrinks

    @pytest.mark.parametrize("architecture", PENALISED)
    def test_target_l0_holds_on_rows_that_were_not_seen(self, architecture):
        X, _ = planted(9000, n_features=64, d=32)
        for target in (4.0, 8):
            params = {"target_l0": target, "random_state": 1, "max_epochs": 60}
            fitted = SparseAutoencoderTransformer(64, architecture=architecture, **params).fit(X[:8000])
            assert fitted.transform(X[8000:]).nnz / 1000 == pytest.approx(target, rel=0.15)

    @all_architectures
    def test_a_handful_of_rows_are_learnt(self, architecture):
        X = sparse_rows(20, 6)
        fitted = SparseAutoencoderTransformer(16, architecture=architecture, k=3, random_state=0).fit(X)
        assert fitted.score(X) > 0.8
        assert fitted.n_iter_ == 500

    def test_of_penalised_architectures_k_is_the_target_if_there_is_none(self):
        X, _ = planted(4000, n_features=64, d=32)
        params = {"architecture": "gated", "random_state": 0, "max_epochs": 60}
        named = SparseAutoencoderTransformer(64, k=5, **params).fit(X)
        steered = SparseAutoencoderTransformer(64, k=64, target_l0=5, **params).fit(X)
        np.testing.assert_array_equal(named.components_, steered.components_)

    @all_architectures
    def test_the_same_seed_gives_the_same_sae(self, architecture):
        X = sparse_rows()
        first = quick(architecture).fit(X)
        again = quick(architecture, random_state=np.random.RandomState(0)).fit(X)
        other = quick(architecture, random_state=1).fit(X)
        assert first.sae_.digest == again.sae_.digest != other.sae_.digest

    def test_columns_that_do_not_vary_are_given_back(self):
        X = sparse_rows()
        X[:, 3], X[:, 4] = 7.0, 0.0
        fitted = quick(max_epochs=200).fit(X)
        given_back = fitted.inverse_transform(fitted.transform(X))
        np.testing.assert_allclose(given_back[:, 3:5], X[:, 3:5], atol=0.2)

    def test_fewer_latents_than_columns_are_no_warning(self):
        fitted = quick(n_latents=4, max_epochs=200).fit(sparse_rows())
        assert fitted.score(sparse_rows()) > 0.3

    def test_training_stops_where_nothing_changes(self):
        X = sparse_rows()
        fitted = quick(max_epochs=1000, n_iter_no_change=3).fit(X)
        assert 3 < fitted.n_iter_ < 1000
        assert fitted.history_[-1]["step"] <= fitted.n_iter_ * 4

    def test_history_tells_how_it_went(self):
        history = quick(max_epochs=50).fit(sparse_rows()).history_
        assert {"step", "rows", "l0", "fvu", "dead", "sparsity", "mse"} <= history[0].keys()
        assert history[-1]["rows"] == 50 * 200
        assert history[-1]["fvu"] < history[0]["fvu"]


class TestWhatIsGiven:
    @all_architectures
    def test_codes_are_the_saes_latents(self, architecture):
        X = sparse_rows()
        fitted = quick(architecture).fit(X)
        codes = fitted.transform(X)
        assert (codes.format, codes.dtype, codes.indices.dtype) == ("csr", np.float32, np.int32)
        assert codes.has_canonical_format
        np.testing.assert_array_equal(codes.toarray(), fitted.sae_.encode(X).numpy())
        np.testing.assert_array_equal(
            fitted.set_params(sparse_output=False).transform(X), codes.toarray()
        )

    @all_architectures
    def test_inverse_transform_is_the_saes_reconstruction(self, architecture):
        X = sparse_rows()
        fitted = quick(architecture).fit(X)
        expected = fitted.sae_.reconstruct(X).numpy()
        codes = fitted.transform(X)
        for given in (codes, codes.toarray(), sparse.csc_array(codes), codes.astype(np.float64)):
            result = fitted.inverse_transform(given)
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)

    def test_no_latent_stands_for_the_centre(self):
        fitted = quick().fit(sparse_rows())
        expected = np.tile(fitted.sae_.b_dec.numpy(), (3, 1))
        np.testing.assert_array_equal(fitted.inverse_transform(sparse.csr_array((3, 20))), expected)

    def test_components_are_directions_of_norm_1(self):
        fitted = quick().fit(sparse_rows())
        assert fitted.components_.shape == (20, 10)
        np.testing.assert_allclose(np.linalg.norm(fitted.components_, axis=1), 1, rtol=1e-5)
        with pytest.raises(AttributeError):
            quick().components_  # noqa: B018

    def test_score_is_the_share_of_variance_that_is_explained(self):
        X = sparse_rows()
        fitted = quick(max_epochs=50).fit(X)
        error = X - fitted.inverse_transform(fitted.transform(X))
        expected = 1 - (error**2).sum() / ((X - X.mean(axis=0)) ** 2).sum()
        assert fitted.score(X) == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize("container", [sparse.csr_array, sparse.csr_matrix, sparse.csc_array])
    def test_sparse_rows_are_as_good_as_dense_ones(self, container):
        X = sparse_rows()
        dense, compressed = quick().fit(X), quick().fit(container(X))
        assert dense.sae_.digest == compressed.sae_.digest
        np.testing.assert_array_equal(
            dense.transform(X).toarray(), compressed.transform(container(X)).toarray()
        )
        assert compressed.score(container(X)) == dense.score(X)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8])
    def test_every_kind_of_number_gives_float32(self, dtype):
        X = np.round(sparse_rows() * 4).astype(dtype)
        codes = quick().fit_transform(X)
        assert codes.dtype == np.float32
        np.testing.assert_array_equal(
            codes.toarray(), quick().fit_transform(X.astype(np.float32)).toarray()
        )

    def test_rows_that_cannot_be_written_to_are_left_as_they_are(self):
        X = np.asfortranarray(sparse_rows())
        before = X.copy()
        X.flags.writeable = False
        fitted = quick().fit(X)
        codes = fitted.partial_fit(X).transform(X).toarray()
        codes.flags.writeable = False
        fitted.inverse_transform(codes)
        np.testing.assert_array_equal(X, before)

    def test_many_rows_are_taken_in_parts(self, monkeypatch):
        X = sparse_rows()
        fitted = quick().fit(X)
        whole = fitted.transform(X)
        monkeypatch.setattr("sae_features.training.matrices.CHUNK_ROWS", 7)
        parts = fitted.transform(X)
        np.testing.assert_allclose(parts.toarray(), whole.toarray(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            fitted.inverse_transform(parts), fitted.sae_.reconstruct(X).numpy(), rtol=1e-4, atol=1e-5
        )

    @pytest.mark.skipif("sparse_interface" not in sklearn.get_config(), reason="scikit-learn < 1.9")
    def test_codes_are_of_the_container_that_scikit_learn_says(self):
        fitted = quick().fit(sparse_rows())
        with sklearn.config_context(sparse_interface="sparray"):
            assert isinstance(fitted.transform(sparse_rows()), sparse.csr_array)
        with sklearn.config_context(sparse_interface="spmatrix"):
            assert isinstance(fitted.transform(sparse_rows()), sparse.csr_matrix)

    def test_a_saved_sae_gives_equal_latents(self, tmp_path):
        X = sparse_rows()
        for architecture in TRAINED_ARCHITECTURES:
            fitted = quick(architecture).fit(X)
            fitted.sae_.save(tmp_path / architecture)
            loaded = load_sae(tmp_path / architecture)
            np.testing.assert_array_equal(loaded.encode(X).numpy(), fitted.transform(X).toarray())

    def test_names(self):
        pd = pytest.importorskip("pandas")
        X = pd.DataFrame(sparse_rows(), columns=[f"column {i}" for i in range(10)])
        fitted = quick(sparse_output=False).set_output(transform="pandas").fit(X)
        assert list(fitted.transform(X).columns) == [f"latent_{i}" for i in range(20)]
        with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
            fitted.get_feature_names_out(["a"])


class TestPartialFit:
    @all_architectures
    def test_it_learns_call_by_call(self, architecture):
        X, _ = planted(8500, n_features=64, d=32)
        online = quick(architecture, n_latents=64, k=4, batch_size=128)
        held_out, scores = X[8000:], {}
        for number in range(1, 121):
            online.partial_fit(X[number % 8 * 1000 :][:1000])
            if number in {1, 40, 80, 120}:
                scores[number] = online.score(held_out)
        if architecture not in PENALISED:  # the others begin with many latents
            assert scores[40] > scores[1] + 0.2
        assert scores[120] > scores[80] > scores[40] > 0.2
        assert scores[120] > (0.6 if architecture == "relu" else 0.75)
        assert online.transform(held_out).nnz / 500 == pytest.approx(4, rel=0.15)
        assert online.n_iter_ == len(online.history_) == 120
        last = online.history_[-1]
        assert (last["rows"], last["step"]) == (120_000, 960)

    @all_architectures
    def test_it_can_be_used_from_the_first_call(self, architecture):
        X = sparse_rows(500)
        online = quick(architecture).partial_fit(X)
        assert online.score(X) > 0.1
        assert online.transform(X).shape == (500, 20)

    def test_the_first_call_fixes_centre_and_scale(self):
        X = sparse_rows(40)
        online = quick(n_latents=6, learning_rate=1e-30).partial_fit(X)
        center = center_of(torch.from_numpy(X), "mean")
        np.testing.assert_allclose(online.sae_.b_dec.numpy(), center.numpy(), rtol=1e-6)
        assert online._online.scale == scale_of(torch.from_numpy(X), center)
        np.testing.assert_allclose(online.sae_.W_enc.T, 0.1 * online.components_, atol=1e-6)
        online.partial_fit(100 * X)
        np.testing.assert_allclose(online.sae_.b_dec.numpy(), center.numpy(), rtol=1e-6)

    def test_the_same_calls_give_the_same_sae_and_none_shuffles_as_the_last(self):
        X = sparse_rows()
        first, again = (quick(batch_size=20).partial_fit(X).partial_fit(X) for _ in range(2))
        assert first.sae_.digest == again.sae_.digest
        assert [record["mse"] for record in first.history_] != [first.history_[0]["mse"]] * 2

    @all_architectures
    def test_pickles_and_copies_go_on_as_if_nothing_had_been(self, architecture):
        X = sparse_rows()
        whole, parted = (quick(architecture).partial_fit(X) for _ in range(2))
        parted = pickle.loads(pickle.dumps(parted))
        assert whole.partial_fit(X[:90]).sae_.digest == parted.partial_fit(X[:90]).sae_.digest

    @all_architectures
    def test_after_fit_it_goes_on_from_there(self, architecture):
        X = sparse_rows(600)
        fitted = quick(architecture, max_epochs=100, batch_size=200).fit(X)
        before, n_iter = fitted.score(X), fitted.n_iter_
        components = fitted.components_.copy()
        fitted.set_params(learning_rate=1e-30).partial_fit(X)
        np.testing.assert_allclose(fitted.components_, components, atol=1e-5)
        if architecture not in {"batchtopk", "matryoshka"}:  # their threshold is measured anew
            assert fitted.score(X) == pytest.approx(before, abs=1e-3)
        assert fitted.n_iter_ == n_iter + 1
        assert fitted.set_params(learning_rate=1e-3).partial_fit(X).score(X) > before - 0.1
        assert fitted.fit(X).n_iter_ == n_iter

    def test_one_row_will_do_after_the_first_call(self):
        X = sparse_rows()
        online = quick().partial_fit(X)
        online.partial_fit(X[:1])
        assert np.isfinite(online.score(X))
        with pytest.raises(ValueError, match="1 sample"):
            quick().partial_fit(X[:1])

    def test_another_architecture_or_width_is_refused(self):
        X = sparse_rows()
        online = quick().partial_fit(X)
        digest = online.sae_.digest
        message = (
            "Got architecture='gated' and an SAE with architecture='topk'; partial_fit goes on with "
            "what there is. Call fit to begin anew."
        )
        with pytest.raises(InvalidParameterError, match="^" + re.escape(message)):
            online.set_params(architecture="gated").partial_fit(X)
        with pytest.raises(
            InvalidParameterError, match="^Got n_latents=30 and an SAE with n_latents=20"
        ):
            online.set_params(architecture="topk", n_latents=30).partial_fit(X)
        assert online.sae_.digest == digest

    def test_a_loss_that_is_not_finite_leaves_the_sae(self):
        X = sparse_rows()
        online = quick().partial_fit(X)
        digest = online.sae_.digest
        message = "The loss of the topk SAE became (inf|nan); train with a lower learning_rate."
        with pytest.raises(InvalidInputError, match=message):
            online.partial_fit(X * np.float32(1e30))
        assert online.sae_.digest == digest
        assert online.partial_fit(X).score(X) > 0


class TestAmongOthers:
    def test_in_a_pipeline(self):
        X, y = load_digits(return_X_y=True)
        latents = SparseAutoencoderTransformer(128, k=16, max_epochs=100, random_state=0)
        pipeline = make_pipeline(StandardScaler(), latents, LogisticRegression(max_iter=2000))
        assert pipeline.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.85
        assert list(pipeline[:-1].get_feature_names_out())[-1] == "latent_127"

    def test_searched_over_k_by_what_is_explained(self):
        X, _ = planted(1000, n_features=32, d=16)
        search = GridSearchCV(quick(max_epochs=30, n_latents=32), {"k": [1, 8]}, cv=2).fit(X)
        assert search.best_params_ == {"k": 8}
        assert search.best_score_ > 0.5

    def test_searched_over_k_by_a_classifier(self):
        X, y = planted(300, n_features=32, d=16)[0], np.arange(300) % 2
        pipeline = make_pipeline(quick(), LogisticRegression())
        grid = {"sparseautoencodertransformer__k": [1, 4]}
        search = GridSearchCV(pipeline, grid, cv=2).fit(X, y)
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    def test_a_pickle_gives_equal_codes(self):
        X = sparse_rows()
        for architecture in TRAINED_ARCHITECTURES:
            fitted = quick(architecture).fit(X)
            copied = pickle.loads(pickle.dumps(fitted))
            np.testing.assert_array_equal(copied.transform(X).toarray(), fitted.transform(X).toarray())

    def test_a_clone_is_not_fitted(self):
        with pytest.raises(NotFittedError):
            clone(quick().fit(sparse_rows())).transform(sparse_rows())


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"architecture": "top"}, "Got architecture='top'; expected one of relu, gated, topk, "),
            ({"n_latents": 0}, "Got n_latents=0; expected an integer above 0."),
            ({"n_latents": 2.5}, "Got n_latents=2.5; expected an integer above 0."),
            ({"k": 21}, "Got k=21 with n_latents=20; expected k at most n_latents."),
            ({"k": 0}, "Got k=0; expected an integer above 0."),
            (
                {"target_l0": 4},
                "Got target_l0=4 with architecture='topk', which keeps k latents; give k, or one of "
                "the architectures relu, gated, jumprelu.",
            ),
            (
                {"architecture": "relu", "target_l0": 20},
                "Got target_l0=20; expected more than 0 and less than 20.",
            ),
            ({"max_epochs": 0}, "Got max_epochs=0; expected None or an integer above 0."),
            ({"batch_size": 0}, "Got batch_size=0; expected an integer above 0."),
            ({"learning_rate": 0}, "Got learning_rate=0; expected a number above 0."),
            ({"n_iter_no_change": -1}, "Got n_iter_no_change=-1; expected None or an integer above 0."),
            ({"device": 3}, "Got device=3; expected None or a string such as 'cpu' or 'cuda:0'."),
        ],
    )
    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_parameters_that_cannot_be(self, params, message, method):
        with pytest.raises(InvalidParameterError, match="^" + re.escape(message)):
            getattr(quick(**params), method)(sparse_rows())

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_rows_that_are_all_equal(self, method):
        with pytest.raises(InvalidInputError, match="^Got activations of variance 0.0"):
            getattr(quick(), method)(np.full((9, 4), 0.1))

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_numbers_that_are_not_finite_in_float32(self, value):
        X = sparse_rows().astype(np.float64)
        fitted = quick().fit(X)
        X[3, 2] = value
        for method in (fitted.fit, fitted.partial_fit, fitted.transform, fitted.score):
            with pytest.raises(ValueError, match="Input X contains (NaN|infinity)"):
                method(X)

    def test_codes_of_another_width(self):
        fitted = quick().fit(sparse_rows())
        message = "Got codes of shape (2, 7); expected (n_samples, 20), as transform gives them."
        with pytest.raises(InvalidInputError, match="^" + re.escape(message)):
            fitted.inverse_transform(np.zeros((2, 7)))
