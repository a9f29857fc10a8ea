"""Choices by validation: the best of several methods, as the training part alone tells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidInputError
from sae_features.evaluation.cells import FOLD, described, figure_in, grouped_by, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Row = Mapping[str, Any]


def choose_by_validation(
    rows: Iterable[Row], by: str | Sequence[str] = "kind", *, order: Sequence[str] | None = None
) -> list[Row]:
    """Return, of each fold and kind, the row whose validation score is best.

    The validation score comes from folds inside the training part, so that a layer, a width or a pooling
    is chosen without a look at the test part: what the chosen rows score on test is what the choice is
    worth.  The choice may differ from fold to fold.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of results.
    by : str or sequence of str, default="kind"
        Among which rows of a fold to choose: those that agree in these keys.  ``()`` chooses among all,
        ``("kind", "model")`` the best for each kind and model.
    order : sequence of str, optional
        Names of methods: of equal scores the first is chosen.  Methods that are not named come after, in
        the order in which they first come in `rows`.

    Returns
    -------
    list of mapping
        One row for each fold (protocol, data set, train_on, test_on, setting, seed, fold, control) and
        each group of `by`, in the order in which these first come.

    Raises
    ------
    InvalidInputError
        If a row has no validation score.

    Examples
    --------
    >>> rows = [
    ...     {"dataset": "a", "fold": 0, "kind": "sae", "method": name, "validation": v, "macro_f1": f1}
    ...     for name, v, f1 in [("layer 1", 0.6, 0.9), ("layer 2", 0.7, 0.8), ("layer 3", 0.7, 0.7)]
    ... ]
    >>> [row["method"] for row in choose_by_validation(rows)]
    ['layer 2']
    """
    listed = list(rows)
    keys = (by,) if isinstance(by, str) else tuple(by)
    rank = ranks(listed, order or ())
    groups = grouped_by(listed, (*FOLD, "control", *keys))
    return [best(group, rank) for group in groups.values()]


def ranks(rows: Iterable[Row], order: Sequence[str] = ()) -> dict[str, int]:
    """Return the place of each method: those in order first, then as they come in the rows."""
    names = [*order, *(str(row.get("method")) for row in rows)]
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def best(rows: Iterable[Row], rank: Mapping[str, int]) -> Row:
    """Return the row with the best validation score, of equal ones the first in rank."""
    return min(rows, key=lambda row: (-_validation(row), rank[str(row.get("method"))]))


def _validation(row: Row) -> float:
    value = figure_in(row, "validation")
    if value is None:
        where = described(("method", *FOLD), values_of(row, ("method", *FOLD)))
        message = (
            f"Got no validation score of {where}; expected one in each row that is chosen among. Where "
            "the training part is too small for inner folds, choose a method beforehand."
        )
        raise InvalidInputError(message)
    return value
