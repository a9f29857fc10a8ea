"""Mutators of folders: symbolic links, and files that should not be there."""

from __future__ import annotations

from pathlib import Path

from saes.fuzzing.samples import REFUSAL, SAME, Case


def link_files(rng, sample):
    """Symbolic links: out of the folder, and as the hub's cache has them."""
    form = rng.choice(
        [
            "config",
            "weights",
            "folder",
            "cache",
            "loop",
            "nowhere",
            "special",
            "cache with blobs elsewhere",
        ]
    )
    inner = {f"repo/{name}": content for name, content in sample.files.items()}
    name = sample.config if form == "config" and sample.config else sample.weights
    place = f"repo/{sample.place}"
    is_asked_for = sample.place == name  # whoever names a link wants what it leads to
    up = "../" * len(Path(f"repo/{name}").parent.parts)
    if form in ("config", "weights"):
        files = {
            **inner,
            "elsewhere": sample.files[name],
            f"repo/{name}": f"link:{up}elsewhere".encode(),
        }
        return Case(
            sample,
            f"{form} is a link out of the folder",
            files,
            SAME if is_asked_for else REFUSAL,
            place,
        )
    if form == "folder":
        return Case(
            sample,
            "the folder is a link",
            {**inner, "alias": b"link:repo"},
            SAME,
            f"alias/{sample.place}",
        )
    if form in ("loop", "nowhere", "special"):
        target = {"loop": Path(name).name, "nowhere": "nothing", "special": "/dev/zero"}[form]
        return Case(
            sample,
            f"a link to {target}",
            {**inner, f"repo/{name}": f"link:{target}".encode()},
            REFUSAL,
            place,
        )
    root = "models--a--b"
    files, snapshot = {}, f"{root}/snapshots/{'0' * 40}"
    for index, (name, content) in enumerate(sample.files.items()):
        up = "../" * (2 + len(Path(name).parent.parts))
        files[f"{'out' if form != 'cache' else root + '/blobs'}/{index:064x}"] = content
        files[f"{snapshot}/{name}"] = f"link:{up}blobs/{index:064x}".encode()
    if form == "cache":
        return Case(sample, "the hub's cache", files, SAME, f"{snapshot}/{sample.place}")
    files[f"{root}/blobs"] = b"link:../out"
    allowed = SAME if sample.place == sample.weights else REFUSAL
    return Case(sample, "a cache with blobs elsewhere", files, allowed, f"{snapshot}/{sample.place}")


def add_weights(rng, sample):
    """A second file of weights: which one is meant is not guessed."""
    path = str(
        Path(sample.weights).with_name(
            rng.choice(["other.safetensors", "a.pt", "optimizer.pt", "b.npz"])
        )
    )
    content = rng.choice([b"", b"x", sample.files[sample.weights]])
    return Case(sample, f"{Path(path).name} added", {**sample.files, path: content}, SAME)
