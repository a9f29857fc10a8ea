"""What is compared, and how: the methods, classifiers and folds that protocols share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.baselines import baselines_of_items, baselines_of_place, check_baselines
from sae_features.evaluation.classifiers import STRENGTHS, Classifier
from sae_features.evaluation.leakage import ON_LEAK
from sae_features.evaluation.methods import (
    LatentChoices,
    Method,
    ModelChoice,
    check_names,
    latent_methods,
    places_of,
)
from sae_features.parameters import check_choice, check_count
from sae_features.releases import FileSAE

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_BASELINES = ("states", "random_sae", "tfidf_word", "chance")


class ComparisonPlan:
    """What is compared, and how; the same for all protocols.

    Parameters
    ----------
    models : sequence of str, mapping or ModelChoice, default=("minilm",)
        Models, or what :class:`~sae_features.evaluation.methods.ModelChoice` takes: layers, SAEs and
        prompt of each.  A model may stand there several times, with other SAEs or poolings; it still
        reads each item once.
    layers : sequence of int, optional
        Of models that do not say their own.
    saes : sequence of str, optional
        Of models that do not say their own; ``"random:…"`` too.
    poolings : sequence of str, default=("max",)
    thresholds : sequence of float or None, default=(None,)
    binarize : sequence of bool, default=(False,)
    token_top_n : sequence of int or None, default=(None,)
        What is varied of how latents become features; hidden states share the poolings.
    baselines : sequence of str
        Some of :data:`~sae_features.evaluation.baselines.BASELINES`.
    classifiers : sequence of {"logistic", "linear_svc", "ridge", "tree"}, default=("logistic",)
    strengths : sequence of float
        What ``C`` is chosen from.
    cv : int, default=5
        Folds of data without a split of its own.
    repeats : int, default=1
        How often they are drawn anew, with the seeds after ``seed``.
    inner : int, default=3
        Folds of a training part by which choices are made.
    permuted : bool, default=True
        Whether the first method of each kind is also run on permuted labels, which must land at chance.
    on_leak : {"error", "drop", "warn"}, default="error"
        What happens to test items that are also trained on, where a split is given.
    seed : int, default=0
    folder : str or Path, optional
        Where results and codes are kept, so that a run that was interrupted goes on.  Without one,
        nothing is written.
    cache : None, bool, str or Path, optional
        Where codes are kept, as :class:`~sae_features.SAEFeaturizer` takes it; ``folder/codes`` if not
        given.
    n_jobs : int, default=1
        Cells computed at a time, each in a process.
    device, batch_size
        As :class:`~sae_features.SAEFeaturizer` takes them.
    verbose : bool, default=False
        Whether to show progress.
    """

    protocol = ""

    def __init__(
        self,
        models: Sequence[str | Path | Mapping[str, Any] | ModelChoice] = ("minilm",),
        *,
        layers: Sequence[int] | None = None,
        saes: Sequence[str | Path] | None = None,
        poolings: Sequence[str] = ("max",),
        thresholds: Sequence[float | None] = (None,),
        binarize: Sequence[bool] = (False,),
        token_top_n: Sequence[int | None] = (None,),
        baselines: Sequence[str] = DEFAULT_BASELINES,
        classifiers: Sequence[str] = ("logistic",),
        strengths: Sequence[float] = STRENGTHS,
        cv: int = 5,
        repeats: int = 1,
        inner: int = 3,
        permuted: bool = True,
        on_leak: str = "error",
        seed: int = 0,
        folder: str | Path | None = None,
        cache: bool | str | Path | None = None,
        n_jobs: int = 1,
        device: str | None = None,
        batch_size: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.models = [_model_choice(model, layers, saes) for model in several("models", models)]
        self.latents = LatentChoices(
            poolings=several("poolings", poolings),
            thresholds=several("thresholds", thresholds),
            binarize=several("binarize", binarize),
            token_top_n=several("token_top_n", token_top_n),
        )
        for choice in self.models:
            choice.latents(self.latents)  # checked here
        self.baselines = several("baselines", baselines, least=0)
        check_baselines(self.baselines)
        strengths = several("strengths", strengths)
        self.classifiers = [Classifier(kind, strengths) for kind in several("classifiers", classifiers)]
        if len({each.kind for each in self.classifiers}) < len(self.classifiers):
            raise InvalidParameterError(f"Got classifiers={classifiers!r}; expected different ones.")
        for name, value in (("cv", cv), ("repeats", repeats), ("inner", inner)):
            check_count(name, value)
            if value is None:
                raise InvalidParameterError(f"Got {name}=None; expected an integer above 0.")
        if not _is_integer(seed) or seed < 0:
            raise InvalidParameterError(f"Got seed={seed!r}; expected an integer, 0 or more.")
        if not _is_integer(n_jobs) or n_jobs == 0:
            raise InvalidParameterError(f"Got n_jobs={n_jobs!r}; expected an integer, -1 for all cores.")
        check_flags("permuted", permuted)
        check_choice("on_leak", on_leak, ON_LEAK)
        self.cv, self.repeats, self.inner = cv, repeats, inner
        self.permuted = permuted
        self.on_leak = on_leak
        self.seed = seed
        self.folder = None if folder is None else Path(folder).expanduser()
        self.n_jobs = n_jobs
        self.verbose = verbose
        kept = self.folder / "codes" if cache is None and self.folder is not None else cache
        self.how: dict[str, Any] = {"cache": kept, "device": device, "batch_size": batch_size}

    def methods(self, items: Sequence[Any], modality: str = "text") -> list[Method]:
        """Return all methods that are compared.

        Parameters
        ----------
        items : sequence
            What an SAE's L0 is measured on, where it does not say it.
        modality : {"text", "image"}
            Decides which baselines apply.

        Raises
        ------
        InvalidParameterError
            If a parameter of a featurizer cannot be, or there is nothing to compare.
        """
        found: dict[str, Method] = {}
        for choice in self.models:
            latents = choice.latents(self.latents)
            for place in places_of(choice):
                kind = "sae" if isinstance(place.target.sae, FileSAE) else "random_sae"
                has_sae = place.sae is not None
                own = latent_methods(place, latents, kind, **self.how) if has_sae else []
                check_names([*found.values(), *own])
                own += baselines_of_place(self.baselines, place, latents, items, **self.how)
                for method in own:  # several SAEs at one place share its hidden states
                    known = found.setdefault(method.name, method)
                    if not known.reads_like(method):
                        check_names([known, method])
        for method in baselines_of_items(self.baselines, modality):
            found[method.name] = method
        for method in found.values():
            if method.featurizer is not None:
                method.featurizer.check_parameters()
        if not found:
            raise InvalidParameterError("Got neither SAEs nor baselines; expected something to compare.")
        return list(found.values())

    def runs(self, methods: Sequence[Method]) -> list[tuple[Method, Classifier, str]]:
        """Return what is run of the methods: with each classifier, and the controls."""
        wanted = [(method, kind, "none") for method in methods for kind in self.classifiers]
        if self.permuted:
            first: dict[str, Method] = {}
            for method in methods:
                if method.kind != "chance":
                    first.setdefault(method.kind, method)
            wanted += [(method, self.classifiers[0], "permuted") for method in first.values()]
        return wanted

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as plain values."""
        return {
            "models": [
                {name: _plain(value) for name, value in vars(choice).items() if value is not None}
                for choice in self.models
            ],
            **{name: list(value) for name, value in vars(self.latents).items()},
            "baselines": list(self.baselines),
            "classifiers": [choice.kind for choice in self.classifiers],
            "strengths": list(self.classifiers[0].strengths),
            "scalings": list(self.classifiers[0].scalings),
            "cv": self.cv,
            "repeats": self.repeats,
            "inner": self.inner,
            "permuted": self.permuted,
            "on_leak": self.on_leak,
            "seed": self.seed,
        }


def _model_choice(
    model: str | Path | Mapping[str, Any] | ModelChoice,
    layers: Sequence[int] | None,
    saes: Sequence[str | Path] | None,
) -> ModelChoice:
    if isinstance(model, ModelChoice):
        choice = model
    elif isinstance(model, str | Path):
        choice = ModelChoice(model=model)
    elif not isinstance(model, Mapping):
        raise InvalidParameterError(f"Got models with {model!r}; expected names or mappings.")
    else:
        known = ModelChoice.__dataclass_fields__
        for name in model:
            check_choice("option of a model", name, known)
        choice = ModelChoice(**model)
    own_latents: dict[str, Any] = {
        name: several(name, value)
        for name in LatentChoices.__dataclass_fields__
        if (value := getattr(choice, name)) is not None
    }
    own_layers = choice.layers if choice.layers is not None else layers
    own_saes = choice.saes if choice.saes is not None else saes
    return replace(
        choice,
        layers=None if own_layers is None else several("layers", own_layers),
        saes=None if own_saes is None else several("saes", own_saes, least=0),
        **own_latents,
    )


def several(name: str, values: Any, *, least: int = 1) -> tuple[Any, ...]:
    """Return the values of a parameter that takes several; a single one is an error.

    Examples
    --------
    >>> several("poolings", "max")
    Traceback (most recent call last):
    ...
    sae_features.errors.InvalidParameterError: Got poolings='max'; expected a list: ['max'].
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InvalidParameterError(f"Got {name}={values!r}; expected a list: [{values!r}].")
    found = tuple(values)
    if len(found) < least:
        raise InvalidParameterError(f"Got no {name}; expected at least one.")
    return found


def check_flags(name: str, *values: Any) -> None:
    """Raise where a value is neither True nor False."""
    for value in values:
        if not isinstance(value, bool):
            raise InvalidParameterError(f"Got {name}={value!r}; expected True or False.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return value.name
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
