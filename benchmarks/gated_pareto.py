"""Whether Gated SAEs do what their paper says (arXiv 2404.16014), on real activations of small models.

python benchmarks/gated_pareto.py --out DIR [--sites minilm smollm2-resid smollm2-mlp] [--l0 8 16 32 64]
    [--seeds 0 1] [--tokens 200000] [--epochs 3] [--width 4] [--jobs 2] [--threads 1]
    [--predictions 1500] [--rates RATES …] [--data DIR] [--stages activations train evaluate report]

Sites: MiniLM's residual stream after block 3 of 6, and of SmolLM2-135M-Instruct, block 14 of 30, the
residual stream and what the MLP writes to it.  Texts: BBC news, 20 Newsgroups, tweets and reviews
(vader).

For each site and seed all SAEs are trained on the same batches, ``--width`` times as wide as the model:
relu            ReLU and an L1 penalty, decoder rows of norm 1: the paper's baseline
relu, wide      the same, 1.5 times as wide: the paper's equal-compute baseline
gated           as the paper says
gated, unfrozen the auxiliary reconstruction also trains the decoder
gated, no r_mag magnitudes have no scale of their own
topk, jumprelu  for comparison
relu, rescaled  the trained baseline, whose latents each get a scale and a shift, which alone are trained
                to reconstruct: what undoing shrinkage alone brings (the paper's "rescale & shift")

Penalties are steered to each L0, so that curves are compared at equal L0.  The stage "rates" trains
each architecture at L0 32 with learning rates of 0.003, 0.006 and 0.01 (seed 0 alone); the best one is
given to all trainings by ``--rates relu=0.01 …``; the library's default where none is given.

Figures are of held-out texts: L0, FVU, gamma (relative reconstruction bias, of raw activations and, as
"centred", of activations less their mean), share of latents alive and, of the language model, loss
recovered (zero ablation) over so many predictions.  "L0 of gated at equal …" interpolates the curve of
gated, log L0 against the figure, at what the baseline reaches.

Every stage resumes: activations by shard, trainings by checkpoint, evaluations by SAE.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from measuring import about, corpus, print_table, save, use_threads

if TYPE_CHECKING:
    from sae_features import SparseAutoencoder
    from sae_features.training.settings import TrainingSettings
    from sae_features.training.shards import ShardSource

STAGES = ("activations", "train", "rates", "evaluate", "report")
CORPORA = ("bbc", "newsgroups", "vader")
HELD_OUT_TEXTS = 1500
HELD_OUT_TOKENS = 30_000
RESCALING_STEPS = 300
RATES = (3e-3, 6e-3, 1e-2)


class Site(NamedTuple):
    """Where activations are read."""

    model: str
    layer: int
    site: str


SITES = {
    "minilm": Site("minilm", 3, "resid_post"),
    "smollm2-resid": Site("smollm2", 14, "resid_post"),
    "smollm2-mlp": Site("smollm2", 14, "mlp_out"),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "relu": {"architecture": "relu"},
    "relu, wide": {"architecture": "relu", "times": 1.5},
    "gated": {"architecture": "gated"},
    "gated, unfrozen": {"architecture": "gated", "freeze_aux_decoder": False},
    "gated, no r_mag": {"architecture": "gated", "tie_gate": False},
    "topk": {"architecture": "topk"},
    "jumprelu": {"architecture": "jumprelu"},
}


def main() -> None:
    """Run the stages that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--sites", nargs="+", choices=SITES, default=list(SITES))
    parser.add_argument("--l0", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--tokens", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--width", type=float, default=4, help="latents, in sizes of the model")
    parser.add_argument("--predictions", type=int, default=1500)
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each in a process")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rates", nargs="+", default=[], help="ARCHITECTURE=LEARNING_RATE")
    parser.add_argument("--data", type=Path)
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=[s for s in STAGES if s != "rates"]
    )
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    use_threads(options.threads)
    if options.only:  # a process of its own
        {"train": train, "rates": try_rates}[options.stages[0]](
            options, options.only[0], int(options.only[1])
        )
        return
    print(json.dumps(about()))
    if "activations" in options.stages:
        for name in options.sites:
            make_activations(options, name)
    if "train" in options.stages:
        in_processes(
            "train", [(name, seed) for seed in options.seeds for name in options.sites], options
        )
    if "rates" in options.stages:
        in_processes("rates", [(name, 0) for name in options.sites], options)
    if "evaluate" in options.stages:
        for name in options.sites:
            evaluate(options, name)
    if "report" in options.stages:
        report(options)


def texts_of(data: Path | None) -> tuple[list[str], list[str]]:
    """Return texts to train on and others, held out, each in a fixed random order."""
    texts = [text for name in CORPORA for text in corpus(name, data)[0]]
    order = np.random.default_rng(0).permutation(len(texts))
    mixed = [texts[i] for i in order]
    return mixed[HELD_OUT_TEXTS:], mixed[:HELD_OUT_TEXTS]


def make_activations(options: argparse.Namespace, name: str) -> None:
    """Write activations to train on and to hold out."""
    from sae_features.training.shards import write_activations
    from sae_features.training.streams import BackboneSource

    site = SITES[name]
    training, held_out = texts_of(options.data)
    for part, texts, n_tokens in (
        ("training", training, options.tokens), ("held_out", held_out, HELD_OUT_TOKENS)
    ):  # fmt: skip
        few = enough(site.model, texts, n_tokens)
        source = BackboneSource(site.model, few, layer=site.layer, site=site.site, max_length=256)
        written = write_activations(source, options.out / name / part, verbose=True)
        print(f"{name} {part}: {written.n_rows:,} tokens of {len(few):,} texts", flush=True)


def enough(model: str, texts: list[str], n_tokens: int) -> list[str]:
    """Return the first texts that have about so many tokens."""
    from sae_features import load_backbone

    tokenizer = load_backbone(model).tokenizer
    seen = 0
    for i, text in enumerate(texts):
        seen += len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if seen >= n_tokens:
            return texts[: i + 1]
    return texts


def in_processes(stage: str, tasks: list[tuple[str, int]], options: argparse.Namespace) -> None:
    """Run a stage for sites and seeds, so many processes at a time."""
    own = [arg for arg in sys.argv[1:] if arg not in STAGES and arg != "--stages"]
    waiting, running = list(tasks), []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            name, seed = waiting.pop(0)
            arguments = [*own, "--stages", stage, "--only", name, str(seed)]
            running.append(subprocess.Popen([sys.executable, __file__, *arguments]))
        if running.pop(0).wait():
            raise SystemExit(f"{stage} failed; run the same command again to go on.")


def settings_of(
    options: argparse.Namespace, d_in: int, variant: str, l0: int, seed: int
) -> TrainingSettings:
    """Return how a variant is trained to an L0."""
    from sae_features.training import TrainingSettings

    choices = dict(VARIANTS[variant])
    n_latents = round(options.width * d_in * choices.pop("times", 1))
    sparsity = {"k": l0} if choices["architecture"] == "topk" else {"target_l0": l0}
    rates = dict(pair.split("=") for pair in options.rates)
    rate = rates.get(choices["architecture"])
    return TrainingSettings(
        n_latents=n_latents,
        epochs=options.epochs,
        batch_size=options.batch,
        seed=seed,
        learning_rate=None if rate is None else float(rate),
        **choices,
        **sparsity,
    )


def train(options: argparse.Namespace, name: str, seed: int) -> None:
    """Train all SAEs of a site and a seed in one pass over its activations."""
    from sae_features.training import SAETrainer
    from sae_features.training.shards import ShardSource

    source = ShardSource(options.out / name / "training")
    wanted = [(variant, l0) for variant in options.variants for l0 in options.l0]
    folder = options.out / name / f"seed_{seed}"
    if all((folder / file_of(*each) / "sae.json").exists() for each in wanted):
        return
    listed = [settings_of(options, source.d_in, variant, l0, seed) for variant, l0 in wanted]
    trained = SAETrainer(listed, folder=folder / "checkpoint", save_seconds=300).train(source)
    for (variant, l0), each in zip(wanted, trained, strict=True):
        each.sae.save(folder / file_of(variant, l0))
        if variant == "relu":
            rescaled(each.sae, source).save(folder / file_of("relu, rescaled", l0))
    print(f"{name}, seed {seed}: {len(trained)} SAEs trained", flush=True)


def try_rates(options: argparse.Namespace, name: str, seed: int) -> None:
    """Train at one L0 with several learning rates, and print what is reached."""
    from sae_features.training import SAETrainer
    from sae_features.training.metrics import evaluate_sae
    from sae_features.training.shards import ShardSource

    source = ShardSource(options.out / name / "training")
    held_out = ShardSource(options.out / name / "held_out")
    variants = [
        variant for variant in ("relu", "gated", "topk", "jumprelu") if variant in options.variants
    ]
    wanted = [(variant, rate) for variant in variants for rate in RATES]
    listed = [
        replace(settings_of(options, source.d_in, variant, 32, seed), learning_rate=rate)
        for variant, rate in wanted
    ]
    trained = SAETrainer(listed, folder=options.out / name / "rates", save_seconds=300).train(source)
    rows = []
    for (variant, rate), each in zip(wanted, trained, strict=True):
        found = evaluate_sae(each.sae, held_out)
        rows.append((variant, f"{rate:g}", f"{found.l0:.1f}", f"{found.fvu:.4f}", f"{found.alive:.2f}"))
    print_table((name, "learning rate", "L0", "FVU", "alive"), rows)


def rescaled(sae: Any, source: ShardSource) -> SparseAutoencoder:
    """Return a ReLU SAE as a gated one, of which only scale and shift of each latent were trained."""
    from sae_features import SparseAutoencoder
    from sae_features.training.objectives import gated
    from sae_features.training.objectives.step import Context
    from sae_features.training.settings import TrainingSettings

    mean = float(source.sample(4096).square().sum(dim=1).mean()) ** 0.5
    fixed = {
        "W_enc": sae.W_enc.T.contiguous(),
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
        "b_gate": sae.b_enc,
    }
    learnt = {
        "r_mag": torch.zeros_like(sae.b_enc).requires_grad_(),
        "b_mag": sae.b_enc.clone().requires_grad_(),
    }
    context = Context(TrainingSettings(architecture="gated", n_latents=sae.n_latents))
    groups = [
        {"params": [learnt["r_mag"]], "lr": 1e-2},
        {"params": [learnt["b_mag"]], "lr": 1e-3 * mean},
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, RESCALING_STEPS)
    for number, x in enumerate(source.batches(1024, seed=7)):
        if number == RESCALING_STEPS:
            break
        optimizer.zero_grad()
        gated.step({**fixed, **learnt}, x, context).losses["mse"].backward()
        optimizer.step()
        schedule.step()
    return SparseAutoencoder(
        "gated",
        W_enc=sae.W_enc, W_dec=sae.W_dec, b_dec=sae.b_dec, b_gate=sae.b_enc,
        b_mag=learnt["b_mag"].detach(), r_mag=learnt["r_mag"].detach(),
        hook_point=sae.hook_point, metadata=sae.metadata,
    )  # fmt: skip


def file_of(variant: str, l0: int) -> str:
    """Return the name of an SAE's folder."""
    return f"{variant.replace(', ', '-').replace(' ', '_')}_{l0}"


def evaluate(options: argparse.Namespace, name: str) -> None:
    """Measure all SAEs of a site that were not yet."""
    from sae_features import load_sae
    from sae_features.training.loss_recovered import losses_recovered
    from sae_features.training.metrics import evaluate_sae
    from sae_features.training.shards import ShardSource

    file = options.out / name / "results.json"
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    held_out = ShardSource(options.out / name / "held_out")
    folders = sorted((options.out / name).glob("seed_*/*/sae.json"))
    wanted = [folder.parent for folder in folders if key_of(folder.parent) not in found]
    saes = [load_sae(folder) for folder in wanted]
    centred = float(sum(batch.double().sum(dim=0) for batch in held_out.in_order(4096)).norm())
    print(
        f"{name}: {len(saes)} SAEs to measure; norm of the mean {centred / held_out.n_rows:.3g}",
        flush=True,
    )
    records = [evaluate_sae(sae, held_out).asdict() | gamma_centred(sae, held_out) for sae in saes]
    if SITES[name].model == "smollm2" and saes:
        texts = predicted_texts(options)
        for record, lost in zip(
            records, losses_recovered(saes, "smollm2", texts, max_length=256), strict=True
        ):
            record.update(lost.asdict())
    for folder, record in zip(wanted, records, strict=True):
        variant, _, l0 = folder.name.rpartition("_")
        found[key_of(folder)] = {
            "variant": variant,
            "goal": int(l0),
            "seed": folder.parent.name,
            **record,
        }
        save(file, found)


def key_of(folder: Path) -> str:
    """Return what an SAE is called in the results."""
    return f"{folder.parent.name}/{folder.name}"


def predicted_texts(options: argparse.Namespace) -> list[str]:
    """Return held-out texts with about so many tokens."""
    texts = sorted(texts_of(options.data)[1][:400], key=len)[100:300]
    return enough("smollm2", texts, options.predictions)


@torch.no_grad()
def gamma_centred(sae: SparseAutoencoder, source: ShardSource) -> dict[str, float]:
    """Return the reconstruction bias of activations less their mean."""
    mean = sum(batch.double().sum(dim=0) for batch in source.in_order(4096)) / source.n_rows
    squares = products = 0.0
    for batch in source.in_order(4096):
        x, found = (rows.double() - mean for rows in (batch, sae.reconstruct(batch)))
        squares += float(found.square().sum())
        products += float((found * x).sum())
    return {"gamma_centred": squares / products}


def report(options: argparse.Namespace) -> None:
    """Print the tables and draw the Pareto curves."""
    for name in options.sites:
        file = options.out / name / "results.json"
        records = list(json.loads(file.read_text(encoding="utf-8")).values())
        print(f"\n{name}: median over seeds (least–most)")
        is_lm = "loss_recovered_zero" in records[0]
        columns = ["l0", "fvu", "gamma", "gamma_centred", "alive"] + (
            ["loss_recovered_zero"] if is_lm else []
        )
        groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for record in records:
            groups.setdefault((record["variant"], record["goal"]), []).append(record)
        rows = [
            (variant, goal, *(middle([r[column] for r in of_group], column) for column in columns))
            for (variant, goal), of_group in sorted(groups.items())
        ]
        print_table(("SAE", "goal", *columns), rows)
        compare(records, "fvu")
        if is_lm:
            compare(records, "loss_recovered_zero")
        draw(options, name, records, is_lm=is_lm)


def middle(values: list[float], column: str) -> str:
    """Return a median and the range."""
    digits = 1 if column == "l0" else 4 if column in {"fvu", "loss_recovered_zero"} else 3
    low, mid, high = min(values), float(np.median(values)), max(values)
    return f"{mid:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def compare(records: list[dict[str, Any]], figure: str) -> None:
    """Print the L0 at which others reach what gated reaches, over gated's."""
    rows = []
    for variant in sorted({record["variant"] for record in records} - {"gated"}):
        of_seeds = []
        for seed in sorted({record["seed"] for record in records}):
            curves = []
            for which in ("gated", variant):
                own = sorted(
                    (r[figure], r["l0"]) for r in records if (r["variant"], r["seed"]) == (which, seed)
                )
                curves.append((np.array([a for a, _ in own]), np.log([b for _, b in own])))
            (x, gated_l0), (other_x, other_l0) = curves
            inside = (x >= other_x[0]) & (x <= other_x[-1])
            if inside.any():
                factors = np.exp(np.interp(x[inside], other_x, other_l0) - gated_l0[inside])
                of_seeds.append((float(np.median(factors)), int(inside.sum())))
        shown = (
            ", ".join(f"{factor:.2f} ({points} points)" for factor, points in of_seeds) or "no overlap"
        )
        rows.append((variant, shown))
    print_table((f"L0 over that of gated at equal {figure}", "by seed"), rows)


def draw(options: argparse.Namespace, name: str, records: list[dict[str, Any]], *, is_lm: bool) -> None:
    """Draw L0 against FVU and loss recovered, means over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    from sae_features.training.displays import SAEEvaluationDisplay

    figures = ["fvu"] + (["loss_recovered_zero"] if is_lm else [])
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        groups.setdefault((record["variant"], record["goal"]), []).append(record)
    means = [
        {"variant": variant} | {n: float(np.mean([r[n] for r in of_group])) for n in ("l0", *figures)}
        for (variant, _), of_group in groups.items()
    ]
    _, axes = plt.subplots(1, len(figures), figsize=(6.4 * len(figures), 4.8), squeeze=False)
    for ax, figure in zip(axes[0], figures, strict=True):
        SAEEvaluationDisplay.from_evaluations(means, y=figure, by="variant", ax=ax)
        ax.set_title(name)
    plt.tight_layout()
    plt.savefig(options.out / f"{name}.png", dpi=120)


if __name__ == "__main__":
    main()
