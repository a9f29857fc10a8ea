"""Print the tables of a write-up, in Markdown, from what `sae-features sweep` or `transfer` wrote.

python experiments/tables.py {classification,cross_lingual,behaviour,moved,vision} RESULTS

What varies and is not in a table's first column (a layer, a pooling, a classifier's strength) was chosen
in each fold by the folds inside its training part.  Intervals are of 95 %: over data sets Student's,
within one the corrected resampled t.  Differences are paired; their p is Wilcoxon's over data sets,
adjusted for all lines of the table (Holm).
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.evaluation import Results
from sae_features.evaluation.latents_across import latent_overlap
from sae_features.evaluation.statistics import (
    adjust,
    bootstrap_interval,
    choose_by_validation,
    compare,
    control_is_at_chance,
    paired_bootstrap,
    quiver,
    summarise,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Row = dict[str, Any]

WORDS = ("tfidf_word", "tfidf_char", "bag_of_words")
NAMES = {"sae": "SAE latents", "states": "hidden states", "random_sae": "random SAE"} | dict.fromkeys(
    WORDS, "words"
)
METRICS = ("macro_f1", "auroc")
MIDDLE = {"minilm": 3, "e5": 5, "smollm2": 14}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    what = {
        "classification": classification, "cross_lingual": cross_lingual, "behaviour": behaviour,
        "moved": moved, "vision": vision,
    }  # fmt: skip
    parser.add_argument("what", choices=what)
    parser.add_argument("results", type=Path)
    options = parser.parse_args()
    results = Results.read(options.results)
    what[options.what](results)
    tell_control(results)


def classification(results: Results) -> None:
    """Print what each question of the paper comes to."""
    rows = results.where(control="none")
    sets = {row["dataset"]: row["n_classes"] for row in rows}
    print(f"{len(sets)} data sets, {sum(n == 2 for n in sets.values())} of two classes.\n")
    print("**Kinds of features**, everything else chosen by validation\n")
    scores_and_differences(rows, family, reference="hidden states")
    print("**Does adding SAE latents to a quiver of baselines help?**\n")
    for metric in METRICS:
        print_quiver(rows, metric)
    trained = [row for row in rows if row["sae"] in {"", None, "topk-2048"}]
    print("**Layers**: SAEs of 2,048 latents and hidden states, max or mean by validation\n")
    usual = [row for row in trained if row["pooling"] in {"max", "mean"} and not row["binarize"]]
    for model in MIDDLE:
        here = [row for row in usual if row["model"] == model]
        scores_and_differences(here, place_of, reference=place_of(best_of(here)))
    print("**Widths**: max-pooled, middle layers, mean over three models\n")
    middle = [row for row in rows if row["layer"] == MIDDLE.get(row["model"])]
    one_pooling = [row for row in middle if row["pooling"] == "max" and not row["binarize"]]
    scores_and_differences(over_models(one_pooling, width_of), None, reference="2,048")
    print("**Poolings and binarization**: 2,048 latents, middle layers, mean over three models\n")
    same = [row for row in middle if row["sae"] == "topk-2048"]
    scores_and_differences(over_models(same, pooling_of), None, reference="max")
    states = [row for row in middle if row["kind"] == "states"]
    scores_and_differences(over_models(states, pooling_of), None, reference="max")
    print("**Each data set**, macro-F1, chosen by validation\n")
    per_data_set(rows)


def cross_lingual(results: Results) -> None:
    """Print means by setting, matrices, and overlap of latents."""
    rows = results.where(control="none")
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    methods = list(dict.fromkeys(row["method"] for row in rows))
    print("**Mean macro-F1 by setting**, with intervals over languages of the test\n")
    lines = []
    for method in methods:
        cells = []
        for setting in settings:
            here = [r for r in rows if r["method"] == method and r["setting"] == setting]
            cells.append(over_targets(here) if here else "")
        lines.append((method, *cells))
    print_table(("method", *settings), lines)
    print("**SAE latents less hidden states**, paired, over languages of the test\n")
    found = []
    for layer in sorted({row["layer"] for row in rows if row["layer"] is not None}):
        for setting in settings:
            here = [r for r in rows if r["layer"] == layer and r["setting"] == setting]
            states = [r["method"] for r in here if r["kind"] == "states"]
            for name in dict.fromkeys(r["method"] for r in here if r["kind"] == "sae"):
                centred = name.endswith("centred per language")
                against = next(s for s in states if s.endswith("centred per language") == centred)
                pair = [r for r in here if r["method"] in {name, against}]
                found.append((name, setting, *compare(pair, reference=against, unit=("test_on",))))
    adjusted = adjust([each.p for *_, each in found])
    lines = [
        (name, setting, *difference(replace(each, p_holm=float(p))))
        for (name, setting, each), p in zip(found, adjusted, strict=True)
    ]
    print_table(("method", "setting", *DIFFERENCE), lines)
    for method in [m for m in methods if "centred" not in m]:
        here = [r for r in rows if r["method"] == method]
        if "zero_shot" in settings and here[0]["kind"] in {"sae", "states"}:
            print_matrix(method, here)
    by_method: dict[str, list[Any]] = defaultdict(list)
    for each in latent_overlap(rows):
        by_method[each.method].append(each)
    print("**Overlap of the 20 latents that decide most** (Jaccard), pairs of languages\n")
    lines = []
    for name, found in by_method.items():
        shared = [each.jaccard for each in found]
        most = max(found, key=lambda each: each.jaccard)
        lines.append(
            (name, f"{np.mean(shared):.3f}", f"{min(shared):.3f} to {max(shared):.3f}",
             f"{most.train_on}, {most.other}", f"{found[0].by_chance:.3f}")
        )  # fmt: skip
    print_table(("method", "mean", "range", "the most alike", "by chance"), lines)


def behaviour(results: Results) -> None:
    """Print how well answers are predicted."""
    rows = results.where(control="none")
    for data in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == data]
        about = results.provenance["data"][data]
        print(f"**{data}**: {about['n_items']} questions, {about['classes']}\n")
        scores_and_differences(here, model_and_kind, reference="smollm2 hidden states")


def moved(results: Results) -> None:
    """Print what a moved classifier keeps of the one that it was, and of one trained there."""
    rows = results.where(control="none")
    scores: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for row in rows:
        what = (row["method"], row["train_on"], row["test_on"], row["setting"], row["dataset"])
        scores[what].append(row["macro_f1"])
    means = {what: float(np.mean(values)) for what, values in scores.items()}
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    pairs = list(dict.fromkeys(key[1:3] for key in means if key[1] != key[2]))
    head = ("", "at home", "trained there", "moved", "shuffled pairs")
    for data in sets:
        print(f"**{data}**, macro-F1, mean over {len(pairs)} pairs of models\n")
        lines = []
        for method in dict.fromkeys(key[0] for key in means if key[3] == "moved"):
            kind = method.partition(",")[0]
            own = [(one, other) for one, other in pairs if (method, one, other, "moved", data) in means]
            columns = [
                [means[kind, one, one, "in_model", data] for one, _ in own],
                [means[kind, other, other, "in_model", data] for _, other in own],
                [means[method, *pair, "moved", data] for pair in own],
                [means[method, *pair, "shuffled_pairs", data] for pair in own],
            ]
            cells = [f"{np.mean(each):.3f} ({min(each):.2f} to {max(each):.2f})" for each in columns]
            lines.append((method, *cells))
        print_table(head, lines)
    for data in sets:
        print(f"**{data}**, macro-F1\n")
        lines = []
        for one, other in pairs:
            moves = [key for key in means if key[1:] == (one, other, "moved", data)]
            for method, *_ in moves:
                kind = method.partition(",")[0]
                cells = [
                    means[kind, one, one, "in_model", data],
                    means[kind, other, other, "in_model", data],
                ]
                cells += [means[method, one, other, how, data] for how in ("moved", "shuffled_pairs")]
                lines.append((f"{one} → {other}", method, *map(number, cells)))
        print_table(("from → to", "method", *head[1:]), lines)


def vision(results: Results) -> None:
    """Print the scores of each set of pictures, and what SAE latents gain, with bootstrap intervals."""
    rows = results.where(control="none")
    for data in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == data]
        said = {row["method"]: results.predictions(row) for row in here}
        print(f"**{data}**: trained on {here[0]['n_train']}, tested on {here[0]['n_test']}\n")
        lines = []
        for row in sorted(here, key=lambda row: -(row["validation"] or 0)):
            given = said[row["method"]]
            found = bootstrap_interval(given.truth, given.scores)
            within = f"{found.low:.3f} to {found.high:.3f}"
            scores = (row["macro_f1"], row["auroc"], row["validation"])
            lines.append((row["method"], number(scores[0]), within, *map(number, scores[1:])))
        print_table(("method", "macro-F1", "interval", "AUROC", "validation"), lines)
        best = {row["kind"]: row["method"] for row in sorted(here, key=lambda r: r["validation"] or 0)}
        lines = []
        for kind in [kind for kind in best if "sae" in best and kind not in {"sae", "chance"}]:
            ours, theirs = (said[best[name]] for name in ("sae", kind))
            found = paired_bootstrap(ours.truth, ours.scores, theirs.scores)
            within = f"{found.low:+.3f} to {found.high:+.3f}"
            lines.append((f"{best['sae']} less {best[kind]}", f"{found.difference:+.3f}", within))
        if lines:
            print_table(("the best of each kind by validation", "macro-F1", "interval"), lines)


DIFFERENCE = ("difference", "interval", "better / worse", "p (Holm)")


def scores_and_differences(
    rows: Iterable[Row], name_of: Callable[[Row], str | None] | None, *, reference: str
) -> None:
    """Print the mean scores of groups of methods, and their differences to one of them."""
    chosen = list(rows) if name_of is None else by_name(rows, name_of)
    auroc = {each.group["method"]: each.mean for each in summarise(chosen, ["method"], "auroc")}
    n_sets = len({row["dataset"] for row in chosen})
    against = {
        each.method: each if n_sets > 1 else each.tasks[0]
        for each in compare(chosen, reference=reference)
    }
    lines = []
    for each in summarise(chosen, ["method"], "macro_f1"):
        name = each.group["method"]
        found = against.get(name)
        last = difference(found) if found is not None else ("", "", "", "")
        lines.append((name, number(each.mean), interval(each), number(auroc[name]), *last))
    lines.sort(key=lambda line: -float(line[1]))
    head = ("", "macro-F1", "interval", "AUROC", f"less {reference}", *DIFFERENCE[1:])
    print_table(head, lines)


def by_name(rows: Iterable[Row], name_of: Callable[[Row], str | None]) -> list[Row]:
    """Return, of each fold and name, the row that validation prefers, with the name as its method."""
    named = [row | {"group": name} for row in rows if (name := name_of(row)) is not None]
    return [dict(row) | {"method": row["group"]} for row in choose_by_validation(named, "group")]


def over_models(rows: Iterable[Row], name_of: Callable[[Row], str | None]) -> list[Row]:
    """Return rows that are means over models, with a name as their method."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if (name := name_of(row)) is not None:
            groups[name, row["dataset"], row["seed"], row["fold"]].append(row)
    return [
        same[0]
        | {"method": key[0]}
        | {name: float(np.mean([r[name] for r in same])) for name in METRICS}
        for key, same in groups.items()
    ]


def family(row: Row) -> str | None:
    """Return the kind of features that a method is of; the random SAE is no candidate."""
    return NAMES.get(row["kind"]) or (row["kind"] if row["kind"] == "chance" else None)


def place_of(row: Row) -> str | None:
    """Return layer and kind of a method that reads a model."""
    return None if row["layer"] is None else f"{row['model']} layer {row['layer']:2}, {family(row)}"


def model_and_kind(row: Row) -> str | None:
    """Return model and kind of features."""
    if row["kind"] == "last_token":
        return f"{row['model']} last token"
    return f"{row['model']} {family(row)}" if row["model"] else family(row)


def width_of(row: Row) -> str | None:
    """Return how wide an SAE is, and what sort."""
    if row["kind"] == "random_sae":
        return "2,048, random weights"
    if row["kind"] != "sae":
        return "hidden states" if row["kind"] == "states" else None
    name = row["sae"].partition("topk-")[2]
    return f"{int(name):,}" if name.isdigit() else "4,096, shipped"


def pooling_of(row: Row) -> str:
    """Return the pooling, and whether it is binarized."""
    shown = "any token" if row["binarize"] and row["pooling"] == "sum" else row["pooling"]
    return shown + (", binarized" if row["binarize"] else "")


def best_of(rows: Sequence[Row]) -> Row:
    """Return the row of states of the middle layer, which others are compared with."""
    return next(row for row in rows if row["kind"] == "states" and row["layer"] == MIDDLE[row["model"]])


def per_data_set(rows: Sequence[Row]) -> None:
    """Print the scores of each data set."""
    chosen = by_name(rows, family)
    names = ("SAE latents", "hidden states", "words", "chance")
    scores: dict[str, dict[str, str]] = defaultdict(dict)
    for each in summarise(chosen, ["dataset", "method"], "macro_f1"):
        scores[each.group["dataset"]][each.group["method"]] = number(each.mean)
    classes = {row["dataset"]: row["n_classes"] for row in rows}
    lines = [(name, classes[name], *(of[n] for n in names)) for name, of in sorted(scores.items())]
    print_table(("data set", "classes", *names), lines)


def print_quiver(rows: Sequence[Row], metric: str) -> None:
    """Print what SAE latents add, and what random ones would."""
    lines = []
    for added in ("sae", "random_sae"):
        found = quiver(rows, base_kinds=["states", *WORDS], added_kinds=[added], metric=metric)
        lines.append(
            (f"{metric}, adding {NAMES[added]}", number(found.base), number(found.both),
             *difference(found), f"{found.chosen:.0%}")
        )  # fmt: skip
    print_table(("", "baselines", "with it", *DIFFERENCE[:3], "p", "chosen"), lines)


def print_matrix(method: str, rows: Sequence[Row]) -> None:
    """Print the full matrix of a method: trained on in lines, tested on in columns."""
    print(f"{method}, trained on (lines), tested on (columns)\n")
    cells: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["setting"] in {"zero_shot", "in_language"}:
            cells[row["train_on"], row["test_on"]].append(row["macro_f1"])
    names = list(dict.fromkeys(train for train, _ in cells))
    lines = [(a, *(f"{np.mean(cells[a, b]):.2f}" for b in names)) for a in names]
    print_table(("", *names), lines)


def over_targets(rows: Sequence[Row]) -> str:
    """Return the mean over languages of the test, with its interval."""
    by_target: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_target[row["test_on"]].append(row["macro_f1"])
    means = [float(np.mean(values)) for values in by_target.values()]
    error = np.std(means, ddof=1) / len(means) ** 0.5
    return f"{np.mean(means):.3f} ± {1.96 * error:.3f}"


def of_method(rows: Sequence[Row], each: Any, metric: str) -> float | None:
    """Return another mean of a method."""
    same = [row for row in rows if row["method"] == each.group["method"]]
    return summarise(same, ["method"], metric)[0].mean


def difference(found: Any) -> tuple[str, str, str, str]:
    """Return a paired difference as cells."""
    low, high = found.low, found.high
    within = "" if low is None else f"{low:+.3f} to {high:+.3f}"
    p = getattr(found, "p_holm", None)
    p = found.p if p is None else p
    count = f"{found.wins} / {found.losses}" if hasattr(found, "wins") else ""
    return f"{found.difference:+.3f}", within, count, "" if p is None else f"{p:.2g}"


def interval(each: Any) -> str:
    """Return the interval of a mean, within what a score can be."""
    return "" if each.low is None else f"{max(each.low, 0):.3f} to {min(each.high, 1):.3f}"


def number(value: float | None) -> str:
    """Return a score."""
    return "" if value is None else f"{value:.3f}"


def tell_control(results: Results) -> None:
    """Say whether permuted labels landed at chance."""
    if results.where(control="permuted"):
        found = control_is_at_chance(results.rows, results.predictions)
        print(
            f"Permuted labels: {found.verdict}: macro-F1 {found.figure:.3f}, by chance {found.low:.3f} "
            f"to {found.high:.3f}, in {found.n_rows} rows."
        )


def print_table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    """Print a table in Markdown."""
    print(f"| {' | '.join(head)} |")
    print("|" + "---|" * len(head))
    for line in lines:
        print(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |")
    print()


if __name__ == "__main__":
    main()
