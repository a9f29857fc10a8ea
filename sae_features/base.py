"""What both featurizers share: parameters to target, checks, what fit records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from sklearn.base import BaseEstimator, TransformerMixin
from tqdm.auto import tqdm

from sae_features.errors import DigestMismatchError, InvalidParameterError
from sae_features.items import Items, check_items
from sae_features.once import Computation, rows_of
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
from sae_features.store import memory
from sae_features.targets import Request, Target, resolve_target

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from sae_features.architectures import Modality


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

    def _items(self, X: Any, target: Target) -> Items:
        """Return the items in ``X`` as the model takes them."""
        items = check_items(X, target.model.modalities)
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
        )

    def _rows(
        self,
        X: Any,
        pool: Callable[[list[Any], Target], Any],
        stack: Callable[[list[Any]], Any],
        take: Callable[[Any, np.ndarray], Any] | None = None,
    ) -> Any:
        self.check_parameters()
        items, computation = self.read_items(X)
        target = computation.target
        name = type(self).__name__
        with tqdm(total=len(items), unit=items.modality, desc=name, disable=not self.verbose) as bar:
            return rows_of(
                computation,
                items,
                lambda values: pool(values, target),
                stack,
                store=None if self.cache is False else memory.SHARED,
                device=self.device,
                batch_size=self.batch_size,
                progress=bar.update,
                take=take,
            )

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
        if self.cache is not None and self.cache is not False:
            message = (
                f"Got cache={self.cache!r}; expected None (keep codes in memory) or False: this "
                "version keeps nothing on disk."
            )
            raise InvalidParameterError(message)


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= 32 else f"{text[:12]}…"
