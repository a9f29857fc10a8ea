"""What a reader must not miss: items that leak or repeat, runs that are not finished."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sae_features.report.document import Block, Notices
from sae_features.report.rows import distinct, grouped, without_controls
from sae_features.report.run_facts import data_of, is_apart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.report.rows import Rows

FATES: Final = {"drop": "left out", "warn": "kept, so that scores may be too high"}
"""By ``on_leak``: what became of test items that leak."""


def notice_blocks(rows: Rows, provenance: Mapping[str, Any]) -> list[Block]:
    """Return what a reader must not miss as a block; nothing if there is nothing."""
    found = notices_of(rows, provenance)
    return [Notices(tuple(found))] if found else []


def notices_of(rows: Rows, provenance: Mapping[str, Any]) -> list[str]:
    """Return what a reader must not miss, a sentence each."""
    found: list[str] = []
    for name, about in data_of(provenance).items():
        found += _notices_of_data(str(name), about, is_apart=is_apart(about, provenance))
    settings = provenance.get("settings")
    on_leak = settings.get("on_leak") if isinstance(settings, dict) else None
    if provenance.get("n_leaking"):
        found.append(
            f"Up to {provenance['n_leaking']:,} test items of a fold that are also trained on in some "
            f"language, or belong to a group that is, were {FATES.get(str(on_leak), 'found')}."
        )
    for key in ("warnings", "notes"):
        given = provenance.get(key) or []
        found += [given] if isinstance(given, str) else [str(text) for text in given]
    return found + _notices_of_rows(rows)


def _notices_of_data(name: str, about: Mapping[str, Any], *, is_apart: bool) -> list[str]:
    found = []
    if about.get("n_leaking"):
        what = FATES.get(str(about.get("on_leak")), "found")
        found.append(f"{name}: {about['n_leaking']:,} test items that are also trained on were {what}.")
    n, n_different = about.get("n_items"), about.get("n_different")
    if n and n_different and n > n_different:
        kept = "; equal items stay on one side of a split" if is_apart else ""
        found.append(f"{name}: {n - n_different:,} of {n:,} items repeat others{kept}.")
    if about.get("n_conflicting"):
        found.append(f"{name}: {about['n_conflicting']:,} different items have several labels.")
    return found


def _notices_of_rows(rows: Rows) -> list[str]:
    found = []
    real = without_controls(rows)
    n_short = _short_methods(real)
    if n_short:
        what = (
            "1 method lacks folds or data sets"
            if n_short == 1
            else f"{n_short} methods lack folds or data sets"
        )
        found.append(
            f"{what} that others have: the run may not be finished, and means are of what is there."
        )
    n_blind = len({row.get("method") for row in real if row.get("validation") is None})
    if n_blind:
        found.append(
            f"{n_blind} of {len(distinct(real, 'method'))} methods have rows without a validation "
            "score; what has none is never preferred."
        )
    return found


def _short_methods(rows: Rows) -> int:
    """Return how many methods lack folds that others of their protocol, data set and pair have."""
    short = set()
    for unit in grouped(rows, "protocol", "dataset", "train_on", "test_on", "setting").values():
        folds = {
            method: set(grouped(here, "seed", "fold"))
            for (method,), here in grouped(unit, "method").items()
        }
        everything = set().union(*folds.values())
        short |= {method for method, own in folds.items() if own != everything}
    everywhere = {key[:2] for key in grouped(rows, "protocol", "dataset")}
    for (protocol, method), here in grouped(rows, "protocol", "method").items():
        own = {key[:2] for key in grouped(here, "protocol", "dataset")}
        if own != {key for key in everywhere if key[0] == protocol}:
            short.add(method)
    return len(short)
