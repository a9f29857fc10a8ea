"""`SparseAutoencoderTransformer`: an SAE as a scikit-learn estimator on plain 2-D data."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import (
    check_array,
    check_is_fitted,
    check_random_state,
    validate_data,
)

from sae_features.errors import InvalidInputError, InvalidParameterError, SAEFeaturesWarning
from sae_features.parameters import check_count, check_device
from sae_features.training import matrices, online
from sae_features.training.metrics import evaluate_sae
from sae_features.training.settings import PENALISED, TrainingSettings
from sae_features.training.trainer import SAETrainer
from sae_features.weights import choose_device

if TYPE_CHECKING:
    from sae_features.saes.autoencoder import SparseAutoencoder

LEARNING_RATE = 3e-3
"""Half of the trainer's: with few columns more keeps latents from settling."""
N_STEPS = 3000
"""Steps that ``max_epochs=None`` makes, within these bounds of passes."""
LEAST_EPOCHS, MOST_EPOCHS = 4, 500
DEAD_AFTER = 200_000


class SparseAutoencoderTransformer(TransformerMixin, BaseEstimator):
    """Learn a sparse autoencoder of the rows of X, and turn rows into its latents.

    A row is explained as a centre plus few of `n_latents` directions, each with a positive weight:
    ``x ≈ codes @ components_ + centre``.  Rows are dense embeddings or tabular data; for texts and
    images see :class:`sae_features.SAEFeaturizer`.

    Parameters
    ----------
    n_latents : int, default=1024
        Width of the dictionary: more than columns to pull overlapping directions apart, or fewer to
        compress.
    architecture : {"topk", "batchtopk", "matryoshka", "relu", "gated", "jumprelu"}, default="topk"
        What decides which latents fire. Of the first three, the `k` largest of each row, or on average
        over a batch [1]_, [2]_, [3]_; of the others, a penalty that `target_l0` steers [4]_, [5]_, [6]_.
    k : int, default=32
        Latents that fire per row; of the penalised architectures, what `target_l0` is if not given.
    target_l0 : float or None, default=None
        Mean number of latents that shall fire per row, for relu, gated and jumprelu only.
    max_epochs : int or None, default=None
        Passes over the data in `fit`. If ``None``, as many as make 3,000 steps, but 4 to 500: data that
        fit into one batch are passed over 500 times, 40,000 rows 39 times, and a million rows 4 times.
    batch_size : int, default=512
        Rows per step; all rows where there are fewer.
    learning_rate : float or None, default=None
        Adam's [7]_, 3e-3 if ``None``. Columns need not be scaled for its sake: rows are centred and
        divided by the root of their mean squared norm first. In `fit` it rises at first and falls to 0
        at the end; in `partial_fit` it is constant.
    n_iter_no_change : int or None, default=None
        Stop `fit` after so many passes without an improvement of a thousandth.
    device : str or None, default=None
        ``"cpu"``, ``"cuda"`` …; the fastest there is if ``None``.
    random_state : int, RandomState or None, default=None
        Of initialisation and order of rows; on a CPU, an int gives the same SAE to the bit.
    sparse_output : bool, default=True
        Whether `transform` gives CSR (what scikit-learn's ``sparse_interface`` says) or a dense array.
    verbose : bool, default=False
        Whether to show progress.

    Attributes
    ----------
    sae_ : SparseAutoencoder
        The SAE, on the CPU, in the units of X: ``sae_.save(folder)`` keeps it.
    components_ : ndarray of shape (n_latents, n_features), float32
        The direction of each latent, of norm 1: the decoder.
    n_iter_ : int
        Passes that were made, in `partial_fit` one per call.
    history_ : list of dict
        How training went, at about 200 moments of `fit` and after each call of `partial_fit`: ``step``,
        ``rows`` seen, ``l0``, ``fvu`` (running means over batches), ``dead`` latents, ``sparsity``
        (weight of the penalty), and the losses by name.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of shape (n_features,), object
        Names of the columns seen in `fit`, where all of them are strings.

    See Also
    --------
    sae_features.training.SAETrainer : All settings, several SAEs in one pass, resume.
    sklearn.decomposition.DictionaryLearning : Sparse codes by optimisation for each row.

    Notes
    -----
    Everything is computed in float32, and codes are float32 whatever X is.

    References
    ----------
    .. [1] Gao et al., "Scaling and evaluating sparse autoencoders", arXiv 2406.04093.
    .. [2] Bussmann et al., "BatchTopK sparse autoencoders", arXiv 2412.06410.
    .. [3] Bussmann et al., "Learning multi-level features with Matryoshka SAEs", arXiv 2503.17547.
    .. [4] Bricken et al., "Towards monosemanticity", 2023.
    .. [5] Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders",
       arXiv 2404.16014.
    .. [6] Rajamanoharan et al., "Jumping ahead", arXiv 2407.14435.
    .. [7] Kingma and Ba, "Adam: a method for stochastic optimization", arXiv 1412.6980.

    Examples
    --------
    >>> import numpy as np
    >>> from sae_features import SparseAutoencoderTransformer
    >>> rng = np.random.default_rng(0)
    >>> X = rng.exponential(size=(300, 6)) * (rng.random((300, 6)) < 0.2)  # sparse as it stands
    >>> transformer = SparseAutoencoderTransformer(8, k=3, max_epochs=300, random_state=0).fit(X)
    >>> codes = transformer.transform(X)
    >>> codes.shape, codes.nnz <= 3 * 300
    ((300, 8), True)
    >>> transformer.score(X) > 0.9
    True
    """

    def __init__(
        self,
        n_latents: int = 1024,
        *,
        architecture: str = "topk",
        k: int = 32,
        target_l0: float | None = None,
        max_epochs: int | None = None,
        batch_size: int = 512,
        learning_rate: float | None = None,
        n_iter_no_change: int | None = None,
        device: str | None = None,
        random_state: int | np.random.RandomState | None = None,
        sparse_output: bool = True,
        verbose: bool = False,
    ) -> None:
        self.n_latents = n_latents
        self.architecture = architecture
        self.k = k
        self.target_l0 = target_l0
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.random_state = random_state
        self.sparse_output = sparse_output
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> SparseAutoencoderTransformer:  # noqa: ARG002
        """Train an SAE on the rows of X, from the beginning.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers, at least two different rows. Sparse rows are made dense batch by batch.
        y : None
            Ignored.

        Returns
        -------
        SparseAutoencoderTransformer
            The fitted estimator itself.

        Raises
        ------
        InvalidParameterError
            If a parameter has a value that it cannot have.
        InvalidInputError
            If all rows are equal.
        """
        settings = self._settings(self._seed())
        source = matrices.source_of_matrix(self._validated(X, reset=True, least_rows=2))
        per_pass = source.n_batches(settings.batch_size)
        if self.max_epochs is None:
            epochs = min(max(-(-N_STEPS // per_pass), LEAST_EPOCHS), MOST_EPOCHS)
            settings = replace(settings, epochs=epochs)
        # Dead is what did not fire in a whole pass; in small data that is soon.
        settings = replace(settings, dead_after=min(source.n_rows, DEAD_AFTER))
        begun = online.begin(source)
        trainer = SAETrainer(settings, device=self.device, verbose=self.verbose)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Got n_latents=", SAEFeaturesWarning)  # meant so here
            trained = trainer.train(source)[0]
        self.sae_, self.history_ = trained.sae, trained.history
        self.n_iter_ = math.ceil(trained.sae.metadata["training"]["steps"] / per_pass)
        self._online = replace(
            begun,
            origin=self.sae_,
            n_passes=self.n_iter_,
            n_rows=int(self.history_[-1]["rows"]),
            record=self.history_[-1],
        )
        return self

    def partial_fit(self, X: Any, y: Any = None) -> SparseAutoencoderTransformer:  # noqa: ARG002
        """Train on some more rows, once each, in batches of at most about `batch_size`.

        The first call, where `fit` was not called before, makes the SAE and fixes centre and scale: it
        should see some hundred rows or more. After `fit`, training goes on from its SAE. The learning
        rate is constant. The penalised architectures begin with many latents per row and come to
        their target within some hundred steps; their dead latents are not revived.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers; in the first call at least two different rows.
        y : None
            Ignored.

        Returns
        -------
        SparseAutoencoderTransformer
            The estimator itself, ready to be used.

        Raises
        ------
        InvalidParameterError
            If a parameter has a value that it cannot have, or `architecture` or `n_latents` is another
            than in the call before.
        InvalidInputError
            If all rows of the first call are equal.
        """
        is_first = not hasattr(self, "sae_")
        settings = self._settings(self._seed() if is_first else self._trained["seed"])
        X = self._validated(X, reset=is_first, least_rows=2 if is_first else 1)
        source = matrices.source_of_matrix(X)
        if not is_first:
            self._check_same(settings)
        before = online.begin(source) if is_first else self._online
        sae, after = online.learn(before, source, settings, choose_device(self.device))
        self.sae_, self._online, self.n_iter_ = sae, after, after.n_passes
        self.history_ = [*([] if is_first else self.history_), after.record]
        return self

    def transform(self, X: Any) -> Any:
        """Return the latents of each row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.

        Returns
        -------
        CSR matrix or array of shape (n_samples, n_latents), float32
            With int32 indices and without stored zeros; an ndarray with ``sparse_output=False``.
        """
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        encoded = matrices.encoded_sparse if self.sparse_output else matrices.encoded
        return encoded(self._placed(), X)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the rows that codes stand for; of `transform`'s what the SAE reconstructs.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_latents)
            Codes.

        Returns
        -------
        ndarray of shape (n_samples, n_features), float32
            In the units of the data.

        Raises
        ------
        InvalidInputError
            If there are not as many columns as latents.
        """
        check_is_fitted(self)
        with np.errstate(over="ignore"):
            codes = check_array(X, accept_sparse="csr", dtype=np.float32, input_name="X")
        sae = self._placed()
        if codes.shape[1] != sae.n_latents:
            message = (
                f"Got codes of shape {codes.shape}; expected (n_samples, {sae.n_latents}), as transform "
                "gives them."
            )
            raise InvalidInputError(message)
        return matrices.decoded(sae, codes)

    def score(self, X: Any, y: Any = None) -> float:  # noqa: ARG002
        """Return the share of variance that is explained, pooled over columns: 1 at best.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Finite numbers.
        y : None
            Ignored.

        Returns
        -------
        float
            ``1 − Σ‖x − x̂‖² / Σ‖x − mean(x)‖²``; NaN where all rows are equal.
        """
        check_is_fitted(self)
        source = matrices.source_of_matrix(self._validated(X, reset=False))
        return evaluate_sae(self._placed(), source).explained_variance

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return ``latent_0 …``.

        Parameters
        ----------
        input_features : array-like of str, optional
            Must be the names seen in `fit`, where there were any.

        Returns
        -------
        ndarray of shape (n_latents,), object
        """
        check_is_fitted(self)
        seen = getattr(self, "feature_names_in_", None)
        if input_features is not None and seen is not None and list(input_features) != list(seen):
            raise InvalidInputError("input_features is not equal to feature_names_in_")
        return np.array([f"latent_{i}" for i in range(self.sae_.n_latents)], dtype=object)

    @property
    def components_(self) -> np.ndarray:
        """The direction of each latent."""
        decoder: Any = self.sae_.W_dec
        directions: np.ndarray = decoder.numpy()
        return directions

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: Any, *, reset: bool, least_rows: int = 1) -> Any:
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
            return validate_data(
                self,
                X,
                accept_sparse="csr",
                dtype=np.float32,
                reset=reset,
                ensure_min_samples=least_rows,
            )

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _settings(self, seed: int) -> TrainingSettings:
        """Return the settings that parameters say.

        Raises
        ------
        InvalidParameterError
            If they cannot be.
        """
        check_count("max_epochs", self.max_epochs)
        check_count("n_iter_no_change", self.n_iter_no_change)
        check_device(self.device)
        architecture: Any = self.architecture
        has_target = architecture in PENALISED and self.target_l0 is not None
        return TrainingSettings(
            architecture=architecture,
            n_latents=self.n_latents,
            k=1 if has_target else self.k,
            target_l0=self.target_l0,
            epochs=self.max_epochs or LEAST_EPOCHS,
            batch_size=self.batch_size,
            learning_rate=LEARNING_RATE if self.learning_rate is None else self.learning_rate,
            patience=self.n_iter_no_change,
            seed=seed,
        )

    @property
    def _trained(self) -> dict[str, Any]:
        """The settings that the SAE was trained with."""
        return dict(self.sae_.metadata["training"]["settings"])

    def _check_same(self, settings: TrainingSettings) -> None:
        for name in ("architecture", "n_latents"):
            now, before = getattr(settings, name), self._trained[name]
            if now != before:
                message = (
                    f"Got {name}={now!r} and an SAE with {name}={before!r}; partial_fit goes on with "
                    "what there is. Call fit to begin anew."
                )
                raise InvalidParameterError(message)

    def _placed(self) -> SparseAutoencoder:
        """Return the SAE on the device to compute on."""
        device = choose_device(self.device)
        return self.sae_ if device == "cpu" else self.sae_.to(device)
