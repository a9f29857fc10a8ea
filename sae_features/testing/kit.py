"""The conformance kit: every promise of a model family, checked on small random models of its kinds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from sae_features import discovery
from sae_features.architectures import Text
from sae_features.families import GROUP, ModelFamily
from sae_features.models import ModelFiles
from sae_features.testing.checks import CHECKS, Case, CheckFailure
from sae_features.testing.tiny import write_tiny

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sae_features.architectures import Architecture

UNKNOWN = "this version of transformers does not know it"


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes
    ----------
    family, model_type, check : str
        What was checked; ``model_type`` also tells what its tokenizer adds.
    status : {"passed", "failed", "expected failure", "skipped"}
        How it ended.
    message : str
        Why, where it did not pass.
    """

    family: str
    model_type: str
    check: str
    status: str
    message: str = ""


def check_family(
    family: ModelFamily,
    *,
    model_types: Sequence[str] | None = None,
    folders: Sequence[str | Path] = (),
    expected_failures: Mapping[str, str] | None = None,
    raises: bool = True,
) -> list[CheckResult]:
    """Run all checks on small random models of a family, or on real models.

    Parameters
    ----------
    family : ModelFamily
        What a plugin gives.
    model_types : sequence of str, optional
        Only these of its architectures.
    folders : sequence of str or Path
        Real models to check in place of small random ones.
    expected_failures : mapping of str to str, optional
        By name of a check (``"check_embedding"``), why it cannot pass.
    raises : bool, default=True
        Whether to raise after all checks have run if one of them failed.

    Returns
    -------
    list of CheckResult
        One for each model and check.

    Raises
    ------
    CheckFailure
        Listing what failed.

    Examples
    --------
    >>> from sae_features.testing import check_family
    >>> from sae_features_bert import FAMILY
    >>> {result.status for result in check_family(FAMILY, model_types=["bert"])}
    {'passed'}
    """
    expected = expected_failures or {}
    results = [
        _result(family.name, name, check, expected)
        for name, check in family_checks(family, model_types=model_types, folders=folders)
    ]
    failed = [f"{r.model_type}: {r.check}: {r.message}" for r in results if r.status == "failed"]
    if failed and raises:
        raise CheckFailure(
            f"The family {family.name!r} fails {len(failed)} checks:\n" + "\n".join(failed)
        )
    return results


def family_checks(
    family: ModelFamily,
    *,
    model_types: Sequence[str] | None = None,
    folders: Sequence[str | Path] = (),
) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield the checks of a family, each a name of what is checked and a function without arguments.

    For ``pytest.mark.parametrize``; see :func:`parametrize_with_family_checks`.

    Parameters
    ----------
    family : ModelFamily
        What a plugin gives.
    model_types, folders
        As in :func:`check_family`.
    """
    if folders:
        for folder in folders:
            place = Path(folder)
            files = ModelFiles(str(place), place, family)
            for modality in files.modalities:
                case = Case(files, modality)
                yield from ((f"{place.name} ({modality})", _bound(check, case)) for check in CHECKS)
        return
    yield family.name, _named("check_import", lambda: check_import(family))
    for architecture in family.architectures:
        if model_types is None or architecture.model_type in model_types:
            yield from _tiny_checks(family, architecture)


def parametrize_with_family_checks(family: ModelFamily, **options: Any) -> Any:
    """Return a pytest decorator that runs a test for each check of a family.

    Parameters
    ----------
    family : ModelFamily
        What a plugin gives.
    **options
        As in :func:`family_checks`.

    Examples
    --------
    In a plugin's tests::

        @parametrize_with_family_checks(FAMILY)
        def test_conformance(check):
            check()
    """
    import pytest

    checks = [
        pytest.param(check, id=f"{name}-{check.__name__}")
        for name, check in family_checks(family, **options)
    ]
    return pytest.mark.parametrize("check", checks)


def check_import(family: ModelFamily) -> None:
    """The module that gives the family imports neither torch nor transformers."""
    values = [record.value for record in discovery.records(GROUP) if record.name == family.name]
    for value in values:
        module = value.partition(":")[0]
        program = (
            f"import sys, {module}\n"
            "heavy = {'torch', 'transformers', 'sklearn'} & set(sys.modules)\n"
            "print(*sorted(heavy))"
        )
        # Our own interpreter, and a name from the metadata of an installed distribution.
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CheckFailure(f"Importing {module} fails: {done.stderr.strip().splitlines()[-1]}")
        if loaded := done.stdout.strip():
            raise CheckFailure(f"Importing {module} imports {loaded}; import it where it is used.")


def _tiny_checks(
    family: ModelFamily, architecture: Architecture
) -> Iterator[tuple[str, Callable[[], None]]]:
    for modality in architecture.modalities:
        for template in _templates(architecture) if modality == "text" else ("bos",):
            kind = f"{architecture.model_type}" + (f", {template}" if modality == "text" else ", images")
            lazy = _LazyCase(family, architecture, modality, template)
            yield from ((kind, _bound(check, lazy)) for check in CHECKS)


def _templates(architecture: Architecture) -> tuple[str, ...]:
    """Return what tokenizers of such models put around texts."""
    if "image" in architecture.modalities:
        return ("bos",)  # the processors of such models need a tokenizer with a BOS
    declared = architecture.input_of("text")
    is_decoder = isinstance(declared, Text) and declared.first_token_is_sink
    return ("bos", "plain") if is_decoder else ("cls_sep", "eos")


class _LazyCase:
    """Makes a small model when the first check needs it, and keeps it for the others."""

    def __init__(
        self, family: ModelFamily, architecture: Architecture, modality: Any, template: str
    ) -> None:
        self.family, self.architecture = family, architecture
        self.modality, self.template = modality, template
        self._case: Case | None = None

    def get(self) -> Case:
        if self._case is None:
            from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

            if self.architecture.model_type not in CONFIG_MAPPING_NAMES:
                raise UnknownModelTypeError(UNKNOWN)
            folder = Path(tempfile.mkdtemp(prefix="sae-features-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            write_tiny(self.architecture, folder, template=self.template)
            files = ModelFiles(str(folder), folder, self.family)
            self._case = Case(files, self.modality, self.template)
        return self._case


class UnknownModelTypeError(SkipTest):
    """A kind of model that the installed transformers does not have; pytest skips what raises it."""


def _bound(check: Callable[[Case], None], case: Case | _LazyCase) -> Callable[[], None]:
    return _named(check.__name__, lambda: check(case.get() if isinstance(case, _LazyCase) else case))


def _named(name: str, function: Callable[[], None]) -> Callable[[], None]:
    function.__name__ = name
    return function


def _result(
    family: str, model_type: str, check: Callable[[], None], expected: Mapping[str, str]
) -> CheckResult:
    name = check.__name__
    try:
        check()
    except UnknownModelTypeError as error:
        return CheckResult(family, model_type, name, "skipped", str(error))
    except Exception as error:  # noqa: BLE001 whatever goes wrong in a plugin
        if name in expected:
            return CheckResult(family, model_type, name, "expected failure", expected[name])
        message = str(error) if isinstance(error, CheckFailure) else f"{type(error).__name__}: {error}"
        return CheckResult(family, model_type, name, "failed", message)
    return CheckResult(family, model_type, name, "passed")
