"""The conformance kit bites: each promise that is broken is found by the check that is about it."""

from __future__ import annotations

import gc
import json
import re
import unittest
from dataclasses import replace

import pytest
from tiny import BERT

from sae_features import cli, discovery, families
from sae_features.architectures import Architecture, Patches, Text, Variant
from sae_features.errors import PluginError, SAEFeaturesWarning
from sae_features.families import GROUP, ModelFamily, ModelSource
from sae_features.models import find_model
from sae_features.testing import (
    CheckFailure,
    check_family,
    family_checks,
    parametrize_with_family_checks,
    write_tiny,
)
from sae_features.testing.checks import CHECKS
from sae_features.testing.kit import UnknownModelTypeError, check_import
from sae_features.testing.table import as_text, check_installed

SINK = Text(first_token_is_sink=True)
LLAMA = Architecture("llama", (SINK,))
VIT = Architecture("vit", (Patches(),), final_norm=False)
OFF = r"off by \d"


def failures_of(architecture, **family):
    """Return the messages of failed checks, by check: those of the first tokenizer."""
    results = check_family(ModelFamily("broken", (architecture,), **family), raises=False)
    first = [r for r in results if r.model_type == results[1].model_type]
    assert len(first) == len(CHECKS)
    return {r.check: r.message for r in first if r.status != "passed"}


def test_what_is_declared_right_passes():
    for architecture in (LLAMA, BERT, VIT):
        assert failures_of(architecture) == {}


class TestDeclarations:
    @pytest.mark.parametrize(
        ("architecture", "expected"),
        [
            pytest.param(
                Architecture("gemma2", (SINK,)),
                {
                    "check_residual_stream": rf"block 0: resid_mid = resid_pre \+ attn_out: {OFF}",
                    "check_mlp_sites": f"mlp_in from mlp_normalized: {OFF}",
                },
                id="Gemma 2 without its exceptions",
            ),
            pytest.param(
                Architecture("gpt_neox", (SINK,), residual="parallel"),
                {
                    "check_residual_stream": "Parallel blocks have nothing between attention and MLP; "
                    "expected no resid_mid."
                },
                id="GPT-NeoX with something between attention and MLP",
            ),
            pytest.param(
                Architecture("gpt_neox", (SINK,), residual="parallel"),
                {"check_residual_stream": "expected no resid_mid"},
                id="GPT-NeoX whose parallel blocks keep a resid_mid",
            ),
            pytest.param(
                replace(LLAMA, sites={"resid_mid": ("absent:in",)}),
                {
                    "check_sizes": "The block has no module at the places declared for resid_mid: ",
                    "check_residual_stream": "The blocks lack resid_mid; .* residual='parallel'",
                },
                id="a place that is not there",
            ),
            pytest.param(
                replace(BERT, residual="pre_norm"),
                {"check_residual_stream": rf"block 0: resid_mid = resid_pre \+ attn_out: {OFF}"},
                id="BERT as if its norms stood ahead",
            ),
            pytest.param(
                replace(LLAMA, residual="post_norm"),
                {"check_residual_stream": rf"resid_mid = resid_pre \+ attn_out, normed: {OFF}"},
                id="Llama as if its norms stood behind",
            ),
            pytest.param(
                replace(LLAMA, final_norm=False),
                {"check_hidden_states": rf"layer 3, resid_post, against hidden_states\[4\]: {OFF}"},
                id="Llama without its final norm",
            ),
            pytest.param(
                replace(LLAMA, sites={"mlp_normalized": ("input_layernorm:normalized",)}),
                {"check_mlp_sites": f"mlp_in from mlp_normalized: {OFF}"},
                id="the norm ahead of attention in place of the MLP's",
            ),
            pytest.param(
                replace(LLAMA, sites={"resid_post": ("mlp:out",)}),
                {
                    "check_hidden_states": rf"layer 0, resid_post, against hidden_states\[1\]: {OFF}",
                    "check_residual_stream": rf"block 0: resid_post = resid_mid \+ mlp_out: {OFF}",
                },
                id="resid_post where it is not added yet",
            ),
            pytest.param(
                replace(LLAMA, sites={"resid_pre": ("mlp:in",)}),
                {
                    "check_hidden_states": rf"layer 0, resid_pre, against hidden_states\[0\]: {OFF}",
                    "check_residual_stream": OFF,
                },
                id="resid_pre inside the block",
            ),
            pytest.param(
                replace(LLAMA, sites={"mlp_hidden": ("mlp.act_fn:out",)}),
                {"check_sizes": "Got 48 for the width at layer 0, mlp_hidden; expected 32."},
                id="a place whose width nothing tells",
            ),
            pytest.param(
                replace(BERT, sites={"attn_z": ("attention.self.query:in",)}),
                {"check_projections": "attn_out is not what attn_z is projected to: off by "},
                id="a projection into the heads",
            ),
            pytest.param(
                replace(LLAMA, sites={"attn_z": ("self_attn.v_proj:in",)}),
                {"check_projections": "for the shape of what attn_z is projected to"},
                id="a projection of another size",
            ),
            pytest.param(
                replace(LLAMA, inputs=(Text(),)),
                {"check_attention_sink": r"expected Text\(first_token_is_sink=True\)."},
                id="a decoder without a sink",
            ),
            pytest.param(
                replace(BERT, inputs=(SINK,)),
                {"check_attention_sink": r"expected Text\(first_token_is_sink=False\)."},
                id="an encoder with a sink",
            ),
            pytest.param(
                Architecture(
                    "dinov2", (Patches(),), final_norm=False, sites={"attn_out": ("attention:out",)}
                ),
                {"check_residual_stream": rf"block 0: resid_mid = resid_pre \+ attn_out: {OFF}"},
                id="attn_out of DINOv2 before its LayerScale",
            ),
            pytest.param(
                replace(LLAMA, embedding="pooler_output"),
                {"check_embedding": "Got site='embedding' for a model that gives no pooler_output."},
                id="an embedding that the model does not give",
            ),
            pytest.param(
                replace(BERT, inputs=(Text(reader="broken_backbones:DropsThePrompt"),)),
                {"check_prompt": "A prompt changes nothing."},
                id="a reader that drops the prompt",
            ),
            pytest.param(
                replace(BERT, inputs=(Text(reader="broken_backbones:CountsEverything"),)),
                {
                    "check_content_tokens": "Got 39 for the content tokens of 'the river flows near the "
                    "old mountain'; expected 37.",
                    "check_prompt": "Got 46 for the content tokens with a prompt; expected 37.",
                },
                id="a reader that counts what the tokenizer adds",
            ),
        ],
    )
    def test_are_found_wrong_by_the_right_check(self, architecture, expected):
        found = failures_of(architecture)
        assert found.keys() == expected.keys()
        for check, pattern in expected.items():
            assert re.search(pattern, found[check])

    @pytest.mark.parametrize(
        ("architecture", "shapes"),
        [
            (replace(VIT, inputs=(Patches(class_token=False),)), "(4, 17, 32) for 4 items of 16 tokens"),
            (
                Architecture(
                    "siglip_vision_model", (Patches(),), loader="SiglipVisionModel", final_norm=False
                ),
                "(4, 16, 32) for 4 items of 17 tokens",
            ),
            (
                Architecture("dinov2_with_registers", (Patches(registers="other"),), final_norm=False),
                "(4, 19, 32) for 4 items of 17 tokens",
            ),
        ],
        ids=["a CLS that is forgotten", "a CLS that is not there", "registers that are forgotten"],
    )
    def test_of_patches(self, architecture, shapes):
        found = failures_of(architecture)
        assert found["check_content_tokens"] == found["check_hidden_states"]
        assert shapes in found["check_content_tokens"]

    def test_what_cannot_be_loaded_fails_every_check(self):
        found = failures_of(replace(LLAMA, tower="text"))
        assert len(found) == len(CHECKS)
        assert set(found.values()) == {
            "CheckpointError: LlamaModel has no module 'text'; expected its blocks there."
        }

    def test_a_variant_is_checked_where_its_configuration_is(self):
        wrong = Variant({"hidden_act": "silu"}, {"resid_mid": ("mlp:in",)})
        assert failures_of(replace(LLAMA, variants=(wrong,))).keys() == {"check_residual_stream"}
        absent = Variant({"hidden_act": "gelu"}, {"resid_mid": ("mlp:in",)})
        assert failures_of(replace(LLAMA, variants=(absent,))) == {}

    def test_what_does_not_pickle(self):
        found = failures_of(LLAMA, aliases={"name": ModelSource(asset=lambda: "no name")})
        assert found.keys() == {"check_pickling"}


class TestBackbones:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("RunsToTheEnd", {"check_early_stop": "layers.1 ran although only block 0 was read."}),
            (
                "DependsOnTheBatch",
                {
                    "check_hidden_states": f"activations at layer 0, resid_pre: {OFF}",
                    "check_batch_invariance": f"item 0 at layer 0, resid_pre in batches of 1: {OFF}",
                    "check_attention_sink": "Tokens see those behind them",
                },
            ),
            ("IsNotDeterministic", {"check_determinism": "Two runs give different values."}),
            (
                "IsInitializedAnew",
                {"check_determinism": "The model gives other values after it was loaded again."},
            ),
            ("ScalesValues", {"check_hidden_states": "activations at layer 0, resid_pre: off by 1 of"}),
            (
                "RaisesErrorsOfOthers",
                {"check_errors": "Bad input 0 ends in IndexError: list index out of range; expected an"},
            ),
            ("TakesAnyLayer", {"check_errors": "Bad input 0 is taken."}),
            ("SaysOtherWidths", {"check_sizes": "layer 0, mlp_hidden; expected 49."}),
        ],
    )
    def test_are_found_wrong_by_the_right_check(self, name, expected):
        found = failures_of(LLAMA, backbone=f"broken_backbones:{name}")
        assert found.keys() == expected.keys()
        for check, pattern in expected.items():
            assert re.search(pattern, found[check])


class TestImport:
    @pytest.mark.parametrize(
        ("source", "message"),
        [
            ("import torch", "imports torch; import it where it is used."),
            ("import transformers.models", "imports transformers; import it where it is used."),
            ("import no_such_module", "fails: ModuleNotFoundError: No module named 'no_such_module'"),
        ],
    )
    def test_a_module_that_is_dear_to_import(self, install, monkeypatch, source, message):
        root = install(
            "tiny-plugin",
            {GROUP: {"tiny": "tiny_dear_module:FAMILY"}},
            modules={"tiny_dear_module": source},
        )
        monkeypatch.setenv("PYTHONPATH", str(root))
        with pytest.raises(CheckFailure) as raised:
            check_import(ModelFamily("tiny", ()))
        assert str(raised.value) == f"Importing tiny_dear_module {message}"

    def test_it_is_the_first_check(self):
        (first, check), *_ = family_checks(ModelFamily("tiny", (BERT,)))
        assert (first, check.__name__) == ("tiny", "check_import")


WRONG = replace(LLAMA, final_norm=False)


class TestCheckFamily:
    def test_one_result_for_each_model_and_check(self):
        results = check_family(ModelFamily("tiny", (BERT, VIT)))
        names = [check.__name__ for check in CHECKS]
        assert [(r.model_type, r.check) for r in results] == [
            ("tiny", "check_import"),
            *((kind, name) for kind in ("bert, cls_sep", "bert, eos", "vit, images") for name in names),
        ]
        assert {(r.family, r.status, r.message) for r in results} == {("tiny", "passed", "")}

    def test_the_error_lists_what_failed(self):
        with pytest.raises(CheckFailure) as raised:
            check_family(ModelFamily("tiny", (BERT, WRONG)))
        lines = str(raised.value).splitlines()
        assert lines[0] == "The family 'tiny' fails 2 checks:"
        start = "check_hidden_states: layer 3, resid_post, against hidden_states[4]: off by "
        assert [line.partition(start)[0] for line in lines[1:]] == ["llama, bos: ", "llama, plain: "]

    def test_only_some_types(self):
        results = check_family(ModelFamily("tiny", (WRONG, VIT)), model_types=["vit"])
        assert {r.model_type for r in results} == {"tiny", "vit, images"}

    def test_expected_failures_are_documented(self):
        why = {"check_hidden_states": "its last state is normed"}
        results = check_family(ModelFamily("tiny", (WRONG,)), expected_failures=why)
        found = [r for r in results if r.status != "passed"]
        assert {r.check for r in found} == {"check_hidden_states"}
        assert {(r.status, r.message) for r in found} == {
            ("expected failure", "its last state is normed")
        }

    def test_expected_failures_that_pass_are_passed(self):
        results = check_family(
            ModelFamily("tiny", (LLAMA,)), expected_failures={"check_hidden_states": "no longer"}
        )
        assert {r.status for r in results} == {"passed"}

    def test_types_that_transformers_does_not_know_are_skipped(self):
        results = check_family(ModelFamily("tiny", (Architecture("no-such-type"), BERT)))
        skipped = [r for r in results if r.status == "skipped"]
        assert {r.model_type for r in skipped} == {"no-such-type, cls_sep", "no-such-type, eos"}
        assert {r.message for r in skipped} == {"this version of transformers does not know it"}
        assert len(skipped) == 2 * len(CHECKS)

    def test_real_models_in_place_of_small_random_ones(self, tmp_path, tiny_bert):
        results = check_family(ModelFamily("tiny", (BERT,)), folders=[tiny_bert])
        assert [r.model_type for r in results] == ["tiny-bert (text)"] * len(CHECKS)
        assert {r.status for r in results} == {"passed"}
        folder = write_tiny(LLAMA, tmp_path)
        results = check_family(ModelFamily("tiny", (WRONG,)), folders=[str(folder)], raises=False)
        assert [r.check for r in results if r.status == "failed"] == ["check_hidden_states"]

    def test_what_reads_another_type(self, tiny_bert):
        with pytest.raises(
            PluginError, match="holds a model of type 'bert'; the family 'tiny' reads vit"
        ):
            check_family(ModelFamily("tiny", (VIT,)), folders=[tiny_bert])


@parametrize_with_family_checks(ModelFamily("tiny", (BERT,)), model_types=["bert"])
def test_the_decorator_runs_a_test_for_each_check(check):
    check()


class TestDecorator:
    def test_every_check_has_a_name(self):
        mark = parametrize_with_family_checks(ModelFamily("tiny", (BERT,))).mark
        names, checks = mark.args
        assert names == "check"
        assert [each.id for each in checks[:2]] == [
            "tiny-check_import",
            "bert, cls_sep-check_sizes",
        ]
        assert len(checks) == 1 + 2 * len(CHECKS)

    def test_a_check_that_fails_raises(self):
        checks = {
            f"{name}-{check.__name__}": check
            for name, check in family_checks(ModelFamily("tiny", (WRONG,)))
        }
        checks["llama, bos-check_sizes"]()
        with pytest.raises(CheckFailure, match=r"against hidden_states\[4\]"):
            checks["llama, bos-check_hidden_states"]()

    def test_what_transformers_does_not_know_is_skipped_by_pytest(self):
        *_, (_, check) = family_checks(ModelFamily("tiny", (Architecture("no-such-type"),)))
        with pytest.raises(UnknownModelTypeError, match="^this version of transformers does not"):
            check()
        assert issubclass(UnknownModelTypeError, unittest.SkipTest)

    def test_models_are_made_when_a_check_needs_them_and_removed_after_the_last(self, monkeypatch):
        made = []
        genuine = write_tiny

        def write(architecture, folder, **options):
            made.append(folder)
            return genuine(architecture, folder, **options)

        monkeypatch.setattr("sae_features.testing.kit.write_tiny", write)
        checks = list(family_checks(ModelFamily("tiny", (BERT,))))
        assert made == []
        for _, check in checks[1:3]:
            check()
        (folder,) = made
        assert folder.is_dir()
        del checks, check
        gc.collect()
        assert not folder.exists()


TINY = (
    "from sae_features.architectures import Architecture\n"
    "from sae_features.families import ModelFamily\n"
    "FAMILY = ModelFamily('tiny', (Architecture('bert', residual={residual!r}, final_norm=False),))\n"
)
BROKEN = {
    "raising": ("raise OSError('no such card')", "could not be imported: OSError: no such card."),
    "odd": ("FAMILY = {'name': 'odd'}", "gives a dict; expected a ModelFamily. It is left out."),
    "newer": (
        "from sae_features.families import ModelFamily\n"
        "FAMILY = ModelFamily('newer', (), api_version=(9, 0))\n",
        "speaks version 9.0 of the plugin interface; this is 1.0.",
    ),
}


@pytest.fixture
def plugins(install, monkeypatch):
    """Install a family ``tiny``, right or wrong, and some broken ones; nothing else is listed."""

    def add(*broken, residual="post_norm"):
        sources = {"tiny": TINY.format(residual=residual)} | {name: BROKEN[name][0] for name in broken}
        for name, source in sources.items():
            module = f"kit_module_{name}"
            root = install(
                f"{name}-plugin", {GROUP: {name: f"{module}:FAMILY"}}, modules={module: source}
            )
        genuine = families.list_families
        monkeypatch.setattr(
            families,
            "list_families",
            lambda: {name: record for name, record in genuine().items() if name in sources},
        )
        monkeypatch.setenv("PYTHONPATH", str(root))

    return add


def run(capsys, *arguments):
    status = cli.main(["plugins", "--check", *arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


class TestCommandLine:
    def test_a_family_that_passes(self, capsys, plugins):
        plugins()
        status, out, err = run(capsys, "--family", "tiny")
        assert (status, err) == (0, "checking tiny …\n")
        assert out.splitlines() == [
            "family      model          passed  failed  skipped",
            "tiny        tiny                1       0        0",
            "tiny        bert, cls_sep      14       0        0",
            "tiny        bert, eos          14       0        0",
        ]

    def test_a_family_that_does_not(self, capsys, plugins):
        plugins(residual="pre_norm")
        status, out, err = run(capsys, "--family", "tiny")
        assert status == 1
        assert err.splitlines()[-1] == (
            "sae-features: error: The families tiny do not pass; the table says why."
        )
        lines = out.splitlines()
        assert lines[2] == "tiny        bert, cls_sep      13       1        0"
        assert lines[3].startswith("              check_residual_stream: block 0: resid_mid = ")

    def test_json(self, capsys, plugins):
        plugins(residual="pre_norm")
        status, out, _ = run(capsys, "--family", "tiny", "--json")
        assert status == 1
        _, first, second = json.loads(out)
        message = first.pop("messages")
        assert message[0].startswith("check_residual_stream: block 0: resid_mid = resid_pre + attn_out")
        assert first == {
            "family": "tiny", "distribution": "tiny-plugin", "version": "1.0", "model": "bert, cls_sep",
            "passed": 13, "failed": 1, "skipped": 0, "error": None,
        }  # fmt: skip
        assert second["model"] == "bert, eos"

    def test_an_unknown_family(self, capsys, plugins):
        plugins()
        status, out, err = run(capsys, "--family", "tny")
        assert (status, out) == (1, "")
        assert (
            err == "sae-features: error: Got family='tny'; expected one of tiny. Did you mean 'tiny'?\n"
        )

    @pytest.mark.parametrize("name", BROKEN)
    def test_a_broken_one_is_reported(self, capsys, plugins, name):
        plugins(name)
        status, out, err = run(capsys, "--family", name)
        assert status == 1
        assert f"BROKEN: The {'family' if name == 'newer' else 'plugin'} {name!r}" in out
        assert BROKEN[name][1] in out
        assert err.splitlines()[-1] == (
            f"sae-features: error: The families {name} do not pass; the table says why."
        )

    def test_broken_ones_stop_no_other(self, capsys, plugins):
        plugins(*BROKEN)
        status, out, err = run(capsys, "--json")
        assert status == 1
        rows = json.loads(out)
        by_name = {row["family"]: row for row in rows}
        assert by_name.keys() == {"tiny", *BROKEN}
        assert by_name["tiny"]["error"] is None
        assert sum(row["passed"] for row in rows if row["family"] == "tiny") == 1 + 2 * len(CHECKS)
        for name, (_, why) in BROKEN.items():
            assert why in by_name[name]["error"]
            assert (by_name[name]["passed"], by_name[name]["failed"]) == (0, 0)
        assert "error: The families newer, odd, raising do not pass; the table says why." in err


class TestTable:
    def test_two_families_of_one_type_are_both_checked_and_neither_reads_it(
        self, install, monkeypatch, tiny_bert
    ):
        for name in ("first", "second"):
            module = f"kit_module_{name}"
            root = install(
                f"{name}-plugin",
                {GROUP: {name: f"{module}:FAMILY"}},
                modules={module: TINY.format(residual="post_norm").replace("'tiny'", f"'{name}'")},
            )
        monkeypatch.setenv("PYTHONPATH", str(root))
        rows = check_installed(["first", "second"], families.families(), lambda _line: None)
        assert {(row["family"], row["failed"]) for row in rows} == {("first", 0), ("second", 0)}
        with pytest.raises(PluginError) as raised:
            find_model(tiny_bert)
        assert str(raised.value) == (
            "The families bert and first and second both read models of type 'bert'; keep one."
        )

    def test_a_name_of_two_distributions_is_broken(self, install):
        for name in ("first", "second"):
            install(f"{name}-plugin", {GROUP: {"tiny": "kit_module_twice:FAMILY"}})
        with pytest.warns(SAEFeaturesWarning, match="both register 'tiny'"):
            working = families.families()
        (row,) = check_installed(["tiny"], working, lambda _line: None)
        assert row["error"] == (
            "first-plugin 1.0 and second-plugin 1.0 both register 'tiny' in sae_features.families; "
            "uninstall one of them."
        )
        assert as_text([row]).splitlines()[1] == f"tiny        BROKEN: {row['error']}"

    def test_skipped_and_expected_failures_count_together(self, monkeypatch):
        record = discovery.PluginRecord("tiny", "tiny-plugin", "1.0", "kit_module:FAMILY")
        monkeypatch.setattr(
            "sae_features.testing.table.discovery.records", lambda _group, record=record: (record,)
        )
        family = ModelFamily("tiny", (Architecture("no-such-type"),))
        rows = check_installed(["tiny"], {"tiny": family}, lambda _line: None)
        assert [row["skipped"] for row in rows[1:]] == [len(CHECKS)] * 2
        text = as_text(rows).splitlines()
        named = [line for line in text if "does not know it" in line]
        assert [line.split(":")[0].strip() for line in named] == [
            f"{CHECKS[0].__name__} and {len(CHECKS) - 1} more"
        ] * 2
