"""Damaged and hostile files of SAEs, made of the golden ones, and what may come of loading them.

A mutator takes a random generator and a sample, and returns a :class:`Case`: files, and what is
allowed besides a clear error.  ``test_fuzz.py`` draws some hundred of them, ``benchmarks/sae_fuzz.py``
thousands.
"""

from __future__ import annotations

from saes.fuzzing.damage import (
    add_tensor,
    append_bytes,
    change_dtype,
    drop_tensor,
    flip_bytes,
    inject_nonfinite,
    other_suffix,
    rename_tensor,
    reshape_tensor,
    share_storage,
    swap_files,
    truncate,
)
from saes.fuzzing.folders import add_weights, link_files
from saes.fuzzing.pickles import attack_pickle, lie_in_pickle
from saes.fuzzing.samples import Case, Outcome, Sample, empty, golden_samples, own_samples
from saes.fuzzing.settings import add_config, bomb_config, change_config, flip_config
from saes.fuzzing.sizes import lie_in_members, lie_in_npy, lie_in_safetensors, lie_in_zip, zip_bomb
from saes.fuzzing.verdicts import judge

__all__ = ["Case", "Outcome", "Sample", "draw_case", "empty", "golden_samples", "judge", "own_samples"]

ANY = [
    flip_bytes,
    flip_bytes,
    flip_bytes,
    truncate,
    append_bytes,
    swap_files,
    other_suffix,
    inject_nonfinite,
    inject_nonfinite,
    change_dtype,
    drop_tensor,
    rename_tensor,
    add_tensor,
    reshape_tensor,
    change_config,
    change_config,
    change_config,
    flip_config,
    bomb_config,
    add_config,
    link_files,
    add_weights,
    attack_pickle,
]
OF_SUFFIX = {
    ".safetensors": [lie_in_safetensors] * 3,
    ".npz": [lie_in_zip, lie_in_members, zip_bomb, lie_in_npy, lie_in_npy],
    ".pt": [
        lie_in_zip,
        lie_in_zip,
        lie_in_members,
        zip_bomb,
        lie_in_pickle,
        lie_in_pickle,
        share_storage,
        attack_pickle,
        attack_pickle,
    ],
}
OF_SUFFIX[".pth"] = OF_SUFFIX[".pt"]


def draw_case(rng, samples):
    """Return a random case of a random sample, and its mutator; formats are as likely as each other."""
    chosen = rng.choice(sorted({sample.format for sample in samples}))
    sample = rng.choice([sample for sample in samples if sample.format == chosen])
    mutator = rng.choice(ANY + OF_SUFFIX[sample.suffix])
    case = mutator(rng, sample, samples) if mutator is swap_files else mutator(rng, sample)
    return case, mutator.__name__
