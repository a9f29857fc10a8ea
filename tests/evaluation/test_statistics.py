"""One place has it all."""

from __future__ import annotations

from sae_features.evaluation import statistics


def test_every_name_is_there_and_documented():
    assert sorted(statistics.__all__) == sorted(set(statistics.__all__))
    for name in statistics.__all__:
        assert hasattr(statistics, name), name
        if name.islower():
            assert f":func:`{name}`" in statistics.__doc__, name
            assert "Examples" in getattr(statistics, name).__doc__, name
