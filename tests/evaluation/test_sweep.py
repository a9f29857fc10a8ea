from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sae_features import ActivationFeaturizer, SAEFeaturizer
from sae_features.errors import InvalidInputError, SAEFeaturesWarning
from sae_features.evaluation import sweep, tasks
from sae_features.evaluation.classifiers import Classifier
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.leakage import joint_groups
from sae_features.evaluation.methods import Method
from sae_features.evaluation.results import cell_file
from sae_features.evaluation.splits import Fold, draw_folds, inner_folds
from sae_features.evaluation.sweep import FeatureSweep, permuted_labels, run_folds

SCALERS = {"MaxAbsScaler": "max_abs", "StandardScaler": "standard"}
FIGURES = ("macro_f1", "auroc", "accuracy", "validation", "chosen")


def by_fold(rows, *columns):
    return {
        (row["dataset"], row["method"], row["control"], row["fold"]): [row[c] for c in columns]
        for row in rows
    }


def test_there_is_a_row_for_each_method_and_fold(swept):
    names = {"TF-IDF words", "chance"}
    for layer in (0, 1, 2):
        names.add(f"tiny-bert layer {layer} states max")
        for sae in ("topk", "relu"):
            names.add(f"tiny-bert layer {layer} {sae} max")
            names.add(f"tiny-bert layer {layer} states max, PCA for {sae}")
    rows = swept.results.where(control="none")
    assert {row["method"] for row in rows} == names
    assert len(rows) == 2 * len(names)
    controls = {row["kind"]: row["method"] for row in swept.results.where(control="permuted", fold=0)}
    assert sorted(controls) == ["pca", "sae", "states", "tfidf_word"]
    assert {(row["n_train"], row["n_test"], row["n_classes"]) for row in rows} == {(12, 12, 2)}
    (row, _) = swept.results.where(method="tiny-bert layer 2 topk max", control="none")
    told = (
        "kind",
        "model",
        "layer",
        "site",
        "sae",
        "pooling",
        "width",
        "classifier",
        "train_on",
        "test_on",
    )
    assert [row[name] for name in told] == [
        "sae", "tiny-bert", 2, "resid_post", "topk", "max", 48, "logistic", "reviews", "reviews",
    ]  # fmt: skip


def test_each_text_is_read_once(swept):
    assert swept.counts == dict.fromkeys(swept.data.items, 1)


def test_a_second_run_reads_and_fits_nothing(swept, texts_read, monkeypatch):
    def fit(*_args, **_how):
        pytest.fail("something is fitted")

    monkeypatch.setattr(GridSearchCV, "fit", fit)
    before = {path: path.stat().st_mtime_ns for path in (swept.folder / "cells").iterdir()}
    with texts_read() as counts:
        again = swept.sweep().run(swept.data)
    assert not counts
    assert again.rows == swept.results.rows
    assert {path: path.stat().st_mtime_ns for path in (swept.folder / "cells").iterdir()} == before


def test_only_a_damaged_cell_is_computed_again(swept, texts_read, monkeypatch):
    computed = []

    def counted(learner, X, columns, **how):
        computed.append(columns["method"])
        return run_folds(learner, X, columns, **how)

    monkeypatch.setattr(sweep, "run_folds", counted)
    (row, _) = swept.results.where(method="tiny-bert layer 1 relu max", control="none")
    path = cell_file(swept.folder, row["cell"])
    path.write_bytes(path.read_bytes()[:-20])
    with texts_read() as counts:
        again = swept.sweep().run(swept.data)
    assert computed == ["tiny-bert layer 1 relu max"]
    assert not counts
    assert again.rows == swept.results.rows


def test_an_interrupted_run_goes_on(swept, tmp_path, texts_read, monkeypatch):
    written = []
    genuine = tasks.write_cell

    def write(folder, cell):
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(cell.key)
        genuine(folder, cell)

    with monkeypatch.context() as patch, texts_read() as counts:
        patch.setattr(tasks, "write_cell", write)
        with pytest.raises(KeyboardInterrupt):
            swept.sweep(folder=tmp_path).run(swept.data)
        assert counts == dict.fromkeys(swept.data.items, 1)
    fits = []
    fit = GridSearchCV.fit
    monkeypatch.setattr(GridSearchCV, "fit", lambda self, X, y: fits.append(1) or fit(self, X, y))
    with texts_read() as counts:
        results = swept.sweep(folder=tmp_path).run(swept.data)
    assert not counts
    assert results.rows == swept.results.rows
    assert len(fits) == len([row for row in results.rows if row["cell"] not in written])


@pytest.mark.parametrize("kind", ["sae", "words"])
def test_figures_are_those_of_plain_scikit_learn(kind, swept, tiny_bert, tiny_saes):
    data = swept.data
    codes = (data.labels == "positive").astype(int)
    if kind == "sae":
        method, first = "tiny-bert layer 1 relu max", []
        X = SAEFeaturizer(tiny_bert, layer=1, sae=tiny_saes["relu"]).transform(data.items)
    else:
        method, X = "TF-IDF words", np.array(data.items)
        vectorizer = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
        first = [("words", vectorizer)]
    together = joint_groups(data.items)
    rows = swept.results.where(method=method, control="none")
    for fold, row in zip(draw_folds(codes, together, 2, 0), rows, strict=True):
        train, test = fold.train, fold.test
        search = GridSearchCV(
            Pipeline(
                [*first, ("scale", MaxAbsScaler()), ("classify", LogisticRegression(max_iter=2000))]
            ),
            {"classify__C": [0.1, 1.0], "scale": [MaxAbsScaler(), StandardScaler(with_mean=False)]},
            scoring="f1_macro",
            cv=inner_folds(codes[train], together[train], 2, 0),
        ).fit(X[train], codes[train])
        best = search.best_params_
        assert row["chosen"] == {
            "C": best["classify__C"],
            "scale": SCALERS[type(best["scale"]).__name__],
        }
        assert row["validation"] == pytest.approx(search.best_score_, abs=1e-9)
        assert row["macro_f1"] == pytest.approx(
            f1_score(codes[test], search.predict(X[test]), average="macro")
        )
        probabilities = search.predict_proba(X[test])
        assert row["auroc"] == pytest.approx(roc_auc_score(codes[test], probabilities[:, 1]))
        found = swept.results.predictions(row)
        np.testing.assert_array_equal(found.items, test)
        np.testing.assert_allclose(found.scores, probabilities, atol=1e-6)


def test_equal_items_and_groups_are_on_one_side(words_only, make_data):
    texts = make_data(40).items
    labels = np.arange(40) % 2
    repeated = LabelledItems("repeated", [*texts, *texts[:20]], [*labels, *labels[:20]])
    grouped = LabelledItems("grouped", texts, labels, groups=np.arange(40) // 4)
    results = FeatureSweep(**words_only | {"cv": 3}, baselines=("chance",), permuted=False).run(
        [repeated, grouped]
    )
    for row in results.rows:
        data = repeated if row["dataset"] == "repeated" else grouped
        tested = set(results.predictions(row).items.tolist())
        for i in range(len(data)):
            for j in range(len(data)):
                hang_together = data.items[i] == data.items[j] or (data is grouped and i // 4 == j // 4)
                assert not hang_together or (i in tested) == (j in tested)
    about = results.provenance["data"]["repeated"]
    assert (about["n_items"], about["n_different"], about["folds"]) == (60, 40, "3 folds")


class TestGivenSplits:
    @pytest.fixture
    def leaking(self, make_data):
        """Three test items are trained on, and one more is of a group that is."""
        data = make_data(30)
        items = [*data.items, *data.items[:3]]
        groups = [*range(29), 0, *range(29, 32)]
        split = ["train"] * 20 + ["test"] * 13
        return LabelledItems("given", items, [*data.labels, *data.labels[:3]], groups, split)

    def run(self, words_only, data, **how):
        return FeatureSweep(**words_only, baselines=("bag_of_words",), **how).run(data)

    def test_leaks_are_an_error(self, words_only, leaking):
        with pytest.raises(InvalidInputError) as error:
            self.run(words_only, leaking)
        assert str(error.value) == (
            "given has 3 test items that are also trained on and 1 test items of groups that are also "
            "trained on (the first at position 29); give on_leak='drop' or clean the data."
        )

    def test_leaks_are_dropped_and_reported(self, words_only, leaking):
        results = self.run(words_only, leaking, on_leak="drop", repeats=2)
        assert [row["seed"] for row in results.where(control="none")] == [0, 1]
        for row in results.rows:
            assert (row["n_train"], row["n_test"]) == (20, 9)
            assert results.predictions(row).items.tolist() == list(range(20, 29))
        about = results.provenance["data"]["given"]
        assert (about["n_leaking"], about["on_leak"], about["folds"]) == (4, "drop", "its own split")
        clean = leaking.take(range(29))
        clean = self.run(words_only, leaking.take(range(29)))
        assert by_fold(clean.where(control="none"), *FIGURES) == by_fold(
            results.where(control="none", seed=0), *FIGURES
        )

    def test_leaks_are_kept_with_a_warning(self, words_only, leaking):
        with pytest.warns(SAEFeaturesWarning, match="given has 3 test items that are also trained on"):
            results = self.run(words_only, leaking, on_leak="warn")
        assert {row["n_test"] for row in results.rows} == {13}
        assert results.provenance["data"]["given"]["n_leaking"] == 4

    def test_a_class_that_is_absent(self, words_only, make_data):
        data = make_data(12)
        split = np.where((data.labels == "positive") & (np.arange(12) > 5), "train", "test")
        with pytest.raises(
            InvalidInputError, match="reviews: class 'negative' is absent in the training"
        ):
            self.run(words_only, LabelledItems("reviews", data.items, data.labels, split=split))


def test_too_few_items_are_said_before_anything_runs(words_only, make_data, texts_read, tiny_bert):
    small = LabelledItems("small", ["a", "b", "c", "c"], [0, 0, 1, 1])
    with (
        texts_read() as counts,
        pytest.raises(InvalidInputError, match="small: class '1' has 1 different"),
    ):
        FeatureSweep([tiny_bert], saes=(), layers=(1,), cv=2).run([make_data(), small])
    assert not counts


class TestControl:
    def test_it_lands_at_chance(self, words_only, make_data):
        data = make_data(120)
        results = FeatureSweep(**words_only | {"repeats": 8}, baselines=("bag_of_words",)).run(data)
        scores = [row["auroc"] for row in results.where(control="permuted")]
        assert len(scores) == 16
        assert abs(np.mean(scores) - 0.5) < 0.05
        assert np.mean([row["auroc"] for row in results.where(control="none")]) > 0.7

    def test_a_leak_lies_above(self):
        """Where the test part is trained on, permuted labels are learned by heart."""
        rng = np.random.default_rng(0)
        X, codes, everything = rng.normal(size=(40, 60)), np.arange(40) % 2, np.arange(40)
        method = Method("states", "states", ActivationFeaturizer())
        learner = Classifier(strengths=(100.0,)).learner(method, n_classes=2)
        rows, _ = run_folds(
            learner, X, {"control": "permuted", "n_classes": 2}, codes=codes, together=everything,
            folds=[Fold(seed, 0, everything, everything[20:]) for seed in range(3)], n_inner=2,
        )  # fmt: skip
        assert min(row["auroc"] for row in rows) > 0.95

    def test_labels_are_the_same_for_all_methods_and_folds_of_a_seed(self, words_only, make_data):
        data = make_data(40)
        results = FeatureSweep(
            **words_only | {"repeats": 2},
            baselines=("bag_of_words", "tfidf_word"),
            classifiers=("tree",),
        ).run(data)
        by_seed = {}
        for row in results.where(control="permuted"):
            found = results.predictions(row)
            labels = by_seed.setdefault((row["method"], row["seed"]), np.full(40, -1))
            labels[found.items] = found.truth
        assert len(by_seed) == 4
        one, other = by_seed["bag of words", 0], by_seed["bag of words", 1]
        np.testing.assert_array_equal(one, by_seed["TF-IDF words", 0])
        np.testing.assert_array_equal(other, by_seed["TF-IDF words", 1])
        for labels in (one, other):
            assert sorted(labels) == sorted(data.codes())
            assert (labels != data.codes()).any()
        assert (one != other).any()

    def test_no_training_part_is_of_one_class(self):
        codes = np.array([0, 0, 0, 0, 0, 1])
        trains = [np.array([0, 1]), np.array([2, 3, 4, 5])]
        with_both = permuted_labels(np.array([0, 0, 0, 0, 1, 1]), trains, 0)
        assert [sorted(set(with_both[train])) for train in trains] == [[0, 1], [0, 1]]
        places = {int(permuted_labels(codes, trains[1:], seed).argmax()) for seed in range(40)}
        assert places == {2, 3, 4, 5}


def test_what_else_is_compared_changes_no_row(swept, make_data, tiny_bert, tiny_saes):
    choice = {"model": tiny_bert, "layers": [2, 1], "saes": [tiny_saes["relu"], tiny_saes["topk"]]}
    results = FeatureSweep(
        [choice], baselines=("chance", "tfidf_word", "pca"), cv=2, inner=2,
        strengths=(0.1, 1.0), permuted=False,
    ).run([make_data(20, "other"), swept.data])  # fmt: skip
    found = by_fold(results.where(dataset="reviews"), *FIGURES)
    expected = by_fold(swept.results.where(control="none"), *FIGURES)
    assert len(found) == 2 * (2 * 4 + 2)
    assert found == {key: expected[key] for key in found}


def test_processes_give_the_same_rows(swept, tiny_bert, tiny_saes, tmp_path):
    choice = {"model": tiny_bert, "layers": [1], "saes": [tiny_saes["topk"]]}
    two = FeatureSweep(
        [choice], baselines=("tfidf_word", "pca"), permuted=False, cv=2, inner=2, strengths=(0.1, 1.0),
        n_jobs=2, folder=tmp_path,
    ).run(swept.data)  # fmt: skip
    names = ["tiny-bert layer 1 topk max", "tiny-bert layer 1 states max, PCA for topk", "TF-IDF words"]
    assert [row["method"] for row in two.rows] == [name for name in names for _ in range(2)]
    found, expected = by_fold(two.rows, *FIGURES), by_fold(swept.results.rows, *FIGURES)
    assert found == {key: expected[key] for key in found}


def test_images(words_only, tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i in range(12):
        pixels = rng.integers(0, 60, (8, 8, 3)) + 150 * (i % 2)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    data = LabelledItems("tiles", paths, np.arange(12) % 2)
    results = FeatureSweep(**words_only, baselines=("pixels", "tfidf_word", "chance")).run(data)
    assert {row["method"] for row in results.rows} == {"pixels", "chance"}
    assert {row["macro_f1"] for row in results.where(method="pixels", control="none")} == {1.0}


def test_the_folder_tells_all(swept):
    assert sorted(path.name for path in swept.folder.iterdir()) == [
        "cells", "codes", "provenance.json", "results.csv", "results.parquet",
    ]  # fmt: skip
    about = json.loads((swept.folder / "provenance.json").read_text())
    assert about["settings"]["strengths"] == [0.1, 1.0]
    assert about["protocol"] == "sweep"
