"""Transfer across languages: train in one, test in every other, each text read once."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_features.errors import InvalidParameterError
from sae_features.evaluation.features import identity_of
from sae_features.evaluation.language_pairs import laid_for_workers, run_matrix, shots_of
from sae_features.evaluation.languages import Languages, fold_languages, lay_together
from sae_features.evaluation.leakage import Leaks, find_leaks, treat_leaks
from sae_features.evaluation.plan import ComparisonPlan, check_flags, several
from sae_features.evaluation.provenance import about_labels, about_run, check_data_sets
from sae_features.evaluation.results import Cell, Results, gather, key_of
from sae_features.evaluation.splits import check_parts
from sae_features.evaluation.tasks import Task, run_tasks
from sae_features.parameters import check_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sae_features.evaluation.labelled import LabelledItems
    from sae_features.evaluation.languages import LanguageFold


class CrossLingualTransfer(ComparisonPlan):
    """Train a classifier in each language and test it in every language: the full matrix.

    All languages train on equally many items, the diagonal too, whose test items are held out like all
    others; methods see the same items, so that comparisons are paired.  Equal items, and groups that
    have one name in several languages (templates, authors), never stand on both sides, in any two
    languages.

    Results have ``train_on`` and ``test_on``, and in ``setting``:

    * ``in_language`` (the diagonal) and ``zero_shot``: nothing of the other language was seen;
    * ``few_shot_N``: N training items of the other language were added, and ``target_only_N``: they
      alone, the baseline of it;
    * ``translated_train``: the training items, translated into the other language.

    Parameters
    ----------
    models, layers, saes, poolings, thresholds, binarize, token_top_n, baselines
        What is compared: see :class:`~sae_features.evaluation.plan.ComparisonPlan`.
    few_shot : sequence of int or float
        How many items of the other language are added, and at least one of each class; a float is the
        share of as many as each language trains on.
    center : sequence of bool, default=(False,)
        Whether each language's mean, of its training part and without labels, is taken off its rows;
        with ``(False, True)`` every method is run both ways.
    train_size : int, optional
        Training items of each language; as many as the smallest has if not given.
    **how
        All other parameters of :class:`~sae_features.evaluation.plan.ComparisonPlan`.

    Examples
    --------
    >>> from sae_features.evaluation.labelled import LabelledItems
    >>> english = LabelledItems("en", ["good", "fine", "bad", "poor"] , [1, 1, 0, 0])
    >>> german = LabelledItems("de", ["gut", "fein", "schlecht", "mies"], [1, 1, 0, 0])
    >>> transfer = CrossLingualTransfer(baselines=(), cv=2, strengths=(1.0,), permuted=False)
    >>> rows = transfer.run([english, german]).rows
    >>> sorted({(row["train_on"], row["test_on"], row["setting"]) for row in rows})[:2]
    [('de', 'de', 'in_language'), ('de', 'en', 'zero_shot')]
    """

    protocol = "cross_lingual"

    def __init__(
        self,
        models: Sequence[Any] = ("minilm",),
        *,
        few_shot: Sequence[float] = (),
        center: Sequence[bool] = (False,),
        train_size: int | None = None,
        **how: Any,
    ) -> None:
        super().__init__(models, **how)
        self.few_shot = tuple(_shots(value) for value in several("few_shot", few_shot, least=0))
        self.center = several("center", center)
        check_flags("center", *self.center)
        check_count("train_size", train_size)
        self.train_size = train_size

    def settings(self) -> dict[str, Any]:
        """Return what was asked for, as plain values."""
        own = {
            "few_shot": list(self.few_shot), "center": list(self.center), "train_size": self.train_size,
        }  # fmt: skip
        return super().settings() | own

    def run(
        self,
        languages: Sequence[LabelledItems],
        translated: Mapping[tuple[str, str], Sequence[Any]] | None = None,
        *,
        name: str = "languages",
    ) -> Results:
        """Run the matrix.

        Parameters
        ----------
        languages : sequence of LabelledItems
            One for each language, with its name and the same labels.
        translated : mapping of (str, str) to sequence, optional
            Translations of all items of the first language into the second, in order.
        name : str
            What results call the data set.

        Returns
        -------
        Results
            One row per method, pair of languages, setting and fold; also written to ``folder``.

        Raises
        ------
        InvalidInputError
            If labels differ between languages, a language has too few items, or a split leaks and
            ``on_leak="error"``.
        """
        listed = check_data_sets(languages)
        laid = lay_together(listed, translated)
        provenance = about_run(self.protocol, self.settings(), listed)
        for data in listed:
            provenance["data"][data.name] |= about_labels(data, data.digests())
        folds = fold_languages(
            listed, laid, n_folds=self.cv, n_repeats=self.repeats, seed=self.seed,
            train_size=self.train_size,
        )  # fmt: skip
        folds, provenance["n_leaking"] = self._without_leaks(folds, laid)
        provenance["on_leak"] = self.on_leak
        provenance["translated"] = [
            {
                "from": laid.names[source],
                "into": laid.names[target],
                "digest": laid.digest_of(start, source),
            }
            for (source, target), start in laid.translated.items()
        ]
        shots = shots_of(self.few_shot, laid, folds)
        results = gather(self._cells(listed, laid, folds, name, shots), self.folder, provenance)
        if self.folder is not None:
            results.write(self.folder)
        return results

    def _without_leaks(
        self, folds: list[LanguageFold], laid: Languages
    ) -> tuple[list[LanguageFold], int]:
        """Return folds without test items that are trained on in some language, or as a translation."""
        treated, n_leaking = [], 0
        groups = laid.groups
        for fold in folds:
            train = np.concatenate(fold.rest)
            tests = []
            for number, (language, test) in enumerate(zip(laid.names, fold.test, strict=True)):
                leaks = find_leaks(train, test, laid.digests, groups)
                translations = [
                    fold.rest[source] - laid.starts[source] + start
                    for (source, target), start in laid.translated.items()
                    if target == number
                ]
                if translations:
                    more = find_leaks(np.concatenate(translations), test, laid.digests)
                    both = np.union1d(leaks.positions, more.positions)
                    leaks = Leaks(len(both) - leaks.n_grouped, leaks.n_grouped, both)
                n_leaking = max(n_leaking, len(leaks.positions))
                where = f"The test part of {language}, with the training parts of all languages,"
                left = treat_leaks(leaks, test, self.on_leak, where)
                check_parts(laid.codes, fold.train[number], left, language, laid.classes)
                tests.append(left)
            treated.append(fold._replace(test=tests))
        return treated, n_leaking

    def _cells(
        self,
        listed: Sequence[LabelledItems],
        laid: Languages,
        folds: Sequence[LanguageFold],
        name: str,
        shots: Sequence[int],
    ) -> list[Cell]:
        methods = self.methods(laid.items)
        facts = {
            "protocol": self.protocol, "name": name, "data": [data.digest() for data in listed],
            "names": laid.names, "inner": self.inner,
            "folds": [
                [fold.seed, fold.number, [part.tolist() for parts in fold[2:] for part in parts]]
                for fold in folds
            ],
        }  # fmt: skip
        identities = {method.name: identity_of(method, laid.items) for method in methods}
        steps: list[str | int] = ["matrix", *shots]
        steps += ["translated"] if laid.translated else []
        tasks = []
        for method, classifier, control in self.runs(methods):
            for center in self.center if method.featurizer is not None else self.center[:1]:
                for step in steps if control == "none" else steps[:1]:
                    is_centered = center and method.featurizer is not None
                    how = [classifier.kind, classifier.strengths, classifier.scalings, is_centered, step]
                    own = {"method": identities[method.name], "classifier": how, "control": control}
                    if step == "translated":
                        own["translated"] = [laid.items[start] for start in laid.translated.values()]
                    columns = {
                        "protocol": self.protocol, "dataset": name, "n_classes": len(laid.classes),
                        "control": control, "step": step, "center": is_centered,
                        "method": method.name + (", centred per language" if is_centered else ""),
                    }  # fmt: skip
                    tasks.append(Task(key_of(facts | own), method, classifier, columns))
        return run_tasks(
            tasks, methods, laid.items, run_matrix,
            arguments={"laid": laid_for_workers(laid), "folds": folds, "n_inner": self.inner},
            title=name, folder=self.folder, n_jobs=self.n_jobs, is_shown=self.verbose,
        )  # fmt: skip


def _shots(value: Any) -> float:
    """Return how many few-shot items were asked for, as an int, or as a share."""
    is_integer = isinstance(value, Integral)
    if is_integer and not isinstance(value, bool) and value >= 1:
        return int(value)
    if not is_integer and isinstance(value, Real) and 0 < float(value) < 1:
        return float(value)
    message = f"Got few_shot={value!r}; expected numbers of items, or shares between 0 and 1."
    raise InvalidParameterError(message)
