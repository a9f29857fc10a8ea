"""``SAEFeaturizer`` and ``ActivationFeaturizer`` on a tiny random BERT."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse as sp
import sklearn
import skops.io
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from tiny import SITES_OF_BERT

from sae_features import ActivationFeaturizer, SAEFeaturizer, load_backbone, load_sae, weights
from sae_features.errors import (
    DigestMismatchError,
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
)
from sae_features.featurizer import warm
from sae_features.parameters import ACTIVATION_POOLINGS, POOLINGS

TEXTS = [
    "a calm river",
    "the old village by the sea",
    "not a good answer",
    "snow",
    "a wonderful summer evening",
]
LABELS = np.array([0, 1, 0, 1, 1])
CHECKS = [
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_mixin_order",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_transformer_n_iter",
]


@pytest.fixture
def sae(tiny_sae_folder):
    return tiny_sae_folder("topk")


@pytest.fixture
def featurizer(tiny_bert, sae):
    return SAEFeaturizer(tiny_bert, sae=sae, cache=False)


def dense_codes(tiny_bert, folder, text):
    """Latents of content tokens, (n_tokens, n_latents), by the shortest way there is."""
    import torch

    acts = load_backbone(tiny_bert).activations([text], layer=1)
    return load_sae(folder).encode(torch.from_numpy(acts[0])).numpy()


POOLED = {
    "max": lambda codes: codes.max(axis=0),
    "mean": lambda codes: codes.mean(axis=0),
    "sum": lambda codes: codes.sum(axis=0),
    "first": lambda codes: codes[0],
    "last": lambda codes: codes[-1],
    "count": lambda codes: (codes != 0).sum(axis=0),
}


class TestFeatures:
    @pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
    @pytest.mark.parametrize("pooling", POOLINGS)
    def test_rows_are_pooled_latents(self, tiny_bert, tiny_sae_folder, architecture, pooling):
        folder = tiny_sae_folder(architecture)
        found = SAEFeaturizer(tiny_bert, sae=folder, pooling=pooling).transform(TEXTS)
        expected = [POOLED[pooling](dense_codes(tiny_bert, folder, text)) for text in TEXTS]
        np.testing.assert_allclose(found.toarray(), expected, rtol=1e-5, atol=1e-5)

    def test_rows_are_csr_float32_int32(self, featurizer):
        rows = featurizer.transform(TEXTS)
        assert sp.isspmatrix_csr(rows)
        assert (rows.dtype, rows.indices.dtype, rows.indptr.dtype) == ("float32", "int32", "int32")
        assert rows.shape == (5, 48)
        assert rows.has_sorted_indices
        assert (rows.data != 0).all()

    @pytest.mark.skipif("sparse_interface" not in sklearn.get_config(), reason="scikit-learn < 1.9")
    def test_sparse_arrays_where_scikit_learn_says_so(self, featurizer):
        with sklearn.config_context(sparse_interface="sparray"):
            rows = featurizer.transform(TEXTS)
        assert isinstance(rows, sp.csr_array)
        assert rows.indices.dtype == np.int32

    def test_dense_equals_sparse(self, featurizer):
        dense = clone(featurizer).set_params(sparse_output=False).transform(TEXTS)
        assert dense.dtype == np.float32
        np.testing.assert_array_equal(dense, featurizer.transform(TEXTS).toarray())

    def test_token_top_n_keeps_each_tokens_largest(self, tiny_bert, sae, featurizer):
        rows = featurizer.set_params(token_top_n=2, pooling="sum").transform(TEXTS).toarray()
        for row, text in zip(rows, TEXTS, strict=True):
            codes = dense_codes(tiny_bert, sae, text)
            codes[codes < np.sort(codes, axis=1)[:, [-2]]] = 0
            np.testing.assert_allclose(row, codes.sum(axis=0), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("threshold", [0, 0.5, 1])
    def test_threshold_is_strict_and_binarize_makes_ones(self, featurizer, threshold):
        plain = featurizer.transform(TEXTS).toarray()
        kept = clone(featurizer).set_params(threshold=threshold).transform(TEXTS)
        np.testing.assert_array_equal(kept.toarray(), np.where(plain > threshold, plain, 0))
        ones = clone(featurizer).set_params(threshold=threshold, binarize=True).transform(TEXTS)
        np.testing.assert_array_equal(ones.toarray(), plain > threshold)
        assert ones.dtype == np.float32

    def test_a_value_at_the_threshold_goes(self, featurizer):
        plain = featurizer.transform(TEXTS)
        at = float(plain.data[3])
        kept = clone(featurizer).set_params(threshold=at).transform(TEXTS)
        assert at not in kept.data

    def test_binarize_alone_means_above_zero(self, featurizer):
        plain = featurizer.transform(TEXTS).toarray()
        ones = clone(featurizer).set_params(binarize=True).transform(TEXTS).toarray()
        np.testing.assert_array_equal(ones, plain > 0)

    def test_searching_does_not_change_what_the_store_keeps(self, tiny_bert, sae):
        featurizer = SAEFeaturizer(tiny_bert, sae=sae)
        plain = featurizer.transform(TEXTS).toarray()
        for settings in ({"threshold": 1.0}, {"binarize": True}, {"token_top_n": 1}):
            clone(featurizer).set_params(**settings).transform(TEXTS)
        np.testing.assert_array_equal(featurizer.transform(TEXTS).toarray(), plain)

    def test_repeats_and_order(self, featurizer):
        rows = featurizer.transform(TEXTS).toarray()
        order = [3, 0, 0, 4, 3]
        again = featurizer.transform([TEXTS[i] for i in order]).toarray()
        np.testing.assert_allclose(again, rows[order], rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("pooling", ACTIVATION_POOLINGS)
    def test_activation_featurizer_pools_hidden_states(self, tiny_bert, pooling):
        rows = ActivationFeaturizer(tiny_bert, layer=2, pooling=pooling).transform(TEXTS)
        acts = load_backbone(tiny_bert).activations(TEXTS, layer=2)
        expected = [POOLED[pooling](acts[i]) for i in range(len(TEXTS))]
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("pooling", ["max", "mean", "sum", "first", "last"])
    def test_chunks_pool_over_all_windows(self, tiny_bert, sae, pooling):
        text = " ".join(TEXTS * 4)
        options = {"max_length": 12, "overflow": "chunk", "pooling": pooling, "cache": False}
        featurizer = ActivationFeaturizer(tiny_bert, layer=1, **options)
        backbone = load_backbone(tiny_bert)
        acts = backbone.activations([text], layer=1, max_length=12, overflow="chunk")
        assert len(acts[0]) > 20
        np.testing.assert_allclose(
            featurizer.transform([text])[0], POOLED[pooling](acts[0]), rtol=1e-5, atol=1e-5
        )
        latents = SAEFeaturizer(tiny_bert, sae=sae, sparse_output=False, **options)
        import torch

        codes = load_sae(sae).encode(torch.from_numpy(acts[0])).numpy()
        np.testing.assert_allclose(
            latents.transform([text])[0], POOLED[pooling](codes), rtol=1e-5, atol=1e-5
        )


class TestScikitLearn:
    @pytest.mark.parametrize("name", CHECKS)
    @pytest.mark.parametrize("estimator", [SAEFeaturizer(), ActivationFeaturizer()], ids=repr)
    def test_data_free_checks(self, name, estimator):
        getattr(estimator_checks, name)(type(estimator).__name__, estimator)

    @pytest.mark.parametrize("estimator", [SAEFeaturizer(), ActivationFeaturizer()], ids=repr)
    def test_check_estimator_finds_nothing(self, estimator):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.SkipTestWarning)
            results = estimator_checks.check_estimator(estimator)
        assert results
        assert {result["status"] for result in results} <= {"passed", "skipped"}

    @pytest.mark.parametrize(
        "X",
        [
            tuple(TEXTS),
            np.array(TEXTS),
            np.array(TEXTS, dtype=object),
            np.array(TEXTS, dtype=np.dtypes.StringDType()),
            pd.Series(TEXTS, index=list("abcde")),
            pl.Series(TEXTS),
            pd.DataFrame({"text": TEXTS}),
            pl.DataFrame({"text": TEXTS}),
        ],
        ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
    )
    def test_every_kind_of_X_gives_the_same_rows(self, featurizer, X):
        expected = featurizer.transform(TEXTS).toarray()
        np.testing.assert_array_equal(featurizer.fit_transform(X).toarray(), expected)
        pipeline = make_pipeline(featurizer, LogisticRegression())
        assert cross_val_score(pipeline, X, LABELS, cv=2).shape == (2,)

    @pytest.mark.parametrize("columns", ["text", ["text"]])
    def test_column_transformer(self, featurizer, columns):
        frame = pd.DataFrame({"text": TEXTS, "number": range(5)})
        transformer = ColumnTransformer([("sae", featurizer, columns)])
        rows = transformer.fit_transform(frame)
        assert rows.shape == (5, 48)
        assert transformer.get_feature_names_out()[0] == "sae__latent_0"

    def test_parameters_stay_as_they_were_given(self):
        path = Path("folder")
        featurizer = SAEFeaturizer(path, layer=np.int64(2), threshold=1)
        assert featurizer.model is path
        assert type(featurizer.layer) is np.int64
        assert featurizer.get_params()["threshold"] == 1
        assert clone(featurizer).get_params() == featurizer.get_params()

    def test_nothing_is_loaded_by_init_repr_fit_and_names(self, tiny_bert, sae):
        weights.release_weights()
        featurizer = SAEFeaturizer(tiny_bert, sae=sae)
        repr(featurizer)
        featurizer.fit(TEXTS)
        featurizer.get_feature_names_out()
        featurizer._repr_html_()
        assert weights.loaded_counts() == {"backbones": 0, "saes": 0}

    def test_clones_share_one_copy(self, tiny_bert, sae):
        weights.release_weights()
        featurizer = SAEFeaturizer(tiny_bert, sae=sae, cache=False)
        for copy in (featurizer, clone(featurizer), pickle.loads(pickle.dumps(featurizer))):
            copy.transform(TEXTS)
        assert weights.loaded_counts() == {"backbones": 1, "saes": 1}

    def test_fit_records_what_is_used(self, tiny_bert, sae, featurizer):
        assert featurizer.fit(TEXTS) is featurizer
        assert featurizer.model_ == str(tiny_bert)
        assert (featurizer.layer_, featurizer.site_) == (1, "resid_post")
        assert featurizer.sae_digest_ == load_sae(sae).digest
        assert len(featurizer.model_digest_) == 64
        assert featurizer.n_features_out_ == 48
        assert not hasattr(featurizer, "n_features_in_")

    def test_transform_works_without_fit(self, featurizer):
        assert featurizer.transform(TEXTS[:1]).shape == (1, 48)

    def test_names(self, featurizer):
        names = featurizer.get_feature_names_out()
        assert names.dtype == object
        assert list(names[:2]) == ["latent_0", "latent_1"]
        assert len(names) == 48

    def test_labels_are_made_unique(self, tiny_bert, tiny_sae_folder):
        folder = tiny_sae_folder("topk")
        labels = {0: "praise", 3: "praise", 4: "rain", 5: "latent_9"}
        replace(load_sae(folder), labels=labels).save(folder)
        names = SAEFeaturizer(tiny_bert, sae=folder, feature_names="label").get_feature_names_out()
        assert list(names[:6]) == [
            "praise (latent_0)",
            "latent_1",
            "latent_2",
            "praise (latent_3)",
            "rain",
            "latent_9 (latent_5)",
        ]
        assert len(set(names)) == len(names)

    def test_an_sae_without_labels_says_so(self, featurizer):
        with pytest.raises(InvalidParameterError, match="has no labels; use 'index'"):
            featurizer.set_params(feature_names="label").get_feature_names_out()

    @pytest.mark.parametrize("container", ["pandas", "polars"])
    def test_set_output(self, featurizer, container):
        featurizer.set_params(sparse_output=False).set_output(transform=container)
        frame = featurizer.fit_transform(TEXTS)
        assert list(frame.columns[:2]) == ["latent_0", "latent_1"]
        plain = clone(featurizer).set_output(transform="default").transform(TEXTS)
        np.testing.assert_array_equal(frame.to_numpy(), plain)

    def test_set_output_with_sparse_rows_says_what_to_do(self, featurizer):
        expected = "data frame needs sparse_output=False"
        with pytest.raises(InvalidParameterError, match=expected):
            featurizer.set_output(transform="pandas").transform(TEXTS)
        featurizer.set_output(transform="default")
        with (
            sklearn.config_context(transform_output="pandas"),
            pytest.raises(InvalidParameterError, match=expected),
        ):
            SAEFeaturizer(featurizer.model, sae=featurizer.sae).transform(TEXTS)

    def test_skops_round_trip(self, featurizer, tmp_path):
        pipeline = make_pipeline(featurizer, LogisticRegression()).fit(TEXTS, LABELS)
        skops.io.dump(pipeline, tmp_path / "p.skops")
        untrusted = skops.io.get_untrusted_types(file=tmp_path / "p.skops")
        assert [name for name in untrusted if "pathlib" not in name.lower()] == [
            "sae_features.featurizer.SAEFeaturizer"
        ]
        loaded = skops.io.load(tmp_path / "p.skops", trusted=untrusted)
        np.testing.assert_array_equal(loaded.predict_proba(TEXTS), pipeline.predict_proba(TEXTS))

    def test_grid_search_runs_the_model_once_per_text(self, tiny_bert, sae, monkeypatch):
        from sae_features.backbones.backbone import Backbone

        seen = []
        windows = Backbone.windows
        monkeypatch.setattr(
            Backbone,
            "windows",
            lambda self, items, *rest: seen.extend(items.values) or windows(self, items, *rest),
        )
        pipeline = make_pipeline(SAEFeaturizer(tiny_bert, sae=sae), LogisticRegression())
        grid = {
            "saefeaturizer__pooling": ["max", "mean", "count"],
            "saefeaturizer__threshold": [None, 0.5],
            "saefeaturizer__token_top_n": [None, 2],
            "saefeaturizer__binarize": [False, True],
        }
        GridSearchCV(pipeline, grid, cv=2).fit(TEXTS, LABELS)
        assert sorted(seen) == sorted(TEXTS)


class TestDigests:
    def test_other_weights_after_unpickling_are_refused(self, tiny_bert, tiny_sae_folder):
        folder = tiny_sae_folder("topk")
        featurizer = SAEFeaturizer(tiny_bert, sae=folder).fit(TEXTS)
        stored = pickle.dumps(featurizer)
        load_sae(tiny_sae_folder("relu")).save(folder)
        with pytest.raises(DigestMismatchError, match="was fitted with sae_digest_=.*Fit it again"):
            pickle.loads(stored).transform(TEXTS)

    def test_other_parameters_after_fit_are_refused(self, tiny_bert, tiny_sae_folder):
        featurizer = SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk")).fit(TEXTS)
        featurizer.set_params(sae=tiny_sae_folder("relu"))
        with pytest.raises(DigestMismatchError, match="sae_digest_"):
            featurizer.transform(TEXTS)
        assert featurizer.fit(TEXTS).transform(TEXTS).shape == (5, 48)

    def test_another_tokenizer_after_fit_is_refused(self, tiny_bert, tmp_path):
        folder = shutil.copytree(tiny_bert, tmp_path / "model")
        featurizer = ActivationFeaturizer(folder, layer=1).fit(TEXTS)
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["normalizer"]["lowercase"] = False
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        with pytest.raises(DigestMismatchError, match="processor_digest_"):
            featurizer.transform(TEXTS)

    def test_another_layer_after_fit_is_refused(self, tiny_bert):
        featurizer = ActivationFeaturizer(tiny_bert, layer=0).fit(TEXTS).set_params(layer=2)
        with pytest.raises(DigestMismatchError, match="fitted with layer_=0, but .* has 2"):
            featurizer.transform(TEXTS)
        assert featurizer.fit(TEXTS).layer_ == 2


class TestBadInput:
    @pytest.mark.parametrize(
        ("X", "error", "text"),
        [
            ([], InvalidInputError, "Got no items"),
            (["a", None], InvalidInputError, "Got None as item 1"),
            (["a", float("nan")], InvalidInputError, "Got nan as item 1"),
            ([b"a"], InputTypeError, "Got bytes as item 0"),
            (["a", "b", 3], InputTypeError, "Got int as item 2"),
            (["a\ud800b"], InvalidInputError, "Item 0 has a lone surrogate at character 1"),
            (pd.DataFrame({"a": ["x"], "b": ["y"]}), InvalidInputError, "2 columns"),
            ((text for text in TEXTS), InputTypeError, "Got a generator"),
            ("a text", InputTypeError, "Got a single str"),
            (np.zeros((2, 4, 4, 3), np.uint8), InvalidInputError, "Images need a vision model"),
            ([np.zeros((4, 4, 3), np.uint8)], InputTypeError, "images need a vision model"),
            ([Path("cat.png")], InputTypeError, "images need a vision model"),
        ],
    )
    @pytest.mark.parametrize("method", ["fit", "transform"])
    def test_X(self, featurizer, X, error, text, method):
        with pytest.raises(error, match=text):
            getattr(featurizer, method)(X)

    @pytest.mark.parametrize(
        ("parameters", "text"),
        [
            ({"pooling": "avg"}, "Got pooling='avg'; expected one of max, mean, sum"),
            ({"tokens": "contents"}, "Did you mean 'content'"),
            ({"overflow": "cut"}, "Got overflow='cut'"),
            ({"threshold": -1}, "Got threshold=-1; expected None or a float32 that is not negative"),
            ({"threshold": float("nan")}, "Got threshold=nan"),
            ({"token_top_n": 0}, "Got token_top_n=0; expected None or an integer above 0"),
            ({"max_length": 2.5}, "Got max_length=2.5"),
            ({"max_length": 1000}, "this model takes at most 64 tokens"),
            ({"max_length": 2}, "leaves no room for text"),
            ({"batch_size": True}, "Got batch_size=True"),
            ({"prompt": "query: "}, r"expected 'chat' or a string with \{\} once"),
            ({"prompt": "chat"}, "has no chat template"),
            ({"dtype": "int8"}, "Got dtype='int8'"),
            ({"device": "tpu9"}, "Got device='tpu9', which torch cannot use here"),
            ({"cache": 3}, "Got cache=3; expected a folder, True"),
            ({"feature_names": "names"}, "Got feature_names='names'"),
            ({"layer": 2}, "Got layer=2, but the SAE .* reads layer 1; leave one"),
            ({"layer": 7}, "Got layer=7; expected 0 to 2"),
            ({"site": "resid_pre"}, "Got site='resid_pre', but the SAE .* reads 'resid_post'"),
            ({"site": "output"}, "Got site='output'; expected one of resid_pre"),
            ({"sae": "random:8:9"}, "expected 'random:WIDTH:K'"),
            ({"sae": object()}, "Got sae of type object"),
        ],
    )
    def test_parameters(self, featurizer, parameters, text):
        featurizer.set_params(**parameters)
        with pytest.raises(InvalidParameterError, match=text):
            featurizer.transform(TEXTS)

    def test_counting_activations_makes_no_sense(self, tiny_bert):
        with pytest.raises(InvalidParameterError, match="Got pooling='count'; expected one of max"):
            ActivationFeaturizer(tiny_bert, layer=1, pooling="count").fit(TEXTS)

    def test_empty_and_special_texts_give_zero_rows_and_one_warning(self, featurizer):
        X = ["a calm river", "", "[CLS] [SEP]", "   "]
        with pytest.warns(SAEFeaturesWarning) as caught:
            rows = featurizer.transform(X)
        assert len(caught) == 1
        assert str(caught[0].message) == (
            "3 of 4 texts have no token that counts (the first is item 1); their rows are zero."
        )
        assert rows.shape == (4, 48)
        assert np.diff(rows.indptr)[1:].sum() == 0
        assert np.diff(rows.indptr)[0] > 0

    def test_warnings_name_the_line_that_called(self, tiny_bert, sae):
        for use in (
            lambda f: f.transform(["", "snow"]),
            lambda f: f.token_codes(["  ", "snow"]),
            lambda f: list(f.iter_transform(["   ", "snow"])),
            lambda f: f.warm(["    ", "snow"]),
            lambda f: warm([f], ["     ", "snow"]),
        ):
            with pytest.warns(SAEFeaturesWarning) as caught:
                use(SAEFeaturizer(tiny_bert, sae=sae))
            assert [each.filename for each in caught] == [__file__]

    def test_only_empty_texts(self, tiny_bert, featurizer):
        with pytest.warns(SAEFeaturesWarning, match="2 of 2"):
            rows = featurizer.transform(["", ""])
        assert rows.shape == (2, 48)
        assert rows.nnz == 0
        with pytest.warns(SAEFeaturesWarning, match="1 of 1"):
            dense = ActivationFeaturizer(tiny_bert, layer=1, pooling="mean").transform([""])
        np.testing.assert_array_equal(dense, np.zeros((1, 32)))

    def test_a_megabyte_of_text_is_truncated_with_one_warning(self, featurizer):
        long = "river valley " * 80_000
        with pytest.warns(SAEFeaturesWarning) as caught:
            rows = featurizer.transform(["snow", long, long + "end"])
        assert [str(warning.message) for warning in caught] == [
            "2 of 3 texts are longer than 64 tokens and were truncated (the first is item 1); "
            "overflow='chunk' uses all of them."
        ]
        short = featurizer.transform(["river valley " * 31])  # 62 tokens and two special ones
        np.testing.assert_allclose(rows[1].toarray(), short.toarray(), rtol=1e-5, atol=1e-6)

    def test_progress_counts_every_text(self, tiny_bert, sae, capsys):
        featurizer = SAEFeaturizer(tiny_bert, sae=sae, verbose=True)
        for _ in range(2):
            featurizer.transform([*TEXTS, TEXTS[0]])
            assert "6/6" in capsys.readouterr().err


class TestWarm:
    @pytest.fixture
    def runs(self, monkeypatch):
        """Number of texts in each run of a model."""
        from sae_features.backbones.backbone import Backbone

        seen = []
        windows = Backbone.windows
        monkeypatch.setattr(
            Backbone,
            "windows",
            lambda self, items, *rest: seen.append(len(items)) or windows(self, items, *rest),
        )
        return seen

    def test_one_run_serves_latents_of_several_layers_and_hidden_states(
        self, tiny_bert, tiny_sae_folder, runs
    ):
        featurizers = [
            SAEFeaturizer(tiny_bert, sae=tiny_sae_folder("topk")),
            SAEFeaturizer(tiny_bert, sae="random:64:4", layer=2, pooling="mean"),
            ActivationFeaturizer(tiny_bert, layer=0),
        ]
        expected = [clone(f).set_params(cache=False).transform(TEXTS) for f in featurizers]
        runs.clear()
        warm(featurizers, [*TEXTS, TEXTS[0]])
        assert runs == [len(TEXTS)]
        for featurizer, rows in zip(featurizers, expected, strict=True):
            found = featurizer.transform(TEXTS)
            difference = abs(found - rows)
            assert difference.max() <= 1e-5 * abs(rows).max()
        assert runs == [len(TEXTS)]

    def test_other_tokens_are_another_run(self, tiny_bert, runs):
        featurizers = [ActivationFeaturizer(tiny_bert, layer=1, tokens=t) for t in ("content", "all")]
        warm(featurizers, TEXTS)
        assert runs == [len(TEXTS)] * 2

    def test_only_what_is_lacking_is_computed(self, tiny_bert, runs):
        featurizer = ActivationFeaturizer(tiny_bert, layer=1)
        featurizer.transform(TEXTS[:3])
        warm([featurizer], TEXTS)
        assert runs == [3, 2]

    def test_one_warning_names_positions_in_X(self, tiny_bert):
        featurizers = [ActivationFeaturizer(tiny_bert, layer=layer) for layer in (0, 1)]
        with pytest.warns(SAEFeaturesWarning) as caught:
            warm(featurizers, ["snow", "", "river"])
        assert len(caught) == 1
        assert "1 of 3 texts have no token that counts (the first is item 1)" in str(caught[0].message)

    def test_bad_input(self, tiny_bert):
        for nothing in ([], ActivationFeaturizer(tiny_bert, layer=1)):
            with pytest.raises(InvalidParameterError, match="expected at least one in a list"):
                warm(nothing, TEXTS)
        with pytest.raises(InvalidParameterError, match="Got a LogisticRegression; expected SAEF"):
            warm([LogisticRegression()], TEXTS)
        with pytest.raises(InvalidParameterError, match="cache=False; it would keep nothing"):
            warm([ActivationFeaturizer(tiny_bert, layer=1, cache=False)], TEXTS)
        with pytest.raises(InvalidParameterError, match="Got pooling='avg'"):
            warm([ActivationFeaturizer(tiny_bert, layer=1, pooling="avg")], TEXTS)


def test_a_site_that_the_model_lacks_is_refused_by_fit(tiny_bert):
    message = f"^Got site='mlp_normalized', which block 1 of this model .* it has {SITES_OF_BERT}.$"
    with pytest.raises(InvalidParameterError, match=message):
        ActivationFeaturizer(tiny_bert, layer=1, site="mlp_normalized").fit(TEXTS)
