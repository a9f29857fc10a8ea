"""Items from files and folders, one by one."""

from __future__ import annotations

import csv
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sae_features import input_files
from sae_features.errors import AssetNotFoundError, InvalidInputError, InvalidParameterError

# Characters at which str.splitlines ends a line, and files do not.
ODD = "a\u2028b\x85c\x0cd\x0be\x1cf\x1dg\x1eh"


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestReading:
    def test_a_line_is_a_text(self, tmp_path):
        path = written(tmp_path, "a.txt", f"one\n\n{ODD}\rstill three\n")
        assert input_files.read_texts(path) == ["one", "", f"{ODD}\rstill three"]

    def test_windows_line_ends(self, tmp_path):
        assert input_files.read_texts(written(tmp_path, "a.txt", "one\r\n\r\ntwo\r\n")) == [
            "one",
            "",
            "two",
        ]
        path = written(tmp_path, "a.jsonl", '{"text": "one"}\r\n{"text": "two"}\r\n')
        assert input_files.read_texts(path) == ["one", "two"]

    @pytest.mark.parametrize(("name", "tab"), [("a.csv", ","), ("a.tsv", "\t")])
    def test_a_column_of_a_table(self, tmp_path, name, tab):
        path = written(tmp_path, name, f'\ufeffid{tab}text\n1{tab}"two\nlines"\n2{tab}b\n')
        assert input_files.read_texts(path) == ["two\nlines", "b"]
        assert input_files.read_texts(path, "id") == ["1", "2"]

    @pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
    @pytest.mark.parametrize("text", [ODD, "two\r\nlines", "two\nlines", 'a "word"'])
    def test_a_field_of_a_table_comes_as_it_is(self, tmp_path, name, text):
        quoted = text.replace('"', '""')
        path = written(tmp_path, name, f'text\r\n"{quoted}"\r\nb\r\n')
        assert input_files.read_texts(path) == [text, "b"]

    def test_odd_characters_need_no_quotes(self, tmp_path):
        assert input_files.read_texts(written(tmp_path, "a.csv", f"text\n{ODD}\n")) == [ODD]
        path = written(tmp_path, "a.jsonl", json.dumps({"text": ODD}, ensure_ascii=False))
        assert input_files.read_texts(path) == [ODD]

    def test_a_repeated_column_can_stand_beside_the_chosen_one(self, tmp_path):
        assert input_files.read_texts(written(tmp_path, "a.csv", "x,text,x\n1,a,2\n")) == ["a"]

    def test_a_field_of_json_lines(self, tmp_path):
        path = written(tmp_path, "a.jsonl", '{"text": "a", "body": "x"}\n{"text": "b", "body": "y"}')
        assert input_files.read_texts(path) == ["a", "b"]
        assert input_files.read_texts(path, "body") == ["x", "y"]

    def test_the_only_column_needs_no_name(self, tmp_path):
        assert input_files.read_texts(written(tmp_path, "a.csv", "review\ngood\n")) == ["good"]

    def test_very_long_fields(self, tmp_path):
        long = "x" * 300_000
        assert input_files.read_texts(written(tmp_path, "a.csv", f"text\n{long}\n")) == [long]

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl"])
    def test_empty_files(self, tmp_path, name):
        path = written(tmp_path, name, "text\n" if name == "a.csv" else "")
        assert input_files.read_texts(path) == []

    @pytest.mark.parametrize(
        ("name", "content", "column", "error", "text"),
        [
            ("a.xlsx", "", None, InvalidParameterError, "Got 'a.xlsx'; expected a file of kind .txt"),
            ("a.txt", "x", "text", InvalidParameterError, "a .txt file has no columns"),
            ("a.txt", b"ab\xff", None, InvalidInputError, "not UTF-8 .byte 2"),
            ("a.csv", "id,body\n1,x\n", None, InvalidParameterError, "choose one of id, body"),
            ("a.csv", "id,text\n1,x\n2\n", None, InvalidInputError, "line 3: got 1 fields; expected 2"),
            ("a.csv", 'id,text\n1,"a\nb",\n', None, InvalidInputError, "line 2: got 3 fields"),
            (
                "a.csv",
                'text\na\n"b\nc\n',
                None,
                InvalidInputError,
                "a.csv, line 3: unexpected end of data",
            ),
            ("a.tsv", '"text\na\n', None, InvalidInputError, "a.tsv, line 1: unexpected end of data"),
            ("a.csv", 'text\n"a"b\n', None, InvalidInputError, "a.csv, line 2: ',' expected after"),
            ("a.csv", "text,text\na,b\n", None, InvalidInputError, "a.csv has 2 columns 'text'; rename"),
            ("a.csv", "id,id\n1,2\n", "id", InvalidInputError, "a.csv has 2 columns 'id'; rename"),
            ("a.jsonl", "[" * 100_000, None, InvalidInputError, "line 1: not JSON"),
            (
                "a.jsonl",
                '{"text": "a"}\n\n{"text": "b"}',
                None,
                InvalidInputError,
                "line 2: not JSON: the",
            ),
            (
                "a.jsonl",
                '{"text": "a"}\n{"txt": 1}',
                None,
                InvalidInputError,
                "2: has no 'text'; it has 'txt'",
            ),
            ("a.jsonl", '["a"]\n', None, InvalidInputError, "line 1: expected a JSON object"),
            ("a.jsonl", '{"text": 1}\n', None, InvalidInputError, "line 1: got text=1"),
        ],
    )
    def test_bad_files(self, tmp_path, name, content, column, error, text):
        with pytest.raises(error, match=text):
            input_files.read_texts(written(tmp_path, name, content), column)

    def test_no_file(self, tmp_path):
        with pytest.raises(AssetNotFoundError, match="expected a file there"):
            input_files.read_texts(tmp_path / "none.txt")

    def test_what_is_wrong_with_the_place_is_raised_at_once(self, tmp_path):
        for name, column in (("a.xlsx", None), ("none.txt", None), ("b.txt", "text")):
            written(tmp_path, "b.txt", "x")
            with pytest.raises((AssetNotFoundError, InvalidParameterError)):
                input_files.iter_items(tmp_path / name, column)

    def test_a_lone_surrogate(self, tmp_path):
        path = written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "b\\ud800"}\n')
        with pytest.raises(
            InvalidInputError, match="a.jsonl, line 2: text has a lone surrogate at char"
        ):
            input_files.read_texts(path)


BAD_LATE = {
    "a.txt": (b"a calm river\n" * 89_999 + b"\xff\n" + b"sea\n" * 10, "UTF-8 .byte 1169987"),
    "a.csv": (b"id,text\n" + b"1,a\n" * 89_998 + b"2\n" + b"3,c\n" * 10, "line 90000: got 1 fields"),
    "a.jsonl": (b'{"text": "a"}\n' * 89_999 + b'{"text": 1}\n', "line 90000: got text=1"),
}


class TestStreaming:
    """What is in memory is a row, however many there are."""

    @pytest.mark.parametrize("name", BAD_LATE)
    def test_counting_finds_a_bad_row(self, tmp_path, name):
        content, text = BAD_LATE[name]
        path = written(tmp_path, name, content)
        rows = input_files.iter_items(path)
        assert next(rows), "rows before it come"
        with pytest.raises(InvalidInputError, match=text):
            input_files.count_items(path)

    @pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.tsv", "a.jsonl", "a.ndjson"])
    def test_memory_does_not_grow(self, tmp_path, name):
        line = '{"text": "%06d' + "x" * 100 + '"}\n' if "json" in name else '"%06d' + "x" * 100 + '"\n'
        path = written(
            tmp_path, name, "text\n" * (name[2:] in {"csv", "tsv"}) + line * 20_000 % (*range(20_000),)
        )
        assert path.stat().st_size > 2_000_000
        tracemalloc.start()
        try:
            assert input_files.count_items(path) == 20_000
            assert tracemalloc.get_traced_memory()[1] < 300_000
        finally:
            tracemalloc.stop()

    @given(
        content=st.text(st.sampled_from("a\r\n\x0b\u2028é\ufeff\x00"), max_size=30),
        start=st.integers(0, 40),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_lines_are_those_of_the_whole_text(self, tmp_path, content, start):
        content = "x" * (8192 - start) + content  # across the end of what is read at a time
        path = written(tmp_path, "a.txt", content)
        expected = content.replace("\r\n", "\n").removesuffix("\n").split("\n")
        assert list(input_files.iter_items(path)) == expected
        assert input_files.count_items(path) == len(expected)

    @given(
        rows=st.lists(st.text(st.sampled_from('a\r\n"\x0b\u2028é,\t'), max_size=8), max_size=20),
        tab=st.booleans(),
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_rows_of_a_table_come_back(self, tmp_path, rows, tab):
        path = tmp_path / ("a.tsv" if tab else "a.csv")
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if tab else ",", quoting=csv.QUOTE_ALL)
            writer.writerows([["text"], *([row] for row in rows)])
        assert list(input_files.iter_items(path)) == rows

    @given(content=st.binary(max_size=40), bom=st.booleans(), block=st.integers(1, 5))
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @example(content="é€😀".encode()[:-1], bom=True, block=1)
    def test_a_byte_that_is_not_utf_8_is_named(self, tmp_path, content, bom, block):
        content = b"\xef\xbb\xbf" * bom + b"text\n" + content
        path = written(tmp_path, "a.txt", content)
        try:
            content.decode()
        except UnicodeDecodeError as error:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(input_files, "BLOCK", block)
                with pytest.raises(InvalidInputError, match=rf"not UTF-8 \(byte {error.start}\)"):
                    input_files.count_items(path)
        else:
            assert input_files.count_items(path) > 0

    @pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
    def test_every_reader_names_it(self, tmp_path, name):
        content = b"text\n" + b"a\n" * 5000 if name == "a.csv" else b'{"text": "a"}\n' * 1000
        path = written(tmp_path, name, content + b"\xff")
        with pytest.raises(InvalidInputError, match=rf"{name} is not UTF-8 \(byte {len(content)}\)"):
            input_files.count_items(path)


class TestFieldLimit:
    """csv's limit on fields belongs to the process, not to us."""

    def test_it_is_put_back(self, tmp_path):
        before = csv.field_size_limit()
        rows = input_files.iter_items(written(tmp_path, "a.csv", f"text\na\n{'x' * 300_000}\n"))
        assert next(rows) == "a"
        assert csv.field_size_limit() == before
        assert len(next(rows)) == 300_000
        with pytest.raises(InvalidInputError):
            input_files.count_items(written(tmp_path, "a.csv", 'text\n"a"b\n'))
        assert csv.field_size_limit() == before

    def test_a_wider_one_stays(self, tmp_path):
        before = csv.field_size_limit(input_files.LONGEST_FIELD * 2)
        try:
            input_files.count_items(written(tmp_path, "a.csv", "text\na\n"))
            assert csv.field_size_limit() == input_files.LONGEST_FIELD * 2
        finally:
            csv.field_size_limit(before)

    def test_threads(self, tmp_path):
        path = written(tmp_path, "a.csv", "text\n" + f"{'x' * 200_000}\na\n" * 20)
        before, counts = csv.field_size_limit(), []
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [
                threading.Thread(target=lambda: counts.append(input_files.count_items(path)))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert counts == [40] * 4
        assert csv.field_size_limit() == before

    def test_a_quote_that_is_never_closed_ends_somewhere(self, tmp_path, monkeypatch):
        monkeypatch.setattr(input_files, "LONGEST_FIELD", 200_000)
        path = written(tmp_path, "a.csv", 'text\na\n"' + "b\n" * 150_000)
        with pytest.raises(InvalidInputError, match="line 3: field larger than field limit"):
            input_files.count_items(path)


class TestFolders:
    def images(self, folder, *names):
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return folder

    def test_order(self, tmp_path):
        names = ["b.JPG", "a/z.png", "a.png", "a/b/c.gif", "a b/x.webp", "notes.txt"]
        self.images(tmp_path, *names)
        found = input_files.read_items(tmp_path)
        assert found == [p for p in sorted(tmp_path.rglob("*")) if p.is_file() and p.name != "notes.txt"]
        assert all(isinstance(path, Path) for path in found)
        assert input_files.count_items(tmp_path) == 5
        assert input_files.source_of(tmp_path, None)["images"] == [
            "a/b/c.gif", "a/z.png", "a b/x.webp", "a.png", "b.JPG",
        ]  # fmt: skip

    def test_a_folder_named_like_an_image(self, tmp_path):
        self.images(tmp_path, "a.jpg/b.jpg")
        assert input_files.read_items(tmp_path) == [tmp_path / "a.jpg" / "b.jpg"]

    @pytest.mark.skipif(os.name == "nt", reason="links need rights there")
    def test_linked_images_count_and_linked_folders_do_not(self, tmp_path):
        self.images(tmp_path / "there", "x.png")
        here = self.images(tmp_path / "here", "a.png")
        (here / "b.png").symlink_to(tmp_path / "there" / "x.png")
        (here / "c").symlink_to(here)
        assert [path.name for path in input_files.iter_items(here)] == ["a.png", "b.png"]

    def test_errors(self, tmp_path):
        with pytest.raises(AssetNotFoundError, match="has no images; expected files of kind .jpg"):
            input_files.iter_items(tmp_path)
        with pytest.raises(InvalidParameterError, match="column='text'; a folder has no columns"):
            input_files.iter_items(tmp_path, "text")


def test_what_identifies_a_file(tmp_path):
    path = written(tmp_path, "a.txt", "x")
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert input_files.source_of(path, None) == {"file": "a.txt", "sha256": digest, "column": None}
