"""What is said of the control: with permuted labels, scores must be those of chance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sae_features.report.document import Cell, Table, Text
from sae_features.report.intervals import Estimate, score
from sae_features.report.rows import grouped, kind_name, setting_name
from sae_features.report.score_tables import LONG, score_cell

if TYPE_CHECKING:
    from sae_features.report.document import Block
    from sae_features.report.rows import Rows

CHANCE: Final = 0.5
"""AUROC of what knows nothing, whatever the classes' shares."""


def control_blocks(rows: Rows) -> list[Block]:
    """Return what is said of rows with permuted labels; nothing if there are none."""
    permuted = [row for row in rows if row.get("control") == "permuted"]
    if not permuted:
        return []
    lines, verdicts = [], []
    for (dataset, setting, method), here in grouped(permuted, "dataset", "setting", "method").items():
        auroc = score(here, "auroc")
        verdict = is_at_chance(auroc)
        verdicts.append(verdict)
        place = ", ".join(filter(None, [str(dataset), setting_name(setting)]))
        told = [place, str(method), kind_name(here[0].get("kind"))]
        lines.append(
            (
                *map(Cell, told),
                score_cell(here, "auroc"),
                Cell({True: "yes", False: "no", None: "–"}[verdict]),
                score_cell(here, "macro_f1"),
                score_cell(here, "accuracy"),
            )
        )
    known = [verdict for verdict in verdicts if verdict is not None]
    heads = ("data set", "method", "kind", "AUROC", "holds 0.5", "Macro-F1", "Accuracy")
    title = "Scores with permuted labels, with 95 % intervals."
    table = Table(title, heads, tuple(lines), is_folded=len(lines) > LONG)
    return [Text(_verdict(sum(known), len(known))), table]


def is_at_chance(result: Estimate | None) -> bool | None:
    """Tell whether an interval holds chance; None if there is no interval."""
    if result is None or result.low is None or result.high is None:
        return None
    return result.low <= CHANCE <= result.high


def _verdict(n_at_chance: int, n: int) -> str:
    told = (
        "The same protocol was run with permuted labels, of which nothing can be learned: the AUROC "
        "must be 0.5, whatever the classes' shares."
    )
    if n == 0:
        return f"{told} There are too few folds, or no probabilities, to tell."
    found = f"{n_at_chance} of {n} intervals hold 0.5"
    if n_at_chance == n:
        return f"{told} {found}: the control is passed."
    if n - n_at_chance <= max(1, round(0.1 * n)):
        return f"{told} {found}. About one interval in twenty misses it by chance alone."
    return f"{told} Only {found}: something leaks from the test part, or there are too few folds."
