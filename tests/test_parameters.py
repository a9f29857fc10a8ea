"""What parameters may be, and the texts of the refusals."""

from __future__ import annotations

import numpy as np
import pytest

from sae_features import parameters
from sae_features.errors import InvalidParameterError


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (parameters.check_threshold, [None, 0, 0.5, np.float32(2), 3]),
        (parameters.check_prompt, [None, "chat", "query: {}", "{} and after"]),
        (parameters.check_device, [None, "cpu", "cuda:1"]),
        (parameters.check_dtype, [None, *parameters.DTYPES]),
        (lambda value: parameters.check_count("n", value), [None, 1, np.int64(3)]),
        (
            lambda value: parameters.check_choice("tokens", value, parameters.TOKENS),
            ["all", np.str_("all")],
        ),
    ],
)
def test_what_may_be(check, good):
    assert [check(value) for value in good] == [None] * len(good)


@pytest.mark.parametrize(
    ("check", "bad", "text"),
    [
        (parameters.check_threshold, [-1, float("inf"), float("nan"), 1e39, True, "1"], "not negative"),
        (parameters.check_prompt, ["", "query", "{} {}", 3], "'chat' or a string with {} once"),
        (parameters.check_device, [0], "expected None or a string such as 'cpu'"),
        (parameters.check_dtype, ["int8", 32], "expected one of float32, bfloat16, float16, float64"),
        (lambda value: parameters.check_count("n", value), [0, -1, 1.0, True, "3"], "integer above 0"),
        (
            lambda value: parameters.check_choice("tokens", value, parameters.TOKENS),
            ["contents", None, ["all"], np.array(["all", "content"])],
            "expected one of content, all",
        ),
    ],
)
def test_what_may_not_be(check, bad, text):
    for value in bad:
        with pytest.raises(InvalidParameterError, match="^Got ") as raised:
            check(value)
        assert text in str(raised.value)
