"""How good an SAE is, as one record and as lines of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.commands.quantities import share_as_text
from sae_features.errors import InvalidParameterError
from sae_features.training.language_models import LanguageModel, load_language_model
from sae_features.training.loss_recovered import losses_recovered
from sae_features.training.metrics import SAEEvaluation, evaluate_sae

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.training.sources import ActivationSource
    from sae_features.training.streams import BackboneSource

PREDICTED_TOKENS: Final = 16_384
"""About how many tokens of texts the language model predicts, if nothing else is asked for."""


def measures_of(sae: SparseAutoencoder, source: ActivationSource) -> dict[str, Any]:
    """Return the measures of an SAE on a source, as plain values; see :func:`record_of`."""
    return record_of(evaluate_sae(sae, source))


def record_of(evaluation: SAEEvaluation) -> dict[str, Any]:
    """Return an evaluation as plain values, with the quartiles of density of the latents that fire."""
    density = evaluation.density[evaluation.counts > 0]
    quartiles = np.quantile(density, [0.25, 0.5, 0.75]).tolist() if len(density) else None
    return evaluation.asdict() | {"density_quartiles": quartiles}


def load_predictor(source: BackboneSource) -> LanguageModel:
    """Load the model of a source with its language-model head, and raise unless it has a whole one.

    Raises
    ------
    InvalidParameterError
        If items are images or have a prompt.
    CheckpointError
        If the model's files lack the head.
    """
    if source.items.modality != "text" or source.prompt is not None:
        what = "images" if source.prompt is None else "--prompt"
        message = f"Got --loss-recovered with {what}; it is measured on plain texts. Leave one out."
        raise InvalidParameterError(message)
    return load_language_model(source.files.name, device=source.device)


def losses_of(
    saes: Sequence[SparseAutoencoder],
    source: BackboneSource,
    texts: Sequence[str],
    *,
    lm: LanguageModel | None = None,
    n_tokens: int = PREDICTED_TOKENS,
    verbose: bool = False,
) -> list[dict[str, Any]]:
    """Return for each SAE what its language model loses on about so many tokens of the first texts.

    Parameters
    ----------
    saes : sequence of SparseAutoencoder
        Of one hook point.
    source : BackboneSource
        Says how texts become tokens.
    texts : sequence of str
    lm : LanguageModel, optional
        What :func:`load_predictor` gave.
    n_tokens : int
    verbose : bool, default=False
        Whether to show progress.
    """
    per_text = source.n_rows / len(source.items)
    chosen = list(texts[: max(1, math.ceil(n_tokens / per_text))])
    lm = lm or load_predictor(source)
    found = losses_recovered(
        saes, lm, chosen, layer=source.hook_point.layer, site=source.hook_point.site,
        tokens=source.tokens, max_length=source.metadata["max_length"], overflow=source.overflow,
        verbose=verbose,
    )  # fmt: skip
    return [each.asdict() for each in found]


def measures_as_text(record: Mapping[str, Any]) -> list[str]:
    """Return a record as lines, each a name and a figure with its unit."""
    rows = [
        ("L0", f"{record['l0']:,.1f} of {record['n_latents']:,} latents fire per token"),
        ("FVU", f"{record['fvu']:.4f} of the variance is unexplained"),
        ("explained variance", f"{record['explained_variance']:.4f}"),
        ("gamma", f"{record['gamma']:.4f} (1 is unbiased, less is shrinkage)"),
        ("cosine", f"{record['cosine']:.4f}"),
        (
            "latents alive",
            f"{share_as_text(record['alive'])}, dead {share_as_text(record['dead'])}",
        ),
    ]
    if record["density_quartiles"]:
        low, middle, high = map(share_as_text, record["density_quartiles"])
        rows.append(("density", f"median {middle} of tokens, quartiles {low} and {high}"))
    if record.get("ce_original") is not None:
        rows += _losses_as_text(record)
    return [f"  {name:<20}{figure}" for name, figure in rows]


def _losses_as_text(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    said = f"{record['ce_original']:.4f} nats per token without the SAE, {record['ce_sae']:.4f} with it"
    rows = [("cross-entropy", said)]
    for name in ("zero", "mean"):
        loss, share = record[f"ce_{name}"], record[f"loss_recovered_{name}"]
        if loss is not None:
            rows.append(("loss recovered", f"{share_as_text(share)} ({name} ablation: {loss:.4f} nats)"))
    told = f"{record['kl']:.4f} nats, over {record['n_predictions']:,} predictions"
    return [*rows, ("KL divergence", told)]
