"""`sae-features sweep`, `transfer` and `report`: protocols in a TOML file, and what came of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError
from sae_features.parameters import check_count

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sae_features.evaluation.configs import Config
    from sae_features.evaluation.labelled import LabelledItems
    from sae_features.evaluation.results import Results
    from sae_features.evaluation.sweep import FeatureSweep

METRICS = ("accuracy", "macro_f1", "auroc")
CONTROL = "permuted labels"
NO_PICTURES = 'no pictures: they need `pip install "sae-features[plot]"`'
PROTOCOLS = ("cross_lingual", "cross_model", "moved_probe")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of both verbs."""
    parser.add_argument("config", metavar="CONFIG.toml", help="what is compared, on which data")
    parser.add_argument(
        "-o", "--output", metavar="DIR",
        help="folder of results (default: as the file says, or the file's name without .toml); a run "
        "that was interrupted goes on there",
    )  # fmt: skip
    parser.add_argument(
        "--data", metavar="DIR", help="folder that paths of data are relative to (default: the file's)"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="cells computed at a time")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps")
    parser.add_argument("--no-report", action="store_true", help="write the tables alone")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(interrupted="interrupted; run the same command again to go on")


def run_sweep(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Run a sweep; return what is printed, as JSON and as text."""
    from sae_features.evaluation.configs import Config, parameters_of
    from sae_features.evaluation.sweep import FeatureSweep

    config = Config(options.config, options.data)
    if "protocol" in config.values:
        message = (
            f"{config.path.name} has a protocol: run it by `sae-features transfer {options.config}`."
        )
        raise InvalidParameterError(message)
    config.check_keys([*parameters_of(FeatureSweep), "output", "title", "data"])
    sweep = FeatureSweep(**config.parameters(FeatureSweep) | _how(options, config))
    data_sets = config.data()
    results = sweep.run(data_sets)
    _keep_latents(sweep, data_sets, results, options, config)
    return _finished("sweep", results, options, config)


def run_transfer(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Run a transfer; return what is printed, as JSON and as text."""
    from sae_features.evaluation.configs import Config
    from sae_features.parameters import check_choice

    config = Config(options.config, options.data)
    if "protocol" not in config.values:
        message = (
            f"{config.path.name} has no protocol; expected protocol = one of {', '.join(PROTOCOLS)}. A "
            f"comparison on data sets is run by `sae-features sweep {options.config}`."
        )
        raise InvalidParameterError(message)
    protocol = config.values.pop("protocol")
    check_choice("protocol", protocol, PROTOCOLS)
    run = {
        "cross_lingual": _cross_lingual, "cross_model": _cross_model, "moved_probe": _moved_probe,
    }[protocol]  # fmt: skip
    return _finished("transfer", run(options, config), options, config)


def _cross_lingual(options: argparse.Namespace, config: Config) -> Results:
    from sae_features.evaluation.configs import parameters_of
    from sae_features.evaluation.transfer import CrossLingualTransfer
    from sae_features.input_files import read_texts

    known = parameters_of(CrossLingualTransfer)
    config.check_keys([*known, "output", "title", "name", "data", "translated"])
    transfer = CrossLingualTransfer(**config.parameters(CrossLingualTransfer) | _how(options, config))
    translated = {}
    for number, table in enumerate(config.tables("translated")):
        keys = ("from", "into", "path", "text")
        at = f", translated[{number}]"
        config.check_keys(keys, table, at)
        for key in keys[:3]:
            if not isinstance(table.get(key), str):
                message = f"{config.path.name}{at}: has no {key}; expected from, into and path."
                raise InvalidParameterError(message)
        texts = read_texts(config.place(table["path"]), table.get("text"))
        translated[table["from"], table["into"]] = texts
    name = config.values.get("name", config.path.stem)
    return transfer.run(config.data(), translated, name=name)


def _cross_model(options: argparse.Namespace, config: Config) -> Results:
    from sae_features.evaluation.configs import parameters_of
    from sae_features.evaluation.sweep import FeatureSweep

    config.check_keys([*parameters_of(FeatureSweep), "output", "title", "data", "behaviour"])
    sweep = FeatureSweep(**config.parameters(FeatureSweep) | _how(options, config))
    sweep.protocol = "cross_model"
    tables = config.tables("behaviour")
    listed = [] if tables and "data" not in config.values else config.data()
    for number, table in enumerate(tables):
        listed.append(_behaviour(table, f", behaviour[{number}]", options, config))
    results = sweep.run(listed)
    _keep_latents(sweep, listed, results, options, config)
    return results


def _behaviour(
    table: dict[str, Any], at: str, options: argparse.Namespace, config: Config
) -> LabelledItems:
    """Return questions, labelled by whether a model answers them right."""
    from sae_features.errors import InvalidInputError
    from sae_features.evaluation.behaviour_labels import label_behaviour
    from sae_features.input_files import json_rows

    config.check_keys(
        ("model", "path", "name", "prompt", "choices", "right", "normalise", "max_items"), table, at
    )
    for name in ("model", "path"):
        if name not in table:
            raise InvalidParameterError(f"{config.path.name}{at}: has no {name}.")
    place = Path(config.place(table["path"]))
    columns = [table.get(name, name) for name in ("prompt", "choices", "right")]
    parts: tuple[list[Any], ...] = ([], [], [])
    for line, row in json_rows(place):
        for column, kind, part in zip(columns, (str, list, int), parts, strict=True):
            if not isinstance(row.get(column), kind):
                got = f"got {column}={row.get(column)!r}; expected a {kind.__name__}."
                message = f"{place.name}, line {line}: {got}"
                raise InvalidInputError(message)
            part.append(row[column])
    most = table.get("max_items")
    check_count("max_items", most)
    prompts, choices, right = (part[:most] for part in parts)
    return label_behaviour(
        table["model"], prompts, choices, right, name=table.get("name", place.stem),
        normalise=table.get("normalise", "tokens"), device=options.device,
        folder=_folder(options, config), verbose=not options.quiet,
    )  # fmt: skip


def _moved_probe(options: argparse.Namespace, config: Config) -> Results:
    from sae_features.evaluation.configs import parameters_of
    from sae_features.evaluation.probe_moves import MovedProbes
    from sae_features.input_files import read_items

    known = parameters_of(MovedProbes)
    config.check_keys([*known, "output", "title", "data", "corpus"])
    moved = MovedProbes(**config.parameters(MovedProbes) | _how(options, config))
    corpus: list[Any] = []
    for number, table in enumerate(config.tables("corpus")):
        config.check_keys(("path", "text", "max_items"), table, f", corpus[{number}]")
        found = read_items(config.place(table["path"]), table.get("text"))
        check_count("max_items", table.get("max_items"))
        corpus += list(dict.fromkeys(found))[: table.get("max_items")]
    return moved.run(config.data(), corpus or None)


def _how(options: argparse.Namespace, config: Config) -> dict[str, Any]:
    """Return what the command line says of how it is computed."""
    given = {"n_jobs": options.jobs, "device": options.device}
    said = {name: value for name, value in given.items() if value is not None}
    return said | {"folder": _folder(options, config), "verbose": not options.quiet}


def _folder(options: argparse.Namespace, config: Config) -> Path:
    if options.output is not None:
        return Path(options.output).expanduser()
    return config.path.parent / config.values.get("output", config.path.stem)


def _keep_latents(
    sweep: FeatureSweep,
    data_sets: list[LabelledItems],
    results: Results,
    options: argparse.Namespace,
    config: Config,
) -> None:
    from sae_features.evaluation.strongest import keep_strongest

    if not options.no_report:
        keep_strongest(_folder(options, config), sweep, data_sets, results)


def _finished(
    verb: str, results: Results, options: argparse.Namespace, config: Config
) -> tuple[dict[str, Any], str]:
    """Write the report of results, and return what is printed."""
    from sae_features.evaluation.strongest import kept_latents

    folder = _folder(options, config)
    title = str(config.values.get("title", config.path.stem))
    results.provenance |= {"command": f"sae-features {verb} {config.path.name}", "title": title}
    if results.where(control="permuted"):
        results.provenance[CONTROL] = _verdict(results)
    results.write(folder)
    latents = kept_latents(folder, results)
    page = None if options.no_report else write_page(results, folder, title, latents=latents)
    return summary_of(results, folder, page)


def _verdict(results: Results) -> str:
    """Return where permuted labels landed, in words."""
    from sae_features.evaluation.statistics import control_is_at_chance

    found = control_is_at_chance(results.rows, results.predictions)
    return (
        f"{found.verdict}: mean macro-F1 {found.figure:.3f}, and by chance {found.low:.3f} to "
        f"{found.high:.3f}, in {found.n_rows} rows"
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.add_argument("results", metavar="RESULTS", help="folder of results of a sweep or transfer")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="where to write (default: the same folder)"
    )
    parser.add_argument("--title", help="of the page (default: as before)")
    parser.add_argument("--metric", choices=METRICS, default=METRICS[1], help="of tables and pictures")


def run_report(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Write the report of a folder of results; return what is printed, as JSON and as text."""
    from sae_features.evaluation.results import Results
    from sae_features.evaluation.strongest import kept_latents

    folder = Path(options.results).expanduser()
    results = Results.read(folder)
    output = folder if options.output is None else Path(options.output).expanduser()
    title = options.title or results.provenance.get("title") or folder.resolve().name
    page = write_page(results, output, title, options.metric, kept_latents(folder, results))
    return summary_of(results, folder, page, options.metric)


def write_page(
    results: Results,
    folder: Path,
    title: str,
    metric: str = METRICS[1],
    latents: Sequence[dict[str, Any]] = (),
) -> Path:
    """Write the page of results, and return where it is."""
    from sae_features.report import write_report

    return write_report(results, folder, title=title, metric=metric, latents=latents)


def summary_of(
    results: Results, folder: Path, page: Path | None, metric: str = METRICS[1]
) -> tuple[dict[str, Any], str]:
    """Return what is printed of results: means of each method, and where files are."""
    from sae_features.evaluation.statistics import summarise
    from sae_features.report.notices import notices_of
    from sae_features.report.pictures import can_draw

    by = ["method", "classifier"] if len({row["classifier"] for row in results.rows}) > 1 else ["method"]
    if any(row["setting"] for row in results.rows):
        by.append("setting")
    found = summarise(results.rows, by, metric)
    records = [each.asdict() for each in found]
    validated = {
        tuple(each.group.values()): each.mean for each in summarise(results.rows, by, "validation")
    }
    inner_score = "the validation score (macro-F1 of inner folds)"
    lines = [f"{metric}, and in brackets {inner_score} by which they are sorted:", ""]
    for each in sorted(found, key=lambda each: -(validated[tuple(each.group.values())] or 0)):
        score = validated[tuple(each.group.values())]
        inner = "    –  " if score is None else f"({score:.3f})"
        shown = "    –" if each.mean is None else f"{each.mean:.3f}"
        lines.append(f"{shown} {inner}  {', '.join(map(str, each.group.values()))}")
    warnings = notices_of(results.rows, results.provenance)
    control = results.provenance.get(CONTROL)
    lines += ["", *(f"warning: {each}" for each in warnings)]
    if control:
        lines.append(f"{CONTROL}: {control}")
    lines += [f"table: {folder / 'results.csv'} ({len(results.rows):,} rows)"]
    if page is not None:
        lines.append(f"report: {page}{'' if can_draw() else f' ({NO_PICTURES})'}")
    printed: dict[str, Any] = {"output": str(folder), "report": None if page is None else str(page)}
    printed |= {"n_rows": len(results.rows), "means": records}
    return {**printed, "warnings": warnings, "control": control}, "\n".join(lines)
