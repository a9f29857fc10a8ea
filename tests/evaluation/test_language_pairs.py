from __future__ import annotations

import numpy as np
import pytest

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.language_pairs import centered, pairs_of, shots_of


class TestPairs:
    def test_few_shot_items_are_of_the_targets_training_part_and_nested(self, laid, folds):
        for fold in folds:
            shots = {}
            for n in (2, 3, 6):
                pairs = list(pairs_of(laid, fold, n))
                alone = [pair for pair in pairs if pair.targets[0][1] == f"target_only_{n}"]
                assert len(pairs) == 9
                assert [pair.source for pair in alone] == [0, 1, 2]
                for pair in alone:
                    (target, _), *rest = pair.targets
                    assert (target, rest, len(pair.train)) == (pair.source, [], n)
                    assert set(pair.train) <= set(fold.rest[target])
                    assert not set(pair.train) & set(fold.test[target])
                    assert set(laid.codes[pair.train]) == {0, 1}
                    assert shots.get(target, set()) <= set(pair.train)
                    shots[target] = set(pair.train)
                for pair in pairs:
                    ((target, setting),) = pair.targets
                    np.testing.assert_array_equal(pair.like, pair.train)
                    if setting == f"few_shot_{n}":
                        assert target != pair.source
                        assert sorted(pair.train) == sorted([*fold.train[pair.source], *shots[target]])

    def test_translations_are_trained_on_with_the_labels_of_their_source(
        self, laid, folds, translations
    ):
        for fold in folds:
            (pair,) = pairs_of(laid, fold, "translated")
            assert (pair.source, pair.targets) == (0, [(1, "translated_train")])
            np.testing.assert_array_equal(pair.like, fold.train[0])
            texts = [laid.items[i] for i in pair.train]
            assert texts == [f"the {laid.items[i]}" for i in fold.train[0]]
            assert set(texts) <= set(translations["en", "de"])

    def test_numbers_of_shots_are_the_same_for_all_languages_and_folds(self, laid, folds):
        assert shots_of([3, 0.25, 0.5, 6, 0.01], laid, folds) == [3, 6, 2]
        with pytest.raises(
            InvalidParameterError, match="Got few_shot=13, but en has 12 items to train on"
        ):
            shots_of([13], laid, folds)


class TestCentring:
    def test_each_languages_training_mean_is_taken_off(self, laid, folds):
        rng = np.random.default_rng(0)
        X = rng.random((len(laid.items), 5)).astype(np.float32)
        fold = folds[0]
        found = centered(X, laid, fold)
        assert found.dtype == np.float32
        spans = [(0, 24), (24, 48), (48, 78), (78, 102)]
        means = [X[part].mean(axis=0) for part in fold.rest] + [X[fold.rest[0] + 78].mean(axis=0)]
        for (start, stop), mean in zip(spans, means, strict=True):
            np.testing.assert_allclose(found[start:stop], X[start:stop] - mean, atol=1e-6)
        others = X.copy()
        others[np.concatenate(fold.test)] = (
            9  # test items, and translations of test items, decide nothing
        )
        others[fold.test[0] + 78] = 9
        trained = np.concatenate([*fold.rest, fold.rest[0] + 78])
        np.testing.assert_array_equal(centered(others, laid, fold)[trained], found[trained])

    def test_it_hides_what_tells_languages_apart(self, laid, folds):
        language = np.array([0, 1, 2, 0])[laid.of(np.arange(len(laid.items)))]
        X = np.eye(3, dtype=np.float32)[language]
        assert np.abs(centered(X, laid, folds[0])).max() < 1e-6
