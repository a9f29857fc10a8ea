"""Each method against a reference, on the same folds: by task, and over tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.evaluation.cells import TASK
from sae_features.evaluation.differences import Difference, or_none, over_units
from sae_features.evaluation.pairing import paired
from sae_features.evaluation.scores import METRICS
from sae_features.evaluation.significance import adjust, check_level, corrected_resampled_t
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sae_features.evaluation.cells import Task
    from sae_features.evaluation.pairing import Pair

    Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TaskComparison:
    """A method against the reference on one task.

    Attributes
    ----------
    task : Task
        Protocol, data set, where trained and tested, setting.
    figure, reference_figure : float
        Of the method and of the reference, means over folds.
    difference : float
        ``figure - reference_figure``.
    low, high, t, p : float or None
        Corrected resampled t test of the difference over folds
        (:func:`~sae_features.evaluation.significance.corrected_resampled_t`); None of one fold, or where
        all folds differ by the same.
    p_holm : float or None
        ``p`` adjusted for all methods and tasks of the table.
    n_folds : int
        Folds, those of all seeds.
    """

    task: Task
    figure: float
    reference_figure: float
    difference: float
    low: float | None
    high: float | None
    t: float | None
    p: float | None
    p_holm: float | None
    n_folds: int

    def asdict(self) -> dict[str, Any]:
        """Return one tidy record."""
        record = {name: value for name, value in vars(self).items() if name != "task"}
        return {**self.task._asdict(), **record}


@dataclass(frozen=True, kw_only=True)
class Comparison(Difference):
    """A method against the reference over all tasks; fields of `Difference` are method less reference.

    Attributes
    ----------
    method, reference : str
        Names of methods.
    metric : str
        What is compared.
    p_holm : float
        ``p``, Wilcoxon's over units, adjusted for all methods of the table.
    n_undefined : int
        Folds that were left out, as the metric is undefined for both.
    tasks : tuple of TaskComparison
        Each task.
    """

    method: str
    reference: str
    metric: str
    p_holm: float
    n_undefined: int
    tasks: tuple[TaskComparison, ...]

    def asdict(self) -> dict[str, Any]:
        """Return one tidy record, without the tasks."""
        return {name: value for name, value in vars(self).items() if name != "tasks"}


def compare(
    rows: Iterable[Row],
    *,
    reference: str,
    methods: Sequence[str] | None = None,
    metric: str = "macro_f1",
    level: float = 0.95,
    unit: Sequence[str] = TASK,
) -> list[Comparison]:
    """Compare methods with a reference, fold by fold on the same test items.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of results; those of controls are left out.
    reference : str
        Name of the method to compare with.
    methods : sequence of str, optional
        Names of the methods to compare; all others, in the order in which they come, if None.
    metric : {"macro_f1", "accuracy", "auroc"}
        What is compared.
    level : float, default=0.95
        Of intervals.
    unit : sequence of str, default=TASK
        Keys of a task that name an independent unit, over which differences are averaged and tested.
        The cells of a transfer matrix share training and test parts: there ``("test_on",)`` is more
        honest, and tasks as units give p values that are too small.

    Returns
    -------
    list of Comparison
        One for each method.

    Raises
    ------
    InvalidInputError
        If folds are not paired: a method or the reference lacks some, has several rows for one, was
        tested on another number of items, or has no figure where the other has one.
    InvalidParameterError
        If a method is not there, or another parameter cannot be.

    Examples
    --------
    >>> rows = [
    ...     {"dataset": name, "seed": 0, "fold": fold, "method": method, "n_train": 80, "n_test": 20,
    ...      "macro_f1": 0.7 + gain * (method == "max") + 0.01 * fold}
    ...     for name, gain in [("a", 0.02), ("b", 0.05), ("c", 0.04)]
    ...     for fold in range(5) for method in ("mean", "max")
    ... ]
    >>> found, = compare(rows, reference="mean")
    >>> found.method, round(found.difference, 4), found.wins, found.p_holm
    ('max', 0.0367, 3, 0.25)
    """
    check_choice("metric", metric, METRICS)
    check_level(level)
    pairs = paired(rows, reference=reference, methods=methods, metric=metric)
    found = []
    for name, of_method in pairs.items():
        tasks = tuple(_of_task(task, folds, level) for task, folds in of_method.tasks.items())
        over = over_units([(each.task, each.difference) for each in tasks], unit, level)
        found.append(
            Comparison(
                **vars(over), method=name, reference=reference, metric=metric, p_holm=over.p,
                n_undefined=of_method.n_undefined, tasks=tasks,
            )
        )  # fmt: skip
    return _adjusted(found)


def _of_task(task: Task, pairs: Sequence[Pair], level: float) -> TaskComparison:
    figure, of_reference, n_train, n_test = np.mean(pairs, axis=0).tolist()
    found = None
    if len(pairs) > 1:
        differences = [pair.figure - pair.reference for pair in pairs]
        found = corrected_resampled_t(differences, n_train=n_train, n_test=n_test, level=level)
    return TaskComparison(
        task=task,
        figure=figure,
        reference_figure=of_reference,
        difference=figure - of_reference,
        low=or_none(found.low) if found else None,
        high=or_none(found.high) if found else None,
        t=or_none(found.t) if found and or_none(found.p) is not None else None,
        p=or_none(found.p) if found else None,
        p_holm=None,
        n_folds=len(pairs),
    )


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """Return the table with p values that are adjusted for all of it."""
    of_methods = adjust([each.p for each in found]).tolist()
    p_values = [np.nan if task.p is None else task.p for each in found for task in each.tasks]
    of_tasks = iter(adjust(p_values).tolist())
    return [
        replace(
            each, p_holm=p_holm,
            tasks=tuple(replace(task, p_holm=or_none(next(of_tasks))) for task in each.tasks),
        )
        for each, p_holm in zip(found, of_methods, strict=True)
    ]  # fmt: skip
