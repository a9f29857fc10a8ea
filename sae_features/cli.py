"""The command line: ``sae-features VERB``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import sae_features
from sae_features.commands import cache, compare, evaluate, train
from sae_features.errors import SAEFeaturesError, SAEFeaturesWarning, expected_one_of
from sae_features.parameters import DTYPES, OVERFLOWS, POOLINGS, TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "scipy", "huggingface-hub", "safetensors")
EXTRACT_PARAMETERS = (
    "model", "layer", "site", "sae", "tokens", "prompt", "max_length", "overflow", "dtype",
    "token_top_n", "pooling", "threshold", "binarize", "batch_size", "device",
)  # fmt: skip
"""Parameters of SAEFeaturizer that `extract` takes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status: 0, or 1 after an error.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process when not given.
    """
    options = _parser().parse_args(argv)
    try:
        with _one_line_warnings():
            options.run(options)
            sys.stdout.flush()
    except KeyboardInterrupt:
        _complain(options.interrupted)
        return 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # noqa: BLE001 one line is promised, whatever went wrong
        if options.debug:
            traceback.print_exc()
        else:
            kind = "" if isinstance(error, SAEFeaturesError) else f"{type(error).__name__}: "
            hint = "" if isinstance(error, SAEFeaturesError) else " (--debug shows where)"
            _complain(f"{kind}{' '.join(str(error).split())}{hint}")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sae-features",
        description="Readable features for scikit-learn from sparse autoencoders on pretrained models.",
    )
    parser.add_argument("--version", action="version", version=sae_features.__version__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    def verb(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        options = verbs.add_parser(name, help=summary, description=summary, parents=[shared])
        options.set_defaults(run=run, interrupted="interrupted")
        return options

    verb("demo", _demo, "Classify movie snippets by SAE latents, beside baselines.")
    verb("info", _info, "Show versions, devices and caches.")
    plugins = verb("plugins", _plugins, "List the installed model families and SAE formats.")
    plugins.add_argument(
        "--check",
        action="store_true",
        help="run the conformance kit on small random models of every family",
    )
    plugins.add_argument("--family", metavar="NAME", help="only this family")
    inspect = verb("inspect", _inspect, "Describe an SAE from its headers; --verify checks its weights.")
    inspect.add_argument("sae", metavar="PATH|ID", help="file, folder or id of an SAE")
    inspect.add_argument("--format", help="format of the files (default: detected)")
    inspect.add_argument("--k", type=int, help="number of latents, where the files do not say")
    inspect.add_argument("--norm-scale", type=float, help="scale of inputs, where the files do not say")
    inspect.add_argument(
        "--verify", action="store_true", help="load the weights and check shapes, finiteness and norms"
    )
    saes = verb("saes", _saes, "List the SAEs that are known by name: what load_sae and --sae take.")
    saes.add_argument("text", metavar="TEXT", nargs="?", default="", help="part of the id")
    saes.add_argument(
        "--model", help="alias, owner/name, TransformerLens name (gemma-2-2b), or part of it"
    )
    saes.add_argument("--format", metavar="F", help="name of the files' format (gemma_scope, saelens …)")
    saes.add_argument("--layer", type=int, metavar="L", help="block, counted from 0")
    extract = verb("extract", _extract, "Turn texts (or images) into a file of sparse features.")
    _add_extract_options(extract)
    train.add_options(
        verb("train", _train, "Train sparse autoencoders on a model's activations over a corpus.")
    )
    evaluate.add_options(
        verb("evaluate", _evaluate, "Measure an SAE on a corpus: how sparse, and how faithful.")
    )
    compare.add_options(
        verb("sweep", _sweep, "Compare features and baselines for classification, as a TOML file says.")
    )
    compare.add_options(
        verb("transfer", _transfer, "Test transfer across languages or models, as a TOML file says.")
    )
    compare.add_report_options(
        verb("report", _report, "Write tables and plots of a sweep or transfer as one HTML page.")
    )
    cache.add_options(verb("cache", _cache, "Show, verify or clear what is kept on disk."))
    return parser


def _add_extract_options(extract: argparse.ArgumentParser) -> None:
    extract.add_argument(
        "input",
        metavar="INPUT",
        help=".txt (an item per line), .csv, .tsv or .jsonl: texts, or paths of images for a vision "
        "model; or a folder of images",
    )
    extract.add_argument(
        "-o", "--output", required=True, metavar="OUT", help=".npz or .parquet (with provenance)"
    )
    extract.add_argument("--column", help="column of items (default: 'text', or the only one)")
    extract.add_argument("--model", help="alias, folder or owner/name on the hub (default: minilm)")
    extract.add_argument("--layer", type=int, help="block, counted from 0")
    extract.add_argument("--site", help="what is read of the block (default: resid_post)")
    extract.add_argument("--sae", help="id, file, folder or random:WIDTH:K[:SEED]")
    extract.add_argument("--tokens", choices=TOKENS, default="content")
    extract.add_argument("--prompt", help="a string with {} for the text, or 'chat'")
    extract.add_argument("--max-length", type=int, metavar="N", help="longest window in tokens")
    extract.add_argument("--overflow", choices=OVERFLOWS, default="truncate")
    extract.add_argument("--dtype", choices=DTYPES)
    extract.add_argument("--token-top-n", type=int, metavar="N", help="keep each token's N largest")
    extract.add_argument("--pooling", choices=POOLINGS, default="max")
    extract.add_argument("--threshold", type=float, metavar="T", help="keep what is above T")
    extract.add_argument("--binarize", action="store_true", help="make what is kept 1")
    extract.add_argument("--batch-size", type=int, metavar="N")
    extract.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    choice = extract.add_mutually_exclusive_group()
    choice.add_argument(
        "--cache",
        metavar="DIR",
        nargs="?",
        const=True,
        help="keep what is computed in DIR, so that an interrupted run resumes; without DIR (as the "
        "last argument) in the user's cache folder (default: as SAE_FEATURES_CACHE says, or --no-cache)",
    )
    choice.add_argument(
        "--no-cache", dest="cache", action="store_const", const=False, help="keep nothing"
    )
    extract.add_argument("--quiet", action="store_true", help="no progress bar")


def _demo(options: argparse.Namespace) -> None:
    from sae_features.demo import report, run_demo

    result = run_demo(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
    _print(result, options, report(result))


def _info(options: argparse.Namespace) -> None:
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from sae_features.assets import hub_is_offline
    from sae_features.families import list_families, why_left_out
    from sae_features.packaged_assets import default_root
    from sae_features.store import memory
    from sae_features.weights import choose_device

    devices = ["cpu"] + [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(_n_gpus())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    result = {
        "sae_features": sae_features.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in PACKAGES},
        "devices": devices,
        "default_device": choose_device(None),
        "threads": torch.get_num_threads(),
        "families": {
            name: f"{found.distribution} {found.version}"
            + (" (broken: sae-features plugins)" if why_left_out(name) else "")
            for name, found in list_families().items()
        },
        "default_model": _default_model(),
        "caches": {
            "hugging_face_hub": str(HF_HUB_CACHE),
            "hub_is_offline": hub_is_offline(),
            "packaged_assets": str(default_root()),
            "memory_bytes": memory.MAX_BYTES,
            "codes": _codes_folder(),
        },
    }
    _print(result, options, _as_lines(result))


def _plugins(options: argparse.Namespace) -> None:
    from sae_features import discovery
    from sae_features.families import GROUP as FAMILIES
    from sae_features.saes.formats import GROUP as FORMATS

    if options.check:
        _check_plugins(options)
        return
    rows = []
    for kind, group in (("family", FAMILIES), ("sae_format", FORMATS)):
        for record in discovery.records(group):
            if options.family not in {None, record.name}:
                continue
            row = {
                "kind": kind,
                "name": record.name,
                "distribution": record.distribution,
                "version": record.version,
                "status": "ok",
                "error": None,
            }
            broken = _complaint_of(group, record.name)
            rows.append(row | ({"status": "broken", "error": broken} if broken else {}))
    lines = [
        f"{row['kind']:12}{row['name']:21}{row['distribution']} {row['version']}  "
        f"{row['error'] or row['status']}"
        for row in rows
    ]
    _print(rows, options, "\n".join(lines) or "No plugin is installed.")


def _complaint_of(group: str, name: str) -> str:
    from sae_features import discovery
    from sae_features.families import GROUP, why_left_out

    if group == GROUP:
        return why_left_out(name)
    try:
        discovery.load_entry_point(group, name)
    except SAEFeaturesError as error:
        return str(error)
    return ""


def _check_plugins(options: argparse.Namespace) -> None:
    from sae_features.errors import PluginError
    from sae_features.families import families, list_families
    from sae_features.testing.table import as_text, check_installed

    known = list_families()
    if options.family is not None and options.family not in known:
        raise PluginError(expected_one_of("family", options.family, known))
    names = list(known) if options.family is None else [options.family]
    rows = check_installed(
        names,
        families(),
        lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
    )
    _print(rows, options, as_text(rows))
    failed = [row for row in rows if row["failed"] or row["error"] or not row["passed"]]
    if failed:
        named = ", ".join(dict.fromkeys(row["family"] for row in failed))
        raise PluginError(f"The families {named} do not pass; the table says why.")


def _inspect(options: argparse.Namespace) -> None:
    from sae_features.errors import InvalidParameterError, SAEFormatError
    from sae_features.inspection import describe, verify
    from sae_features.releases import FileSAE, find_sae

    found = find_sae(options.sae, format=options.format, k=options.k, norm_scale=options.norm_scale)
    if not isinstance(found, FileSAE):
        raise InvalidParameterError(f"Got {options.sae!r}; a random SAE has no files to describe.")
    result = describe(found)
    text = _as_lines(result)
    if options.verify:
        checks = verify(found)
        result |= {"digest": found.header.digest, "checks": checks}
        words = {True: "ok", False: "FAILED", None: "unusual"}
        rows = [f"  {words[row['passed']]:8}{row['check']}: {row['detail']}" for row in checks]
        text += "\nchecks:\n" + "\n".join(rows)
    _print(result, options, text)
    failed = [row["check"] for row in result.get("checks", ()) if row["passed"] is False]
    if failed:
        raise SAEFormatError(f"{options.sae}: failed {', '.join(failed)}.")


def _saes(options: argparse.Namespace) -> None:
    from sae_features.listing import as_text, list_saes

    rows = list_saes(options.text, model=options.model, format=options.format, layer=options.layer)
    _print(rows, options, as_text(rows, options.text))


def _extract(options: argparse.Namespace) -> None:
    from sae_features import SAEFeaturizer
    from sae_features.extract import extract_to_file
    from sae_features.store.settings import CACHE_VARIABLE, store_for

    given = {name: getattr(options, name) for name in EXTRACT_PARAMETERS}
    kept = options.cache
    if kept is None and not os.environ.get(CACHE_VARIABLE, "").strip():
        kept = False  # one pass looks nothing up again, and nothing lasting is kept unasked
    if store_for(kept) is not None:
        options.interrupted = "interrupted; run the same command again to resume where it stopped"
    featurizer = SAEFeaturizer(**given, cache=kept, verbose=not options.quiet)
    written = extract_to_file(featurizer, options.input, options.output, column=options.column)
    density = written.nonzero / written.n_items
    summary = (
        f"{written.output}: {written.n_items:,} rows of {written.n_latents:,} latents, "
        f"{density:.0f} nonzero in a row"
    )
    _print(written._asdict() | {"output": str(written.output)}, options, summary)


def _train(options: argparse.Namespace) -> None:
    result, text = train.run(options)
    _print(result, options, text)


def _evaluate(options: argparse.Namespace) -> None:
    result, text = evaluate.run(options)
    _print(result, options, text)


def _sweep(options: argparse.Namespace) -> None:
    result, text = compare.run_sweep(options)
    _print(result, options, text)


def _transfer(options: argparse.Namespace) -> None:
    result, text = compare.run_transfer(options)
    _print(result, options, text)


def _report(options: argparse.Namespace) -> None:
    result, text = compare.run_report(options)
    _print(result, options, text)


def _cache(options: argparse.Namespace) -> None:
    result, text = cache.run(options)
    _print(result, options, text)


def _codes_folder() -> str:
    from sae_features.store.disk import DiskStore
    from sae_features.store.settings import cache_size, store_for

    try:
        store, size = store_for(None), cache_size()
    except SAEFeaturesError as error:
        return str(error)
    if isinstance(store, DiskStore):
        return f"{store.folder}, up to {size / 2**30:.1f} GiB"
    return "off" if store is None else "in memory"


def _n_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _default_model() -> str:
    from sae_features.models import find_model
    from sae_features.targets import DEFAULT_MODEL

    try:
        return f"{DEFAULT_MODEL}: {find_model(DEFAULT_MODEL).folder}"
    except SAEFeaturesError as error:
        return f"{DEFAULT_MODEL}: {error}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _as_lines(result: dict[str, Any], indent: str = "") -> str:
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", _as_lines(value, indent + "  ")]
        else:
            lines.append(
                f"{indent}{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
            )
    return "\n".join(lines)


def _print(result: Any, options: argparse.Namespace, text: str) -> None:
    shown = json.dumps(result, indent=2, ensure_ascii=False) if options.json else text
    sys.stdout.write(shown + "\n")


def _complain(message: str) -> None:
    sys.stderr.write(f"sae-features: error: {message}\n")


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        sys.stderr.write(f"sae-features: warning: {message}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("default", SAEFeaturesWarning)
        warnings.showwarning = show
        yield
