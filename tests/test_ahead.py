from __future__ import annotations

import threading

import pytest

from sae_features.ahead import ahead


def test_in_order_with_what_is_prepared():
    assert list(ahead("abc", str.upper)) == [("a", "A"), ("b", "B"), ("c", "C")]
    assert list(ahead([], str.upper)) == []


def test_the_next_one_is_prepared_while_the_last_one_is_used():
    prepared = threading.Event()

    def prepare(number):
        if number == 2:
            prepared.set()
        return number

    results = ahead([1, 2, 3], prepare)
    assert next(results) == (1, 1)
    assert prepared.wait(10)


def test_no_more_is_taken_than_one_ahead():
    taken = []

    def given():
        for number in range(5):
            taken.append(number)
            yield number

    results = ahead(given(), lambda number: number)
    next(results)
    assert taken == [0, 1]
    results.close()


def test_an_error_comes_when_it_is_its_turn():
    def prepare(number):
        if number == 2:
            raise ValueError("number 2")
        return number

    results = ahead([1, 2, 3], prepare)
    assert next(results) == (1, 1)
    with pytest.raises(ValueError, match="number 2"):
        next(results)
