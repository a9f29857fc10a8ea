"""Print how language-bound the latents of a cross-lingual transfer are: all, and those that decide.

python experiments/language_bound.py CONFIG.toml DATA RESULTS

A latent that fires equally often in all languages has 0, one that fires in one language alone has 1
(`sae_features.evaluation.language_bound`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from tables import print_table

from sae_features.evaluation import CrossLingualTransfer, Results, language_bound
from sae_features.evaluation.configs import Config

N_TOP = 20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("config", "data", "results"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    config = Config(options.config, options.data)
    transfer = CrossLingualTransfer(**config.parameters(CrossLingualTransfer), folder=options.results)
    data_sets = config.data()
    items = [item for data in data_sets for item in data.items]
    languages = [data.name for data in data_sets for _ in data.items]
    results = Results.read(options.results)
    lines = []
    for method in transfer.methods(items):
        if method.featurizer is None or method.kind not in {"sae", "random_sae"}:
            continue
        X = method.featurizer.fit_transform(items)
        bound = language_bound(X, languages).bound
        rows = results.where(method=method.name, control="none", setting="in_language")
        top = np.concatenate([row["chosen"]["top_latents"][:N_TOP] for row in rows])
        lines.append(
            (method.name, f"{np.nanmedian(bound):.3f}", f"{np.nanmean(bound[top]):.3f}",
             f"{np.mean(bound[top] > 0.5):.1%}", f"{X.nnz / X.shape[0]:.0f}")
        )  # fmt: skip
    head = (
        "",
        "median of all",
        f"mean of the {N_TOP} that decide",
        "of these above .5",
        "active in a text",
    )
    print_table(head, lines)


if __name__ == "__main__":
    main()
