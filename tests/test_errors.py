"""Every exception is the library's own and the built-in that a caller would expect."""

from __future__ import annotations

import pytest

from sae_features import errors


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidParameterError", ValueError),
        ("InvalidInputError", ValueError),
        ("InputTypeError", TypeError),
        ("AssetNotFoundError", FileNotFoundError),
        ("SAEFormatError", ValueError),
        ("CheckpointError", ValueError),
        ("PluginError", ImportError),
        ("DigestMismatchError", RuntimeError),
        ("MissingDependencyError", ImportError),
    ],
)
def test_children_of_the_root_inherit_a_built_in(name, builtin):
    error = getattr(errors, name)
    assert issubclass(error, errors.SAEFeaturesError)
    assert issubclass(error, builtin)
    assert str(error("what came, what was expected")) == "what came, what was expected"


def test_warnings_have_a_root():
    assert issubclass(errors.SAEFeaturesWarning, UserWarning)


@pytest.mark.parametrize(
    ("got", "hint"),
    [("men", " Did you mean 'mean'?"), ("zzz", ""), (None, ""), (3, "")],
)
def test_what_was_expected_and_what_was_perhaps_meant(got, hint):
    message = errors.expected_one_of("pooling", got, iter(["max", "mean"]))
    assert message == f"Got pooling={got!r}; expected one of max, mean.{hint}"
