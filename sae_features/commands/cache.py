"""The verb ``cache`` of the command line: where values are kept, how many, whether they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from sae_features.store.disk import DiskStore

ACTIONS = ("path", "stats", "verify", "clear")


def add_options(cache: argparse.ArgumentParser) -> None:
    """Add what ``cache`` takes."""
    cache.add_argument(
        "action",
        choices=ACTIONS,
        help="path: print the folder; stats: what it holds; verify: read all of it and remove what is "
        "damaged; clear: remove all of it",
    )
    cache.add_argument(
        "--cache",
        metavar="DIR",
        help="the folder (default: SAE_FEATURES_CACHE, or the user's cache folder)",
    )


def run(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Do what was asked for; return it, and as text."""
    from sae_features.errors import InvalidParameterError, StoreError
    from sae_features.store.index import INDEX
    from sae_features.store.settings import cache_folder, disk_store

    if options.cache is not None and not options.cache.strip():
        raise InvalidParameterError("Got --cache ''; expected a folder.")
    folder = cache_folder() if options.cache is None else Path(options.cache).expanduser()
    store = disk_store(folder)
    if options.action == "path":
        return {"folder": str(store.folder)}, str(store.folder)
    if not (store.folder / INDEX).is_file():
        raise StoreError(
            f"{store.folder} holds no store: nothing was kept there yet, or it is another folder."
        )
    result: dict[str, Any] = getattr(store, options.action)()
    return {"folder": str(store.folder)} | result, TEXTS[options.action](store, result)


def _stats(store: DiskStore, result: dict[str, Any]) -> str:
    lines = [
        f"folder: {store.folder}",
        f"items: {result['items']:,} in {result['shards']:,} shards",
        f"size: {_size(result['bytes'])} of {_size(result['max_bytes'])}",
        f"claims: {result['claims']:,}",
    ]
    for row in result["identities"]:
        held = f"{row['items']:,} items, {_size(row['bytes'])}"
        lines.append(f"  {row['identity'][:12]}  {held}: {_told(row['who'])}")
    return "\n".join(lines)


def _told(who: dict[str, Any]) -> str:
    """Return who computed in a line: what was kept of which place, digests, and what is not usual."""
    layer, site = who.get("hook_point", ("?", "?"))
    digests = [f"{name} {who[name][:8]}" for name in ("model", "sae") if who.get(name)]
    usual = {"tokens": "content", "overflow": "truncate", "dtype": "float32", "modality": "text"}
    others = [
        f"{name}={who[name]}"
        for name in ("tokens", "prompt", "max_length", "overflow", "dtype", "modality")
        if who.get(name) not in {None, usual.get(name)}
    ]
    return ", ".join([who.get("kept", "unknown"), f"layer {layer} {site}", *digests, *others])


def _verify(store: DiskStore, result: dict[str, Any]) -> str:
    return (
        f"{store.folder}: {result['items']:,} items in {result['shards']:,} shards are right; removed "
        f"{result['damaged']:,} damaged ones, {result['missing_files']:,} missing shards and "
        f"{result['orphans']:,} files that belonged to nothing."
    )


def _clear(store: DiskStore, result: dict[str, Any]) -> str:
    return (
        f"{store.folder}: removed {result['items']:,} items in {result['shards']:,} shards, "
        f"{_size(result['bytes'])}."
    )


TEXTS = {"stats": _stats, "verify": _verify, "clear": _clear}


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:,.1f} MiB"
