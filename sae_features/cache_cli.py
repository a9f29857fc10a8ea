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
    from sae_features.store.settings import cache_folder, disk_store

    folder = cache_folder() if options.cache is None else Path(options.cache).expanduser()
    store = disk_store(folder)
    if options.action == "path":
        return {"folder": str(store.folder)}, str(store.folder)
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
        who = ", ".join(f"{key}={value}" for key, value in row["who"].items()) or "unknown"
        held = f"{row['items']:,} items ({row['kind']}), {_size(row['bytes'])}"
        lines.append(f"  {row['identity'][:12]}  {held}: {who}")
    return "\n".join(lines)


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
