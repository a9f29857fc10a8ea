"""What a grid search over pooling and threshold encodes and costs; which classifier fits fastest.

python benchmarks/grid_search.py [--sections search counts solvers] [--texts 1000] [--dataset movies]
    [--jobs 1 2 4] [--rounds 3] [--solvers WORDS] [--repeats 20] [--repeat-texts 200] [--threads 1]
    [--data DIR] [--json FILE]

The search is GridSearchCV over Pipeline(SAEFeaturizer, MaxAbsScaler, LogisticRegression): 4 poolings × 4
thresholds × 5 folds and the refit, default model and SAE.  Each is a fresh process; they take turns.
Rows encoded and backbones loaded are counted in all processes, where a model is run and loaded.

search    memory, cold     cache=None, nothing kept
          memory, warm     cache=None after featurizer.warm(X); its rows are counted, its time is not
          disk, cold       cache=FOLDER, empty
          disk, warm       the same folder in the next process
          Seconds of the search; of the fits alone (the same search over features made beforehand, same
          number of jobs, same process); of what is left, also as a ratio to one extraction of all texts
          (in that process; the warm rows, which must load no model, take that of the cold one).
          Inside: seconds in the featurizer's fit and transform, summed over all processes.  Imports are
          done before the clock starts and, in the cold rows, weights loaded: loads are of the search.
counts    --repeats fresh cold searches for each number of jobs, nothing imported or loaded before, with
          a classifier that fits in no time, so that workers ask for texts at the same moment; then the
          naive ways: cache=False, and cache=False inside Pipeline(memory=FOLDER), twice.
solvers   seconds of one fit (median over folds and rounds) and macro-F1 of out-of-fold predictions (95 %
          interval of resampled texts) on max-pooled latents, by solver and by what it is given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from joblib import Parallel, delayed
from measuring import (
    about,
    add_common,
    corpus,
    fresh,
    macro_f1,
    macro_f1_difference,
    print_table,
    rotated,
    save,
    shown,
    snippets,
    spread,
    use_threads,
)
from scipy import sparse as sp
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler
from sklearn.svm import LinearSVC

from sae_features import LatentSelector, SAEFeaturizer
from sae_features.errors import SAEFeaturesWarning
from sae_features.featurizer import warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECTIONS = ("search", "counts", "solvers")
POOLINGS = ("max", "mean", "sum", "last")
THRESHOLDS = (None, 0.5, 1.0, 2.0)
FOLDS = 5
N_SELECTED = 200
COUNTS = "SAE_FEATURES_BENCHMARK_COUNTS"
"""Environment variable that names the file to which every process appends what it did."""


class Counted(SAEFeaturizer):
    """A featurizer that notes, in whatever process it works, what runs models and how long it takes."""

    def fit(self, X: Any, y: Any = None) -> Any:
        """Fit."""
        with noting():
            return super().fit(X, y)

    def transform(self, X: Any) -> Any:
        """Transform."""
        with noting():
            return super().transform(X)


@contextmanager
def noting() -> Iterator[None]:
    """Note seconds, and see to it that this process notes rows and loads."""
    count_here()
    started = time.perf_counter()
    try:
        yield
    finally:
        note("microseconds", round((time.perf_counter() - started) * 1e6))


def count_here() -> None:
    """Note each run of a model, with its number of items, and each load of one, in this process."""
    from sae_features import extraction
    from sae_features.backbones.backbone import Backbone

    if getattr(extraction.extract, "is_counted", False):
        return
    extract, load = extraction.extract, Backbone.load.__func__  # type: ignore[attr-defined]

    def counted_extract(backbone: Any, items: Any, *args: Any, **options: Any) -> Any:
        note("rows", len(items))
        return extract(backbone, items, *args, **options)

    def counted_load(cls: type, *args: Any, **options: Any) -> Any:
        note("loads", 1)
        return load(cls, *args, **options)

    counted_extract.is_counted = True  # type: ignore[attr-defined]
    extraction.extract = counted_extract
    Backbone.load = classmethod(counted_load)  # type: ignore[method-assign,assignment]


def note(what: str, number: int) -> None:
    """Append a line to the file of counts; short ones are not torn."""
    target = os.open(os.environ[COUNTS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(target, f"{what} {number}\n".encode())
    finally:
        os.close(target)


def noted() -> Counter[str]:
    """Return the sums of what was noted so far."""
    found: Counter[str] = Counter()
    file = Path(os.environ[COUNTS])
    for line in file.read_text(encoding="ascii").splitlines() if file.exists() else []:
        what, number = line.split()
        found[what] += int(number)
    return found


class Lookup(TransformerMixin, BaseEstimator):
    """Features that were made beforehand, by the row numbers that stand for texts."""

    loaded: ClassVar[dict[str, sp.csr_matrix]] = {}

    def __init__(self, folder: str, pooling: str = "max", threshold: float | None = None) -> None:
        self.folder = folder
        self.pooling = pooling
        self.threshold = threshold

    def fit(self, X: Any, y: Any = None) -> Lookup:  # noqa: ARG002
        """Do nothing."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: np.ndarray) -> sp.csr_matrix:
        """Return rows; a process reads each matrix once."""
        file = table_of(self.folder, self.pooling, self.threshold)
        if file not in self.loaded:
            self.loaded[file] = sp.load_npz(file)
        return self.loaded[file][X[:, 0]]


def table_of(folder: str, pooling: str, threshold: float | None) -> str:
    """Return the file of a setting's features."""
    return str(Path(folder) / f"{pooling}-{threshold}.npz")


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add_common(parser)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--dataset", choices=("movies", "bbc"), default="movies")
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--jobs", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--solvers", nargs="+", default=[], help="only those with one of these words")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--repeat-texts", type=int, default=200)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=SAEFeaturesWarning, message=".*truncated")
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    use_threads(options.threads)
    figures: dict[str, Any] = {"about": about(), "texts": options.texts, "dataset": options.dataset}
    print(json.dumps(figures["about"]))
    sections: dict[str, Callable[[argparse.Namespace], Any]] = {
        "search": compare_searches,
        "counts": count_rows,
        "solvers": compare_solvers,
    }
    for name in options.sections:
        figures[name] = sections[name](options)
        save(options.json, figures)


def load(dataset: str, n: int, data: str | Path | None) -> tuple[list[str], np.ndarray]:
    """Return different texts and their labels."""
    texts, labels = snippets() if dataset == "movies" else corpus("bbc", Path(data) if data else None)
    if n > len(texts):
        raise SystemExit(f"Got --texts {n}; {dataset} has {len(texts)}.")
    return texts[:n], np.array(labels[:n])


def spec_of(options: argparse.Namespace, **row: Any) -> dict[str, Any]:
    """Return what a fresh process is told."""
    common = {
        "dataset": options.dataset,
        "data": str(options.data) if options.data else None,
        "n": options.texts,
        "threads": options.threads,
        "cache": None,
        "warm": False,
        "tables": None,
        "extraction": False,
        "fits_first": False,
        "memory": None,
        "searches": 1,
        "classifier": "logistic",
    }
    return common | row


def child(spec: dict[str, Any]) -> list[dict[str, float]]:
    """Search in this process and return, for each search, what it took and what it encoded."""
    use_threads(spec["threads"])
    texts, y = load(spec["dataset"], spec["n"], spec["data"])
    with tempfile.TemporaryDirectory() as folder:
        os.environ[COUNTS] = str(Path(folder) / "counts.txt")
        count_here()
        if spec["tables"]:
            ready = delayed(make_ready)(loads=spec["extraction"])
            Parallel(n_jobs=spec["n_jobs"], batch_size=1)([ready] * 2 * spec["n_jobs"])
        once: dict[str, float] = {}
        if spec["extraction"]:
            once["one"] = one_extraction(texts)
        if spec["tables"] and spec["fits_first"]:
            once["fits"] = fits_alone(spec, y)
        featurizer = Counted(cache=spec["cache"])
        before_warm = noted()
        if spec["warm"]:
            fill(featurizer, texts)
        found = []
        for _ in range(spec["searches"]):
            before = noted()
            search = grid_search(featurizer, spec)
            started = time.perf_counter()
            search.fit(texts, y)
            seconds = time.perf_counter() - started
            counts = noted() - (before_warm if spec["warm"] else before)
            during = noted() - before
            found.append({
                "search": seconds,
                "rows": counts["rows"],
                "loads": during["loads"],
                "inside": during["microseconds"] / 1e6,
                "score": float(search.best_score_),
            })  # fmt: skip
        if spec["tables"] and not spec["fits_first"]:
            once["fits"] = fits_alone(spec, y)
    return [result | once for result in found]


def make_ready(*, loads: bool) -> None:
    """Import in a worker what a search needs, maybe load weights, and let the other workers start."""
    import sae_features.backbones.backbone
    import sae_features.extraction
    import sae_features.saes.autoencoder  # noqa: F401

    if loads:
        SAEFeaturizer(cache=False).transform(["a text"])
    time.sleep(0.5)


def one_extraction(texts: list[str]) -> float:
    """Return the seconds of one extraction with weights that are loaded."""
    featurizer = SAEFeaturizer(cache=False)
    featurizer.transform(texts[:8])
    started = time.perf_counter()
    featurizer.transform(texts)
    return time.perf_counter() - started


def fill(featurizer: Any, texts: list[str]) -> None:
    """Encode ahead."""
    if hasattr(featurizer, "warm"):
        featurizer.warm(texts)
    else:
        warm([featurizer], texts)


def grid_search(features: Any, spec: dict[str, Any]) -> GridSearchCV:
    """Return the search over pooling and threshold of whatever makes features."""
    logistic = spec["classifier"] == "logistic"
    steps = [
        ("features", features),
        ("scale", MaxAbsScaler()),
        ("classify", LogisticRegression(max_iter=2000) if logistic else MultinomialNB()),
    ]
    grid = {"features__pooling": list(POOLINGS), "features__threshold": list(THRESHOLDS)}
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    pipeline = Pipeline(steps, memory=spec["memory"])
    return GridSearchCV(pipeline, grid, cv=folds, scoring="f1_macro", n_jobs=spec["n_jobs"])


def fits_alone(spec: dict[str, Any], y: np.ndarray) -> float:
    """Return the seconds of the same search where features cost nothing."""
    search = grid_search(Lookup(spec["tables"]), spec | {"memory": None})
    rows = np.arange(len(y))[:, None]
    started = time.perf_counter()
    search.fit(rows, y)
    return time.perf_counter() - started


def write_tables(folder: str, texts: list[str]) -> None:
    """Write the features of every setting."""
    featurizer = SAEFeaturizer()
    warm([featurizer], texts)
    for pooling in POOLINGS:
        for threshold in THRESHOLDS:
            rows = featurizer.set_params(pooling=pooling, threshold=threshold).transform(texts)
            sp.save_npz(table_of(folder, pooling, threshold), rows)


def compare_searches(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return rows encoded and seconds of searches, memory and disk, cold and warm."""
    texts, _ = load(options.dataset, options.texts, options.data)
    kinds = ("memory, cold", "memory, warm", "disk, cold", "disk, warm")
    names = [f"{kind}, {jobs}" for jobs in options.jobs for kind in kinds]
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as tables:
        write_tables(tables, texts)
        for turn in range(options.rounds):
            with tempfile.TemporaryDirectory() as stores:
                order = rotated(names, turn)
                order.sort(key=lambda name: name.startswith("disk, warm"))  # they need the cold ones'
                for name in order:
                    kind, jobs = name.rsplit(", ", 1)
                    is_disk = kind.startswith("disk")
                    spec = spec_of(
                        options,
                        n_jobs=int(jobs),
                        tables=tables,
                        fits_first=bool(turn % 2),
                        cache=str(Path(stores) / jobs) if is_disk else None,
                        warm=kind == "memory, warm",
                        extraction=kind.endswith("cold"),
                    )
                    results[name] += fresh(__file__, spec, threads=options.threads)
        for name, of_name in results.items():
            cold = results[name.replace("warm", "cold")]
            for own, other in zip(of_name, cold, strict=True):
                own["one"] = other["one"]
    print(f"\n{options.texts:,} texts, {len(POOLINGS)} poolings × {len(THRESHOLDS)} thresholds × "
          f"{FOLDS} folds and the refit; median (least–most)")  # fmt: skip
    table = [searched(name, found) for name, found in results.items()]
    print_table(
        ("cache", "jobs", "rows encoded", "loads", "search s", "fits s", "left s", "left/extraction",
         "inside s", "inside/extraction", "extraction s", "fits' share"),
        table,
    )  # fmt: skip
    return results


def searched(name: str, found: list[dict[str, Any]]) -> list[str]:
    """Return a line of the table."""
    kind, jobs = name.rsplit(", ", 1)
    left = [result["search"] - result["fits"] for result in found]
    one = [result["one"] for result in found]
    inside = [result["inside"] for result in found]
    return [
        kind,
        jobs,
        different(result["rows"] for result in found),
        different(result["loads"] for result in found),
        shown(spread([result["search"] for result in found])),
        shown(spread([result["fits"] for result in found])),
        shown(spread(left)),
        shown(spread([a / b for a, b in zip(left, one, strict=True)])),
        shown(spread(inside)),
        shown(spread([a / b for a, b in zip(inside, one, strict=True)])),
        shown(spread(one)),
        f"{statistics.median(r['fits'] / r['search'] for r in found):.0%}",
    ]


def different(numbers: Any) -> str:
    """Return the different numbers, least first."""
    return ", ".join(f"{number:,}" for number in sorted(set(numbers)))


def count_rows(options: argparse.Namespace) -> dict[str, Any]:
    """Print and return how many rows were encoded in repeated searches, and by the naive ways."""
    n = options.repeat_texts
    spec = spec_of(options, n=n, classifier="bayes")
    encoded: dict[str, list[int]] = {f"{jobs} jobs": [] for jobs in options.jobs}
    loads: dict[str, list[int]] = {name: [] for name in encoded}
    for _ in range(options.repeats):
        for jobs in options.jobs:
            (result,) = fresh(__file__, spec | {"n_jobs": jobs}, threads=options.threads)
            encoded[f"{jobs} jobs"].append(result["rows"])
            loads[f"{jobs} jobs"].append(result["loads"])
    naive = fresh(__file__, spec | {"n_jobs": 1, "cache": False}, threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        remembered = spec | {"n_jobs": 1, "cache": False, "memory": folder, "searches": 2}
        twice = fresh(__file__, remembered, threads=options.threads)
    rows = [
        (f"cache=None, {name}", f"{sum(count == n for count in counts)} of {len(counts)}",
         different(counts), different(loads[name]))
        for name, counts in encoded.items()
    ]  # fmt: skip
    others = [
        ("cache=False", naive[0]),
        ("cache=False, Pipeline(memory=…)", twice[0]),
        ("the same, searched again", twice[1]),
    ]
    rows += [(name, "", f"{found['rows']:,}", str(found["loads"])) for name, found in others]
    print(f"\n{n} texts")
    print_table(("", f"exactly {n}", "rows encoded", "backbones loaded"), rows)
    return {"texts": n, "rows": encoded, "loads": loads, "others": dict(others)}


def solvers(*, is_binary: bool) -> dict[str, Callable[[], Any]]:
    """Return linear classifiers with their defaults, but for more iterations, by name.

    scikit-learn's liblinear takes two classes only; with more, one is set against the rest.
    """
    named: dict[str, Callable[[], Any]] = {
        f"LogisticRegression, {solver}": lambda solver=solver: LogisticRegression(
            solver=solver, max_iter=2000
        )
        for solver in ("lbfgs", "liblinear", "newton-cg", "newton-cholesky", "saga")
    }
    if not is_binary:
        liblinear = named["LogisticRegression, liblinear"]
        named["LogisticRegression, liblinear"] = lambda: OneVsRestClassifier(liblinear())
    return named | {
        "LinearSVC": lambda: LinearSVC(max_iter=5000),
        "SGDClassifier, log_loss": lambda: SGDClassifier(loss="log_loss", random_state=0),
        "SGDClassifier, hinge": lambda: SGDClassifier(random_state=0),
        "RidgeClassifier": RidgeClassifier,
    }


INPUTS: dict[str, tuple[str, str, bool, bool]] = {
    "CSR float32": ("csr", "float32", True, False),
    "CSR float64": ("csr", "float64", True, False),
    "dense float32": ("dense", "float32", True, False),
    "dense float64": ("dense", "float64", True, False),
    "CSR float32, not scaled": ("csr", "float32", False, False),
    f"CSR float32, {N_SELECTED} selected": ("csr", "float32", True, True),
    f"dense float32, {N_SELECTED} selected": ("dense", "float32", True, True),
    f"CSR float32, {N_SELECTED} selected, not scaled": ("csr", "float32", False, True),
}
"""What a classifier is given: format, type, whether scaled, whether latents are selected first."""


def compare_solvers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print and return seconds of a fit and macro-F1, by solver and input."""
    texts, y = load(options.dataset, options.texts, options.data)
    features = SAEFeaturizer(cache=False).transform(texts)
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, y))
    is_binary = len(set(y)) == 2
    available = {
        name: make
        for name, make in solvers(is_binary=is_binary).items()
        if not options.solvers or any(word in name for word in (*options.solvers, "lbfgs"))
    }
    names = [
        f"{solver}|{given}"
        for given in INPUTS
        for solver in available
        if INPUTS[given][-1]
        or "cholesky" not in solver  # its Hessian, (classes × latents)², takes seconds
    ]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    preparing: dict[str, list[float]] = {given: [] for given in INPUTS}
    predicted = {name: np.empty_like(y) for name in names}
    stopped: Counter[str] = Counter()
    for turn in range(options.rounds):
        for train, test in folds:
            prepared = {}
            for given, choice in INPUTS.items():
                started = time.perf_counter()
                prepared[given] = prepare(features, y, train, test, choice)
                preparing[given].append(time.perf_counter() - started)
            for name in rotated(names, turn):
                solver, given = name.split("|")
                classifier, (X_train, X_test) = available[solver](), prepared[given]
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    started = time.perf_counter()
                    classifier.fit(X_train, y[train])
                    seconds[name].append(time.perf_counter() - started)
                stopped[name] += any(issubclass(one.category, ConvergenceWarning) for one in caught)
                stopped[f"{name}|other"] += any("ill-conditioned" in str(one.message) for one in caught)
                predicted[name][test] = classifier.predict(X_test)
    base = predicted["LogisticRegression, lbfgs|CSR float32"]
    found = []
    for name in names:
        solver, given = name.split("|")
        found.append({
            "solver": solver, "input": given, "fit": spread(seconds[name]),
            "preparing": spread(preparing[given]), "stopped_early": stopped[name],
            "fell_back": stopped[f"{name}|other"], "fits": len(seconds[name]),
            **macro_f1(y, predicted[name]), **{
                f"difference_{key}": value
                for key, value in macro_f1_difference(y, predicted[name], base).items()
            },
        })  # fmt: skip
    found.sort(key=lambda row: row["fit"]["median"])
    print(f"\n{len(y):,} texts, {features.shape[1]:,} latents, "
          f"{features.nnz / len(y):.0f} of a text not 0, {len(set(y))} classes, {FOLDS} folds; "
          "fastest first; the difference is to lbfgs on CSR float32, on the same texts")  # fmt: skip
    print_table(
        ("solver", "given", "fit, ms", "preparing, ms", "macro-F1 (95 %)", "difference (95 %)", "note"),
        [
            (
                row["solver"],
                row["input"],
                shown({key: 1000 * value for key, value in row["fit"].items()}, 1),
                f"{1000 * row['preparing']['median']:.1f}",
                f"{row['f1']:.3f} ({row['low']:.3f}–{row['high']:.3f})",
                "{difference_difference:+.3f} ({difference_low:+.3f} to {difference_high:+.3f})".format(
                    **row
                ),
                note_of(row),
            )
            for row in found
        ],
    )
    return found


def note_of(row: dict[str, Any]) -> str:
    """Return what is to be said of a solver's fits."""
    notes = []
    if row["stopped_early"]:
        notes.append(f"no convergence in {row['stopped_early']} of {row['fits']}")
    if row["fell_back"]:
        notes.append(f"ill-conditioned, lbfgs instead in {row['fell_back']} of {row['fits']}")
    return "; ".join(notes)


def prepare(
    features: sp.csr_matrix,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    choice: tuple[str, str, bool, bool],
) -> tuple[Any, Any]:
    """Return the rows of training and test as a classifier is given them."""
    form, dtype, is_scaled, is_selected = choice
    steps = [LatentSelector(N_SELECTED)] if is_selected else []
    steps += [MaxAbsScaler()] if is_scaled else []
    rows = features.astype(dtype)
    parts = rows[train], rows[test]
    if steps:
        pipeline = make_pipeline(*steps).fit(parts[0], y[train])
        parts = pipeline.transform(parts[0]), pipeline.transform(parts[1])
    if form == "dense":
        parts = parts[0].toarray(), parts[1].toarray()
    return parts


if __name__ == "__main__":
    main()
