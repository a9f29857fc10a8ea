"""A loop that computes as the library does, but values that follow from their keys, and tells of it.

Every computation and every value that was put is a line of a log, so that wrong values and work done
twice can be counted, whatever happened to the processes.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from pathlib import Path

import numpy as np

from sae_features.images import PatchGrid
from sae_features.pooled import PooledCodes, PooledItem
from sae_features.ragged import TokenCodes

WHO = '{"model": "fake"}'
IDENTITY = hashlib.sha256(WHO.encode()).hexdigest()
SCOPE = "run"


def digests_of(n, salt=""):
    return [hashlib.sha256(f"{salt}{i}".encode()).digest() for i in range(n)]


def value_of(digest, identity=IDENTITY, *, scale=1):
    """Return the value of a key: of several shapes and types, some without tokens; never others."""
    rng = np.random.default_rng(list(hashlib.sha256(identity.encode() + digest).digest()))
    lengths = rng.integers(0, 4, int(rng.integers(0, 12)) * scale)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    n = int(offsets[-1])
    kind = int(identity[:2], 16) % 8  # one identity has values of one kind
    if kind == 0:
        return PooledItem(rng.random((4, 24 * scale), np.float32), len(lengths))
    if kind == 1:
        return PooledCodes(
            rng.integers(0, 999, n).astype(np.int32),
            rng.random(n, np.float32),
            rng.random(n),
            rng.integers(0, 9, n).astype(np.int32),
            *(rng.integers(0, 999, 3).astype(np.int32), rng.random(3, np.float32)) * 2,
            n_tokens=len(lengths),
        )
    grids = (PatchGrid(2, 3, (0.0, 1.5, float(rng.random()), 7.0)),) if kind == 2 else None
    indices = rng.integers(0, 999, n).astype(np.uint16 if kind % 2 else np.int32)
    items = np.array([0, len(lengths)], np.int64)
    return TokenCodes(indices, rng.random(n, np.float32), offsets, items, 999, grids)


def is_same(found, expected):
    """Tell whether two values are the same to the bit, with their types."""
    if type(found) is not type(expected):
        return False
    for name, wanted in vars(expected).items():
        got = getattr(found, name)
        if isinstance(wanted, np.ndarray):
            is_equal = got.dtype == wanted.dtype and got.shape == wanted.shape
            if not is_equal or got.tobytes() != wanted.tobytes():
                return False
        elif got != wanted or type(got) is not type(wanted):
            return False
    return True


def count_wrong(values, identity=IDENTITY, *, scale=1):
    return sum(
        not is_same(value, value_of(digest, identity, scale=scale)) for digest, value in values.items()
    )


def fill(
    store, digests, log=None, *, identity=IDENTITY, who=WHO, scope=SCOPE, block=8, pause=0.0, scale=1
):
    """Return the values of all keys: from the store, or computed under a claim and put."""
    found = {}
    while True:
        found |= store.get_many(identity, [d for d in digests if d not in found])
        lacking = [d for d in digests if d not in found]
        if not lacking:
            return found
        granted = []
        try:
            granted = store.claim(scope, lacking[:block])
            present = store.get_many(identity, granted)
            fresh = {d: value_of(d, identity, scale=scale) for d in granted if d not in present}
            found |= present
            if fresh:
                write(log, "computed", identity, fresh)
                time.sleep(pause * random.random())
                store.put_many(identity, fresh, who)
                write(log, "put", identity, fresh)
                found |= fresh
        finally:
            store.release(scope, granted)
        if not granted:
            store.wait(scope, lacking[:block], 5.0)


def fill_shuffled(store, digests, log=None, *, seed=0, **options):
    """Fill in an order of one's own, as several processes would that have parts of the items."""
    order = list(digests)
    random.Random(str(seed)).shuffle(order)
    return fill(store, order, log, **options)


def write(log, what, identity, digests):
    if log is None:
        return
    lines = "".join(f"{what} {identity[:8]}:{digest.hex()} {os.getpid()}\n" for digest in digests)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, lines.encode())  # whole, also among processes
    finally:
        os.close(handle)


def read_log(log):
    """Return how often each key was computed, and the keys computed after they had been put."""
    counts, put, again = {}, set(), []
    for line in Path(log).read_text().splitlines() if Path(log).exists() else ():
        what, key, _ = line.split()
        if what == "put":
            put.add(key)
            continue
        counts[key] = counts.get(key, 0) + 1
        if key in put:
            again.append(key)
    return counts, again
