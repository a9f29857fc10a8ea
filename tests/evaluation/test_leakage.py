from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_features.errors import InvalidInputError, InvalidParameterError, SAEFeaturesWarning
from sae_features.evaluation.leakage import find_leaks, joint_groups, treat_leaks

items = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=14)


@given(items, st.booleans())
def test_what_hangs_together_by_items_or_groups_has_one_number(pairs, has_groups):
    digests, groups = (list(part) for part in zip(*pairs, strict=True))
    n = len(pairs)
    linked = np.eye(n, dtype=bool)
    for i in range(n):
        for j in range(n):
            linked[i, j] |= digests[i] == digests[j] or (has_groups and groups[i] == groups[j])
    for _ in range(n):  # paths of every length
        linked = linked @ linked
    found = joint_groups(digests, groups if has_groups else None)
    np.testing.assert_array_equal(found[:, None] == found[None, :], linked)


@given(items, st.booleans(), st.data())
def test_leaks_are_found(pairs, has_groups, data):
    digests, groups = (list(part) for part in zip(*pairs, strict=True))
    order = data.draw(st.permutations(range(len(pairs))))
    cut = data.draw(st.integers(0, len(pairs)))
    train, test = order[:cut], order[cut:]
    equal = [i for i in test if any(digests[i] == digests[j] for j in train)]
    grouped = [i for i in test if has_groups and any(groups[i] == groups[j] for j in train)]
    found = find_leaks(
        np.array(train, int), np.array(test, int), digests, groups if has_groups else None
    )
    assert found.n_items == len(equal)
    assert found.n_grouped == len(set(grouped) - set(equal))
    assert found.positions.tolist() == [i for i in test if i in {*equal, *grouped}]
    assert bool(found) == bool(equal or grouped)


def test_what_happens_to_them():
    train, test = np.array([0, 1]), np.array([2, 3, 4])
    leaks = find_leaks(train, test, list("abacd"), list("xyzyv"))
    assert (leaks.n_items, leaks.n_grouped, leaks.positions.tolist()) == (1, 1, [2, 3])
    found = (
        "reviews has 1 test items that are also trained on and 1 test items of groups that are also "
        "trained on"
    )
    with pytest.raises(InvalidInputError) as error:
        treat_leaks(leaks, test, "error", "reviews")
    assert str(error.value) == (
        f"{found} (the first at position 2); give on_leak='drop' or clean the data."
    )
    assert treat_leaks(leaks, test, "drop", "reviews").tolist() == [4]
    with pytest.warns(SAEFeaturesWarning) as warned:
        assert treat_leaks(leaks, test, "warn", "reviews").tolist() == [2, 3, 4]
    assert str(warned[0].message) == (
        f"{found}; they are kept, and scores may be too high. on_leak='drop' drops them."
    )
    with pytest.raises(InvalidInputError, match="without them no test item is left"):
        treat_leaks(leaks, test[:2], "drop", "reviews")
    with pytest.raises(InvalidParameterError, match="Got on_leak='dorp'.* Did you mean 'drop'?"):
        treat_leaks(leaks, test, "dorp", "reviews")


def test_nothing_is_said_where_nothing_leaks():
    test = np.array([1, 2])
    none = find_leaks(np.array([0]), test, ["a", "b", "c"])
    for on_leak in ("error", "drop", "warn"):
        assert treat_leaks(none, test, on_leak, "reviews") is test
