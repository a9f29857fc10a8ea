"""How much a language model loses when reconstructions of an SAE stand in for its activations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from sae_features.errors import InvalidParameterError
from sae_features.hook_point import HookPoint
from sae_features.items import check_texts
from sae_features.notices import Notices
from sae_features.parameters import check_choice
from sae_features.training.language_models import LanguageModel, load_language_model
from sae_features.training.metrics import refuse_transcoder
from sae_features.training.splicing import SplicedRuns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.training.splicing import Change

Ablation = Literal["zero", "mean", "both"]
ABLATIONS = ("zero", "mean", "both")


@dataclass(frozen=True)
class LossRecovered:
    """What a language model loses when activations are replaced; losses in nats per prediction.

    Attributes
    ----------
    ce_original : float
        Mean cross-entropy of the model as it is.
    ce_sae : float
        With the SAE's reconstructions in place of activations.
    ce_zero, ce_mean : float or None
        With zeros, and with the mean of the activations that are replaced; None if not asked for.
    loss_recovered_zero, loss_recovered_mean : float or None
        ``1 − (ce_sae − ce_original) / (ce_ablation − ce_original)``: 1 where nothing is lost, 0 where
        the SAE is no better than the ablation; NaN where the ablation changes nothing.
    kl : float
        Mean Kullback-Leibler divergence of what the model predicts with the SAE from what it predicts
        without, ``Σ p · log(p / q)`` over the vocabulary.
    n_predictions : int
        Tokens that were predicted.
    """

    ce_original: float
    ce_sae: float
    ce_zero: float | None
    ce_mean: float | None
    loss_recovered_zero: float | None
    loss_recovered_mean: float | None
    kl: float
    n_predictions: int

    def asdict(self) -> dict[str, Any]:
        """Return the figures by name."""
        return asdict(self)


def loss_recovered(
    sae: SparseAutoencoder,
    model: str | Path | LanguageModel,
    texts: Any,
    *,
    layer: int | None = None,
    site: str | None = None,
    tokens: str = "content",
    max_length: int | None = None,
    overflow: str = "truncate",
    batch_size: int | None = None,
    ablation: Ablation = "both",
    seed: int = 0,
    device: str | None = None,
    verbose: bool = False,
) -> LossRecovered:
    """Splice an SAE into a language model and measure the loss that it recovers [1]_.

    At the hook point the activations of the tokens that count are replaced by their reconstructions;
    those of all others (padding, BOS, the first token of a text without a BOS, …) stay as they are: SAEs
    are trained on the tokens that count.  (Sinks among those, which training may have left out, are
    replaced, too.)  The ablations replace the same tokens.  What is predicted: by
    a causal model every token that counts and that others precede; by a masked model 15 % of the tokens
    that count, each behind a mask token, at places that the seed and the text decide.

    Parameters
    ----------
    sae : SparseAutoencoder
        With its decoder; not a transcoder.
    model : str, Path or LanguageModel
        As in :func:`sae_features.load_backbone`, from files that hold the language-model head; or what
        :func:`sae_features.training.language_models.load_language_model` gives, loaded once for many
        calls.  It computes in float32.
    texts : sequence of str
        Best such as neither was trained on.
    layer, site : optional
        Where the SAE belongs; as it says itself if not given (``resid_post``, if it says nothing).
    tokens : {"content", "all"}, default="content"
        Which tokens count, as in :class:`sae_features.SAEFeaturizer`.
    max_length : int, optional
        Tokens that the model sees at a time; as the SAE records, or as the model's files advise.
    overflow : {"truncate", "chunk"}, default="truncate"
        What happens to longer texts, as in :class:`sae_features.SAEFeaturizer`.
    batch_size : int, optional
        Windows at a time; by their length if not given.  Of no influence on the figures but by rounding.
    ablation : {"zero", "mean", "both"}, default="both"
        What the SAE is compared with.  The paper takes zeros; the mean is the harder yardstick.
    seed : int, default=0
        Of the places that are masked.
    device : str, optional
        As in :func:`sae_features.load_backbone`.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    LossRecovered

    Raises
    ------
    InvalidParameterError
        If the SAE is a transcoder, has no decoder, belongs to another model or place, or the place
        cannot be written (``embedding``, ``resid_mid``).
    CheckpointError
        If the model's files lack the head: a random one would say nothing.
    InputTypeError, InvalidInputError
        If texts are none, nothing is there to predict, or predictions are not finite.

    Warns
    -----
    SAEFeaturesWarning
        If texts were truncated, or have no token that counts.

    References
    ----------
    .. [1] Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders",
       arXiv 2404.16014: "loss recovered".
    """
    return losses_recovered(
        [sae], model, texts, layer=layer, site=site, tokens=tokens, max_length=max_length,
        overflow=overflow, batch_size=batch_size, ablation=ablation, seed=seed, device=device,
        verbose=verbose,
    )[0]  # fmt: skip


def losses_recovered(
    saes: Sequence[SparseAutoencoder],
    model: str | Path | LanguageModel,
    texts: Any,
    *,
    layer: int | None = None,
    site: str | None = None,
    tokens: str = "content",
    max_length: int | None = None,
    overflow: str = "truncate",
    batch_size: int | None = None,
    ablation: Ablation = "both",
    seed: int = 0,
    device: str | None = None,
    verbose: bool = False,
) -> list[LossRecovered]:
    """Do the same for several SAEs of one hook point, which share the runs without them.

    Parameters are those of :func:`loss_recovered`; ``max_length`` is that which the first SAE records,
    if not given.

    Returns
    -------
    list of LossRecovered
        One for each SAE, in order.

    Raises
    ------
    InvalidParameterError, CheckpointError, InputTypeError, InvalidInputError
        As there; also if the SAEs are of different hook points.
    """
    check_choice("ablation", ablation, ABLATIONS)
    if not saes:
        raise InvalidParameterError("Got no SAE; expected at least one.")
    if batch_size is not None and batch_size < 1:
        raise InvalidParameterError(f"Got batch_size={batch_size}; expected None or an integer above 0.")
    for sae in saes:
        refuse_transcoder(sae)
    checked = check_texts(texts)
    lm = model if isinstance(model, LanguageModel) else load_language_model(model, device=device)
    point = _shared_point(saes, lm, layer, site)
    recorded = saes[0].metadata.get("max_length")
    if max_length is None and isinstance(recorded, int):
        max_length = min(recorded, lm.backbone.max_length)
    policy = lm.backbone.token_policy(tokens=tokens, max_length=max_length, overflow=overflow)
    windows = lm.backbone.inputs["text"].windows(checked, policy)
    notices = Notices("nothing is predicted in them")
    notices.add(checked, windows.truncated, windows.empty, longest=policy.max_length)
    notices.warn()
    run = SplicedRuns(lm, point, windows, seed, batch_size, is_shown=verbose)
    changes: list[Change] = [_splice(sae, lm) for sae in saes]
    changes += [torch.zeros_like] if ablation != "mean" else []
    original, losses, divergences, mean = run.compare(changes)
    zero = losses.pop() if ablation != "mean" else None
    of_mean = run.loss(lambda rows: mean.to(rows).expand_as(rows)) if ablation != "zero" else None
    return [
        LossRecovered(
            original, loss, zero, of_mean,
            _share(original, loss, zero), _share(original, loss, of_mean), kl, run.n_predictions,
        )
        for loss, kl in zip(losses, divergences, strict=False)
    ]  # fmt: skip


def _shared_point(
    saes: Sequence[SparseAutoencoder], lm: LanguageModel, layer: int | None, site: str | None
) -> HookPoint:
    """Return the one hook point that all SAEs are of, checked against the model."""
    found = {_point_of(sae, lm, layer, site) for sae in saes}
    if len(found) > 1:
        places = "; ".join(sorted(map(str, found)))
        raise InvalidParameterError(f"Got SAEs of several hook points ({places}); expected one.")
    return found.pop()


def _point_of(
    sae: SparseAutoencoder, lm: LanguageModel, layer: int | None, site: str | None
) -> HookPoint:
    own, name = sae.hook_point, lm.files.name
    if layer is None:
        if own is None:
            message = f"Got an SAE that does not say where it belongs ({sae!r}); give layer=…"
            raise InvalidParameterError(message)
        layer = own.layer
    site = site or (own.site if own is not None else "resid_post")
    point = lm.backbone.parse(HookPoint(layer, site))
    if own is not None and point != lm.backbone.parse(own):
        message = f"Got ({point}), but the SAE is of ({own}); leave layer and site out."
        raise InvalidParameterError(message)
    recorded = sae.metadata.get("model")
    recorded = recorded if isinstance(recorded, dict) else {}
    digest = recorded.get("digest")
    if digest is not None and digest != lm.files.weights_digest:
        message = (
            f"The SAE belongs to the model {recorded.get('id')!r} (weights {digest[:12]}…), but "
            f"{name!r} has other weights ({lm.files.weights_digest[:12]}…)."
        )
        raise InvalidParameterError(message)
    width = lm.backbone.width(point)
    if width != sae.d_in:
        message = (
            f"The SAE takes activations of size {sae.d_in}, but the model {name!r} has {width} at "
            f"{point}; they do not belong together."
        )
        raise InvalidParameterError(message)
    return point


def _splice(sae: SparseAutoencoder, lm: LanguageModel) -> Change:
    """Return what puts reconstructions in place of activations."""
    device = lm.model.device
    placed = sae if sae.device == device else sae.to(device)
    return lambda rows: placed.reconstruct(rows, placed.encode_sparse(rows))


def _share(original: float, loss: float, ablated: float | None) -> float | None:
    if ablated is None:
        return None
    return 1 - (loss - original) / (ablated - original) if ablated != original else float("nan")
