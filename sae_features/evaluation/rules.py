"""A decision tree on which latents fire, printed as rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from sklearn.base import clone
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.multiclass import check_classification_targets

from sae_features.binarizer import LatentBinarizer
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.evaluation.latent_names import latent_labels, shown_latent
from sae_features.parameters import check_count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sae_features.featurizer import SAEFeaturizer


@dataclass(frozen=True)
class Condition:
    """That a latent fires, or that it does not.

    Attributes
    ----------
    latent : int
    label : str or None
    fires : bool
    """

    latent: int
    label: str | None
    fires: bool

    def __str__(self) -> str:
        return f"{shown_latent(self.latent, self.label)} {'fires' if self.fires else 'does not fire'}"


@dataclass(frozen=True)
class Rule:
    """What is predicted where all conditions hold.

    Attributes
    ----------
    conditions : tuple of Condition
        Those that fire first, each in the tree's order.
    prediction : object
        A class.
    n : int
        Items for which the conditions hold.
    purity : float
        Share of them that are of that class; NaN if there are none.
    leaf : int
        Node of the tree.

    Examples
    --------
    >>> conditions = (Condition(12, "refund request", True), Condition(7, None, False))
    >>> print(Rule(conditions, "complaint", 31, 0.94, 2))
    if "refund request" (latent 12) fires and latent 7 does not fire -> complaint (n=31, purity 0.94)
    """

    conditions: tuple[Condition, ...]
    prediction: Any
    n: int
    purity: float
    leaf: int

    def __str__(self) -> str:
        held = "if " + " and ".join(map(str, self.conditions)) if self.conditions else "always"
        return f"{held} -> {self.prediction} (n={self.n}, purity {self.purity:.2f})"


@dataclass(frozen=True, eq=False)
class Rules(Sequence[Rule]):
    """Rules of a decision tree: of each item exactly one holds.

    Attributes
    ----------
    rules : tuple of Rule
        Those of most items first.
    tree : DecisionTreeClassifier
        Fitted on which of ``columns`` exceed ``threshold``.
    columns : ndarray of shape (m,), int64
        Columns of ``X`` that it sees: those that differ between items.
    threshold : float
    """

    rules: tuple[Rule, ...]
    tree: DecisionTreeClassifier
    columns: np.ndarray
    threshold: float

    def __len__(self) -> int:
        return len(self.rules)

    def __getitem__(self, position: Any) -> Any:
        return self.rules[position]

    def __str__(self) -> str:
        return "\n".join(map(str, self.rules))

    def predict(self, X: Any) -> np.ndarray:
        """Return the class of each row of features, shape (n_items,)."""
        return self.tree.predict(self._fires(X))

    def on(self, X: Any, y: Any) -> Rules:
        """Return the same rules with support and purity on other items, such as held-out ones.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_items, n_features)
            Features with the same columns.
        y : array-like of shape (n_items,)
            Classes.
        """
        leaves, truth = self.tree.apply(self._fires(X)), np.asarray(y)
        measured = []
        for rule in self.rules:
            own = truth[leaves == rule.leaf]
            purity = float(np.mean(own == rule.prediction)) if len(own) else float("nan")
            measured.append(Rule(rule.conditions, rule.prediction, len(own), purity, rule.leaf))
        return Rules(_by_support(measured), self.tree, self.columns, self.threshold)

    def _fires(self, X: Any) -> Any:
        return _binary(X, self.threshold)[:, self.columns]


def decision_rules(
    X: Any,
    y: Any,
    names: Sequence[str] | Mapping[int, str] | None = None,
    *,
    latents: Sequence[int] | np.ndarray | None = None,
    threshold: float = 0.0,
    max_depth: int = 3,
    min_items: int = 5,
    tree: DecisionTreeClassifier | None = None,
) -> Rules:
    """Fit a shallow decision tree on which latents fire, and return it as rules.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_items, n_features)
        Pooled latents; one fires where it is above ``threshold``.
    y : array-like of shape (n_items,)
        Classes.
    names : sequence or mapping, optional
        Labels: one for each column, as ``get_feature_names_out`` gives them, or by latent.  Names
        such as ``latent_12`` are no labels.
    latents : sequence of int, optional
        Number of the latent in each column, where columns were selected; 0, 1, 2 … if not given.
    threshold : float, default=0.0
        Not negative.
    max_depth : int, default=3
        The most conditions in a rule.
    min_items : int, default=5
        The least items that a rule is made of.
    tree : DecisionTreeClassifier, optional
        One with other settings, not fitted, in place of ``max_depth`` and ``min_items``.

    Returns
    -------
    Rules
        Sorted by support, of equal support by their conditions.  Support and purity are those of the
        items given: to know what the rules are worth, see :meth:`Rules.on` with held-out items.

    Raises
    ------
    InvalidInputError
        If lengths differ, or there is one class only.
    InvalidParameterError
        If a parameter cannot be.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.evaluation.rules import decision_rules
    >>> X = np.array([[2.0, 0.0], [1.0, 3.0], [0.5, 0.0], [0.0, 0.1], [0.0, 0.0]])
    >>> y = ["refund", "refund", "refund", "praise", "praise"]
    >>> print(decision_rules(X, y, {0: "money back"}, min_items=1))
    if "money back" (latent 0) fires -> refund (n=3, purity 1.00)
    if "money back" (latent 0) does not fire -> praise (n=2, purity 1.00)
    """
    check_count("max_depth", max_depth)
    check_count("min_items", min_items)
    check_classification_targets(y)
    fires, truth = _binary(X, threshold), np.asarray(y)
    n, width = fires.shape
    if len(truth) != n:
        raise InvalidInputError(f"Got {n} items and {len(truth)} classes; expected one class each.")
    if len(np.unique(truth)) < 2:
        raise InvalidInputError(f"Got y with one class, {truth.tolist()[0]!r}; expected at least two.")
    numbers = np.arange(width) if latents is None else np.asarray(latents)
    if numbers.shape != (width,):
        message = f"Got latents of shape {numbers.shape}; expected ({width},), one for each column."
        raise InvalidParameterError(message)
    labels = _labels(names, numbers)
    counts = np.asarray(fires.sum(axis=0)).ravel()
    columns = np.flatnonzero((counts > 0) & (counts < n))
    if len(columns) == 0:
        raise InvalidInputError("Got no latent that fires for some items and not for others.")
    fitted = (
        DecisionTreeClassifier(max_depth=max_depth, min_samples_leaf=min_items, random_state=0)
        if tree is None
        else clone(tree)
    ).fit(fires[:, columns], truth)
    classes = fitted.classes_.tolist()
    rules = []
    for leaf, path in _leaves(fitted.tree_):
        conditions = [
            Condition(int(numbers[at]), labels.get(int(numbers[at])), is_on)
            for at, is_on in ((columns[column], is_on) for column, is_on in path)
        ]
        conditions.sort(key=lambda condition: not condition.fires)
        prediction = classes[int(fitted.tree_.value[leaf, 0].argmax())]
        rules.append(Rule(tuple(conditions), prediction, 0, float("nan"), leaf))
    return Rules(tuple(rules), fitted, columns, threshold).on(X, truth)


def latent_rules(featurizer: SAEFeaturizer, X: Any, y: Any, **options: Any) -> Rules:
    """Return :func:`decision_rules` of texts or images, with the labels of the SAE.

    Parameters
    ----------
    featurizer : SAEFeaturizer
        What makes rows of them.
    X : sequence of length (n_items,)
        Texts or images.
    y : array-like of shape (n_items,)
        Classes.
    **options
        As :func:`decision_rules` takes them.

    Returns
    -------
    Rules
        ``rules.on(featurizer.transform(held_out), y)`` measures them on other items.

    Examples
    --------
    >>> from sae_features import SAEFeaturizer
    >>> from sae_features.evaluation.rules import latent_rules
    >>> texts = ["a moving film", "a dull film", "moving and wise", "dull and empty"]
    >>> len(latent_rules(SAEFeaturizer(), texts, ["good", "bad", "good", "bad"], min_items=1))
    2
    """
    return decision_rules(featurizer.transform(X), y, latent_labels(featurizer), **options)


def _binary(X: Any, threshold: float) -> Any:
    """Return as CSR float32 which values exceed a threshold."""
    rows: Any = X if sparse.issparse(X) else np.asarray(X)
    return LatentBinarizer(threshold).fit_transform(sparse.csr_array(rows, dtype=np.float32))


def _labels(names: Any, numbers: np.ndarray) -> dict[int, str]:
    """Return labels by latent, of names that are more than a number."""
    if names is None or isinstance(names, Mapping):
        return dict(names or {})
    if len(names) != len(numbers):
        message = f"Got {len(names)} names; expected {len(numbers)}, one for each column."
        raise InvalidParameterError(message)
    labels = {}
    for latent, name in zip(numbers.tolist(), names, strict=True):
        label = str(name).removesuffix(f" (latent_{latent})")
        if label != f"latent_{latent}":
            labels[latent] = label
    return labels


def _leaves(tree: Any) -> Iterator[tuple[int, list[tuple[int, bool]]]]:
    """Yield each leaf and the way to it: columns, and whether they fire."""
    waiting: list[tuple[int, list[tuple[int, bool]]]] = [(0, [])]
    while waiting:
        node, path = waiting.pop()
        if tree.children_left[node] < 0:
            yield node, path
            continue
        column = int(tree.feature[node])
        waiting.append((int(tree.children_left[node]), [*path, (column, False)]))
        waiting.append((int(tree.children_right[node]), [*path, (column, True)]))


def _by_support(rules: list[Rule]) -> tuple[Rule, ...]:
    def key(rule: Rule) -> Any:
        return -rule.n, [(not c.fires, c.latent) for c in rule.conditions]

    return tuple(sorted(rules, key=key))
