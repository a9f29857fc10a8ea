"""What both featurizers share: parameters to target, checks, what fit records, the way to rows."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sized
from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.base import BaseEstimator, TransformerMixin

from sae_features.computation import Computation, Means, Wish
from sae_features.errors import DigestMismatchError, InvalidParameterError
from sae_features.items import Items, check_items
from sae_features.notices import Notices
from sae_features.once import fill_store, rows_of
from sae_features.parameters import (
    OVERFLOWS,
    TOKENS,
    check_choice,
    check_count,
    check_device,
    check_dtype,
    check_image_choices,
    check_prompt,
)
from sae_features.progress import Progress
from sae_features.store import session
from sae_features.store.disk import DiskStore
from sae_features.store.settings import kept_dtype, store_for
from sae_features.targets import Request, Target, resolve_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sae_features.architectures import Modality
    from sae_features.store import Store


SESSION = "_session"
SENDING_THREADS = ("QueueFeederThread", "_handle_tasks")
"""Where loky and multiprocessing's pools pickle what they send to workers."""


class BaseFeaturizer(TransformerMixin, BaseEstimator):
    """What both featurizers share: parameters to target, checks, fitted digests."""

    _poolings: ClassVar[tuple[str, ...]]
    _with_sae: ClassVar[bool]

    def fit(self, X: Any, y: Any = None) -> Any:  # noqa: ARG002
        """Check parameters and ``X``, and record which model (and SAE) is used; load no weights.

        Parameters
        ----------
        X : sequence of length (n_items,)
            Texts or images, as :meth:`transform` takes them.
        y : ignored

        Returns
        -------
        self
        """
        self.check_parameters()
        target = self._target()
        self._items(X, target)
        self.model_ = target.model.name
        for name, value in self._recorded(target).items():
            setattr(self, name, value)
        self.n_features_out_ = self._width(target)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: for a worker process also where this one shares what it keeps."""
        state = dict(super().__getstate__())
        thread = threading.current_thread().name
        is_sent = any(name in thread for name in SENDING_THREADS)
        return state | {SESSION: session.announce()} if is_sent else state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was pickled."""
        if SESSION in state:
            session.adopt(state[SESSION])
        super().__setstate__({name: value for name, value in state.items() if name != SESSION})

    def _request(self) -> Request:
        return Request(self.model, self.layer, self.site, getattr(self, "sae", None))

    def _target(self) -> Target:
        return resolve_target(self._request(), with_sae=self._with_sae)

    def _check_recorded(self, target: Target) -> None:
        """Raise where model, hook point or SAE are not those that the estimator was fitted with."""
        for name, value in self._recorded(target).items():
            fitted = getattr(self, name, value)
            if fitted != value:
                message = (
                    f"This estimator was fitted with {name}={_shorten(fitted)}, but what is found now "
                    f"has {_shorten(value)}: parameters or files have changed since. Fit it again, or "
                    "bring the files back."
                )
                raise DigestMismatchError(message)

    def _recorded(self, target: Target) -> dict[str, Any]:
        recorded = {
            "layer_": target.point.layer,
            "site_": target.point.site,
            "model_digest_": target.model.weights_digest,
            "processor_digest_": target.model.processor_digest,
        }
        if target.sae is not None:
            recorded["sae_digest_"] = target.sae.digest(target.model.width(target.point))
        return recorded

    def _width(self, target: Target) -> int:
        return target.sae.n_latents if target.sae is not None else target.model.width(target.point)

    def _items(self, X: Any, target: Target, first: int = 0) -> Items:
        """Return the items in ``X`` as the model takes them."""
        items = check_items(X, target.model.modalities, first)
        if items.modality == "image":
            check_image_choices(self.max_length, self.overflow)
        return items

    def read_items(self, X: Any) -> tuple[Items, Computation]:
        """Return the items in ``X``, and who computes.

        Raises
        ------
        InvalidInputError, InputTypeError
            If ``X`` cannot be used.
        DigestMismatchError
            If it is not what the estimator was fitted with.
        """
        target = self._target()
        items = self._items(X, target)
        return items, self._computation(target, items.modality)

    def _computation(self, target: Target, modality: Modality) -> Computation:
        self._check_recorded(target)
        return Computation(
            target,
            self.tokens,
            self.prompt,
            self.max_length,
            self.overflow,
            self.dtype or "float32",
            modality,
            kept_dtype(),
        )

    def iter_transform(self, X: Any, *, chunk: int = 4096, n_items: int | None = None) -> Iterator[Any]:
        """Transform a stream: yield the rows of some items at a time, in order.

        Memory does not grow with the number of items.  Nothing is kept in memory, since a stream
        passes once; with ``cache=True`` or a folder what is done is kept on disk, and a run that was
        interrupted resumes there.

        Parameters
        ----------
        X : iterable
            Texts or images: what :meth:`transform` takes, checked at once, or any other iterable, such
            as a generator, read ``chunk`` items at a time.
        chunk : int, default=4096
            Items at a time.
        n_items : int, optional
            How many there are, for the progress bar.

        Yields
        ------
        rows
            As :meth:`transform` gives them, of at most ``chunk`` items.

        Raises
        ------
        InvalidParameterError, InvalidInputError, InputTypeError, DigestMismatchError
            As in :meth:`transform`; the message names an item by its position in the stream.
        """
        self.check_parameters()
        check_count("chunk", chunk)
        store = store_for(self.cache)
        if not isinstance(store, DiskStore) or store.is_temporary:
            store = None
        if isinstance(X, Sized):  # a frame, a series, an array: read as transform reads it
            items = self._items(X, self._target())
            parts = (
                Items(items.modality, items.values[start : start + chunk])
                for start in range(0, len(items), chunk)
            )
            return self._stream(parts, len(items), store)
        return self._stream(self._read(iter(X), int(chunk)), n_items, store)

    def _read(self, X: Iterator[Any], chunk: int) -> Iterator[Items]:
        first = 0
        while some := list(itertools.islice(X, chunk)):
            yield self._items(some, self._target(), first)
            first += len(some)

    def _stream(self, parts: Iterator[Items], total: int | None, store: Store | None) -> Iterator[Any]:
        notices, first = Notices(), 0
        with self._progress("item", total) as bar:
            for items in parts:
                target = self._target()
                yield self._finished(self._rows(items, target, store, bar, notices, first=first))
                first += len(items)
        notices.warn(stacklevel=2)

    def _all_rows(self, X: Any) -> Any:
        """Return the rows of all items; warnings name who called ``transform``, in its wrapping."""
        self.check_parameters()
        target, notices = self._target(), Notices()
        items = self._items(X, target)
        with self._progress(items.modality, len(items)) as bar:
            rows = self._rows(items, target, store_for(self.cache), bar, notices)
        notices.warn(stacklevel=4)
        return rows

    def _progress(self, unit: str, total: int | None) -> Progress:
        return Progress(type(self).__name__, unit, total, is_shown=self.verbose)

    def _rows(
        self,
        items: Items,
        target: Target,
        store: Store | None,
        bar: Progress,
        notices: Notices,
        *,
        first: int = 0,
    ) -> Any:
        computation = self._computation(target, items.modality)
        name = None if store is None else f"{_name_of(store)} {computation.identity}"
        return rows_of(
            computation,
            items,
            lambda values: self._pool(values, target, name),
            self._stack,
            wish=self._wish,
            means=Means(store, self.device, self.batch_size, bar.tell, first),
            notices=notices,
            derived=lambda digests: self._derived(name, digests),
        )

    @property
    def _wish(self) -> Wish:
        """What is wanted of each item."""
        return Wish()

    def _pool(self, values: Mapping[bytes, Any], target: Target, name: str | None) -> Any:
        """Return the rows of items; ``name`` is that of their values, if they are kept."""
        raise NotImplementedError

    def _derived(self, name: str | None, digests: list[bytes]) -> dict[bytes, Any]:  # noqa: ARG002
        """Return what this process has made of values of that name before."""
        return {}

    def _stack(self, parts: list[Any]) -> Any:
        """Return rows laid one below the other."""
        raise NotImplementedError

    def _finished(self, rows: Any) -> Any:
        """Return rows as ``transform`` gives them."""
        return rows

    def warm(self, X: Any) -> Any:
        """Run the model over items ahead, so that ``transform`` runs none, here and in workers.

        What is kept serves every setting of the parameters that pool.  See
        :func:`sae_features.featurizer.warm` for several featurizers in one run.

        Parameters
        ----------
        X : sequence of length (n_items,)
            Texts or images, as :meth:`transform` takes them.

        Returns
        -------
        self

        Raises
        ------
        InvalidParameterError
            With ``cache=False``: nothing would be kept.
        """
        warm_all([self], X)
        return self

    def check_parameters(self) -> None:
        """Raise InvalidParameterError where a parameter cannot be."""
        check_device(self.device)
        check_dtype(self.dtype)
        check_choice("tokens", self.tokens, TOKENS)
        check_choice("overflow", self.overflow, OVERFLOWS)
        check_choice("pooling", self.pooling, self._poolings)
        check_count("max_length", self.max_length)
        check_count("batch_size", self.batch_size)
        check_prompt(self.prompt)
        store_for(self.cache)  # says what is wrong with it


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 32 else f"{text[:12]}…"


def _name_of(store: Store) -> str:
    """Return what tells its values from those of other stores, and from those that it had before."""
    return f"{store.folder} {store.generation}" if isinstance(store, DiskStore) else "memory"


def warm_all(featurizers: Sequence[BaseFeaturizer], X: Any) -> None:
    """Compute what several featurizers lack of items; those that see the same tokens share a run.

    Raises
    ------
    InvalidParameterError
        If one keeps nothing, or they keep things in different places or are of different modalities.
    """
    stores = []
    for featurizer in featurizers:
        featurizer.check_parameters()
        stores.append(store_for(featurizer.cache))
        if stores[-1] is None:
            raise InvalidParameterError("Got a featurizer with cache=False; it would keep nothing.")
    lead = featurizers[0]
    if len({_name_of(store) for store in stores if store}) > 1:
        raise InvalidParameterError("Got featurizers with different caches; expected one of all.")
    read = [featurizer.read_items(X) for featurizer in featurizers]
    items = read[0][0]
    if any(other.modality != items.modality for other, _ in read):
        raise InvalidParameterError("Got featurizers of texts and of images; expected one kind.")
    runs = len({computation.model_run for _, computation in read})
    notices = Notices()
    with Progress("warm", items.modality, len(items) * runs, is_shown=lead.verbose) as bar:
        fill_store(
            [computation for _, computation in read],
            items,
            wish=Wish(needs_codes=any(getattr(f, "token_top_n", None) for f in featurizers)),
            means=Means(stores[0], lead.device, lead.batch_size, bar.tell),
            notices=notices,
        )
    notices.warn(stacklevel=3)
