"""Cells of a comparison: what was kept is read, the rest is computed, several at a time."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from joblib import Parallel, delayed

from sae_features.evaluation.features import components_of, rows_of, warm_methods
from sae_features.evaluation.fitting import active_of, learner_of, width_of
from sae_features.evaluation.results import Cell, read_cell, write_cell
from sae_features.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sae_features.evaluation.classifiers import Classifier, Learner
    from sae_features.evaluation.methods import Method


class Task(NamedTuple):
    """A cell that is wanted."""

    key: str
    """What decides its figures, as a digest."""
    method: Method
    """What items become."""
    classifier: Classifier
    """What is learned from it."""
    columns: dict[str, Any]
    """What its rows say, beyond the method."""


def run_tasks(
    tasks: Sequence[Task],
    methods: Sequence[Method],
    items: Sequence[Any],
    compute: Callable[..., tuple[list[dict[str, Any]], list[Any]]],
    *,
    arguments: Mapping[str, Any],
    title: str,
    folder: Path | None,
    n_jobs: int,
    is_shown: bool,
) -> list[Cell]:
    """Return cells in order: those that were kept, and those that are computed now.

    Models run only over items of cells that are missing, once each; rows of features are made one method
    at a time.

    Parameters
    ----------
    tasks : sequence of Task
    methods : sequence of Method
        All of the comparison; a projection is as wide as a row of one of them has features.
    items : sequence
        What rows are made of.
    compute : callable
        ``compute(learner, X, columns, **arguments)`` gives rows and predictions; it must pickle.
    arguments : mapping
        What it is given beside.
    title : str
        What the progress bar is called.
    folder : Path, optional
        Where cells are kept.
    n_jobs : int
        Cells computed at a time.
    is_shown : bool
        Whether to show progress.
    """
    done: dict[str, Cell] = {}
    if folder is not None:
        kept = ((task.key, read_cell(folder, task.key)) for task in tasks)
        done = {key: cell for key, cell in kept if cell is not None}
    missing = [task for task in tasks if task.key not in done]
    needed = {name for task in missing for name in (task.method.name, task.method.components_of)}
    warm_methods([method for method in methods if method.name in needed], items, is_shown=is_shown)
    calls = _calls(missing, methods, items, partial(compute, **arguments), folder)
    with Progress(title, "cell", len(tasks), is_shown=is_shown) as bar:
        bar.tell(len(done))
        for cell in Parallel(n_jobs, return_as="generator_unordered")(calls):
            done[cell.key] = cell
            bar.tell(1)
    return [done[task.key] for task in tasks]


def _calls(
    missing: Sequence[Task],
    methods: Sequence[Method],
    items: Sequence[Any],
    compute: Callable[..., Any],
    folder: Path | None,
) -> Iterator[Any]:
    by_name = {method.name: method for method in methods}
    together: dict[str, list[Task]] = defaultdict(list)
    for task in missing:
        together[task.method.name].append(task)
    for name, of_method in together.items():
        method = by_name[name]
        X = rows_of(method, items)
        n_components = components_of(method, by_name, items)
        columns = {
            "method": name, "kind": method.kind, **method.settings,
            "width": n_components or width_of(X), "active": active_of(X),
        }  # fmt: skip
        for task in of_method:
            own = columns | {"classifier": task.classifier.kind, "cell": task.key} | task.columns
            learner = learner_of(
                method, task.classifier, n_classes=own["n_classes"], n_components=n_components
            )
            yield delayed(_run)(compute, learner, X, own, folder)


def _run(
    compute: Callable[..., Any], learner: Learner, X: Any, columns: dict[str, Any], folder: Path | None
) -> Cell:
    cell = Cell(columns["cell"], *compute(learner, X, columns))
    if folder is not None:
        write_cell(folder, cell)
    return cell
