from __future__ import annotations

import hashlib
import os
import sys

import pytest

from sae_features import assets
from sae_features.assets import file_sha256, hub_folder, hub_is_offline, package_folder
from sae_features.checkpoints import MODEL_PATTERNS, is_complete
from sae_features.errors import AssetNotFoundError

COMMIT = "c" * 40
REPOSITORY = "owner/model"
MODEL_FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache, and no network."""
    from huggingface_hub import constants

    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def write_snapshot(cache, files, *, commit=COMMIT, branch="main"):
    """Lay files into the cache as ``huggingface_hub`` does: blobs, and links to them by commit."""
    repository = cache / f"models--{REPOSITORY.replace('/', '--')}"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / commit
    for folder in (blobs, snapshot, repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / branch).write_text(commit)
    for name, content in files.items():
        blob = blobs / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    return snapshot


def has_weights(folder):
    return (folder / "model.safetensors").is_file()


class TestFileSha256:
    def test_it_is_the_sha256_of_the_content(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        assert file_sha256(path) == ("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        assert file_sha256(str(path)) == file_sha256(path)

    def test_an_unchanged_file_is_read_once(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        before = assets._sha256_of_state.cache_info()
        assert file_sha256(path) == file_sha256(path)
        after = assets._sha256_of_state.cache_info()
        assert (after.misses - before.misses, after.hits - before.hits) == (1, 1)

    def test_a_changed_file_has_another_digest(self, tmp_path):
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        first = file_sha256(path)
        path.write_bytes(b"abd")
        os.utime(path, ns=(1, 1))  # clocks of file systems are coarse
        assert file_sha256(path) == hashlib.sha256(b"abd").hexdigest() != first

    def test_a_replaced_file_of_same_size_and_time_has_another_digest(self, tmp_path):
        path, other = tmp_path / "file", tmp_path / "other"
        path.write_bytes(b"abc")
        other.write_bytes(b"abd")
        for each in (path, other):
            os.utime(each, ns=(1, 1))
        file_sha256(path)
        other.replace(path)
        assert file_sha256(path) == hashlib.sha256(b"abd").hexdigest()

    def test_a_blob_of_the_hub_cache_is_taken_by_its_name(self, tmp_path):
        name = "0123456789abcdef" * 4
        blob = tmp_path / "blobs" / name
        blob.parent.mkdir()
        blob.write_bytes(b"not read")
        link = tmp_path / "model.safetensors"
        link.symlink_to(blob)
        assert file_sha256(link) == name

    @pytest.mark.parametrize(("folder", "name"), [("blobs", "0" * 40), ("other", "0" * 64)])
    def test_a_git_blob_and_a_file_elsewhere_are_read(self, tmp_path, folder, name):
        path = tmp_path / folder / name
        path.parent.mkdir()
        path.write_bytes(b"read")
        assert file_sha256(path) == hashlib.sha256(b"read").hexdigest()


class TestPackageFolder:
    def test_it_is_found_without_an_import(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "tiny_files" / "deep" / "model").mkdir(parents=True)
        (tmp_path / "tiny_files" / "__init__.py").write_text("raise RuntimeError")
        assert package_folder("tiny_files", "deep/model") == tmp_path / "tiny_files" / "deep" / "model"
        assert package_folder("tiny_files", "deep/other") is None
        assert "tiny_files" not in sys.modules

    @pytest.mark.parametrize("package", ["no_such_package_xyz", "no_such.package_xyz", "json.decoder"])
    def test_what_is_no_package_is_none(self, package):
        assert package_folder(package, "model") is None


@pytest.mark.parametrize(
    ("values", "is_offline"),
    [
        ({}, False),
        ({"HF_HUB_OFFLINE": "1"}, True),
        ({"HF_HUB_OFFLINE": "yes"}, True),
        ({"HF_HUB_OFFLINE": "0"}, False),
        ({"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "true"}, True),
    ],
)
def test_hub_is_offline(monkeypatch, values, is_offline):
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert hub_is_offline() is is_offline


class TestHubFolder:
    def test_without_network_the_error_says_what_to_do(self, hub_cache, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(AssetNotFoundError) as raised:
            hub_folder(REPOSITORY, COMMIT, ["*"], is_complete=has_weights)
        assert str(raised.value) == (
            f"'owner/model' at revision {COMMIT} is not in the local Hugging Face cache, and "
            "HF_HUB_OFFLINE forbids fetching it. Unset it (and log in with `hf auth login` if it is "
            "gated), or point to a local folder."
        )
        assert isinstance(raised.value, FileNotFoundError)

    @pytest.mark.parametrize("revision", [COMMIT, "main", None])
    def test_a_complete_snapshot_is_used_without_the_network(self, hub_cache, monkeypatch, revision):
        snapshot = write_snapshot(hub_cache, {"config.json": b"{}", "model.safetensors": b"w"})
        asked = _record_downloads(monkeypatch, forbid=True)
        found = hub_folder(REPOSITORY, revision, ["config.json"], is_complete=has_weights)
        assert found == snapshot
        assert file_sha256(found / "model.safetensors") == hashlib.sha256(b"w").hexdigest()
        assert asked == [True]

    def test_an_incomplete_snapshot_is_completed_from_the_network(self, hub_cache, monkeypatch):
        snapshot = write_snapshot(hub_cache, {"config.json": b"{}"})
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        asked = _record_downloads(monkeypatch, result=snapshot)
        found = hub_folder(REPOSITORY, COMMIT, ["config.json"], is_complete=has_weights)
        assert found == snapshot
        assert asked == [True, False]

    def test_an_incomplete_snapshot_without_network_is_an_error(self, hub_cache, monkeypatch):
        write_snapshot(hub_cache, {"config.json": b"{}"})
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(AssetNotFoundError, match="^'owner/model' is not in the local Hugging Face"):
            hub_folder(REPOSITORY, None, ["*"], is_complete=has_weights)

    @pytest.mark.parametrize(
        "kept", [MODEL_FILES[:2], MODEL_FILES[:3], ["config.json", *MODEL_FILES[2:]]]
    )
    def test_part_of_a_model_is_completed_from_the_network(self, hub_cache, monkeypatch, kept):
        snapshot = write_snapshot(hub_cache, dict.fromkeys(kept, b"{}"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        asked = _record_downloads(monkeypatch, result=snapshot)
        assert hub_folder(REPOSITORY, COMMIT, MODEL_PATTERNS, is_complete=is_complete) == snapshot
        assert asked == [True, False]

    @pytest.mark.parametrize("offline", ["0", "1"])
    def test_a_whole_model_is_used_without_the_network(self, hub_cache, monkeypatch, offline):
        snapshot = write_snapshot(hub_cache, dict.fromkeys(MODEL_FILES, b"{}"))
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        asked = _record_downloads(monkeypatch, forbid=True)
        assert hub_folder(REPOSITORY, COMMIT, MODEL_PATTERNS, is_complete=is_complete) == snapshot
        assert asked == [True]

    def test_offline_a_model_needs_a_vocabulary_but_no_config_of_it(self, hub_cache, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        write_snapshot(hub_cache, dict.fromkeys(MODEL_FILES[:2], b"{}"))
        with pytest.raises(AssetNotFoundError, match="is not in the local Hugging Face cache"):
            hub_folder(REPOSITORY, COMMIT, MODEL_PATTERNS, is_complete=is_complete)
        snapshot = write_snapshot(hub_cache, {MODEL_FILES[2]: b"{}"})
        assert hub_folder(REPOSITORY, COMMIT, MODEL_PATTERNS, is_complete=is_complete) == snapshot

    def test_what_the_hub_refuses_is_named(self, hub_cache, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        _record_downloads(monkeypatch, result=ConnectionError("no route"))
        with pytest.raises(AssetNotFoundError) as raised:
            hub_folder(REPOSITORY, None, ["*"], is_complete=has_weights)
        assert str(raised.value) == (
            "'owner/model' could not be fetched from the Hugging Face hub (ConnectionError) and is not "
            "in the local cache. Check the connection and the name; log in with `hf auth login` if it "
            "is gated or private; or point to a local folder."
        )
        assert isinstance(raised.value.__cause__, ConnectionError)


def _record_downloads(monkeypatch, *, result=None, forbid=False):
    """Let the hub answer with a result; return a list that fills with ``local_files_only``."""
    import huggingface_hub

    genuine, asked = huggingface_hub.snapshot_download, []

    def download(repo_id, *, local_files_only=False, **options):
        asked.append(local_files_only)
        if local_files_only:
            return genuine(repo_id, local_files_only=True, **options)
        assert not forbid
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked
