"""A plugin from the template, step by step as docs/writing_a_plugin.md has it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GUIDE = REPOSITORY / "docs" / "writing_a_plugin.md"
TEMPLATE = REPOSITORY / "plugins" / "_template"


@pytest.fixture(scope="module")
def template():
    """The script that makes a plugin."""
    spec = importlib.util.spec_from_file_location("instantiate", TEMPLATE / "instantiate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def block_of(step, kind):
    """Return the first block of code of a kind in a numbered section of the guide."""
    section = GUIDE.read_text(encoding="utf-8").split(f"\n## {step}. ", 1)[1].split("\n## ", 1)[0]
    return re.search(rf"```{kind}\n(.*?)```", section, re.DOTALL)[1]


class TestInstantiate:
    def test_every_name_is_filled_in(self, template, tmp_path):
        folder = template.instantiate("olmo", "olmo2", tmp_path)
        assert folder == tmp_path / "sae-features-olmo"
        written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert written == {
            "README.md",
            "pyproject.toml",
            "src/sae_features_olmo/__init__.py",
            "src/sae_features_olmo/py.typed",
            "tests/test_family.py",
        }
        for name in written:
            text = (folder / name).read_text(encoding="utf-8")
            assert "NAME" not in text
            assert "MODEL_TYPE" not in text

    def test_the_guide_shows_what_is_written(self, template, tmp_path):
        folder = template.instantiate("olmo", "olmo2", tmp_path)
        source = (folder / "src" / "sae_features_olmo" / "__init__.py").read_text(encoding="utf-8")
        (shown,) = ast.parse(block_of(1, "python")).body
        (written,) = (node for node in ast.parse(source).body if isinstance(node, ast.Assign))
        assert ast.dump(written) == ast.dump(shown)

    @pytest.mark.parametrize("name", ["Olmo", "ol-mo", "2olmo", "ol mo", "", "../olmo", "olmö"])
    def test_names_that_cannot_be(self, template, tmp_path, capsys, name):
        assert template.main([name, "olmo2", "--out", str(tmp_path)]) == 1
        assert capsys.readouterr() == (
            "",
            f"Got NAME={name!r}; expected lower-case letters, digits and _, such as 'olmo'.\n",
        )
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("model_type", ["olmo 2", "", 'olmo2"', "olmo/2"])
    def test_types_that_cannot_be(self, template, tmp_path, capsys, model_type):
        assert template.main(["olmo", model_type, "--out", str(tmp_path)]) == 1
        assert capsys.readouterr().err == (
            f"Got MODEL_TYPE={model_type!r}; expected what config.json says, such as 'olmo2'.\n"
        )
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_there_is_not_touched(self, template, tmp_path, capsys):
        place = tmp_path / "sae-features-olmo"
        place.mkdir()
        (place / "README.md").write_text("mine")
        assert template.main(["olmo", "olmo2", "--out", str(tmp_path)]) == 1
        assert str(place) in capsys.readouterr().err
        assert [path.name for path in place.iterdir()] == ["README.md"]
        assert (place / "README.md").read_text() == "mine"

    def test_it_says_what_comes_next(self, template, tmp_path, capsys):
        assert template.main(["olmo", "olmo2", "--out", str(tmp_path)]) == 0
        place = tmp_path / "sae-features-olmo"
        check = "sae-features plugins --check --family olmo"
        assert capsys.readouterr().out == f"{place}\nNext: pip install -e {place} && {check}\n"
        assert check == block_of(2, "sh").strip()


class Plugin:
    """A plugin in a folder, installed for subprocesses: its metadata elsewhere, its source in place."""

    def __init__(self, folder, site):
        self.folder = folder
        self.module = folder / "src" / "sae_features_olmo" / "__init__.py"
        paths = [str(folder / "src"), str(site), os.environ.get("PYTHONPATH", "")]
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def run(self, *arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def check(self):
        return self.run("-m", "sae_features", *block_of(2, "sh").split()[1:])


@pytest.fixture(scope="module")
def plugin(template, tmp_path_factory):
    """The guide's plugin after its first step."""
    root = tmp_path_factory.mktemp("olmo")
    folder = template.instantiate("olmo", "olmo2", root)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    site = root / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, folder], check=True)
    return Plugin(folder, site)


def test_the_guide_from_the_first_check_to_the_last(plugin):
    done = plugin.check()
    assert done.returncode == 1, done.stderr
    assert "The families olmo do not pass; the table says why." in done.stderr
    shown = re.escape(block_of(2, "text")).replace("…", ".*")
    assert re.search(f"^{shown}", done.stdout, re.MULTILINE), done.stdout

    source = plugin.module.read_text(encoding="utf-8")
    (call,) = (
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Architecture"
    )
    old = ast.get_source_segment(source, call)
    declared = textwrap.indent(block_of(3, "python").rstrip(), "        ").lstrip()
    assert source.count(old) == 1
    plugin.module.write_text(source.replace(old, declared), encoding="utf-8")

    done = plugin.check()
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert rows == [
        ["olmo", "olmo", "1", "0", "0"],
        ["olmo", "olmo2,", "bos", "14", "0", "0"],
        ["olmo", "olmo2,", "plain", "14", "0", "0"],
    ]
    done = plugin.run("-m", "pytest", "-q", "-p", "no:cacheprovider", str(plugin.folder))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "29 passed" in done.stdout


def test_it_is_listed_beside_the_others(plugin):
    done = plugin.run("-m", "sae_features", "plugins", "--family", "olmo")
    assert done.stdout.split() == ["family", "olmo", "sae-features-olmo", "0.1.0", "ok"]


def test_the_name_of_a_family_of_this_project_is_refused(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("instantiate", TEMPLATE / "instantiate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["bert", "bert", "--out", str(tmp_path)]) == 1
    assert "Got NAME='bert', which is a family of this project" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
