"""What may come of loading a case, and what came of it."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import torch
from saes.fuzzing.samples import ANY_SAE, LEGAL, MARKER, REFUSAL, VALUES, Outcome, write_files

from sae_features import SAEFeaturesWarning, load_sae
from sae_features.errors import SAEFeaturesError
from sae_features.saes import formats

MAX_MESSAGE = 2000


def judge(case, folder, *, decoder=True):
    """Load the files of a case, and say what came of it.

    Parameters
    ----------
    case : Case
    folder : Path
        Empty; the files are written into ``folder / "sae"``, and nothing else may be there afterwards.
    decoder : bool
    """
    root = folder / "sae"
    write_files(case.files, root)
    before = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    complaints = []
    genuine, formats.warn_once = formats.warn_once, complaints.append
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            place = root / (case.sample.place if case.place is None else case.place)
            sae = load_sae(place, **case.sample.arguments, decoder=decoder)
            outcome = _judge_load(case, sae, [str(warning.message) for warning in caught])
        odd = [warning for warning in caught if not issubclass(warning.category, SAEFeaturesWarning)]
        if odd:
            outcome = Outcome("other", f"a warning: {odd[0].message}")
    except SAEFeaturesError as error:
        outcome = _judge_error(error)
    except Exception as error:  # noqa: BLE001 which ones there are is the question
        outcome = Outcome("other", f"{type(error).__name__}: {error!s:.300}")
    finally:
        formats.warn_once = genuine
    if complaints:
        outcome = Outcome("other", f"in detection: {complaints[0]:.300}")
    after = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    if Path(MARKER).exists() or any(name.endswith(MARKER) for name in after):
        Path(MARKER).unlink(missing_ok=True)
        return Outcome("execution", case.name)
    if after != before:
        return Outcome("execution", f"files changed: {sorted(after ^ before)[:3]}")
    return outcome


def _judge_error(error):
    cause = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "allocate memory" in str(cause):
            return Outcome("memory", str(error)[:300])
        cause = cause.__cause__
    if len(str(error)) > MAX_MESSAGE:
        return Outcome("other", f"a message of {len(str(error))} characters: {error!s:.300}")
    return Outcome("error", str(error))


def _judge_load(case, sae, told):
    sample = case.sample
    if case.allowed == REFUSAL and not (case.only_decoder and sae.W_dec is None):
        return Outcome("wrong", "loaded")
    tensors = dict(sae.tensors())
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        return Outcome("wrong", "a tensor is not finite")
    if case.allowed == ANY_SAE or (case.other is not None and _is_same(sae, case.other)):
        return Outcome("correct")
    if case.other is not None and told:
        return Outcome("told", told[0])
    if (sae.d_in, sae.n_latents) != (sample.x.shape[1], sample.latents.shape[1]):
        return Outcome("wrong", f"of other sizes: {sae!r}")
    sae.encode(sample.x)
    if _is_same(sae, sample) or case.allowed == VALUES:
        return Outcome("correct")
    if case.allowed == LEGAL:
        matters = {place: value for place, value in case.changed.items() if _name(place) in MATTERS}
        if matters and all(is_legal(place, value, sae) for place, value in matters.items()):
            return Outcome("correct")
    if any("not used" in message or "no threshold" in message or "Give " in message for message in told):
        return Outcome("told", told[0])
    return Outcome("wrong", f"other numbers: {sae!r} {case.changed!r:.200}")


def _is_same(sae, sample):
    """Tell whether an SAE gives the numbers of a sample, of its decoder too if it has one."""
    if (sae.d_in, sae.n_latents) != (sample.x.shape[1], sample.latents.shape[1]):
        return False
    same = _is_close(sae.encode(sample.x), sample.latents)
    if sae.W_dec is None or sample.reconstruction is None:
        return same
    return same and _is_close(sae.reconstruct(sample.x), sample.reconstruction)


def _is_close(got, expected):
    scale = float(expected.abs().max())
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-5, atol=1e-5 * scale)


SWITCHES = {
    "apply_b_dec_to_input",
    "rescale_acts_by_decoder_norm",
    "transcode",
    "use_decoder_bias",
    "is_transcoder",
    "apply_decoder_bias_to_pre_encoder",
    "sparsity_include_decoder_norm",
    "subtract_b_dec",
    "topk_relu",
    "denormalize",
    "skip_connection",
}
CHOICES = {
    "normalize_activations": {
        "none",
        "layer_norm",
        "constant_norm_rescale",
        "expected_average_only_in",
        True,
        False,
    },
    "activation": {"topk", "groupmax"},
    "act_fn": {"relu", "topk", "jumprelu"},
    "norm_activation": {"dataset-wise", "token-wise", "inference"},
    "architecture": {"standard", "topk", "transcoder", "relu", "groupmax", "jumprelu", "gated"},
    "activation_fn": {"relu", "topk"},
    "activation_fn_str": {"relu", "topk"},
    "input_norm": {"none", "center", "layer_norm", "rms_norm", "scale"},
    "cls": {"Relu", "TopK", "BatchTopK"},
}
NUMBERS = {"in", "out", "jump_relu_threshold", "norm_scale"}
COUNTS = {"k", "top_k"}
SECTIONS = {"activation_fn_kwargs", "dataset_average_activation_norm", "activation", "params", "trainer"}
NAMES = {"hook_point_in", "hook_point_out", "dict_class", "schema"}
SIZES = {
    "d_in",
    "d_out",
    "d_sae",
    "d_model",
    "num_latents",
    "expansion_factor",
    "n_latents",
    "activation_dim",
    "dict_size",
    "exp_factor",
    "d_vit",
    "dtype",
    "act_size",
}
MATTERS = {*SWITCHES, *CHOICES, *NUMBERS, *COUNTS, *SECTIONS, *NAMES} - SIZES
"""Settings that numbers depend on; sizes must agree with the tensors instead."""


def _name(place):
    return place.rsplit(".", 1)[-1]


def is_legal(place, value, sae):
    """Tell whether a setting may have a value, so that other numbers are right."""
    name = _name(place)
    if value in (None, ...):
        return name in SWITCHES | set(CHOICES) | NUMBERS | SECTIONS | NAMES or name in COUNTS
    if name in SECTIONS and isinstance(value, dict):
        return True
    if name in SWITCHES:
        return isinstance(value, bool)
    if name in CHOICES:
        return isinstance(value, str | bool) and value in CHOICES[name]
    if name in NUMBERS:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if name in COUNTS:
        return sae.k is None or (type(value) is int and sae.k in (value, min(value, sae.n_latents)))
    if name == "schema":
        return type(value) is int and 1 <= value <= 5
    return name in NAMES and isinstance(value, str)
