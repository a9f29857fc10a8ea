"""What a report says of the run: its command, what was compared, on what, by which versions."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from sae_features.report.document import Block, Code, Table, plain_cells
from sae_features.report.rows import distinct, grouped, kind_name, kinds_of, without_controls

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sae_features.report.rows import Rows

LISTED: Final = 12
"""More names than this are counted, not listed."""
PROTOCOLS: Final = {
    "sweep": "classification",
    "cross_lingual": "transfer across languages",
    "cross_model": "behaviour of another model",
    "moved_probe": "probe moved to another model",
}
"""What protocols are called."""


def run_blocks(rows: Rows, provenance: Mapping[str, Any]) -> list[Block]:
    """Return what is said of a run: its command, counts, data and versions."""
    blocks: list[Block] = []
    command = provenance.get("command")
    if command:
        blocks.append(Code(command if isinstance(command, str) else " ".join(map(str, command))))
    facts = [pair for pair in _facts(rows, provenance) if pair[1]]
    blocks.append(Table("The run.", ("", ""), tuple(plain_cells(pair) for pair in facts)))
    blocks.append(_data_table(rows, provenance))
    if provenance:
        everything = json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False, default=str)
        blocks.append(Code(everything, "All that was recorded of the run"))
    return blocks


def protocol_name(protocol: object) -> str:
    """Return what a protocol is called."""
    return PROTOCOLS.get(str(protocol), str(protocol or "results").replace("_", " "))


def _facts(rows: Rows, provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    real = without_controls(rows)
    folds = Counter(len(grouped(here, "seed", "fold")) for here in grouped(real, "dataset").values())
    versions = provenance.get("versions")
    listed = (
        ", ".join(f"{name} {v}" for name, v in versions.items()) if isinstance(versions, dict) else ""
    )
    known = ("command", "versions", "data", "settings", "warnings", "notes", "protocol", "n_leaking")
    others = [
        (str(key).replace("_", " "), str(value))
        for key, value in provenance.items()
        if key not in known and isinstance(value, (str, int, float)) and value != ""
    ]
    return [
        ("protocol", ", ".join(protocol_name(name) for name in distinct(rows, "protocol"))),
        ("data sets", _names(rows, "dataset")),
        ("languages or models", _names(rows, "train_on") if _trains_elsewhere(rows) else ""),
        ("models", _names(rows, "model")),
        ("layers", _names(rows, "layer")),
        ("SAEs", _names([row for row in rows if row.get("kind") == "sae"], "sae")),
        ("poolings", _names(rows, "pooling")),
        ("kinds of methods", ", ".join(map(kind_name, kinds_of(real)))),
        ("methods", f"{len(distinct(real, 'method')):,}"),
        ("classifiers", _names(rows, "classifier")),
        ("folds per data set", " or ".join(str(n) for n in sorted(folds))),
        ("rows of results", f"{len(rows):,}"),
        ("versions", listed),
        *others,
    ]


def _names(rows: Rows, column: str) -> str:
    values = distinct(rows, column)
    if len(values) > LISTED:
        return f"{len(values):,}: {', '.join(map(str, values[:LISTED]))} …"
    return ", ".join(map(str, values))


def _trains_elsewhere(rows: Rows) -> bool:
    return any(row.get("train_on") not in (row.get("dataset"), None) for row in rows)


def _data_table(rows: Rows, provenance: Mapping[str, Any]) -> Table:
    """Return a row for each data set (or language): its items, classes and sizes of parts."""
    about = data_of(provenance)
    by_name = grouped(rows, "test_on" if _trains_elsewhere(rows) else "dataset")
    names = [key[0] for key in by_name if key[0] is not None]
    names += [name for name in about if name not in names]
    facts = [_about_data(name, about.get(name, {}), by_name.get((name,), [])) for name in names]
    heads = [head for head in facts[0] if any(fact[head] for fact in facts)] if facts else ["data set"]
    lines = tuple(plain_cells(fact[head] for head in heads) for fact in facts)
    note = "Sizes of training and test parts are those of a fold."
    if about and all(is_apart(each, provenance) for each in about.values()):
        kept = "Equal items, and all items of a group," if "groups" in heads else "Equal items"
        note = f"{kept} stand on one side of a fold. {note}"
    return Table("The data.", tuple(heads), lines, note, len(lines) > LISTED)


def _about_data(name: object, facts: Mapping[str, Any], rows: Rows) -> dict[str, object]:
    given = facts.get("classes")
    classes = given if isinstance(given, dict) else {}
    return {
        "data set": str(name),
        "items": facts.get("n_items"),
        "different": facts.get("n_different"),
        "groups": facts.get("n_groups"),
        "classes": len(classes) or next(iter(distinct(rows, "n_classes")), None),
        "items of each class": ", ".join(f"{label}: {n:,}" for label, n in classes.items()),
        "trained on": _range(rows, "n_train"),
        "tested on": _range(rows, "n_test"),
        "folds": facts.get("folds"),
        "digest of items and labels": str(facts.get("digest") or "")[:12],
    }


def _range(rows: Rows, column: str) -> str:
    values = distinct(rows, column)
    if not values:
        return ""
    return f"{values[0]:,}" if values[0] == values[-1] else f"{values[0]:,} to {values[-1]:,}"


def is_apart(about: Mapping[str, Any], provenance: Mapping[str, Any]) -> bool:
    """Tell whether no item or group of a data set stands on both sides: none did, or was dropped."""
    settings = provenance.get("settings")
    said = settings.get("on_leak") if isinstance(settings, dict) else None
    n_leaking = about.get("n_leaking") or provenance.get("n_leaking")
    return not n_leaking or about.get("on_leak", said) == "drop"


def data_of(provenance: Mapping[str, Any]) -> dict[Any, dict[str, Any]]:
    """Return what is recorded of each data set."""
    data = provenance.get("data")
    if not isinstance(data, dict):
        return {}
    return {name: about for name, about in data.items() if isinstance(about, dict)}
