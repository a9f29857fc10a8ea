"""Each latent of one model from a few latents of another: a sparse linear map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import linalg, optimize, sparse

from sae_features.evaluation.maps.columns import compressed
from sae_features.evaluation.maps.correlations import BLOCK_VALUES, strongest

if TYPE_CHECKING:
    from numpy.typing import NDArray

STRENGTHS = 10.0 ** np.arange(-4, 2.5, 0.5)
"""What the strength is chosen from, for columns of mean square 1."""


class FewLatents(NamedTuple):
    """A linear map from rows of B to rows of A, without an intercept."""

    coef: Any
    """Shape (p, q), CSC array, float64: at most ``n_nonzero`` in a column."""
    alpha: np.ndarray
    """Shape (q,), float64: the strength for each latent of A; NaN where it has none of B."""
    is_nonnegative: bool
    """Whether what falls below 0 becomes 0."""

    @property
    def matched(self) -> np.ndarray:
        """Which latents of A have some of B; shape (q,), bool."""
        return np.diff(self.coef.indptr) > 0

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
        rows = sparse.csr_array(sparse.csr_array(X, dtype=np.float64) @ self.coef)
        if self.is_nonnegative:
            rows.data = np.maximum(rows.data, 0.0)
        rows.eliminate_zeros()
        return rows


def fit_few_latents(
    X: Any,
    Y: Any,
    *,
    n_nonzero: int,
    least: float,
    positive: bool = False,
    alpha: float | None = None,
) -> FewLatents:
    """Fit each latent of A by those of B that correlate most with it.

    Of B's latents the ``n_nonzero`` most correlated are taken, in size, or above 0 where coefficients
    must not be negative; their coefficients are those of ridge regression through the origin, so that
    where all of them are silent A's latent is silent, too.  Columns are divided by the root of their
    mean square first, which makes ``alpha`` independent of scale.

    Parameters
    ----------
    X : {ndarray, sparse matrix} of shape (n, p)
        Rows of B.
    Y : {ndarray, sparse matrix} of shape (n, q)
        Rows of A.
    n_nonzero : int
        Latents of B for a latent of A, at most.
    least : float
        Correlation, in size, below which a latent of B is not taken.
    positive : bool, default=False
        Whether coefficients must not be negative: solved by Lawson and Hanson's active sets [1]_.
    alpha : float, optional
        Above 0.  Not given: for each latent of A that of :data:`STRENGTHS` with the least score of
        generalised cross-validation (see :func:`~sae_features.evaluation.maps.ridge.fit_ridge`), without
        regard to signs.  The score does not know that the latents were chosen among many.

    References
    ----------
    .. [1] Lawson and Hanson (1974), Solving Least Squares Problems, chapter 23; `scipy.optimize.nnls`.

    Examples
    --------
    >>> X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    >>> found = fit_few_latents(X, 3 * X[:, :1], n_nonzero=1, least=0.1, alpha=1e-9)
    >>> found.coef.toarray().round(6).tolist()
    [[3.0], [0.0]]
    """
    columns, targets = compressed(X), compressed(Y)
    n, q = targets.shape
    chosen, correlations = strongest(columns, targets, n_nonzero, positive=positive)
    is_taken = (correlations >= least) if positive else (np.abs(correlations) >= least)
    squares = columns.multiply(columns).sum(axis=0) / n
    norms = np.sqrt(np.asarray(squares).ravel())
    coefficients, alphas = np.zeros(chosen.shape), np.full(q, np.nan)
    width = max(1, BLOCK_VALUES // (n * len(chosen)))
    for start in range(0, q, width):
        part = slice(start, min(start + width, q))
        systems = _systems(columns, targets[:, part], chosen[:, part], is_taken[:, part], norms)
        strengths = _chosen(systems) if alpha is None else np.full(part.stop - start, alpha)
        found = _nonnegative(systems, strengths) if positive else _ridge(systems, strengths)
        scales = np.where(is_taken[:, part], norms[chosen[:, part]], np.inf)
        coefficients[:, part] = found.T / scales
        alphas[part] = np.where(is_taken[:, part].any(axis=0), strengths, np.nan)
    # The sum of a column's entries at one latent: those that were not taken are 0.
    of_y = np.broadcast_to(np.arange(q), chosen.shape)
    coef = sparse.csc_array(
        (coefficients.ravel(), (chosen.ravel(), of_y.ravel())), (columns.shape[1], q)
    )
    coef.eliminate_zeros()
    return FewLatents(coef, alphas, bool(targets.data.min(initial=0.0) >= 0))


class _Systems(NamedTuple):
    """Normal equations of some latents of A, over columns of mean square 1; all in means over rows."""

    gram: NDArray[np.float64]  # (w, k, k); zeros where a latent of B is not taken
    products: NDArray[np.float64]  # (w, k)
    total: NDArray[np.float64]  # (w,), mean square of the latent of A
    n: int


def _systems(columns: Any, targets: Any, chosen: Any, is_taken: Any, norms: Any) -> _Systems:
    n, (k, width) = columns.shape[0], chosen.shape
    scales = np.where(is_taken, norms[chosen], np.inf).T  # (w, k); not taken is divided to 0
    gathered = columns[:, chosen.T.ravel()].toarray().reshape(n, width, k)
    gathered = np.ascontiguousarray(gathered.transpose(1, 2, 0)) / scales[:, :, None]
    wanted = targets.toarray().T
    gram = gathered @ gathered.transpose(0, 2, 1) / n
    products = (gathered @ wanted[:, :, None])[:, :, 0] / n
    return _Systems(gram, products, (wanted**2).mean(axis=1), n)


def _chosen(systems: _Systems) -> NDArray[np.float64]:
    """Return for each latent of A the strength with the least score, of equals the largest; (w,)."""
    eigenvalues, vectors = np.linalg.eigh(systems.gram)
    eigenvalues = np.maximum(eigenvalues, 0.0)
    scores = (vectors.transpose(0, 2, 1) @ systems.products[:, :, None])[:, :, 0] ** 2
    best = np.full(len(eigenvalues), np.inf)
    strengths = np.full(len(eigenvalues), STRENGTHS[-1])
    for alpha in STRENGTHS[::-1]:
        damped = eigenvalues + alpha
        residual = systems.total - (scores * (damped + alpha) / damped**2).sum(axis=1)
        left_over = 1 - (eigenvalues / damped).sum(axis=1) / systems.n
        score = np.where(left_over > 0, np.maximum(residual, 0.0) / left_over**2, np.inf)
        strengths = np.where(score < best, alpha, strengths)
        best = np.minimum(score, best)
    return strengths


def _ridge(systems: _Systems, strengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients, (w, k)."""
    ridge = strengths[:, None, None] * np.eye(systems.gram.shape[1])
    found: Any = np.linalg.solve(systems.gram + ridge, systems.products[:, :, None])
    return found[:, :, 0]


def _nonnegative(systems: _Systems, strengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the coefficients under the constraint that none is negative, (w, k)."""
    ridge = strengths[:, None, None] * np.eye(systems.gram.shape[1])
    found = np.zeros_like(systems.products)
    for i, (gram, products) in enumerate(zip(systems.gram + ridge, systems.products, strict=True)):
        lower = linalg.cholesky(gram, lower=True)
        found[i] = optimize.nnls(lower.T, linalg.solve_triangular(lower, products, lower=True))[0]
    return found
