"""Baselines that get the same care: hidden states, random SAEs, projections, words, chance."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.random_projection import GaussianRandomProjection

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.methods import WORDS, LatentChoices, Method, latent_methods
from sae_features.evaluation.pictures import PixelRows
from sae_features.featurizer import ActivationFeaturizer, SAEFeaturizer
from sae_features.parameters import ACTIVATION_POOLINGS, check_choice
from sae_features.releases import FileSAE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_features.evaluation.methods import Place

OF_A_PLACE = (
    "states", "states_raw", "states_standardised", "last_token", "random_sae", "pca", "projection",
)  # fmt: skip
BASELINES = (*OF_A_PLACE, *WORDS, "pixels", "chance")
"""Baselines by kind:

* ``states``: the hidden states that the SAE reads, pooled in the same way over the same tokens, scaled
  as latents are; ``states_raw`` as they are, ``states_standardised`` always standardised;
* ``last_token``: the hidden states of the last counted token, as arXiv 2502.11367 takes them;
* ``random_sae``: an SAE of the same width and L0 that learned nothing;
* ``pca``, ``projection``: hidden states on as many principal components, or random directions
  (Gaussian), as a row of latents has active features (at most as many as the model's width);
* ``tfidf_word`` (words and pairs of them), ``tfidf_char`` (2 to 5 letters), ``bag_of_words`` (counts);
* ``pixels``: of images, 32 × 32 × 3;
* ``chance``: the commonest class, with the classes' shares as probabilities.
"""
SCALED = (
    ("states", "", None),
    ("states_raw", ", raw", ("none",)),
    ("states_standardised", ", standardised", ("standard",)),
)
ANY_WORD = r"(?u)\b\w+\b"
"""Words of one letter, too."""
SAMPLE = 32
"""Items by which the L0 of an SAE is measured that does not say it."""


def baselines_of_place(
    names: Sequence[str], place: Place, choices: LatentChoices, items: Sequence[Any], **how: Any
) -> list[Method]:
    """Return the baselines that read a model where an SAE reads it.

    Parameters
    ----------
    names : sequence of str
        Some of :data:`BASELINES`; those of texts or images are left out.
    place : Place
    choices : LatentChoices
        Poolings of latents; hidden states are pooled in the same ways (all but ``"count"``).
    items : sequence
        What an SAE's L0 is measured on, where it does not say it.
    **how
        Parameters of the featurizers that do not change features: ``cache``, ``device``, ``batch_size``.
    """
    check_baselines(names)
    methods: list[Method] = []
    poolings = [pooling for pooling in choices.poolings if pooling in ACTIVATION_POOLINGS]

    def states(kind: str, pooling: str, word: str, **parts: Any) -> Method:
        return Method(
            f"{place.name} {word}",
            kind,
            ActivationFeaturizer(**place.options, pooling=pooling, **how),
            settings=place.settings(pooling=pooling),
            **parts,
        )

    for pooling in poolings:
        for kind, word, scalings in SCALED:
            if kind in names:
                methods.append(states(kind, pooling, f"states {pooling}{word}", scalings=scalings))
    if "last_token" in names and not ("states" in names and "last" in poolings):
        methods.append(states("last_token", "last", "last token"))
    if not isinstance(place.target.sae, FileSAE):
        return methods
    plain = replace(choices, thresholds=(None,), binarize=(False,), token_top_n=(None,))
    if "random_sae" in names:
        methods += latent_methods(place, plain, "random_sae", random_twin(place, items, **how), **how)
    width = place.target.model.width(place.target.point)
    run = {method.name: method for method in latent_methods(place, choices)}
    for pooling in poolings:
        (usual,) = latent_methods(place, replace(plain, poolings=(pooling,)))
        compared = [name for name, each in run.items() if each.settings["pooling"] == pooling] or [*run]
        size_of = usual.name if usual.name in compared else compared[0]
        steps = {
            "pca": ("PCA", PCA(random_state=0, svd_solver="full")),
            "projection": ("random projection", GaussianRandomProjection(width, random_state=0)),
        }
        for kind in [name for name in steps if name in names]:
            word, step = steps[kind]
            own = {"steps": (("project", step),), "components_of": size_of}
            like = f"states {pooling}, {word} for {usual.settings['sae']}"
            methods.append(states(kind, pooling, like, **own))
    return methods


def baselines_of_items(names: Sequence[str], modality: str) -> list[Method]:
    """Return the baselines that need no model, as far as they fit the items.

    Parameters
    ----------
    names : sequence of str
        Some of :data:`BASELINES`.
    modality : {"text", "image"}
    """
    check_baselines(names)
    words = {
        "tfidf_word": TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=ANY_WORD),
        "tfidf_char": TfidfVectorizer(sublinear_tf=True, analyzer="char_wb", ngram_range=(2, 5)),
        "bag_of_words": CountVectorizer(token_pattern=ANY_WORD),
    }
    titles = {
        "tfidf_word": "TF-IDF words",
        "tfidf_char": "TF-IDF letters",
        "bag_of_words": "bag of words",
    }
    methods = []
    for name in names:
        if name in WORDS and modality == "text":
            methods.append(Method(titles[name], name, steps=(("words", words[name]),)))
        elif name == "pixels" and modality == "image":
            methods.append(Method("pixels", name, steps=(("pixels", PixelRows()),)))
        elif name == "chance":
            methods.append(Method("chance", name))
    return methods


def check_baselines(names: Sequence[str]) -> None:
    """Raise where a name is not one of :data:`BASELINES`."""
    for name in names:
        check_choice("baseline", name, BASELINES)


def random_twin(place: Place, items: Sequence[Any], **how: Any) -> str:
    """Return the random SAE of the width and L0 of a place's own: ``"random:WIDTH:K"``.

    The L0 is ``k`` where the SAE has one; or else it is measured on a few of the items.

    Raises
    ------
    InvalidParameterError
        If there is no SAE.
    """
    sae = place.target.sae
    if sae is None:
        raise InvalidParameterError(f"{place.name} has no SAE; expected one to draw a random twin of.")
    k = sae.header.conventions.get("k") if isinstance(sae, FileSAE) else None
    if not isinstance(k, int):
        some = list(items[:: max(1, len(items) // SAMPLE)])[:SAMPLE]
        codes = SAEFeaturizer(**place.options, sae=place.sae, **how).token_codes(some)
        n_tokens = max(1, len(codes.token_offsets) - 1)
        k = max(1, round(len(codes.values) / n_tokens))
    return f"random:{sae.n_latents}:{k}"
