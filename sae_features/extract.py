"""Items from a file or a folder in, features to a file out, with their provenance inside."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import sae_features
from sae_features import feature_files
from sae_features.errors import AssetNotFoundError, InvalidInputError
from sae_features.feature_files import check_output
from sae_features.feature_writer import FeatureWriter, check_rows
from sae_features.input_files import count_items, iter_items, read_items, read_texts, source_of

if TYPE_CHECKING:
    import scipy.sparse as sp

    from sae_features.featurizer import SAEFeaturizer

__all__ = [
    "FeatureWriter",
    "Written",
    "check_output",
    "count_items",
    "extract_to_file",
    "iter_items",
    "provenance_of",
    "read_features",
    "read_items",
    "read_texts",
    "source_of",
    "write_features",
]


class Written(NamedTuple):
    """What :func:`extract_to_file` wrote: where, and how much."""

    output: Path
    n_items: int
    n_latents: int
    nonzero: int


def extract_to_file(
    featurizer: SAEFeaturizer, path: str | Path, output: str | Path, *, column: str | None = None
) -> Written:
    """Turn the items in a file or folder into a file of features; memory does not grow with them.

    All rows are read and checked before a model runs.  With a ``cache`` on disk, a run that was
    interrupted takes up its work where the last one stopped.

    Parameters
    ----------
    featurizer : SAEFeaturizer
        Fitted here.
    path : str or Path
        As :func:`read_items` takes it.
    output : str or Path
        As :func:`write_features` takes it; it appears whole or not at all.
    column : str, optional
        Of a file of items: column or field.

    Returns
    -------
    Written

    Raises
    ------
    AssetNotFoundError, InvalidParameterError
        As :func:`read_items` and :func:`write_features`.
    InvalidInputError
        If there are no items, one cannot be read, or the file changes meanwhile.
    """
    place = check_output(output)
    stamp = _stamp(path)
    n_items = count_items(path, column)
    if not n_items:
        raise InvalidInputError(f"{Path(path).name} has no items; expected at least one.")
    source = source_of(path, column) if stamp else None
    first = [next(iter_items(path, column))]
    featurizer.fit(first)
    if stamp and featurizer.read_items(first)[0].modality == "image":
        _check_images_named_in(path, column)
    with FeatureWriter(place, featurizer.n_features_out_) as writer:
        for rows in featurizer.iter_transform(iter_items(path, column), n_items=n_items):
            writer.append(rows)
        found = source if source and _stamp(path) == stamp else source_of(path, column)
        if writer.n_items != n_items or source not in (None, found):
            message = f"{Path(path).name} changed while it was read; run again when it is complete."
            raise InvalidInputError(message)
        writer.finish(provenance_of(featurizer, input=found, n_items=n_items))
    return Written(place, writer.n_items, writer.n_features, writer.n_values)


def _stamp(path: str | Path) -> tuple[int, ...]:
    """Return what changes when a file does; nothing of a folder, and of what is not there."""
    place = Path(path)
    if not place.is_file():
        return ()
    found = place.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _check_images_named_in(path: str | Path, column: str | None) -> None:
    from sae_features.images import check_images

    for position, item in enumerate(iter_items(path, column)):
        try:
            check_images([item])
        except InvalidInputError:
            message = f"{Path(path).name}: got {item!r} as item {position}; expected an image there."
            raise InvalidInputError(message) from None


def provenance_of(featurizer: SAEFeaturizer, **more: Any) -> dict[str, Any]:
    """Return how features were made, as plain JSON values.

    Parameters
    ----------
    featurizer : SAEFeaturizer
        Fitted.
    **more
        What else to say.
    """
    packages = ("torch", "transformers", "scikit-learn", "numpy", "scipy")
    return more | {
        "sae_features": sae_features.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": {
            name: value if isinstance(value, str | int | float | bool | None) else str(value)
            for name, value in featurizer.get_params().items()
            if name != "cache"  # a place on this machine
        },
        "model": featurizer.model_,
        "model_digest": featurizer.model_digest_,
        "layer": featurizer.layer_,
        "site": featurizer.site_,
        "sae_digest": featurizer.sae_digest_,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }


def write_features(path: str | Path, rows: Any, provenance: dict[str, Any]) -> Path:
    """Write sparse rows and their provenance; the file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
        ``.npz`` (which :func:`scipy.sparse.load_npz` reads, too) or ``.parquet`` (columns
        ``indices`` and ``values``, lists; needs ``sae-features[parquet]``).
    rows : csr_matrix or csr_array of shape (n_items, n_features), float32
        More than memory holds: :class:`FeatureWriter`.
    provenance : dict
        Plain JSON values.

    Returns
    -------
    Path

    Raises
    ------
    InputTypeError
        If the rows are not CSR of float32.
    """
    place = check_output(path)
    check_rows(rows)
    with FeatureWriter(place, rows.shape[1]) as writer:
        writer.append(rows)
        return writer.finish(provenance)


def read_features(path: str | Path) -> tuple[sp.csr_matrix, dict[str, Any]]:
    """Read what :func:`write_features` or :class:`FeatureWriter` wrote.

    Parameters
    ----------
    path : str or Path
        ``.npz`` or ``.parquet``.

    Returns
    -------
    rows : csr_matrix of shape (n_items, n_features), float32
    provenance : dict

    Raises
    ------
    AssetNotFoundError
        If the file is not there.
    InvalidInputError
        If it is damaged, or was not written by :func:`write_features`.
    """
    place = feature_files.features_path(path)
    if not place.is_file():
        raise AssetNotFoundError(f"Got {str(path)!r}; expected a file there.")
    return feature_files.read(place)
