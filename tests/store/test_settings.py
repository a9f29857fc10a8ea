"""What ``cache`` means, and what the environment says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import platformdirs
import pytest

from sae_features.errors import InvalidParameterError
from sae_features.store.disk import MAX_BYTES, DiskStore
from sae_features.store.session import OwnerStore
from sae_features.store.settings import cache_folder, cache_size, default_folder, store_for


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch, tmp_path):
    for name in ("SAE_FEATURES_CACHE", "SAE_FEATURES_CACHE_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "user" / name))


def test_the_parameter(tmp_path):
    assert store_for(False) is None
    assert isinstance(store_for(None), OwnerStore)
    store = store_for(True)
    assert isinstance(store, DiskStore)
    assert store.folder == tmp_path / "user" / "sae-features" / "codes" == default_folder()
    assert store_for(tmp_path / "mine").folder == tmp_path / "mine"
    assert not (tmp_path / "mine").exists()  # made on first use


def test_one_store_a_folder(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    store = store_for(tmp_path / "mine")
    assert store_for(str(tmp_path / "mine")) is store
    assert store_for(tmp_path / "link") is store
    assert store_for(tmp_path / "x" / ".." / "mine") is store
    monkeypatch.chdir(tmp_path)
    assert store_for("mine") is store
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store_for("~/mine") is store


@pytest.mark.parametrize("said", ["1", "true", "ON", " yes "])
def test_the_variable_turns_the_default_folder_on(monkeypatch, said):
    monkeypatch.setenv("SAE_FEATURES_CACHE", said)
    assert store_for(None).folder == default_folder() == cache_folder()
    assert store_for(False) is None


@pytest.mark.parametrize("said", ["0", "False", "off", "no"])
def test_the_variable_turns_keeping_off(monkeypatch, said, tmp_path):
    monkeypatch.setenv("SAE_FEATURES_CACHE", said)
    assert store_for(None) is None
    assert store_for(True).folder == default_folder() == cache_folder()
    assert store_for(tmp_path / "mine") is not None


def test_the_variable_names_a_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("SAE_FEATURES_CACHE", str(tmp_path / "named"))
    assert store_for(None).folder == tmp_path / "named" == cache_folder()
    assert store_for(True).folder == default_folder()


def test_an_empty_variable_says_nothing(monkeypatch):
    monkeypatch.setenv("SAE_FEATURES_CACHE", " ")
    assert isinstance(store_for(None), OwnerStore)
    assert cache_folder() == default_folder()


@pytest.mark.parametrize("cache", [0, 1, "", 3.5, [], np.True_])
def test_other_parameters(cache):
    with pytest.raises(InvalidParameterError, match="Got cache=.*; expected a folder, True"):
        store_for(cache)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InvalidParameterError, match="where .*file is a file; expected a folder"):
        store_for(tmp_path / "file")
    with pytest.raises(InvalidParameterError, match="where .*file is a file; expected a folder"):
        store_for(tmp_path / "file" / "in it")
    with pytest.raises(InvalidParameterError, match="expected a folder: embedded null byte"):
        store_for("a\0b")


@pytest.mark.parametrize("word", ["on", "off", "None", "false"])
def test_words_are_no_folders(word):
    with pytest.raises(InvalidParameterError, match=f"A folder of that name is './{word}'"):
        store_for(word)


@pytest.mark.parametrize("said", ["0", "100", "900kB"])
def test_a_size_without_its_unit_is_refused(monkeypatch, said):
    monkeypatch.setenv("SAE_FEATURES_CACHE_SIZE", said)
    with pytest.raises(InvalidParameterError, match="bytes; expected at least 1MB"):
        cache_size()


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("20GB", 20 * 10**9),
        ("500MB", 500 * 10**6),
        ("4GiB", 2**32),
        ("1.5 gb", 1_500_000_000),
        ("2048kib", 2**21),
        ("1234567", 1234567),
        ("7000000b", 7 * 10**6),
        (" 2TiB ", 2**41),
        ("", MAX_BYTES),
    ],
)
def test_sizes(monkeypatch, tmp_path, said, size):
    monkeypatch.setenv("SAE_FEATURES_CACHE_SIZE", said)
    assert cache_size() == size
    assert store_for(tmp_path / "mine").max_bytes == size


@pytest.mark.parametrize("said", ["much", "-1", "10 XB", "1e9", "GB", "1_000", "٣GB", "9" * 400])
def test_what_is_no_size(monkeypatch, said):
    monkeypatch.setenv("SAE_FEATURES_CACHE_SIZE", said)
    with pytest.raises(InvalidParameterError) as told:
        cache_size()
    assert str(told.value) == (
        f"Got SAE_FEATURES_CACHE_SIZE={said!r}; expected a size like 20GB, 500MB, 4GiB or a number of "
        "bytes."
    )


def test_paths_are_paths():
    assert isinstance(default_folder(), Path)
    assert isinstance(cache_folder(), Path)
