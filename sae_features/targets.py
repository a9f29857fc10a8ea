"""What ``model``, ``layer``, ``site`` and ``sae`` stand for, each filled from the others."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, InvalidParameterError, expected_one_of
from sae_features.hook_point import EMBEDDING, SITES, HookPoint, parse_hook_name
from sae_features.models import ModelFiles, find_model, names_of_model
from sae_features.releases import FileSAE, SAEReference, find_sae, sae_of_source
from sae_features.sae_registry import known_saes

if TYPE_CHECKING:
    from sae_features.sae_sources import SAESource

DEFAULT_MODEL = "minilm"
DEFAULT_SITE = "resid_post"


@dataclass(frozen=True)
class Request:
    """What was asked for: each part may be None."""

    model: str | Path | None = None
    layer: int | None = None
    site: str | None = None
    sae: str | Path | None = None

    @property
    def has_name(self) -> bool:
        """Whether ``site`` is another library's name of a hook point."""
        return isinstance(self.site, str) and self.site not in SITES and "." in self.site


@dataclass(frozen=True)
class Target:
    """A model found, the place to read it, and the SAE found; nothing is loaded.

    Attributes
    ----------
    model : ModelFiles
    point : HookPoint
    sae : FileSAE, RandomSAE or None
    """

    model: ModelFiles
    point: HookPoint
    sae: SAEReference | None


def resolve_sae(request: Request) -> SAEReference:
    """Return the SAE that a request stands for, without fetching the model's weights.

    A layer counted from the end needs the model's configuration, which may be fetched.

    Raises
    ------
    InvalidParameterError
        If no SAE is known for the model (and layer); the message lists what there is.
    """
    _check_request(request)
    if request.sae is not None:
        return find_sae(request.sae)
    request = _without_name(request, None)
    candidates = _at_site(
        _sources_of_model(DEFAULT_MODEL if request.model is None else request.model), request.site
    )
    layers = sorted({source.layer for source in candidates if source.layer is not None})
    if request.layer is None:
        chosen = [source for source in candidates if source.is_default]
    else:
        layer = request.layer
        if layer < 0 and candidates:
            layer += find_model(candidates[0].model, only_config=True).n_layers
        chosen = [source for source in candidates if source.layer == layer]
        chosen.sort(key=lambda source: not source.is_default)
    if not chosen:
        _check_exists(request)
        raise InvalidParameterError(_no_sae(request, layers))
    if _is_a_guess(chosen):
        raise InvalidParameterError(_too_many_saes(request, chosen))
    return sae_of_source(chosen[0])


def _check_exists(request: Request) -> None:
    """Raise where the model has no such layer or site: the better error."""
    site = request.site or DEFAULT_SITE
    model = DEFAULT_MODEL if request.model is None else request.model
    files = find_model(model, only_config=site != EMBEDDING)  # other files say how tokens are pooled
    layer = _count_from_0(request.layer, files)
    if layer is None:
        layer = files.n_layers - 1 if site == EMBEDDING else 0
    files.parse(HookPoint(layer, site))


def _without_name(request: Request, files: ModelFiles | None) -> Request:
    """Return a request whose ``site`` is one of ours, where it is another library's name."""
    if not request.has_name:
        return request
    point = parse_hook_name(request.site)
    if point is None:
        files = files or find_model(
            DEFAULT_MODEL if request.model is None else request.model, only_config=True
        )
        point = files.parse(str(request.site))
    if request.layer is not None and request.layer != point.layer:
        message = (
            f"Got layer={request.layer} with site={request.site!r}, which is of layer {point.layer}; "
            "leave one of them out."
        )
        raise InvalidParameterError(message)
    return replace(request, layer=point.layer, site=point.site)


def resolve_target(request: Request, *, with_sae: bool) -> Target:
    """Return model, hook point and SAE that a request stands for.

    Parameters
    ----------
    request : Request
        What the user gave.
    with_sae : bool
        Whether features are latents; without, only the hook point is filled in.

    Raises
    ------
    InvalidParameterError
        If parts contradict each other, or a part is missing and cannot be filled in.
    """
    if not with_sae:
        _check_request(request)
        files = find_model(DEFAULT_MODEL if request.model is None else request.model)
        request = _without_name(request, files)
        return Target(files, files.parse(_point_without_sae(request, files)), None)
    sae = resolve_sae(request)
    files = find_model(_model_name(request, sae))
    request = _without_name(request, files)
    point = files.parse(_point_of(request, sae, files))
    _check_model(request, sae, files)
    width = files.width(point)
    if sae.d_in(width) != width:
        message = (
            f"The SAE {sae.name!r} takes activations of size {sae.d_in(width)}, but the model "
            f"{files.name!r} has {width} at {point}; they do not belong together."
        )
        raise InvalidParameterError(message)
    return Target(files, point, sae)


def _sources_of_model(model: str | Path) -> list[SAESource]:
    """Return the known SAEs of a model, matched by alias, repository or content."""
    by_name = known_saes(str(model))
    if by_name or not Path(model).expanduser().is_dir():
        if not by_name:
            find_model(model, only_config=True)  # a model that does not exist is the better error
        return by_name
    digest = find_model(model).weights_digest
    matching = []
    for source in known_saes():
        if source.package is None:  # nothing is fetched to find out
            continue
        with contextlib.suppress(AssetNotFoundError):  # files of another SAE that are missing
            if _recorded_model(sae_of_source(source)).get("digest") == digest:
                matching.append(source)
    return matching


def _at_site(sources: list[SAESource], site: str | None) -> list[SAESource]:
    """Return those that read a site; without one, defaults and those of the default site, if any."""
    if site is not None:
        return [source for source in sources if source.site == site]
    usual = [source for source in sources if source.is_default or source.site == DEFAULT_SITE]
    return usual or [source for source in sources if source.site is not None]


def _is_a_guess(chosen: list[SAESource]) -> bool:
    """Tell whether the first is no better than the others: a release table has no order of merit."""
    first = chosen[0]
    return len(chosen) > 1 and not first.is_default and first.package is None


def _recorded_model(sae: SAEReference) -> dict[str, Any]:
    recorded = sae.metadata.get("model")
    return {"id": recorded} if isinstance(recorded, str) else dict(recorded or {})


def _model_name(request: Request, sae: SAEReference) -> str | Path:
    if request.model is not None:
        return request.model
    if isinstance(sae, FileSAE):
        if sae.source is not None:
            return sae.source.model
        recorded = _recorded_model(sae)
        if recorded.get("id"):
            revision = recorded.get("revision")
            is_hub = "/" in recorded["id"] and revision
            return f"{recorded['id']}@{revision}" if is_hub else str(recorded["id"])
        message = f"The SAE {sae.name!r} does not say which model it belongs to; give model=…"
        raise InvalidParameterError(message)
    return DEFAULT_MODEL


def _point_of(request: Request, sae: SAEReference, files: ModelFiles) -> HookPoint:
    known = sae.hook_point or _named_point(request, sae, files)
    if known is not None and _may_have_a_gain(sae, files, known):
        known = HookPoint(known.layer, _settled_gain(request, sae))
    if known is None:
        if isinstance(sae, FileSAE) and request.layer is None:
            message = (
                f"The SAE {sae.name!r} does not say which layer it reads; give layer=0 to "
                f"{files.n_layers - 1}."
            )
            raise InvalidParameterError(message)
        _check_site(request, sae)
        _check_layer_of_output(request, sae, files)
        return _point_without_sae(request, files)
    layer = _count_from_0(request.layer, files)
    if layer is not None and layer != known.layer:
        message = (
            f"Got layer={request.layer}, but the SAE {sae.name!r} reads layer {known.layer}; leave one "
            "of them out."
        )
        raise InvalidParameterError(message)
    if request.site is not None and request.site != known.site:
        message = (
            f"Got site={request.site!r}, but the SAE {sae.name!r} reads {known.site!r}; leave one of "
            "them out."
        )
        raise InvalidParameterError(message)
    if known.layer >= files.n_layers:
        message = (
            f"The SAE {sae.name!r} reads layer {known.layer}, but the model {files.name!r} has "
            f"{files.n_layers} blocks; they do not belong together."
        )
        raise InvalidParameterError(message)
    return known


def _named_point(request: Request, sae: SAEReference, files: ModelFiles) -> HookPoint | None:
    """Return what the SAE's own name of its hook point means in this family of models, or None."""
    name = sae.metadata.get("hook_name")
    if request.site is not None or not isinstance(name, str) or not isinstance(sae, FileSAE):
        return None
    with contextlib.suppress(InvalidParameterError):
        return files.parse(name)
    return None


def _may_have_a_gain(sae: SAEReference, files: ModelFiles, point: HookPoint) -> bool:
    """Tell whether TransformerLens' name of a point means one place or another.

    ``ln2.hook_normalized`` is before the gain in an RMSNorm, and in a LayerNorm only where gain and bias
    were folded into the weights that follow.
    """
    name = sae.metadata.get("hook_name")
    is_name = isinstance(name, str) and name.endswith(".ln2.hook_normalized")
    return is_name and point.site == "mlp_normalized" and files.has_layer_norm(point)


def _settled_gain(request: Request, sae: SAEReference) -> str:
    if request.site in {"mlp_in", "mlp_normalized"}:
        return str(request.site)
    message = (
        f"The SAE {sae.name!r} reads {sae.metadata['hook_name']!r}, which in a model with LayerNorm is "
        "behind gain and bias or, where TransformerLens folded them into the weights, before. Give "
        "site='mlp_in' (behind) or site='mlp_normalized' (before)."
    )
    raise InvalidParameterError(message)


def _check_site(request: Request, sae: SAEReference) -> None:
    """Raise where the usual site would be a guess: an SAE reads another place, or may."""
    if request.site is not None or not isinstance(sae, FileSAE):
        return
    name, header = sae.metadata.get("hook_name"), sae.header
    if name is not None:
        reads = f"reads {name!r}, which no site stands for in every model"
    elif header.hook_point_out is not None or header.d_out != header.d_in:
        reads = f"is a transcoder ({header.hook_point_out or 'its output is of another size'})"
    elif header.site_is_open:
        reads = "is of a release with SAEs of several sites, and its files do not say which"
    else:
        return
    message = f"The SAE {sae.name!r} {reads}. Give the place that it reads as site=, one of "
    message += f"{', '.join(SITES)}."
    raise InvalidParameterError(message)


def _check_layer_of_output(request: Request, sae: SAEReference, files: ModelFiles) -> None:
    """Raise where a transcoder of another layer was given: its files may tell only its output."""
    out = sae.header.hook_point_out if isinstance(sae, FileSAE) else None
    layer = _count_from_0(request.layer, files)
    if out is not None and layer is not None and layer != out.layer:
        message = f"Got layer={request.layer}, but the transcoder {sae.name!r} is of layer {out.layer}."
        raise InvalidParameterError(message)


def _point_without_sae(request: Request, files: ModelFiles) -> HookPoint:
    layer = _count_from_0(request.layer, files)
    site = request.site or DEFAULT_SITE
    if site == EMBEDDING:
        return HookPoint(files.n_layers - 1 if layer is None else layer, site)
    if layer is not None:
        return HookPoint(layer, site)
    for source in _sources_of_model(files.name):
        if source.is_default and source.layer is not None:
            return HookPoint(source.layer, site)
    return HookPoint(files.default_point.layer, site)


def _count_from_0(layer: int | None, files: ModelFiles) -> int | None:
    if layer is None:
        return None
    n_layers = files.n_layers
    if not -n_layers <= layer < n_layers:
        message = (
            f"Got layer={layer}; expected 0 to {n_layers - 1} (or -{n_layers} to -1): the model "
            f"{files.name!r} has {n_layers} blocks."
        )
        raise InvalidParameterError(message)
    return int(layer) % n_layers  # may be numpy's


def _check_model(request: Request, sae: SAEReference, files: ModelFiles) -> None:
    """Raise where the SAE was trained on other weights than those found."""
    recorded = _recorded_model(sae)
    name, digest = recorded.get("id"), recorded.get("digest")
    if digest is not None:
        if digest == files.weights_digest:
            return
        owner = f"{name!r} (weights {digest[:12]}…)"
        found = f"has other weights ({files.weights_digest[:12]}…)"
    else:
        # A folder may hold any model: without a digest only names can contradict each other.
        if name is None or files.source is None or names_of_model(name) & names_of_model(files.name):
            return
        owner, found = repr(name), "is another one"
    message = (
        f"The SAE {sae.name!r} belongs to the model {owner}, but "
        f"{'the model given' if request.model is not None else 'the model found'}, {files.name!r}, "
        f"{found}. To use them together on purpose, save a copy of the SAE without a recorded model: "
        "dataclasses.replace(load_sae(…), metadata={}).save(folder)."
    )
    raise InvalidParameterError(message)


def _check_request(request: Request) -> None:
    layer = request.layer
    if layer is not None and (isinstance(layer, bool) or not hasattr(layer, "__index__")):
        raise InvalidParameterError(f"Got layer={layer!r}; expected an integer or None.")
    if request.site is not None and request.site not in SITES and not request.has_name:
        raise InvalidParameterError(expected_one_of("site", request.site, SITES))
    for name in ("model", "sae"):
        value = getattr(request, name)
        if value is not None and not isinstance(value, str | Path):
            message = (
                f"Got {name} of type {type(value).__name__}; expected its name or path, so that clones "
                "stay cheap."
            )
            raise InvalidParameterError(message)


def _too_many_saes(request: Request, chosen: list[SAESource]) -> str:
    model = DEFAULT_MODEL if request.model is None else request.model
    where = f"layer={request.layer}" if request.layer is not None else "no layer"
    shown = ", ".join(repr(source.sae_id) for source in chosen[:3])
    command = f"sae-features saes --model {model} --layer {chosen[0].layer}"
    return (
        f"Got model={str(model)!r} with {where}, of which {len(chosen)} SAEs are known ({shown} …); "
        f"choose one by sae=… (`{command}` lists them)."
    )


def _no_sae(request: Request, layers: list[int]) -> str:
    model = DEFAULT_MODEL if request.model is None else request.model
    at_site = "" if request.site is None else f" and site={request.site!r}"
    if layers:
        where = f"layer={request.layer}" if request.layer is not None else "no layer"
        return (
            f"Got model={str(model)!r} with {where}{at_site}; SAEs of this model are known for layers "
            f"{', '.join(map(str, layers))}. Choose one of them, or give sae=…"
        )
    return (
        f"No SAE is known for model={str(model)!r}{at_site}; give sae=FOLDER (train one for your "
        "model), or use ActivationFeaturizer for its hidden states."
    )
