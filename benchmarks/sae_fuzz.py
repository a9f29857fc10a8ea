"""Damaged and hostile SAE files of every format: each ends in a clear error or a correct load.

python benchmarks/sae_fuzz.py [--cases 10000] [--seed 0] [--workers 2] [--only N] [--json FILE]

Cases are those of tests/saes/fuzzing, drawn from the golden SAEs in tests/golden; each is determined by
the seed and its number, and ``--only`` runs one again.  Workers are processes of their own, with a
bound on their memory and on the time of a case, so that a crash or a hang is counted and ends nothing.

clear errors  an error of ours, with a message of at most 2,000 characters
correct loads the numbers of the files as they were, or others where the change is one of weights,
              or of a setting to another value that it may have
told          other numbers, and a warning that says what the files leave open
wrong loads   anything else that loads
executions    a file that no one but code in a pickle or a path in an archive could have made
memory        more than twice the files' size and 64 MiB, or an allocation that had to fail
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

KINDS = {
    "error": "clear errors",
    "correct": "correct loads",
    "told": "told",
    "wrong": "wrong loads",
    "other": "other exceptions",
    "crash": "crashes",
    "hang": "hangs",
    "execution": "executions",
    "memory": "memory violations",
}
GOOD = {"error", "correct", "told"}
SECONDS_PER_CASE = 20
SPARE_BYTES = 64 * 2**20
SPARE_ADDRESSES = 2 * 2**30
BATCH = 250


def main() -> int:
    """Print a table; return 1 if anything in it is bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="number of one case, that is run and described")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.seed)
    started = time.perf_counter()
    numbers = range(options.cases) if options.only is None else [options.only]
    results = run_all(list(numbers), options.seed, options.workers)
    seconds = time.perf_counter() - started
    print_table(results, seconds)
    if options.only is not None:
        print(results[0])
    if options.json:
        counts = Counter(result["kind"] for result in results)
        report = {
            "cases": len(results),
            "seed": options.seed,
            "seconds": round(seconds, 1),
            **{label: counts[kind] for kind, label in KINDS.items()},
            "bad": [result for result in results if result["kind"] not in GOOD],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(result["kind"] not in GOOD for result in results))


def print_table(results: list[dict[str, Any]], seconds: float) -> None:
    """Print what came of the cases, by mutator, and the first of those that are bad."""
    by_mutator: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        by_mutator[result["mutator"]][result["kind"]] += 1
        by_mutator["all"][result["kind"]] += 1
    order = sorted(by_mutator, key=lambda name: (name == "all", name))
    print(f"{'':22}{'cases':>8}" + "".join(f"{label:>18}" for label in KINDS.values()))
    for name in order:
        counts = by_mutator[name]
        print(f"{name:22}{counts.total():>8}" + "".join(f"{counts[kind]:>18}" for kind in KINDS))
    for result in [result for result in results if result["kind"] not in GOOD][:20]:
        print(f"bad: {result}")
    print(f"{len(results)} cases in {seconds:.0f} s")


def run_all(numbers: list[int], seed: int, n_workers: int) -> list[dict[str, Any]]:
    """Return what came of each case, in order."""
    batches = [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)][::-1]
    results: dict[int, dict[str, Any]] = {}
    lock = threading.Lock()

    def serve() -> None:
        while True:
            with lock:
                if not batches:
                    return
                batch = batches.pop()
            found = run_batch(batch, seed)
            with lock:
                results.update(found)
                print(f"{len(results)} of {len(numbers)}", end="\r", file=sys.stderr, flush=True)

    with ThreadPoolExecutor(n_workers) as pool:
        for done in [pool.submit(serve) for _ in range(n_workers)]:
            done.result()
    return [results[number] for number in numbers]


def run_batch(batch: list[int], seed: int) -> dict[int, dict[str, Any]]:
    """Return what came of some cases, which one process runs as long as it lives."""
    results: dict[int, dict[str, Any]] = {}
    left = list(batch)
    while left:
        command = [sys.executable, __file__, "--worker", "--seed", str(seed)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment, **pipes) as worker:  # type: ignore[call-overload]
            kind = feed(worker, left, results)
            if kind is not None:
                worker.kill()
                results[left[0]] = {"case": left[0], "mutator": "?", "kind": kind}
                del left[0]
    return results


def feed(
    worker: subprocess.Popen[str], left: list[int], results: dict[int, dict[str, Any]]
) -> str | None:
    """Give a worker its cases; return what kept it from ending one, if anything did."""
    assert worker.stdin is not None  # noqa: S101 for the type checker
    assert worker.stdout is not None  # noqa: S101
    if worker.stdout.readline() != "ready\n":
        raise SystemExit("A worker could not start: its own words are above.")
    while left:
        hangs = threading.Event()

        def stop(hangs: threading.Event = hangs) -> None:
            hangs.set()
            worker.kill()

        timer = threading.Timer(SECONDS_PER_CASE, stop)
        timer.start()
        try:
            worker.stdin.write(f"{left[0]}\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        timer.cancel()
        if not line:
            return "hang" if hangs.is_set() else "crash"
        result = json.loads(line)
        results[left[0]] = result
        del left[0]
    worker.stdin.close()
    return None


def work(seed: int) -> int:
    """Run the cases whose numbers come in, and write a line of what came of each."""
    from saes import fuzzing

    memory = Path("/dev/shm")  # noqa: S108 files in memory, where there are such
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place:
        folder = Path(place)
        samples = fuzzing.golden_samples() + fuzzing.own_samples(folder / "own")
        (folder / "elsewhere").mkdir()
        os.chdir(folder / "elsewhere")  # where code in a pickle would write
        warm_up(fuzzing, samples, folder / "case")
        limit = read_status("VmSize") + SPARE_ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print("ready", flush=True)
        for line in sys.stdin:
            number = int(line)
            rng = random.Random(f"{seed}:{number}")
            case, mutator = fuzzing.draw_case(rng, samples)
            fuzzing.empty(folder / "case")
            with_decoder = rng.random() < 0.75
            nbytes = sum(len(content) for content in case.files.values())
            before = reset_peak()
            outcome = fuzzing.judge(case, folder / "case", decoder=with_decoder)
            kind, detail = outcome.kind, outcome.detail
            taken = read_status("VmHWM") - before
            if taken > 2 * nbytes + SPARE_BYTES and kind in GOOD:
                kind, detail = "memory", f"{taken} bytes for files of {nbytes}"
            result = {
                "case": number,
                "mutator": mutator,
                "kind": kind,
                "sample": case.sample.name,
                "name": case.name[:200],
                "detail": detail[:300],
            }
            print(json.dumps(result), flush=True)
    return 0


def warm_up(fuzzing: Any, samples: list[Any], folder: Path) -> None:
    """Load every sample as it is, so that what is imported or mapped on use is there already."""
    for sample in samples:
        fuzzing.empty(folder)
        outcome = fuzzing.judge(fuzzing.Case(sample, "as it is", sample.files), folder)
        if outcome.kind != "correct":
            raise SystemExit(f"{sample.name} does not load as it is: {outcome}")


def reset_peak() -> int:
    """Return the memory that is resident now, and count its peak from here."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return read_status("VmRSS")


def read_status(name: str) -> int:
    """Return a size in bytes that Linux keeps of this process."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(text.split(f"{name}:")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main())
