"""The quiver of arrows: what features add where validation chooses whether to use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.cells import (
    FOLD,
    TASK,
    Task,
    described,
    figure_in,
    grouped_by,
    task_of,
    without_controls,
)
from sae_features.evaluation.choices import best, ranks
from sae_features.evaluation.differences import Difference, over_units
from sae_features.evaluation.scores import METRICS
from sae_features.evaluation.significance import check_level
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    Row = Mapping[str, Any]


@dataclass(frozen=True)
class QuiverTask:
    """What choosing gave on one task.

    Attributes
    ----------
    task : Task
        Protocol, data set, where trained and tested, setting.
    base : float
        Test figure of what is chosen among the baselines, mean over folds.
    both : float
        Test figure of what is chosen among baselines and added methods.
    difference : float
        ``both - base``.
    chosen : float
        Share of folds in which an added method is chosen.
    n_folds : int
        Folds, those of all seeds.
    """

    task: Task
    base: float
    both: float
    difference: float
    chosen: float
    n_folds: int

    def asdict(self) -> dict[str, Any]:
        """Return one tidy record."""
        record = {name: value for name, value in vars(self).items() if name != "task"}
        return {**self.task._asdict(), **record}


@dataclass(frozen=True, kw_only=True)
class Quiver(Difference):
    """What adding methods to a quiver of baselines is worth; fields of `Difference` are ``both - base``.

    Attributes
    ----------
    metric : str
        Of the test part.
    base_kinds, added_kinds : tuple of str
        Kinds of methods that were chosen among.
    base, both : float
        Mean over units of what was chosen among baselines, and among all.
    chosen : float
        Share of folds in which an added method was chosen.
    n_folds : int
        Folds of all tasks.
    n_undefined : int
        Folds that were left out, as the metric is undefined there.
    tasks : tuple of QuiverTask
        Each task.
    """

    metric: str
    base_kinds: tuple[str, ...]
    added_kinds: tuple[str, ...]
    base: float
    both: float
    chosen: float
    n_folds: int
    n_undefined: int
    tasks: tuple[QuiverTask, ...]

    def asdict(self) -> dict[str, Any]:
        """Return one tidy record, without the tasks."""
        return {name: value for name, value in vars(self).items() if name != "tasks"}


def quiver(
    rows: Iterable[Row],
    *,
    base_kinds: Collection[str],
    added_kinds: Collection[str],
    metric: str = "auroc",
    level: float = 0.95,
    unit: Sequence[str] = TASK,
) -> Quiver:
    """Compare the best of the baselines with the best of baselines and added methods [1]_.

    In each fold a method is chosen by validation score from the baselines, and another from baselines
    and added methods; their test figures are compared.  Of equal validation scores a baseline is chosen.
    A method that is better on some tasks only, and is known to be by validation, helps here; one that
    wins on test by luck does not.

    Parameters
    ----------
    rows : iterable of mapping
        Rows of results; those of controls are left out.
    base_kinds, added_kinds : collection of str
        Kinds (column ``kind``) of the baselines, and of what is added to them.
    metric : {"auroc", "macro_f1", "accuracy"}
        What is compared on test.
    level : float, default=0.95
        Of the interval.
    unit : sequence of str, default=TASK
        Keys of a task that name an independent unit, over which differences are averaged and tested.
        The cells of a transfer matrix share training and test parts: there ``("test_on",)`` is more
        honest, and tasks as units give p values that are too small.

    Returns
    -------
    Quiver

    Raises
    ------
    InvalidInputError
        If a fold lacks a method that its task has, or baselines or added methods altogether; if a
        validation score is lacking, or the metric is undefined everywhere.
    InvalidParameterError
        If kinds overlap or are none, or another parameter cannot be.

    Notes
    -----
    Choosing from more methods can harm: a small gain by validation is often luck.  To see what adding
    *anything* does, add a control (``"random_sae"``) in place of the features.  Where the training part
    does not stand for the test part (another language, wrong labels), validation does not tell what is
    good; compare fixed methods there (:func:`~sae_features.evaluation.comparisons.compare`).

    References
    ----------
    .. [1] Kantamneni et al., "Are sparse autoencoders useful? A case study in sparse probing", arXiv
       2502.16681.

    Examples
    --------
    >>> rows = [
    ...     {"dataset": name, "fold": 0, "method": kind, "kind": kind, "validation": v, "auroc": test}
    ...     for name, good in [("a", 0.9), ("b", 0.7), ("c", 0.95)]
    ...     for kind, v, test in [("states", 0.8, 0.8), ("sae", good, good)]
    ... ]
    >>> found = quiver(rows, base_kinds=["states"], added_kinds=["sae"])
    >>> round(found.difference, 4), round(found.chosen, 2), [task.both for task in found.tasks]
    (0.0833, 0.67, [0.9, 0.8, 0.95])
    """
    check_choice("metric", metric, METRICS)
    check_level(level)
    base, added = _kinds("base_kinds", base_kinds), _kinds("added_kinds", added_kinds)
    if shared := sorted(set(base) & set(added)):
        raise InvalidParameterError(
            f"Got {shared[0]!r} in base_kinds and added_kinds; expected it in one."
        )
    kept = [row for row in without_controls(rows) if row.get("kind") in {*base, *added}]
    rank = ranks([row for row in kept if row.get("kind") in base] + kept)
    tasks, n_undefined = [], 0
    for of_task in grouped_by(kept, TASK).values():
        folds = grouped_by(of_task, FOLD)
        _check_folds(folds, base, added)
        chosen = [_choose(fold, base, rank, metric) for fold in folds.values()]
        defined = [each for each in chosen if each is not None]
        n_undefined += len(chosen) - len(defined)
        if defined:
            tasks.append(_of_task(task_of(of_task[0]), defined))
    if not tasks:
        raise InvalidInputError(f"Got no fold in which {metric} is defined; expected another metric.")
    found = over_units([(each.task, each.difference) for each in tasks], unit, level)
    n_folds = sum(each.n_folds for each in tasks)
    return Quiver(
        **vars(found),
        metric=metric,
        base_kinds=base,
        added_kinds=added,
        base=over_units([(each.task, each.base) for each in tasks], unit, level).difference,
        both=over_units([(each.task, each.both) for each in tasks], unit, level).difference,
        chosen=sum(each.chosen * each.n_folds for each in tasks) / n_folds,
        n_folds=n_folds,
        n_undefined=n_undefined,
        tasks=tuple(tasks),
    )


def _choose(
    fold: Sequence[Row], base: tuple[str, ...], rank: Mapping[str, int], metric: str
) -> tuple[float, float, bool] | None:
    """Return the test figures of both choices, and whether the second is an added method."""
    one, other = best([row for row in fold if row.get("kind") in base], rank), best(fold, rank)
    of_one, of_other = figure_in(one, metric), figure_in(other, metric)
    if of_one is None or of_other is None:
        return None
    return of_one, of_other, other.get("kind") not in base


def _of_task(task: Task, chosen: Sequence[tuple[float, float, bool]]) -> QuiverTask:
    base, both, share = np.mean(chosen, axis=0).tolist()
    return QuiverTask(task, base, both, both - base, share, len(chosen))


def _kinds(name: str, kinds: Collection[str]) -> tuple[str, ...]:
    if isinstance(kinds, str) or not kinds:
        raise InvalidParameterError(
            f"Got {name}={kinds!r}; expected names of kinds, such as ['states']."
        )
    return tuple(kinds)


def _check_folds(
    folds: Mapping[tuple[Any, ...], list[Row]], base: tuple[str, ...], added: tuple[str, ...]
) -> None:
    """Raise unless every fold of a task offers the same methods, baselines and added ones among them."""
    wanted = {row.get("method"): row.get("kind") for fold in folds.values() for row in fold}
    first = next(iter(folds))
    for kinds, what in ((base, "base_kinds"), (added, "added_kinds")):
        if not set(kinds) & set(wanted.values()):
            message = (
                f"Got no method of {what}={list(kinds)} for {described(FOLD, first)}; expected "
                "baselines and added methods for each task. Leave out the tasks that lack one."
            )
            raise InvalidInputError(message)
    for key, fold in folds.items():
        if lacking := sorted(set(map(str, wanted)) - {str(row.get("method")) for row in fold}):
            message = (
                f"Got no row of {lacking[0]!r} for {described(FOLD, key)}, but for other folds of the "
                "task; expected the same methods in each. Run what is missing."
            )
            raise InvalidInputError(message)
