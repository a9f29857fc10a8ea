"""Configurations: each value of its type and within its bounds, or a message that says what came."""

from __future__ import annotations

import json
import math
import os
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_features.errors import SAEFormatError
from sae_features.saes import json_files
from sae_features.saes.json_files import MISSING, Config, naming, read_json, read_yaml, write_json

PATH = Path("folder/cfg.json")
INTEGER = "an integer from 1 to 2147483647"
NUMBER = "a finite number"
TEXT = "text of at most 4096 characters"
HUGE = 10**400


def config(**values):
    return Config(values, PATH)


def refused(call, message):
    with pytest.raises(SAEFormatError) as raised:
        call()
    assert str(raised.value) == message


def written(tmp_path, content, name="cfg.json"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestConfig:
    def test_values_of_the_right_type(self):
        values = config(i=3, f=0.5, n=7, b=False, s="text", o={"i": 4})
        assert values.integer("i") == 3
        assert values.number("f") == 0.5
        assert values.number("n") == 7
        assert values.flag("b") is False
        assert values.text("s") == "text"
        assert values.choice("s", ("other", "text")) == "text"
        assert values.section("o").integer("i") == 4
        assert "i" in values
        assert "x" not in values
        assert values.get("f") == 0.5
        assert values.get("x") is None
        assert values.get("x", 1) == 1

    @pytest.mark.parametrize("values", [{}, {"a": None}], ids=["missing", "null"])
    def test_a_default_stands_for_what_is_missing_or_null(self, values):
        silent = config(**values)
        assert silent.integer("a", 5) == 5
        assert silent.integer("a", None) is None
        assert silent.integer("a", 0) == 0  # whatever the bounds of what is read
        assert silent.number("a", 0.5, above=1) == 0.5
        assert silent.flag("a", default=True) is True
        assert silent.text("a", "x") == "x"
        assert silent.choice("a", ("x",), "y") == "y"
        assert silent.section("a", {}).values == {}

    @pytest.mark.parametrize(
        ("method", "expected"),
        [
            ("integer", INTEGER), ("number", NUMBER), ("flag", "true or false"), ("text", TEXT),
            ("section", "an object"),
        ],
    )  # fmt: skip
    def test_without_a_default_a_value_is_needed(self, method, expected):
        for values, got in (({}, "no a"), ({"a": None}, "a=None")):
            message = f"{PATH}: got {got}; expected {expected}."
            refused(lambda values=values: getattr(config(**values), method)("a"), message)

    @pytest.mark.parametrize("default", [MISSING, 5])
    @pytest.mark.parametrize(
        "value", [0, -1, 2**31, 3.0, True, "3", [3], {}, math.nan, 10**400], ids=str
    )
    def test_what_is_no_integer(self, value, default):
        with pytest.raises(SAEFormatError, match=f"{INTEGER}\\.$"):
            config(a=value).integer("a", default)

    def test_bounds_of_integers(self):
        assert config(a=0).integer("a", low=0) == 0
        assert config(a=2**31 - 1).integer("a") == 2**31 - 1
        refused(
            lambda: config(a=3).integer("a", low=4, high=9),
            f"{PATH}: got a=3; expected an integer from 4 to 9.",
        )

    @pytest.mark.parametrize(
        "value",
        [math.nan, math.inf, -math.inf, HUGE, -HUGE, True, "1", [1.0], {}],
        ids=lambda v: str(v)[:9],
    )
    def test_what_is_no_number(self, value):
        with pytest.raises(SAEFormatError, match=f"expected {NUMBER}\\.$"):
            config(a=value).number("a")

    def test_bounds_of_numbers(self):
        assert config(a=1e-300).number("a", above=0) == 1e-300
        for value in (0, -1.5, -0.0):
            with pytest.raises(SAEFormatError, match=r"expected a finite number above 0\.$"):
                config(a=value).number("a", above=0)

    @pytest.mark.parametrize("value", [0, 1, "true", [], None])
    def test_what_is_neither_true_nor_false(self, value):
        refused(lambda: config(a=value).flag("a"), f"{PATH}: got a={value!r}; expected true or false.")

    @pytest.mark.parametrize("value", [0, True, ["x"], {"x": 1}, "x" * 4097], ids=lambda v: str(v)[:9])
    def test_what_is_no_text(self, value):
        with pytest.raises(SAEFormatError, match=f"expected {TEXT}\\.$"):
            config(a=value).text("a")
        with pytest.raises(SAEFormatError, match=f"expected {TEXT}\\.$"):
            config(a=value).choice("a", ("x",), "x")

    def test_what_is_not_among_the_options(self):
        refused(
            lambda: config(a="relo").choice("a", ("relu", "topk"), "topk"),
            f"{PATH}: Got a='relo'; expected one of relu, topk. Did you mean 'relu'?",
        )

    def test_sections_are_named_as_the_whole(self):
        refused(
            lambda: config(a={"k": "x"}).section("a").integer("k"),
            f"{PATH}: got k='x'; expected {INTEGER}.",
        )

    def test_a_reader_that_names_the_file_itself(self):
        unnamed = Config({"a": 0, "b": {"c": 0}, "d": "x"}, PATH, named=False)
        refused(lambda: unnamed.integer("a"), f"got a=0; expected {INTEGER}.")
        refused(lambda: unnamed.section("b").integer("c"), f"got c=0; expected {INTEGER}.")
        refused(lambda: unnamed.choice("d", ("z",)), "Got d='x'; expected one of z.")

    @given(st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    ))  # fmt: skip
    def test_any_value_is_read_or_refused_in_few_words(self, value):
        read = {
            "integer": lambda c: c.integer("a"),
            "number": lambda c: c.number("a"),
            "flag": lambda c: c.flag("a"),
            "text": lambda c: c.text("a"),
            "choice": lambda c: c.choice("a", ("relu", "topk")),
            "section": lambda c: c.section("a").values,
        }
        for reader in read.values():
            try:
                got = reader(config(a=value))
            except SAEFormatError as error:
                complaint = str(error)
                assert len(complaint) < 600
            else:
                assert got == value


class TestReadJSON:
    def test_what_is_there(self, tmp_path):
        assert read_json(written(tmp_path, '{"a": [1, null, "ü"]}')) == {"a": [1, None, "ü"]}
        assert read_json(written(tmp_path, b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}
        assert read_json(written(tmp_path, "[1]"), kinds=(dict, list)) == [1]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "could not be read as JSON: Expecting value: line 1 column 1 (char 0)"),
            ('{"a": 1', "could not be read as JSON: Expecting ',' delimiter: line 1 column 8 (char 7)"),
            ("[1]", "got a list; expected an object."),
            ("3", "got a int; expected an object."),
            ("null", "got a NoneType; expected an object."),
            ('{"a": 1, "a": 2}', "got a name twice in one object; expected each once."),
            ('{"b": {"a": 1, "a": 1}}', "got a name twice in one object; expected each once."),
        ],
    )
    def test_what_is_no_object(self, tmp_path, content, message):
        refused(lambda: read_json(written(tmp_path, content)), message)

    @pytest.mark.parametrize(
        "content", [b'{"a": "\xff"}', b"[" * 50_000, b'{"a":' * 50_000, b"9" * 5000, b"\0", b"PK\3\4"],
        ids=lambda content: repr(content[:6]),
    )  # fmt: skip
    def test_what_is_no_json(self, tmp_path, content):
        with pytest.raises(SAEFormatError, match="^could not be read as JSON: "):
            read_json(written(tmp_path, content))

    def test_a_file_that_is_too_large_is_not_parsed(self, tmp_path, monkeypatch):
        path = written(tmp_path, json.dumps({"a": "x" * 100}))
        assert read_json(path, max_bytes=path.stat().st_size) == {"a": "x" * 100}
        monkeypatch.setattr(json_files.json, "loads", None)
        refused(lambda: read_json(path, max_bytes=50), "got more than 50 bytes.")

    def test_the_limit_unless_told_otherwise(self, tmp_path):
        path = written(tmp_path, json.dumps({"a": "x" * json_files.MAX_BYTES}))
        refused(lambda: read_json(path), f"got more than {json_files.MAX_BYTES} bytes.")

    def test_no_file(self, tmp_path):
        for path in (tmp_path / "nowhere.json", tmp_path):
            with pytest.raises(SAEFormatError, match="^could not be read"):
                read_json(path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "cfg.json")
        with pytest.raises(SAEFormatError, match="^could not be read"):
            read_json(tmp_path / "cfg.json")


class TestReadYAML:
    def test_what_is_there(self, tmp_path):
        assert read_yaml(written(tmp_path, "a: 1\nb: [x, 2.5]\n")) == {"a": 1, "b": ["x", 2.5]}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("- 1", "got a list; expected an object."),
            ("", "got a NoneType; expected an object."),
            ("plain", "got a str; expected an object."),
            ("a: [", "could not be read as YAML: "),
            ("a: !!python/object/apply:os.system ['true']", "could not be read as YAML: "),
            ("a: !!python/name:os.system", "could not be read as YAML: "),
            (b"a: \xff", "could not be read as YAML: "),
            ("a: " + "[" * 5000, ""),
        ],
        ids=lambda content: str(content)[:20],
    )
    def test_what_is_no_object(self, tmp_path, content, message):
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}") as raised:
            read_yaml(written(tmp_path, content))
        assert len(str(raised.value)) < 200

    def test_few_lines_do_not_make_billions_of_values(self, tmp_path):
        names = "abcdefghi"
        lines = [f"{names[0]}: &{names[0]} [x, x]"]
        lines += [
            f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise(names)
        ]
        with pytest.raises(SAEFormatError, match=r"^got an alias \(\*\)"):
            read_yaml(written(tmp_path, "\n".join(lines)))

    def test_a_file_that_is_too_large(self, tmp_path):
        path = written(tmp_path, "a: " + "x" * 2**20)
        with pytest.raises(SAEFormatError, match=r"^got more than \d+ bytes\.$"):
            read_yaml(path)


class TestWriteJSON:
    def test_it_is_read_back(self, tmp_path):
        content = {"a": [1, None, True, "ünï"], "b": {"c": 0.1}}
        write_json(tmp_path / "a.json", content)
        assert read_json(tmp_path / "a.json") == content
        assert '"ünï"' in (tmp_path / "a.json").read_text(encoding="utf-8")

    @pytest.mark.parametrize("value", [math.nan, math.inf, {1}, Path("a"), "\ud800"], ids=repr)
    def test_what_is_not_plain(self, tmp_path, value):
        with pytest.raises(SAEFormatError, match=r"^a\.json holds only plain JSON values: "):
            write_json(tmp_path / "a.json", {"a": value})


def test_the_file_is_named_before_what_is_wrong():
    with pytest.raises(SAEFormatError, match=r"^folder.cfg\.json: got less\.$"), naming(PATH):
        raise SAEFormatError("got less.")
    with pytest.raises(KeyError), naming(PATH):
        raise KeyError
