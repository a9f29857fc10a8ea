"""How long `import sae_features` takes, as a ratio to `import sklearn`, interleaved in one run.

python benchmarks/import_time.py [--repeats 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

STATEMENTS = {
    "import sklearn": "import sklearn",
    "import sae_features": "import sae_features",
    "… and list_families()": "import sae_features; sae_features.list_families()",
    "… and SAEFeaturizer()": "import sae_features; sae_features.SAEFeaturizer()",
    "nothing": "pass",
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for repeat in range(options.repeats + 1):  # the first round warms the file cache
        for name, statement in STATEMENTS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True)
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    base = seconds["import sklearn"]
    rows = {
        name: {
            "median_s": statistics.median(times),
            "min_s": min(times),
            "ratio": statistics.median(t / b for t, b in zip(times, base, strict=True)),
        }
        for name, times in seconds.items()
    }
    print(f"{'whole process':28}{'median s':>10}{'min s':>10}{'ratio':>8}")
    for name, row in rows.items():
        print(f"{name:28}{row['median_s']:10.3f}{row['min_s']:10.3f}{row['ratio']:8.2f}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
