"""Feature sweeps: many methods on many data sets, on the same folds, each item read once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.evaluation.features import identity_of
from sae_features.evaluation.fitting import figures_of, fit, predict, rows_at
from sae_features.evaluation.leakage import find_leaks, joint_groups, treat_leaks
from sae_features.evaluation.plan import ComparisonPlan
from sae_features.evaluation.provenance import about_labels, about_run, check_data_sets
from sae_features.evaluation.results import Cell, Predictions, Results, gather, key_of
from sae_features.evaluation.splits import Fold, check_parts, draw_folds
from sae_features.evaluation.tasks import Task, run_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sae_features.evaluation.classifiers import Learner
    from sae_features.evaluation.labelled import LabelledItems

PERMUTED_SEED = 1_000_003
"""Added to a seed, so that permuted labels and folds are drawn independently."""


class FeatureSweep(ComparisonPlan):
    """Compare features for classification: models, layers, SAEs, poolings, thresholds, beside baselines.

    All methods see the same folds, so that comparisons are paired; scaling and regularisation are chosen
    by inner folds of each training part, from the same choices for all; every row of the results holds
    the score of those inner folds (``validation``), by which a layer, a width or a pooling may be
    chosen without looking at the test part.  Equal items never stand on both sides of a fold.

    Parameters
    ----------
    models, layers, saes, poolings, thresholds, binarize, token_top_n, baselines
        What is compared: see :class:`~sae_features.evaluation.plan.ComparisonPlan`.
    classifiers, strengths, cv, repeats, inner, permuted, on_leak, seed
        How it is compared.
    folder, cache, n_jobs, device, batch_size, verbose
        How it is computed; with a ``folder`` a run that was interrupted goes on.

    Examples
    --------
    >>> from sae_features.datasets import load_movie_snippets
    >>> from sae_features.evaluation.labelled import LabelledItems
    >>> movies = load_movie_snippets()
    >>> data = LabelledItems("movies", movies.data[:60], movies.target[:60])
    >>> sweep = FeatureSweep(baselines=("tfidf_word",), cv=2, strengths=(1.0,), permuted=False)
    >>> results = sweep.run(data)
    >>> sorted({row["method"] for row in results.rows})
    ['TF-IDF words', 'minilm layer 3 minilm-topk-4k/layer_3 max']
    """

    protocol = "sweep"

    def run(self, data_sets: LabelledItems | Iterable[LabelledItems]) -> Results:
        """Run all methods on all data sets.

        Parameters
        ----------
        data_sets : LabelledItems or iterable of LabelledItems
            With different names.

        Returns
        -------
        Results
            One row per data set, method, classifier and fold; also written to ``folder``.

        Raises
        ------
        InvalidInputError
            If a data set cannot be split, or a split leaks and ``on_leak="error"``.
        InvalidParameterError
            If a parameter cannot be.
        """
        listed = check_data_sets(data_sets)
        provenance = about_run(self.protocol, self.settings(), listed)
        split = [folds_of(self, data, provenance["data"][data.name]) for data in listed]
        cells: list[Cell] = []
        for data, (folds, together) in zip(listed, split, strict=True):
            cells += self._cells(data, folds, together)
        results = gather(cells, self.folder, provenance)
        if self.folder is not None:
            results.write(self.folder)
        return results

    def _cells(self, data: LabelledItems, folds: Sequence[Fold], together: np.ndarray) -> list[Cell]:
        methods = self.methods(data.items, data.modality)
        facts = {
            "protocol": self.protocol, "name": data.name, "data": data.digest(),
            "folds": [[*fold[:2], fold.train.tolist(), fold.test.tolist()] for fold in folds],
            "inner": self.inner,
        }  # fmt: skip
        identities = {method.name: identity_of(method, data.items) for method in methods}
        tasks = []
        for method, classifier, control in self.runs(methods):
            how = [classifier.kind, classifier.strengths, classifier.scalings]
            key = key_of(
                facts | {"method": identities[method.name], "classifier": how, "control": control}
            )
            columns = {
                "protocol": self.protocol, "dataset": data.name, "train_on": data.name,
                "test_on": data.name, "n_classes": len(data.classes), "control": control,
            }  # fmt: skip
            tasks.append(Task(key, method, classifier, columns))
        return run_tasks(
            tasks, methods, data.items, run_folds,
            arguments={
                "codes": data.codes(), "together": together, "folds": folds, "n_inner": self.inner,
            },
            title=data.name, folder=self.folder, n_jobs=self.n_jobs, is_shown=self.verbose,
        )  # fmt: skip


def folds_of(
    plan: ComparisonPlan, data: LabelledItems, notes: dict[str, Any]
) -> tuple[list[Fold], np.ndarray]:
    """Return the folds of a data set and what stays together; note what was noticed."""
    digests = data.digests()
    together = joint_groups(digests, data.groups)
    codes = data.codes()
    notes |= about_labels(data, digests)
    seeds = range(plan.seed, plan.seed + plan.repeats)
    if data.split is None:
        often = f", drawn {plan.repeats} times" if plan.repeats > 1 else ""
        notes["folds"] = f"{plan.cv} folds{often}"
        called: dict[str, Any] = {"name": data.name, "classes": data.classes}
        drawn = [draw_folds(codes, together, plan.cv, seed, **called) for seed in seeds]
        return [fold for folds in drawn for fold in folds], together
    train, test = (np.flatnonzero(data.split == side) for side in ("train", "test"))
    leaks = find_leaks(train, test, digests, data.groups)
    test = treat_leaks(leaks, test, plan.on_leak, data.name)
    check_parts(codes, train, test, data.name, data.classes)
    notes |= {"folds": "its own split", "n_leaking": len(leaks.positions), "on_leak": plan.on_leak}
    return [Fold(seed, 0, train, test) for seed in seeds], together


def run_folds(
    learner: Learner,
    X: Any,
    columns: dict[str, Any],
    *,
    codes: np.ndarray,
    together: np.ndarray,
    folds: Sequence[Fold],
    n_inner: int,
) -> tuple[list[dict[str, Any]], list[Predictions]]:
    """Fit and test in every fold."""
    rows, predictions = [], []
    for fold in folds:
        labels = codes
        if columns["control"] == "permuted":
            trains = [other.train for other in folds if other.seed == fold.seed]
            labels = permuted_labels(codes, trains, fold.seed)
        fitted = fit(
            learner, rows_at(X, fold.train), labels[fold.train], together[fold.train],
            n_inner=n_inner, seed=fold.seed,
        )  # fmt: skip
        found = predict(
            fitted, rows_at(X, fold.test), fold.test, labels[fold.test], columns["n_classes"]
        )
        rows.append(
            {
                **columns, "seed": fold.seed, "fold": fold.number, "n_train": len(fold.train),
                "n_test": len(fold.test), "validation": fitted.validation, "chosen": fitted.chosen,
                **figures_of(found, columns["n_classes"]),
            }
        )  # fmt: skip
        predictions.append(found)
    return rows, predictions


def permuted_labels(codes: np.ndarray, trains: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Return labels in another order, the same for all methods and folds of a seed.

    Parameters
    ----------
    codes : ndarray of int
        Class of each item.
    trains : sequence of ndarray
        Training parts; drawn again until each has two classes, as none can be learned from one.
    seed : int
        Of the folds; other numbers are drawn by it than for them.
    """
    generator = np.random.default_rng(PERMUTED_SEED + seed)
    while True:
        labels = generator.permutation(codes)
        if all(len(np.unique(labels[train])) > 1 for train in trains):
            return labels
