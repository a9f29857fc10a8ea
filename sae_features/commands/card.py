"""The model card of a trained SAE, as Markdown; all that it says stands in the SAE's metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_features.training.settings import TrainingSettings, settings_of

if TYPE_CHECKING:
    from pathlib import Path

    from sae_features.commands.request import TrainingRequest
    from sae_features.saes.autoencoder import SparseAutoencoder

CARD = "README.md"
ARCHITECTURES = {
    "topk": "TopK (arXiv 2406.04093)",
    "batchtopk": "BatchTopK (arXiv 2412.06410)",
    "matryoshka": "Matryoshka BatchTopK (arXiv 2503.17547)",
    "relu": "ReLU with an L1 penalty",
    "gated": "Gated (arXiv 2404.16014)",
    "jumprelu": "JumpReLU (arXiv 2407.14435)",
}
MEASURES = {
    "l0": "L0: latents that fire per token",
    "fvu": "FVU: fraction of variance unexplained, Σ‖x − x̂‖² / Σ‖x − mean‖²",
    "explained_variance": "explained variance, 1 − FVU",
    "gamma": "γ: relative reconstruction bias, E‖x̂‖² / E[x·x̂]; less than 1 is shrinkage",
    "cosine": "mean cosine similarity of x and x̂",
    "alive": "share of latents that fire at least once in these tokens",
    "ce_original": "cross-entropy of the model as it is, nats per token",
    "ce_sae": "cross-entropy with reconstructions in place of activations",
    "loss_recovered_zero": "loss recovered, of zero ablation",
    "loss_recovered_mean": "loss recovered, of mean ablation",
    "kl": "KL divergence of what the model predicts, nats",
}


def usage(folder: Path, request: TrainingRequest) -> list[str]:
    """Return the lines of Python that use an SAE."""
    options = {
        "tokens": None if request.tokens_policy == "content" else request.tokens_policy,
        "prompt": request.prompt,
        "dtype": request.dtype,
    }
    given = "".join(f", {name}={value!r}" for name, value in options.items() if value is not None)
    return [
        "from sae_features import SAEFeaturizer",
        f"features = SAEFeaturizer(sae={str(folder)!r}{given}).fit_transform(items)",
    ]


def write_card(folder: Path, sae: SparseAutoencoder, request: TrainingRequest) -> Path:
    """Write the card of an SAE into its folder, and return where."""
    path = folder / CARD
    path.write_text("\n".join(_lines(folder, sae, request)), encoding="utf-8")
    return path


def _lines(folder: Path, sae: SparseAutoencoder, request: TrainingRequest) -> list[str]:
    about, training = sae.metadata, sae.metadata["training"]
    settings, data, metrics = training["settings"], about["data"], about["metrics"]
    model = about["model"]["id"]
    counted = "all tokens" if about["tokens"] == "all" else "content tokens"
    if about["corpus"]["modality"] == "image":
        counted = "patches"
    name = data.get("file") or data.get("folder")
    tokens = "tokens held out" if metrics["is_held_out"] else "tokens that it was trained on"
    return [
        f"# {folder.resolve().name}: a sparse autoencoder for {model}",
        "",
        f"{ARCHITECTURES[settings['architecture']]} SAE on the activations of `{model}` at "
        f"{sae.hook_point}: {sae.d_in:,} dimensions, {sae.n_latents:,} latents, {_sparsity(settings)}.",
        "",
        "## Use",
        "",
        "```python",
        *usage(folder, request),
        "```",
        "",
        "Model and layer are filled in from what the SAE records; other weights than these are refused.",
        "",
        "## How good it is",
        "",
        f"On {metrics['n_tokens']:,} {tokens}:",
        "",
        "| measure | |",
        "| --- | --- |",
        *(
            f"| {words} | {metrics[key]:.4g} |"
            for key, words in MEASURES.items()
            if metrics.get(key) is not None
        ),
        "",
        "## Data",
        "",
        f"`{name}` (SHA-256 {data['sha256'][:16]}…): {data['n_items']:,} items, {data['n_trained']:,} "
        f"of them to train on and {data['n_held_out']:,} held out. {data['n_tokens']:,} {counted} in "
        f"one pass, {data['n_tokens_trained']:,} trained on{_windows(about)}. Left out are attention "
        f"sinks: tokens with more than {about['max_norm']:g} times the median norm.",
        "",
        "The data belong to their authors; none of them are in these files"
        + (", but the tokens that labels are made of." if sae.labels else "."),
        "",
        "## Training",
        "",
        f"`{request.command()}`",
        "",
        "| setting | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in _shown(settings, training["steps"]).items()),
        "",
        f"(All of them stand in `sae.json`.) {training['steps']:,} steps; "
        + ", ".join(f"{package} {version}" for package, version in about["versions"].items())
        + f". Weights of the model: SHA-256 {about['model']['digest'][:16]}….",
        "",
    ]


def _shown(settings: dict[str, Any], n_steps: int) -> dict[str, Any]:
    """Return the settings that say most, and those that are not usual."""
    made, usual = settings_of(settings), TrainingSettings().asdict()
    names = ("architecture", "n_latents", "k", "batch_size", "seed", "n_tokens")
    shown = {name: value for name, value in settings.items() if name in names or value != usual[name]}
    shown |= {"learning_rate": f"{made.rate(n_steps):.3g}", "goal (L0)": made.goal}
    if made.n_tokens is None:
        shown["epochs"] = made.epochs
    if made.is_penalised:
        del shown["k"]
    return {name: value for name, value in shown.items() if value is not None}


def _sparsity(settings: dict[str, Any]) -> str:
    if settings["sparsity"] is not None:
        return f"sparsity λ = {settings['sparsity']:g}"
    if settings["target_l0"] is not None:
        return f"steered to L0 = {settings['target_l0']:g}"
    steered = "steered to L0" if settings_of(settings).is_penalised else "k"
    return f"{steered} = {settings['k']}"


def _windows(about: Any) -> str:
    if "max_length" not in about:
        return ""
    return f", in windows of at most {about['max_length']:,} tokens"
