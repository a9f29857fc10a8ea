"""Latents across languages: which a classifier uses in both, and which fire in one language alone."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from sklearn.utils.sparsefuncs import mean_variance_axis

from sae_features.errors import InvalidInputError, InvalidParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sklearn.pipeline import Pipeline

ROUNDING = 1e-9
"""What an effect is at least of the largest one, to be more than rounding."""


def top_latents(pipeline: Pipeline, X: Any, n: int) -> list[int]:
    """Return the latents that move the decisions of a linear classifier most.

    The measure is the standard deviation, over rows, of a latent's contribution: its coefficient times
    its scaled value; of several classes the largest.

    Parameters
    ----------
    pipeline : Pipeline
        Scaling and linear classifier, fitted.
    X : sparse or dense rows
        As the pipeline takes them.
    n : int
        How many; fewer where fewer have any effect.

    Returns
    -------
    list of int
        The strongest first; empty where the classifier has no coefficients.
    """
    coefficients = getattr(pipeline[-1], "coef_", None)
    if coefficients is None:
        return []
    scaled: Any = pipeline[:-1].transform(X).astype(np.float64)
    is_sparse = bool(sp.issparse(scaled))
    if is_sparse:
        _, variance = mean_variance_axis(scaled.tocsr(), axis=0)
    else:
        variance = scaled.var(axis=0)
    effect = np.abs(coefficients).max(axis=0) * np.sqrt(variance)
    order = np.argsort(-effect, kind="stable")[:n]
    return [int(latent) for latent in order if effect[latent] > ROUNDING * effect.max()]


class Overlap(NamedTuple):
    """How many of the latents that matter in one language matter in another."""

    train_on: str
    """One language."""
    other: str
    """The other one."""
    method: str
    """By which features."""
    k: int
    """Latents compared of each."""
    jaccard: float
    """Shared latents over all of both; mean over folds and classifiers."""
    by_chance: float
    """What two random sets of so many latents would share."""


def latent_overlap(rows: Sequence[Mapping[str, Any]], k: int = 20) -> list[Overlap]:
    """Return the overlap of the top-k latents of classifiers that were trained in two languages.

    Parameters
    ----------
    rows : sequence of mapping
        Results of :class:`~sae_features.evaluation.transfer.CrossLingualTransfer`.
    k : int
        At most as many as results hold (50).

    Returns
    -------
    list of Overlap
        One for each method and pair of languages.

    Raises
    ------
    InvalidInputError
        If no row has latents.

    Examples
    --------
    >>> row = {"setting": "in_language", "control": "none", "method": "sae", "width": 100}
    >>> row |= {"seed": 0, "fold": 0}
    >>> rows = [row | {"train_on": "en", "chosen": {"top_latents": [1, 2]}}]
    >>> rows += [row | {"train_on": "de", "chosen": {"top_latents": [2, 3]}}]
    >>> latent_overlap(rows, k=2)[0].jaccard
    0.3333333333333333
    """
    tops: dict[tuple[Any, ...], dict[str, list[int]]] = defaultdict(dict)
    widths: dict[str, int] = {}
    for row in rows:
        found = (row.get("chosen") or {}).get("top_latents")
        if found and row["setting"] == "in_language" and row["control"] == "none":
            fold = tuple(row.get(name) for name in ("method", "classifier", "seed", "fold"))
            tops[fold][row["train_on"]] = found[:k]
            widths[row["method"]] = row["width"]
    if not tops:
        raise InvalidInputError(
            "Got no rows with latents; expected results of a cross-lingual transfer."
        )
    shares: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for (method, *_), by_language in tops.items():
        for one, other in itertools.combinations(by_language, 2):
            a, b = set(by_language[one]), set(by_language[other])
            by_chance = len(a) * len(b) / widths[method]  # expected to be shared
            chance = by_chance / (len(a) + len(b) - by_chance)
            shares[method, one, other].append((len(a & b) / len(a | b), chance))
    return [
        Overlap(one, other, method, k, *(float(value) for value in np.mean(values, axis=0)))
        for (method, one, other), values in shares.items()
    ]


class LanguageBound(NamedTuple):
    """In which languages each latent fires."""

    shares: np.ndarray
    """Share of the items of each language in which a latent fires, (n_languages, n_latents), float64."""
    bound: np.ndarray
    """0 where it fires equally often in all languages, 1 where in one alone, NaN where in too few items;
    (n_latents,), float64."""
    language: np.ndarray
    """Number of the language in which it fires most often, int64."""


def language_bound(
    X: Any, languages: Sequence[str] | np.ndarray, *, min_items: int = 10
) -> LanguageBound:
    """Return in which languages latents fire: a latent that fires in one alone cannot transfer.

    Parameters
    ----------
    X : CSR matrix of shape (n_items, n_latents)
        Rows of latents.
    languages : sequence of str, of length n_items
        Language of each item; numbers are by order of name.
    min_items : int, default=10
        Items that a latent must fire in, for anything to be said of it.

    Returns
    -------
    LanguageBound
        ``bound`` is ``(max / sum - 1 / n) / (1 - 1 / n)`` of the shares of ``n`` languages.

    Examples
    --------
    >>> X = sp.csr_matrix([[1.0, 1.0], [1.0, 0.0]])
    >>> language_bound(X, ["de", "en"], min_items=1).bound.tolist()
    [0.0, 1.0]
    """
    names = sorted(set(languages))
    if len(names) < 2:
        raise InvalidParameterError(f"Got items of {len(names)} language; expected at least two.")
    fires = sp.csr_matrix(X).astype(bool)
    language = np.asarray(languages)
    if len(language) != fires.shape[0]:
        raise InvalidInputError(
            f"Got {len(language)} languages for {fires.shape[0]} rows; expected one each."
        )
    shares = np.stack([np.asarray(fires[language == name].mean(axis=0)).ravel() for name in names])
    total = shares.sum(axis=0)
    enough = np.asarray(fires.sum(axis=0)).ravel() >= max(1, min_items)
    bound = np.full(fires.shape[1], np.nan)
    even = 1 / len(names)
    bound[enough] = (shares.max(axis=0)[enough] / total[enough] - even) / (1 - even)
    return LanguageBound(shares, bound, shares.argmax(axis=0))
