"""What may happen to an activation store, and what came of it: no value may ever be wrong.

python benchmarks/store_faults.py [--short] [--only FAULT …] [--json FILE]

Faults are those of tests/store/faults.py, done to stores that processes fill with values that follow
from their keys; every computation is a line of a log.

tries     how often it was done, at random moments or places
reads     values that were read afterwards, and wrong ones among them
lacking   values that were put, or computed in time, and are gone
computed  values that were computed, where that is counted, and again: after they had been put
claims    claims that nobody lives to release
told      warnings and errors that say what happened

Ends with how long the store takes for items of 6 KB.  The exit status is 1 if anything is wrong,
lacking, computed again or left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

COLUMNS = ("tries", "reads", "wrong", "lacking", "computed", "again", "claims", "told")
BAD = ("wrong", "lacking", "again", "claims")
LONG: dict[str, dict[str, Any]] = {
    "kill": {"tries": 100},
    "interrupt": {"tries": 50},
    "suspend": {},
    "full_disk": {"n_items": 400},
    "full_file_system": {"n_items": 400},
    "read_only": {},
    "newer_schema": {},
    "flips": {"tries": 200},
    "flips_of_index": {"tries": 200},
    "torn": {"tries": 100},
    "two_versions": {"n_items": 400},
    "clock_jumps": {"n_items": 1000},
    "everyone": {"n_items": 2000},
    "eviction": {"n_items": 1000},
    "removed": {"tries": 20},
    "reused_workers": {"n_items": 400},
    "owner_killed": {},
}
SHORT = {name: dict(sizes, tries=10) if "tries" in sizes else {} for name, sizes in LONG.items()}


def main() -> int:
    """Print a table; return 1 if anything in it is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few tries of each")
    parser.add_argument("--only", nargs="+", choices=LONG, metavar="FAULT", help=", ".join(LONG))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"{'':28}" + "".join(f"{name:>9}" for name in COLUMNS) + f"{'seconds':>9}")
    rows = []
    for name, sizes in (SHORT if options.short else LONG).items():
        if not options.only or name in options.only:
            row = run(name, sizes)
            rows.append(row)
            print(f"{row['fault']:28}" + "".join(f"{row.get(c, '-'):>9}" for c in COLUMNS), end="")
            print(f"{row['seconds']:>9.1f}", flush=True)
    speed = measure_speed()
    print(f"1,000 items of 6 KB: read in {speed['read_1000_ms']:.1f} ms", end="; ")
    print(f"256 of them: put in {speed['put_256_ms']:.1f} ms")
    bad = [f"{row['fault']}: {row[c]} {c}" for row in rows for c in BAD if row.get(c)]
    for line in bad:
        print(f"bad: {line}")
    if options.json:
        machine = {
            "machine": platform.platform(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        }
        options.json.write_text(
            json.dumps({**machine, "faults": rows, "speed": speed, "bad": bad}, indent=2)
        )
    return bool(bad)


def run(name: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """Do one fault to a store in a folder of its own and return its row."""
    from store import faults

    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sae-features-faults-") as folder:
        row = getattr(faults, name)(Path(folder), **sizes)
    if row is None:
        row = {"fault": f"{name}: not allowed here"}
    return {"name": name, **row, "seconds": round(time.perf_counter() - started, 2)}


def measure_speed() -> dict[str, float]:
    """Return the best of several times, in ms, of reading 1,000 items of 6 KB and of putting 256."""
    import numpy as np
    from store.workload import IDENTITY, WHO, digests_of

    from sae_features.ragged import TokenCodes
    from sae_features.store.disk import DiskStore

    rng = np.random.default_rng(0)
    offsets, items = np.arange(0, 769, 48), np.array([0, 16])
    values = {
        digest: TokenCodes(
            np.sort(rng.integers(0, 2**12, 768)).astype(np.int32),
            rng.random(768, np.float32),
            offsets,
            items,
            2**12,
        )
        for digest in digests_of(1024)
    }
    puts, reads = [], []
    with tempfile.TemporaryDirectory(prefix="sae-features-speed-") as folder:
        store, digests = DiskStore(Path(folder) / "store"), list(values)
        for _ in range(5):
            store.clear()
            for start in range(0, 1024, 256):
                part = {digest: values[digest] for digest in digests[start : start + 256]}
                puts.append(_milliseconds(lambda part=part: store.put_many(IDENTITY, part, WHO)))
            reads += [_milliseconds(lambda: store.get_many(IDENTITY, digests[:1000])) for _ in range(5)]
        store.close()
    return {"read_1000_ms": round(min(reads), 2), "put_256_ms": round(min(puts), 2)}


def _milliseconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


if __name__ == "__main__":
    sys.exit(main())
