"""Make the release tables that come from SAELens' registry, check them against it, or pin revisions.

``python scripts/make_release_tables.py YAML`` writes ``releases/saelens_*.json`` of the plugins from
``sae_lens/pretrained_saes.yaml``; ``--check`` compares their tables with it, SAE by SAE, and writes
nothing; ``--pin`` fills in the commits that the hub has now, of all tables.  Needs PyYAML.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from release_rows import NUMBERS, natural, packed, template_of

from sae_features import release_tables
from sae_features.model_names import hub_id

VERSION = "6.54.12"
SOURCE = (
    f"Derived by scripts/make_release_tables.py from the registry of SAELens {VERSION} "
    "(sae_lens/pretrained_saes.yaml, MIT licence, © the SAELens authors)."
)
FORMATS = {
    None: "saelens",
    "connor_rob_hook_z": "hook_z",
    "deepseek_r1": "linear",
    "dictionary_learning_1": "dictionary_learning",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "goodfire": "goodfire",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "llama_scope_r1",
    "mwhanna_transcoder": "transcoder",
    "qwen_scope": "qwen_scope",
}
LEFT_OUT = {
    "mntss_clt_layer_transcoder": "cross-layer transcoders: one layer of them is no autoencoder",
    "temporal": "temporal SAEs attend to earlier tokens",
}
PLUGINS = Path(__file__).parents[1] / "plugins"
TABLES = {
    "gemma/saelens_gemma3.json": r"google/gemma-3-",
    "gemma/saelens_gemma.json": r"google/gemma-",
    "gpt/saelens_gpt.json": r"openai|EleutherAI/pythia-",
    "llama/saelens_llama.json": r"meta-llama/|mistralai/|deepseek-ai/DeepSeek-R1-Distill-Llama",
    "qwen/saelens_qwen.json": r"Qwen/|deepseek-ai/DeepSeek-R1-Distill-Qwen",
}
"""Tables, ``family/file``, by the model that their releases belong to: the first pattern that fits."""
MODEL_CORRECTIONS = {"gemma-scope-9b-it-res": "gemma-2-9b-it"}
"""The registry gives the base model; SAELens' loader and Google the instruction-tuned one."""
SITES = {
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_resid_pre": "resid_pre",
    "hook_z": "attn_z",
}
GEMMA_3_HOOKS = {
    "resid_post": ("model.layers.{layer}.output", "resid_post"),
    "attn_out": ("model.layers.{layer}.self_attn.o_proj.input", "attn_z"),
    "mlp_out": ("model.layers.{layer}.post_feedforward_layernorm.output", "mlp_out"),
    "transcoder": ("model.layers.{layer}.pre_feedforward_layernorm.output", "mlp_in"),
}
HOOK_OUT = {
    "gemma_2_transcoder": "blocks.{layer}.hook_mlp_out",
    "gemma_3": "model.layers.{layer}.post_feedforward_layernorm.output",
    "mwhanna_transcoder": "blocks.{layer}.hook_mlp_out",
}
"""What transcoders write."""
TRANSCODER_SITES = {"mlp_in", "mlp_normalized"}
"""What only transcoders read."""
IRREGULAR = {"gemma-2b-res-jb", "gpt2-small-hook-z-kk"}
"""Releases whose files each have a name of their own."""
PILE = {"context_size": 1024, "prepend_bos": True}
LOADER_FACTS = {
    "connor_rob_hook_z": {"context_size": 128, "prepend_bos": True},
    "deepseek_r1": PILE,
    "gemma_2": PILE,
    "gemma_2_transcoder": PILE,
    "gemma_3": PILE,
    "llama_scope": PILE,
    "llama_scope_r1_distill": PILE,
}
"""What SAELens' loaders add where the files say nothing."""
GEMMA_WIDTHS = {"google/gemma-2-2b": 2304, "google/gemma-2-9b": 3584}
FIELDS = re.compile(
    r"(?:(?<=layer_)|(?<=blocks\.)|(?<=^layer)|(?<=^l)(?=\d+[amr]_))(?P<layer>\d+)"
    r"|(?<=width_)(?P<width>\d+[km])|(?<=average_l0_)(?P<l0>\d+)|(?<=trainer_)(?P<trainer>\d+)"
    r"|(?<=step_)(?P<step>\d+)|(?<=_l0_)(?P<size>big|medium|small)|(?<=hook_resid_pre_)(?P<width_>\d+)"
)
Row = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status is 1 where ``--check`` finds differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("yaml", nargs="?", type=Path, help="sae_lens/pretrained_saes.yaml")
    parser.add_argument("--check", action="store_true", help="compare with it, write nothing")
    parser.add_argument("--pin", action="store_true", help="fill in the hub's commits")
    options = parser.parse_args(argv)
    if options.yaml is not None:
        registry = read_registry(options.yaml)
        if options.check:
            differences = check(registry, all_tables())
            print("\n".join([*differences[:50], f"{len(differences)} differences"]))
            return bool(differences)
        for name, table in tables_of(registry).items():
            keep_revisions(table, place_of(name))
            write_table(place_of(name), table)
    if options.pin:
        from huggingface_hub import HfApi

        for path in all_tables():
            table = json.loads(path.read_text(encoding="utf-8"))
            for problem in pin(table, HfApi()):
                print(problem, file=sys.stderr)
            write_table(path, table)
    return 0


def place_of(name: str) -> Path:
    """Return the file of a table, ``family/file``, in the plugin of its family."""
    family, _, file = name.partition("/")
    return PLUGINS / f"sae-features-{family}" / "src" / f"sae_features_{family}" / "releases" / file


def all_tables() -> tuple[Path, ...]:
    """Return the tables of all plugins in this repository."""
    return tuple(sorted(PLUGINS.glob("sae-features-*/src/*/releases/*.json")))


def read_registry(path: Path) -> dict[str, Any]:
    """Return SAELens' registry as it is in its file."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 it is a safe one


def tables_of(registry: dict[str, Any]) -> dict[str, Any]:
    """Return tables by family and file, as in :data:`TABLES`."""
    tables: dict[str, Any] = {}
    for name in sorted(registry, key=natural):
        model = model_of(name, registry[name])
        place = next((key for key, pattern in TABLES.items() if re.match(pattern, model)), None)
        if place is None:
            raise ValueError(f"{name}: got a model {model!r}; expected one of a family in TABLES.")
        empty = {"schema": release_tables.SCHEMA, "source": SOURCE, "releases": {}}
        table = tables.setdefault(place, empty)
        reason = LEFT_OUT.get(registry[name]["conversion_func"])
        if reason is None:
            table["releases"][name] = release_of(name, registry[name])
        else:
            table.setdefault("left_out", {})[name] = reason
    return tables


def model_of(name: str, given: dict[str, Any]) -> str:
    """Return the id on the hub of the model that a release belongs to."""
    return hub_id(MODEL_CORRECTIONS.get(name, given["model"]))


def release_of(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return a release as our tables have it."""
    function = given["conversion_func"]
    shared: dict[str, Any] = {
        "repo": given["repo_id"],
        "model": model_of(name, given),
        "format": FORMATS[function],
    }
    if function == "qwen_scope":
        shared["k"] = int(re.search(r"L0_(\d+)$", given["repo_id"])[1])  # type: ignore[index]
    facts: dict[str, Any] = dict(LOADER_FACTS.get(function, {}))
    overrides = dict(given.get("config_overrides") or {})
    overrides.pop("dataset_path", None)
    if overrides.pop("model_from_pretrained_kwargs", {}).get("center_writing_weights"):
        facts["centred"] = True
    if overrides:
        facts["config_overrides"] = overrides
    facts |= {key: link for key, link in given.get("links", {}).items() if key != "model"}
    if facts:
        shared["facts"] = facts
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for sae in sorted(given["saes"], key=lambda sae: natural(sae["id"])):
        row = row_of(shared, function, sae)
        path = "{file}" if name in IRREGULAR else row["path"].replace(sae["id"], "{id}")
        row["path_shape"] = NUMBERS.sub("#", path)
        shape = (row["id"], row["path_shape"], NUMBERS.sub("#", str(row.get("neuronpedia"))))
        known = [key for key in ("l0", "variance_explained", "norm_scale") if key in row["facts"]]
        groups[*shape, *known].append(row)
    parts = [part_of(rows) for rows in groups.values()]
    return {**shared, **merge_facts(shared, parts[0])} if len(parts) == 1 else shared | {"parts": parts}


def merge_facts(shared: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return a part with the facts of its release."""
    facts = {**shared.get("facts", {}), **part.get("facts", {})}
    return {**({"facts": facts} if facts else {}), **{k: v for k, v in part.items() if k != "facts"}}


def row_of(shared: dict[str, Any], function: str | None, sae: dict[str, Any]) -> Row:
    """Return one SAE: the template of its id, what fills it, and what is known of it."""
    values: dict[str, str] = {}

    def name_field(match: re.Match[str]) -> str:
        field = str(match.lastgroup).rstrip("_")
        values[field] = match[0]
        return f"{{{field}}}"

    template = FIELDS.sub(name_field, sae["id"])
    hook, site = hook_of(shared, function, template, str(sae["path"]))
    facts = {key: sae[key] for key in ("l0", "variance_explained") if key in sae}
    if site in TRANSCODER_SITES:
        facts["hook_out"] = HOOK_OUT[str(function)]
    scale = sae.get("norm_scaling_factor")
    row: Row = {"id": template, "values": values, "hook": hook, "site": site, "facts": facts}
    row |= {"path": str(sae["path"]), "own_id": sae["id"]}
    if sae.get("neuronpedia"):
        row["neuronpedia"] = sae["neuronpedia"]
    if function == "llama_scope" and scale is not None:
        facts["norm_scaling_factor"] = scale  # its files say it
    elif scale is not None:
        facts["norm_scale"] = scale
    average = re.search(r"average_l0_(\d+)$", row["path"])
    if average:
        facts["l0"] = int(average[1])
    if template.startswith("embedding/"):
        row["layer"] = 0
        # Trained on embeddings before Gemma multiplies them by √d_model; block 0 reads them after.
        facts["norm_scale"] = GEMMA_WIDTHS[shared["model"]] ** -0.5
    return row


def hook_of(shared: dict[str, Any], function: str | None, template: str, path: str) -> tuple[str, str]:
    """Return the hook point in the release's own words, and our site for it."""
    if function == "gemma_3":
        return GEMMA_3_HOOKS[re.match(r"resid_post|attn_out|mlp_out|transcoder", path)[0]]  # type: ignore[index]
    if function == "gemma_2_transcoder":
        return "blocks.{layer}.ln2.hook_normalized", "mlp_normalized"  # RMSNorm: before the gain
    if function == "mwhanna_transcoder":
        return "blocks.{layer}.mlp.hook_in", "mlp_in"
    if function == "gemma_2":
        if template.startswith("embedding/"):
            return "hook_embed", "resid_pre"
        hook = {"res": "hook_resid_post", "mlp": "hook_mlp_out", "att": "attn.hook_z"}[
            shared["repo"].rsplit("-", 1)[1]
        ]
    elif function == "llama_scope":
        hook = {"R": "hook_resid_post", "M": "hook_mlp_out", "A": "hook_attn_out"}[
            re.search(r"LX([AMR])-", shared["repo"])[1]  # type: ignore[index]
        ]
    elif function in {"goodfire", "qwen_scope"}:
        return "model.layers.{layer}", "resid_post"
    elif function == "connor_rob_hook_z":
        hook = "attn.hook_z"
    elif template.startswith("resid_post_layer_"):
        return "resid_post_layer_{layer}", "resid_post"
    else:
        found = re.search(r"hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)", template)
        hook = found[0] if found else "hook_resid_post"
    return f"blocks.{{layer}}.{hook}", SITES[hook.removeprefix("attn.")]


def part_of(rows: list[Row]) -> dict[str, Any]:
    """Return SAEs of one shape as templates and rows."""
    first = rows[0]
    part = {key: first[key] for key in ("id", "layer", "hook", "site") if key in first}
    columns = {column: [row["values"][column] for row in rows] for column in first["values"]}
    paths = [row["path"] for row in rows]
    if first["path_shape"] == "{file}":
        part["path"] = template_of(paths, columns, "file", whole=True)
    elif len(around := {row["path"].replace(row["own_id"], row["id"]) for row in rows}) == 1:
        part["path"] = around.pop()
    else:
        part["path"] = template_of(paths, columns, "path")
    if part["path"] == part["id"]:
        del part["path"]
    facts = {key: f"{{{key}}}" for key in ("width", "size", "trainer", "step") if key in columns}
    for key in ("l0", "variance_explained", "norm_scaling_factor", "norm_scale"):
        given = [row["facts"].get(key) for row in rows]
        if given[0] is None:
            continue
        texts = [json.dumps(int(value) if value == int(value) else value) for value in given]
        template = template_of(texts, columns, key, whole=True)
        value = json.loads(texts[0]) if len(set(texts)) == 1 else template
        (part if key == "norm_scale" else facts)[key] = value
    if "neuronpedia" in first:
        facts["neuronpedia"] = template_of([row["neuronpedia"] for row in rows], columns, "width")
        facts |= {"width": "{width}"} if "width" in columns else {}
    if first["site"] in TRANSCODER_SITES:
        facts["hook_out"] = first["facts"]["hook_out"]
    if facts:
        part["facts"] = facts
    if columns:
        part |= {"columns": " ".join(columns), "rows": packed(list(zip(*columns.values(), strict=True)))}
    return part


def write_table(path: Path, table: dict[str, Any]) -> None:
    """Write a table as indented JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path}: {len(table['releases'])} releases, {path.stat().st_size:,} bytes")


def keep_revisions(table: dict[str, Any], path: Path) -> None:
    """Take over the revisions that a table on disk has for the same repositories."""
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))["releases"]
        for name, release in table["releases"].items():
            before = known.get(name, {})
            if before.get("repo") == release["repo"] and before.get("revision"):
                release["revision"] = before["revision"]


def pin(table: dict[str, Any], api: Any) -> list[str]:
    """Fill in the commit of each release's repository; return what went wrong.

    Parameters
    ----------
    table : dict
        A table; changed in place.
    api : huggingface_hub.HfApi
        Or anything with its ``repo_info``.
    """
    problems = []
    commits: dict[str, str] = {}
    for name, release in table["releases"].items():
        repository = release.get("repo", "{}")
        if "{" in repository or any("repo" in part for part in release.get("parts", [])):
            problems.append(f"{name}: has a repository for each SAE, not pinned")
            continue
        try:
            commits[repository] = commits.get(repository) or api.repo_info(repository).sha
        except Exception as error:  # noqa: BLE001 gated, renamed, gone, no network
            problems.append(f"{name}: {repository}: {type(error).__name__}: {error}")
        else:
            release["revision"] = commits[repository]
    return problems


def check(registry: dict[str, Any], tables: tuple[Path, ...]) -> list[str]:
    """Return where tables differ from the registry: an id, a path, a fact, or an SAE too many."""
    ours = {entry["sae_id"]: entry for table in tables for entry in release_tables.entries(table)}
    differences = []
    for name, release in registry.items():
        if release["conversion_func"] in LEFT_OUT:
            continue
        for sae in release["saes"]:
            found = ours.pop(f"{name}/{sae['id']}", None)
            if found is None:
                differences.append(f"{name}/{sae['id']}: missing")
                continue
            facts = found["facts"]
            expected = {
                "repo_id": release["repo_id"],
                "path": str(sae["path"]),
                "neuronpedia": sae.get("neuronpedia"),
                "variance_explained": sae.get("variance_explained"),
                "scale": sae.get("norm_scaling_factor"),
            }
            got = {
                "repo_id": found["repo_id"],
                "path": found["path"],
                "neuronpedia": facts.get("neuronpedia"),
                "variance_explained": facts.get("variance_explained"),
                "scale": facts.get("norm_scaling_factor", found["norm_scale"]),
            }
            if sae["id"].startswith("embedding/"):
                expected["scale"] = got["scale"]
            if "l0" in sae and "average_l0_" not in str(sae["path"]):
                expected["l0"], got["l0"] = sae["l0"], facts.get("l0")
            if got != expected:
                differences.append(f"{name}/{sae['id']}: {got} instead of {expected}")
    extra = [sae_id for sae_id in ours if sae_id.partition("/")[0] in registry]
    return differences + [f"{sae_id}: not in the registry" for sae_id in extra]


if __name__ == "__main__":
    sys.exit(main())
