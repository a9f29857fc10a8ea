"""Which files an SAE is made of, and what is asked of their names, shapes and numbers."""

from __future__ import annotations

import json
import os
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from sae_features.errors import SAEFormatError
from sae_features.saes.formats.files import SIDECARS, SAEFiles
from sae_features.saes.links import check_inside

TENSORS = {"W": torch.ones(3, 4), "b": torch.zeros(4), "k": torch.tensor(5), "t": torch.tensor(0.5)}


def save(path, tensors=TENSORS):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in tensors.items()})
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


class TestWeights:
    @pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.pt", "a.pth"])
    def test_the_only_file_of_weights_in_a_folder(self, name, tmp_path):
        path = save(tmp_path / name)
        (tmp_path / "README.md").touch()
        (tmp_path / "cfg.json").write_text("{}")
        for asked in (tmp_path, path, tmp_path / "cfg.json"):
            files = SAEFiles(asked)
            assert (files.weights, files.folder, files.path) == (path, tmp_path, asked)
            assert files.names == set(TENSORS)

    @pytest.mark.parametrize("name", sorted(SIDECARS))
    def test_what_stands_beside_weights_is_none(self, name, tmp_path):
        path = save(tmp_path / "sae_weights.safetensors")
        (tmp_path / name).write_bytes(b"no weights")
        assert SAEFiles(tmp_path).weights == path

    def test_a_folder_of_checkpoints(self, tmp_path):
        path = save(tmp_path / "checkpoints" / "final.safetensors")
        (tmp_path / "hyperparams.json").write_text('{"d": 3}')
        for asked in (tmp_path, tmp_path / "checkpoints", path, tmp_path / "hyperparams.json"):
            files = SAEFiles(asked)
            assert files.weights == path
            assert files.folder == tmp_path
            assert files.needed_config("hyperparams.json").integer("d") == 3

    def test_checkpoints_without_settings_above_them_are_a_folder_as_any_other(self, tmp_path):
        path = save(tmp_path / "checkpoints" / "a.safetensors")
        assert SAEFiles(path).folder == tmp_path / "checkpoints"
        with pytest.raises(
            SAEFormatError, match=r"Give the path of the file\. There are some in checkpoint"
        ):
            SAEFiles(tmp_path).weights  # noqa: B018

    def test_two_are_not_chosen_between(self, tmp_path):
        for name in ("b.pt", "a.safetensors"):
            save(tmp_path / name)
        message = (
            f"{tmp_path}: got 2 files of weights (a.safetensors, b.pt); expected one .safetensors, .npz,"
            " .pt, .pth. Give the path of the file."
        )
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
            SAEFiles(tmp_path).weights  # noqa: B018 a property
        assert SAEFiles(tmp_path / "b.pt").weights == tmp_path / "b.pt"

    def test_more_are_not_all_named(self, tmp_path):
        for index in range(7):
            (tmp_path / f"{index}.pt").touch()
        with pytest.raises(
            SAEFormatError, match=r"got 7 files of weights \(0\.pt, 1\.pt, .*4\.pt …\); exp"
        ):
            SAEFiles(tmp_path).weights  # noqa: B018

    def test_none(self, tmp_path):
        with pytest.raises(SAEFormatError, match=r"got no file of weights; expected one \.safetensors"):
            SAEFiles(tmp_path).weights  # noqa: B018

    @pytest.mark.parametrize("name", ["a.pkl", "a.bin", "a.ckpt", "a"])
    def test_a_file_of_another_kind_is_not_passed_over(self, name, tmp_path):
        """Although the folder has one of a known kind: that is not what was asked for."""
        save(tmp_path / "b.safetensors")
        save(tmp_path / name)
        with pytest.raises(SAEFormatError, match=r"got a file of another kind; .*save_file\.$"):
            SAEFiles(tmp_path / name).weights  # noqa: B018

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
    def test_a_pipe_is_not_waited_for(self, tmp_path):
        save(tmp_path / "b.safetensors")
        os.mkfifo(tmp_path / "a.pt")
        with pytest.raises(SAEFormatError, match="got a file of another kind"):
            SAEFiles(tmp_path / "a.pt").weights  # noqa: B018
        os.mkfifo(tmp_path / "cfg.json")
        assert SAEFiles(tmp_path).config("cfg.json") is None


class TestTensors:
    @pytest.fixture
    def files(self, tmp_path):
        return SAEFiles(save(tmp_path / "a.safetensors"))

    def test_shapes(self, files):
        assert files.shape("W") == (3, 4)
        assert files.matrix("W") == (3, 4)
        assert files.has("W", "b")
        assert not files.has("W", "c")

    def test_one_that_is_not_there(self, files):
        message = f"{files.weights}: got tensors 'W', 'b', 'k', 't'; expected 'c' among them."
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
            files.shape("c")

    def test_many_are_not_all_named(self, tmp_path):
        files = SAEFiles(save(tmp_path / "a.npz", {f"{index:03}": torch.ones(1) for index in range(99)}))
        with pytest.raises(
            SAEFormatError, match=r"got tensors '000', .*'011' …; expected 'c' among them"
        ):
            files.shape("c")

    def test_none_at_all(self, tmp_path):
        files = SAEFiles(save(tmp_path / "a.pt", {}))
        with pytest.raises(SAEFormatError, match="got tensors none; expected 'c' among them"):
            files.shape("c")

    def test_what_is_no_matrix(self, files):
        with pytest.raises(SAEFormatError, match=r"got b of shape \(4,\); expected a matrix\.$"):
            files.matrix("b")

    def test_an_empty_matrix(self, tmp_path):
        files = SAEFiles(save(tmp_path / "a.pt", {"W": torch.ones(3, 0)}))
        with pytest.raises(SAEFormatError, match=r"got W of shape \(3, 0\); expected a matrix\.$"):
            files.matrix("W")

    @pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pt"])
    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_numbers(self, shape, suffix, tmp_path):
        tensors = {"k": torch.full(shape, 5), "t": torch.full(shape, 0.5)}
        files = SAEFiles(save(tmp_path / f"a{suffix}", tensors))
        assert (files.count("k"), files.scalar("t")) == (5, 0.5)
        assert type(files.count("k")) is int
        assert type(files.scalar("t")) is float

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
    def test_numbers_of_any_type_of_floats(self, dtype, tmp_path):
        tensors = {"t": torch.tensor(0.5, dtype=getattr(torch, dtype))}
        assert SAEFiles(save(tmp_path / "a.pt", tensors)).scalar("t") == 0.5

    @pytest.mark.parametrize(
        ("ask", "tensor", "message"),
        [
            (
                "scalar",
                torch.ones(2),
                r"shape \(2,\) and type float32; expected one number of type float",
            ),
            (
                "scalar",
                torch.tensor(5),
                r"shape \(\) and type int64; expected one number of type float32",
            ),
            ("scalar", torch.tensor(True), r"type bool; expected one number of type float32"),
            ("scalar", torch.tensor(float("nan")), "with the value nan; expected one finite number"),
            ("scalar", torch.tensor(-float("inf")), "with the value -inf; expected one finite number"),
            ("count", torch.tensor(5.0), r"type float32; expected one number of type int64, int32"),
            ("count", torch.tensor(True), r"type bool; expected one number of type int64"),
            (
                "count",
                torch.ones(0, dtype=torch.int64),
                r"shape \(0,\) and type int64; expected one number",
            ),
        ],
    )
    def test_what_is_not_one_number(self, ask, tensor, message, tmp_path):
        files = SAEFiles(save(tmp_path / "a.pt", {"x": tensor}))
        with pytest.raises(SAEFormatError, match=rf"a\.pt: got x .*{message}"):
            getattr(files, ask)("x")


class TestConfigurations:
    def test_the_first_that_is_there(self, tmp_path):
        files = SAEFiles(save(tmp_path / "a.safetensors"))
        assert files.config("cfg.json", "config.yaml") is None
        (tmp_path / "config.yaml").write_text("d: 3\n")
        assert files.config("cfg.json", "config.yaml").integer("d") == 3
        (tmp_path / "cfg.json").write_text('{"d": 4}')
        config = files.config("cfg.json", "config.yaml")
        assert (config.integer("d"), config.path) == (4, tmp_path / "cfg.json")

    def test_each_is_read_once(self, tmp_path):
        files = SAEFiles(save(tmp_path / "a.safetensors"))
        (tmp_path / "cfg.json").write_text('{"d": 4}')
        first = files.needed_config("cfg.json")
        (tmp_path / "cfg.json").write_text("{")
        assert files.needed_config("cfg.json").values == first.values

    def test_one_that_is_needed(self, tmp_path):
        files = SAEFiles(save(tmp_path / "a.safetensors"))
        message = f"{tmp_path}: got no cfg.json or config.json; expected it beside a.safetensors."
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
            files.needed_config("cfg.json", "config.json")

    def test_one_that_is_damaged(self, tmp_path):
        (tmp_path / "cfg.json").write_text("{")
        with pytest.raises(SAEFormatError, match=r"cfg\.json: could not be read as JSON"):
            SAEFiles(tmp_path).config("cfg.json")


class TestLinks:
    """What was found in a folder must be there; the hub's cache is made of links to its blobs."""

    @pytest.fixture
    def elsewhere(self, tmp_path):
        save(tmp_path / "elsewhere" / "a.safetensors")
        (tmp_path / "elsewhere" / "cfg.json").write_text('{"d": 4}')
        (tmp_path / "sae").mkdir()
        return tmp_path / "elsewhere"

    def test_out_of_the_folder(self, elsewhere, tmp_path):
        for name in ("a.safetensors", "cfg.json"):
            (tmp_path / "sae" / name).symlink_to(elsewhere / name)
        files = SAEFiles(tmp_path / "sae")
        message = (
            "got a link to '.*elsewhere.{1,2}%s', outside the folder; expected the file itself. Copy it"
        )
        with pytest.raises(SAEFormatError, match=message % r"a\.safetensors"):
            files.weights  # noqa: B018
        with pytest.raises(SAEFormatError, match=message % r"cfg\.json"):
            files.config("cfg.json")

    def test_named_by_the_caller(self, elsewhere, tmp_path):
        link = tmp_path / "sae" / "a.safetensors"
        link.symlink_to(elsewhere / "a.safetensors")
        assert SAEFiles(link).weights == link
        folder = tmp_path / "alias"
        folder.symlink_to(elsewhere)
        assert SAEFiles(folder).names == set(TENSORS)
        assert SAEFiles(folder).config("cfg.json").integer("d") == 4

    def test_within_the_folder(self, elsewhere):
        (elsewhere / "config.json").symlink_to("cfg.json")
        assert SAEFiles(elsewhere).config("config.json").integer("d") == 4

    def test_a_folder_of_checkpoints_that_is_elsewhere(self, elsewhere, tmp_path):
        (tmp_path / "sae" / "checkpoints").symlink_to(elsewhere)
        (tmp_path / "sae" / "hyperparams.json").write_text("{}")
        with pytest.raises(SAEFormatError, match="outside the folder"):
            SAEFiles(tmp_path / "sae").weights  # noqa: B018

    @pytest.fixture
    def snapshot(self, tmp_path):
        """A repository as the hub's cache has it, with a folder of weights and settings."""
        repository = tmp_path / "hub" / "models--a--b"
        folder = repository / "snapshots" / ("0" * 40) / "layer_1"
        folder.mkdir(parents=True)
        save(repository / "blobs" / "x.safetensors").rename(repository / "blobs" / "11")
        (repository / "blobs" / "22").write_text(json.dumps({"d": 4}))
        for name, blob in (("a.safetensors", "11"), ("cfg.json", "22")):
            (folder / name).symlink_to(f"../../../blobs/{blob}")
        return folder

    def test_to_the_blobs_of_the_hubs_cache(self, snapshot, tmp_path):
        (tmp_path / "alias").symlink_to(snapshot)
        for folder in (snapshot, tmp_path / "alias"):
            assert SAEFiles(folder).names == set(TENSORS)
            assert SAEFiles(folder).config("cfg.json").integer("d") == 4

    def test_blobs_of_another_repository_are_elsewhere(self, snapshot, tmp_path):
        other = tmp_path / "hub" / "models--c--d" / "blobs" / "33"
        other.parent.mkdir(parents=True)
        other.write_text("{}")
        (snapshot / "config.json").symlink_to(other)
        with pytest.raises(SAEFormatError, match="outside the folder"):
            SAEFiles(snapshot).config("config.json")

    def test_blobs_that_are_a_link_themselves_are_elsewhere(self, snapshot, tmp_path):
        blobs = snapshot.parents[2] / "blobs"
        blobs.rename(tmp_path / "blobs")
        blobs.symlink_to(tmp_path / "blobs")
        with pytest.raises(SAEFormatError, match="outside the folder"):
            SAEFiles(snapshot).weights  # noqa: B018

    def test_to_itself(self, tmp_path):
        (tmp_path / "cfg.json").symlink_to("cfg.json")
        with pytest.raises(SAEFormatError, match="got a link"):
            check_inside(tmp_path / "cfg.json", tmp_path / "cfg.json")

    def test_to_nothing(self, tmp_path):
        (tmp_path / "a.safetensors").symlink_to("nothing")
        (tmp_path / "cfg.json").symlink_to("nothing")
        assert SAEFiles(tmp_path).config("cfg.json") is None
        with pytest.raises(SAEFormatError, match="got no file of weights"):
            SAEFiles(tmp_path).weights  # noqa: B018
