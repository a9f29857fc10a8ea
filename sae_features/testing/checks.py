"""The checks of the conformance kit: each looks at one promise of a model family, by numbers."""

from __future__ import annotations

import pickle  # noqa: TID251 to look whether declarations can be pickled
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from sae_features.architectures import Patches
from sae_features.backbones.batches import by_item
from sae_features.backbones.hooks import read_points
from sae_features.backbones.sites import normalize
from sae_features.errors import SAEFeaturesError
from sae_features.hook_point import EMBEDDING, SITES, HookPoint
from sae_features.items import check_items
from sae_features.testing.tiny import IMAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sae_features.architectures import Architecture, Modality
    from sae_features.models import ModelFiles

TOLERANCE: Final = 1e-5
"""Largest difference, relative to the largest value."""
LOOSE: Final = 1e-4
"""The same where values are computed anew, in another order."""
ENDS: Final = (
    "norm", "final_norm", "final_layer_norm", "ln_f", "layernorm", "post_layernorm", "pooler", "head",
    "lm_head",
)  # fmt: skip
"""What models call what stands behind their blocks."""
TEXTS: Final = (
    "the river flows near the old mountain", "rain", "a calm sea, and a very long quiet evening there",
    "Zürich 9!", "x",
)  # fmt: skip


class CheckFailure(AssertionError):  # noqa: N818 as AssertionError, what tests raise
    """A family breaks a promise; the message says which, with numbers."""


@dataclass(frozen=True)
class Case:
    """A model to check.

    Attributes
    ----------
    files : ModelFiles
        Its files; a small random model, or a real one.
    modality : {"text", "image"}
        What is given to it.
    template : str
        What its tokenizer puts around texts, if it is a small one of the kit.
    """

    files: ModelFiles
    modality: Modality = "text"
    template: str = ""

    @property
    def architecture(self) -> Architecture:
        """What the family declares."""
        return self.files.architecture

    @cached_property
    def backbone(self) -> Any:
        """The model, loaded."""
        return self.load()

    def load(self) -> Any:
        """Load the model anew."""
        return self.files.family.backbone_class().load(
            self.files.folder, self.architecture, device="cpu", dtype="float32"
        )

    @cached_property
    def items(self) -> list[Any]:
        """Some items of different sizes."""
        return list(TEXTS) if self.modality == "text" else pictures()

    @cached_property
    def run(self) -> tuple[Any, dict[str, Any]]:
        """The windows of the items, and the model's inputs for all of them at once."""
        items = check_items(self.items, (self.modality,))
        policy = self.backbone.token_policy(self.modality, tokens="all")
        windows = self.backbone.windows(items, policy)
        reader = self.backbone.inputs[self.modality]
        inputs = reader.model_inputs(windows, np.arange(len(windows)), None)
        return windows, inputs

    def read(self, points: Sequence[HookPoint]) -> dict[HookPoint, torch.Tensor]:
        """Return what stands at hook points, (n_items, tokens, d), padding included."""
        taps = {point: self.backbone.stack.tap(point) for point in points}
        read, _ = read_points(self.backbone.model, taps, self.run[1])
        return {point: by_item(values, *self.attended.shape) for point, values in read.items()}

    @property
    def attended(self) -> torch.Tensor:
        """Which tokens are no padding, (n_items, tokens)."""
        windows, inputs = self.run
        if "attention_mask" in inputs:
            return inputs["attention_mask"].bool()
        return torch.ones(len(windows), int(windows.lengths.max()), dtype=torch.bool)


def pictures(n: int = 4, seed: int = 0) -> list[np.ndarray]:
    """Return random pictures of different sizes and shapes."""
    generator = np.random.default_rng(seed)
    sizes = ((40, 60, 3), (33, 33, 3), (90, 31, 3), (IMAGE_SIZE, IMAGE_SIZE))
    return [generator.integers(0, 256, sizes[i % 4]).astype(np.uint8) for i in range(n)]


def check_sizes(case: Case) -> None:
    """The files say how many blocks there are and how wide they are; every block can be read."""
    backbone = case.backbone
    takes = getattr(backbone.model, "main_input_name", None)
    if case.modality == "text" and takes == "pixel_values":
        raise CheckFailure("The model takes pixel_values; declare Patches() in place of Text().")
    for site, places in case.architecture.exceptions(backbone.model.config.to_dict()).items():
        if places and site not in backbone.stack.sites():
            raise CheckFailure(f"The block has no module at the places declared for {site}: {places}.")
    _equal("number of blocks", len(backbone.stack.blocks), case.files.n_layers)
    _equal("d_model", backbone.d_model, case.files.d_model)
    points = [HookPoint(0, site) for site in backbone.stack.sites()]
    for point, values in case.read(points).items():
        _equal(f"width at {point}", values.shape[-1], case.files.width(point))
        _equal(f"width of the backbone at {point}", values.shape[-1], backbone.width(point))
        if case.files.parse(point) != point:
            raise CheckFailure(f"{point} is another one without weights: {case.files.parse(point)}.")


def check_hidden_states(case: Case) -> None:
    """``resid_pre`` and ``resid_post`` are transformers' hidden states, one further for the latter."""
    backbone = case.backbone
    with torch.inference_mode():
        output = backbone.model(**case.run[1], output_hidden_states=True)
    states = output.hidden_states
    _equal("number of hidden states", len(states), backbone.n_layers + 1)
    for layer in range(backbone.n_layers):
        pre, post = HookPoint(layer, "resid_pre"), HookPoint(layer)
        read = case.read([pre, post])
        given = backbone.activations(case.items, points=[pre, post], tokens="all")
        for point in (pre, post):
            _alike(f"activations at {point}", given[point].values, read[point][case.attended].numpy())
        _close(f"{pre}, against hidden_states[{layer}]", read[pre], states[layer], case.attended)
        if layer + 1 < backbone.n_layers or not case.architecture.final_norm:
            where = f"{post}, against hidden_states[{layer + 1}]"
            _close(where, read[post], states[layer + 1], case.attended)
    if backbone.n_layers > 1 and _error(states[0], states[1], case.attended) < LOOSE:
        raise CheckFailure(
            "The first two hidden states are the same; an error of a layer would not show."
        )


def check_residual_stream(case: Case) -> None:
    """``attn_out`` and ``mlp_out`` are exactly what is added to the residual stream."""
    config = case.backbone.model.config.to_dict()
    kind = case.architecture.residual_of(config)
    sites = case.backbone.stack.sites()
    wanted = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    given_up = {site for site, places in case.architecture.exceptions(config).items() if not places}
    missing = sorted(
        set(wanted) - set(sites) - given_up - ({"resid_mid"} if kind == "parallel" else set())
    )
    if missing:
        hint = " Where attention and MLP read the same stream, declare residual='parallel'."
        message = f"The blocks lack {', '.join(missing)}; they have {', '.join(sites)}."
        raise CheckFailure(message + (hint if "resid_mid" in missing else ""))
    if kind == "parallel" and "resid_mid" in sites:
        message = "Parallel blocks have nothing between attention and MLP; expected no resid_mid."
        raise CheckFailure(message)
    for layer in {0, case.backbone.n_layers - 1}:
        read = case.read([HookPoint(layer, site) for site in wanted if site in sites])
        _check_sums(case, layer, kind, {point.site: values for point, values in read.items()})


def _check_sums(case: Case, layer: int, kind: str, x: dict[str, torch.Tensor]) -> None:
    if kind != "post_norm" and {"attn_out", "mlp_out"} <= x.keys():
        total = x["resid_pre"] + x["attn_out"] + x["mlp_out"]
        where = f"block {layer}: resid_post = resid_pre + attn_out + mlp_out"
        if kind == "parallel" or "resid_mid" not in x:
            _close(where, x["resid_post"], total, case.attended, LOOSE)
    for after, before, added in (
        ("resid_mid", "resid_pre", "attn_out"),
        ("resid_post", "resid_mid", "mlp_out"),
    ):
        if kind == "parallel" or not {after, before, added} <= x.keys():
            continue
        total = x[before] + x[added]
        where = f"block {layer}: {after} = {before} + {added}"
        if kind == "pre_norm":
            _close(where, x[after], total, case.attended, LOOSE)
        else:
            _affine(f"{where}, normed", x[after], _layer_norm(total), case.attended)


def check_mlp_sites(case: Case) -> None:
    """``mlp_normalized`` becomes ``mlp_in`` by a gain and a bias for each dimension."""
    sites = case.backbone.stack.sites()
    points = [HookPoint(1, site) for site in ("mlp_in", "mlp_normalized", "mlp_hidden") if site in sites]
    read = {point.site: values for point, values in case.read(points).items()} if points else {}
    if {"mlp_in", "mlp_normalized"} <= read.keys():
        _affine("mlp_in from mlp_normalized", read["mlp_in"], read["mlp_normalized"], case.attended)
    if "mlp_hidden" in read and read["mlp_hidden"].shape[-1] == 1:
        raise CheckFailure("mlp_hidden has one dimension; expected the MLP's activations.")


def check_projections(case: Case) -> None:
    """``attn_z`` and ``mlp_hidden`` are what is projected to ``attn_out`` and ``mlp_out``."""
    sites = case.backbone.stack.sites()
    for hidden, out in (("attn_z", "attn_out"), ("mlp_hidden", "mlp_out")):
        if not {hidden, out} <= set(sites):
            continue
        points = HookPoint(1, hidden), HookPoint(1, out)
        tap = case.backbone.stack.tap(points[0])
        if tap.side != "in":
            continue
        read = case.read(points)
        with torch.inference_mode():
            projected = tap.module(read[points[0]])
        got, attended = read[points[1]], case.attended
        _equal(f"shape of what {hidden} is projected to", projected.shape, got.shape)
        if _error(projected, got, attended) <= LOOSE:
            continue
        # A norm may stand behind, or a scale for each dimension.
        rms = normalize(torch.nn.RMSNorm(projected.shape[-1], eps=1e-12), projected)
        scaled = min(_affine_error(got, given, attended) for given in (projected, rms))
        if not scaled <= 10 * LOOSE:
            raise CheckFailure(
                f"{out} is not what {hidden} is projected to: off by {scaled:.2g} of the largest value."
            )


def check_early_stop(case: Case) -> None:
    """Nothing runs after the last hook point: no later block, no final norm, no head."""
    model, stack = case.backbone.model, case.backbone.stack
    names = {module: name for name, module in model.named_modules()}
    prefixes = [f"{names[block]}." for block in stack.blocks]
    last_of_tower = names[stack.blocks[-1]]
    for layer in range(min(case.backbone.n_layers, 3)):
        run = partial(case.backbone.activations, case.items, layer=layer, tokens="all")
        started = _modules_that_run(names, run)
        beyond = [
            name for name in started if any(f"{name}.".startswith(p) for p in prefixes[layer + 1 :])
        ]
        if beyond:
            raise CheckFailure(f"{beyond[0]} ran although only block {layer} was read.")
        ended = [name for name in started if _is_head(name, last_of_tower)]
        if ended:
            raise CheckFailure(f"{ended[0]} ran although only block {layer} was read.")


def check_batch_invariance(case: Case) -> None:
    """An item's values do not depend on the batch, the order, padding or what else is read."""
    backbone = case.backbone
    points = [HookPoint(layer, site) for layer in (0, 1) for site in backbone.stack.sites()]
    together = backbone.activations(case.items, points=points)
    for batch_size in (1, 2):
        other = backbone.activations(case.items[::-1], points=points, batch_size=batch_size)
        for point in points:
            for i in range(len(case.items)):
                _alike(
                    f"item {i} at {point} in batches of {batch_size}",
                    other[point][len(case.items) - 1 - i],
                    together[point][i],
                )
    for point in points[:: max(1, len(points) // 4)]:
        alone = backbone.activations(case.items, layer=point.layer, site=point.site)
        _alike(f"{point} read alone", alone.values, together[point].values)
    if case.modality == "text":
        _check_padding_sides(case, together, points)


def _check_padding_sides(case: Case, expected: Any, points: Sequence[HookPoint]) -> None:
    tokenizer = case.backbone.tokenizer
    side = tokenizer.padding_side
    try:
        for other in ("left", "right"):
            tokenizer.padding_side = other
            found = case.backbone.activations(case.items, points=points)
            for point in points:
                _alike(
                    f"{point} with padding_side={other!r}", found[point].values, expected[point].values
                )
    finally:
        tokenizer.padding_side = side


def check_content_tokens(case: Case) -> None:
    """Content is what the items hold: no BOS, CLS, registers, SEP, EOS or prompt."""
    backbone = case.backbone
    content = backbone.activations(case.items, layer=0)
    everything = backbone.activations(case.items, layer=0, tokens="all")
    if case.modality == "image":
        if content.grids is None:
            raise CheckFailure("The activations of images have no grids.")
        for i, grid in enumerate(content.grids):
            _equal(f"content tokens of image {i}", len(content[i]), grid.rows * grid.columns)
            if isinstance(case.architecture.input_of("image"), Patches):
                patches = everything[i][-len(content[i]) :]  # they stand behind CLS and registers
                _alike(f"patches of image {i} among all tokens", patches, content[i])
        return
    extra = {"bos": 1, "cls_sep": 2, "eos": 1, "plain": 0}.get(case.template)
    if extra is None:
        return
    has_sink = getattr(case.architecture.input_of("text"), "first_token_is_sink", False)
    is_sink = has_sink and case.template in {"plain", "eos"}
    for i, text in enumerate(case.items):
        n_bytes = len(text.encode())  # the kit's tokenizer has a token for each
        _equal(f"all tokens of {text!r}", len(everything[i]), n_bytes + extra)
        expected = n_bytes - (is_sink and n_bytes > 1)
        _equal(f"content tokens of {text!r}", len(content[i]), expected)


def check_attention_sink(case: Case) -> None:
    """Where tokens see only those before them, the first one is declared to be an attention sink."""
    if case.modality == "image":
        return
    texts = [case.items[0], f"{case.items[0]} and more"]
    short, long = (case.backbone.activations([t], layer=1, tokens="all").values for t in texts)
    policy = case.backbone.token_policy(tokens="all")
    ids = case.backbone.windows(check_items(texts, ("text",)), policy).ids
    n_same = int(np.argmin(np.append(ids[0] == ids[1][: len(ids[0])], False)))
    is_causal = np.abs(short[:n_same] - long[:n_same]).max() <= TOLERANCE * np.abs(short).max()
    declared = getattr(case.architecture.input_of("text"), "first_token_is_sink", False)
    if is_causal and not declared:
        message = (
            "Tokens see only those before them, and so the first becomes an attention sink of huge "
            "norm; expected Text(first_token_is_sink=True)."
        )
        raise CheckFailure(message)
    if declared and not is_causal:
        raise CheckFailure("Tokens see those behind them; expected Text(first_token_is_sink=False).")


def check_prompt(case: Case) -> None:
    """A prompt is context: it changes values, and its tokens do not count."""
    if case.modality == "image":
        return
    plain = case.backbone.activations(case.items[:1], layer=1, tokens="content")
    prompted = case.backbone.activations(case.items[:1], layer=1, prompt="query: {}")
    n_bytes = len(case.items[0].encode())
    if case.template:
        _equal("content tokens with a prompt", len(prompted.values), n_bytes)
    last = plain.values[-1], prompted.values[-1]
    if np.abs(last[0] - last[1]).max() < LOOSE:
        raise CheckFailure("A prompt changes nothing.")


def check_determinism(case: Case) -> None:
    """The same model gives the same values twice, and after loading it again."""
    first = case.backbone.activations(case.items, layer=-1).values
    if not np.array_equal(first, case.backbone.activations(case.items, layer=-1).values):
        raise CheckFailure("Two runs give different values.")
    if not np.array_equal(first, case.load().activations(case.items, layer=-1).values):
        raise CheckFailure("The model gives other values after it was loaded again.")


def check_embedding(case: Case) -> None:
    """Where the model pools by itself, ``embedding`` is one vector per item."""
    backbone = case.backbone
    if EMBEDDING not in backbone.sites:
        if case.architecture.embedding is not None:
            raise CheckFailure("The family declares an embedding, but the model cannot be read there.")
        return
    point = backbone.parse(EMBEDDING)
    both = backbone.activations(case.items, points=[point, HookPoint(0)])
    found = both[point]
    _equal("rows", found.values.shape, (len(case.items), backbone.width(point)))
    _equal("width without weights", case.files.width(point), backbone.width(point))
    alone = backbone.activations(case.items[1:2], site=EMBEDDING)
    _alike("embedding of an item alone", alone.values[0], found.values[1])


def check_errors(case: Case) -> None:
    """What cannot be is refused with our own errors."""
    backbone, n_layers = case.backbone, case.backbone.n_layers
    wrong: list[Any] = [[b"bytes"], [None], [3.5], []]
    if "image" not in case.architecture.modalities:
        wrong.append(pictures(1))
    if "text" not in case.architecture.modalities:
        wrong.append(["a text and no path"])
    attempts: list[Callable[[], Any]] = [
        lambda: backbone.activations(case.items, layer=n_layers),
        lambda: backbone.activations(case.items, layer=-n_layers - 1),
        lambda: backbone.activations(case.items, layer=0, site="nowhere"),
        lambda: backbone.activations(case.items, points=["blocks.0.hook_nothing"]),
        lambda: backbone.activations(case.items, layer=0, tokens="some"),
        *(lambda items=items: backbone.activations(items, layer=0) for items in wrong),
        *(
            lambda site=site: backbone.activations(case.items, layer=0, site=site)
            for site in SITES
            if site not in backbone.sites
        ),
    ]
    for number, attempt in enumerate(attempts):
        try:
            attempt()
        except SAEFeaturesError:
            continue
        except Exception as error:
            message = (
                f"Bad input {number} ends in {type(error).__name__}: {error}; expected an error of ours."
            )
            raise CheckFailure(message) from error
        raise CheckFailure(f"Bad input {number} is taken.")


def check_pickling(case: Case) -> None:
    """What the family declares, and activations, pickle."""
    for thing in (case.files.family, case.architecture):
        if pickle.loads(pickle.dumps(thing)) != thing:  # noqa: S301 our own bytes
            raise CheckFailure(f"{type(thing).__name__} is another one after pickling.")
    acts = case.backbone.activations(case.items, layer=0)
    copy = pickle.loads(pickle.dumps(acts))  # noqa: S301 our own bytes
    if not (np.array_equal(acts.values, copy.values) and acts.grids == copy.grids):
        raise CheckFailure("Activations are other ones after pickling.")


CHECKS: Final[tuple[Callable[[Case], None], ...]] = (
    check_sizes, check_hidden_states, check_residual_stream, check_mlp_sites, check_projections,
    check_early_stop, check_batch_invariance, check_content_tokens, check_attention_sink, check_prompt,
    check_determinism, check_embedding, check_errors, check_pickling,
)  # fmt: skip
"""All checks of a model, in order."""


def _modules_that_run(names: dict[torch.nn.Module, str], run: Callable[[], Any]) -> list[str]:
    """Return the names of modules that are called, in order."""
    started: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: started.append(name))
        for module, name in names.items()
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return started


def _is_head(name: str, last_block: str) -> bool:
    """Tell whether a module stands behind the blocks: beside their list, and called like a last norm."""
    tower = last_block.rpartition(".")[0].rpartition(".")[0]
    inside = name.removeprefix(f"{tower}.") if tower else name
    return inside in ENDS


def _layer_norm(x: torch.Tensor) -> torch.Tensor:
    return normalize(torch.nn.LayerNorm(x.shape[-1], eps=1e-12), x)


def _equal(what: str, got: Any, expected: Any) -> None:
    if got != expected:
        raise CheckFailure(f"Got {got} for the {what}; expected {expected}.")


def _error(got: torch.Tensor, expected: torch.Tensor, attended: torch.Tensor) -> float:
    got, expected = got[attended].double(), expected[attended].double()
    return float((got - expected).abs().max() / expected.abs().max())


def _close(
    what: str,
    got: torch.Tensor,
    expected: torch.Tensor,
    attended: torch.Tensor,
    tolerance: float = TOLERANCE,
) -> None:
    error = _error(got, expected, attended)
    if not error <= tolerance:
        raise CheckFailure(
            f"{what}: off by {error:.2g} of the largest value; expected at most {tolerance:g}."
        )


def _alike(what: str, got: np.ndarray, expected: np.ndarray) -> None:
    _equal(f"shape of {what}", got.shape, expected.shape)
    error = float(np.abs(got - expected).max() / np.abs(expected).max()) if expected.size else 0.0
    if not error <= TOLERANCE:
        raise CheckFailure(
            f"{what}: off by {error:.2g} of the largest value; expected at most {TOLERANCE:g}."
        )


def _affine_error(got: torch.Tensor, given: torch.Tensor, attended: torch.Tensor) -> float:
    """Return how far each dimension of one is from a gain times the other plus a bias."""
    y, x = got[attended].double(), given[attended].double()
    x_c, y_c = x - x.mean(dim=0), y - y.mean(dim=0)
    gain = (x_c * y_c).sum(dim=0) / x_c.square().sum(dim=0)
    return float((y_c - gain * x_c).abs().max() / y_c.abs().max())


def _affine(what: str, got: torch.Tensor, given: torch.Tensor, attended: torch.Tensor) -> None:
    error = _affine_error(got, given, attended)
    if not error <= 10 * LOOSE:
        raise CheckFailure(f"{what}: off by {error:.2g} of the largest value.")
