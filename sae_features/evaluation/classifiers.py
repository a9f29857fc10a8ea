"""What is learned from features: scaling and classifier, both chosen inside the training part."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.preprocessing import MaxAbsScaler, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from sae_features.errors import InvalidParameterError
from sae_features.parameters import check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.evaluation.methods import Method

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""What ``C`` is chosen from, unless told otherwise."""
SCALINGS = ("max_abs", "standard", "none")
CLASSIFIERS = ("logistic", "linear_svc", "ridge", "tree")
MAX_ITERATIONS = 2000


class Learner(NamedTuple):
    """What is fitted on a training part."""

    steps: list[tuple[str, Any]]
    """Steps of a pipeline, from rows of features (or items) to predictions; none is fitted."""
    grid: dict[str, list[Any]]
    """What is chosen: values by parameter of that pipeline."""


@dataclass(frozen=True)
class Classifier:
    """A classifier with what is chosen of it, the same for all methods.

    Parameters
    ----------
    kind : {"logistic", "linear_svc", "ridge", "tree"}, default="logistic"
    strengths : sequence of float
        Values of ``C`` (of ``1 / alpha`` for ridge; of a tree, which has none, they are not used).
    scalings : sequence of {"max_abs", "standard", "none"}
        ``"max_abs"`` divides by the largest value, ``"standard"`` by the standard deviation (of dense
        rows it takes the mean off, too).

    Examples
    --------
    >>> from sae_features.evaluation.methods import Method
    >>> learner = Classifier().learner(Method("words", "tfidf_word"), n_classes=2)
    >>> [name for name, _ in learner.steps], sorted(learner.grid)
    (['scale', 'classify'], ['classify__C', 'scale'])
    """

    kind: str = "logistic"
    strengths: tuple[float, ...] = STRENGTHS
    scalings: tuple[str, ...] = ("max_abs", "standard")

    def __post_init__(self) -> None:
        """Check the choices."""
        check_choice("classifier", self.kind, CLASSIFIERS)
        for scaling in self.scalings:
            check_choice("scaling", scaling, SCALINGS)
        for name in ("strengths", "scalings"):
            if not getattr(self, name):
                raise InvalidParameterError(f"Got no {name}; expected at least one.")
        if not all(isinstance(value, Real) and 0 < value < float("inf") for value in self.strengths):
            raise InvalidParameterError(f"Got strengths={self.strengths}; expected numbers above 0.")

    def learner(self, method: Method, *, n_classes: int) -> Learner:
        """Return what is fitted on the rows of a method, and what is chosen of it."""
        if method.kind == "chance":
            return Learner([("classify", DummyClassifier(strategy="prior"))], {})
        scalings = self.scalings if method.scalings is None else method.scalings
        if self.kind == "tree":
            scalings = ("none",)
        scalers = [_scaler(name, is_sparse=method.is_sparse) for name in scalings]
        steps = [(name, clone(step)) for name, step in method.steps]
        classifier, grid = self._classifier(n_classes)
        steps += [("scale", scalers[0]), ("classify", classifier)]
        if len(scalers) > 1:
            grid["scale"] = scalers
        return Learner(steps, grid)

    def _classifier(self, n_classes: int) -> tuple[Any, dict[str, list[Any]]]:
        strengths = list(self.strengths)
        if self.kind == "logistic":
            first: Any = LogisticRegression(C=strengths[0], max_iter=MAX_ITERATIONS)
            return first, {"classify__C": strengths}
        if self.kind == "linear_svc":
            machine = LinearSVC(
                C=strengths[0], dual=n_classes < 3, max_iter=MAX_ITERATIONS, random_state=0
            )
            return machine, {"classify__C": strengths}
        if self.kind == "ridge":
            alphas = [1 / strength for strength in strengths]
            return RidgeClassifier(alpha=alphas[0]), {"classify__alpha": alphas}
        depths = [2, 4, 8, 16]
        return DecisionTreeClassifier(max_depth=depths[0], random_state=0), {
            "classify__max_depth": depths
        }


def named_choices(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a search chose as plain values.

    Examples
    --------
    >>> named_choices({"classify__C": 1.0, "scale": MaxAbsScaler()})
    {'C': 1.0, 'scale': 'max_abs'}
    """
    names = {"MaxAbsScaler": "max_abs", "StandardScaler": "standard", "str": "none"}
    return {
        name.split("__")[-1]: names[type(value).__name__] if name == "scale" else value
        for name, value in sorted(chosen.items())
    }


def _scaler(name: str, *, is_sparse: bool) -> Any:
    if name == "none":
        return "passthrough"
    return MaxAbsScaler() if name == "max_abs" else StandardScaler(with_mean=not is_sparse)


def classifiers_of(kinds: Sequence[str], strengths: Sequence[float] | None = None) -> list[Classifier]:
    """Return classifiers by their kinds."""
    chosen = STRENGTHS if strengths is None else tuple(strengths)
    return [Classifier(kind, chosen) for kind in kinds]
