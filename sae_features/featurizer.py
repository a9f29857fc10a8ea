"""``SAEFeaturizer`` and ``ActivationFeaturizer``: the rooms below, composed for scikit-learn."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import scipy.sparse as sp
import sklearn

from sae_features.base import BaseFeaturizer, warm_all
from sae_features.computation import Means, Wish
from sae_features.errors import InvalidParameterError
from sae_features.notices import Notices
from sae_features.once import rows_of
from sae_features.parameters import (
    ACTIVATION_POOLINGS,
    POOLINGS,
    check_choice,
    check_count,
    check_threshold,
)
from sae_features.pooled_rows import pooled_before, pooled_rows
from sae_features.ragged import TokenCodes
from sae_features.saes.labels import read_labels
from sae_features.store.settings import store_for
from sae_features.targets import Target, resolve_sae, resolve_target

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.parameters import Pooling
    from sae_features.releases import SAEReference

FEATURE_NAMES = ("index", "label")
LABEL_SUFFIXES = (".json", ".csv")


class SAEFeaturizer(BaseFeaturizer):
    """Turn texts or images into rows of SAE latents.

    A pretrained model runs up to one layer, its token activations pass through a sparse
    autoencoder, and the latents are pooled into one sparse row per item.

    Parameters
    ----------
    model : str or Path, optional
        An alias (``"minilm"``, ``"dinov2-small"``), a local folder, or ``owner/name[@revision]`` on
        the Hugging Face hub.  Not given: the SAE's own model, or else ``"minilm"``.
    layer : int, optional
        Block whose activations are read, counted from 0; -1 is the last.  Not given: the SAE's own,
        or else the layer of the model's default SAE, or else the block that its family reads.
    site : str, optional
        What is read of the block: ``"resid_pre"``, ``"resid_mid"``, ``"resid_post"`` (its output, the
        default), ``"attn_out"``, ``"attn_z"``, ``"mlp_in"``, ``"mlp_normalized"``, ``"mlp_hidden"``,
        ``"mlp_out"``; or ``"embedding"``, one pooled vector per item.  Another library's name, such as
        ``"blocks.12.hook_mlp_out"``, stands for layer and site.  Not given: the SAE's own.
    sae : str or Path, optional
        An id that a plugin knows (``"minilm-topk-4k/layer_3"``), a file or folder, or
        ``"random:WIDTH:K[:SEED]"``, the random control.  Not given: the model's default SAE.
    tokens : {"content", "all"}, default="content"
        Which tokens count: ``"content"`` leaves out padding, BOS, EOS, CLS, SEP, registers and the
        prompt, and in decoders without a BOS the first token; ``"all"`` only padding.
    prompt : str, optional
        A string with ``{}`` that stands around the text (``"query: {}"``) or, in vision-language
        models, the image; or ``"chat"`` for the chat template.
    max_length : int, optional
        Longest window in tokens, special ones included.  Not given: the least of what the files of
        model, tokenizer and SAE say (256 for MiniLM).  Not for images.
    overflow : {"truncate", "chunk"}, default="truncate"
        What happens to longer texts: cut with a warning, or read in several windows.
    dtype : {"float32", "bfloat16", "float16", "float64"}, optional
        Type that the model computes in; float32 if not given.
    token_top_n : int, optional
        Keep only each token's ``n`` largest latents before pooling.
    pooling : {"max", "mean", "sum", "last", "first", "count"}, default="max"
        How the tokens become one row; a silent latent counts as 0.  ``"count"`` is the number of
        tokens at which a latent fires.
    threshold : float, optional
        Keep pooled values ``> threshold`` (at least 0), and zero the rest.
    binarize : bool, default=False
        Make what is kept 1; without a threshold, what is above 0.
    batch_size : int, optional
        Texts or images in a batch.  Not given: by their length.
    device : str, optional
        Where the model runs; a GPU if there is one.  ``"auto"`` spreads a large model over all devices.
    cache : None, bool, str or Path, optional
        Where codes are kept, so that a search over ``pooling``, ``token_top_n``, ``threshold`` and
        ``binarize`` runs the model once per item.  None: in the memory of the process (512 MiB, the
        least recently used go first), and in a private temporary folder that a search shares with
        its worker processes; unless the variable ``SAE_FEATURES_CACHE`` says otherwise.  A folder, or
        True for one in the user's cache folder: lasting.  False: nowhere.
    sparse_output : bool, default=True
        Give CSR (what scikit-learn's ``sparse_interface`` says) or a dense array.
    feature_names : {"index", "label"} or a file, default="index"
        Name features ``latent_0 …``; or by the SAE's labels, made unique; or by those of a ``.json``
        or ``.csv`` file: an object of latent to label, or a list or table with ``index`` and
        ``description``, as Neuronpedia exports them.
    verbose : bool, default=False
        Whether to show progress.

    Attributes
    ----------
    model_ : str
        Model that was found.
    layer_ : int
        Block, counted from 0.
    site_ : str
        What is read of it.
    model_digest_, processor_digest_, sae_digest_ : str
        SHA-256 of the model's weights, of its configuration and tokenizer, and of the SAE (or the
        words of a ``random:`` one).  :meth:`transform` refuses other ones.
    n_features_out_ : int
        Number of latents.

    See Also
    --------
    ActivationFeaturizer : The same without the SAE: the baseline to print beside it.
    LatentSelector : Choose latents.
    LatentBinarizer : Binarize latents at learned thresholds.

    Notes
    -----
    ``transform`` works without ``fit``: nothing is learned.  Weights are loaded on first use and
    shared by all estimators of a process (see :func:`sae_features.weights.release_weights`).
    The features of a text do not depend on the other texts, their order or the batch size, up to
    rounding: within 1e-5 of the row's largest value, save for latents whose pre-activation lies
    within rounding of their threshold or of the k-th largest.

    Examples
    --------
    >>> from sae_features import SAEFeaturizer
    >>> features = SAEFeaturizer().fit_transform(["a moving film", "a dull film"])
    >>> features.shape, features.dtype
    ((2, 4096), dtype('float32'))
    """

    _poolings = POOLINGS
    _with_sae = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        layer: int | None = None,
        site: str | None = None,
        sae: str | Path | None = None,
        tokens: str = "content",
        prompt: str | None = None,
        max_length: int | None = None,
        overflow: str = "truncate",
        dtype: str | None = None,
        token_top_n: int | None = None,
        pooling: str = "max",
        threshold: float | None = None,
        binarize: bool = False,
        batch_size: int | None = None,
        device: str | None = None,
        cache: bool | str | Path | None = None,
        sparse_output: bool = True,
        feature_names: str | Path = "index",
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.layer = layer
        self.site = site
        self.sae = sae
        self.tokens = tokens
        self.prompt = prompt
        self.max_length = max_length
        self.overflow = overflow
        self.dtype = dtype
        self.token_top_n = token_top_n
        self.pooling = pooling
        self.threshold = threshold
        self.binarize = binarize
        self.batch_size = batch_size
        self.device = device
        self.cache = cache
        self.sparse_output = sparse_output
        self.feature_names = feature_names
        self.verbose = verbose

    def transform(self, X: Any) -> Any:
        """Return one row of latents per item.

        Parameters
        ----------
        X : sequence of length (n_items,)
            List, tuple, array, Series, or a data frame of one column, of texts; or, for models that
            take images, of paths, PIL images, uint8 arrays of shape (height, width) or (height, width,
            3), or one array of shape (n_items, height, width, 3).  Where a model takes both, strings are
            texts: give paths as ``Path``.

        Returns
        -------
        csr_matrix, csr_array or ndarray of shape (n_items, n_latents), float32
            In the order of ``X``; int32 indices.

        Raises
        ------
        InvalidParameterError
            If a parameter cannot be, or parameters contradict each other.
        InvalidInputError, InputTypeError
            If ``X`` cannot be used; the message names the position.
        DigestMismatchError
            If the files are not those that the estimator was fitted with.
        """
        if self.sparse_output:
            _check_output_config(self)
        return self._finished(self._all_rows(X))

    def token_codes(self, X: Any) -> TokenCodes:
        """Return the latents of every token, before pooling: where in an item a latent fires.

        Parameters
        ----------
        X : sequence of length (n_items,)
            As in :meth:`transform`.

        Returns
        -------
        TokenCodes
            ``codes.latent(17, item)`` is how strongly latent 17 fires at each counted token of an
            item; of images ``codes.grids[item]`` says where the patches lie.

        Raises
        ------
        InvalidParameterError, InvalidInputError, InputTypeError, DigestMismatchError
            As in :meth:`transform`.

        Examples
        --------
        >>> from sae_features import SAEFeaturizer
        >>> codes = SAEFeaturizer().token_codes(["a moving film"])
        >>> len(codes), codes.latent(0, 0).shape
        (1, (3,))
        """
        self.check_parameters()
        items, computation = self.read_items(X)
        notices, width = Notices(), self._width(computation.target)
        with self._progress(items.modality, len(items)) as bar:
            codes: TokenCodes = rows_of(
                computation,
                items,
                lambda values: TokenCodes.concatenate(list(values.values()), width),
                lambda parts: TokenCodes.concatenate(parts, width),
                wish=Wish(needs_codes=True),
                means=Means(store_for(self.cache), self.device, self.batch_size, bar.tell),
                notices=notices,
                take=_take_items,
            )
        notices.warn()
        return codes

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ARG002
        """Return the names of the latents; no model and no weights are loaded for it.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (n_latents,), object
        """
        _check_feature_names(self.feature_names)
        sae = resolve_sae(self._request())
        names = [f"latent_{i}" for i in range(sae.n_latents)]
        if self.feature_names != "index":
            names = _unique_labels(names, _labels_of(sae, self.feature_names))
        return np.array(names, dtype=object)

    @property
    def _wish(self) -> Wish:
        pooling = cast("Pooling", self.pooling)
        return Wish(self.token_top_n is not None, pooling, self.token_top_n)

    def _pool(self, values: Mapping[bytes, Any], target: Target, name: str | None) -> sp.csr_matrix:
        rows = pooled_rows(
            values,
            cast("Pooling", self.pooling),
            token_top_n=self.token_top_n,
            n_latents=self._width(target),
            name=name,
        )
        if self.threshold is not None or self.binarize:
            rows.data[rows.data <= np.float32(self.threshold or 0)] = 0
            rows.eliminate_zeros()
        if self.binarize:
            rows.data.fill(1)
        return rows

    def _derived(self, name: str | None, digests: list[bytes]) -> dict[bytes, Any]:
        return pooled_before(name, self.token_top_n, digests)

    def _stack(self, parts: list[sp.csr_matrix]) -> sp.csr_matrix:
        return sp.vstack(parts, format="csr")

    def _finished(self, rows: sp.csr_matrix) -> Any:
        if not self.sparse_output:
            return rows.toarray()
        return sp.csr_array(rows) if _wants_sparse_array() else rows

    def check_parameters(self) -> None:
        """Raise InvalidParameterError where a parameter cannot be."""
        super().check_parameters()
        check_count("token_top_n", self.token_top_n)
        check_threshold(self.threshold)
        _check_feature_names(self.feature_names)


class ActivationFeaturizer(BaseFeaturizer):
    """Turn texts or images into pooled hidden states: the same without the SAE, and its baseline.

    Parameters
    ----------
    model : str or Path, optional
        As in :class:`SAEFeaturizer`; ``"minilm"`` if not given.
    layer : int, optional
        Block whose activations are read, counted from 0; -1 is the last.  Not given: the layer of
        the model's default SAE, or else the block that its family reads.
    site, tokens, prompt, max_length, overflow, dtype : optional
        As in :class:`SAEFeaturizer`.  Where an SAE's own context is shorter than the model's, give its
        ``max_length``, to see the same tokens.
    pooling : {"max", "mean", "sum", "last", "first"}, default="max"
        How the tokens become one row.
    batch_size, device, cache, verbose : optional
        As in :class:`SAEFeaturizer`.

    Attributes
    ----------
    model_, layer_, site_, model_digest_, processor_digest_, n_features_out_
        As in :class:`SAEFeaturizer`.

    Examples
    --------
    >>> from sae_features import ActivationFeaturizer
    >>> ActivationFeaturizer(pooling="mean").fit_transform(["a moving film"]).shape
    (1, 384)
    """

    _poolings = ACTIVATION_POOLINGS
    _with_sae = False

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        layer: int | None = None,
        site: str | None = None,
        tokens: str = "content",
        prompt: str | None = None,
        max_length: int | None = None,
        overflow: str = "truncate",
        dtype: str | None = None,
        pooling: str = "max",
        batch_size: int | None = None,
        device: str | None = None,
        cache: bool | str | Path | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.layer = layer
        self.site = site
        self.tokens = tokens
        self.prompt = prompt
        self.max_length = max_length
        self.overflow = overflow
        self.dtype = dtype
        self.pooling = pooling
        self.batch_size = batch_size
        self.device = device
        self.cache = cache
        self.verbose = verbose

    def transform(self, X: Any) -> np.ndarray:
        """Return one row of pooled hidden states per item.

        Parameters
        ----------
        X : sequence of length (n_items,)
            As in :meth:`SAEFeaturizer.transform`.

        Returns
        -------
        ndarray of shape (n_items, d), float32
            In the order of ``X``.
        """
        rows: np.ndarray = self._all_rows(X)
        return rows

    def _pool(self, values: Mapping[bytes, Any], target: Target, name: str | None) -> np.ndarray:  # noqa: ARG002
        return np.stack([value.pool(self.pooling) for value in values.values()])

    def _stack(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:  # noqa: ARG002
        """Return ``activation_0 …``; no weights are loaded for it.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (d,), object
        """
        target = resolve_target(self._request(), with_sae=False)
        return np.array([f"activation_{i}" for i in range(self._width(target))], dtype=object)


def warm(featurizers: Sequence[SAEFeaturizer | ActivationFeaturizer], X: Any) -> None:
    """Run models over items ahead, once for all featurizers that see the same tokens.

    What the featurizers need is kept where their ``cache`` says, so that their ``transform`` runs
    no model: latents of several SAEs and layers and the hidden states beside them cost one run.

    Parameters
    ----------
    featurizers : sequence of SAEFeaturizer or ActivationFeaturizer
        Those with the same ``model``, ``tokens``, ``prompt``, ``max_length``, ``overflow`` and
        ``dtype`` share a run on the device and with the batch size of the first; with
        ``cache=False`` none may be.
    X : sequence
        Texts or images, as ``transform`` takes them.

    Raises
    ------
    InvalidParameterError
        If there is no featurizer, or one has ``cache=False``.

    Examples
    --------
    >>> from sae_features import ActivationFeaturizer, SAEFeaturizer
    >>> from sae_features.featurizer import warm
    >>> texts = ["a moving film", "a dull film"]
    >>> latents, hidden = SAEFeaturizer(), ActivationFeaturizer()
    >>> warm([latents, hidden], texts)
    >>> latents.transform(texts).shape, hidden.transform(texts).shape
    ((2, 4096), (2, 384))
    """
    if isinstance(featurizers, BaseFeaturizer) or not featurizers:
        raise InvalidParameterError("Got no list of featurizers; expected at least one in a list.")
    for featurizer in featurizers:
        if not isinstance(featurizer, BaseFeaturizer):
            message = (
                f"Got a {type(featurizer).__name__}; expected SAEFeaturizer or ActivationFeaturizer."
            )
            raise InvalidParameterError(message)
    warm_all(featurizers, X)


def _take_items(codes: TokenCodes, chosen: np.ndarray) -> TokenCodes:
    return TokenCodes.concatenate([codes[int(item)] for item in chosen], codes.n_latents)


def _check_output_config(estimator: Any) -> None:
    """Raise where a data frame was asked for: it cannot hold sparse rows."""
    own = getattr(estimator, "_sklearn_output_config", {})
    container = own.get("transform", sklearn.get_config()["transform_output"])
    if container != "default":
        message = (
            f"Got set_output(transform={container!r}) with sparse_output=True; a data frame needs "
            "sparse_output=False."
        )
        raise InvalidParameterError(message)


def _wants_sparse_array() -> bool:
    return sklearn.get_config().get("sparse_interface", "spmatrix") == "sparray"


def _check_feature_names(feature_names: object) -> None:
    """Raise unless it is one of the choices, or looks like a file of labels."""
    is_file = isinstance(feature_names, str | Path) and Path(feature_names).suffix in LABEL_SUFFIXES
    if not is_file:
        check_choice("feature_names", feature_names, (*FEATURE_NAMES, "a .json or .csv file"))


def _labels_of(sae: SAEReference, feature_names: str | Path) -> Mapping[int, str]:
    if feature_names != "label":
        labels = read_labels(Path(feature_names).expanduser(), sae.n_latents)
        if not labels:
            raise InvalidParameterError(
                f"Got feature_names={str(feature_names)!r}, which holds no labels."
            )
        return labels
    if not sae.labels:
        message = (
            f"Got feature_names='label', but the SAE {sae.name!r} has no labels; use 'index', or give a "
            ".json or .csv file of labels."
        )
        raise InvalidParameterError(message)
    return sae.labels


def _unique_labels(names: list[str], labels: Mapping[int, str]) -> list[str]:
    counts = Counter(labels.values())
    unique = list(names)
    for latent, label in labels.items():
        is_plain = counts[label] == 1 and not re.search(r"latent_\d+", label)
        unique[latent] = label if is_plain else f"{label} (latent_{latent})"
    return unique
