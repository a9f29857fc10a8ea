"""The permuted-label control: where labels tell nothing, figures must be those of chance."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from sae_features.errors import InvalidInputError
from sae_features.evaluation.cells import values_of
from sae_features.evaluation.chance import ends_of_chance, expected_by_chance, permuted_figures
from sae_features.evaluation.intervals import check_bootstrap
from sae_features.evaluation.resampling import unit_numbers
from sae_features.evaluation.scores import has_all_classes, judged, score_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import ArrayLike

    from sae_features.evaluation.scores import Judged

    Row = Mapping[str, Any]


class FoldPredictions(Protocol):
    """What was predicted in one fold, as :class:`~sae_features.evaluation.results.Predictions`."""

    @property
    def items(self) -> np.ndarray:
        """Positions in the data set, int64, (n,)."""

    @property
    def truth(self) -> np.ndarray:
        """Class codes that were tested against: the permuted ones, int64, (n,)."""

    @property
    def scores(self) -> np.ndarray:
        """A score for each class, float, (n, n_classes)."""


class ControlCheck(NamedTuple):
    """Whether a permuted-label control landed at chance; true where it did."""

    metric: str
    """What was looked at."""
    figure: float
    """Mean over rows."""
    chance: float
    """Mean over rows of what their predictions are expected to give by chance."""
    low: float
    """Lower end of where the mean figure lies by chance."""
    high: float
    """Upper end."""
    level: float
    """Share of honest controls that are meant to lie from `low` to `high`; at least."""
    p: float
    """Two-sided: share of means by chance that are as far from chance."""
    verdict: str
    """``"at chance"``, ``"above chance"``, or ``"below chance"``."""
    n_rows: int
    """Rows that were looked at."""
    n_undefined: int
    """Rows that were left out, as AUROC is undefined there."""

    def __bool__(self) -> bool:
        return self.verdict == "at chance"


class _Fold(NamedTuple):
    """One row's predictions."""

    run: tuple[Any, ...]
    """Rows with equal ones share labels, and may have been trained on what others were tested on."""
    tested: bytes
    """Digest of what was tested: equal ones were tested on the same items with the same labels."""
    judged: Judged
    unit_of: np.ndarray


def control_is_at_chance(
    rows: Iterable[Row],
    predictions: Callable[[Row], FoldPredictions],
    *,
    metric: str = "macro_f1",
    groups: Mapping[str, ArrayLike] | None = None,
    level: float = 0.95,
    n_permutations: int = 1000,
    seed: int = 0,
) -> ControlCheck:
    """Tell whether runs on permuted labels landed at chance, as they must where nothing leaks.

    Labels that were permuted over the whole data set are, whatever a classifier has learned from its
    training part, in random order in the test part.  So the figure of a fold is expected to be that of
    its predictions against its labels in another order: chance follows from both, not from the number of
    classes.  What lies above has seen test labels: by choosing features before splitting, or by choosing
    on test.  Below chance, too, something tells of labels.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of results; those with ``control="permuted"`` are looked at.  Labels must have been permuted
        anew for each seed.
    predictions : callable
        Gives what was predicted in the fold of a row: ``results.predictions``.  Figures are computed
        from it, the class with the largest score being predicted.
    metric : {"macro_f1", "accuracy", "auroc"}
        What to look at.
    groups : mapping of str to array-like, optional
        By name of a data set, the group of each of its items, where labels were permuted by groups.
    level : float, default=0.95
        Share of honest controls that pass.
    n_permutations : int, default=1000
    seed : int, default=0

    Returns
    -------
    ControlCheck

    Raises
    ------
    InvalidInputError
        If there is no such row, or the metric is undefined in all.
    InvalidParameterError
        If a parameter cannot be.

    Notes
    -----
    Methods that were tested on the same items are set against the same permutations of labels, so that
    what they share is accounted for.  Test parts that take turns in training and testing, as folds do
    and languages of a matrix, depend on each other: whether the label of one item agrees with that of
    another counts twice, when the one predicts the other and when it is predicted by it.  If predictions
    are linear in training labels, the variance of the sum is at most twice that of independent test
    parts.  So where a data set has several test parts for a seed, deviations are stretched by ``√2``.
    Of honest runs, about ``1 - level`` are flagged where there is a single test part, and fewer where
    there are folds.

    A control of few items has a wide interval, and does not see a small leak.

    Examples
    --------
    >>> from sae_features.evaluation.results import Predictions
    >>> rng = np.random.default_rng(0)
    >>> def predicted(row):
    ...     truth = rng.integers(0, 2, 50)
    ...     said = truth if row["leaks"] else rng.permutation(truth)
    ...     return Predictions(np.arange(50), truth, np.eye(2)[said])
    >>> row = {"dataset": "a", "seed": 0, "fold": 0, "method": "sae", "control": "permuted"}
    >>> control_is_at_chance([{**row, "leaks": False}], predicted).verdict
    'at chance'
    >>> control_is_at_chance([{**row, "leaks": True}], predicted).verdict
    'above chance'
    """
    check_bootstrap(metric, level, n_permutations, name="n_permutations")
    permuted = [row for row in rows if row.get("control") == "permuted"]
    if not permuted:
        message = (
            "Got no rows with control='permuted'; expected some: run the protocol with its control."
        )
        raise InvalidInputError(message)
    folds = [
        fold for row in permuted if (fold := _fold(row, predictions(row), metric, groups)) is not None
    ]
    if not folds:
        raise InvalidInputError(f"Got no fold in which {metric} is defined; expected another metric.")
    tested: dict[tuple[Any, ...], set[bytes]] = {}
    for fold in folds:
        tested.setdefault(fold.run, set()).add(fold.tested)
    figure = chance = 0.0
    deviations = np.zeros(n_permutations)
    for fold in folds:
        expected = expected_by_chance(fold.judged, metric)
        # the same permutations for what was tested on the same items
        rng = np.random.default_rng([seed, int.from_bytes(fold.tested[:8])])
        by_chance = permuted_figures(fold.judged, metric, fold.unit_of, n_permutations, rng)
        takes_turns = len(tested[fold.run]) > 1
        deviations += (by_chance - expected) * (math.sqrt(2) if takes_turns else 1) / len(folds)
        figure += score_of(fold.judged, metric) / len(folds)
        chance += expected / len(folds)
    low, high = ends_of_chance(deviations, level)
    away = figure - chance
    is_as_far = np.abs(deviations) >= abs(away) - 1e-12
    verdict = (
        "above chance" if away > high + 1e-12 else "below chance" if away < low - 1e-12 else "at chance"
    )
    return ControlCheck(
        metric=metric, figure=figure, chance=chance, low=chance + low, high=chance + high, level=level,
        p=float(1 + is_as_far.sum()) / (1 + n_permutations), verdict=verdict, n_rows=len(folds),
        n_undefined=len(permuted) - len(folds),
    )  # fmt: skip


def _fold(
    row: Row, found: FoldPredictions, metric: str, groups: Mapping[str, ArrayLike] | None
) -> _Fold | None:
    """Return the predictions of a row in the order of the items, None where the metric is undefined."""
    order = np.argsort(found.items, kind="stable")
    items, truth, scores = found.items[order], found.truth[order], found.scores[order]
    if metric == "auroc" and not has_all_classes(truth, scores.shape[1]):
        return None
    names = None if groups is None else groups.get(str(row.get("dataset")))
    unit_of = unit_numbers(None if names is None else np.asarray(names)[items], items.size)
    tested = hashlib.sha256(repr(values_of(row, ("dataset", "test_on"))).encode())
    tested.update(items.astype(np.int64).tobytes())
    tested.update(truth.astype(np.int64).tobytes())
    run = values_of(row, ("dataset", "seed"))
    return _Fold(run, tested.digest(), judged(truth, scores, metric, None, name="scores"), unit_of)
