"""Latents of one model matched to latents of another by correlation, and brought to their scale."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from sae_features.evaluation.maps.columns import Firing
from sae_features.evaluation.maps.correlations import correlated_pairs, strongest

UNMATCHED = -1


class Matching(NamedTuple):
    """A latent of B, or none, for each latent of A."""

    sources: np.ndarray
    """Shape (q,), int64: the latent of B, or -1."""
    correlations: np.ndarray
    """Shape (q,), float64: with that latent, in the rows that it was found by; 0 where there is none."""
    slopes: np.ndarray
    """Shape (q,), float64: what a value is multiplied by where it is not 0."""
    offsets: np.ndarray
    """Shape (q,), float64: what is then added."""
    bounds: np.ndarray
    """Shape (2, q), float64: the least and the largest that A's latent showed where it fired."""
    n_features_in: int
    """Number of latents of B."""

    @property
    def matched(self) -> np.ndarray:
        """Which latents of A have one of B; shape (q,), bool."""
        return self.sources != UNMATCHED

    def apply(self, X: Any) -> Any:
        """Return the rows of B as rows of A.

        Parameters
        ----------
        X : {ndarray, sparse matrix} of shape (n, p)
            Rows of B.

        Returns
        -------
        csr_array of shape (n, q), float64
            Without stored zeros.
        """
        targets = np.flatnonzero(self.matched)
        ones = (np.ones(len(targets)), (self.sources[targets], targets))
        selection = sparse.csc_array(ones, shape=(self.n_features_in, len(self.sources)))
        rows = sparse.csr_array(sparse.csr_array(X, dtype=np.float64) @ selection)
        rows.eliminate_zeros()
        values = rows.data * self.slopes[rows.indices] + self.offsets[rows.indices]
        rows.data = np.clip(values, *self.bounds[:, rows.indices])
        rows.eliminate_zeros()
        return rows


def match_latents(X: Any, Y: Any, *, least: float, one_to_one: bool) -> Matching:
    """Match each latent of A to a latent of B that correlates with it.

    What fires is brought to A's scale: a value ``x`` of B becomes ``m_A + (x − m_B) · s_A / s_B``, with
    means ``m`` and standard deviations ``s`` of what is not 0; where a latent fires in one row only, or
    always equally, ``x · m_A / m_B``.  What results stays within what A's latent showed where it fired.

    Parameters
    ----------
    X : {ndarray, sparse matrix} of shape (n, p)
        Rows of B.
    Y : {ndarray, sparse matrix} of shape (n, q)
        Rows of A, of the same items.
    least : float
        Correlation below which two latents are not matched; above 0.
    one_to_one : bool
        Whether a latent of B stands for one latent of A at most, so that the sum of correlations is
        largest; or else each takes its best, which several may share.

    Notes
    -----
    The assignment is scipy's for sparse graphs (Jonker-Volgenant), over pairs that reach ``least``, with
    the choice of none for each latent of A; it is that of `scipy.optimize.linear_sum_assignment` on the
    full matrix with zeros elsewhere, which takes memory for all pairs.

    Examples
    --------
    >>> Y = np.array([[0.0, 1.0], [2.0, 0.0], [4.0, 0.0]])
    >>> X = np.array([[5.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> matching = match_latents(X, Y, least=0.2, one_to_one=False)
    >>> matching.sources.tolist()
    [1, 0]
    >>> matching.apply(X).toarray().tolist()
    [[0.0, 1.0], [2.0, 0.0], [4.0, 0.0]]
    """
    if one_to_one:
        sources, correlations = _assigned(correlated_pairs(X, Y, least))
    else:
        indices, values = strongest(X, Y, 1, positive=True)
        is_matched = values[0] >= least
        sources = np.where(is_matched, indices[0], UNMATCHED)
        correlations = np.where(is_matched, values[0], 0.0)
    of_y = Firing.of(Y)
    slopes, offsets = _scales(Firing.of(X), of_y, sources)
    bounds = np.stack([of_y.least, of_y.largest])
    return Matching(sources, correlations, slopes, offsets, bounds, X.shape[1])


def _assigned(pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return for each row a column of its own, or none, and their values; of the largest sum."""
    q, p = pairs.shape
    of_y, of_x = pairs.nonzero()
    # A full matching always exists, since each row may take a column that is none, of value 0. Costs
    # must not be 0; all are shifted by 2, which changes no comparison of full matchings.
    costs = np.concatenate([2 - pairs.data, np.full(q, 2.0)])
    rows, columns = np.concatenate([of_y, np.arange(q)]), np.concatenate([of_x, p + np.arange(q)])
    graph = sparse.csr_array((costs, (rows, columns)), shape=(q, p + q))
    matched_rows, matched_columns = min_weight_full_bipartite_matching(graph)
    sources = np.full(q, UNMATCHED)
    sources[matched_rows] = np.where(matched_columns < p, matched_columns, UNMATCHED)
    correlations = np.zeros(q)
    found = np.flatnonzero(sources != UNMATCHED)
    correlations[found] = np.asarray(pairs[found, sources[found]]).ravel()
    return sources, correlations


def _scales(of_x: Firing, of_y: Firing, sources: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes and offsets that bring values of B to A's scale; zeros where there is no match."""
    taken = Firing(*(array[sources] for array in of_x))
    has_spread = (taken.deviations > 0) & (of_y.deviations > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_spread = of_y.deviations / taken.deviations
        by_mean = of_y.means / taken.means
    slopes = np.where(has_spread, by_spread, by_mean)
    slopes = np.where((sources != UNMATCHED) & np.isfinite(slopes), slopes, 0.0)
    offsets = np.where(has_spread, of_y.means - slopes * taken.means, 0.0)
    return slopes, np.where(sources != UNMATCHED, offsets, 0.0)
