"""The verb ``train`` of the command line: from a corpus to sparse autoencoders, planned first."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from sae_features.commands.option_files import read_options
from sae_features.commands.request import LATENTS_PER_DIMENSION, TrainingRequest
from sae_features.errors import InvalidParameterError, StoreError
from sae_features.parameters import DTYPES, TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.commands.job import TrainingJob

INPUT_HELP: Final = (
    ".txt (an item per line), .csv, .tsv or .jsonl: texts, or paths of images for a vision model; or a "
    "folder of images"
)
MULTIPLES: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
ALTERNATIVES: Final = (("k", "target_l0", "sparsity"), ("tokens", "epochs"))
"""Of each, one may be given: on the command line, or else in the file."""
ELSEWHERE: Final = ("run", "interrupted", "json", "debug", "config")


def count(text: str) -> int:
    """Return the number that a text such as ``500k`` or ``2.5M`` stands for.

    Examples
    --------
    >>> count("500k"), count("2.5M"), count("1_000"), count("20,000")
    (500000, 2500000, 1000, 20000)
    """
    match = re.fullmatch(
        r"(\d+(?:\.\d+)?)\s?([kmgb]?)", text.strip().lower().replace("_", "").replace(",", "")
    )
    number = float(match[1]) * MULTIPLES[match[2]] if match else 0.0
    if number < 1 or number != round(number):
        message = f"got {text!r}; expected a number above 0 such as 200000, 500k or 2M"
        raise argparse.ArgumentTypeError(message)
    return round(number)


def add_options(train: argparse.ArgumentParser) -> None:
    """Add what ``train`` takes; nothing has a default here, so that what was given is known."""

    def add(*names: str, **how: Any) -> None:
        train.add_argument(*names, default=argparse.SUPPRESS, **how)

    def flag(name: str, text: str) -> None:
        add(name, action="store_true", help=text)

    add("corpus", nargs="?", metavar="CORPUS", help=INPUT_HELP)
    add("-o", "--output", metavar="FOLDER", help="where the SAE and its card are written")
    add(
        "--config",
        metavar="FILE.toml",
        help="options from a file: their long names with underscores (n_latents = 4096); the command "
        "line wins",
    )
    add("--column", help="column of items (default: 'text', or the only one)")
    add("--model", help="alias, folder or owner/name on the hub (default: minilm)")
    add("--layer", type=int, help="block, counted from 0 (default: the one that its family names)")
    add("--site", help="what is read of the block (default: resid_post)")
    add(
        "--architecture",
        help="topk (default), batchtopk or matryoshka, which keep k latents; relu, gated or jumprelu, "
        "whose penalty is steered to --target-l0 or weighs --sparsity",
    )
    add(
        "--n-latents",
        type=count,
        metavar="N",
        help=f"width of the SAE (default: {LATENTS_PER_DIMENSION} for each dimension of its input)",
    )
    add(
        "--k",
        type=int,
        nargs="+",
        metavar="K",
        help="latents that fire per token (default: 32); several values of this, of --target-l0 or of "
        "--sparsity train one SAE each in the same run, in folders inside FOLDER",
    )
    add(
        "--target-l0",
        type=float,
        nargs="+",
        metavar="X",
        help="the same as a mean over tokens, for relu, gated and jumprelu",
    )
    add("--sparsity", type=float, nargs="+", metavar="λ", help="weight of the penalty, in place of it")
    add(
        "--tokens",
        type=count,
        metavar="N",
        help="tokens to train on: 500k, 2M …; more than the corpus has are passes over it",
    )
    add("--epochs", type=int, metavar="N", help="passes over the corpus, in place of it (default: 4)")
    add("--batch-size", type=count, metavar="N", help="tokens per step (default: 2048)")
    add("--learning-rate", type=float, metavar="R", help="Adam's (default: by the number of steps)")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        help="type of the encoder's product in training (default: float32)",
    )
    add(
        "--seed", type=int, metavar="N", help="of what is held out, order and first weights (default: 0)"
    )
    add(
        "--max-length",
        type=int,
        metavar="N",
        help="longest window of the model in tokens; longer texts are read in several",
    )
    add("--tokens-policy", choices=TOKENS, help="which tokens count (default: content)")
    add("--prompt", help="a string with {} for the text, or 'chat'")
    add("--dtype", choices=DTYPES, help="type that the model computes in (default: float32)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    add(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of the items that are only evaluated on (default: 0.05)",
    )
    flag("--loss-recovered", "also measure what a language model loses with the SAE spliced in")
    flag("--label", "name latents by the tokens that drive them most")
    add(
        "--activations",
        metavar="DIR",
        help="write activations there once, and read them in each pass: the model runs once",
    )
    add(
        "--save-seconds",
        type=float,
        metavar="S",
        help="how often the training is saved; a kill loses at most that much (default: 60)",
    )
    flag("--keep-checkpoint", "leave the saved training in FOLDER when it is finished")
    flag("--overwrite", "replace an SAE, or another unfinished training, in FOLDER")
    flag("--dry-run", "print the plan, with an estimate of the time, and stop")
    flag("--quiet", "no progress bars")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Do what was asked for; return it, and as text."""
    request = request_of(options)
    from sae_features.commands import job as training_job
    from sae_features.commands.report import plan_as_text, result_as_text
    from sae_features.store.private import locked

    stream = sys.stderr if options.json else sys.stdout
    job = training_job.prepare(request)
    made = training_job.plan(job)
    told = {"plan": made.asdict(), "data": job.corpus.record, "model": job.files.record}
    text = plan_as_text(job, made)
    if request.dry_run:
        return told, text
    stream.write(text + "\n\n")
    stream.flush()
    training_job.check_room(job, made)
    request.folder.mkdir(parents=True, exist_ok=True)
    with locked(request.folder, wait=False) as is_held:
        if not is_held:
            message = f"Another process trains in {str(request.folder)!r}; wait for it, or stop it."
            raise StoreError(message)
        try:
            trained = training_job.train(job)
            measured = training_job.evaluate(job, trained)
            folders = training_job.save(job, trained, measured)
        except KeyboardInterrupt:
            options.interrupted = _interrupted(job)
            raise
    saes = [
        {"folder": str(folder), "settings": one.settings.asdict(), "metrics": measures}
        for folder, one, measures in zip(folders, trained, measured, strict=True)
    ]
    return told | {"saes": saes}, result_as_text(job, folders, measured)


def request_of(options: argparse.Namespace) -> TrainingRequest:
    """Return what is asked for on the command line, and else in the file that it names.

    Raises
    ------
    InvalidParameterError, AssetNotFoundError
        As :func:`~sae_features.commands.option_files.read_options`; or if there is no corpus or output.
    """
    given = {name: value for name, value in vars(options).items() if name not in ELSEWHERE}
    path: str | Path | None = getattr(options, "config", None)
    from_file = {} if path is None else read_options(path, add_options, but=("config",))
    for names in ALTERNATIVES:
        if any(name in given for name in names):
            from_file = {name: value for name, value in from_file.items() if name not in names}
    values = from_file | given
    for name, example in (("corpus", "CORPUS"), ("output", "-o FOLDER")):
        if not values.get(name):
            message = f"Got no {name}; expected {example}, or {name} = … in the file of --config."
            raise InvalidParameterError(message)
    return TrainingRequest(**values)


def _interrupted(job: TrainingJob) -> str:
    """Return what is told after Ctrl-C."""
    from sae_features.training.saved_runs import saved_numbers

    numbers = saved_numbers(job.checkpoint)
    if numbers is None:
        return "interrupted before anything was saved; run the same command again to begin anew"
    return (
        f"interrupted; {numbers['step']:,} of {numbers['steps']:,} steps are saved in "
        f"{str(job.checkpoint)!r}: run the same command again to go on from there"
    )
