from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tiny import BERT, random_sae

from sae_features.architectures import Architecture, Patches
from sae_features.evaluation import strongest
from sae_features.evaluation.labelled import LabelledItems
from sae_features.evaluation.strongest import keep_strongest, kept_latents, strongest_latents
from sae_features.evaluation.sweep import FeatureSweep
from sae_features.families import ModelFamily
from sae_features.report import write_report
from sae_features.testing import write_tiny

VIT = Architecture("vit", (Patches(),), final_norm=False)


@pytest.fixture
def sweep(tiny_bert, tiny_saes, quick, tmp_path):
    """Two poolings of one SAE; results are kept in a folder."""
    return FeatureSweep(
        [{"model": tiny_bert, "layers": [1], "saes": [tiny_saes["topk"]]}],
        poolings=("max", "mean"), baselines=("chance",), permuted=False, folder=tmp_path, **quick,
    )  # fmt: skip


def test_the_latents_of_the_method_that_validation_prefers(sweep, make_data):
    data = make_data()
    results = sweep.run(data)
    means = {
        name: np.mean([row["validation"] for row in results.where(method=name)])
        for name in {row["method"] for row in results.where(kind="sae")}
    }
    records = strongest_latents(sweep, [data], results, n_latents=5, n_items=3)
    assert {record["method"] for record in records} == {max(means, key=means.get)}
    assert {record["class"] for record in records} == {"positive"}
    latents = [record["latent"] for record in records]
    assert len(set(latents)) == len(latents) == 5
    weights = [abs(record["importance"]) for record in records]
    assert weights == sorted(weights, reverse=True)
    (method,) = (each for each in sweep.methods(data.items) if each.name == records[0]["method"])
    rows = method.featurizer.fit_transform(data.items).toarray()
    for record in records:
        values = [top["value"] for top in record["top"]]
        assert values == sorted(rows[:, record["latent"]], reverse=True)[: len(values)]
        for top in record["top"]:
            whole = f"{top['before']}{top['token']}{top['after']}"
            assert whole.strip("…") in " ".join(data.items)


def test_only_the_training_part_is_looked_at(sweep, make_data):
    split = np.where(np.arange(24) < 16, "train", "test")
    data = make_data(split=split)
    records = strongest_latents(sweep, [data], sweep.run(data))
    seen = {f"{top['before']}{top['token']}{top['after']}" for each in records for top in each["top"]}
    assert seen
    assert seen <= set(data.items[:16])


def test_without_an_sae_or_a_linear_classifier_there_are_none(make_data, words_only, quick, sweep):
    data = make_data()
    words = FeatureSweep(**words_only, baselines=("bag_of_words",), permuted=False)
    assert strongest_latents(words, [data], words.run(data)) == []
    trees = FeatureSweep(
        sweep.models, classifiers=("tree",), baselines=(), permuted=False, **quick
    )  # fmt: skip
    assert strongest_latents(trees, [data], trees.run(data)) == []


def test_they_are_made_once_and_kept(sweep, make_data, tmp_path, monkeypatch, texts_read):
    data = make_data()
    results = sweep.run(data)
    with texts_read() as counts:
        records = keep_strongest(tmp_path, sweep, [data], results)
    assert not [text for text in counts if counts[text] > 1]
    assert json.loads(json.dumps(records)) == kept_latents(tmp_path, results)
    monkeypatch.setattr(strongest, "strongest_latents", lambda *_: 1 / 0)
    assert keep_strongest(tmp_path, sweep, [data], results) == records
    others = sweep.run(make_data(30))
    assert kept_latents(tmp_path, others) == []
    with pytest.raises(ZeroDivisionError):
        keep_strongest(tmp_path, sweep, [data], others)
    for damaged in ("{", "[]", "{}"):
        (tmp_path / strongest.FILE).write_text(damaged)
        assert kept_latents(tmp_path, results) == []
    page = write_report(results, tmp_path, title="Reviews", latents=records)
    assert "### latent " in page.with_suffix(".md").read_text(encoding="utf-8")


def test_patches_are_framed(tmp_path, use_families, quick):
    use_families(ModelFamily("tiny-vit", architectures=(VIT, BERT)))
    vit = write_tiny(VIT, tmp_path / "vit")
    sae = random_sae(d_in=vit_width(vit), point=None).save(tmp_path / "sae")
    rng = np.random.default_rng(0)
    paths = []
    for i in range(8):
        pixels = np.clip(rng.normal(60 + 130 * (i % 2), 20, (28, 28, 3)), 0, 255).astype(np.uint8)
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(paths[-1])
    sweep = FeatureSweep(
        [{"model": vit, "layers": [1], "saes": [sae]}],
        baselines=(), permuted=False, folder=tmp_path / "out", **quick,
    )  # fmt: skip
    data = LabelledItems("pictures", paths, ["dark", "light"] * 4)
    results = sweep.run(data)
    records = keep_strongest(tmp_path, sweep, [data], results)
    assert kept_latents(tmp_path, results) == json.loads(json.dumps(records))
    tops = [top for record in records for top in record["top"]]
    assert {top["image"] for top in tops} <= set(map(str, paths))
    for top in tops:
        left, upper, right, lower = top["box"]
        assert 0 <= left < right <= 28
        assert 0 <= upper < lower <= 28
    page = write_report(results, tmp_path, title="Pictures", latents=kept_latents(tmp_path, results))
    assert "the patch framed" in page.read_text(encoding="utf-8")
    arrays = LabelledItems("arrays", [np.asarray(Image.open(path)) for path in paths], data.labels)
    (tmp_path / "arrays").mkdir()
    of_arrays = sweep.run(arrays)
    kept = keep_strongest(tmp_path / "arrays", sweep, [arrays], of_arrays)
    assert isinstance(kept[0]["top"][0]["image"], np.ndarray)
    assert kept_latents(tmp_path / "arrays", of_arrays) == []  # arrays are not written


def vit_width(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["hidden_size"]
