"""Pictures of evaluations: what sparsity costs, and how densely latents fire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.drawing import COLORS, LINES, MARKERS, make_axes
from sae_features.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from sae_features.training.metrics import SAEEvaluation

NAMES = {
    "l0": "L0 (latents that fire per token)",
    "l1": "L1 of the latents",
    "fvu": "Fraction of variance unexplained",
    "explained_variance": "Explained variance",
    "mse": "Mean squared error",
    "gamma": "Relative reconstruction bias γ",
    "cosine": "Cosine similarity",
    "alive": "Share of latents alive",
    "dead": "Share of latents dead",
    "loss_recovered_zero": "Loss recovered (of zero ablation)",
    "loss_recovered_mean": "Loss recovered (of mean ablation)",
    "kl": "KL divergence (nats)",
    "ce_sae": "Cross-entropy with the SAE (nats)",
}
"""What axes are called."""


class SAEEvaluationDisplay:
    """A picture of evaluations of SAEs, in the manner of scikit-learn's displays.

    Made by :meth:`from_evaluations` (curves over a sweep) or :meth:`from_evaluation` (density of the
    latents of one SAE).  It needs matplotlib: ``pip install "sae-features[plot]"``.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
        Where it is drawn.
    figure_ : matplotlib.figure.Figure
        What that is in.
    lines_ : list of matplotlib.lines.Line2D
        The curves, one for each group.
    bars_ : matplotlib.container.BarContainer or None
        The histogram.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("agg")
    >>> records = [{"architecture": "topk", "l0": 16, "fvu": 0.4}]
    >>> records += [{"architecture": "topk", "l0": 32, "fvu": 0.3}]
    >>> display = SAEEvaluationDisplay.from_evaluations(records)
    >>> display.lines_[0].get_xydata().tolist()
    [[16.0, 0.4], [32.0, 0.3]]
    """

    def __init__(self, ax: Any) -> None:
        self.ax_ = ax
        self.figure_ = ax.figure
        self.lines_: list[Any] = []
        self.bars_: Any = None

    @classmethod
    def from_evaluations(
        cls,
        records: Sequence[SAEEvaluation | Mapping[str, Any]],
        *,
        x: str = "l0",
        y: str = "fvu",
        by: str = "architecture",
        ax: Any = None,
    ) -> Self:
        """Draw one figure against another, a curve for each group: what sparsity costs.

        Parameters
        ----------
        records : sequence of SAEEvaluation or mapping
            One for each SAE; mappings may hold more, such as what
            :meth:`~sae_features.training.loss_recovered.LossRecovered.asdict` gives.
        x, y : str, default="l0", "fvu"
            Names of figures; ``x`` is drawn on a logarithmic axis where all values are above 0.
        by : str, default="architecture"
            Name of what tells the groups apart.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        SAEEvaluationDisplay

        Raises
        ------
        InvalidInputError
            If there are no records, or one lacks a figure; the message says which it has.
        MissingDependencyError
            If matplotlib is not installed.
        """
        rows = [_record(record) for record in records]
        if not rows:
            raise InvalidInputError("Got no evaluations; expected at least one.")
        groups: dict[str, list[tuple[float, float]]] = {}
        for position, row in enumerate(rows):
            values = [_figure(row, name, position) for name in (by, x, y)]
            groups.setdefault(str(values[0]), []).append((float(values[1]), float(values[2])))
        display = cls(*make_axes(ax))
        for number, (name, points) in enumerate(groups.items()):
            xs, ys = zip(*sorted(points), strict=True)
            style = LINES[number // len(COLORS) % len(LINES)]
            display.lines_ += display.ax_.plot(
                xs, ys, label=name, color=COLORS[number % len(COLORS)], linestyle=style,
                marker=MARKERS[number % len(MARKERS)], markersize=6, linewidth=1.6,
                markeredgecolor="white", markeredgewidth=0.6,
            )  # fmt: skip
        if all(value > 0 for points in groups.values() for value, _ in points):
            _make_logarithmic(display.ax_)
        display.ax_.set(xlabel=NAMES.get(x, x), ylabel=NAMES.get(y, y))
        display.ax_.grid(visible=True, alpha=0.25)
        if len(groups) > 1:
            display.ax_.legend(frameon=False, title=None if by == "architecture" else by)
        else:
            display.ax_.set_title(next(iter(groups)))
        return display

    @classmethod
    def from_evaluation(cls, evaluation: SAEEvaluation, *, ax: Any = None) -> Self:
        """Draw how many latents fire in which share of the tokens.

        Parameters
        ----------
        evaluation : SAEEvaluation
            Of one SAE.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        SAEEvaluationDisplay

        Raises
        ------
        MissingDependencyError
            If matplotlib is not installed.
        """
        n, edges = evaluation.density_histogram()
        display = cls(*make_axes(ax))
        drawn = display.ax_
        display.bars_ = drawn.bar(
            edges[:-1], n, width=np.diff(edges), align="edge", color=COLORS[0], edgecolor="white"
        )
        least = np.log10(1 / evaluation.n_tokens)  # nothing can be rarer in so few tokens
        drawn.set_xlim(max(float(edges[0]), np.floor(least) - 0.25), 0.25)
        drawn.axvline(least, color="#666666", linestyle=":", linewidth=1.2)
        drawn.annotate(
            " one token", (least, 1), xycoords=("data", "axes fraction"), ha="left", va="top",
            color="#666666", fontsize="small",
        )  # fmt: skip
        n_dead = int(np.count_nonzero(evaluation.counts == 0))
        drawn.set_title(
            f"{evaluation.architecture}, {evaluation.n_latents:,} latents:\n{n_dead:,} never fire in "
            f"{evaluation.n_tokens:,} tokens",
            fontsize="medium",
        )
        drawn.set(xlabel="log10 of the share of tokens in which a latent fires", ylabel="Latents")
        drawn.grid(visible=True, axis="y", alpha=0.25)
        drawn.set_axisbelow(True)
        return display


def _record(record: Any) -> Mapping[str, Any]:
    return record if isinstance(record, Mapping) else record.asdict()


def _figure(row: Mapping[str, Any], name: str, position: int) -> Any:
    if row.get(name) is None:
        message = f"Got no {name!r} in evaluation {position}; it has {', '.join(row)}."
        raise InvalidInputError(message)
    return row[name]


def _make_logarithmic(ax: Any) -> None:
    """Let the x axis be logarithmic, with plain numbers also where it spans less than a power of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
