from __future__ import annotations

import pytest

from sae_features.errors import SAEFeaturesWarning
from sae_features.notices import Notices

TEXTS = ["", "long", "sea", "long", ""]


def noted(*, truncated=(), empty=(), longest=7, **options):
    notices = Notices(**options)
    notices.add(TEXTS, truncated, empty, longest=longest)
    return notices


def tell(notices, **options):
    notices.warn(**options)


def test_one_warning_of_each_kind_counts_repeated_texts():
    with pytest.warns(SAEFeaturesWarning) as told:
        tell(noted(truncated=[1], empty=[0], longest=7))
    assert [str(each.message) for each in told] == [
        "2 of 5 texts are longer than 7 tokens and were truncated (the first is item 1); "
        "overflow='chunk' uses all of them.",
        "2 of 5 texts have no token that counts (the first is item 0); their rows are zero.",
    ]


def test_what_became_of_texts_without_tokens_can_be_said():
    with pytest.warns(SAEFeaturesWarning, match=r"\(the first is item 0\); they are gone\.$"):
        tell(noted(empty=[4, 0], of_empty="they are gone"))


def test_nothing_to_tell():
    tell(noted())


def test_the_line_that_is_named():
    notices = noted(truncated=[1], empty=[0])

    def line_of(**options):
        with pytest.warns(SAEFeaturesWarning) as told:
            tell(notices, **options)
        (place,) = {(each.filename, each.lineno) for each in told}
        return place

    line_in_tell = tell.__code__.co_firstlineno + 1
    line_in_line_of = line_of.__code__.co_firstlineno + 2
    assert line_of(stacklevel=1) == (__file__, line_in_tell)
    assert line_of() == line_of(stacklevel=2) == (__file__, line_in_line_of)


def test_parts_of_a_stream_are_counted_together():
    notices = Notices()
    notices.add(["sea", "long"], [1], [], longest=7)
    notices.add(["long", "", "long"], [0], [1], longest=7, first=2)
    notices.add(["sea"], [], [], longest=None, first=5)
    with pytest.warns(SAEFeaturesWarning) as told:
        tell(notices)
    assert [str(each.message).partition(";")[0] for each in told] == [
        "3 of 6 texts are longer than 7 tokens and were truncated (the first is item 1)",
        "1 of 6 texts have no token that counts (the first is item 3)",
    ]
