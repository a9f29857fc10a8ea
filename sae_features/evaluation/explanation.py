"""Why a pipeline decided as it did: which latents, on which tokens, pushed towards which class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InputTypeError, InvalidParameterError
from sae_features.evaluation.explanation_html import SHOWN_TOKENS, as_html
from sae_features.evaluation.latent_names import latent_labels, shown_latent, unit_of
from sae_features.evaluation.linear_reading import read_linear
from sae_features.evaluation.located_tokens import TokenValue, locate_tokens, token_values
from sae_features.evaluation.token_shares import token_shares
from sae_features.parameters import check_count

if TYPE_CHECKING:
    from sae_features.evaluation.linear_reading import LinearReading


@dataclass(frozen=True)
class LatentContribution:
    """What one latent adds to a decision.

    Attributes
    ----------
    latent : int
        Its number in the SAE; of an ActivationFeaturizer, the dimension.
    label : str or None
    value : float
        The item's feature; where a step binarizes, 1.
    coefficient : float
        Of the classifier, on the scale of the value.
    contribution : float
        ``coefficient * value``.
    tokens : tuple of TokenValue
        What of the contribution is due to which token, the largest first; they sum to it.
    """

    latent: int
    label: str | None
    value: float
    coefficient: float
    contribution: float
    tokens: tuple[TokenValue, ...]


@dataclass(frozen=True, repr=False)
class Explanation:
    """The decision of a pipeline on one item, as a sum: ``intercept`` and the contributions of latents.

    Printed as text, and shown in notebooks.

    Attributes
    ----------
    item : str, Path, PIL.Image.Image or ndarray
        What was decided on.
    predicted : object
        The class that the pipeline predicts.
    target : object
        The class that the decision is about: positive contributions speak for it.
    other : object
        Of two classes, the one that negative contributions speak for.
    has_two_classes : bool
    decision : float
        The pipeline's own ``decision_function`` for ``target``.
    intercept : float
        What the decision is where no latent is active, centring by scalers included.
    latents : tuple of LatentContribution
        All with a contribution, the largest first.
    tokens : tuple of TokenValue
        All counted tokens in order, and what all latents together contribute there.
    n : int
        How many latents are shown.
    unit : {"latent", "activation"}
        What a column is called.
    """

    item: Any
    predicted: Any
    target: Any
    other: Any
    has_two_classes: bool
    decision: float
    intercept: float
    latents: tuple[LatentContribution, ...]
    tokens: tuple[TokenValue, ...]
    n: int = 10
    unit: str = "latent"

    def towards(self, contribution: float) -> str:
        """Return what a contribution speaks for: ``"for 'spam'"``, ``"against 'sport'"``."""
        if contribution >= 0:
            return f"for {self.target!r}"
        return f"for {self.other!r}" if self.has_two_classes else f"against {self.target!r}"

    def headline(self) -> str:
        """Return the decision in a line."""
        total = sum(latent.contribution for latent in self.latents)
        return (
            f"predicted {self.predicted!r}; decision for {self.target!r} {self.decision:+.4g} = "
            f"intercept {self.intercept:+.4g}, {len(self.latents)} {self.unit}s {total:+.4g}"
        )

    def rest(self) -> str:
        """Return what is not shown, in a line; empty if all is."""
        left = self.latents[self.n :]
        total = sum(latent.contribution for latent in left)
        units = self.unit if len(left) == 1 else f"{self.unit}s"
        return f"{len(left)} more {units}, together {total:+.3g}" if left else ""

    def records(self) -> list[dict[str, Any]]:
        """Return one row for each latent and token, for a data frame.

        Returns
        -------
        list of dict
            ``latent``, ``label``, ``value``, ``coefficient``, ``contribution`` (of the latent),
            ``towards``, ``position``, ``token``, ``patch``, ``box``, ``token_contribution``.
        """
        return [
            {
                "latent": latent.latent,
                "label": latent.label,
                "value": latent.value,
                "coefficient": latent.coefficient,
                "contribution": latent.contribution,
                "towards": self.towards(latent.contribution),
                "position": part.token.position,
                "token": part.token.text,
                "patch": part.token.patch,
                "box": part.token.box,
                "token_contribution": part.value,
            }
            for latent in self.latents
            for part in latent.tokens
        ]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline()}>"

    def __str__(self) -> str:
        lines = [self.headline()]
        for latent in self.latents[: self.n]:
            name = shown_latent(latent.latent, latent.label, self.unit)
            lines.append(
                f"{latent.contribution:+10.3g}  {self.towards(latent.contribution)}: {name}, "
                f"{latent.value:.3g} x {latent.coefficient:+.3g}"
            )
            lines += [f"{part.value:+18.3g}  {part.token}" for part in latent.tokens[:SHOWN_TOKENS]]
            if len(latent.tokens) > SHOWN_TOKENS:
                lines.append(f"{'':20}and {len(latent.tokens) - SHOWN_TOKENS} tokens more")
        return "\n".join([*lines, *filter(None, [self.rest()])])

    def _repr_html_(self) -> str:
        return as_html(self)


def explain(pipeline: Any, x: Any, n: int = 10, *, target: Any = None) -> Explanation:
    """Return which latents, on which tokens, pushed the decision on an item, and for which class.

    A latent contributes its coefficient (on the scale of the featurizer's features) times its value,
    so that contributions and intercept sum to the decision function.  A latent's contribution is due
    to tokens as its value is: with ``pooling="max"`` to the token of the maximum (of equals the first),
    with ``"mean"`` and ``"sum"`` to all tokens in proportion to their values, with ``"first"`` and
    ``"last"`` to that token, with ``"count"`` to each token at which it fires alike.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted: an SAEFeaturizer or ActivationFeaturizer, any selectors, scalers and binarizers, and a
        linear classifier.
    x : str, Path, PIL.Image.Image or ndarray
        One text or image.
    n : int, default=10
        How many latents are shown; all are kept.
    target : optional
        The class to explain the decision for.  Not given: of two classes the second, whose decision
        function scikit-learn gives (above 0 it is predicted); of several the one that is predicted.

    Returns
    -------
    Explanation

    Raises
    ------
    InvalidParameterError
        If a step cannot be read as a part of a weighted sum (the message names it), or there is no
        such class.
    InputTypeError
        If ``x`` is several items, or the pipeline is none.

    Notes
    -----
    A contribution tells what the decision is made of.  It is not what would happen without the token:
    the model would read the other tokens differently then.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sae_features import SAEFeaturizer
    >>> from sae_features.evaluation.explanation import explain
    >>> texts = ["a moving film", "a dull film", "moving and wise", "dull and empty"]
    >>> pipeline = make_pipeline(SAEFeaturizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0])
    >>> why = explain(pipeline, "a moving story")
    >>> total = why.intercept + sum(latent.contribution for latent in why.latents)
    >>> abs(total - why.decision) < 1e-5
    True
    >>> max(why.tokens, key=lambda part: part.value).token.text
    'moving'
    """
    check_count("n", n)
    if isinstance(x, list | tuple):
        raise InputTypeError(
            f"Got a {type(x).__name__} as x; expected one item: explain each by itself."
        )
    reading = read_linear(pipeline)
    parts = reading.parts
    features = parts.featurizer.transform([x])
    columns = parts.columns(features)
    predicted = parts.classifier.predict(columns).tolist()[0]
    classes = reading.classes.tolist()
    has_two = len(classes) == 2
    chosen = target if target is not None else classes[1] if has_two else predicted
    if chosen not in classes:
        expected = ", ".join(map(repr, classes))
        raise InvalidParameterError(f"Got target={target!r}; expected one of the classes {expected}.")
    output = classes.index(chosen)
    sign = -1.0 if has_two and output == 0 else 1.0
    row = 0 if has_two else output
    decision = float(np.asarray(parts.classifier.decision_function(columns)).reshape(1, -1)[0, row])
    latents, tokens = _contributions(reading, x, features, sign * reading.coefficients[row])
    return Explanation(
        item=x,
        predicted=predicted,
        target=chosen,
        other=classes[1 - output] if has_two else None,
        has_two_classes=has_two,
        decision=sign * decision,
        intercept=sign * float(reading.intercepts[row]),
        latents=latents,
        tokens=tokens,
        n=int(n),
        unit=unit_of(parts.featurizer),
    )


def _contributions(
    reading: LinearReading, x: Any, features: Any, coefficients: np.ndarray
) -> tuple[tuple[LatentContribution, ...], tuple[TokenValue, ...]]:
    """Return what each active latent contributes, and all of them together at each token."""
    featurizer = reading.parts.featurizer
    values = reading.values(features)
    values = (values.toarray() if hasattr(values, "toarray") else values).astype(np.float64).ravel()
    contributions = coefficients * values
    active = np.flatnonzero(contributions)
    active = active[np.argsort(-np.abs(contributions[active]), kind="stable")]
    (tokens,) = locate_tokens(featurizer, [x])
    (of_tokens,) = token_values(featurizer, [x])
    of_tokens = of_tokens[:, reading.latents[active]]
    of_tokens = of_tokens.toarray() if hasattr(of_tokens, "toarray") else of_tokens
    shares = token_shares(of_tokens, featurizer.pooling) * contributions[active]
    labels = latent_labels(featurizer)
    found = []
    for column, at in enumerate(active.tolist()):
        own = shares[:, column]
        order = np.argsort(-np.abs(own), kind="stable")
        latent = int(reading.latents[at])
        found.append(
            LatentContribution(
                latent, labels.get(latent), float(values[at]), float(coefficients[at]),
                float(contributions[at]),
                tuple(TokenValue(tokens[t], float(own[t])) for t in order[own[order] != 0].tolist()),
            )
        )  # fmt: skip
    totals = shares.sum(axis=1).tolist()
    return tuple(found), tuple(map(TokenValue, tokens, totals))
