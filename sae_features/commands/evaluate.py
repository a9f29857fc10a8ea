"""The verb ``evaluate`` of the command line: how sparse an SAE is, and how faithful, on a corpus."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from sae_features.commands.train import INPUT_HELP, count
from sae_features.errors import InvalidInputError, InvalidParameterError, MissingDependencyError, warn
from sae_features.parameters import DTYPES, TOKENS

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from sae_features.releases import FileSAE
    from sae_features.training.metrics import SAEEvaluation
    from sae_features.training.streams import BackboneSource

PICTURES: Final = (".png", ".pdf", ".svg")


def add_options(evaluate: argparse.ArgumentParser) -> None:
    """Add what ``evaluate`` takes."""
    add = evaluate.add_argument
    add("sae", metavar="SAE", help="id, file or folder of an SAE")
    add("corpus", metavar="CORPUS", help=f"{INPUT_HELP}; best such as it was not trained on")
    add("--column", help="column of items (default: 'text', or the only one)")
    add("--model", help="alias, folder or owner/name on the hub (default: the SAE's own)")
    add("--layer", type=int, help="block, counted from 0 (default: the SAE's own)")
    add("--site", help="what is read of the block (default: the SAE's own)")
    add(
        "--max-tokens", type=count, metavar="N", help="look at about so many tokens of random items only"
    )
    add("--max-length", type=int, metavar="N", help="longest window in tokens (default: the SAE's own)")
    add(
        "--tokens-policy", choices=TOKENS, help="which tokens count (default: the SAE's own, or content)"
    )
    add("--prompt", help="a string with {} for the text, or 'chat' (default: the SAE's own)")
    add("--dtype", choices=DTYPES, help="type that the model computes in (default: float32)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    add(
        "--loss-recovered",
        action="store_true",
        help="also measure what the language model loses with the SAE spliced in",
    )
    add("--plot", metavar="FILE", help="draw how densely latents fire: .png, .pdf or .svg")
    add("--quiet", action="store_true", help="no progress bars")


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Do what was asked for; return it, and as text."""
    picture = None if options.plot is None else _checked_picture(options.plot)
    from sae_features.commands.measures import (
        PREDICTED_TOKENS,
        load_predictor,
        losses_of,
        measures_as_text,
        record_of,
    )
    from sae_features.training.metrics import evaluate_sae, refuse_transcoder
    from sae_features.weights import choose_device

    found, source = _find(options)
    sae = found.load(source.d_in, choose_device(options.device), decoder=True)
    refuse_transcoder(sae)
    lm = load_predictor(source) if options.loss_recovered else None
    evaluation = evaluate_sae(sae, source, max_rows=options.max_tokens, verbose=not options.quiet)
    record = record_of(evaluation)
    if lm is not None:
        n_tokens = options.max_tokens or PREDICTED_TOKENS
        (losses,) = losses_of(
            [sae], source, source.items.values, lm=lm, n_tokens=n_tokens, verbose=not options.quiet
        )
        record |= losses
    about = {
        "sae": found.name,
        "digest": sae.digest,
        "model": source.files.record["id"],
        "layer": source.hook_point.layer,
        "site": source.hook_point.site,
        "corpus": Path(options.corpus).resolve().name,
        "n_items": len(source.items),
    }
    lines = [
        f"{found.name}: {sae.architecture} SAE of {sae.n_latents:,} latents for {about['model']}, "
        f"{source.hook_point}, on {record['n_tokens']:,} of "
        f"{source.n_rows:,} tokens of {about['corpus']}",
        *measures_as_text(record),
    ]
    if picture is not None:
        _draw(evaluation, picture)
        about["plot"] = str(picture)
        lines.append(f"Drawn: {picture}")
    return about | record, "\n".join(lines)


def _find(options: argparse.Namespace) -> tuple[FileSAE, BackboneSource]:
    """Return the SAE, and the activations that it takes over a corpus, in random order."""
    from sae_features.input_files import read_items
    from sae_features.items import check_items
    from sae_features.releases import FileSAE
    from sae_features.targets import Request, resolve_target
    from sae_features.training.streams import BUFFER_ROWS, BackboneSource

    request = Request(options.model, options.layer, options.site, options.sae)
    target = resolve_target(request, with_sae=True)
    found = target.sae
    if not isinstance(found, FileSAE):
        message = (
            f"Got {options.sae!r}; expected an SAE with a decoder: a random one has none to measure."
        )
        raise InvalidParameterError(message)
    items = read_items(options.corpus, options.column)
    if not items:
        message = f"{Path(options.corpus).resolve().name} has no items; expected at least one."
        raise InvalidInputError(message)
    is_text = check_items(items, target.model.modalities).modality == "text"
    order = np.random.default_rng(0).permutation(len(items))
    source = BackboneSource(
        target.model.name,
        [items[i] for i in order],
        layer=target.point.layer,
        site=target.point.site,
        tokens=options.tokens_policy or _own(found, "tokens", TOKENS) or "content",
        prompt=_own(found, "prompt") if options.prompt is None else options.prompt,
        max_length=options.max_length or (_context(found, target.model.context) if is_text else None),
        dtype=options.dtype,
        device=options.device,
        buffer_rows=min(BUFFER_ROWS, options.max_tokens or BUFFER_ROWS),
        max_norm=_max_norm(found),
        verbose=not options.quiet,
    )
    if is_text:
        _warn_of_bos(found, source)
    return found, source


def _max_norm(found: FileSAE) -> float | None:
    """Return from what norm on tokens are sinks: as in training, if it was ours; others' see all."""
    from sae_features.training.streams import MAX_NORM

    usual = MAX_NORM if "training" in found.metadata else None
    value = found.metadata.get("max_norm", usual)
    return float(value) if isinstance(value, int | float) else None


def _own(found: FileSAE, name: str, known: Sequence[str] | None = None) -> str | None:
    """Return what the SAE's metadata say, if it is a text, and one of those that are known."""
    value = found.metadata.get(name)
    is_one = isinstance(value, str) and (known is None or value in known)
    return value if is_one else None


def _context(found: FileSAE, of_model: int) -> int | None:
    """Return the SAE's own context where it is the shorter one; the model knows its own."""
    own = found.metadata.get("max_length")
    return own if isinstance(own, int) and own < of_model else None


def _warn_of_bos(found: FileSAE, source: BackboneSource) -> None:
    """Warn where the SAE asks for another beginning of windows than the tokenizer gives."""
    from sae_features.items import Items
    from sae_features.weights import backbone_of

    stated = found.metadata.get("prepend_bos")
    if not isinstance(stated, bool):
        return
    backbone = backbone_of(source.files, device=source.device, dtype=source.dtype)
    usual, asked = (
        backbone.windows(
            Items("text", ["a"]), backbone.token_policy("text", prepend_bos=prepend)
        ).ids[0].tolist()
        for prepend in (None, stated)
    )  # fmt: skip
    if usual != asked:
        what = "a BOS first" if stated else "no BOS"
        warn(
            f"The SAE {found.name!r} asks for {what}, other than the model's tokenizer does; it is "
            "measured on what the tokenizer gives."
        )


def _checked_picture(given: str) -> Path:
    """Return where to draw; raise now, not behind the work, where that cannot be."""
    place = Path(given).expanduser()
    if place.suffix.lower() not in PICTURES:
        message = f"Got --plot {given!r}; expected a file of kind {', '.join(PICTURES)}."
        raise InvalidParameterError(message)
    if not place.resolve().parent.is_dir():
        message = f"Got --plot {given!r}; expected a place in a folder that is there."
        raise InvalidParameterError(message)
    if importlib.util.find_spec("matplotlib") is None:
        message = 'Plots need matplotlib; install it: pip install "sae-features[plot]"'
        raise MissingDependencyError(message)
    return place


def _draw(evaluation: SAEEvaluation, place: Path) -> None:
    import matplotlib as mpl

    from sae_features.training.displays import SAEEvaluationDisplay

    mpl.use("agg")  # no window
    SAEEvaluationDisplay.from_evaluation(evaluation).figure_.savefig(place, dpi=150)
