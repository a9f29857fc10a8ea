"""The tables of our plugins, entry by entry where it matters, and what a damaged one is told."""

from __future__ import annotations

import importlib
import json
import time
from collections import Counter

import pytest
from tiny import RELEASE_TABLES

from sae_features import release_tables
from sae_features.errors import PluginError
from sae_features.hook_point import SITES
from sae_features.sae_registry import known_sae
from sae_features.sae_sources import SAESource

REGISTRY = {
    "gemma-2-2b-res-matryoshka-dc/blocks.20.hook_resid_post": (
        "chanind/gemma-2-2b-batch-topk-matryoshka-saes-w-32k-l0-40",
        "standard/blocks.20.hook_resid_post",
        ("saelens", "google/gemma-2-2b", 20, "resid_post"),
    ),
    "gpt2-small-res-jb/blocks.11.hook_resid_post": (
        "jbloom/GPT2-Small-SAEs-Reformatted",
        "blocks.11.hook_resid_post",
        ("saelens", "openai-community/gpt2", 11, "resid_post"),
    ),
    "gpt2-small-resid-post-v5-32k/blocks.2.hook_resid_post": (
        "jbloom/GPT2-Small-OAI-v5-32k-resid-post-SAEs",
        "v5_32k_layer_2.pt",
        ("saelens", "openai-community/gpt2", 2, "resid_post"),
    ),
    "mistral-7b-res-wg/blocks.16.hook_resid_pre": (
        "JoshEngels/Mistral-7B-Residual-Stream-SAEs",
        "mistral_7b_layer_16",
        ("saelens", "mistralai/Mistral-7B-v0.1", 16, "resid_pre"),
    ),
    "pythia-70m-deduped-res-sm/blocks.0.hook_resid_pre": (
        "ctigges/pythia-70m-deduped__res-sm_processed",
        "e-res-sm",
        ("saelens", "EleutherAI/pythia-70m-deduped", 0, "resid_pre"),
    ),
    "gpt2-small-hook-z-kk/blocks.8.hook_z": (
        "ckkissane/attn-saes-gpt2-small-all-layers",
        "gpt2-small_L8_Hcat_z_lr1.20e-03_l11.30e+00_ds24576_bs4096_dc1.00e-05_rsanthropic_rie25000_nr4_v6"
        ".pt",
        ("hook_z", "openai-community/gpt2", 8, "attn_z"),
    ),
    "gemma-scope-2b-pt-att/layer_22/width_65k/average_l0_112": (
        "google/gemma-scope-2b-pt-att",
        "layer_22/width_65k/average_l0_112",
        ("gemma_scope", "google/gemma-2-2b", 22, "attn_z"),
    ),
    "gemma-scope-9b-it-res-canonical/layer_31/width_16k/canonical": (
        "google/gemma-scope-9b-it-res",
        "layer_31/width_16k/average_l0_76",
        ("gemma_scope", "google/gemma-2-9b-it", 31, "resid_post"),
    ),
    "gemma-scope-9b-it-res/layer_20/width_16k/average_l0_91": (
        "google/gemma-scope-9b-it-res",
        "layer_20/width_16k/average_l0_91",
        ("gemma_scope", "google/gemma-2-9b-it", 20, "resid_post"),  # the registry says gemma-2-9b
    ),
    "gemma-scope-2b-pt-transcoders/layer_12/width_16k/average_l0_6": (
        "google/gemma-scope-2b-pt-transcoders",
        "layer_12/width_16k/average_l0_6",
        ("gemma_scope", "google/gemma-2-2b", 12, "mlp_normalized"),
    ),
    "gemma-scope-2-12b-it-res-all/layer_44_width_262k_l0_big": (
        "google/gemma-scope-2-12b-it",
        "resid_post_all/layer_44_width_262k_l0_big",
        ("gemma_scope_2", "google/gemma-3-12b-it", 44, "resid_post"),
    ),
    "gemma-scope-2-270m-pt-att/layer_12_width_65k_l0_small": (
        "google/gemma-scope-2-270m-pt",
        "attn_out/layer_12_width_65k_l0_small",
        ("gemma_scope_2", "google/gemma-3-270m", 12, "attn_z"),
    ),
    "gemma-scope-2-27b-it-transcoders/transcoder/layer_16_width_16k_l0_big_affine": (
        "google/gemma-scope-2-27b-it",
        "transcoder/layer_16_width_16k_l0_big_affine",
        ("gemma_scope_2", "google/gemma-3-27b-it", 16, "mlp_in"),
    ),
    "llama_scope_lxm_8x/l10m_8x": (
        "fnlp/Llama3_1-8B-Base-LXM-8x",
        "Llama3_1-8B-Base-L10M-8x",
        ("llama_scope", "meta-llama/Llama-3.1-8B", 10, "mlp_out"),
    ),
    "llama_scope_r1_distill/l2r_400m_slimpajama_400m_openr1_math": (
        "fnlp/Llama-Scope-R1-Distill",
        "400M-Slimpajama-400M-OpenR1-Math-220k/L2R",
        ("llama_scope_r1", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 2, "resid_post"),
    ),
    "sae_bench_gemma-2-2b_topk_width-2pow12_date-1109/blocks.5.hook_resid_post__trainer_1_step_308": (
        "canrager/saebench_gemma-2-2b_width-2pow12_date-1109",
        "gemma-2-2b_topk_width-2pow12_date-1109/resid_post_layer_5_checkpoints/trainer_1_step_308",
        ("dictionary_learning", "google/gemma-2-2b", 5, "resid_post"),
    ),
    "qwen2.5-7b-instruct-andyrdt/resid_post_layer_27_trainer_1": (
        "andyrdt/saes-qwen2.5-7b-instruct",
        "resid_post_layer_27/trainer_1",
        ("dictionary_learning", "Qwen/Qwen2.5-7B-Instruct", 27, "resid_post"),
    ),
    "mwhanna-qwen3-0.6b-transcoders-lowl0/layer_4": (
        "mwhanna/qwen3-0.6b-transcoders-lowl0",
        "layer_4.safetensors",
        ("transcoder", "Qwen/Qwen3-0.6B", 4, "mlp_in"),
    ),
    "goodfire-llama-3.3-70b-instruct/layer_50": (
        "Goodfire/Llama-3.3-70B-Instruct-SAE-l50",
        "Llama-3.3-70B-Instruct-SAE-l50.pt",
        ("goodfire", "meta-llama/Llama-3.3-70B-Instruct", 50, "resid_post"),
    ),
    "deepseek-r1-distill-llama-8b-qresearch/blocks.19.hook_resid_post": (
        "qresearch/DeepSeek-R1-Distill-Llama-8B-SAE-l19",
        "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt",
        ("linear", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 19, "resid_post"),
    ),
    "qwen-scope-3-30b-a3b-base-w128k-l100/layer17": (
        "Qwen/SAE-Res-Qwen3-30B-A3B-Base-W128K-L0_100",
        "layer17.sae.pt",
        ("qwen_scope", "Qwen/Qwen3-30B-A3B-Base", 17, "resid_post"),
    ),
}
"""Ids of SAELens' registry 6.54.12, over all its conversion functions that we read."""


@pytest.fixture(scope="module")
def tables():
    """The tables of all plugins in this repository."""
    return [release_tables.table_of_package(reference) for reference in RELEASE_TABLES]


@pytest.fixture(scope="module")
def entries(tables):
    """What they say."""
    return [entry for table in tables for entry in release_tables.entries(table)]


class TestTablesOfOurPlugins:
    @pytest.mark.parametrize("sae_id", REGISTRY)
    def test_saelens_ids_keep_working(self, sae_id):
        source = known_sae(sae_id)
        repository, path, rest = REGISTRY[sae_id]
        assert (source.sae_id, source.repo_id, source.path) == (sae_id, repository, path)
        assert (source.format, source.model, source.layer, source.site) == rest

    def test_there_are_this_many_of_each_format(self, entries):
        assert Counter(entry["format"] for entry in entries) == {
            "dictionary_learning": 838 + 90,
            "gemma_scope": 2833 + 26,
            "gemma_scope_2": 8784,
            "goodfire": 2,
            "hook_z": 12,
            "linear": 1 + 1,
            "llama_scope": 192 + 64,
            "llama_scope_r1": 96,
            "prisma": 24 + 12 + 11 + 12,
            "qwen_scope": 544,
            "saelens": 292,
            "saev": 3,
            "sparsify": 30 + 17 + 2 + 4 + 16 + 28 + 18 + 18 + 24,
            "transcoder": 208,
        }

    def test_no_id_is_in_two_places_and_no_release_in_two_tables(self, entries, tables):
        assert len({entry["sae_id"] for entry in entries}) == len(entries) == 14_202
        names = [name for table in tables for name in release_tables.release_names(table)]
        assert len(set(names)) == len(names)

    def test_they_are_whole(self, entries):
        for entry in entries:
            assert SAESource(**entry).model.count("/") == 1, entry
            assert entry["repo_id"].count("/") == 1, entry
            texts = [*entry.values(), *entry["facts"].values()]
            assert not any("{" in text for text in texts if isinstance(text, str)), entry
            assert isinstance(entry["layer"], int), entry
            assert entry["site"] in SITES, entry

    @pytest.mark.parametrize(
        ("sae_id", "field", "value"),
        [
            ("gpt2-small-mlp-tm/blocks.3.hook_mlp_out", "norm_scale", 1.8958522157897557),
            ("gemma-2b-res-jb/blocks.12.hook_resid_post", "norm_scale", 0.21381938399317255),
            ("gemma-2b-res-jb/blocks.10.hook_resid_post", "norm_scale", None),
            ("llama_scope_r1_distill/l0r_800m_slimpajama", "norm_scale", 53.52995401997436),
            ("llama_scope_lxr_8x/l0r_8x", "norm_scale", None),  # its files say it
            ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_44", "norm_scale", 2304**-0.5),
            ("gemma-scope-2b-pt-res/embedding/width_4k/average_l0_44", "hook", "hook_embed"),
            ("qwen-scope-3-8b-base-w64k-l100/layer7", "k", 100),
            ("qwen-scope-3-8b-base-w64k-l100/layer7", "hook", "model.layers.7"),
            ("sae-pythia-70m-32k/layers.3.attention", "site", "attn_out"),
            ("llama_scope_lxtc_8x/l19tc_8x", "hook", "blocks.19.ln2.hook_normalized"),
            ("llama_scope_lxtc_32x/l0tc_32x", "site", "mlp_normalized"),
            (
                "prisma-clip-b-32-vanilla-x64/layer_2_resid_post",
                "repo_id",
                "Prisma-Multimodal/sparse-autoencoder-clip-b-32-sae-vanilla-x64-layer-2-hook_resid_post-l1"
                "-5e-05",
            ),
            ("gemma-scope-2-1b-pt-res/layer_13_width_16k_l0_big", "hook", "model.layers.13.output"),
        ],
    )
    def test_what_is_known_of_some(self, sae_id, field, value):
        assert getattr(known_sae(sae_id), field) == value

    @pytest.mark.parametrize(
        ("sae_id", "facts"),
        [
            (
                "gemma-scope-2b-pt-res-canonical/layer_12/width_16k/canonical",
                {"l0": 82, "width": "16k", "neuronpedia": "gemma-2-2b/12-gemmascope-res-16k"},
            ),
            ("gpt2-small-res-jb/blocks.8.hook_resid_pre", {"centred": True, "variance_explained": 0.9}),
            (
                "mistral-7b-res-wg/blocks.8.hook_resid_pre",
                {"l0": 92, "config_overrides": {"normalize_activations": "constant_norm_rescale"}},
            ),
            ("llama_scope_lxm_8x/l10m_8x", {"norm_scaling_factor": 17.5793991416309, "l0": 50}),
            (
                "gemma-scope-2-4b-it-transcoders-all/layer_9_width_16k_l0_small_affine",
                {
                    "l0": 17,
                    "size": "small",
                    "neuronpedia": "gemma-3-4b-it/9-gemmascope-2-transcoder-16k",
                    "hook_out": "model.layers.9.post_feedforward_layernorm.output",
                },
            ),
        ],
    )
    def test_facts_of_some(self, sae_id, facts):
        assert facts.items() <= dict(known_sae(sae_id).facts).items()

    def test_only_these_are_to_be_centred(self, entries):
        centred = {e["sae_id"].split("/")[0] for e in entries if e["facts"].get("centred")}
        assert centred == {
            "gpt2-small-res-jb", "gpt2-small-res-jb-feature-splitting", "gpt2-small-mlp-tm"
        }  # fmt: skip

    def test_they_are_small_and_say_where_they_come_from(self, tables):
        assert sum(table.stat().st_size for table in tables) < 1_000_000
        assert all(json.loads(table.read_text())["source"] for table in tables)

    def test_one_lookup_is_fast_and_parses_one_table(self):
        for cached in (release_tables._text, release_tables._releases):
            cached.cache_clear()
        start = time.perf_counter()
        assert known_sae("gemma-scope-9b-pt-res/layer_41/width_16k/average_l0_60") is None
        assert known_sae("gemma-scope-9b-pt-res/layer_20/width_16k/average_l0_68") is not None
        assert time.perf_counter() - start < 0.5  # 0.01 s where nothing else runs
        assert release_tables._releases.cache_info().currsize == 1


class TestReading:
    RELEASE = {"model": "owner/model", "repo": "owner/saes", "id": "layer_{layer}"}  # noqa: RUF012

    @pytest.fixture
    def write(self, tmp_path):
        """Write a table with one release, ``r``."""

        def write(content=None, **release):
            path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
            merged = {key: value for key, value in (self.RELEASE | release).items() if value != "-"}
            table = {"schema": 1, "releases": {"r": merged}} if content is None else content
            path.write_text(table if isinstance(table, str) else json.dumps(table))
            return path

        return write

    def test_rows_are_products_of_lists_and_ranges(self, write):
        table = write(
            id="{layer}-{size}-{l0}", columns="layer size l0", rows=["0..2 small,big 5", "7 big 1,2"]
        )
        ids = [
            "0-small-5",
            "0-big-5",
            "1-small-5",
            "1-big-5",
            "2-small-5",
            "2-big-5",
            "7-big-1",
            "7-big-2",
        ]
        assert release_tables.ids_of_release(table, "r") == ids
        entry = release_tables.find_entry(table, "r/7-big-2")
        assert (entry["layer"], entry["path"], entry["repo_id"]) == (7, "7-big-2", "owner/saes")

    def test_parts_add_to_what_they_share(self, write):
        table = write(
            facts={"l0": "{l0}", "place": "here"}, site="mlp_out",
            parts=[
                {"columns": "layer l0", "rows": ["1 2.5"]},
                {"id": "embedding", "layer": 0, "site": "resid_pre", "facts": {"l0": 3}},
            ],
        )  # fmt: skip
        first, second = release_tables.entries(table)
        assert (first["sae_id"], first["site"], first["facts"]) == (
            "r/layer_1", "mlp_out", {"l0": 2.5, "place": "here"}
        )  # fmt: skip
        assert (second["sae_id"], second["layer"], second["site"]) == ("r/embedding", 0, "resid_pre")
        assert second["facts"] == {"l0": 3, "place": "here"}

    def test_every_field_may_be_a_template(self, write):
        table = write(
            repo="owner/saes-{site}", path="{site}/{layer}.pt", site="{site}", hook="h.{layer}",
            k="{k}", columns="layer site k", rows=["3 resid_pre 32"],
        )  # fmt: skip
        (entry,) = release_tables.entries(table)
        assert entry == {
            "sae_id": "r/layer_3", "model": "owner/model", "layer": 3, "site": "resid_pre",
            "repo_id": "owner/saes-resid_pre", "revision": None, "path": "resid_pre/3.pt",
            "format": None, "hook": "h.3", "k": 32, "norm_scale": None, "facts": {},
            "is_default": False,
        }  # fmt: skip

    def test_models_are_chosen_before_anything_is_filled_in(self, write):
        table = write(columns="layer", rows=["0 too many"])
        assert list(release_tables.entries(table, {"owner/other"})) == []

    @pytest.mark.parametrize(
        ("release", "message"),
        [
            ({"path": "../{layer}"}, "release 'r': Got path='../1'; expected a path inside the reposit"),
            ({"path": "a/../../{layer}"}, r"Got path='a/../../1'; expected a path inside"),
            ({"path": "/etc/{layer}"}, "Got path='/etc/1'; expected a path inside"),
            ({"path": "C:/{layer}"}, "Got path='C:/1'; expected a path inside"),
            ({"path": "a\\{layer}"}, r"Got path='a\\\\1'; expected a path inside"),
            ({"rows": ["1 2"]}, r"has the row '1 2'; expected values of \['layer'\]"),
            ({"hook": "h.{block}"}, r"has the template 'h.{block}'; expected layer in it"),
            ({"hook": "h.{"}, r"has the template 'h.{'; expected layer in it"),
            ({"site": "resid"}, "release 'r': Got site='resid'; expected one of resid_pre, .*"),
            ({"layers": 3}, r"has unknown fields \['layers'\]; see sae_features.release_tables"),
            ({"model": "-"}, r"has no \['model'\]; see"),
        ],
    )
    def test_a_damaged_release(self, write, release, message):
        table = write(**{"columns": "layer", "rows": ["1"], **release})
        with pytest.raises(PluginError, match=message):
            list(release_tables.entries(table))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "The release table .*json is not JSON: "),
            ([], "json: got schema=None; expected a release table of schema 1."),
            ({"schema": 2, "releases": {}}, "json: got schema=2; expected a release table of schema 1."),
            ({"schema": 1}, "json: got schema=1; expected a release table of schema 1."),
            ({"schema": 1, "releases": {"a/b": {}}}, "got release 'a/b'; expected a name without '/'"),
        ],
    )
    def test_a_damaged_table(self, write, content, message):
        with pytest.raises(PluginError, match=message):
            release_tables.release_names(write(content))

    def test_a_missing_table(self, tmp_path):
        with pytest.raises(PluginError, match="could not be read"):
            release_tables.release_names(tmp_path / "none.json")


class TestScript:
    """``scripts/make_release_tables.py``; SAELens' whole registry is checked by its ``--check``."""

    REGISTRY = {  # noqa: RUF012
        "some-res": {
            "conversion_func": "gemma_2", "model": "gemma-2-2b", "repo_id": "google/scope-res",
            "saes": [
                {"id": f"layer_{layer}/width_16k/average_l0_{l0}", "l0": l0,
                 "path": f"layer_{layer}/width_16k/average_l0_{l0}"}
                for layer in range(4) for l0 in (20, 100 + layer)
            ],
        },
        "temporal": {"conversion_func": "temporal", "model": "gemma-2-2b", "repo_id": "a/b", "saes": []},
        "pythia": {
            "conversion_func": None, "model": "pythia-70m", "repo_id": "owner/pythia",
            "saes": [{"id": "blocks.1.hook_mlp_out", "path": "1-mlp", "norm_scaling_factor": 0.5}],
        },
    }  # fmt: skip

    @pytest.fixture
    def script(self, monkeypatch, request):
        monkeypatch.syspath_prepend(request.config.rootpath / "scripts")
        return importlib.import_module("make_release_tables")

    def test_tables_are_compact_and_say_the_same(self, script, tmp_path):
        tables = script.tables_of(self.REGISTRY)
        assert list(tables) == ["gpt/saelens_gpt.json", "gemma/saelens_gemma.json"]
        release = tables["gemma/saelens_gemma.json"]["releases"]["some-res"]
        assert release["id"] == "layer_{layer}/width_{width}/average_l0_{l0}"
        assert release["rows"] == ["0 16k 20,100", "1 16k 20,101", "2 16k 20,102", "3 16k 20,103"]
        assert list(tables["gemma/saelens_gemma.json"]["left_out"]) == ["temporal"]
        for name, table in tables.items():
            script.write_table(tmp_path / name, table)
        written = tuple(tmp_path.glob("*/*.json"))
        assert script.check(self.REGISTRY, written) == []
        gpt = tmp_path / "gpt" / "saelens_gpt.json"
        assert release_tables.find_entry(gpt, "pythia/blocks.1.hook_mlp_out")["norm_scale"] == 0.5
        changed = json.loads(json.dumps(self.REGISTRY))
        changed["pythia"]["saes"][0]["path"] = "2-mlp"
        changed["some-res"]["saes"].pop()
        first, second = script.check(changed, written)
        assert first.startswith(
            "pythia/blocks.1.hook_mlp_out: {'repo_id': 'owner/pythia', 'path': '1-mlp'"
        )
        assert second == "some-res/layer_3/width_16k/average_l0_103: not in the registry"

    def test_tables_lie_in_the_plugin_of_their_family(self, script):
        places = {script.place_of(name) for name in script.TABLES}
        assert {place.name for place in places} == {name.split("/")[1] for name in script.TABLES}
        assert places < set(script.all_tables())
        assert all(f"sae_features_{n.split('/')[0]}" in str(script.place_of(n)) for n in script.TABLES)

    def test_a_model_of_no_family_is_an_error(self, script):
        registry = {"new": {**self.REGISTRY["pythia"], "model": "owner/model"}}
        with pytest.raises(ValueError, match="^new: got a model 'owner/model'; expected one of a fam"):
            script.tables_of(registry)

    def test_rows_are_packed_into_products(self, script):
        rows = [(a, b, c) for a in "0123" for b in "xy" for c in ("5", "9")]
        assert script.packed(rows) == ["0..3 x,y 5,9"]
        assert script.packed([("1", "x"), ("2", "y")]) == ["1 x", "2 y"]

    def test_pinning_fills_in_the_hub_s_commits(self, script):
        class Api:
            def __init__(self):
                self.asked = []

            def repo_info(self, repository):
                self.asked.append(repository)
                if repository == "owner/gone":
                    raise OSError("404")
                return type("Info", (), {"sha": f"commit of {repository}"})

        table = {
            "releases": {
                "first": {"repo": "owner/a"},
                "second": {"repo": "owner/a"},
                "third": {"repo": "owner/gone", "revision": "before"},
                "fourth": {"repo": "owner/{layer}"},
            }
        }
        api = Api()
        assert script.pin(table, api) == [
            "third: owner/gone: OSError: 404",
            "fourth: has a repository for each SAE, not pinned",
        ]
        assert api.asked == ["owner/a", "owner/gone"]
        revisions = [release.get("revision") for release in table["releases"].values()]
        assert revisions == ["commit of owner/a", "commit of owner/a", "before", None]

    def test_pins_outlive_a_new_registry(self, script, tmp_path):
        table = script.tables_of(self.REGISTRY)["gemma/saelens_gemma.json"]
        table["releases"]["some-res"]["revision"] = "c" * 40
        script.write_table(tmp_path / "t.json", table)
        fresh = script.tables_of(self.REGISTRY)["gemma/saelens_gemma.json"]
        script.keep_revisions(fresh, tmp_path / "t.json")
        assert fresh["releases"]["some-res"]["revision"] == "c" * 40
        fresh["releases"]["some-res"].update(repo="owner/new", revision=None)
        script.keep_revisions(fresh, tmp_path / "t.json")
        assert fresh["releases"]["some-res"]["revision"] is None
