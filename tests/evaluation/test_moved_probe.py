"""Moved probes: unchanged behind an aligner, and between chance and their ceiling."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.svm import LinearSVC
from tiny import varied_sae

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.alignment import METHODS, LatentAligner
from sae_features.evaluation.moved_probe import move_probe, moved_probe_scores

TRAIN, TEST, PAIRS = np.arange(150), np.arange(150, 350), np.arange(350, 750)


def models(n=750, seed=0, n_classes=2):
    """Latents of two models with the same causes, some of which depend on the class; CSR."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    fires = rng.random((n, 12)) < 0.15 + 0.6 * (y[:, None] == np.arange(12) % (2 * n_classes))
    causes = rng.exponential(size=(n, 12)) * fires
    of_b = np.hstack(
        [causes[:, rng.permutation(12)] * 3, rng.random((n, 5)) * (rng.random((n, 5)) < 0.3)]
    )
    of_a = np.hstack([causes, rng.random((n, 3))])
    rows = (
        sparse.csr_matrix((part * rng.uniform(0.8, 1.2, part.shape)).astype(np.float32))
        for part in (of_a, of_b)
    )
    return *rows, np.array(["no", "yes", "maybe"])[y]


class TestMoveProbe:
    def test_it_decides_as_the_probe_on_aligned_rows(self):
        of_a, of_b, y = models()
        probe = make_pipeline(MaxAbsScaler(), LogisticRegression()).fit(of_a[TRAIN], y[TRAIN])
        aligner = LatentAligner("sparse").fit(of_b[PAIRS], of_a[PAIRS])
        moved = move_probe(probe, aligner)
        expected = probe.predict_proba(aligner.transform(of_b[TEST]))
        np.testing.assert_array_equal(moved.predict_proba(of_b[TEST]), expected)
        assert moved.classes_.tolist() == ["no", "yes"]
        assert moved.score(of_b[TEST], y[TEST]) > 0.7

    def test_nothing_fits_it_again(self):
        of_a, of_b, y = models()
        probe = LogisticRegression().fit(of_a[TRAIN], y[TRAIN])
        moved = move_probe(probe, LatentAligner().fit(of_b[PAIRS], of_a[PAIRS]))
        expected = moved.predict_proba(of_b[TEST])
        again = clone(moved).fit(of_b[TEST], y[TEST][::-1])
        np.testing.assert_array_equal(again.predict_proba(of_b[TEST]), expected)

    def test_with_a_featurizer_it_takes_items(self):
        class Rows(TransformerMixin, BaseEstimator):
            def __init__(self, rows=None):
                self.rows = rows

            def fit(self, X, y=None):
                return self

            def transform(self, X):
                return self.rows[[int(text) for text in X]]

            def __sklearn_is_fitted__(self):
                return True

        of_a, of_b, y = models()
        probe = LogisticRegression().fit(of_a[TRAIN], y[TRAIN])
        aligner = LatentAligner().fit(of_b[PAIRS], of_a[PAIRS])
        moved = move_probe(probe, aligner, featurizer=Rows(of_b))
        expected = move_probe(probe, aligner).predict(of_b[[3, 700, 5]])
        assert moved.predict(["3", "700", "5"]).tolist() == expected.tolist()

    def test_both_must_be_fitted_and_fit_together(self):
        of_a, of_b, y = models()
        probe = LogisticRegression().fit(of_a[TRAIN], y[TRAIN])
        aligner = LatentAligner().fit(of_b[PAIRS], of_a[PAIRS])
        with pytest.raises(NotFittedError, match="LatentAligner"):
            move_probe(probe, LatentAligner())
        with pytest.raises(NotFittedError, match="LogisticRegression"):
            move_probe(LogisticRegression(), aligner)
        other = LogisticRegression().fit(of_b[TRAIN], y[TRAIN])
        message = "Got a probe that takes 17 features and an aligner that gives 15; expected"
        with pytest.raises(InvalidParameterError, match="^" + message):
            move_probe(other, aligner)


def named(found):
    """The mean figures of each line, by who was trained and tested and how."""
    lines = {}
    for score in found:
        row = score.row
        key = f"{row['train_on']}{row['test_on']} {row['setting']} {row['control']}"
        lines.setdefault(key, []).append(row)
    return lines


class TestMovedProbeScores:
    @pytest.mark.parametrize("method", METHODS)
    def test_a_moved_probe_is_between_chance_and_ceiling(self, method):
        of_a, of_b, y = models()
        found = moved_probe_scores(
            of_a, of_b, y, train=TRAIN, test=TEST, pairs=PAIRS, aligner=LatentAligner(method)
        )
        lines = named(found)
        assert [len(rows) for rows in lines.values()] == [1, 1, 1, 10, 10]
        auroc = {name: np.mean([row["auroc"] for row in rows]) for name, rows in lines.items()}
        assert auroc["AA in_model none"] > 0.85
        assert auroc["BB in_model none"] > 0.85
        assert auroc["AB moved none"] > 0.8

    @pytest.mark.parametrize("method", METHODS)
    def test_controls_are_at_chance(self, method):
        """A shuffled pairing may turn the decision either way; in the mean over many it is a coin."""
        of_a, of_b, y = models()
        found = moved_probe_scores(
            of_a, of_b, y, train=TRAIN, test=TEST, pairs=PAIRS, aligner=LatentAligner(method),
            n_permutations=60, classifier=LogisticRegression(),
        )  # fmt: skip
        lines = named(found)
        for name in ("AB shuffled_pairs none", "BB in_model permuted"):
            assert [row["seed"] for row in lines[name]] == list(range(60))
            for metric in ("accuracy", "auroc"):
                values = np.array([row[metric] for row in lines[name]])
                standard_error = values.std(ddof=1) / 60**0.5
                assert abs(values.mean() - 0.5) < max(4 * standard_error, 0.02)

    def test_figures_are_those_of_estimators_fitted_by_hand(self):
        of_a, of_b, y = models(n_classes=3)
        classifier = make_pipeline(MaxAbsScaler(), LogisticRegression(C=0.3))
        aligner = LatentAligner("sparse", n_nonzero=3)
        found = moved_probe_scores(
            of_a, of_b, y, train=TRAIN, test=TEST, pairs=PAIRS, aligner=aligner, classifier=classifier,
            n_permutations=1, seed=7,
        )  # fmt: skip
        assert not hasattr(aligner, "map_")
        of_a_probe = clone(classifier).fit(of_a[TRAIN], y[TRAIN])
        of_b_probe = clone(classifier).fit(of_b[TRAIN], y[TRAIN])
        aligned = clone(aligner).fit(of_b[PAIRS], of_a[PAIRS]).transform(of_b[TEST])
        order = np.random.default_rng(7).permutation(PAIRS)
        shuffled = clone(aligner).fit(of_b[order], of_a[PAIRS]).transform(of_b[TEST])
        labels = np.random.default_rng(7).permutation(y[TRAIN])
        of_chance = clone(classifier).fit(of_b[TRAIN], labels)
        expected = [
            (of_a_probe, aligned, 15), (of_b_probe, of_b[TEST], 17), (of_a_probe, of_a[TEST], 15),
            (of_a_probe, shuffled, 17), (of_chance, of_b[TEST], 17),
        ]  # fmt: skip
        assert len(found) == 5
        for (row, predictions), (probe, rows, _) in zip(found, expected, strict=True):
            probabilities = probe.predict_proba(rows)
            np.testing.assert_allclose(predictions.scores, probabilities, atol=1e-6)
            np.testing.assert_array_equal(predictions.items, TEST)
            np.testing.assert_array_equal(probe.classes_[predictions.truth], y[TEST])
            said = probe.predict(rows)
            assert row["accuracy"] == accuracy_score(y[TEST], said)
            assert row["macro_f1"] == pytest.approx(f1_score(y[TEST], said, average="macro"))
            auroc = roc_auc_score(y[TEST], probabilities, multi_class="ovr")
            assert row["auroc"] == pytest.approx(auroc)
            assert (row["n_train"], row["n_test"], row["n_classes"]) == (150, 200, 3)
        assert [score.row["n_pairs"] for score in found] == [400, None, None, 400, None]
        assert [score.row["width"] for score in found] == [17, 17, 15, 17, 17]

    def test_pairs_are_the_training_items_if_there_are_no_others(self):
        of_a, of_b, y = models()
        given = {"train": TRAIN, "test": TEST, "n_permutations": 0}
        (first, *_), (second, *_) = (
            moved_probe_scores(of_a, of_b, y, **given, **pairs) for pairs in ({}, {"pairs": TRAIN})
        )
        assert first.row == second.row
        assert first.row["n_pairs"] == 150

    def test_labels_of_other_items_are_not_looked_at(self):
        of_a, of_b, y = models()
        given = {"train": TRAIN, "test": TEST, "pairs": PAIRS, "n_permutations": 1}
        unlabelled = np.where(np.arange(750) < 350, y, "unknown")
        expected, found = (moved_probe_scores(of_a, of_b, labels, **given) for labels in (y, unlabelled))
        assert [score.row for score in found] == [score.row for score in expected]

    @pytest.mark.parametrize(
        "classifier", [LinearSVC(), GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2)]
    )
    def test_any_classifier_will_do(self, classifier):
        of_a, of_b, y = models()
        found = moved_probe_scores(
            of_a, of_b, y, train=TRAIN, test=TEST, pairs=PAIRS, classifier=classifier, n_permutations=0
        )
        assert found[0].row["auroc"] > 0.8

    def test_with_an_sae_the_probe_is_fitted_on_what_it_reads(self, tmp_path):
        of_a, _, y = models()
        rng = np.random.default_rng(0)
        states_a = (of_a.toarray() @ rng.normal(size=(15, 15))).astype(np.float32)
        states_b = (states_a @ rng.normal(size=(15, 20))).astype(np.float32)
        sae = varied_sae("topk", d_in=15, n_latents=60, dtype=torch.float32)
        folder = sae.save(tmp_path / "sae")
        found = moved_probe_scores(
            states_a, states_b, y, train=TRAIN, test=TEST, pairs=PAIRS, n_permutations=0,
            aligner=LatentAligner("least_squares", sae=folder),
        )  # fmt: skip
        codes = sae.encode(torch.from_numpy(states_a)).numpy()
        probe = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=2000))
        probe.fit(codes[TRAIN], y[TRAIN])
        assert found[2].row["accuracy"] == probe.score(codes[TEST], y[TEST])
        assert found[2].row["width"] == 60
        assert abs(found[0].row["accuracy"] - found[2].row["accuracy"]) < 0.05


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test": TRAIN[:5]}, "Got item 0 in train and in test; expected test items to be unseen."),
        ({"pairs": TEST[3:]}, "Got item 153 in pairs and in test; expected test items to be unseen."),
        ({"train": [800]}, "Got train=[800]; expected positions of items, from 0 to 749."),
        ({"train": [-1]}, "Got train=[-1]; expected positions of items, from 0 to 749."),
        ({"test": []}, "Got test=[]; expected positions of items, from 0 to 749."),
        ({"test": [0.5]}, "Got test=[0.5]; expected positions of items"),
        ({"y": ["a"] * 750}, "Got train items of one class only; expected items of all classes"),
        ({"y": ["a"] * 749}, "Got 750 rows of A, 750 of B and 749 labels; expected as many of each"),
        ({"y": ["a"] * 350 + ["b"] * 400}, "Got train items of one class only;"),
        ({"y": ["a"] * 149 + ["b"] * 601}, "Got test items without class 'a'; expected"),
    ],
)
def test_parts_that_cannot_be_are_named(changed, message):
    of_a, of_b, y = models()
    given = {"y": y, "train": TRAIN, "test": TEST, "pairs": PAIRS} | changed
    with pytest.raises(InvalidInputError, match="^" + re.escape(message)):
        moved_probe_scores(of_a, of_b, **given)


def test_the_number_of_permutations_is_not_negative():
    of_a, of_b, y = models()
    with pytest.raises(InvalidParameterError, match=r"^Got n_permutations=-1; expected 0 or more\.$"):
        moved_probe_scores(of_a, of_b, y, train=TRAIN, test=TEST, n_permutations=-1)
