"""Every promise of the family, on small random models: the conformance kit."""

from __future__ import annotations

from sae_features_NAME import FAMILY

from sae_features.testing import parametrize_with_family_checks


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()
