"""For authors of plugins: the conformance kit, and small random models."""

from __future__ import annotations

from sae_features.testing.checks import CheckFailure
from sae_features.testing.kit import (
    CheckResult,
    check_family,
    family_checks,
    parametrize_with_family_checks,
)
from sae_features.testing.tiny import write_tiny

__all__ = [
    "CheckFailure",
    "CheckResult",
    "check_family",
    "family_checks",
    "parametrize_with_family_checks",
    "write_tiny",
]
