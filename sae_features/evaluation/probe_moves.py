"""Moved probes as a protocol: one model's classifier on another's features, aligned without labels."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.alignment import METHODS, LatentAligner
from sae_features.evaluation.features import identity_of, rows_of, warm_methods
from sae_features.evaluation.fitting import figures_of, fit, learner_of, predict, rows_at
from sae_features.evaluation.moved_probe import move_probe
from sae_features.evaluation.plan import ComparisonPlan
from sae_features.evaluation.provenance import about_run, check_data_sets
from sae_features.evaluation.results import (
    Cell,
    Predictions,
    Results,
    gather,
    key_of,
    read_cell,
    write_cell,
)
from sae_features.evaluation.sweep import PERMUTED_SEED, folds_of, permuted_labels
from sae_features.items import check_items
from sae_features.parameters import check_choice
from sae_features.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.evaluation.classifiers import Classifier, Learner
    from sae_features.evaluation.labelled import LabelledItems
    from sae_features.evaluation.methods import Method
    from sae_features.evaluation.splits import Fold

MOVABLE = ("sae", "states")
"""Kinds of features that are aligned."""


class Move(NamedTuple):
    """A classifier to move, or, without an aligner, one to train and test in its own model."""

    source: Method
    """Features of the model that the classifier is trained on."""
    target: Method
    """Features of the model that it is applied to."""
    aligner: str | None
    """How the target's features become the source's."""


class MovedProbes(ComparisonPlan):
    """Train a classifier on model A's features and apply it unchanged to model B's, aligned to A's.

    The alignment is learned from items without labels, of which none is a test item.  For each ordered
    pair of models and each fold, results have ``train_on`` A, ``test_on`` B, and in ``setting``:

    * ``moved``: A's classifier on B's aligned features;
    * ``shuffled_pairs``: the same, with an alignment learned from wrongly paired items: at chance, or
      something else than the alignment carries it;
    * ``in_model`` (``train_on`` and ``test_on`` the same model): a classifier of the model's own
      features, trained with the same labels: what moving is compared with, from A and from B.

    Parameters
    ----------
    models, layers, saes, poolings, thresholds, binarize, token_top_n
        At least two models, each read at one place: see
        :class:`~sae_features.evaluation.plan.ComparisonPlan`.
    aligners : sequence of {"correlation", "least_squares", "sparse"}
        How features are aligned: see :class:`~sae_features.evaluation.alignment.LatentAligner`.  Hidden
        states, which are moved too if ``baselines`` has ``"states"``, are aligned by least squares.
    **how
        All other parameters of :class:`~sae_features.evaluation.plan.ComparisonPlan`.
    """

    protocol = "moved_probe"

    def __init__(
        self,
        models: Sequence[Any],
        *,
        aligners: Sequence[str] = METHODS,
        baselines: Sequence[str] = ("states",),
        **how: Any,
    ) -> None:
        super().__init__(models, baselines=baselines, **how)
        for name in aligners:
            check_choice("aligner", name, METHODS)
        if not aligners:
            raise InvalidParameterError(f"Got no aligners; expected some of {', '.join(METHODS)}.")
        if extra := [name for name in self.baselines if name not in MOVABLE]:
            message = (
                f"Got baselines={list(self.baselines)}; {extra[0]!r} cannot be moved, only 'states'."
            )
            raise InvalidParameterError(message)
        if len(self.models) < 2:
            raise InvalidParameterError(
                "Got one model; expected at least two to move a classifier between."
            )
        self.aligners = tuple(aligners)

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as plain values."""
        return super().settings() | {"aligners": list(self.aligners)}

    def moves(self, methods: Sequence[Method]) -> list[Move]:
        """Return all classifiers that are trained, and where they are moved to."""
        found = [Move(method, method, None) for method in methods]
        for source, target in itertools.permutations(methods, 2):
            if source.settings["model"] == target.settings["model"] or source.kind != target.kind:
                continue
            if _how(source) != _how(target):
                continue
            aligners = self.aligners if source.kind == "sae" else ("least_squares",)
            found += [Move(source, target, aligner) for aligner in aligners]
        return found

    def run(self, data_sets: Any, corpus: Sequence[Any] | None = None) -> Results:
        """Train, align and move.

        Parameters
        ----------
        data_sets : LabelledItems or iterable of LabelledItems
            What classifiers are trained and tested on.
        corpus : sequence, optional
            Items without labels, which all models read, and from which alignments are learned; the
            training part of each fold if not given.  Items that are test items are left out.

        Returns
        -------
        Results
            Also written to ``folder``.
        """
        listed = check_data_sets(data_sets)
        extra = [] if corpus is None else list(corpus)
        provenance = about_run(self.protocol, self.settings(), listed)
        provenance["n_corpus"] = len(extra)
        split = [folds_of(self, data, provenance["data"][data.name]) for data in listed]
        cells: list[Cell] = []
        for data, (folds, together) in zip(listed, split, strict=True):
            cells += self._cells(data, extra, folds, together)
        results = gather(cells, self.folder, provenance)
        if self.folder is not None:
            results.write(self.folder)
        return results

    def _cells(
        self, data: LabelledItems, corpus: list[Any], folds: Sequence[Fold], together: np.ndarray
    ) -> list[Cell]:
        items = [*data.items, *corpus]
        methods = [
            method for method in self.methods(data.items, data.modality) if method.kind in MOVABLE
        ]
        identities = {method.name: identity_of(method, data.items) for method in methods}
        digests = check_items(items, (data.modality,)).digests()  # type: ignore[arg-type]
        facts = {
            "protocol": self.protocol, "name": data.name, "data": data.digest(), "inner": self.inner,
            "corpus": [digest.hex() for digest in digests[len(data) :]],
            "folds": [[*fold[:2], fold.train.tolist(), fold.test.tolist()] for fold in folds],
        }  # fmt: skip
        wanted: dict[str, tuple[Move, Classifier, str]] = {}
        for move in self.moves(methods):
            for classifier in self.classifiers:
                is_first = classifier is self.classifiers[0]
                for control in ("none", "permuted") if self.permuted and is_first else ("none",):
                    parts = {
                        "source": identities[move.source.name], "target": identities[move.target.name],
                        "aligner": move.aligner, "control": control,
                        "classifier": [classifier.kind, classifier.strengths, classifier.scalings],
                    }  # fmt: skip
                    wanted[key_of(facts | parts)] = (move, classifier, control)
        done: dict[str, Cell] = {}
        if self.folder is not None:
            kept = ((key, read_cell(self.folder, key)) for key in wanted)
            done = {key: cell for key, cell in kept if cell is not None}
        missing = {key: each for key, each in wanted.items() if key not in done}
        needed = {m.name: m for move, _, _ in missing.values() for m in (move.source, move.target)}
        warm_methods(needed.values(), items, is_shown=self.verbose)
        rows = {name: rows_of(method, items) for name, method in needed.items()}
        pairs = [_pairs(fold, len(data), digests) for fold in folds]
        calls = (
            delayed(run_move)(
                learner_of(move.source, classifier, n_classes=len(data.classes)),
                (rows[move.source.name], rows[move.target.name]),
                self._columns(data, move, classifier, control, key),
                move=move, codes=data.codes(), together=together, folds=folds, pairs=pairs,
                n_inner=self.inner,
            )
            for key, (move, classifier, control) in missing.items()
        )  # fmt: skip
        with Progress(data.name, "cell", len(wanted), is_shown=self.verbose) as bar:
            bar.tell(len(done))
            for cell in Parallel(self.n_jobs, return_as="generator_unordered")(calls):
                if self.folder is not None:
                    write_cell(self.folder, cell)
                done[cell.key] = cell
                bar.tell(1)
        return [done[key] for key in wanted]

    def _columns(
        self, data: LabelledItems, move: Move, classifier: Classifier, control: str, key: str
    ) -> dict[str, Any]:
        words = _words_of(move.source)
        return {
            "protocol": self.protocol, "dataset": data.name, "control": control, "cell": key,
            **move.target.settings,
            "train_on": move.source.settings["model"], "test_on": move.target.settings["model"],
            "method": f"{words}, {move.aligner}" if move.aligner else words,
            "kind": move.source.kind, "classifier": classifier.kind, "n_classes": len(data.classes),
        }  # fmt: skip


def run_move(
    learner: Learner,
    X: tuple[Any, Any],
    columns: dict[str, Any],
    *,
    move: Move,
    codes: np.ndarray,
    together: np.ndarray,
    folds: Sequence[Fold],
    pairs: Sequence[np.ndarray],
    n_inner: int,
) -> Cell:
    """Train a classifier on one model's rows, and test it there or moved."""
    of_source, of_target = X
    rows: list[dict[str, Any]] = []
    predictions: list[Predictions] = []
    n_classes = columns["n_classes"]
    for fold, paired in zip(folds, pairs, strict=True):
        labels = codes
        if columns["control"] == "permuted":
            trains = [each.train for each in folds if each.seed == fold.seed]
            labels = permuted_labels(codes, trains, fold.seed)
        fitted = fit(
            learner, rows_at(of_source, fold.train), labels[fold.train], together[fold.train],
            n_inner=n_inner, seed=fold.seed,
        )  # fmt: skip
        tried = {"in_model": fitted}
        if move.aligner is not None:
            generator = np.random.default_rng(PERMUTED_SEED + 1000 * fold.seed + fold.number)
            orders = {"moved": paired, "shuffled_pairs": generator.permutation(paired)}
            tried = {}
            for setting, order in orders.items():
                aligner = LatentAligner(move.aligner, holdout=0.0)
                aligner.fit(rows_at(of_target, order), rows_at(of_source, paired))
                tried[setting] = fitted._replace(pipeline=move_probe(fitted.pipeline, aligner))
        for setting, probe in tried.items():
            found = predict(
                probe, rows_at(of_target, fold.test), fold.test, labels[fold.test], n_classes
            )
            rows.append(
                {
                    **columns, "setting": setting, "seed": fold.seed, "fold": fold.number,
                    "n_train": len(fold.train), "n_test": len(fold.test), "width": of_target.shape[1],
                    "validation": fitted.validation,
                    "chosen": fitted.chosen | ({} if move.aligner is None else {"n_pairs": len(paired)}),
                    **figures_of(found, n_classes),
                }
            )  # fmt: skip
            predictions.append(found)
    return Cell(columns["cell"], rows, predictions)


def _pairs(fold: Fold, n_items: int, digests: Sequence[bytes]) -> np.ndarray:
    """Return what an alignment is learned from: the corpus less test items, or the training part."""
    if len(digests) == n_items:
        return fold.train
    tested = {digests[i] for i in fold.test}
    return np.array([i for i in range(n_items, len(digests)) if digests[i] not in tested], np.int64)


def _how(method: Method) -> list[Any]:
    return [method.settings.get(name) for name in ("pooling", "threshold", "binarize", "token_top_n")]


def _words_of(method: Method) -> str:
    pooling, threshold, binarize, top_n = _how(method)
    words = ["latents" if method.kind == "sae" else "states", pooling]
    if top_n is not None:
        words.append(f"top {top_n}")
    if threshold is not None:
        words.append(f"> {threshold:g}")
    return " ".join([*words, "binarized"] if binarize else words)
