"""Moved probes as a protocol, on rows that are made here in place of models."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from sae_features import SAEFeaturizer
from sae_features.errors import InvalidParameterError
from sae_features.evaluation import probe_moves
from sae_features.evaluation.classifiers import Classifier
from sae_features.evaluation.fitting import learner_of
from sae_features.evaluation.methods import Method
from sae_features.evaluation.probe_moves import Move, MovedProbes, run_move
from sae_features.evaluation.splits import draw_folds

N, F = 120, 12


def method(model, kind="sae", pooling="max"):
    settings = {
        "model": model,
        "pooling": pooling,
        "threshold": None,
        "binarize": False,
        "token_top_n": None,
    }
    featurizer = SAEFeaturizer() if kind == "sae" else None  # rows are sparse; it is not used
    return Method(f"{model} {kind} {pooling}", kind, featurizer, settings=settings)


@pytest.fixture
def rows():
    """Latents of A decide the classes; B's are the same ones in another order and unit."""
    rng = np.random.default_rng(0)
    of_a = rng.exponential(size=(N, F)) * (rng.random((N, F)) < 0.4)
    codes = (of_a[:, 0] > of_a[:, 1]).astype(np.int64)
    order = rng.permutation(F)
    of_b = 7 * of_a[:, order]
    return sp.csr_matrix(of_a.astype(np.float32)), sp.csr_matrix(of_b.astype(np.float32)), codes


def ran(rows, aligner, control="none", pairs=None):
    of_a, of_b, codes = rows
    folds = draw_folds(codes, np.arange(N), 3, seed=0)
    source, target = method("A"), method("B")
    learner = learner_of(source, Classifier(strengths=(1.0, 10.0)), n_classes=2)
    return run_move(
        learner, (of_a, of_b if aligner else of_a), {"cell": "c", "n_classes": 2, "control": control},
        move=Move(source, target if aligner else source, aligner), codes=codes, together=np.arange(N),
        folds=folds, pairs=[fold.train for fold in folds] if pairs is None else pairs, n_inner=2,
    )  # fmt: skip


def mean(cell, setting):
    return np.mean([row["macro_f1"] for row in cell.rows if row["setting"] == setting])


@pytest.mark.parametrize("aligner", ["correlation", "least_squares", "sparse"])
def test_a_permutation_of_latents_moves_a_probe_without_loss(rows, aligner):
    own, moved = ran(rows, None), ran(rows, aligner)
    assert mean(own, "in_model") > 0.8
    assert mean(moved, "moved") == pytest.approx(mean(own, "in_model"), abs=0.05)
    assert mean(moved, "shuffled_pairs") < mean(own, "in_model") - 0.15
    assert {row["validation"] for row in moved.rows} == {row["validation"] for row in own.rows}


def test_permuted_labels_land_at_chance(rows):
    assert abs(mean(ran(rows, None, "permuted"), "in_model") - 0.5) < 0.15


def test_figures_are_those_of_the_predictions(rows):
    cell = ran(rows, "correlation")
    for row, found in zip(cell.rows, cell.predictions, strict=True):
        assert row["accuracy"] == pytest.approx((found.predicted == found.truth).mean())
        assert row["n_test"] == len(found.items)


def test_pairs_are_the_corpus_less_what_is_tested():
    codes = np.array([0, 1, 0, 1])
    (fold, _) = draw_folds(codes, np.arange(4), 2, seed=0)
    items = [b"a", b"b", b"c", b"d"]
    np.testing.assert_array_equal(probe_moves._pairs(fold, 4, items), fold.train)
    tested = items[fold.test[0]]
    corpus = [*items, b"x", tested, b"y"]
    np.testing.assert_array_equal(probe_moves._pairs(fold, 4, corpus), [4, 6])


def test_moves_pair_models_and_the_same_way_of_pooling():
    plan = MovedProbes(["minilm", "smollm2"], aligners=["sparse", "correlation"])
    methods = [
        method(model, kind, pooling)
        for model in "AB"
        for kind in ("sae", "states")
        for pooling in ("max", "mean")
    ]
    moves = plan.moves(methods)
    assert len([move for move in moves if move.aligner is None]) == 8
    moved = [move for move in moves if move.aligner]
    assert (
        len(moved) == 2 * 2 * 2 + 2 * 2
    )  # directions × poolings × aligners, and states by least squares
    assert all(move.source.settings["pooling"] == move.target.settings["pooling"] for move in moved)
    assert all(move.source.kind == move.target.kind for move in moved)
    assert {move.aligner for move in moved if move.source.kind == "states"} == {"least_squares"}


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (["minilm"], {}, "Got one model; expected at least two"),
        (["minilm", "e5"], {"aligners": ["cca"]}, "Got aligner='cca'; expected one of"),
        (["minilm", "e5"], {"aligners": []}, "Got no aligners"),
        (
            ["minilm", "e5"],
            {"baselines": ["tfidf_word"]},
            "'tfidf_word' cannot be moved, only 'states'.",
        ),
    ],
)
def test_what_cannot_be(models, options, message):
    with pytest.raises(InvalidParameterError, match=message):
        MovedProbes(models, **options)
