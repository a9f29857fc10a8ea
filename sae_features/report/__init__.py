"""Tables, plots and one page of results that already exist."""

from __future__ import annotations

from sae_features.report.curves import SweepCurveDisplay
from sae_features.report.layer_pooling import LayerPoolingDisplay
from sae_features.report.paired_differences import PairedDifferenceDisplay
from sae_features.report.transfer_matrix import TransferMatrixDisplay
from sae_features.report.write import write_report

__all__ = [
    "LayerPoolingDisplay",
    "PairedDifferenceDisplay",
    "SweepCurveDisplay",
    "TransferMatrixDisplay",
    "write_report",
]
