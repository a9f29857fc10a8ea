"""How long loading an SAE takes and how much memory, beside sae-lens on the same file in one run.

python benchmarks/sae_load.py --peer-python PYTHON [--d 2048] [--width 65536] [--repeats 7] [--json FILE]

PYTHON is an interpreter that has sae-lens (its own environment).  Every figure is of a fresh process;
processes take turns.  Without --peer-python only our own figures are printed.

- import: the whole process of `import …`, less that of a process that does nothing
- load: `load_sae(folder)` and `SAE.load_from_disk(folder)` after importing and one load of a tiny SAE
- read: until every weight was read once.  sae-lens maps the file and reads nothing until it is used;
  load_sae refuses weights that are not finite, so that it has read all of them by then
- encode: … and 64 rows were encoded and decoded
- memory: growth of the peak resident size from before loading until all is read, over the size of the
  encoder; pages that are mapped from the file count (Linux only)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = ("load", "read", "encode")
IMPORTS = {
    "nothing": "pass",
    "sae_features": "import sae_features",
    "sae_features, load_sae ready": "import sae_features.releases, sae_features.saes.autoencoder",
    "sae_lens": "import sae_lens",
    "torch": "import torch",
}
PROLOGUE = """
import json, sys, time
import torch
tiny, folder, decoder = sys.argv[1], sys.argv[2], sys.argv[3] == "True"

def resident(name):
    for line in open("/proc/self/status"):
        if line.startswith(name):
            return int(line.split()[1]) * 1024

def measure(load, tensors, run, reads_all):
    load(tiny)
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak of the imports
    before, started = resident("VmRSS"), time.perf_counter()
    sae = load(folder)
    loaded = time.perf_counter()
    if not reads_all:
        for tensor in tensors(sae):
            tensor.sum()
    read, peak = time.perf_counter(), resident("VmHWM")
    if decoder:
        run(sae, torch.ones(64, sae.W_enc.shape[0]))
    encoded = time.perf_counter()
    print(json.dumps({"load": loaded - started, "read": read - started, "encode": encoded - started,
                      "bytes": peak - before}))
"""
OURS = """
from sae_features import load_sae
measure(lambda place: load_sae(place, decoder=decoder), lambda sae: [t for _, t in sae.tensors()],
        lambda sae, x: sae.reconstruct(x), True)
"""
THEIRS = """
from sae_lens import SAE
measure(SAE.load_from_disk, lambda sae: list(sae.parameters()),
        lambda sae, x: sae.decode(sae.encode(x)), False)
"""


def write_sae(folder: Path, d: int, width: int) -> Path:
    """Write a random SAE in SAELens' format."""
    import torch

    from sae_features import SparseAutoencoder

    generator = torch.Generator().manual_seed(0)
    SparseAutoencoder(
        "jumprelu",
        W_enc=torch.randn(d, width, generator=generator),
        b_enc=torch.zeros(width),
        W_dec=torch.randn(width, d, generator=generator),
        b_dec=torch.zeros(d),
        threshold=torch.ones(width),
    ).save(folder, format="saelens")
    return folder


def run(python: str, code: str, *arguments: str) -> tuple[float, str]:
    """Return the seconds of a process and what it printed."""
    started = time.perf_counter()
    done = subprocess.run([python, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--peer-python")
    parser.add_argument("--d", type=int, default=2048)
    parser.add_argument("--width", type=int, default=65536)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peer = options.peer_python
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tiny = str(write_sae(folder / "tiny", 4, 8))
        big = str(write_sae(folder / "big", options.d, options.width))
        imports: dict[str, list[float]] = {}
        loads: dict[str, list[dict[str, float]]] = {}
        for repeat in range(options.repeats + 1):  # the first round warms the file cache
            timed: dict[str, float] = {}
            for name, statement in IMPORTS.items():
                python = peer if name == "sae_lens" else sys.executable
                if python:
                    timed[name] = run(python, statement)[0]
            cases = {
                "ours": (sys.executable, OURS, "True"),
                "ours, encoder": (sys.executable, OURS, "False"),
            }
            if peer:
                cases["sae_lens"] = (peer, THEIRS, "True")
            for name, (python, code, decoder) in cases.items():
                printed = run(python, PROLOGUE + code, tiny, big, decoder)[1].strip().splitlines()[-1]
                if repeat:
                    loads.setdefault(name, []).append(json.loads(printed))
            if repeat:
                for name, seconds in timed.items():
                    imports.setdefault(name, []).append(seconds - timed["nothing"])
    result = summary(imports, loads, 4 * options.d * options.width)
    report(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def summary(imports: dict[str, list[float]], loads: dict[str, list[dict]], encoder: int) -> dict:
    """Return medians, spreads and ratios."""
    result: dict = {
        "encoder_bytes": encoder,
        "import_s": {name: statistics.median(times) for name, times in imports.items()},
        "loads": {
            name: {
                **{step: spread([row[step] for row in rows]) for step in STEPS},
                "peak_over_encoder": statistics.median(row["bytes"] for row in rows) / encoder,
            }
            for name, rows in loads.items()
        },
    }
    if "sae_lens" in loads:
        pairs = list(zip(loads["ours"], loads["sae_lens"], strict=True))
        result["ratio"] = {
            step: statistics.median(a[step] / b[step] for a, b in pairs) for step in STEPS
        }
        ours, theirs = imports["sae_features, load_sae ready"], imports["sae_lens"]
        result["import_ratio"] = {
            "sae_features": statistics.median(theirs) / statistics.median(imports["sae_features"]),
            "with torch": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
        }
    return result


def spread(seconds: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}


def report(result: dict) -> None:
    """Print what was measured."""
    print(f"{'import, less an empty process':34}{'median s':>10}")
    for name, seconds in result["import_s"].items():
        print(f"{name:34}{seconds:10.3f}")
    title = f"encoder of {result['encoder_bytes'] / 2**20:.0f} MiB, seconds (min, max)"
    print(f"\n{title:46}" + "".join(f"{step:>26}" for step in STEPS) + f"{'peak / encoder':>16}")
    for name, row in result["loads"].items():
        cells = [f"{c['median']:.3f} ({c['min']:.3f}, {c['max']:.3f})" for c in map(row.get, STEPS)]
        print(
            f"{name:46}" + "".join(f"{cell:>26}" for cell in cells) + f"{row['peak_over_encoder']:16.2f}"
        )
    if "ratio" in result:
        cells = [f"{result['ratio'][step]:.2f}" for step in STEPS]
        print(f"{'ours / sae_lens, median of pairs':46}" + "".join(f"{cell:>26}" for cell in cells))
        print(
            f"\nimport, sae_lens / ours: {result['import_ratio']['sae_features']:.0f}; "
            f"with torch and load_sae ready {result['import_ratio']['with torch']:.1f}"
        )


if __name__ == "__main__":
    main()
