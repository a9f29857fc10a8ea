"""Statistics of results, in one place: scores, intervals, comparisons, choices and controls.

==============================  =====================================================================
of the predictions of a fold    :func:`scores`, :func:`bootstrap_interval`, :func:`chance_interval`
of two methods on one test set  :func:`paired_bootstrap`
of differences                  :func:`corrected_resampled_t` over folds, :func:`t_of_mean` and
                                :func:`wilcoxon` over data sets, :func:`adjust` for many questions
of rows of results              :func:`summarise`, :func:`compare`, :func:`quiver`,
                                :func:`choose_by_validation`, :func:`control_is_at_chance`
==============================  =====================================================================
"""

from __future__ import annotations

from sae_features.evaluation.chance import ChanceInterval, chance_interval
from sae_features.evaluation.choices import choose_by_validation
from sae_features.evaluation.comparisons import Comparison, TaskComparison, compare
from sae_features.evaluation.controls import ControlCheck, control_is_at_chance
from sae_features.evaluation.intervals import (
    Interval,
    PairedInterval,
    bootstrap_interval,
    paired_bootstrap,
)
from sae_features.evaluation.quiver import Quiver, QuiverTask, quiver
from sae_features.evaluation.scores import METRICS, Scores, scores
from sae_features.evaluation.significance import (
    MeanTest,
    SignedRankTest,
    adjust,
    corrected_resampled_t,
    t_of_mean,
    wilcoxon,
)
from sae_features.evaluation.summaries import Summary, summarise

__all__ = [
    "METRICS",
    "ChanceInterval",
    "Comparison",
    "ControlCheck",
    "Interval",
    "MeanTest",
    "PairedInterval",
    "Quiver",
    "QuiverTask",
    "Scores",
    "SignedRankTest",
    "Summary",
    "TaskComparison",
    "adjust",
    "bootstrap_interval",
    "chance_interval",
    "choose_by_validation",
    "compare",
    "control_is_at_chance",
    "corrected_resampled_t",
    "paired_bootstrap",
    "quiver",
    "scores",
    "summarise",
    "t_of_mean",
    "wilcoxon",
]
