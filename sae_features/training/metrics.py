"""How well an SAE reconstructs activations, and how sparsely; one pass, sums in float64."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.progress import Progress
from sae_features.training.sources import ArraySource, check_finite_rows

if TYPE_CHECKING:
    from sae_features.saes.autoencoder import SparseAutoencoder
    from sae_features.training.sources import ActivationSource

DENSITY_EDGES = np.linspace(-8.0, 0.0, 33)
"""Edges of the bins of log10 density, four to a power of ten: fixed, so that histograms compare."""
NO_VARIATION = 1e-24
"""Variation as a share of the squared mean that is nothing but rounding."""


@dataclass(frozen=True)
class SAEEvaluation:
    """What an SAE makes of activations ``x``, one row a token; ``x̂`` is its reconstruction.

    Attributes
    ----------
    architecture : str
        Of the SAE.
    n_latents, n_tokens : int
        Width of the SAE, and rows that were looked at.
    l0 : float
        Mean number of latents that fire per row.
    l1 : float
        Mean sum of absolute latents per row; it depends on the norms of the decoder's rows.
    fvu : float
        Fraction of variance unexplained, ``Σ‖x − x̂‖² / Σ‖x − mean(x)‖²`` over all rows, pooled over
        dimensions; NaN where all rows are equal.
    explained_variance : float
        ``1 − fvu``.
    mse : float
        Mean of ``(x − x̂)²`` over rows and dimensions, in squared units of the activations.
    gamma : float
        Relative reconstruction bias, ``E‖x̂‖² / E[x·x̂]`` [1]_: 1 is unbiased, less is shrinkage;
        NaN where the SAE gives nothing but zeros.
    cosine : float
        Mean cosine similarity of ``x`` and ``x̂``; a row where either is zero counts 0.
    alive, dead : float
        Share of latents that fire at least once, and never, in these rows.
    counts : ndarray of shape (n_latents,), int64
        In how many rows each latent fires.

    References
    ----------
    .. [1] Rajamanoharan et al., "Improving dictionary learning with gated sparse autoencoders",
       arXiv 2404.16014: "relative reconstruction bias".
    """

    architecture: str
    n_latents: int
    n_tokens: int
    l0: float
    l1: float
    fvu: float
    explained_variance: float
    mse: float
    gamma: float
    cosine: float
    alive: float
    dead: float
    counts: np.ndarray = field(repr=False, compare=False)

    @property
    def density(self) -> np.ndarray:
        """Share of rows in which each latent fires, (n_latents,) float64."""
        return self.counts / self.n_tokens

    def density_histogram(self) -> tuple[np.ndarray, np.ndarray]:
        """Return how many latents are how dense.

        Returns
        -------
        n : ndarray of shape (32,), int64
            Latents in each bin of log10 density; those that never fire are in none.
        edges : ndarray of shape (33,), float64
            From -8 to 0, the same for every SAE.
        """
        logs = np.log10(self.density[self.counts > 0])
        n, edges = np.histogram(logs, bins=DENSITY_EDGES)
        return n.astype(np.int64), edges

    def asdict(self) -> dict[str, Any]:
        """Return all figures by name, as plain values: one tidy record, without ``counts``."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "counts"}


def evaluate_sae(
    sae: SparseAutoencoder,
    source: ActivationSource | np.ndarray | torch.Tensor,
    *,
    batch_size: int = 4096,
    max_rows: int | None = None,
    verbose: bool = False,
) -> SAEEvaluation:
    """Measure an SAE on activations, best such as it was not trained on.

    Rows are taken once, in order.  The mean and what varies about it are merged batch by batch [1]_, so
    that neither an offset nor the size of a batch matters.  Nothing of shape (n, n_latents) is made.

    Parameters
    ----------
    sae : SparseAutoencoder
        With its decoder; not a transcoder.
    source : ActivationSource, or ndarray or tensor of shape (n, d_in)
        In the units that the SAE takes; computed with in float32.
    batch_size : int, default=4096
        Rows at a time.
    max_rows : int, optional
        Look at the first so many rows only.
    verbose : bool, default=False
        Whether to show progress.

    Returns
    -------
    SAEEvaluation

    Raises
    ------
    InvalidParameterError
        If the SAE is a transcoder or has no decoder, or a number is below 1.
    InputTypeError, InvalidInputError
        If there are no rows, rows of another width, or rows that are not finite; the message names
        the batch.

    References
    ----------
    .. [1] Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample
       variances", 1979, eq. 2.1.

    Examples
    --------
    >>> import torch
    >>> from sae_features import SparseAutoencoder
    >>> eye = torch.eye(3)
    >>> sae = SparseAutoencoder(
    ...     "topk", W_enc=eye, b_enc=torch.zeros(3), b_dec=torch.zeros(3), W_dec=eye, k=1)
    >>> result = evaluate_sae(sae, torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 1.0]]))
    >>> result.l0, round(result.fvu, 3), result.gamma
    (1.0, 0.182, 1.0)
    """
    refuse_transcoder(sae)
    if max_rows is not None and max_rows < 1:
        raise InvalidParameterError(f"Got max_rows={max_rows}; expected None or an integer above 0.")
    given: Any = source
    rows_of: ActivationSource = given if hasattr(given, "in_order") else ArraySource(given)
    if rows_of.d_in != sae.d_in:
        message = (
            f"Got activations of size {rows_of.d_in}; expected {sae.d_in}, as this SAE takes. Were they "
            "read at its hook point?"
        )
        raise InvalidInputError(message)
    total = rows_of.n_rows if max_rows is None else min(rows_of.n_rows, max_rows)
    sums = _Sums(sae)
    with Progress("evaluate", "row", total, is_shown=verbose) as progress, torch.inference_mode():
        for number, batch in enumerate(rows_of.in_order(batch_size)):
            rows = batch[: total - sums.n]
            check_finite_rows(rows, number)
            sums.add(rows)
            progress.tell(len(rows))
            if sums.n == total:
                break
    return sums.evaluation()


def refuse_transcoder(sae: SparseAutoencoder) -> None:
    """Raise where an SAE does not give back what it takes, or has no decoder.

    Raises
    ------
    InvalidParameterError
        The message says what to do.
    """
    if sae.W_dec is None:
        message = "This SAE has no decoder: loaded with decoder=False, or its files have none."
        raise InvalidParameterError(message)
    elsewhere = sae.hook_point_out is not None and sae.hook_point_out != sae.hook_point
    if sae.d_out != sae.d_in or elsewhere or sae.W_skip is not None:
        message = (
            f"Got a transcoder ({sae!r}), whose output is not of the place that it reads; expected an "
            "SAE that gives back what it takes."
        )
        raise InvalidParameterError(message)


class _Sums:
    """What is kept of the batches seen so far."""

    def __init__(self, sae: SparseAutoencoder) -> None:
        self.sae = sae
        self.n = 0
        # Metal has no float64.
        self.device = torch.device("cpu") if sae.device.type == "mps" else sae.device
        self.mean = torch.zeros(sae.d_in, dtype=torch.float64, device=self.device)
        self.counts = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.device)
        self.totals = torch.zeros(6, dtype=torch.float64, device=self.device)

    def add(self, batch: torch.Tensor) -> None:
        """Add a batch of rows, (n, d_in)."""
        latents = self.sae.encode_sparse(batch)
        decoded = self.sae.reconstruct(batch, latents).to(self.device).double()
        x = batch.to(self.device).double()
        self.counts += torch.bincount(latents.indices, minlength=self.sae.n_latents)
        product = (x * decoded).sum(dim=1)
        norms = x.norm(dim=1) * decoded.norm(dim=1)
        self.totals += torch.stack(
            (
                self._variation(x),
                (x - decoded).square().sum(),
                decoded.square().sum(),
                product.sum(),
                torch.where(norms > 0, product / norms, 0.0).sum(),
                latents.values.to(self.device).double().abs().sum(),
            )
        )

    def _variation(self, x: torch.Tensor) -> torch.Tensor:
        """Return what a batch adds to ``Σ‖x − mean‖²``, and move the mean."""
        mean = x.mean(dim=0)
        seen, self.n = self.n, self.n + len(x)
        away = mean - self.mean
        self.mean += away * (len(x) / self.n)
        return (x - mean).square().sum() + away.square().sum() * (seen * len(x) / self.n)

    def evaluation(self) -> SAEEvaluation:
        variation, error, power, product, cosine, l1 = self.totals.tolist()
        counts = self.counts.cpu().numpy()
        varies = variation > NO_VARIATION * self.n * float(self.mean.square().sum())
        fvu = error / variation if varies else float("nan")
        alive = float(np.count_nonzero(counts)) / self.sae.n_latents
        return SAEEvaluation(
            architecture=self.sae.architecture,
            n_latents=self.sae.n_latents,
            n_tokens=self.n,
            l0=float(counts.sum()) / self.n,
            l1=l1 / self.n,
            fvu=fvu,
            explained_variance=1 - fvu,
            mse=error / (self.n * self.sae.d_in),
            gamma=power / product if product else float("nan"),
            cosine=cosine / self.n,
            alive=alive,
            dead=1 - alive,
            counts=counts,
        )
