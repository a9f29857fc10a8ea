"""The conformance kit over all installed families, as a table: ``sae-features plugins --check``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from sae_features import discovery
from sae_features.families import GROUP, why_left_out
from sae_features.testing.kit import check_family

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sae_features.families import ModelFamily
    from sae_features.testing.kit import CheckResult

Row = dict[str, Any]


def check_installed(
    names: Sequence[str], working: Mapping[str, ModelFamily], tell: Callable[[str], Any]
) -> list[Row]:
    """Run the kit on families; one that is broken is reported and stops no other.

    Parameters
    ----------
    names : sequence of str
        Families to check, by the names in their metadata.
    working : mapping of str to ModelFamily
        Those that could be imported.
    tell : callable
        Called with a line before each family.

    Returns
    -------
    list of dict
        For each family and kind of model: ``family``, ``distribution``, ``version``, ``model``,
        ``passed``, ``failed``, ``skipped``, ``messages``, and ``error`` where the family is broken.
    """
    records = {record.name: record for record in discovery.records(GROUP)}
    rows: list[Row] = []
    for name in names:
        about = {
            "family": name,
            "distribution": records[name].distribution,
            "version": records[name].version,
        }
        tell(f"checking {name} …")
        if name not in working:
            rows.append(
                {**about, "model": "", **_counts(()), "messages": [], "error": why_left_out(name)}
            )
            continue
        results = check_family(working[name], raises=False)
        for model in dict.fromkeys(result.model_type for result in results):
            own = [result for result in results if result.model_type == model]
            messages = _grouped([r for r in own if r.status in {"failed", "skipped"}])
            counts = _counts([result.status for result in own])
            rows.append({**about, "model": model, **counts, "messages": messages, "error": None})
    return rows


def as_text(rows: Sequence[Row]) -> str:
    """Return rows as a table to read, with what failed below each."""
    width = max([len("model"), *(len(row["model"]) for row in rows)])
    first = max([10, *(len(row["family"]) for row in rows)]) + 2
    lines = [f"{'family':{first}}{'model':{width + 2}}passed  failed  skipped"]
    for row in rows:
        if row["error"]:
            lines.append(f"{row['family']:{first}}BROKEN: {row['error']}")
            continue
        counts = f"{row['passed']:6}  {row['failed']:6}  {row['skipped']:7}"
        lines.append(f"{row['family']:{first}}{row['model']:{width + 2}}{counts}")
        lines += [f"{'':{first}}  {message}" for message in row["messages"]]
    return "\n".join(lines)


def _grouped(results: Sequence[CheckResult]) -> list[str]:
    """Return messages, each once, behind the names of the checks that gave it."""
    by_message: dict[str, list[str]] = {}
    for result in results:
        by_message.setdefault(result.message, []).append(result.check)
    lines = []
    for message, checks in by_message.items():
        more = f" and {len(checks) - 1} more" if len(checks) > 1 else ""
        lines.append(f"{checks[0]}{more}: {message}")
    return lines


def _counts(statuses: Sequence[str]) -> dict[str, int]:
    counted = Counter(statuses)
    return {
        "passed": counted["passed"],
        "failed": counted["failed"],
        "skipped": counted["skipped"] + counted["expected failure"],
    }
