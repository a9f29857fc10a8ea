"""The faults of faults.py, a few tries of each; benchmarks/store_faults.py does many."""

from __future__ import annotations

import os
import sys

import pytest
from store import faults

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals"),
    # forking beside threads is what some of these try
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning"),
]

SHORT = {
    "kill": {"tries": 12},
    "interrupt": {"tries": 8},
    "suspend": {},
    "full_disk": {},
    "full_file_system": {},
    "read_only": {},
    "newer_schema": {},
    "flips": {"tries": 40},
    "flips_of_index": {"tries": 40},
    "torn": {"tries": 30},
    "two_versions": {},
    "clock_jumps": {},
    "everyone": {},
    "eviction": {},
    "removed": {"tries": 4},
    "reused_workers": {},
    "owner_killed": {},
}
TOLD = {
    "suspend": 0,
    "full_disk": 2,
    "full_file_system": 1,
    "read_only": 1,
    "newer_schema": 4,
    "torn": 30,
}


@pytest.mark.parametrize("name", SHORT)
def test_no_value_is_wrong_lost_or_computed_again(name, tmp_path):
    if sys.platform != "linux" and name in {"full_file_system", "owner_killed"}:
        pytest.skip("needs Linux")
    row = getattr(faults, name)(tmp_path, **SHORT[name])
    if row is None:
        pytest.skip("not allowed here")
    assert row["reads"] > 0
    assert {key: row[key] for key in ("wrong", "lacking", "again", "claims")} == dict.fromkeys(
        ("wrong", "lacking", "again", "claims"), 0
    )
    if name in TOLD:
        assert row["told"] >= TOLD[name]


def test_the_suite_would_see_a_store_that_mixes_values_up(tmp_path, monkeypatch):
    """A check that never fails proves nothing."""
    genuine = faults.DiskStore.get_many

    def mixed(store, identity, digests):
        found = genuine(store, identity, digests)
        return dict(zip(found, reversed(list(found.values())), strict=True))

    monkeypatch.setattr(faults.DiskStore, "get_many", mixed)
    assert faults.two_versions(tmp_path, n_items=16)["wrong"] > 0


def test_the_suite_would_see_items_computed_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(faults.DiskStore, "claim", lambda store, scope, digests: list(digests))
    row = faults.everyone(tmp_path, n_items=100)
    assert row["computed"] > 100
    assert row["wrong"] == 0
