"""Methods: what each item becomes, and what is learned from it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError
from sae_features.featurizer import SAEFeaturizer
from sae_features.parameters import POOLINGS, check_choice, check_count, check_threshold
from sae_features.releases import FileSAE
from sae_features.targets import Request, resolve_sae, resolve_target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sklearn.pipeline import Pipeline

    from sae_features.base import BaseFeaturizer
    from sae_features.evaluation.classifiers import Classifier
    from sae_features.targets import Target

SETTINGS = (
    "model", "layer", "site", "sae", "tokens", "prompt", "max_length", "dtype", "pooling", "threshold",
    "binarize", "token_top_n",
)  # fmt: skip
"""Columns of results that say what a method is."""
WORDS = ("tfidf_word", "tfidf_char", "bag_of_words")
"""Kinds of methods that read texts without a model."""
OVER_ALL_TOKENS = ("max", "mean", "sum", "count")
MODEL_OPTIONS = ("site", "tokens", "prompt", "max_length", "overflow", "dtype")


@dataclass(frozen=True)
class Method:
    """One way from items to a decision, less the classifier.

    Attributes
    ----------
    name : str
        What results call it; unique among those compared.
    kind : str
        What sort it is: ``"sae"``, ``"random_sae"``, ``"states"``, ``"tfidf_word"`` …
    featurizer : SAEFeaturizer or ActivationFeaturizer, optional
        Learns nothing, so that its rows are made once for all folds; None hands items on as they are.
    steps : tuple of (str, estimator)
        What is learned inside the training part before scaling: TF-IDF, PCA …
    scalings : tuple of str, optional
        Which scalings the classifier chooses from; all if None.
    components_of : str, optional
        Name of the method whose mean number of active features is the ``n_components`` of the last step.
    settings : mapping
        Values of :data:`SETTINGS`.
    """

    name: str
    kind: str
    featurizer: BaseFeaturizer | None = None
    steps: tuple[tuple[str, Any], ...] = ()
    scalings: tuple[str, ...] | None = None
    components_of: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_sparse(self) -> bool:
        """Whether rows are sparse where they are scaled; dense ones are centred, too."""
        return isinstance(self.featurizer, SAEFeaturizer) or self.kind in WORDS

    def reads_like(self, other: Method) -> bool:
        """Tell whether both make the same rows of items."""
        mine, others = (
            None
            if method.featurizer is None
            else (type(method.featurizer), method.featurizer.get_params())
            for method in (self, other)
        )
        return mine == others

    def pipeline(self, classifier: Classifier, *, n_classes: int = 2) -> Pipeline:
        """Return the whole as a scikit-learn pipeline, from items to predictions; nothing is fitted.

        Scaling and strength of regularisation are the classifier's first choices; in a sweep both are
        chosen inside each training part.
        """
        from sklearn.base import clone
        from sklearn.pipeline import Pipeline

        first = [] if self.featurizer is None else [("features", clone(self.featurizer))]
        learner = classifier.learner(self, n_classes=n_classes)
        return Pipeline([*first, *learner.steps])


@dataclass(frozen=True, kw_only=True)
class ModelChoice:
    """A model, and where and how it is read.

    Parameters
    ----------
    model : str or Path
        As :class:`~sae_features.SAEFeaturizer` takes it.
    layers : sequence of int, optional
        Blocks, from 0; those of the SAEs if not given, or the model's default.
    saes : sequence of str or Path, optional
        SAEs, each at its own layer, or ``"random:…"`` and SAEs that do not say, at each of ``layers``.
        Not given: the model's default SAE at each layer.  Empty: none, hidden states alone.
    max_length : int, optional
        The least that the model and all its SAEs say if not given, so that all see the same tokens.
    site, tokens, prompt, overflow, dtype : optional
        As :class:`~sae_features.SAEFeaturizer` takes them.
    poolings, thresholds, binarize, token_top_n : sequence, optional
        How latents of this model become features, where it differs from what all models share: see
        :class:`LatentChoices`.
    """

    model: str | Path = "minilm"
    layers: tuple[int, ...] | None = None
    saes: tuple[str | Path, ...] | None = None
    site: str | None = None
    tokens: str = "content"
    prompt: str | None = None
    max_length: int | None = None
    overflow: str = "truncate"
    dtype: str | None = None
    poolings: tuple[str, ...] | None = None
    thresholds: tuple[float | None, ...] | None = None
    binarize: tuple[bool, ...] | None = None
    token_top_n: tuple[int | None, ...] | None = None

    def options(self) -> dict[str, Any]:
        """Return what featurizers of this model share."""
        return {"model": self.model} | {name: getattr(self, name) for name in MODEL_OPTIONS}

    def latents(self, shared: LatentChoices) -> LatentChoices:
        """Return how latents of this model become features."""
        own = {name: getattr(self, name) for name in LatentChoices.__dataclass_fields__}
        return replace(shared, **{name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True)
class Place:
    """A hook point of a model, and the SAE read there, if any.

    Attributes
    ----------
    choice : ModelChoice
    layer : int
    sae : str, Path or None
    target : Target
        What they stand for; nothing is loaded.
    """

    choice: ModelChoice
    layer: int
    sae: str | Path | None
    target: Target

    @property
    def options(self) -> dict[str, Any]:
        """Parameters of an ActivationFeaturizer that reads here."""
        return self.choice.options() | {"layer": self.layer}

    @property
    def name(self) -> str:
        """What it is called: ``"minilm layer 3"``."""
        site = self.target.point.site
        where = f"layer {self.layer}" + ("" if site == "resid_post" else f" {site}")
        return f"{self.model_name} {where}"

    @property
    def model_name(self) -> str:
        """The model's short name."""
        return short_name(str(self.choice.model))

    def settings(self, **given: Any) -> dict[str, Any]:
        """Return what identifies a method that reads here."""
        options = {name: value for name, value in self.options.items() if name in SETTINGS}
        options |= {"model": self.model_name, "site": self.target.point.site}
        return options | given


def places_of(choice: ModelChoice) -> list[Place]:
    """Return where a model is read: each SAE at its layer, all over the same tokens.

    Where no ``max_length`` is given and an SAE says a shorter context than the model's, all that read
    the model keep to it, hidden states too.

    Raises
    ------
    InvalidParameterError
        If an SAE belongs to none of the layers asked for, or no SAE is known for a layer.
    """
    if choice.saes is not None and not choice.saes:
        return [_place(choice, layer, None, with_sae=False) for layer in choice.layers or (None,)]
    places = []
    for sae in choice.saes or (None,):
        layers: tuple[int | None, ...] = choice.layers or (None,)
        if sae is not None:
            found = resolve_sae(Request(choice.model, None, choice.site, sae))
            own = found.hook_point
            if isinstance(found, FileSAE) and own is not None and choice.layers is not None:
                if own.layer not in choice.layers:
                    message = (
                        f"Got the SAE {found.name!r}, which reads layer {own.layer}, with layers="
                        f"{list(choice.layers)}; add its layer, or leave the SAE out."
                    )
                    raise InvalidParameterError(message)
                layers = (own.layer,)
        places += [_place(choice, layer, sae, with_sae=True) for layer in layers]
    contexts = [place.target.sae.metadata.get("max_length") for place in places if place.target.sae]
    said = [context for context in contexts if isinstance(context, int)]
    if choice.max_length is not None or not said:
        return places
    shared = replace(choice, max_length=min(*said, places[0].target.model.context))
    return [replace(place, choice=shared) for place in places]


def _place(choice: ModelChoice, layer: int | None, sae: str | Path | None, *, with_sae: bool) -> Place:
    target = resolve_target(Request(choice.model, layer, choice.site, sae), with_sae=with_sae)
    if target.sae is not None and sae is None:
        sae = target.sae.name
    return Place(choice, target.point.layer, sae, target)


@dataclass(frozen=True, kw_only=True)
class LatentChoices:
    """What is varied of how latents become features.

    Attributes
    ----------
    poolings : tuple of str
    thresholds : tuple of (float or None)
    binarize : tuple of bool
    token_top_n : tuple of (int or None)
    """

    poolings: tuple[str, ...] = ("max",)
    thresholds: tuple[float | None, ...] = (None,)
    binarize: tuple[bool, ...] = (False,)
    token_top_n: tuple[int | None, ...] = (None,)

    def __post_init__(self) -> None:
        """Check the choices."""
        for pooling in self.poolings:
            check_choice("pooling", pooling, POOLINGS)
        for threshold in self.thresholds:
            check_threshold(threshold)
        for number in self.token_top_n:
            check_count("token_top_n", number)
        flags: tuple[Any, ...] = self.binarize
        if other := [value for value in flags if not isinstance(value, bool)]:
            raise InvalidParameterError(f"Got binarize={other[0]!r}; expected True or False.")

    def each(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations, as parameters of SAEFeaturizer; of those that are equal the first.

        Whether a latent fired at all is the same for all poolings over all tokens (of the SAEs whose
        codes are never negative, which are nearly all).
        """
        seen = set()
        for pooling, top_n, threshold, binarize in itertools.product(
            self.poolings, self.token_top_n, self.thresholds, self.binarize
        ):
            is_whether_fired = binarize and threshold is None and pooling in OVER_ALL_TOKENS
            features = ("any" if is_whether_fired else pooling, top_n, threshold, binarize)
            if features in seen:
                continue
            seen.add(features)
            yield {
                "pooling": pooling, "token_top_n": top_n, "threshold": threshold, "binarize": binarize,
            }  # fmt: skip


def latent_methods(
    place: Place, choices: LatentChoices, kind: str = "sae", sae: str | Path | None = None, **how: Any
) -> list[Method]:
    """Return the methods that classify by latents at a place, one for each combination of choices.

    Parameters
    ----------
    place : Place
    choices : LatentChoices
    kind : str
        What results call the sort.
    sae : str or Path, optional
        Another SAE than the place's own.
    **how
        Parameters of the featurizer that do not change features: ``cache``, ``device``, ``batch_size``.
    """
    sae = place.sae if sae is None else sae
    name = short_name(str(sae))
    return [
        Method(
            f"{place.name} {name} {_words(given)}",
            kind,
            SAEFeaturizer(**place.options | given, sae=sae, **how),
            settings=place.settings(sae=name, **given),
        )
        for given in choices.each()
    ]


def short_name(name: str) -> str:
    """Return an id as it is, and of a path on this machine its last part."""
    return Path(name).name if Path(name).is_absolute() else name


def _words(given: Mapping[str, Any]) -> str:
    words = [given["pooling"]]
    if given["token_top_n"] is not None:
        words.append(f"top {given['token_top_n']}")
    if given["threshold"] is not None:
        words.append(f"> {given['threshold']:g}")
    if given["binarize"]:
        words.append("binarized")
    return " ".join(words)


def check_names(methods: Sequence[Method]) -> None:
    """Raise where two methods have one name: results could not tell them apart."""
    seen: set[str] = set()
    for method in methods:
        if method.name in seen:
            raise InvalidParameterError(
                f"Got two methods called {method.name!r}; expected different ones."
            )
        seen.add(method.name)
