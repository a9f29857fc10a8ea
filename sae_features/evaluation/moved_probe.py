"""A classifier of one model's features, applied unchanged to another model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.utils.validation import check_is_fitted

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.alignment import LatentAligner
from sae_features.evaluation.fitting import Fitted, figures_of, predict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike

    from sae_features.base import BaseFeaturizer
    from sae_features.evaluation.results import Predictions

N_PERMUTATIONS = 10
"""One shuffled pairing can give a direction that separates the classes by chance, either way round."""


def move_probe(
    probe: Any, aligner: LatentAligner, *, featurizer: BaseFeaturizer | None = None
) -> Pipeline:
    """Return a classifier of model B's rows: a fitted classifier of model A's, behind an aligner.

    Neither is fitted again, whatever is done to the pipeline: both are frozen.

    Parameters
    ----------
    probe : estimator
        A classifier, or a pipeline that ends with one, that was fitted on rows of A.
    aligner : LatentAligner
        Fitted on pairs of rows of B and A.
    featurizer : SAEFeaturizer or ActivationFeaturizer, optional
        Of B, as it made the rows that the aligner was fitted on: the pipeline then takes items.

    Returns
    -------
    sklearn.pipeline.Pipeline
        Fitted; with steps ``features`` (if there is a featurizer), ``align`` and ``probe``.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If one of the two is not fitted.
    InvalidParameterError
        If the classifier takes another number of features than the aligner gives.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sae_features.evaluation.alignment import LatentAligner
    >>> of_a = np.random.default_rng(0).exponential(size=(100, 3))
    >>> of_b = 5 * of_a[:, [2, 0, 1]]
    >>> y = of_a[:, 0] > 1
    >>> probe = LogisticRegression().fit(of_a, y)
    >>> moved = move_probe(probe, LatentAligner().fit(of_b, of_a))
    >>> bool((moved.predict(of_b) == probe.predict(of_a)).all())
    True
    """
    check_is_fitted(aligner)
    check_is_fitted(probe)
    takes = getattr(probe, "n_features_in_", None)
    if takes is not None and takes != aligner.n_features_out_:
        message = (
            f"Got a probe that takes {takes} features and an aligner that gives "
            f"{aligner.n_features_out_}; expected a probe that was fitted on rows like the aligner's Y."
        )
        raise InvalidParameterError(message)
    first = [] if featurizer is None else [("features", featurizer)]
    return Pipeline([*first, ("align", FrozenEstimator(aligner)), ("probe", FrozenEstimator(probe))])


class ProbeScore(NamedTuple):
    """How one classifier does on the test items."""

    row: dict[str, Any]
    """Columns of a table of results that are known here: ``protocol``, ``train_on`` and ``test_on``
    (``"A"`` or ``"B"``), ``setting``, ``control``, ``seed``, ``n_train`` (labels), ``n_test``,
    ``n_classes``, ``width``, ``accuracy``, ``macro_f1``, ``auroc``; and ``n_pairs``, the items that an
    aligner was fitted on, or None."""
    predictions: Predictions
    """What it said."""


def moved_probe_scores(
    rows_a: Any,
    rows_b: Any,
    y: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    pairs: ArrayLike | None = None,
    aligner: LatentAligner | None = None,
    classifier: Any = None,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> list[ProbeScore]:
    """Compare a moved classifier with those that it has to be compared with, on the same test items.

    One comparison, from rows that are there; the protocol over models, layers and folds is
    :class:`~sae_features.evaluation.probe_moves.MovedProbes`.

    Parameters
    ----------
    rows_a, rows_b : {ndarray, sparse matrix} of shape (n_items, …)
        Rows of both models for all items; activations of A where the aligner has an SAE.
    y : array-like of shape (n_items,)
        Class of each item; of those that are neither trained nor tested on, anything.
    train : array-like of int
        Positions of the items whose labels classifiers are fitted with, those of A and of B.
    test : array-like of int
        Positions of the items that are tested.
    pairs : array-like of int, optional
        Positions of the items that the aligner is fitted on, without labels; those of ``train`` if not
        given.
    aligner : LatentAligner, optional
        Not fitted; the default one if not given.
    classifier : estimator, optional
        Not fitted; logistic regression on rows divided by their largest values, if not given.
    n_permutations : int, default=10
        How often each control is drawn.
    seed : int, default=0
        Of the permutations.

    Returns
    -------
    list of ProbeScore
        In this order, by ``setting``:

        - ``"moved"``: A's classifier, on rows of B that were aligned;
        - ``"in_model"``, ``test_on`` B: a classifier of B's rows with the same labels;
        - ``"in_model"``, ``test_on`` A: A's classifier on A's rows, the ceiling;
        - ``"shuffled_pairs"``: as the first, but the aligner was fitted on wrongly paired rows;
        - ``"in_model"``, ``test_on`` B, ``control`` ``"permuted"``: fitted with shuffled labels.

        The last two come ``n_permutations`` times each; chance is their mean, and their spread says how
        far a single one may be off.

    Raises
    ------
    InvalidInputError
        If arrays do not fit together, an item is tested and also trained or aligned on, or the classes
        of both parts differ.
    InvalidParameterError
        If ``n_permutations`` is negative.
    """
    if n_permutations < 0:
        raise InvalidParameterError(f"Got n_permutations={n_permutations}; expected 0 or more.")
    pairs = train if pairs is None else pairs
    parts = _checked_parts(rows_a, rows_b, y, train=train, test=test, pairs=pairs)
    aligner = LatentAligner() if aligner is None else aligner
    if classifier is None:
        classifier = make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=2000))
    run = _Run(rows_a, rows_b, parts, aligner, classifier, seed)
    return [*run.compared(), *run.controls(n_permutations)]


class _Parts(NamedTuple):
    train: np.ndarray
    test: np.ndarray
    pairs: np.ndarray
    codes: np.ndarray
    """Class of each item, int64; -1 where it is of no use."""
    n_classes: int


class _Run(NamedTuple):
    rows_a: Any
    rows_b: Any
    parts: _Parts
    aligner: LatentAligner
    classifier: Any
    seed: int

    def compared(self) -> Iterator[ProbeScore]:
        train, test, pairs, codes, _ = self.parts
        aligner = self._aligned(self.rows_b[pairs])
        of_a = self._probe_of_a(aligner)
        of_b = clone(self.classifier).fit(self.rows_b[train], codes[train])
        moved = move_probe(of_a, aligner)
        yield self._scored(moved, self.rows_b[test], setting="moved", on="AB", seed=self.seed)
        yield self._scored(of_b, self.rows_b[test], setting="in_model", on="BB", seed=self.seed)
        yield self._scored(of_a, self._read(aligner, test), setting="in_model", on="AA", seed=self.seed)

    def controls(self, n_permutations: int) -> Iterator[ProbeScore]:
        train, test, pairs, codes, _ = self.parts
        of_a = None
        for seed in range(self.seed, self.seed + n_permutations):
            shuffled = np.random.default_rng(seed).permutation(pairs)
            aligner = self._aligned(self.rows_b[shuffled])
            of_a = self._probe_of_a(aligner) if of_a is None else of_a
            moved = move_probe(of_a, aligner)
            yield self._scored(moved, self.rows_b[test], setting="shuffled_pairs", on="AB", seed=seed)
        for seed in range(self.seed, self.seed + n_permutations):
            labels = np.random.default_rng(seed).permutation(codes[train])
            of_b = clone(self.classifier).fit(self.rows_b[train], labels)
            yield self._scored(
                of_b, self.rows_b[test], setting="in_model", on="BB", seed=seed, control="permuted"
            )

    def _aligned(self, rows_of_pairs: Any) -> LatentAligner:
        aligner = clone(self.aligner).set_params(holdout=0)
        fitted: LatentAligner = aligner.fit(rows_of_pairs, self.rows_a[self.parts.pairs])
        return fitted

    def _probe_of_a(self, aligner: LatentAligner) -> Any:
        train = self.parts.train
        return clone(self.classifier).fit(self._read(aligner, train), self.parts.codes[train])

    def _read(self, aligner: LatentAligner, items: np.ndarray) -> Any:
        """Return the features of A: its rows, or what its SAE reads in them."""
        rows = self.rows_a[items]
        return rows if aligner.sae is None else aligner.encode(rows)

    def _scored(
        self, probe: Any, rows: Any, *, setting: str, on: str, seed: int, control: str = "none"
    ) -> ProbeScore:
        _, test, pairs, codes, n_classes = self.parts
        predictions = predict(Fitted(probe, {}, None), rows, test, codes[test], n_classes)
        row = {
            "protocol": "moved_probe",
            "train_on": on[0],
            "test_on": on[1],
            "setting": setting,
            "control": control,
            "seed": seed,
            "n_train": len(self.parts.train),
            "n_pairs": None if setting == "in_model" else len(pairs),
            "n_test": len(test),
            "n_classes": n_classes,
            "width": int(rows.shape[1]),
        }
        return ProbeScore(row | figures_of(predictions, n_classes), predictions)


def _checked_parts(rows_a: Any, rows_b: Any, y: ArrayLike, **items: ArrayLike) -> _Parts:
    labels = np.asarray(y)
    n = len(labels)
    if not rows_a.shape[0] == rows_b.shape[0] == n:
        message = (
            f"Got {rows_a.shape[0]} rows of A, {rows_b.shape[0]} of B and {n} labels; expected as many "
            "of each, of the same items."
        )
        raise InvalidInputError(message)
    positions: dict[str, Any] = {}
    for name, given in items.items():
        found = np.asarray(given)
        is_right = found.ndim == 1 and found.size and found.dtype.kind in "iu"
        if not is_right or found.min() < 0 or found.max() >= n:
            message = f"Got {name}={given!r}; expected positions of items, from 0 to {n - 1}."
            raise InvalidInputError(message)
        positions[name] = found.astype(np.int64)
    for name in ("train", "pairs"):
        shared = np.intersect1d(positions[name], positions["test"])
        if len(shared):
            message = f"Got item {shared[0]} in {name} and in test; expected test items to be unseen."
            raise InvalidInputError(message)
    used = np.concatenate([positions["train"], positions["test"]])
    classes, of_used = np.unique(labels[used], return_inverse=True)
    codes = np.full(n, -1, np.int64)
    codes[used] = of_used
    for name in ("train", "test"):
        absent = np.setdiff1d(np.arange(len(classes)), codes[positions[name]])
        if len(absent) or len(classes) < 2:
            which = (
                f"without class {classes.tolist()[absent[0]]!r}" if len(absent) else "of one class only"
            )
            raise InvalidInputError(
                f"Got {name} items {which}; expected items of all classes, two or more."
            )
    return _Parts(**positions, codes=codes, n_classes=len(classes))
