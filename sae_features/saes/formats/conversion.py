"""From the tensors of a release to the one canonical form.

A format is two functions: one that recognises files, and one that makes a :class:`Plan` of what they
declare.  No weight is read for either; :class:`ConvertedFormat` does the rest, the same for all.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError, SAEFeaturesWarning, SAEFormatError
from sae_features.parameters import DTYPES, check_count
from sae_features.saes.conventions import (
    DECODER_TENSORS,
    OPTIONAL_TENSORS,
    Architecture,
    check_conventions,
    check_input_norm,
    expected_shapes,
    is_scale,
)
from sae_features.saes.formats.header import SAEHeader
from sae_features.saes.labels import find_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from sae_features.hook_point import HookPoint
    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.saes.formats.files import SAEFiles


MEANINGFUL = {
    *("threshold", "thresholds", "log_threshold", "b_gate", "gate_bias", "b_mag", "mag_bias", "r_mag"),
    *("W_skip", "affine_skip_connection", "b_dec_out", "decoder.bias", "b_D", "activation.threshold"),
}
"""Tensors that change numbers: with a configuration that has no use for them, one of both is wrong."""


@dataclass(frozen=True)
class Piece:
    """Where a tensor of ours is in a file.

    Attributes
    ----------
    key : str
        Its name there.
    transposed : bool
        Whether the file holds a matrix the other way round.
    convert : callable, optional
        Applied to what is read, element by element.
    """

    key: str
    transposed: bool = False
    convert: Callable[[torch.Tensor], torch.Tensor] | None = None


@dataclass(frozen=True)
class Overrides:
    """What a caller adds where files are silent; each may be None."""

    k: Any = None
    norm_scale: Any = None

    def __post_init__(self) -> None:
        if self.norm_scale is not None and not is_scale(self.norm_scale):
            message = f"Got norm_scale={self.norm_scale!r}; expected a finite number above 0."
            raise InvalidParameterError(message)
        check_count("k", self.k)
        if self.k is not None:
            object.__setattr__(self, "k", int(self.k))  # may be numpy's


@dataclass(frozen=True)
class Plan:
    """What the files of an SAE declare, in the words of the canonical form.

    Attributes
    ----------
    architecture, d_in, n_latents, d_out
        As of :class:`~sae_features.SparseAutoencoder`; ``d_out`` is that of the input if not given.
    pieces : mapping of str to Piece
        Where each tensor of ours is.
    constants : mapping of str to float
        Tensors that are not in the file and have one value everywhere.
    extras : mapping of str to (str, shape)
        Tensors that only ``fold`` uses, and takes away: their key and shape in the file.
    conventions : mapping
        ``k``, ``topk_relu``, ``subtract_b_dec``, ``input_norm``, ``norm_scale``, ``denormalize``.
    fold : callable, optional
        From tensors by name to tensors by name, once all are read; see
        :mod:`sae_features.saes.folding`.
    folded : mapping
        Numbers from the configuration that ``fold`` uses: they are part of the digest.
    fold_needs_decoder : bool
        Whether ``fold`` uses the decoder, so that it is read even if only the encoder is asked for.
    hook_point, hook_point_out : HookPoint, optional
    metadata : mapping
    warnings : tuple of str
        What the files leave open, each with the argument that settles it.
    settled : frozenset of str
        Names of overrides that this plan had a use for.
    site_is_open : bool
        Whether the release has SAEs of several sites, and the files do not say which this one is of.
    unused : frozenset of str
        Tensors that may be in the file, and whose values are in use elsewhere or say nothing here.
    """

    architecture: Architecture
    d_in: int
    n_latents: int
    pieces: Mapping[str, Piece]
    d_out: int | None = None
    constants: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    conventions: Mapping[str, Any] = field(default_factory=dict)
    fold: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None
    folded: Mapping[str, Any] = field(default_factory=dict)
    fold_needs_decoder: bool = False
    hook_point: HookPoint | None = None
    hook_point_out: HookPoint | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()
    site_is_open: bool = False
    unused: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ConvertedFormat:
    """A format of others, read by a plan.

    Attributes
    ----------
    name : str
        As in the entry point.
    detects : callable
        From files to whether they are of this format, by their own evidence.
    plan : callable
        From files and overrides to a plan.
    write : callable, optional
        ``write(sae, folder, dtype)``, for a format that can be saved to.
    """

    name: str
    detects: Callable[[SAEFiles], bool]
    plan: Callable[[SAEFiles, Overrides], Plan]
    write: Callable[..., Any] | None = None

    def detect(self, files: SAEFiles) -> bool:
        """Tell from the files' own evidence whether they are of this format."""
        return self.detects(files)

    def read_header(self, files: SAEFiles, **overrides: Any) -> SAEHeader:
        """Read everything but the weights.

        Parameters
        ----------
        files : SAEFiles
        **overrides
            ``k`` and ``norm_scale``, where the files do not say.
        """
        return self._header(files, self._checked_plan(files, overrides))

    def load(
        self, files: SAEFiles, *, device: str, dtype: str, decoder: bool, **overrides: Any
    ) -> SparseAutoencoder:
        """Read the weights, one tensor at a time.

        Warns
        -----
        SAEFeaturesWarning
            Of what the files leave open.
        """
        from sae_features.saes.autoencoder import SparseAutoencoder
        from sae_features.saes.provenance import remember_files

        plan = self._checked_plan(files, overrides)
        header = self._header(files, plan)
        for message in plan.warnings:
            warnings.warn(message, SAEFeaturesWarning, stacklevel=4)
        tensors: dict[str, Any] = read_tensors(plan, files, device=device, dtype=dtype, decoder=decoder)
        sae = SparseAutoencoder(
            plan.architecture,
            **tensors,
            **plan.conventions,
            hook_point=plan.hook_point,
            hook_point_out=plan.hook_point_out,
            metadata=plan.metadata,
            labels=_labels(header),
        )
        return remember_files(sae, header)

    def _header(self, files: SAEFiles, plan: Plan) -> SAEHeader:
        info = files.infos[plan.pieces["W_enc"].key]
        return SAEHeader(
            format=self.name,
            path=files.path,
            weights=files.weights,
            architecture=plan.architecture,
            d_in=plan.d_in,
            d_out=plan.d_out or plan.d_in,
            n_latents=plan.n_latents,
            dtype=info.dtype,
            conventions={"architecture": plan.architecture, **plan.conventions},
            folded={"format": self.name, **plan.folded},
            has_decoder="W_dec" in plan.pieces,
            hook_point=plan.hook_point,
            hook_point_out=plan.hook_point_out,
            metadata=plan.metadata,
            labels_file=find_labels(files.folder, files.weights.stem if files.has_neighbours else None),
            nbytes=files.weights.stat().st_size,
            site_is_open=plan.site_is_open,
            warnings=plan.warnings,
        )

    def _checked_plan(self, files: SAEFiles, overrides: Mapping[str, Any]) -> Plan:
        given = {name: value for name, value in overrides.items() if value is not None}
        known = {name: files.known[name] for name in ("k", "norm_scale") if name in files.known}
        plan = self.plan(files, Overrides(**(known | given)))
        used = {name: value for name, value in known.items() if name in plan.settled}
        if used != known:  # the files say it themselves
            plan = self.plan(files, Overrides(**(used | given)))
        for name, value in given.items():
            if name not in plan.settled:
                message = (
                    f"Got {name}={value!r}, but the files of {str(files.path)!r} say all that decides "
                    "it (sae-features inspect shows it). Leave it out."
                )
                raise InvalidParameterError(message)
        if files.known.get("centred"):
            plan = _centred(plan, files)
        shapes = _shapes(plan)
        d_in, n_latents, conventions = plan.d_in, plan.n_latents, plan.conventions
        check_conventions(plan.architecture, conventions.get("k"), n_latents)
        check_input_norm(conventions.get("input_norm", "none"), conventions.get("norm_scale"), d_in)
        expected = {
            piece.key: shapes[name][::-1] if piece.transposed else shapes[name]
            for name, piece in plan.pieces.items()
        }
        for key, shape in (expected | dict(plan.extras.values())).items():
            if files.shape(key) != shape:
                message = (
                    f"{files.weights}: got {key} of shape {files.shape(key)}; expected {shape}, with "
                    f"d_in={d_in} and n_latents={n_latents}."
                )
                raise SAEFormatError(message)
            if files.infos[key].dtype not in DTYPES:
                got = f"{key} of type {files.infos[key].dtype}"
                raise SAEFormatError(f"{files.weights}: got {got}; expected one of {', '.join(DTYPES)}.")
        optional = set(OPTIONAL_TENSORS) - ({"W_dec"} if plan.fold_needs_decoder else set())
        missing = set(shapes) - set(plan.pieces) - set(plan.constants) - optional
        if missing:
            raise SAEFormatError(f"{files.weights}: got no tensors for {', '.join(sorted(missing))}.")
        return _without_unused(plan, files)


def _centred(plan: Plan, files: SAEFiles) -> Plan:
    """Return a plan of an SAE that reads activations less their mean, as its release says."""
    stated = plan.conventions.get("input_norm", "none")
    is_named = plan.hook_point_out is not None or "hook_name_out" in plan.metadata
    is_transcoder = plan.d_out not in (None, plan.d_in) or "W_skip" in plan.pieces or is_named
    if is_transcoder or stated not in ("none", "scale"):
        got = "a transcoder" if is_transcoder else f"input_norm={stated!r}"
        message = (
            f"{files.weights}: got {got} of a release that says that it reads centred activations; "
            "expected an SAE without a normalisation of each input."
        )
        raise SAEFormatError(message)
    return replace(plan, conventions={**plan.conventions, "input_norm": "center"})


def _labels(header: SAEHeader) -> Mapping[int, str]:
    """Return labels, if what is called so beside the files of others is of this SAE."""
    try:
        return header.labels
    except SAEFormatError as error:
        warnings.warn(f"{error} The SAE is loaded without labels.", SAEFeaturesWarning, stacklevel=5)
        return {}


def _without_unused(plan: Plan, files: SAEFiles) -> Plan:
    """Return a plan that warns of tensors that nothing is known of; raise where one changes numbers."""
    used = {piece.key for piece in plan.pieces.values()} | {key for key, _ in plan.extras.values()}
    left = sorted(files.names - used - plan.unused)
    contradicting = [name for name in left if name in MEANINGFUL]
    if contradicting:
        message = (
            f"{files.weights}: got {', '.join(contradicting)}, which architecture={plan.architecture!r} "
            "has no use for; expected a configuration and tensors of the same SAE."
        )
        raise SAEFormatError(message)
    if not left:
        return plan
    named = ", ".join(map(repr, left[:5])) + (" …" if len(left) > 5 else "")
    warning = (
        f"The SAE {str(files.path)!r} holds tensors that are not known, and were not used: {named}."
    )
    return replace(plan, warnings=(*plan.warnings, warning))


def _shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    return expected_shapes(plan.architecture, plan.d_in, plan.n_latents, plan.d_out or plan.d_in)


def read_tensors(
    plan: Plan, files: SAEFiles, *, device: str, dtype: str, decoder: bool
) -> dict[str, torch.Tensor]:
    """Return the tensors of an SAE as the canonical form has them."""
    import torch

    wanted = getattr(torch, dtype)
    unused = () if decoder else DECODER_TENSORS
    tensors: dict[str, torch.Tensor] = {}
    for name, piece in plan.pieces.items():
        if name in unused and not (plan.fold_needs_decoder and name == "W_dec"):
            continue
        tensor = files.container.read(piece.key)
        if plan.fold is not None or piece.convert is not None:  # computed with in float32 or better
            check_finite(piece.key, tensor, files.weights)  # exp(-inf) would be
            tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        tensor = tensor.mT if piece.transposed and tensor.ndim == 2 else tensor
        tensors[name] = tensor if piece.convert is None else piece.convert(tensor)
        if plan.fold is None:
            tensors[name] = _cast(name, tensors[name], wanted).to(device)
    like = tensors["W_enc"]
    for name, value in plan.constants.items():
        if not abs(value) <= torch.finfo(like.dtype).max:
            got = f"{name}={value:g}"
            raise SAEFormatError(f"{files.weights}: got {got}; expected what {like.dtype} holds.")
        tensors[name] = like.new_full(_shapes(plan)[name], value)
    if plan.fold is not None:
        work = like.dtype
        extras = {name: files.container.read(key) for name, (key, _) in plan.extras.items()}
        for name, (key, _) in plan.extras.items():
            check_finite(key, extras[name], files.weights)
        tensors = plan.fold(tensors | {name: tensor.to(work) for name, tensor in extras.items()})
        tensors = {
            name: _cast(name, tensor, wanted).to(device)
            for name, tensor in tensors.items()
            if name not in unused
        }
    for name, tensor in tensors.items():
        check_finite(name, tensor, files.weights)
    return tensors


def _cast(name: str, tensor: torch.Tensor, wanted: torch.dtype) -> torch.Tensor:
    """Return a tensor in another type; a threshold that it cannot hold is never reached in it either."""
    import torch

    narrower = torch.finfo(wanted).max < torch.finfo(tensor.dtype).max
    if name == "threshold" and narrower and bool(tensor.isfinite().all()):  # else it is refused
        tensor = tensor.clamp(max=torch.finfo(wanted).max)
    return tensor.to(wanted)


def check_finite(name: str, tensor: torch.Tensor, path: object) -> None:
    """Raise where a tensor holds NaN or infinity; reads it once and takes no memory."""
    # A sum is finite only if all of its terms are, and is the fastest pass over them; one that is not
    # may also have overflowed.
    if tensor.element_size() >= 4 and math.isfinite(tensor.sum()):
        return
    low, high = (float(bound) for bound in tensor.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        message = f"{path}: {name} holds NaN or infinity; expected finite {tensor.dtype} weights."
        hint = " Larger types may hold them." if tensor.element_size() < 4 else ""
        raise SAEFormatError(message + hint)
