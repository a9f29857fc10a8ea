"""Describing an SAE from its headers, and checking its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from sae_features.releases import FileSAE
    from sae_features.saes.autoencoder import SparseAutoencoder

PROBES = 256
"""Random inputs that `verify` encodes."""
UNUSUAL_SHARE = 0.5
"""Share of latents above which something is called unusual."""


def describe(found: FileSAE) -> dict[str, Any]:
    """Return what the files of an SAE say, as plain values; no weights are read.

    Parameters
    ----------
    found : FileSAE
        As :func:`sae_features.releases.find_sae` gives it.
    """
    header = found.header
    point_out = header.hook_point_out
    return {
        "format": header.format,
        "path": str(header.path),
        "weights": header.weights.name,
        "architecture": header.architecture,
        "d_in": header.d_in,
        "n_latents": header.n_latents,
        "d_out": header.d_out,
        "has_decoder": header.has_decoder,
        "conventions": dict(header.conventions),
        "folded": dict(header.folded),
        "dtype": header.dtype,
        "bytes": header.nbytes,
        "hook_point": found.hook_point and found.hook_point._asdict(),
        "hook_point_out": point_out and point_out._asdict(),
        "n_labels": len(header.labels),
        "digest": header.digest if header.is_digest_known else None,
        "metadata": dict(found.metadata),
        "facts": dict(found.source.facts) if found.source is not None else {},
        "warnings": list(found.warnings),
    }


def verify(found: FileSAE) -> list[dict[str, Any]]:
    """Load an SAE whole and check it.

    Loading itself refuses wrong shapes and weights that are not finite.

    Parameters
    ----------
    found : FileSAE

    Returns
    -------
    list of dict
        ``check``, ``passed`` and ``detail`` of each; ``passed`` is None where something is unusual,
        and may be right all the same.

    Raises
    ------
    SAEFormatError
        If it cannot be loaded.
    """
    import torch

    sae = found.load(0, "cpu", decoder=found.header.has_decoder)
    checks = [
        _check(
            "shapes", passed=True, detail=", ".join(f"{n} {tuple(t.shape)}" for n, t in sae.tensors())
        ),
        _check(
            "finite", passed=True, detail=f"all {sum(t.numel() for _, t in sae.tensors()):,} weights"
        ),
        _norms("encoder norms", sae.W_enc.norm(dim=0)),
    ]
    if sae.W_dec is not None:
        checks.append(_norms("decoder norms", sae.W_dec.norm(dim=1)))
    if not _is_transcoder(sae):
        checks.append(_alignment(sae))
    if sae.threshold is not None:
        low, high = sae.threshold.aminmax()
        detail = f"{float(low):.4g} to {float(high):.4g}"
        checks.append(_check("thresholds", passed=bool(low >= 0) or None, detail=detail))
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(PROBES, sae.d_in, generator=generator)
    latents = sae.encode(probes if sae.norm_scale is None else probes / sae.norm_scale)
    l0 = (latents != 0).sum(dim=1).double()
    detail = f"{float(l0.mean()):.1f} of {sae.n_latents} latents on random inputs"
    checks.append(_check("latents are finite", passed=bool(latents.isfinite().all()), detail=detail))
    checks.append(_check("digest", passed=True, detail=found.header.digest))
    return checks


def _norms(name: str, norms: torch.Tensor) -> dict[str, Any]:
    """Return whether most latents have a direction at all."""
    silent = int((norms == 0).sum())
    detail = f"{float(norms.min()):.4g} to {float(norms.max()):.4g}, median {float(norms.median()):.4g}"
    if silent:
        detail += f"; {silent} of {len(norms)} are 0"
    return _check(name, passed=silent <= UNUSUAL_SHARE * len(norms) or None, detail=detail)


def _is_transcoder(sae: SparseAutoencoder) -> bool:
    is_named = sae.hook_point_out is not None or "hook_name_out" in sae.metadata
    return sae.d_out != sae.d_in or sae.W_skip is not None or is_named


def _alignment(sae: SparseAutoencoder) -> dict[str, Any]:
    """Return whether latents read what they write: a transposed or shuffled matrix does not."""
    import torch

    if sae.W_dec is None:
        return _check("encoder and decoder agree", passed=True, detail="there is no decoder")
    cosines = torch.nn.functional.cosine_similarity(sae.W_enc.mT, sae.W_dec, dim=1)
    median = float(cosines.median())
    detail = f"median cosine {median:.3f} of what a latent reads and writes"
    return _check("encoder and decoder agree", passed=median > 0 or None, detail=detail)


def _check(name: str, *, passed: bool | None, detail: str) -> dict[str, Any]:
    return {"check": name, "passed": passed, "detail": detail}
