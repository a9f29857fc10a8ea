"""Each item once: what ``cache`` means for featurizers, in one process and in several."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from tiny import WORDS, random_sae

from sae_features import ActivationFeaturizer, SAEFeaturizer, weights
from sae_features.backbones.backbone import Backbone
from sae_features.errors import (
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
    StoreError,
)
from sae_features.featurizer import warm
from sae_features.parameters import POOLINGS
from sae_features.store import memory, session
from sae_features.store.settings import disk_store

TEXTS = [
    "a calm river",
    "the old village by the sea",
    "not a good answer",
    "snow",
    "a wonderful summer evening",
]


@pytest.fixture(scope="module")
def saes(tmp_path_factory):
    """Folders of SAEs: sparse and dense codes."""
    root = tmp_path_factory.mktemp("saes")
    return {name: random_sae(name, n_latents=120).save(root / name) for name in ("topk", "relu")}


def same(found, expected):
    found, expected = (x.toarray() if sp.issparse(x) else x for x in (found, expected))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1, abs(expected).max()))


@settings(max_examples=25)
@given(
    texts=st.lists(
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=12).map(" ".join), min_size=1, max_size=8
    ),
    pooling=st.sampled_from(POOLINGS),
    top_n=st.sampled_from([None, 2]),
    name=st.sampled_from(["topk", "relu"]),
    batch_size=st.sampled_from([None, 1, 3]),
    chunk=st.integers(1, 9),
    order=st.randoms(use_true_random=False),
)
def test_no_way_of_keeping_changes_a_row(
    tiny_bert, saes, tmp_path_factory, texts, pooling, top_n, name, batch_size, chunk, order
):
    """Batches, order, repeats, streams and stores, cold and warm."""
    expected = SAEFeaturizer(
        tiny_bert, sae=saes[name], pooling=pooling, token_top_n=top_n, cache=False, batch_size=1
    ).transform(texts)
    folder = tmp_path_factory.mktemp("cache")
    shuffled = order.sample(range(len(texts)), len(texts))
    for cache in (False, None, folder, folder):
        featurizer = SAEFeaturizer(
            tiny_bert,
            sae=saes[name],
            pooling=pooling,
            token_top_n=top_n,
            batch_size=batch_size,
            cache=cache,
        )
        same(featurizer.transform(texts), expected)
        same(featurizer.transform([texts[i] for i in shuffled]), expected[shuffled])
        same(sp.vstack(list(featurizer.iter_transform(iter(texts), chunk=chunk))), expected)


class TestOnDisk:
    def test_a_later_process_loads_no_model(self, tiny_bert, saes, tmp_path, seen):
        for name in ("topk", "relu"):
            featurizer = SAEFeaturizer(tiny_bert, sae=saes[name], cache=tmp_path / "cache")
            first = featurizer.transform(TEXTS)
            assert seen == sorted(TEXTS, key=len, reverse=True)
            seen.clear()
            weights.release_weights()
            for pooling in POOLINGS:
                again = clone(featurizer).set_params(pooling=pooling, threshold=0.1)
                again.fit_transform([*TEXTS[2:], *TEXTS[:2]])
            np.testing.assert_array_equal(featurizer.transform(TEXTS).toarray(), first.toarray())
            assert seen == []
            assert weights.loaded_counts() == {"backbones": 0, "saes": 0}

    def test_hidden_states_too(self, tiny_bert, tmp_path, seen):
        featurizer = ActivationFeaturizer(tiny_bert, layer=1, cache=str(tmp_path))
        first = featurizer.transform(TEXTS)
        seen.clear()
        np.testing.assert_array_equal(featurizer.transform(TEXTS), first)
        assert seen == []

    def test_dense_codes_are_kept_pooled_and_single_tokens_computed_again(
        self, tiny_bert, saes, tmp_path, seen
    ):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["relu"], cache=tmp_path)
        featurizer.transform(TEXTS)
        kept = [identity["who"]["kept"] for identity in disk_store(tmp_path).stats()["identities"]]
        assert kept == ["pooled codes, float32"]
        seen.clear()
        codes = featurizer.token_codes(TEXTS)
        assert sorted(seen) == sorted(TEXTS)
        seen.clear()
        featurizer.token_codes(TEXTS)
        clone(featurizer).set_params(token_top_n=3).transform(TEXTS)
        assert seen == []
        assert codes.indices.dtype == np.uint16

    def test_no_text_is_in_the_store(self, tiny_bert, saes, tmp_path):
        text = "wonderful village evening"
        SAEFeaturizer(tiny_bert, sae=saes["topk"], cache=tmp_path).transform([text])
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert any(path.suffix == ".safetensors" for path in files)
        for path in files:
            assert b"village" not in path.read_bytes()
            assert path.stat().st_mode & 0o077 == 0

    def test_other_weights_under_the_same_name_are_another_computation(
        self, tiny_bert, saes, tmp_path, seen
    ):
        import shutil

        from safetensors.torch import load_file, save_file

        model = Path(shutil.copytree(tiny_bert, tmp_path / "model"))
        featurizer = SAEFeaturizer(model, layer=1, sae=saes["topk"], cache=tmp_path / "cache")
        before = featurizer.transform(TEXTS).toarray()
        tensors = load_file(model / "model.safetensors")
        tensors["embeddings.word_embeddings.weight"] *= -1
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        seen.clear()
        after = featurizer.transform(TEXTS).toarray()
        assert sorted(seen) == sorted(TEXTS)
        assert abs(after - before).max() > 0.01

    def test_what_is_cleared_is_computed_again(self, tiny_bert, saes, tmp_path, seen):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"], cache=tmp_path)
        featurizer.transform(TEXTS)
        disk_store(tmp_path).clear()
        seen.clear()
        featurizer.transform(TEXTS)
        assert sorted(seen) == sorted(TEXTS)

    def test_the_variable_says_what_none_means(self, tiny_bert, saes, tmp_path, monkeypatch, seen):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
        monkeypatch.setenv("SAE_FEATURES_CACHE", str(tmp_path / "here"))
        featurizer.transform(TEXTS)
        assert disk_store(tmp_path / "here").stats()["items"] == len(TEXTS)
        assert len(memory.SHARED) == 0
        monkeypatch.setenv("SAE_FEATURES_CACHE", "off")
        seen.clear()
        featurizer.transform(TEXTS)
        assert sorted(seen) == sorted(TEXTS)
        with pytest.raises(InvalidParameterError, match="it would keep nothing"):
            featurizer.warm(TEXTS)

    def test_codes_in_half_precision_by_choice(self, tiny_bert, saes, tmp_path, monkeypatch):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"], cache=tmp_path)
        whole = featurizer.transform(TEXTS).toarray()
        monkeypatch.setenv("SAE_FEATURES_CACHE_DTYPE", "float16")
        half = featurizer.transform(TEXTS).toarray()
        assert 0 < (abs(half - whole) / np.maximum(whole, 1e-4)).max() <= 2**-11
        np.testing.assert_array_equal(featurizer.transform(TEXTS).toarray(), half)
        codes = featurizer.token_codes(TEXTS)
        assert codes.values.dtype == np.float16  # noqa: PD011 no frame
        assert codes.tocsr().dtype == np.float32
        monkeypatch.setenv("SAE_FEATURES_CACHE_DTYPE", "float8")
        with pytest.raises(InvalidParameterError, match="Got SAE_FEATURES_CACHE_DTYPE='float8'"):
            featurizer.transform(TEXTS)

    def test_what_was_finished_before_an_interruption_is_kept(
        self, tiny_bert, saes, tmp_path, monkeypatch, seen
    ):
        from sae_features import model_run

        monkeypatch.setattr(model_run, "BLOCK_CHARACTERS", (1, 1))
        genuine, runs = Backbone.run, []

        def run(self, *args, **options):
            runs.append(1)
            if len(runs) == 3:
                raise KeyboardInterrupt
            return genuine(self, *args, **options)

        monkeypatch.setattr(Backbone, "run", run)
        for cache in (tmp_path, None):
            runs.clear()
            featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"], cache=cache)
            with pytest.raises(KeyboardInterrupt):
                featurizer.transform(TEXTS)
            seen.clear()
            featurizer.transform(TEXTS)
            assert sorted(seen) == sorted(sorted(TEXTS, key=len)[:3])


class TestStream:
    def test_of_hidden_states(self, tiny_bert):
        featurizer = ActivationFeaturizer(tiny_bert, layer=1, pooling="mean")
        parts = list(featurizer.iter_transform((text for text in TEXTS), chunk=2))
        assert [len(part) for part in parts] == [2, 2, 1]
        same(np.concatenate(parts), featurizer.transform(TEXTS))

    def test_nothing_is_kept_in_memory(self, tiny_bert, saes):
        list(SAEFeaturizer(tiny_bert, sae=saes["topk"]).iter_transform(TEXTS))
        assert len(memory.SHARED) == 0

    def test_of_nothing(self, tiny_bert, saes):
        assert list(SAEFeaturizer(tiny_bert, sae=saes["topk"]).iter_transform(iter(()))) == []

    def test_an_item_is_named_by_its_position_in_the_stream(self, tiny_bert, saes):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
        stream = featurizer.iter_transform(iter([*TEXTS, None]), chunk=2)
        assert next(stream).shape == (2, 120)
        next(stream)
        with pytest.raises(InvalidInputError, match="Got None as item 5; expected a text"):
            next(stream)
        with pytest.raises(InvalidInputError, match="Got None as item 5; expected a text"):
            featurizer.iter_transform([*TEXTS, None], chunk=2)  # known ahead

    @pytest.mark.parametrize("container", [pd.Series, np.array, lambda x: pd.DataFrame({"text": x})])
    def test_containers_are_read_as_transform_reads_them(self, tiny_bert, saes, container):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
        parts = list(featurizer.iter_transform(container(TEXTS), chunk=2))
        same(sp.vstack(parts), featurizer.transform(TEXTS))

    def test_one_warning_for_all(self, tiny_bert, saes):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
        with pytest.warns(SAEFeaturesWarning) as caught:
            list(featurizer.iter_transform([*TEXTS, "", "snow", ""], chunk=3))
        (message,) = {str(each.message) for each in caught}
        assert message.startswith("2 of 8 texts have no token that counts (the first is item 5)")

    def test_progress_shows_items_and_tokens(self, tiny_bert, saes, capsys):
        featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"], verbose=True)
        list(featurizer.iter_transform(iter(TEXTS), chunk=2, n_items=5))
        shown = capsys.readouterr().err
        assert "5/5" in shown
        assert "tokens/s" in shown

    @pytest.mark.parametrize("chunk", [0, 2.5])
    def test_bad_parameters_are_refused_at_once(self, tiny_bert, saes, chunk):
        with pytest.raises(InvalidParameterError, match="Got chunk="):
            SAEFeaturizer(tiny_bert, sae=saes["topk"]).iter_transform(TEXTS, chunk=chunk)


def test_warming_repeated_texts_comes_to_an_end(tiny_bert, saes, capsys):
    SAEFeaturizer(tiny_bert, sae=saes["topk"], verbose=True).warm([*TEXTS, *TEXTS[:3]])
    assert f"{len(TEXTS) + 3}/{len(TEXTS) + 3}" in capsys.readouterr().err


def test_warm_as_a_method(tiny_bert, saes, seen):
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
    assert featurizer.warm(TEXTS) is featurizer
    seen.clear()
    featurizer.set_params(pooling="mean").transform(TEXTS)
    assert seen == []


def test_warm_keeps_codes_where_a_featurizer_needs_those_of_single_tokens(tiny_bert, saes, seen):
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["relu"], token_top_n=2).warm(TEXTS)
    seen.clear()
    featurizer.transform(TEXTS)
    assert seen == []


def test_what_was_kept_in_half_precision_is_not_served_in_full(tiny_bert, saes, tmp_path, monkeypatch):
    from sae_features import readers

    monkeypatch.setattr(readers, "MAX_CODES_BYTES", 1)  # codes are kept pooled
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"], pooling="sum", cache=tmp_path)
    expected = clone(featurizer).set_params(cache=False).transform(TEXTS)
    monkeypatch.setenv("SAE_FEATURES_CACHE_DTYPE", "float16")
    featurizer.transform(TEXTS)
    monkeypatch.delenv("SAE_FEATURES_CACHE_DTYPE")
    difference = abs(featurizer.transform(TEXTS) - expected)
    assert difference.max() <= 1e-6 * abs(expected).max()


def test_featurizers_of_different_caches_cannot_share_a_run(tiny_bert, saes, tmp_path):
    pair = [SAEFeaturizer(tiny_bert, sae=saes["topk"], cache=cache) for cache in (None, tmp_path)]
    with pytest.raises(InvalidParameterError, match="different caches; expected one of all"):
        warm(pair, TEXTS)


@pytest.mark.parametrize("on_disk", [False, True])
def test_threads_compute_each_text_once(tiny_bert, saes, tmp_path, seen, monkeypatch, on_disk):
    from sae_features import model_run

    monkeypatch.setattr(model_run, "BLOCK_CHARACTERS", (20, 20))
    texts = [" ".join(WORDS[i : i + 1 + i % 9]) for i in range(40)]
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"], cache=tmp_path if on_disk else None)
    barrier = threading.Barrier(4)

    def work(shift):
        barrier.wait()
        order = [*range(shift, 40), *range(shift)]
        rows = featurizer.transform([texts[i] for i in order]).toarray()
        return rows[np.argsort(order)]

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, (0, 11, 22, 33)))
    assert sorted(seen) == sorted(set(texts))
    for rows in results:
        np.testing.assert_array_equal(rows, results[0])


def test_a_saved_estimator_says_nothing_of_this_process(tiny_bert, saes):
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
    saved = pickle.dumps(featurizer)
    assert b"session" not in saved
    assert pickle.loads(saved).get_params() == featurizer.get_params()
    sent = []
    for name in ("Thread-1", "QueueFeederThread"):  # the second is loky's
        thread = threading.Thread(target=lambda: sent.append(pickle.dumps(featurizer)), name=name)
        thread.start()
        thread.join()
    assert [b"session" in each for each in sent] == [False, True]
    sent = sent[1]
    assert vars(pickle.loads(sent)) == vars(featurizer)


SCRIPT = """
import json, os, sys
from pathlib import Path
import numpy as np
from joblib import parallel_backend
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sae_features import SAEFeaturizer

LOG, MODEL, SAE = sys.argv[1:4]

def note(line):
    with open(LOG, "a") as log:
        log.write(line + "\\n")

class Counting(SAEFeaturizer):
    def transform(self, X):
        import torch
        from sae_features import extraction
        if not hasattr(extraction, "genuine"):
            genuine = extraction.genuine = extraction.extract
            def extract(backbone, items, *args, **options):
                for text in items.values:
                    note(f"{os.getpid()} {torch.get_num_threads()} {text}")
                return genuine(backbone, items, *args, **options)
            extraction.extract = extract
        return super().transform(X)

if __name__ == "__main__":
    words = "river sea stone snow calm old winter".split()
    texts = [f"{a} {b}" for a in words for b in words]
    labels = np.arange(len(texts)) % 2
    search = GridSearchCV(
        make_pipeline(Counting(MODEL, sae=SAE), LogisticRegression()),
        {"counting__pooling": ["max", "mean"], "counting__threshold": [None, 0.1]},
        cv=3, n_jobs=2,
    )
    if sys.argv[4] == "warm":
        search.estimator[0].warm(texts)
    with parallel_backend(sys.argv[5]):
        search.fit(texts, labels)
    lines = [line.split(" ", 2) for line in Path(LOG).read_text().splitlines()]
    from sae_features.store import session
    print(json.dumps({
        "texts": [text for _, _, text in lines],
        "unique": texts,
        "by_workers": all(int(pid) != os.getpid() for pid, _, _ in lines),
        "threads": sorted({int(threads) for _, threads, _ in lines}),
        "folder": session.announce()["folder"],
        "score": search.best_score_,
    }))
"""


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_workers_of_a_search_compute_each_text_once_and_leave_nothing(
    tiny_bert, saes, tmp_path, backend
):
    script = tmp_path / "search.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("OMP_NUM_THREADS", None)

    def run(how):
        log = tmp_path / f"{how}.log"
        log.touch()
        finished = subprocess.run(
            [sys.executable, script, log, tiny_bert, saes["topk"], how, backend],
            check=False,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    cold = run("cold")
    assert sorted(cold["texts"]) == sorted(cold["unique"])
    assert cold["by_workers"]
    if backend == "loky":
        assert max(cold["threads"]) <= max(1, (os.cpu_count() or 1) // 2)
    warm_ = run("warm")
    assert warm_["texts"] == []  # computed before the counter was there, and by no worker
    assert warm_["score"] == cold["score"]
    assert not Path(cold["folder"]).exists()
    assert not Path(warm_["folder"]).exists()


def test_the_session_of_this_process_is_not_made_without_workers(tiny_bert, saes):
    SAEFeaturizer(tiny_bert, sae=saes["topk"]).fit_transform(TEXTS)
    assert not Path(session.announce()["folder"]).exists()


def test_a_worker_whose_owner_has_ended_computes_no_more(tiny_bert, saes, monkeypatch):
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    orphan = session.Session("nowhere", finished.pid, "0", session.host())
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
    genuine = Backbone.windows

    def windows(self, *args):
        monkeypatch.setattr(session._state, "adopted", orphan)
        return genuine(self, *args)

    monkeypatch.setattr(Backbone, "windows", windows)
    with pytest.raises(StoreError, match=f"The process {finished.pid}, for which this worker computes"):
        featurizer.transform(TEXTS)


def test_a_worker_that_loads_a_model_onto_a_gpu_says_so(tiny_bert, saes, monkeypatch):
    from sae_features import model_run

    monkeypatch.setattr(model_run, "choose_device", lambda device: "cuda:0")
    featurizer = SAEFeaturizer(tiny_bert, sae=saes["topk"])
    featurizer.transform(TEXTS[:1])  # no worker
    monkeypatch.setattr(model_run.session, "is_worker", lambda: True)
    with pytest.warns(SAEFeaturesWarning, match="loads a model onto cuda:0, as its siblings may"):
        featurizer.transform(TEXTS)
