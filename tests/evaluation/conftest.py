"""Small labelled data, tiny models to read them, and runs that several tests look at."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import WORDS, random_sae

from sae_features.backbones.backbone import Backbone
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.languages import fold_languages, lay_together
from sae_features.evaluation.sweep import FeatureSweep
from sae_features.evaluation.transfer import CrossLingualTransfer

TELLING = (("bad", "dull", "sad"), ("good", "wonderful", "beautiful"))
QUICK = {"cv": 2, "inner": 2, "strengths": (0.1, 1.0)}
WORDS_ONLY = {"models": ("minilm",), "saes": ()}


@pytest.fixture(scope="session")
def quick():
    """Parameters that make runs short."""
    return QUICK


@pytest.fixture(scope="session")
def words_only():
    """Parameters of a run without a model: what is compared are baselines of texts."""
    return QUICK | WORDS_ONLY


@pytest.fixture(scope="session")
def make_data():
    """Make labelled texts: one word of five tells the class, and one label in six is wrong."""
    others_of = sorted(set(WORDS).difference(*TELLING))

    def make(n=24, name="reviews", *, seed=0, **parts):
        rng = np.random.default_rng([seed, *name.encode()])
        labels = np.arange(n) % 2
        others = [" ".join(rng.choice(others_of, 4)) for _ in range(n)]
        texts = [f"{words} {rng.choice(TELLING[k])}" for words, k in zip(others, labels, strict=True)]
        wrong = np.arange(n) % 12 > 9
        names = np.array(["negative", "positive"])[np.where(wrong, 1 - labels, labels)]
        return LabelledItems(name, texts, names, **parts)

    return make


@pytest.fixture(scope="session")
def tiny_saes(tmp_path_factory):
    """Folders of SAEs for ``tiny_bert`` that say neither model nor layer: topk and relu."""
    root = tmp_path_factory.mktemp("saes")
    return {name: random_sae(name, point=None).save(root / name) for name in ("topk", "relu")}


@pytest.fixture(scope="session")
def texts_read():
    """Count how often each text reaches a model: ``with texts_read() as counts``."""

    class Counted:
        def __enter__(self):
            self.patch = pytest.MonkeyPatch()
            counts, genuine = Counter(), Backbone.windows

            def windows(backbone, items, *rest):
                counts.update(items.values)
                return genuine(backbone, items, *rest)

            self.patch.setattr(Backbone, "windows", windows)
            return counts

        def __exit__(self, *_):
            self.patch.undo()

    return Counted


@pytest.fixture(scope="session")
def swept(tmp_path_factory, tiny_bert, tiny_saes, make_data, texts_read):
    """A sweep over three layers, two SAEs at each, and baselines, in a folder."""
    folder = tmp_path_factory.mktemp("swept")
    data = make_data()

    def sweep(**how):
        choice = {
            "model": tiny_bert,
            "layers": [0, 1, 2],
            "saes": [tiny_saes["topk"], tiny_saes["relu"]],
        }
        options = {
            "baselines": ("states", "pca", "tfidf_word", "chance"), "folder": folder,
        }  # fmt: skip
        return FeatureSweep([choice], **QUICK | options | how)

    with texts_read() as counts:
        results = sweep().run(data)
    return SimpleNamespace(results=results, folder=folder, data=data, counts=counts, sweep=sweep)


@pytest.fixture(scope="session")
def languages(make_data):
    """Data of three languages, the last with more items."""
    return [make_data(n, name) for n, name in ((24, "en"), (24, "de"), (30, "it"))]


@pytest.fixture(scope="session")
def translations(languages):
    """English items in German, such as they are."""
    return {("en", "de"): [f"the {text}" for text in languages[0].items]}


@pytest.fixture(scope="session")
def laid(languages, translations):
    """Three languages and translations, laid end to end."""
    return lay_together(languages, translations)


@pytest.fixture(scope="session")
def folds(languages, laid):
    """Two folds of them."""
    return fold_languages(languages, laid, n_folds=2, n_repeats=1, seed=0)


@pytest.fixture(scope="session")
def matrix(tmp_path_factory, tiny_bert, tiny_saes, languages, translations, texts_read):
    """A cross-lingual transfer with few-shot and translated training, with and without centring."""
    folder = tmp_path_factory.mktemp("matrix")

    def transfer(**how):
        choice = {"model": tiny_bert, "layers": [1], "saes": [tiny_saes["topk"]]}
        options = {
            "baselines": ("states", "tfidf_word"), "few_shot": (3, 0.5), "center": (False, True),
            "strengths": (1.0,), "folder": folder,
        }  # fmt: skip
        return CrossLingualTransfer([choice], **QUICK | options | how)

    with texts_read() as counts:
        results = transfer().run(languages, translations, name="three")
    return SimpleNamespace(results=results, folder=folder, counts=counts, transfer=transfer)
