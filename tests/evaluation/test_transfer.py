from __future__ import annotations

import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sae_features import ActivationFeaturizer
from sae_features.errors import InvalidInputError, InvalidParameterError, SAEFeaturesWarning
from sae_features.evaluation import tasks
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.splits import inner_folds
from sae_features.evaluation.transfer import CrossLingualTransfer

NAMES = ("en", "de", "it")
FIGURES = ("macro_f1", "auroc", "validation", "n_train", "n_test", "chosen")


def by_pair(rows, *columns):
    names = ("method", "control", "train_on", "test_on", "setting", "fold")
    return {tuple(row[n] for n in names): [row[column] for column in columns] for row in rows}


class TestMatrix:
    def test_there_is_a_row_for_each_pair_and_setting(self, matrix):
        pairs = {(a, b, "zero_shot" if a != b else "in_language") for a in NAMES for b in NAMES}
        for n in (3, 6):  # half of the 12 items that each language trains on
            pairs |= {(a, b, f"few_shot_{n}") for a in NAMES for b in NAMES if a != b}
            pairs |= {(a, a, f"target_only_{n}") for a in NAMES}
        pairs.add(("en", "de", "translated_train"))
        latents, states = "tiny-bert layer 1 topk max", "tiny-bert layer 1 states max"
        centred = [f"{name}, centred per language" for name in (latents, states)]
        rows = matrix.results.where(control="none")
        assert {row["method"] for row in rows} == {latents, states, "TF-IDF words", *centred}
        for method in {row["method"] for row in rows}:
            found = [row for row in rows if row["method"] == method]
            assert len(found) == 2 * len(pairs)
            assert {(r["train_on"], r["test_on"], r["setting"]) for r in found} == pairs
        assert {row["dataset"] for row in rows} == {"three"}
        permuted = matrix.results.where(control="permuted")
        assert {row["setting"] for row in permuted} == {"in_language", "zero_shot"}
        assert len(permuted) == 2 * 9 * (2 * 2 + 1)

    def test_each_text_is_read_once(self, matrix, languages, translations):
        texts = [text for data in languages for text in data.items] + translations["en", "de"]
        assert matrix.counts == dict.fromkeys(texts, 1)

    def test_a_second_run_reads_and_fits_nothing(
        self, matrix, languages, translations, texts_read, monkeypatch
    ):
        monkeypatch.setattr(GridSearchCV, "fit", lambda *_: pytest.fail("something is fitted"))
        with texts_read() as counts:
            again = matrix.transfer().run(languages, translations, name="three")
        assert not counts
        assert again.rows == matrix.results.rows

    def test_new_settings_compute_only_what_is_new(
        self, matrix, languages, translations, texts_read, monkeypatch, tmp_path
    ):
        written = []
        copy = shutil.copytree(matrix.folder, tmp_path / "copy")
        monkeypatch.setattr(
            tasks, "write_cell", lambda folder, cell: written.append(cell.rows[0]["setting"])
        )
        with texts_read() as counts:
            matrix.transfer(few_shot=(3, 4, 0.5), folder=copy).run(languages, translations, name="three")
        assert not counts
        assert written == ["target_only_4"] * 5

    def test_all_train_on_equally_many_and_are_tested_on_the_same(self, matrix):
        sizes = {"in_language": 12, "zero_shot": 12, "translated_train": 12}
        sizes |= {
            f"{name}_{n}": n + more
            for name, more in (("few_shot", 12), ("target_only", 0))
            for n in (3, 6)
        }
        for row in matrix.results.rows:
            assert row["n_train"] == sizes[row["setting"]]
        tested = {}
        for row in matrix.results.rows:
            items = matrix.results.predictions(row).items.tolist()
            assert tested.setdefault((row["test_on"], row["fold"]), items) == items
        for name, first, n in (("en", 0, 24), ("de", 24, 24), ("it", 48, 30)):
            both = tested[name, 0] + tested[name, 1]
            assert sorted(both) == list(range(first, first + n))

    def test_one_row_written_out(self, matrix, languages, laid, folds, tiny_bert):
        """Trained in English and with three items of Italian, centred, tested in Italian."""
        X = ActivationFeaturizer(tiny_bert, layer=1).transform(laid.items[:78])
        for fold in folds:
            X_fold = X.copy()
            for i, (start, stop) in enumerate(((0, 24), (24, 48), (48, 78))):
                X_fold[start:stop] -= X[np.sort(fold.rest[i])].mean(axis=0)
            train = np.concatenate([fold.train[0], fold.rest[2][:3]])
            search = GridSearchCV(
                Pipeline([("scale", MaxAbsScaler()), ("classify", LogisticRegression(max_iter=2000))]),
                {"classify__C": [1.0], "scale": [MaxAbsScaler(), StandardScaler()]},
                scoring="f1_macro",
                cv=inner_folds(laid.codes[train], laid.together[train], 2, 0),
            ).fit(X_fold[train], laid.codes[train])
            (row,) = matrix.results.where(
                method="tiny-bert layer 1 states max, centred per language", train_on="en", test_on="it",
                setting="few_shot_3", fold=fold.number,
            )  # fmt: skip
            test = fold.test[2]
            found = matrix.results.predictions(row)
            np.testing.assert_array_equal(found.items, test)
            np.testing.assert_allclose(found.scores, search.predict_proba(X_fold[test]), atol=1e-4)
            said = search.predict(X_fold[test])
            assert row["macro_f1"] == pytest.approx(f1_score(laid.codes[test], said, average="macro"))
            assert row["validation"] == pytest.approx(search.best_score_)

    def test_what_else_is_compared_changes_no_row(
        self, matrix, languages, translations, tiny_bert, tiny_saes
    ):
        choice = {"model": tiny_bert, "layers": [1], "saes": [tiny_saes["relu"], tiny_saes["topk"]]}
        results = CrossLingualTransfer(
            [choice], baselines=("tfidf_word", "states"), permuted=False, cv=2, inner=2,
            strengths=(1.0,),
        ).run(languages)  # fmt: skip
        found = by_pair(results.rows, *FIGURES)
        expected = by_pair(matrix.results.rows, *FIGURES)
        common = found.keys() & expected.keys()
        assert len(common) == 3 * 2 * 9
        assert {key: found[key] for key in common} == {key: expected[key] for key in common}


class TestLeaks:
    @pytest.fixture
    def leaking(self, make_data):
        """German test items that English trains on, in one and the same split."""
        en, de = make_data(24, "en"), make_data(24, "de")
        split = ["train"] * 14 + ["test"] * 10
        copied = [*de.items[:22], en.items[0], en.items[1]]
        return [
            LabelledItems(d.name, items, d.labels, split=split)
            for d, items in ((en, en.items), (de, copied))
        ]

    def run(self, words_only, data, translated=None, **how):
        return CrossLingualTransfer(
            **words_only | {"permuted": False} | how, baselines=("bag_of_words",)
        ).run(data, translated)

    def test_they_are_an_error(self, words_only, leaking):
        with pytest.raises(InvalidInputError) as error:
            self.run(words_only, leaking)
        assert str(error.value) == (
            "The test part of de, with the training parts of all languages, has 2 test items that are "
            "also trained on (the first at position 46); give on_leak='drop' or clean the data."
        )

    def test_they_are_dropped_for_all_or_kept_with_a_warning(self, words_only, leaking):
        results = self.run(words_only, leaking, on_leak="drop")
        assert {(row["test_on"], row["n_test"]) for row in results.rows} == {("en", 10), ("de", 8)}
        assert (results.provenance["n_leaking"], results.provenance["on_leak"]) == (2, "drop")
        with pytest.warns(SAEFeaturesWarning, match="The test part of de.* has 2 test items"):
            results = self.run(words_only, leaking, on_leak="warn")
        assert {row["n_test"] for row in results.rows} == {10}

    def test_translations_of_training_items_leak_too(self, words_only, languages):
        en, de = languages[:2]
        translated = {("en", "de"): list(de.items)}  # parallel texts, of which folds know nothing
        with pytest.raises(InvalidInputError, match="The test part of de.* are also trained on"):
            self.run(words_only, [en, de], translated)
        assert {row["setting"] for row in self.run(words_only, [en, de]).rows} == {
            "in_language",
            "zero_shot",
        }
        by_pairs = [LabelledItems(d.name, d.items, d.labels, groups=range(24)) for d in (en, de)]
        results = self.run(words_only, by_pairs, translated)
        assert results.provenance["n_leaking"] == 0
        assert {row["setting"] for row in results.rows} == {
            "in_language",
            "zero_shot",
            "translated_train",
        }

    def test_nothing_is_left_of_a_class(self, words_only, leaking):
        en, de = leaking
        positive = de.labels == "positive"
        texts = [
            en.items[0] if is_positive and side == "test" else text
            for text, is_positive, side in zip(de.items, positive, de.split, strict=True)
        ]
        data = [en, LabelledItems("de", texts, de.labels, split=de.split)]
        with pytest.raises(InvalidInputError, match="de: class 'positive' is absent in the test part"):
            self.run(words_only, data, on_leak="drop")


class TestControl:
    def test_it_lands_at_chance_everywhere(self, words_only, make_data):
        listed = [make_data(96, name) for name in ("en", "de")]
        results = CrossLingualTransfer(
            **words_only | {"repeats": 6, "strengths": (1.0,)}, baselines=("bag_of_words",)
        ).run(listed)
        for setting in ("in_language", "zero_shot"):
            scores = [row["auroc"] for row in results.where(control="permuted", setting=setting)]
            assert len(scores) == 24
            assert abs(np.mean([score for score in scores if score is not None]) - 0.5) < 0.06
            real = [row["auroc"] for row in results.where(control="none", setting=setting)]
            assert np.mean(real) > 0.7

    def test_labels_are_the_same_for_all_pairs(self, matrix, laid):
        permuted = matrix.results.where(control="permuted")
        labels = np.full(78, -1)
        for row in permuted:
            found = matrix.results.predictions(row)
            known = labels[found.items]
            assert ((known == -1) | (known == found.truth)).all()
            labels[found.items] = found.truth
        assert sorted(labels) == sorted(laid.codes)
        assert (labels != laid.codes).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"few_shot": 3}, "Got few_shot=3; expected a list: [3]."),
        ({"few_shot": (0,)}, "Got few_shot=0; expected numbers of items, or shares between 0 and 1."),
        ({"few_shot": (1.5,)}, "Got few_shot=1.5; expected"),
        ({"few_shot": (True,)}, "Got few_shot=True; expected"),
        ({"few_shot": ("16",)}, "Got few_shot='16'; expected"),
        ({"center": True}, "Got center=True; expected a list: [True]."),
        ({"center": ()}, "Got no center; expected at least one."),
        ({"center": ("yes",)}, "Got center='yes'; expected True or False."),
        ({"train_size": 2.5}, "Got train_size=2.5; expected None or an integer above 0."),
    ],
)
def test_what_cannot_be(given, message):
    with pytest.raises(InvalidParameterError) as error:
        CrossLingualTransfer(**given)
    assert str(error.value).startswith(message)


def test_settings_tell_what_was_asked_for():
    how = {"few_shot": [np.int64(4), np.float32(0.5)], "center": [True], "train_size": 9}
    found = CrossLingualTransfer(**how, cv=3).settings()
    assert (found["few_shot"], found["center"], found["train_size"], found["cv"]) == (
        [4, 0.5],
        [True],
        9,
        3,
    )
    assert [type(value) for value in found["few_shot"]] == [int, float]
