"""Names of latents: from files beside an SAE, and its pages on Neuronpedia; nothing here needs torch."""

from __future__ import annotations

import csv
import re
import reprlib
from typing import TYPE_CHECKING, Any

from sae_features.errors import AssetNotFoundError, SAEFormatError
from sae_features.saes.json_files import naming, read_json
from sae_features.saes.links import check_inside

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

FILES = ("labels.json", "labels.csv")
MAX_BYTES = 512 * 2**20
MAX_BYTES_PER_LATENT = 4096
"""Of JSON, which takes up to 25 times as much memory."""
MAX_LABEL_CHARACTERS = 10_000
INDEX_NAMES = ("index", "latent", "feature", "latent_index", "feature_index")
LABEL_NAMES = ("label", "description", "explanation", "name")
NEURONPEDIA = "https://www.neuronpedia.org"


def find_labels(folder: Path, stem: str | None = None) -> Path | None:
    """Return the file of labels in a folder, or None: ``labels.json`` or ``labels.csv``.

    Parameters
    ----------
    folder : Path
        Of the SAE's files.
    stem : str, optional
        Name of its weights where the folder holds several SAEs: ``layer_3`` looks for
        ``layer_3.labels.json`` and ``layer_3.labels.csv``.

    Raises
    ------
    SAEFormatError
        If both are there, or one is a link to somewhere else.
    """
    names = FILES if stem is None else tuple(f"{stem}.{name}" for name in FILES)
    found = [folder / name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise SAEFormatError(f"Got {' and '.join(names)} in {folder}; expected one of them. Keep one.")
    return check_inside(found[0], folder) if found else None


def read_labels(path: Path, n_latents: int) -> dict[int, str]:
    """Read names of latents from a file.

    Parameters
    ----------
    path : Path
        JSON: an object of index to label, or a list of objects, as Neuronpedia exports its
        explanations.  CSV: a table with a header.  Objects and rows name the latent ``index``,
        ``latent`` or ``feature``, and its name ``label``, ``description`` or ``explanation``.  Of
        several labels of one latent the first counts; an empty one is none.
    n_latents : int
        Number of latents.

    Returns
    -------
    dict of int to str
        Not every latent needs a label.

    Raises
    ------
    AssetNotFoundError
        If no file is there.
    SAEFormatError
        If it is not such a file, or names a latent that is not there.
    """
    if not path.is_file():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file of labels there.")
    if path.suffix.lower() not in (".json", ".csv"):
        raise SAEFormatError(f"Got {str(path)!r}; expected labels in a .json or .csv file.")
    with naming(path):
        pairs = _csv_pairs(path) if path.suffix.lower() == ".csv" else _json_pairs(path, n_latents)
        labels: dict[int, str] = {}
        for index, label in pairs:
            latent = checked_label(index, label, n_latents)
            if label:  # an empty one is none
                labels.setdefault(latent, label)
    return labels


def neuronpedia_url(metadata: Mapping[str, Any], latent: int) -> str | None:
    """Return the page of a latent on Neuronpedia, or None where the metadata name none.

    Parameters
    ----------
    metadata : mapping
        With ``neuronpedia_id``, such as ``"gemma-2-2b/12-gemmascope-res-16k"``.
    latent : int
        Its index, from 0.
    """
    place = metadata.get("neuronpedia_id")
    if not isinstance(place, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", place, re.ASCII):
        return None
    return f"{NEURONPEDIA}/{place}/{latent}"


def _json_pairs(path: Path, n_latents: int) -> Iterable[tuple[Any, Any]]:
    max_bytes = min(MAX_BYTES, 2**20 + MAX_BYTES_PER_LATENT * n_latents)
    content = read_json(path, max_bytes=max_bytes, kinds=(dict, list))
    if isinstance(content, dict) and isinstance(content.get("explanations"), list):
        content = content["explanations"]
    if isinstance(content, list):
        return [_pair(row) for row in content]
    return list(content.items())


def _csv_pairs(path: Path) -> Iterator[tuple[Any, Any]]:
    if path.stat().st_size > MAX_BYTES:
        raise SAEFormatError(f"got more than {MAX_BYTES} bytes.")
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            rows = csv.DictReader(stream)
            _pair(dict.fromkeys(rows.fieldnames or (), ""))  # a header that names both columns
            for row in rows:
                yield _pair(row)
        except (csv.Error, UnicodeDecodeError) as error:
            raise SAEFormatError(f"could not be read as CSV: {error}") from error


def _pair(row: Any) -> tuple[Any, Any]:
    if isinstance(row, dict):
        index = next((row[name] for name in INDEX_NAMES if name in row), None)
        labels = [row[name] for name in LABEL_NAMES if name in row]
        if index is not None and labels:
            return index, labels[0] or ""  # null is none
    got = reprlib.repr(list(row) if isinstance(row, dict) else row)
    message = (
        f"got {got}; expected one of {', '.join(INDEX_NAMES)} with the latent's number and one of "
        f"{', '.join(LABEL_NAMES)} with its name."
    )
    raise SAEFormatError(message)


def checked_label(index: Any, label: Any, n_latents: int) -> int:
    """Return the number of a labelled latent; raise SAEFormatError where it or its name cannot be."""
    is_number = isinstance(index, int | str) and re.fullmatch(r"0|[1-9][0-9]{0,9}", str(index), re.ASCII)
    if not (is_number and int(index) < n_latents and isinstance(label, str)):
        message = (
            f"got {reprlib.repr(index)}: {reprlib.repr(label)}; expected the number of a latent, from 0 "
            f"to {n_latents - 1} without a decimal point, and its name as text."
        )
        raise SAEFormatError(message)
    if len(label) > MAX_LABEL_CHARACTERS:
        message = f"got a label of {len(label)} characters for latent {index}"
        raise SAEFormatError(f"{message}; expected at most {MAX_LABEL_CHARACTERS}.")
    return int(index)
