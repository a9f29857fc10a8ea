"""Ridge regression to many targets at once, its strength chosen by generalised cross-validation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse

from sae_features.evaluation.maps.columns import Columns, dense, is_sparse

STRENGTHS = 10.0 ** np.arange(-4, 4.5, 0.5)
"""What the strength is chosen from, in units of the mean eigenvalue of the rows' scatter."""


class RidgeMap(NamedTuple):
    """An affine map from rows of B to rows of A."""

    left: np.ndarray
    """Shape (p, r), float64; or the coefficients themselves, (p, q), where they are smaller."""
    right: np.ndarray | None
    """Shape (r, q), float64: the coefficients are ``left @ right``."""
    intercept: np.ndarray
    """Shape (q,), float64."""
    alpha: float
    """Strength, in units of the mean eigenvalue."""

    @property
    def coef(self) -> np.ndarray:
        """The coefficients, shape (p, q), float64."""
        return self.left if self.right is None else self.left @ self.right

    @property
    def matched(self) -> np.ndarray:
        """Which features of A are more than a constant; shape (q,), bool."""
        factor = self.left if self.right is None else self.right
        return np.asarray((factor != 0).any(axis=0))

    def apply(self, X: Any) -> np.ndarray:
        """Return the rows of B as rows of A.

        Parameters
        ----------
        X : {ndarray, sparse matrix} of shape (n, p)
            Rows of B.

        Returns
        -------
        ndarray of shape (n, q), float64
        """
        rows = X.astype(np.float64) @ self.left
        if self.right is not None:
            rows = rows @ self.right
        return rows + self.intercept


def fit_ridge(X: Any, Y: Any, alpha: float | None = None) -> RidgeMap:
    """Fit all columns of Y by those of X, with an intercept that is not penalised.

    What is minimised: ``‖Y − XW − b‖² + alpha · m · ‖W‖²``, with ``m`` the mean of those eigenvalues of
    ``XᵀX`` (of centred rows) that are not 0, so that ``alpha`` depends neither on the scale of X nor on
    how many rows there are.  The equations are solved by the eigenvalues of ``XᵀX``, or of ``XXᵀ`` where
    there are fewer rows than columns: time grows with the cube of the lesser of the two.

    Parameters
    ----------
    X : {ndarray, sparse matrix} of shape (n, p)
        Rows of B; sparse ones are not made dense.
    Y : {ndarray, sparse matrix} of shape (n, q)
        Rows of A.
    alpha : float, optional
        Above 0.  Not given: that of :data:`STRENGTHS` with the least ``n · RSS / (n − df)²``, which is
        generalised cross-validation [1]_ with ``df = 1 + Σ s / (s + alpha · m)``.  ``RSS`` is the sum of
        squared residuals of all columns of Y, each divided by its variance: a few loud ones do not
        decide alone.

    References
    ----------
    .. [1] Golub, Heath and Wahba (1979), "Generalized cross-validation as a method for choosing a good
       ridge parameter", Technometrics 21(2), 215-223.

    Examples
    --------
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> found = fit_ridge(X, 2 * X + 1, alpha=1.0)
    >>> found.coef.round(3).tolist(), found.intercept.round(3).tolist()
    ([[1.0]], [2.5])
    """
    rows, mean, shift, _ = Columns.of(X)
    n, p = rows.shape
    Y = sparse.csr_array(Y, dtype=np.float64) if is_sparse(Y) else np.asarray(Y, np.float64)
    target_mean = np.asarray(Y.mean(axis=0)).ravel()
    # Sparse rows are not centred; what the shift adds to products is taken off.
    if n < p:
        eigenvalues, U = _positive(_outer_gram(rows, shift))
        root = np.sqrt(eigenvalues)
        left = (rows.T @ U - np.outer(shift, U.sum(axis=0))) / root
        scores = (Y.T @ U).T - np.outer(U.sum(axis=0), target_mean)
    else:
        eigenvalues, left = _positive(dense(rows.T @ rows) - n * np.outer(shift, shift))
        root = np.sqrt(eigenvalues)
        products = dense(rows.T @ Y) - n * np.outer(shift, target_mean)
        scores = left.T @ products / root[:, None]
    norms = Columns.of(Y).norms
    scores[:, norms == 0] = 0.0  # but for rounding
    scale = float(eigenvalues.mean()) if len(eigenvalues) else 1.0
    if alpha is None:
        alpha = _chosen(eigenvalues / scale, scores, norms, n)
    right = scores * (root / (eigenvalues + alpha * scale))[:, None]
    intercept = target_mean - (mean @ left) @ right
    if left.size + right.size < p * right.shape[1]:
        return RidgeMap(left, right, intercept, alpha)
    return RidgeMap(left @ right, None, intercept, alpha)


def _outer_gram(rows: Any, shift: np.ndarray) -> np.ndarray:
    """Return the products of centred rows with each other, (n, n)."""
    along = rows @ shift
    gram: np.ndarray = dense(rows @ rows.T) - along[:, None] - along + shift @ shift
    return gram


def _positive(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues that are not rounding, and their vectors as columns."""
    eigenvalues, vectors = linalg.eigh(gram, driver="evd")
    least = len(gram) * np.finfo(np.float64).eps * max(float(eigenvalues[-1]), 0.0)
    kept = eigenvalues > least
    return eigenvalues[kept], vectors[:, kept]


def _chosen(eigenvalues: np.ndarray, scores: np.ndarray, norms: np.ndarray, n: int) -> float:
    """Return the strength with the least generalised cross-validation score, of equals the largest.

    Parameters
    ----------
    eigenvalues : ndarray of shape (r,)
        In units of their mean.
    scores : ndarray of shape (r, q)
        Centred targets along the principal directions of the rows.
    norms : ndarray of shape (q,)
        Norms of the centred targets.
    n : int
        Number of rows.
    """
    varies = norms > 0
    squares = ((scores[:, varies] / norms[varies]) ** 2).sum(axis=1)
    outside = max(int(varies.sum()) - float(squares.sum()), 0.0)
    best, strength = np.inf, float(STRENGTHS[-1])
    for alpha in STRENGTHS[::-1]:
        shrunk = alpha / (eigenvalues + alpha)
        residual = float((shrunk**2 * squares).sum()) + outside
        left_over = n - 1 - float((1 - shrunk).sum())
        score = n * residual / left_over**2 if left_over > 0 else np.inf
        if score < best:
            best, strength = score, float(alpha)
    return strength
