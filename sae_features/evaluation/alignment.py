"""`LatentAligner`: rows of one model's features as rows of another's, learned from unlabelled items."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from sae_features.errors import (
    DigestMismatchError,
    InvalidInputError,
    InvalidParameterError,
)
from sae_features.evaluation.maps.columns import Columns, configured, is_sparse
from sae_features.evaluation.maps.few_latents import fit_few_latents
from sae_features.evaluation.maps.matching import match_latents
from sae_features.evaluation.maps.paired import Paired, pair_up, shared_offsets
from sae_features.evaluation.maps.ridge import fit_ridge
from sae_features.evaluation.maps.through_sae import Reading, TargetSAE
from sae_features.parameters import POOLINGS, check_choice, check_count, check_device
from sae_features.ragged import TokenActivations

if TYPE_CHECKING:
    from pathlib import Path

METHODS = ("correlation", "least_squares", "sparse")
LEAST_ITEMS = 2
"""Without two, nothing varies."""
_FLOATS = (np.float64, np.float32)


class LatentAligner(TransformerMixin, BaseEstimator):
    """Turn rows of model B into rows of model A.

    It learns from rows of both models for the same items, which need no labels.  What was fitted on
    rows of A, such as a classifier, can then be applied to rows of B
    (:func:`~sae_features.evaluation.moved_probe.move_probe`).

    Parameters
    ----------
    method : {"correlation", "least_squares", "sparse"}, default="correlation"
        How a feature of A is made of features of B.

        - ``"correlation"``: it is that latent of B which correlates most with it over the items [1]_,
          brought to the scale of A (see :func:`~sae_features.evaluation.maps.matching.match_latents`).
        - ``"least_squares"``: an affine function of all features of B, by ridge regression [2]_.
        - ``"sparse"``: a sum of the `n_nonzero` latents of B that correlate most with it, by ridge
          regression through the origin.
    one_to_one : bool, default=False
        For ``"correlation"``: whether a latent of B stands for one of A at most, in the assignment with
        the largest sum of correlations.
    min_correlation : float, default=0.2
        For ``"correlation"`` and ``"sparse"``: pairs of latents below it are not used; above 0 and at
        most 1.  A latent of A without a partner is 0 everywhere.  With `n` items and 4,096 latents of B,
        the best of unrelated ones is expected near ``4 / sqrt(n)``, and higher where they fire rarely.
    n_nonzero : int, default=8
        For ``"sparse"``: latents of B for each of A, at most.
    positive : bool, default=False
        For ``"sparse"``: whether coefficients must not be negative.
    alpha : float or None, default=None
        For ``"least_squares"`` and ``"sparse"``: strength of the ridge penalty, above 0, on a scale that
        depends neither on units nor on the number of items.  If ``None``, chosen in `fit` by generalised
        cross-validation, for ``"sparse"`` for each latent of A.
    sae : str, Path or None, default=None
        For ``"least_squares"`` only: the SAE of A, as :class:`~sae_features.SAEFeaturizer` takes it.
        Y then holds activations of A, to which the features of B (best its activations) are mapped;
        `transform` gives what the SAE reads in them.  See Notes.
    pooling : {"max", "mean", "sum", "last", "first", "count"}, default="max"
        With `sae` and activations of tokens: how the latents of an item's tokens become one row.
    holdout : float, default=0.2
        Share of the items on which `correlations_` is measured, by a map fitted on the others; 0 leaves
        it out and halves the time.  `transform` uses a map that was fitted on all of them.
    random_state : int, RandomState or None, default=0
        Which items are held out.
    device : str or None, default=None
        Where the SAE computes; a GPU if there is one.

    Attributes
    ----------
    correlations_ : ndarray of shape (n_features_out_,), float64
        For each feature of A the correlation of what is aligned with what is true, on items held out.
        0 where it is not matched; NaN where A's does not vary on them, or nothing was held out.
    matched_ : ndarray of shape (n_features_out_,), bool
        Which features of A are made of some of B, and are not always the same.
    share_matched_ : float
        Share of those among the features of A that vary over the items.
    alpha_ : float, ndarray of shape (n_features_out_,) or None
        Strength of the penalty, NaN for latents of A without a partner; None for ``"correlation"``.
    map_ : Matching, RidgeMap or FewLatents
        What was learned, with its coefficients (:mod:`sae_features.evaluation.maps`).
    sae_digest_ : str or None
        SHA-256 of the SAE, if there is one. `transform` refuses another.
    n_features_in_, n_features_out_ : int
        Features of B, features of A.
    feature_names_in_ : ndarray of shape (n_features_in_,), object
        Names of the columns of X, where all of them are strings.

    See Also
    --------
    sklearn.cross_decomposition.CCA : Directions of both models that correlate most.

    Notes
    -----
    ``"least_squares"`` gives dense rows, the other two, and an SAE, CSR: float32 in either case.  All is
    computed in float64; correlations and regressions run over blocks, and sparse rows stay sparse.

    Regression gives the mean of what it cannot predict: rows that ``"least_squares"`` aligns vary less
    than A's, and the threshold of a classifier may need another place.

    With `sae`, tokens are the better units, since SAEs are trained on them: X and Y may be
    :class:`~sae_features.ragged.TokenActivations` of the same texts, if the tokenizers of both models
    agree in the number of tokens.  Where they do not, give pooled activations, one row per item.  The
    SAE then reads means over tokens, on which it was not trained, and finds as many latents in an item
    as in one token: an approximation of what it finds token by token.  Fit A's classifier on such rows,
    too: :meth:`encode` makes them of A's activations.

    References
    ----------
    .. [1] Li et al., "Convergent learning: do different neural networks learn the same
       representations?", arXiv 1511.07543.
    .. [2] Lenc and Vedaldi, "Understanding image representations by measuring their equivariance and
       equivalence", arXiv 1411.5908: stitching by an affine map.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features.evaluation.alignment import LatentAligner
    >>> rng = np.random.default_rng(0)
    >>> of_b = rng.exponential(size=(200, 5)) * (rng.random((200, 5)) < 0.4)
    >>> of_a = 3 * of_b[:, [4, 0, 2]]  # three of its latents, in another order and unit
    >>> aligner = LatentAligner().fit(of_b, of_a)
    >>> aligner.map_.sources.tolist(), aligner.share_matched_
    ([4, 0, 2], 1.0)
    >>> bool(np.allclose(aligner.transform(of_b).toarray(), of_a))
    True
    """

    def __init__(
        self,
        method: str = "correlation",
        *,
        one_to_one: bool = False,
        min_correlation: float = 0.2,
        n_nonzero: int = 8,
        positive: bool = False,
        alpha: float | None = None,
        sae: str | Path | None = None,
        pooling: str = "max",
        holdout: float = 0.2,
        random_state: int | np.random.RandomState | None = 0,
        device: str | None = None,
    ) -> None:
        self.method = method
        self.one_to_one = one_to_one
        self.min_correlation = min_correlation
        self.n_nonzero = n_nonzero
        self.positive = positive
        self.alpha = alpha
        self.sae = sae
        self.pooling = pooling
        self.holdout = holdout
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, Y: Any) -> LatentAligner:
        """Learn how features of A are made of features of B.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_items, n_features_in), or TokenActivations
            Rows of B.
        Y : {array-like, sparse matrix} of shape (n_items, n_features_a), or TokenActivations
            Rows of A, of the same items in the same order; with `sae`, activations that it takes.

        Returns
        -------
        LatentAligner
            The fitted estimator itself.

        Raises
        ------
        InvalidParameterError
            If a parameter has a value that it cannot have, or the SAE takes other activations.
        InvalidInputError, InputTypeError
            If X and Y are not of the same items, or of tokens that do not agree.
        """
        self._check_parameters()
        rows = self._paired(X, Y)
        self._d_target = rows.Y.shape[1]
        reading = self._reading(found_before=False)
        self.sae_digest_ = None if reading.sae is None else reading.sae.digest
        self.n_features_out_ = self._d_target if reading.sae is None else reading.sae.n_latents
        self._names_out = _string_columns(Y) if reading.sae is None else None
        self.correlations_ = self._held_out_correlations(reading, rows)
        self.map_ = self._fitted(rows)
        self.alpha_ = getattr(self.map_, "alpha", None)
        varies = Columns.of(reading.truth(rows)).norms > 0
        self.matched_ = self.map_.matched
        if reading.sae is not None:
            self.matched_ = Columns.of(reading.aligned(self.map_, rows)).norms > 0
        self.share_matched_ = float(self.matched_[varies].mean()) if varies.any() else 0.0
        return self

    def transform(self, X: Any) -> Any:
        """Return rows of B as rows of A.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_items, n_features_in), or TokenActivations
            Rows of B; token activations with `sae` only.

        Returns
        -------
        {ndarray, CSR matrix or array} of shape (n_items, n_features_out), float32
            Dense for ``"least_squares"`` without an SAE; or else CSR with int32 indices and without
            stored zeros, a matrix or an array as scikit-learn's ``sparse_interface`` says.

        Raises
        ------
        DigestMismatchError
            If the SAE is not the one that `fit` found.
        """
        check_is_fitted(self, "map_")
        is_tokens = isinstance(X, TokenActivations)
        if is_tokens:
            self._check_tokens()
        rows = self._validated(X.values if is_tokens else X, reset=False)
        offsets = X.offsets if is_tokens else None
        aligned = self._reading().aligned(self.map_, Paired(rows, None, offsets))
        if is_sparse(aligned):
            return configured(aligned)
        return aligned.astype(np.float32)

    def encode(self, Y: Any) -> Any:
        """Return what `transform` would give if it mapped to A's activations without an error.

        With `sae`, these are the rows that a classifier of A has to be fitted on.

        Parameters
        ----------
        Y : {array-like, sparse matrix} of shape (n_items, n_features_a), or TokenActivations
            Activations of A.

        Returns
        -------
        CSR matrix or array of shape (n_items, n_features_out), float32

        Raises
        ------
        InvalidParameterError
            If there is no SAE: rows of A are then what they are.
        DigestMismatchError
            If the SAE is not the one that `fit` found.
        """
        check_is_fitted(self, "map_")
        if self.sae is None:
            raise InvalidParameterError(
                "Got sae=None; expected an SAE, by which activations are encoded."
            )
        is_tokens = isinstance(Y, TokenActivations)
        rows = self._validated_target(Y.values if is_tokens else Y)
        if rows.shape[1] != self._d_target:
            message = f"Got Y with {rows.shape[1]} columns; expected {self._d_target}, as in fit."
            raise InvalidInputError(message)
        offsets = Y.offsets if is_tokens else None
        return configured(self._reading().truth(Paired(None, rows, offsets)))

    def score(self, X: Any, y: Any) -> float:
        """Return the mean correlation of aligned features with true ones.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_items, n_features_in), or TokenActivations
            Rows of B, best of items that were not fitted on.
        y : {array-like, sparse matrix} of shape (n_items, n_features_a), or TokenActivations
            Rows of A, of the same items; what is called Y in :meth:`fit`.

        Returns
        -------
        float
            Over those features of A that vary, one that is not matched counting 0; NaN if none varies.
        """
        check_is_fitted(self, "map_")
        found = self._reading().correlations(self.map_, self._paired(X, y, reset=False))
        varies = ~np.isnan(found)
        return float(found[varies].mean()) if varies.any() else math.nan

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of A's features: those of the columns of Y, or else ``latent_0 …``.

        Parameters
        ----------
        input_features : array-like of str, optional
            Must be the names seen in `fit`, where there were any.

        Returns
        -------
        ndarray of shape (n_features_out_,), object
        """
        check_is_fitted(self, "map_")
        seen = getattr(self, "feature_names_in_", None)
        if input_features is not None and seen is not None and list(input_features) != list(seen):
            raise InvalidInputError("input_features is not equal to feature_names_in_")
        names = self._names_out or [f"latent_{i}" for i in range(self.n_features_out_)]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _fitted(self, rows: Paired) -> Any:
        """Return a map that was fitted on rows."""
        if self.method == "correlation":
            return match_latents(rows.X, rows.Y, least=self.min_correlation, one_to_one=self.one_to_one)
        if self.method == "least_squares":
            return fit_ridge(rows.X, rows.Y, self.alpha)
        return fit_few_latents(
            rows.X,
            rows.Y,
            n_nonzero=self.n_nonzero,
            least=self.min_correlation,
            positive=self.positive,
            alpha=self.alpha,
        )

    def _held_out_correlations(self, reading: Reading, rows: Paired) -> np.ndarray:
        n = rows.n_items
        n_held = math.ceil(self.holdout * n) if self.holdout else 0
        if n_held < LEAST_ITEMS or n - n_held < LEAST_ITEMS:
            return np.full(self.n_features_out_, np.nan)
        order = check_random_state(self.random_state).permutation(n)
        learned = self._fitted(rows.take(np.sort(order[n_held:])))
        return reading.correlations(learned, rows.take(np.sort(order[:n_held])))

    def _reading(self, *, found_before: bool = True) -> Reading:
        """Return how rows of A come about: by the SAE that `fit` found, or as they are mapped."""
        found = None if self.sae is None else TargetSAE.find(self.sae, self._d_target, self.device)
        digest = None if found is None else found.digest
        if found_before and digest != self.sae_digest_:
            message = (
                f"This aligner was fitted with sae_digest_={self.sae_digest_!r}, but sae={self.sae!r} "
                f"has {digest!r}; fit it again, or bring the files back."
            )
            raise DigestMismatchError(message)
        return Reading(found, self.pooling)

    def _paired(self, X: Any, Y: Any, *, reset: bool = True) -> Paired:
        offsets = shared_offsets(X, Y)
        if offsets is not None:
            self._check_tokens()
            X, Y = X.values, Y.values
        return pair_up(self._validated(X, reset=reset), self._validated_target(Y), offsets)

    def _validated(self, X: Any, *, reset: bool) -> Any:
        least = LEAST_ITEMS if reset else 1
        return validate_data(
            self, X, accept_sparse="csr", dtype=_FLOATS, reset=reset, ensure_min_samples=least
        )

    def _validated_target(self, Y: Any) -> Any:
        checked = check_array(Y, accept_sparse="csr", dtype=_FLOATS, ensure_2d=False, input_name="Y")
        return checked.reshape(-1, 1) if checked.ndim == 1 else checked

    def _check_tokens(self) -> None:
        if self.sae is None:
            message = (
                "Got token activations and sae=None; expected rows of items, or an SAE of model A that "
                "reads tokens."
            )
            raise InvalidParameterError(message)

    def _check_parameters(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("pooling", self.pooling, POOLINGS)
        check_count("n_nonzero", self.n_nonzero)
        check_device(self.device)
        _check_number("min_correlation", self.min_correlation, "above 0 and at most 1", 0, 1)
        if self.alpha is not None:
            _check_number("alpha", self.alpha, "above 0, or None", 0, math.inf)
        if self.n_nonzero is None:
            raise InvalidParameterError("Got n_nonzero=None; expected an integer above 0.")
        if self.holdout != 0:
            _check_number("holdout", self.holdout, "from 0 to 0.9", 0, 0.9)
        if self.sae is not None and self.method != "least_squares":
            message = (
                f"Got sae={str(self.sae)!r} with method={self.method!r}; an SAE reads activations, to "
                "which method='least_squares' maps."
            )
            raise InvalidParameterError(message)


def _check_number(name: str, value: object, expected: str, least: float, most: float) -> None:
    """Raise unless a value is a number above ``least`` and at most ``most``."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and least < float(value) <= most):  # type: ignore[arg-type]
        raise InvalidParameterError(f"Got {name}={value!r}; expected a number {expected}.")


def _string_columns(Y: Any) -> list[str] | None:
    """Return the names of the columns of a data frame, where all are strings."""
    names = list(getattr(Y, "columns", []))
    return names if names and all(isinstance(name, str) for name in names) else None
