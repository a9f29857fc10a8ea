"""A pretrained model that is read at hook points: items in, activations of counted tokens out."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features.ahead import ahead
from sae_features.backbones.batches import (
    batches_of,
    check_finite,
    counted_mask,
    counted_rows,
    will_run,
)
from sae_features.backbones.embedding import EmbeddingHead
from sae_features.backbones.hooks import read_points
from sae_features.backbones.loading import load_config, load_model
from sae_features.backbones.sites import count_layer, find_stack, parse_point, unique_points
from sae_features.backbones.tokens import TokenPolicy
from sae_features.backbones.windows import Batch
from sae_features.checkpoints import read_context
from sae_features.discovery import import_object
from sae_features.errors import InvalidParameterError
from sae_features.hook_point import EMBEDDING, SITES, HookPoint
from sae_features.items import check_items
from sae_features.notices import Notices
from sae_features.parameters import check_image_choices
from sae_features.ragged import ActivationsByPoint, TokenActivations, offsets_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sae_features.architectures import Architecture, Modality
    from sae_features.backbones.readers import InputReader
    from sae_features.backbones.sites import Tap
    from sae_features.backbones.windows import Windows
    from sae_features.items import Items


class Backbone:
    """A pretrained model that is read at hook points.

    Made by :func:`sae_features.load_backbone`.

    Parameters
    ----------
    model : torch.nn.Module
        The model without a head.
    architecture : Architecture
        What its family declares.
    inputs : mapping of str to InputReader
        By modality: what turns items into what the model takes.
    context : int, optional
        The longest window where none is asked for.
    folder : Path, optional
        Where it says how tokens are pooled into one vector.
    has_random_head : bool, default=False
        Whether weights of its pooling head were missing.

    Attributes
    ----------
    model : torch.nn.Module
        In evaluation mode.
    n_layers, d_model : int
        Number of blocks and size of the residual stream.
    stack : Stack
        Its blocks, and where their sites are.
    """

    def __init__(
        self,
        model: Any,
        architecture: Architecture,
        inputs: Mapping[Modality, InputReader],
        *,
        context: int | None = None,
        folder: Path | None = None,
        has_random_head: bool = False,
    ) -> None:
        self.model = model.eval().requires_grad_(requires_grad=False)
        self.architecture = architecture
        self.inputs = dict(inputs)
        sizes = _sizes(model.config, architecture)
        self.n_layers = int(sizes.num_hidden_layers)
        self.d_model = int(sizes.hidden_size)
        exceptions = architecture.exceptions(model.config.to_dict())
        self.stack = find_stack(model, self.n_layers, architecture.tower, exceptions)
        self._context = context
        self._head = EmbeddingHead(architecture.embedding, folder, has_random_weights=has_random_head)
        self._lock = threading.Lock()
        for reader in self.inputs.values():
            if hasattr(reader, "adapt"):
                reader.adapt(model)

    @classmethod
    def load(cls, folder: Path, architecture: Architecture, *, device: str, dtype: str) -> Backbone:
        """Load a model and what prepares its inputs from a local folder.

        Raises
        ------
        CheckpointError
            If weights are missing in the files (they would be random), there is no fast tokenizer or
            image processor, or the files cannot be read.
        """
        config = load_config(folder)
        inputs: dict[Modality, InputReader] = {}
        for kind in architecture.inputs:
            inputs[kind.modality] = import_object(kind.reader).load(folder, kind, architecture, config)
        model, random_heads = load_model(
            folder, architecture.loader, device=device, dtype=getattr(torch, dtype)
        )
        _settle(model.config)
        context = None
        if "text" in inputs:
            context = read_context(folder, _sizes(config, architecture).to_dict())
        return cls(
            model,
            architecture,
            inputs,
            context=context,
            folder=folder,
            has_random_head=bool(random_heads),
        )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of a text model."""
        return getattr(self.inputs["text"], "tokenizer")  # noqa: B009 a protocol does not have it

    @property
    def max_length(self) -> int:
        """The most that model and tokenizer can take, in tokens, special ones included."""
        return _longest(self.model, _sizes(self.model.config, self.architecture), self.tokenizer)

    @property
    def context(self) -> int:
        """The longest window where none is asked for: what the model's files advise."""
        return min(self.max_length, self._context or self.max_length)

    @property
    def sites(self) -> tuple[str, ...]:
        """What the model can be read at."""
        has_embedding = self._head.exists
        return tuple(s for s in SITES if s in self.stack.sites() or (s == EMBEDDING and has_embedding))

    def __repr__(self) -> str:
        kind = type(self.model).__name__
        return f"{type(self).__name__}({kind}, n_layers={self.n_layers}, d_model={self.d_model})"

    def width(self, point: HookPoint | tuple[int, str] | str) -> int:
        """Return the size of the activations at a hook point, given as in :meth:`parse`."""
        point = self.parse(point)
        if point.site != EMBEDDING:
            return self.stack.width(point, self.d_model)
        return self._head.width(self.model.config, self.d_model)

    def parse(self, point: HookPoint | tuple[int, str] | str) -> HookPoint:
        """Return a hook point with a layer counted from 0.

        Parameters
        ----------
        point : HookPoint, tuple or str
            ``(layer, site)``, ``"embedding"``, or another library's name, such as
            ``"blocks.3.hook_resid_post"`` or ``"model.layers.3.mlp.output"``.

        Raises
        ------
        InvalidParameterError
            If the model lacks the layer or the site, or nothing has that name.
        """
        if isinstance(point, str):
            is_embedding = point == EMBEDDING
            point = HookPoint(-1, point) if is_embedding else parse_point(point, self.stack, self.sites)
        given: Any = point
        if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], str):
            message = f"Got the hook point {point!r}; expected (layer, site) or a name."
            raise InvalidParameterError(message)
        layer, site = count_layer(point[0], self.n_layers), point[1]
        if site != EMBEDDING:
            self.stack.tap(HookPoint(layer, site))
        elif not self._head.exists:
            self._head.refuse(self.stack.sites())
        elif layer != self.n_layers - 1:
            message = (
                f"Got layer={point[0]} with site='embedding', which is made of the last block's output; "
                "leave the layer out, or give -1."
            )
            raise InvalidParameterError(message)
        return HookPoint(layer, site)

    def activations(
        self,
        items: Any,
        *,
        layer: int | None = None,
        site: str = "resid_post",
        points: Sequence[HookPoint | tuple[int, str] | str] | None = None,
        tokens: str = "content",
        prompt: str | None = None,
        max_length: int | None = None,
        overflow: str = "truncate",
        batch_size: int | None = None,
    ) -> Any:
        """Return the activations of the items' tokens, at one hook point or at several in one run.

        Parameters
        ----------
        items : sequence
            Texts or images, as in :class:`sae_features.SAEFeaturizer`.
        layer : int, optional
            Block, counted from 0; -1, the default, is the last.
        site : str, default="resid_post"
            What to read of it; see :data:`sae_features.hook_point.SITES`.
        points : sequence of (int, str) or str, optional
            In place of ``layer`` and ``site``: several hook points, or other libraries' names of them.
        tokens, prompt, max_length, overflow, batch_size
            As in :class:`sae_features.SAEFeaturizer`.

        Returns
        -------
        TokenActivations or ActivationsByPoint
            ``values`` (n_tokens, d) float32 and ``offsets`` (n_items + 1,) int64, of images ``grids``;
            one for each of ``points``, by ``(layer, site)`` and by what was given, where these were.

        Raises
        ------
        InvalidParameterError, InputTypeError, InvalidInputError
            As the message says; also if activations are not finite.

        Warns
        -----
        SAEFeaturesWarning
            If texts were truncated, or have no token that counts.

        Examples
        --------
        >>> from sae_features import load_backbone
        >>> backbone = load_backbone("minilm")
        >>> acts = backbone.activations(["a fine day", "rain"], layer=3)
        >>> acts[0].shape
        (3, 384)
        >>> both = backbone.activations(["rain"], points=[(3, "resid_post"), "embedding"])
        >>> both[3, "resid_post"].values.shape, both["embedding"].values.shape
        ((1, 384), (1, 384))
        """
        if points is not None and layer is not None:
            raise InvalidParameterError("Got both layer and points; expected one of them.")
        given = [(-1 if layer is None else layer, site)] if points is None else _listed(points)
        asked = {point: self.parse(point) for point in given}
        parsed = unique_points(list(asked.values()))
        checked = check_items(items, self.architecture.modalities)
        policy = self.token_policy(
            checked.modality, tokens=tokens, prompt=prompt, max_length=max_length, overflow=overflow
        )
        windows = self.windows(checked, policy)
        counts_tokens = any(point.site != EMBEDDING for point in parsed)
        notices = Notices("they have no activations")
        empty = windows.empty if counts_tokens else []
        notices.add(checked.values, windows.truncated, empty, longest=policy.max_length)
        notices.warn()
        parts: dict[HookPoint, list[np.ndarray]] = {
            point: [np.empty((0, self.width(point)), np.float32)] * len(windows) for point in parsed
        }
        for batch in self.run(windows, parsed, batch_size=batch_size):
            for point, values in batch.values.items():
                pieces = torch.split(values, batch.lengths[point].tolist())
                for window, piece in zip(batch.windows, pieces, strict=True):
                    parts[point][window] = piece.cpu().numpy()
        found = {}
        for point, of_windows in parts.items():
            lengths = np.zeros(len(checked), np.int64)
            np.add.at(lengths, windows.items, [len(part) for part in of_windows])
            grids = tuple(windows.grids) if windows.grids and point.site != EMBEDDING else None
            found[point] = TokenActivations(np.concatenate(of_windows), offsets_of(lengths), grids)
        return found[parsed[0]] if points is None else ActivationsByPoint(found, asked)

    def token_policy(
        self, modality: Modality = "text", *, max_length: int | None = None, **choices: Any
    ) -> TokenPolicy:
        """Return a token policy whose ``max_length`` this model can take.

        Raises
        ------
        InvalidParameterError
            If ``max_length`` is more than that, or is about images.
        """
        if modality == "image":
            check_image_choices(max_length, choices.get("overflow", "truncate"))
            return TokenPolicy(max_length=1, **choices)
        if max_length is None:
            max_length = self.context
        if max_length > self.max_length:
            message = f"Got max_length={max_length}; this model takes at most {self.max_length} tokens."
            raise InvalidParameterError(message)
        return TokenPolicy(max_length=max_length, **choices)

    def windows(
        self, items: Items, policy: TokenPolicy, positions: Sequence[int] | None = None
    ) -> Windows:
        """Return what the model sees at a time: windows of texts, or images.

        ``positions`` are what an error calls each item; its place in ``items`` if not given.
        """
        return self.inputs[items.modality].windows(items.values, policy, positions)

    def run(
        self,
        windows: Windows,
        points: Sequence[HookPoint],
        *,
        batch_size: int | None = None,
        positions: Sequence[int] | None = None,
    ) -> Iterator[Batch]:
        """Run the model over windows, the longest first, and yield what stands at the points.

        Windows without a counted token are not run, unless one vector per item is asked for.

        Parameters
        ----------
        windows : Windows
            From :meth:`windows`.
        points : sequence of HookPoint
            One run of the model serves all of them.
        batch_size : int, optional
            Windows in a batch; chosen by their length if not given.
        positions : sequence of int, optional
            What an error calls each item; its place among those of the windows if not given.

        Raises
        ------
        InvalidParameterError
            If a point cannot be read, or ``batch_size`` is below 1.
        InvalidInputError
            If an image cannot be read, or activations are not finite, as when they are too large for
            float16.
        """
        parsed = [self.parse(point) for point in points]
        if batch_size is not None and batch_size < 1:
            message = f"Got batch_size={batch_size}; expected None or an integer above 0."
            raise InvalidParameterError(message)
        reader = self.inputs[windows.modality]
        taps = {point: self.stack.tap(point) for point in parsed if point.site != EMBEDDING}
        embeds = len(taps) < len(set(parsed))
        counts = windows.counts
        runs = will_run(windows, parsed)
        batches = batches_of(windows, runs, reader.shape, batch_size, self.model.device.type)

        def prepare(chosen: np.ndarray) -> dict[str, Any]:
            return reader.model_inputs(windows, chosen, positions)

        for whole, ready in ahead(batches, prepare):
            for chosen, inputs, read, output in self._passes(whole, ready, prepare, taps, embeds=embeds):
                counted = counted_mask(windows, chosen)
                lengths = dict.fromkeys(taps, counts[chosen])
                values = {point: counted_rows(hidden, counted) for point, hidden in read.items()}
                if embeds:
                    last = HookPoint(self.n_layers - 1, EMBEDDING)
                    lengths[last] = np.ones(len(chosen), np.int64)
                    values[last] = self._head.vectors(output, inputs.get("attention_mask"))
                batch = Batch(
                    chosen,
                    {point: lengths[place] for point, place in zip(points, parsed, strict=True)},
                    {point: values[place] for point, place in zip(points, parsed, strict=True)},
                )
                check_finite(batch, windows, positions, self.model.dtype)
                yield batch

    def _passes(
        self,
        chosen: np.ndarray,
        inputs: dict[str, Any],
        prepare: Callable[[np.ndarray], dict[str, Any]],
        taps: Mapping[HookPoint, Tap],
        *,
        embeds: bool,
    ) -> Iterator[tuple[np.ndarray, dict[str, Any], dict[HookPoint, torch.Tensor], Any]]:
        """Yield windows, their inputs and what the model gives; by halves where a GPU is too small."""
        try:
            placed = self._placed(inputs)
            with self._lock:  # hooks sit on the shared model
                read, output = read_points(self.model, taps, placed, to_the_end=embeds)
        except torch.cuda.OutOfMemoryError:
            if len(chosen) == 1:
                raise
        else:
            yield chosen, placed, read, output
            return
        torch.cuda.empty_cache()
        for half in np.array_split(chosen, 2):
            yield from self._passes(half, prepare(half), prepare, taps, embeds=embeds)

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return inputs on the model's device, pixels in its type."""
        placed = {}
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                kind = self.model.dtype if value.is_floating_point() else value.dtype
                is_cuda = self.model.device.type == "cuda"
                if is_cuda:
                    value = value.pin_memory()  # noqa: PLW2901 copied while the GPU still computes
                placed[name] = value.to(self.model.device, kind, non_blocking=is_cuda)
            else:
                placed[name] = value
        return placed


def _listed(points: Any) -> list[Any]:
    """Return hook points as a list; one alone is not meant."""
    is_one = isinstance(points, str) or (
        isinstance(points, tuple) and len(points) == 2 and isinstance(points[1], str)
        and not isinstance(points[0], str | tuple)
    )  # fmt: skip
    if is_one or not points:
        given = f"the hook point {points!r}" if is_one else "no hook points"
        raise InvalidParameterError(f"Got {given} as points; expected a list of at least one.")
    return list(points)


def _sizes(config: Any, architecture: Architecture) -> Any:
    """Return the part of a configuration that is about the tower that is read."""
    return getattr(config, architecture.config, config) if architecture.config else config


def _settle(config: Any) -> None:
    """Turn off what costs time or depends on the machine, and changes no number."""
    for part in (config, getattr(config, "text_config", None)):
        if part is None:
            continue
        if getattr(part, "use_cache", False):
            part.use_cache = False
        if hasattr(part, "reference_compile"):  # ModernBERT in transformers 4
            part.reference_compile = False


def _longest(model: Any, sizes: Any, tokenizer: Any) -> int:
    """Return the least of what model and tokenizer can take."""
    positions = getattr(sizes, "max_position_embeddings", None)
    if positions is None:  # T5's are relative
        return int(tokenizer.model_max_length)
    positions = int(positions)
    embeddings = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    padding = getattr(embeddings, "padding_idx", None)
    if padding is not None:  # RoBERTa's positions start behind the padding index
        positions -= padding + 1
    return min(positions, int(tokenizer.model_max_length))
