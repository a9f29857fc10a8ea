"""What a plugin declares of a kind of model: what it takes, and where its structure is exceptional."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from sae_features.errors import InvalidParameterError, expected_one_of
from sae_features.hook_point import EMBEDDING, SITES

Modality = Literal["text", "image"]
Residual = Literal["pre_norm", "post_norm", "parallel"]


@dataclass(frozen=True)
class Text:
    """The model takes texts.

    Attributes
    ----------
    first_token_is_sink : bool
        Whether the first token of a sequence without a BOS is an attention sink of huge norm, as in
        decoders: it is context then, not content, unless it is the only token.
    reader : str
        ``module:Class`` that turns texts into what the model takes, imported on use.
    """

    first_token_is_sink: bool = False
    reader: str = "sae_features.backbones.text:TextInput"
    modality: Modality = field(default="text", init=False)


@dataclass(frozen=True)
class Patches:
    """The model takes images, and its tokens are patches in rows, after CLS and registers.

    Attributes
    ----------
    class_token : bool
        Whether a CLS token stands first.
    registers : str
        Entry of the configuration that counts register tokens, which follow CLS.
    n_extra : int
        Further tokens before the patches, such as DeiT's distillation token.
    reader : str
        ``module:Class`` that turns images into what the model takes, imported on use.
    """

    class_token: bool = True
    registers: str = "num_register_tokens"
    n_extra: int = 0
    reader: str = "sae_features.backbones.patches:PatchInput"
    modality: Modality = field(default="image", init=False)


@dataclass(frozen=True)
class ImageTokens:
    """The model takes an image and a prompt, and the image's tokens in its text tower are the tokens.

    Attributes
    ----------
    processor : str
        Class of transformers that lays out image and prompt, such as ``"PaliGemmaProcessor"``.
    image_first : bool
        Whether the image stands before the prompt, whatever the prompt says.
    reader : str
        ``module:Class`` that turns images into what the model takes, imported on use.
    """

    processor: str
    image_first: bool = False
    reader: str = "sae_features.backbones.image_tokens:ImageTokenInput"
    modality: Modality = field(default="image", init=False)


Input = Text | Patches | ImageTokens


@dataclass(frozen=True)
class Variant:
    """Sites that differ where the configuration has certain values.

    Attributes
    ----------
    when : mapping
        Entries of the configuration, all of which must be equal.
    sites : mapping of str to tuple of str
        As in :class:`Architecture`.
    residual : str, optional
        As in :class:`Architecture`, where it differs.
    """

    when: Mapping[str, Any]
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    residual: Residual | None = None


@dataclass(frozen=True)
class Architecture:
    """One ``model_type`` of transformers, and what its structure does not tell.

    Blocks and sites are found by structure (:mod:`sae_features.backbones.sites`); only exceptions
    are declared.

    Attributes
    ----------
    model_type : str
        As in ``config.json``.
    inputs : tuple of Text, Patches or ImageTokens
        What its models take, at most one of each modality.
    loader : str
        Class of transformers that loads it, best without a head.
    tower : str
        Module of the loaded model that the blocks are in; ``""`` for the model itself.
    config : str
        Entry of ``config.json`` with the sizes of that tower, such as ``"text_config"``.
    sites : mapping of str to tuple of str
        Exceptions: places of a site inside a block, ``"module.path:in"`` (what the module takes),
        ``":out"`` (what it gives) or ``":normalized"`` (what a norm gives before its gain); the first
        whose module is there counts.  No place: the models lack the site.
    variants : tuple of Variant
        Exceptions that depend on the configuration.
    residual : {"pre_norm", "post_norm", "parallel"}
        ``x + attn(norm(x))``, then ``x + mlp(norm(x))``; or ``norm(x + attn(x))`` and so on, as BERT
        does; or both added to the same ``x``.
    final_norm : bool
        Whether a norm follows the last block, so that ``hidden_states[-1]`` is not its output.
    embedding : str, optional
        Attribute of the model's output that is one vector per item, for models that pool by
        themselves; models of sentence-transformers say in ``modules.json`` how they pool.
    default_depth : float
        Which block is read where none is named: that share of all blocks.
    tiny : mapping
        Entries of the configuration of a small random model, for the conformance kit; only where the
        kit's usual ones do not do.
    """

    model_type: str
    inputs: tuple[Input, ...] = (Text(),)
    loader: str = "AutoModel"
    tower: str = ""
    config: str = ""
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    variants: tuple[Variant, ...] = ()
    residual: Residual = "pre_norm"
    final_norm: bool = True
    embedding: str | None = None
    default_depth: float = 0.5
    tiny: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_sites(self.model_type, self.sites)
        for variant in self.variants:
            _check_sites(self.model_type, variant.sites)
        if self.residual not in get_args(Residual):
            message = expected_one_of("residual", self.residual, get_args(Residual))
            raise InvalidParameterError(f"{self.model_type}: {message}")

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What its models take."""
        return tuple(kind.modality for kind in self.inputs)

    def input_of(self, modality: Modality) -> Input:
        """Return how items of a modality are taken."""
        return next(kind for kind in self.inputs if kind.modality == modality)

    def sizes(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of a configuration that is about the tower that is read.

        A model that was loaded as that tower alone has a configuration of its own.
        """
        part = config.get(self.config, config) if self.config else config
        return part if isinstance(part, Mapping) else {}

    def exceptions(self, config: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Return the declared places of sites in a model of that configuration."""
        places = dict(self.sites)
        for variant in self._variants(config):
            places |= variant.sites
        return places

    def residual_of(self, config: Mapping[str, Any]) -> Residual:
        """Return how blocks add to the residual stream in a model of that configuration."""
        stated = [v.residual for v in self._variants(config) if v.residual is not None]
        return stated[-1] if stated else self.residual

    def default_layer(self, n_layers: int) -> int:
        """Return the block that is read where none is named."""
        return min(n_layers - 1, int(self.default_depth * n_layers))

    def _variants(self, config: Mapping[str, Any]) -> list[Variant]:
        sizes = self.sizes(config)
        return [v for v in self.variants if all(sizes.get(key) == v.when[key] for key in v.when)]


def _check_sites(model_type: str, sites: Mapping[str, Any]) -> None:
    """Raise where a site is unknown, or a place is not written as one."""
    for site, places in sites.items():
        if site not in SITES or site == EMBEDDING:
            known = [known for known in SITES if known != EMBEDDING]
            raise InvalidParameterError(f"{model_type}: {expected_one_of('site', site, known)}")
        is_tuple = isinstance(places, tuple)
        wrong = [place for place in places if not is_tuple or not _is_place(place)]
        if not is_tuple or wrong:
            message = (
                f"{model_type}: got {site}={places!r}; expected a tuple of places such as ('mlp:in',), "
                "each 'module.path:in', ':out' or ':normalized'."
            )
            raise InvalidParameterError(message)


def _is_place(place: object) -> bool:
    return isinstance(place, str) and place.partition(":")[2] in {"in", "out", "normalized"}
