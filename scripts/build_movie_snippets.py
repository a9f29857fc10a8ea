"""Build ``sae_features/data/movie_snippets.csv`` and the licence notice beside it.

    python scripts/build_movie_snippets.py           writes both files
    python scripts/build_movie_snippets.py --check   exits with 1 if they differ from a rebuild

The snippets are the movie domain of the packaged asset ``vader``. Of those with a clear label
(mean human rating above 1 or below -1), without repeats and of at least four words, 1,000 of each
class are drawn. The draw, and the order of the rows, go by the SHA-256 of seed and text, so
that the bytes do not depend on the version of Python.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_features.packaged_assets import fetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DATA = Path(__file__).resolve().parents[1] / "sae_features" / "data"
LABELS = ("negative", "positive")
PER_CLASS = 1000
FEWEST_WORDS = 4
SEED = 20260101

NOTICE = """

----------------------------------------------------------------------------------------

The notice above is that of the package vaderSentiment 3.3.2, whose movie-review snippets and
mean ratings movie_snippets.csv repeats in part. Please cite:

Hutto, C.J. & Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis
of Social Media Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14).
Ann Arbor, MI, June 2014.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the two files and return an exit status."""
    parser = argparse.ArgumentParser(description="Build or check the movie snippets.")
    parser.add_argument("--check", action="store_true", help="compare with a rebuild, write nothing")
    parser.add_argument("--assets", type=Path, help="parent folder of the asset `vader`")
    options = parser.parse_args(argv)
    stale = []
    for path, content in rebuild(fetch("vader", folder=options.assets)).items():
        if options.check:
            stale += [] if path.is_file() and path.read_bytes() == content else [path.name]
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"{path}: {len(content)} bytes")
    if stale:
        print(f"Not as rebuilt: {', '.join(stale)}; run {Path(__file__).name}.", file=sys.stderr)
    return int(bool(stale))


def rebuild(asset: Path) -> dict[Path, bytes]:
    """Return the content of both files by their paths."""
    rows: list[dict[str, Any]] = []
    for side in ("train", "test"):
        with (asset / f"{side}.jsonl").open(encoding="utf-8") as stream:
            rows += map(json.loads, stream)
    table = as_csv(draw(row for row in rows if row["domain"] == "movies"))
    # read_text turns the CRLF of the package into LF; the words are untouched
    notice = (asset / "LICENSE.txt").read_text(encoding="utf-8").rstrip() + NOTICE
    return {
        DATA / "movie_snippets.csv": table.encode("utf-8"),
        DATA / "vaderSentiment-LICENSE.txt": notice.encode("utf-8"),
    }


def draw(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw 1,000 rows of each class, both classes mixed."""
    first_of_text: dict[str, dict[str, Any]] = {}
    for row in rows:
        first_of_text.setdefault(" ".join(row["text"].casefold().split()), row)
    candidates = [r for r in first_of_text.values() if len(r["text"].split()) >= FEWEST_WORDS]
    candidates.sort(key=_lot)
    drawn = [[r for r in candidates if r["label"] == label][:PER_CLASS] for label in LABELS]
    return sorted((row for rows_of_label in drawn for row in rows_of_label), key=_lot)


def _lot(row: dict[str, Any]) -> str:
    return hashlib.sha256(f"{SEED}\n{row['text']}".encode()).hexdigest()


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Return the table with the columns text, label and rating."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("text", "label", "rating"))
    writer.writerows((row["text"], row["label"], f"{row['rating']:.4f}") for row in rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main())
