"""What a training step costs beside a dense step's matrix products and beside other libraries.

python benchmarks/training_throughput.py [--sections speed quality] [--only WORDS …] [--rounds 5]
    [--steps 3] [--threads 1] [--dtype float32 bfloat16] [--device cpu] [--data DIR] [--json FILE]

Rows are token activations of MiniLM's block 3 (``--tokens``; BBC news, newsgroups), the same for all,
scaled as a library's convention wants it before the clock starts.  Peers are rows where they are
installed (sparsify, dictionary_learning, sae-lens, hypothesaes: training_peers.py says what of them
runs); ours without any.  "relu" is what others call standard.

speed: seconds of a step, interleaved in one process in rotating order; of a round, the median of
``--steps`` steps after an untimed one, relative to the median of that round's gemm5, which runs three
times a round.  Shown are medians over the rounds, least and most.

gemm5        the five products that a dense step needs, 10·d·F flops a token: encoder and decoder
             forward, gradients of latents, decoder and encoder, into buffers that exist
gemm1        the encoder's forward product alone, 2·d·F
…, bf16      the products in bfloat16; of trainings, mixed precision where a library offers it on that
             device.  Ratios stay to the float32 gemm5

What ours costs follows what fires, so that penalised architectures are first trained until about k
latents fire: ``--warm-up`` steps of 1,024 rows at a learning rate of 1e-3.  Ours and the jumprelu of
dictionary_learning are given the L0; another penalty is raised or lowered every fifth step by how far
L0 is off.  "L0" is that after the last round.  Those that keep k latents warm up for a tenth of these
steps.

quality: FVU, L0 and share of latents alive on held-out rows after ``--seen`` tokens in batches of
``--quality-batch``, over ``--seeds`` seeds; FVU compares at equal L0.  A peer has its default learning
rate and other defaults ("default"; warm-ups are 5 % of the steps of the learning rate, 10 % of the
penalty), and the best of ``--rates`` by seed 0 ("tuned"), there with a learning rate that falls
over the last 30 %, latents that count as dead after 200,000 rows, and for sae-lens' jumprelu Anthropic's
setup, as far as it offers these.  Ours has its defaults only.  The weight of a penalty that is given no
L0 is searched with seed 0 until L0 is within 10 % of k, in at most ``--searches`` runs, from where a
steered run ended; the nearest one counts.  "seconds" are of training alone.  With ``--json`` rows that
the file has already are not made again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from measuring import about, add_common, corpus, print_table, rotated, save, shown, spread, use_threads
from training_peers import PENALISED, Contender, Plan, Training, contenders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYER = 3
HELD_OUT_TEXTS, HELD_OUT_TOKENS = 100, 20_000
"""Of a corpus, and of both."""
GEMMS = ("gemm5", "gemm1")
ANCHORS = 3
WARM_UP_BATCH = 1024
STEERED_EVERY = 5
STEERED_ROWS = 512
STEERING, FARTHEST = 0.3, 100
"""Power of how far L0 is off that a weight is multiplied with; how far it may go from the default."""
TOLERANCE = 0.1
EVALUATED_ROWS = 2048


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_common(parser)
    parser.add_argument("--sections", nargs="+", choices=("speed", "quality"), default=["speed"])
    parser.add_argument("--only", nargs="+", default=[], help="rows whose name holds one of these words")
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--tokens", type=int, default=200_000, help="rows to train on; a tenth more is held out"
    )
    parser.add_argument("--latents", type=int, default=4096)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4096, help="of speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a contender and round")
    parser.add_argument("--warm-up", type=int, default=300)
    parser.add_argument("--quality-batch", type=int, default=1024)
    parser.add_argument("--seen", type=int, default=1_000_000, help="tokens of a training, of quality")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--searches", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", choices=("default", "tuned"), default=["default", "tuned"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 3e-3], help="of tuned ones")
    options = parser.parse_args()
    use_threads(options.threads)
    figures: dict[str, Any] = {}
    if options.json and options.json.exists():
        figures = json.loads(options.json.read_text(encoding="utf-8"))
    figures["about"] = about()
    print(json.dumps(figures["about"]))
    training, held_out = activations(options.data, options.tokens)
    print(f"{len(training):,} rows to train on, {len(held_out):,} held out, of {training.shape[1]}")
    wanted = [
        (row, dtype)
        for row in contenders()
        for dtype in options.dtype
        if row.takes(dtype, options.device) and is_wanted(titled(row.name, dtype), options.only)
    ]
    if "speed" in options.sections:
        figures["speed"] = measure_speed(wanted, training, options)
        save(options.json, figures)
    if "quality" in options.sections:
        names = (
            "tokens",
            "latents",
            "k",
            "quality_batch",
            "seen",
            "seeds",
            "searches",
            "rates",
            "device",
        )
        settings = {name: getattr(options, name) for name in names}
        if figures.get("quality", {}).get("settings") != settings:
            figures["quality"] = {"settings": settings, "rows": {}}
        found = figures["quality"]["rows"]
        for row, dtype in wanted:
            measure_quality(row, dtype, (training, held_out), found, options)
            save(options.json, figures)
        print_quality(found, [titled(row.name, dtype) for row, dtype in wanted])


def is_wanted(name: str, words: list[str]) -> bool:
    """Tell whether a name holds one of the words; without any, all are wanted."""
    return not words or any(word in name for word in words)


def titled(name: str, dtype: str) -> str:
    """Return what a row is called."""
    return name if dtype == "float32" else f"{name}, bf16"


def activations(data: Path | None, n_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return activations of content tokens: to train on, and of other texts, held out."""
    from sae_features import load_backbone
    from sae_features.hook_point import HookPoint

    point = HookPoint(LAYER)
    backbone = load_backbone("minilm")
    sources = [corpus(name, data)[0] for name in ("bbc", "newsgroups")]
    training = read(backbone, point, [texts[HELD_OUT_TEXTS:] for texts in sources], n_tokens)
    held_out = read(backbone, point, [texts[:HELD_OUT_TEXTS] for texts in sources], HELD_OUT_TOKENS)
    return training, held_out


def read(backbone: Any, point: Any, sources: list[list[str]], n_tokens: int) -> torch.Tensor:
    """Return activations of texts that are taken of the sources in turn, in random order."""
    found: list[np.ndarray] = []
    for start in range(0, max(map(len, sources)), 32):
        for texts in sources:
            part = texts[start : start + 32]
            if part and sum(map(len, found)) < n_tokens:
                made = backbone.activations(part, points=[point], max_length=256, overflow="chunk")
                found.append(made[point].values)
    rows = torch.from_numpy(np.concatenate(found))[:n_tokens]
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]


def batches(rows: torch.Tensor, size: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches for ever, pass after pass in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for chosen in torch.split(order[: len(rows) // size * size], size):
            yield rows[chosen]


def plan_of(options: argparse.Namespace, d_in: int, **changes: Any) -> Plan:
    """Return the plan of the options."""
    sizes: dict[str, Any] = {"n_latents": options.latents, "k": options.k, "device": options.device}
    return Plan(d_in=d_in, **(sizes | changes))


def train(
    training: Training,
    rows: Iterator[torch.Tensor],
    n_steps: int,
    plan: Plan,
    steered: torch.Tensor | None,
) -> float:
    """Make steps and return their seconds; with rows to steer by, towards the plan's L0."""
    seconds, first = 0.0, training.sparsity or 1.0
    for number in range(n_steps):
        x = (next(rows) * training.scale).to(plan.device)
        started = clock(plan.device)
        training.step(x)
        seconds += clock(plan.device) - started
        if steered is not None and number % STEERED_EVERY == 0:
            off = max(0.5, min(2.0, l0_of(training, steered, plan) / plan.k))
            weight = (training.sparsity or first) * off**STEERING
            training.sparsity = max(first / FARTHEST, min(first * FARTHEST, weight))
    return seconds


@torch.no_grad()
def l0_of(training: Training, rows: torch.Tensor, plan: Plan) -> float:
    """Return how many latents of a row fire, on average."""
    latents = training.latents((rows * training.scale).to(plan.device))
    return float((latents != 0).sum()) / len(rows)


def clock(device: str) -> float:
    """Return seconds, once the device has done its work."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure_speed(
    wanted: list[tuple[Contender, str]], rows: torch.Tensor, options: argparse.Namespace
) -> dict[str, Any]:
    """Time all contenders, and print the table."""
    steps: dict[str, Callable[[], object]] = {}
    trainings: dict[str, tuple[Training, Plan]] = {}
    batch = next(batches(rows, options.batch, 1))
    for dtype in dict.fromkeys(["float32", *options.dtype]):
        made = gemms(batch, options.latents, getattr(torch, dtype), options.device)
        steps |= {titled(name, dtype): run for name, run in made.items()}
    anchors = list(steps)
    for row, dtype in wanted:
        name = titled(row.name, dtype)
        plan = plan_of(options, rows.shape[1], batch_size=options.batch, steps=options.warm_up,
                       learning_rate=1e-3, dtype=dtype)  # fmt: skip
        training = row.make(plan, rows[:20_000])
        warm_up = options.warm_up if row.architecture in PENALISED else options.warm_up // 10
        steered = rows[:STEERED_ROWS] if row.is_steered else None
        train(training, batches(rows, WARM_UP_BATCH, 0), warm_up, plan, steered)
        if row.architecture in PENALISED:
            trainings[name] = training, plan
        feed = [(part * training.scale).to(options.device) for part in several(rows, options)]
        steps[name] = stepper(training, feed)
        print(f"  {name} is warm", flush=True)
    seconds = timed(steps, anchors, options)
    table: dict[str, Any] = {}
    for name, of_rounds in seconds.items():
        ratios = [own / of for own, of in zip(of_rounds, seconds["gemm5"], strict=True)]
        table[name] = {
            "seconds": spread(of_rounds),
            "ratio": spread(ratios),
            "tokens_per_second": options.batch / statistics.median(of_rounds),
        }
        if name in trainings:
            training, plan = trainings[name]
            training.finish()
            table[name]["l0"] = l0_of(training, rows[:EVALUATED_ROWS], plan)
    print_table(
        (f"batch {options.batch:,}, F {options.latents:,}", "time / gemm5", "tokens/s", "ms", "L0"),
        [
            (
                name,
                shown(row["ratio"]),
                f"{row['tokens_per_second']:,.0f}",
                f"{1000 * row['seconds']['median']:.0f}",
                f"{row['l0']:.0f}" if "l0" in row else "",
            )
            for name, row in table.items()
        ],
    )
    return {"rows": table, "seconds": seconds, "settings": vars(options) | {"data": None, "json": None}}


def several(rows: torch.Tensor, options: argparse.Namespace) -> list[torch.Tensor]:
    """Return the batches that are timed, the same for all."""
    source = batches(rows, options.batch, 2)
    return [next(source) for _ in range(4)]


def stepper(training: Training, feed: list[torch.Tensor]) -> Callable[[], None]:
    """Return a function that makes a step on the next batch."""
    numbers = iter(range(10**9))
    return lambda: training.step(feed[next(numbers) % len(feed)])


def gemms(
    x: torch.Tensor, n_latents: int, dtype: torch.dtype, device: str
) -> dict[str, Callable[[], object]]:
    """Return the products of a dense step, whose operands are of that precision."""
    n, d = x.shape
    x = x.to(device, dtype)
    codes, encoder, decoder = (
        torch.randn(shape, device=device).to(dtype)
        for shape in ((n, n_latents), (n_latents, d), (n_latents, d))
    )
    wide, narrow, weights = torch.empty_like(codes), torch.empty_like(x), torch.empty_like(encoder)

    def forward() -> None:
        torch.mm(x, encoder.T, out=wide)

    def step() -> None:
        torch.mm(x, encoder.T, out=wide)
        torch.mm(codes, decoder, out=narrow)
        torch.mm(x, decoder.T, out=wide)
        torch.mm(codes.T, x, out=weights)
        torch.mm(wide.T, x, out=weights)

    return {"gemm5": step, "gemm1": forward}


def timed(
    steps: dict[str, Callable[[], object]], anchors: list[str], options: argparse.Namespace
) -> dict[str, list[float]]:
    """Return the median seconds of a step, of each contender and round."""
    others = [name for name in steps if name not in anchors]
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(options.rounds):
        of_round: dict[str, list[float]] = {name: [] for name in steps}
        for part in np.array_split(np.array(rotated(others, turn) if others else [], object), ANCHORS):
            for name in [*anchors, *part]:
                steps[name]()
                for _ in range(options.steps):
                    started = clock(options.device)
                    steps[name]()
                    of_round[name].append(clock(options.device) - started)
        for name, of_name in of_round.items():
            seconds[name].append(statistics.median(of_name))
    return seconds


def measure_quality(
    row: Contender, dtype: str, rows: tuple[torch.Tensor, torch.Tensor], found: dict[str, Any],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Add a contender's rows, of its default learning rate and of the best of others."""
    plan = plan_of(options, rows[0].shape[1], batch_size=options.quality_batch, dtype=dtype,
                   steps=max(1, options.seen // options.quality_batch))  # fmt: skip
    name = titled(row.name, dtype)
    default, tuned = f"{name} | default", f"{name} | tuned"
    if default not in found and "default" in options.kinds:
        first = searched(row, plan, rows, options.searches)
        found[default] = with_seeds(row, plan, rows, first, options.seeds)
    if tuned not in found and row.library != "ours" and "tuned" in options.kinds:
        tried = []
        for rate in options.rates:
            of_rate = dataclasses.replace(plan, learning_rate=rate, tuned=True)
            tried.append((searched(row, of_rate, rows, options.searches), of_rate))
        within = [pair for pair in tried if is_near(pair[0]["l0"], plan.k)] or tried
        first, best = min(within, key=lambda pair: pair[0]["fvu"])
        found[tuned] = with_seeds(row, best, rows, first, options.seeds)


def searched(
    row: Contender, plan: Plan, rows: tuple[torch.Tensor, torch.Tensor], most: int
) -> dict[str, Any]:
    """Return the training whose L0 is nearest to k, by secants through logarithms of weight and L0."""
    if not row.is_steered:
        return trained(row, plan, rows)
    steered = row.make(plan, rows[0][:20_000])
    source = batches(rows[0], plan.batch_size, plan.seed)
    train(steered, source, plan.steps, plan, rows[0][:STEERED_ROWS])
    tried = [trained(row, dataclasses.replace(plan, sparsity=steered.sparsity), rows)]
    while len(tried) < most and not is_near(tried[-1]["l0"], plan.k):
        off = math.log(max(tried[-1]["l0"], 0.1) / plan.k)
        slope = -1.5
        if len(tried) > 1:
            one, other = (
                (math.log(run["sparsity"]), math.log(max(run["l0"], 0.1))) for run in tried[-2:]
            )
            slope = min(-0.1, (other[1] - one[1]) / (other[0] - one[0]))
        change = max(-2.0, min(2.0, -off / slope))
        weight = tried[-1]["sparsity"] * math.exp(change)
        tried.append(trained(row, dataclasses.replace(plan, sparsity=weight), rows))
    return min(tried, key=lambda run: abs(math.log(max(run["l0"], 0.1) / plan.k)))


def is_near(l0: float, k: int) -> bool:
    """Tell whether an L0 is the one that was wanted."""
    return abs(l0 / k - 1) <= TOLERANCE


def with_seeds(
    row: Contender, plan: Plan, rows: tuple[torch.Tensor, torch.Tensor], first: dict[str, Any], n: int
) -> dict[str, Any]:
    """Return a row: the first training, and those of the same plan and weight with other seeds."""
    steered = first["sparsity"] if row.is_steered else None
    plans = [dataclasses.replace(plan, sparsity=steered, seed=seed) for seed in range(1, n)]
    runs = [first, *(trained(row, other, rows) for other in plans)]
    return {"rate": plan.learning_rate, "sparsity": steered, "runs": runs}


def trained(row: Contender, plan: Plan, rows: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
    """Train and return what it is worth on held-out rows."""
    training = row.make(plan, rows[0][:20_000])
    source = batches(rows[0], plan.batch_size, plan.seed)
    seconds = train(training, source, plan.steps, plan, None)
    sparsity = training.sparsity
    training.finish()
    found = evaluated(training, rows[1], plan)
    found |= {"seconds": seconds, "sparsity": sparsity, "seed": plan.seed, "rate": plan.learning_rate}
    print(f"  {row.name}: " + ", ".join(f"{k} {v:.4g}" for k, v in found.items() if v), flush=True)
    return found


@torch.no_grad()
def evaluated(training: Training, rows: torch.Tensor, plan: Plan) -> dict[str, Any]:
    """Return FVU, L0 and the share of latents that fire at least once."""
    scaled = rows * training.scale
    mean = scaled.mean(dim=0, dtype=torch.float64)
    error = variance = torch.zeros((), dtype=torch.float64)
    fires = torch.zeros(plan.n_latents, dtype=torch.int64)
    for x in torch.split(scaled, EVALUATED_ROWS):
        latents = training.latents(x.to(plan.device))
        error = error + (x.double() - training.decode(latents).double().cpu()).square().sum()
        variance = variance + (x.double() - mean).square().sum()
        fires += (latents != 0).sum(dim=0).cpu()
    alive = float((fires > 0).double().mean())
    return {"fvu": float(error / variance), "l0": float(fires.sum()) / len(rows), "alive": alive}


def print_quality(found: dict[str, Any], names: list[str]) -> None:
    """Print the table of those rows."""
    print()
    print_table(
        ("", "rate", "FVU", "L0", "alive", "seconds"),
        [
            (
                title.replace(" | ", ", "),
                row["rate"] or "",
                shown(spread([run["fvu"] for run in row["runs"]]), 4),
                shown(spread([run["l0"] for run in row["runs"]]), 1),
                shown(spread([run["alive"] for run in row["runs"]])),
                f"{statistics.median(run['seconds'] for run in row['runs']):.0f}",
            )
            for title, row in found.items()
            if title.partition(" | ")[0] in names
        ],
    )


if __name__ == "__main__":
    main()
