"""Which format files are of: by their own evidence, or as the caller says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from sae_features.discovery import warn_once
from sae_features.errors import AssetNotFoundError, PluginError, SAEFeaturesWarning, SAEFormatError
from sae_features.saes import formats
from sae_features.saes.autoencoder import random_autoencoder
from sae_features.saes.formats import SAEHeader, find_format
from sae_features.saes.formats.native import FORMAT


class SuffixFormat:
    """Recognises files by their suffix."""

    def __init__(self, suffix):
        self.suffix = suffix

    def detect(self, path):
        return path.suffix == self.suffix


READERS = {
    "sae-features": FORMAT,
    "first": SuffixFormat(".one"),
    "second": SuffixFormat(".two"),
    "greedy": SuffixFormat(".one"),
}


@pytest.fixture
def readers(monkeypatch):
    """Four formats in place of those that are installed."""
    monkeypatch.setattr(formats, "names_of_group", lambda group: tuple(READERS))
    monkeypatch.setattr(formats, "load_entry_point", lambda group, name: READERS[name])
    monkeypatch.setattr(formats, "load_working", lambda group: dict(READERS))


def file(tmp_path, name):
    path = tmp_path / name
    path.touch()
    return path


def test_the_format_is_detected(readers, tmp_path):
    assert find_format(file(tmp_path, "sae.two")) == ("second", READERS["second"])
    assert find_format(str(tmp_path / "sae.two")) == ("second", READERS["second"])


def test_no_format_recognises_the_files(readers, tmp_path):
    path = file(tmp_path, "sae.three")
    message = (
        f"Got {str(path)!r}; expected files that one of the formats sae-features, first, second, greedy "
        "recognises, but none does. Name it with format=."
    )
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
        find_format(path)


def test_an_empty_folder_is_of_no_format(readers, tmp_path):
    with pytest.raises(SAEFormatError, match=r"but none does\. Name it with format=\.$"):
        find_format(tmp_path)


def test_several_formats_recognise_the_files(readers, tmp_path):
    path = file(tmp_path, "sae.one")
    message = "recognises, but more than one does: first, greedy. Name it with format=."
    with pytest.raises(SAEFormatError, match=f"{re.escape(message)}$"):
        find_format(path)


@pytest.mark.parametrize("name", ["greedy", "second"])
def test_a_name_overrides_detection(readers, tmp_path, name):
    assert find_format(file(tmp_path, "sae.one"), name) == (name, READERS[name])


def test_an_unknown_name(readers, tmp_path):
    message = (
        "Got format='frist'; expected one of sae-features, first, second, greedy. Did you mean 'first'?"
    )
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
        find_format(tmp_path, "frist")


@pytest.mark.parametrize("name", [None, "first", "unknown"])
def test_nothing_is_there(readers, tmp_path, name):
    path = tmp_path / "sae"
    message = f"Got {str(path)!r}; expected a file or folder of an SAE there."
    with pytest.raises(AssetNotFoundError, match=f"^{re.escape(message)}$"):
        find_format(path, name)


def test_our_own_format_is_registered_as_any_other(tmp_path):
    folder = random_autoencoder(3, 4, 2).save(tmp_path / "sae")
    assert find_format(folder) == ("sae-features", FORMAT)
    assert find_format(folder, "sae-features") == ("sae-features", FORMAT)


def test_a_broken_plugin_does_not_keep_others_from_being_found(install, tmp_path):
    install("sae-features-broken", {formats.GROUP: {"broken": "no_such_module:FORMAT"}}, version="0.3")
    folder = random_autoencoder(3, 4, 2).save(tmp_path / "sae")
    with pytest.warns(
        SAEFeaturesWarning, match=r"'broken' of sae-features-broken 0\.3 could not be imp"
    ):
        assert find_format(folder)[0] == "sae-features"
    assert find_format(folder)[0] == "sae-features"  # warned of once
    with pytest.raises(PluginError, match="could not be imported: ModuleNotFoundError"):
        find_format(folder, "broken")


class FailingFormat:
    """Fails at looking."""

    def __init__(self, detect):
        self.detect = detect


def fail(path):
    raise RuntimeError("no such card")


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (FailingFormat(fail), "RuntimeError: no such card"),
        (FailingFormat(lambda path: np.zeros(2)), "ValueError: The truth value of an array"),
        (object(), "AttributeError: 'object' object has no attribute 'detect'"),
    ],
)
def test_a_format_that_fails_at_looking_is_left_out_and_warned_of_once(
    readers, monkeypatch, tmp_path, reader, reason
):
    warn_once.cache_clear()
    monkeypatch.setitem(READERS, "odd", reader)
    folder = random_autoencoder(3, 4, 2).save(tmp_path / "sae")
    message = f"The SAE format 'odd' could not look at the files and is left out: {reason}"
    with pytest.warns(SAEFeaturesWarning, match=f"^{re.escape(message)}") as caught:
        assert find_format(folder)[0] == "sae-features"
    assert len(caught) == 1
    assert find_format(file(tmp_path, "sae.two"))[0] == "second"  # warned of once
    with pytest.raises(SAEFormatError, match="but none does"):
        find_format(file(tmp_path, "sae.three"))
    assert find_format(folder, "odd") == ("odd", reader)


def test_a_header_of_any_format_has_metadata_that_can_be_acted_on():
    message = r"^Got max_length='many' in metadata; expected an integer above 0\.$"
    with pytest.raises(SAEFormatError, match=message):
        SAEHeader("f", Path("p"), "relu", 3, 4, "d", "float32", metadata={"max_length": "many"})


def test_a_header_says_little_where_files_say_little():
    header = SAEHeader("f", Path("p"), "relu", 3, 4, "digest", "float32")
    assert (header.conventions, header.metadata, header.labels) == ({}, {}, {})
    assert header.hook_point is None
