"""How much memory a stream of texts takes, by number of texts and width of the SAE; what is stored.

python benchmarks/memory.py [--sections texts widths stored] [--texts 1000 10000 100000]
    [--ways iter_transform backbone] [--widths 4096 16384 65536 262144] [--k 64] [--width-texts 1000]
    [--chunk N] [--rounds 3] [--threads 1] [--json FILE]

Each figure is the peak resident size of a fresh process, all that it imports included; processes take
turns, figures are medians.  Texts are movie snippets with a number before them, so that all differ (with
it about 28 tokens of MiniLM, special ones included).  Rows of features are counted and dropped.

texts     SAEFeaturizer.iter_transform over a generator, default model and SAE (a stream keeps nothing in
          memory, whatever the cache); and the backbone alone, likewise in chunks.  The peak of one
          process, when the chunk that holds that text was done; processes differ by more than they grow.
          The ratio is to the number of texts before.
widths    MiniLM with TopK SAEs of random directions.  "file" is an SAE in a folder, as published ones
          are; "random" is sae="random:WIDTH:K", whose weights are drawn in the process.
          The limit is the sum of the backbone at its own peak (same texts, no SAE), the encoder's
          weights (float32) and the budget for a chunk of pre-activations.
stored    cache=FOLDER: size of the folder's files per text, beside what token-level arrays would take
          (all latents, or hidden states, of the counted tokens, float32).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measuring import MIB, fresh, peak_bytes, print_table, save, shown, snippets, spread, use_threads

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTIONS = ("texts", "widths", "stored")
MODEL = "minilm"
D_MODEL = 384
CHUNK_ITEMS = 4096
WAYS = {"iter_transform": "stream", "backbone": "backbone"}
"""Tasks of "texts" by name."""


def main() -> None:
    """Print tables; this process itself imports no torch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--texts", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of texts")
    parser.add_argument("--widths", nargs="+", type=int, default=[4096, 16_384, 65_536, 262_144])
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--width-texts", type=int, default=1000)
    parser.add_argument("--chunk", type=int, help="items at a time; the library's default if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        spec = json.loads(options.child)
        use_threads(spec["threads"])
        print(json.dumps(TASKS[spec["task"]](spec)))
        return
    figures: dict[str, Any] = {"about": run(options, task="about")}
    print(json.dumps(figures["about"]))
    sections = {"texts": by_texts, "widths": by_width, "stored": stored}
    for name in options.sections:
        figures[name] = sections[name](options)
        save(options.json, figures)


def run(options: argparse.Namespace, **spec: Any) -> dict[str, Any]:
    """Do a task in a fresh process."""
    common = {"threads": options.threads, "chunk": options.chunk}
    return fresh(__file__, common | spec, threads=options.threads)


def numbered(n: int) -> Iterator[str]:
    """Yield different short texts."""
    known, _ = snippets()
    for number in range(n):
        yield f"{number} {known[number % len(known)]}"


def describe(_: dict[str, Any]) -> dict[str, Any]:
    """Return machine and versions."""
    from measuring import about

    return about()


def stream(spec: dict[str, Any]) -> dict[str, Any]:
    """Make features of texts one chunk after the other."""
    from sae_features import SAEFeaturizer

    featurizer = SAEFeaturizer(MODEL, sae=spec["sae"], layer=spec["layer"], cache=spec["cache"])
    options = {} if spec["chunk"] is None else {"chunk": spec["chunk"]}
    n_rows = nnz = 0
    passed: dict[int, int] = {}
    for rows in featurizer.iter_transform(numbered(spec["n"]), **options):
        n_rows += rows.shape[0]
        nnz += rows.nnz
        note_peak(passed, n_rows, spec)
    if n_rows != spec["n"]:
        sys.exit(f"Got {n_rows} rows for {spec['n']} texts.")
    return {"peak": peak_bytes(), "passed": passed, "nnz": nnz}


def note_peak(passed: dict[int, int], n_done: int, spec: dict[str, Any]) -> None:
    """Note the peak so far, under the numbers of texts that were just passed."""
    for n in spec.get("at", ()):
        if n <= n_done:
            passed.setdefault(n, peak_bytes())


def backbone_alone(spec: dict[str, Any]) -> dict[str, Any]:
    """Run the backbone over the same texts, up to the same layer, and drop what it gives."""
    from sae_features import SAEFeaturizer, load_backbone
    from sae_features.hook_point import HookPoint
    from sae_features.items import check_items

    SAEFeaturizer(MODEL)  # what the featurizer imports counts here, too
    backbone = load_backbone(MODEL)
    texts, n_done = numbered(spec["n"]), 0
    passed: dict[int, int] = {}
    while chunk := list(islice(texts, spec["chunk"] or CHUNK_ITEMS)):
        windows = backbone.windows(check_items(chunk, ("text",)), backbone.token_policy())
        for _ in backbone.run(windows, [HookPoint(spec["layer"])]):
            pass
        n_done += len(chunk)
        note_peak(passed, n_done, spec)
    return {"peak": peak_bytes(), "passed": passed}


def keep(spec: dict[str, Any]) -> dict[str, Any]:
    """Fill a store on disk, and count tokens."""
    from sae_features import SAEFeaturizer, load_backbone
    from sae_features.items import check_items

    texts = list(numbered(spec["n"]))
    featurizer = SAEFeaturizer(MODEL, sae=spec["sae"], layer=spec["layer"], cache=spec["cache"])
    rows = featurizer.transform(texts)
    backbone = load_backbone(MODEL)
    windows = backbone.windows(check_items(texts, ("text",)), backbone.token_policy())
    return {
        "tokens": int(windows.counts.sum()),
        "n_latents": rows.shape[1],
        "row_bytes": rows.data.nbytes + rows.indices.nbytes + rows.indptr.nbytes,
    }


def write(spec: dict[str, Any]) -> dict[str, Any]:
    """Write an SAE of random directions to a folder."""
    from sae_features.saes.random_control import random_autoencoder

    random_autoencoder(D_MODEL, spec["width"], spec["k"]).save(spec["folder"])
    return {}


def budget(_: dict[str, Any]) -> dict[str, Any]:
    """Return the memory for pre-activations, and the layer of the default SAE."""
    from sae_features.saes import autoencoder
    from sae_features.targets import Request, resolve_target

    layer = resolve_target(Request(MODEL), with_sae=True).point.layer
    return {"bytes": autoencoder.CHUNK_BYTES, "layer": layer}


TASKS = {
    "about": describe,
    "stream": stream,
    "backbone": backbone_alone,
    "keep": keep,
    "write": write,
    "budget": budget,
}


def medians(options: argparse.Namespace, specs: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    """Return the peaks of processes that take turns, by name."""
    peaks: dict[str, list[int]] = {name: [] for name in specs}
    for turn in range(options.rounds):
        for name in list(specs)[:: -1 if turn % 2 else 1]:
            peaks[name].append(run(options, **specs[name])["peak"])
            print(f"  {name}: {peaks[name][-1] / MIB:,.0f} MiB", flush=True)  # if it is cut short
    return peaks


def in_mib(peaks: list[int]) -> str:
    """Return median, least and most in MiB."""
    return shown({name: value / MIB for name, value in spread(peaks).items()}, 0)


def by_texts(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return peaks by number of texts."""
    layer = run(options, task="budget")["layer"]
    common = {"sae": None, "layer": layer, "cache": False, "n": max(options.texts), "at": options.texts}
    peaks: dict[str, dict[str, list[int]]] = {
        way: {str(n): [] for n in options.texts} for way in options.ways
    }
    for turn in range(options.rounds):
        for way in options.ways[:: -1 if turn % 2 else 1]:
            passed = run(options, task=WAYS[way], **common)["passed"]
            for n, peak in passed.items():
                peaks[way][n].append(peak)
            print(
                f"  {way}: " + ", ".join(f"{n} {p / MIB:,.0f} MiB" for n, p in passed.items()),
                flush=True,
            )
    found = []
    for way, of_way in peaks.items():
        before: list[int] | None = None
        for n, of_number in of_way.items():
            pairs = zip(of_number, before or [], strict=bool(before))
            ratio = statistics.median(peak / other for peak, other in pairs) if before else None
            found.append({"way": way, "texts": int(n), "peaks": of_number, "ratio": ratio})
            before = of_number
    print()
    print_table(
        ("", "texts", "peak MiB", "ratio"),
        [
            (row["way"], f"{row['texts']:,}", in_mib(row["peaks"]),
             "" if row["ratio"] is None else f"{row['ratio']:.3f}")
            for row in found
        ],
    )  # fmt: skip
    return found


def by_width(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return peaks by width, beside what they cannot be below."""
    known = run(options, task="budget")
    common = {"layer": known["layer"], "n": options.width_texts, "cache": False}
    with tempfile.TemporaryDirectory() as folder:
        specs: dict[str, dict[str, Any]] = {"backbone": {"task": "backbone", **common}}
        for width in options.widths:
            place = str(Path(folder) / str(width))
            run(options, task="write", width=width, k=options.k, folder=place)
            specs[f"file|{width}"] = {"task": "stream", "sae": place, **common}
            specs[f"random|{width}"] = {
                "task": "stream", "sae": f"random:{width}:{options.k}", **common,
            }  # fmt: skip
        peaks = medians(options, specs)
    backbone = statistics.median(peaks["backbone"])
    rows = []
    for width in options.widths:
        encoder = width * (D_MODEL + 1) * 4
        limit = backbone + encoder + known["bytes"]
        for kind in ("file", "random"):
            ratios = spread([peak / limit for peak in peaks[f"{kind}|{width}"]])
            row = {"width": width, "sae": kind, "peaks": peaks[f"{kind}|{width}"]}
            rows.append(row | {"encoder": encoder, "limit": limit, "ratio": ratios})
    print(f"\n{options.width_texts:,} texts; backbone alone {in_mib(peaks['backbone'])} MiB, "
          f"chunk {known['bytes'] / MIB:.0f} MiB")  # fmt: skip
    print_table(
        ("width", "SAE", "peak MiB", "encoder MiB", "limit MiB", "ratio to limit"),
        [
            (f"{row['width']:,}", row["sae"], in_mib(row["peaks"]), f"{row['encoder'] / MIB:.0f}",
             f"{row['limit'] / MIB:.0f}", shown(row["ratio"], 3))
            for row in rows
        ],
    )  # fmt: skip
    return {"backbone": peaks["backbone"], "chunk": known["bytes"], "rows": rows}


def stored(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return bytes on disk per text."""
    layer, n, found = run(options, task="budget")["layer"], options.width_texts, []
    saes = {"default": None} | {
        f"random:{width}:{options.k}": f"random:{width}:{options.k}" for width in options.widths
    }
    for name, sae in saes.items():
        with tempfile.TemporaryDirectory() as folder:
            counted = run(options, task="keep", n=n, sae=sae, layer=layer, cache=folder)
            sizes = [file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()]
        tokens = counted["tokens"] / n
        row = {"sae": name, "tokens": tokens, "files": len(sizes), "stored": sum(sizes) / n}
        row |= {"rows": counted["row_bytes"] / n, "dense": tokens * counted["n_latents"] * 4}
        found.append(row | {"hidden": tokens * D_MODEL * 4})
    print(f"\n{n:,} texts")
    print_table(
        ("SAE", "tokens/text", "stored B/text", "one CSR row, B", "dense latents, B", "ratio",
         "hidden states, B", "ratio"),
        [
            (row["sae"], f"{row['tokens']:.1f}", f"{row['stored']:,.0f}", f"{row['rows']:,.0f}",
             f"{row['dense']:,.0f}", f"{row['stored'] / row['dense']:.4f}",
             f"{row['hidden']:,.0f}", f"{row['stored'] / row['hidden']:.3f}")
            for row in found
        ],
    )  # fmt: skip
    return found


if __name__ == "__main__":
    main()
