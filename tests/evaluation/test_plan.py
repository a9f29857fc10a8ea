from __future__ import annotations

import json

import numpy as np
import pytest

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.plan import ComparisonPlan

BAD = [
    ({"models": "minilm"}, "Got models='minilm'; expected a list: ['minilm']."),
    ({"models": []}, "Got no models; expected at least one."),
    ({"models": [3]}, "Got models with 3; expected names or mappings."),
    ({"models": [{"model": "minilm", "layer": 3}]}, "Got option of a model='layer'; expected one of"),
    ({"models": [{"model": "minilm", "saes": "a"}]}, "Got saes='a'; expected a list: ['a']."),
    ({"layers": 3}, "Got layers=3; expected a list: [3]."),
    ({"poolings": "max"}, "Got poolings='max'; expected a list: ['max']."),
    ({"poolings": ()}, "Got no poolings; expected at least one."),
    ({"thresholds": 1.0}, "Got thresholds=1.0; expected a list: [1.0]."),
    ({"binarize": True}, "Got binarize=True; expected a list: [True]."),
    ({"baselines": "states"}, "Got baselines='states'; expected a list: ['states']."),
    ({"baselines": ["state"]}, "Got baseline='state'; expected one of states"),
    ({"classifiers": ()}, "Got no classifiers; expected at least one."),
    ({"classifiers": ("tree", "tree")}, "Got classifiers=('tree', 'tree'); expected different ones."),
    ({"classifiers": ("forest",)}, "Got classifier='forest'; expected one of logistic"),
    ({"strengths": (0,)}, "Got strengths=(0,); expected numbers above 0."),
    ({"cv": "5"}, "Got cv='5'; expected None or an integer above 0."),
    ({"repeats": 0}, "Got repeats=0; expected None or an integer above 0."),
    ({"inner": None}, "Got inner=None; expected an integer above 0."),
    ({"permuted": "no"}, "Got permuted='no'; expected True or False."),
    ({"on_leak": "ignore"}, "Got on_leak='ignore'; expected one of error, drop, warn."),
    ({"seed": -1}, "Got seed=-1; expected an integer, 0 or more."),
    ({"seed": 0.5}, "Got seed=0.5; expected an integer, 0 or more."),
    ({"n_jobs": 0}, "Got n_jobs=0; expected an integer, -1 for all cores."),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=lambda value: str(value)[:40])
def test_what_cannot_be(given, message):
    with pytest.raises(InvalidParameterError) as error:
        ComparisonPlan(**given)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"poolings": ("avg",)}, "Got pooling='avg'"),
        ({"thresholds": (-1.0,)}, "Got threshold=-1.0"),
        ({"thresholds": ("high",)}, "Got threshold='high'"),
        ({"token_top_n": (0,)}, "Got token_top_n=0"),
        ({"binarize": ("yes",)}, "Got binarize='yes'"),
        ({"layers": (1, 9)}, "Got layer=9; expected 0 to 2"),
    ],
)
def test_what_featurizers_cannot_take_is_said_before_anything_runs(
    given, message, tiny_bert, texts_read
):
    choice = {"layers": (1,), "saes": ("random:48:5",)}
    with texts_read() as counts, pytest.raises(InvalidParameterError, match=message):
        ComparisonPlan([tiny_bert], **choice | given).methods(["a"])
    assert not counts


def test_settings_are_plain(tiny_bert, tiny_saes):
    plan = ComparisonPlan(
        [{"model": tiny_bert, "layers": np.arange(2), "saes": [tiny_saes["topk"]]}, "minilm"],
        strengths=np.array([0.1, 1.0]),
        thresholds=(None, 0.5),
        layers=(3,),
    )
    found = plan.settings()
    assert json.loads(json.dumps(found, default=int)) == found
    first, second = found["models"]
    assert (first["model"], first["saes"], first["layers"]) == ("tiny-bert", ["topk"], [0, 1])
    assert (second["model"], second["layers"]) == ("minilm", [3])
    assert str(tiny_bert.parent) not in json.dumps(found, default=int)


def test_saes_at_one_place_share_its_hidden_states(tiny_bert, tiny_saes):
    plan = ComparisonPlan(
        [{"model": tiny_bert, "layers": [1], "saes": [*tiny_saes.values(), "random:48:7"]}],
        baselines=("states", "pca", "chance"),
    )
    found = [
        (method.name.removeprefix("tiny-bert layer 1 "), method.kind) for method in plan.methods(["a"])
    ]
    assert found == [
        ("topk max", "sae"), ("states max", "states"), ("states max, PCA for topk", "pca"),
        ("relu max", "sae"), ("states max, PCA for relu", "pca"), ("random:48:7 max", "random_sae"),
        ("chance", "chance"),
    ]  # fmt: skip


@pytest.mark.parametrize("saes", [(), ("random:48:5",)])
def test_methods_that_results_could_not_tell_apart(tiny_bert, saes):
    choices = [{"model": tiny_bert, "layers": [1], "prompt": prompt} for prompt in ("a {}", "the {}")]
    with pytest.raises(InvalidParameterError, match="Got two methods called 'tiny-bert layer 1"):
        ComparisonPlan(choices, saes=saes, baselines=("states",)).methods(["a"])


def test_there_must_be_something_to_compare():
    with pytest.raises(InvalidParameterError, match="Got neither SAEs nor baselines"):
        ComparisonPlan(saes=(), baselines=()).methods(["a"])


def test_controls_are_the_first_of_each_kind_with_the_first_classifier(tiny_bert):
    plan = ComparisonPlan(
        [tiny_bert], layers=(1, 2), saes=(), baselines=("states", "bag_of_words", "chance"),
        classifiers=("ridge", "tree"),
    )  # fmt: skip
    methods = plan.methods(["a"])
    runs = [
        (method.name, classifier.kind, control) for method, classifier, control in plan.runs(methods)
    ]
    assert len(runs) == 4 * 2 + 2
    assert runs[-2:] == [
        ("tiny-bert layer 1 states max", "ridge", "permuted"), ("bag of words", "ridge", "permuted"),
    ]  # fmt: skip
    plan.permuted = False
    assert len(plan.runs(methods)) == 8


def test_a_model_may_say_how_its_latents_are_pooled(tiny_bert, tiny_saes):
    here = {"model": tiny_bert, "layers": [1]}
    plan = ComparisonPlan(
        [
            {**here, "saes": [tiny_saes["topk"]], "poolings": ["max", "mean"]},
            {**here, "saes": [tiny_saes["topk"]], "poolings": ["last"], "binarize": [True],
             "thresholds": [None, 0.5]},
            {**here, "saes": [tiny_saes["relu"]]},
        ],
        poolings=("sum",), baselines=("states",),
    )  # fmt: skip
    names = [method.name.removeprefix("tiny-bert layer 1 ") for method in plan.methods(["a"])]
    assert names == [
        "topk max", "topk mean", "states max", "states mean", "topk last binarized",
        "topk last > 0.5 binarized", "states last", "relu sum", "states sum",
    ]  # fmt: skip
    assert plan.settings()["models"][1]["thresholds"] == [None, 0.5]
    with pytest.raises(InvalidParameterError, match="Got poolings='max'; expected a list"):
        ComparisonPlan([{"model": tiny_bert, "poolings": "max"}])
    with pytest.raises(InvalidParameterError, match="Got pooling='median'; expected one of"):
        ComparisonPlan([{"model": tiny_bert, "poolings": ["median"]}])
