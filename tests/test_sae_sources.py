from __future__ import annotations

import dataclasses
import fnmatch
from pathlib import Path

import pytest

from sae_features.errors import AssetNotFoundError, PluginError
from sae_features.sae_files import has_weights, patterns_of
from sae_features.sae_registry import known_sae
from sae_features.sae_sources import SAESource, sae_folder

REPOSITORY = [
    "README.md",
    "config.json",
    "sae.pt",
    "layer_3.safetensors",
    "layer_4.safetensors",
    "wandb-config.yaml",
    "gpt2_L8_v6.pt",
    "gpt2_L8_v6_cfg.json",
    "gpt2_L9_v6.pt",
    "gpt2_L9_v6_cfg.json",
    "v5_layer_2.pt/cfg.json",
    "v5_layer_2.pt/sae_weights.safetensors",
    "v5_layer_2.pt/sparsity.safetensors",
    "v5_layer_20.pt/sae_weights.safetensors",
    "layers.1/cfg.json",
    "layers.1/sae.safetensors",
    "layers.1/optimizer.pt",
    "layers.1/trainer_state.pt",
    "layers.1/checkpoints/sae.safetensors",
    "layers.1.mlp/sae.safetensors",
    "trainer_0/ae.pt",
    "trainer_0/config.json",
    "trainer_0/eval_results.json",
    "trainer_0/checkpoints/ae_100.pt",
    "L0R-8x/hyperparams.json",
    "L0R-8x/checkpoints/final.safetensors",
    "L0R-8x/checkpoints/pruned.safetensors",
    "a[b]/params.npz",
]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has REPOSITORY under any name; a list of what was asked of it."""
    asked = []

    def snapshot_download(repo_id, *, revision, allow_patterns, local_files_only=False):
        asked.append((repo_id, revision, local_files_only))
        folder = tmp_path / repo_id.replace("/", "--")
        if local_files_only:
            return folder
        for name in REPOSITORY:
            if any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(name)
        return folder

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return asked


def source_of(path, **options):
    return SAESource("release/sae", "owner/model", 1, repo_id="owner/saes", path=path, **options)


def fetched(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("path", "files"),
    [
        ("layers.1", ["config.json", "layers.1/cfg.json", "layers.1/sae.safetensors"]),
        ("trainer_0", ["config.json", "trainer_0/ae.pt", "trainer_0/config.json"]),
        (
            "L0R-8x",
            ["L0R-8x/checkpoints/final.safetensors", "L0R-8x/hyperparams.json", "config.json"],
        ),
        (
            "v5_layer_2.pt",
            [
                "config.json",
                "v5_layer_2.pt/cfg.json",
                "v5_layer_2.pt/sae_weights.safetensors",
                "wandb-config.yaml",
            ],
        ),
        ("layer_3.safetensors", ["config.json", "layer_3.safetensors", "wandb-config.yaml"]),
        (
            "gpt2_L8_v6.pt",
            ["config.json", "gpt2_L8_v6.pt", "gpt2_L8_v6_cfg.json", "wandb-config.yaml"],
        ),
        ("", ["config.json", "sae.pt", "wandb-config.yaml"]),
        ("a[b]", ["a[b]/params.npz", "config.json"]),
    ],
)
def test_only_the_files_of_one_sae_are_fetched(hub, tmp_path, path, files):
    place = sae_folder(source_of(path, revision="c" * 40))
    snapshot = tmp_path / "owner--saes"
    assert place == snapshot / path
    assert fetched(snapshot) == [name for name in files if (snapshot / name).is_file()]
    assert fetched(snapshot) == sorted(files)
    assert hub == [("owner/saes", "c" * 40, True), ("owner/saes", "c" * 40, False)]


def test_what_is_in_the_cache_costs_no_request(hub):
    sae_folder(source_of("layers.1"))
    hub.clear()
    sae_folder(source_of("layers.1"))
    assert hub == [("owner/saes", None, True)]


def test_the_hub_may_be_forbidden(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(AssetNotFoundError, match="'owner/saes' is not in the local Hugging Face cache"):
        sae_folder(source_of("layers.1"))


def test_a_known_id_with_a_revision(hub):
    source = known_sae("mwhanna-qwen3-4b-transcoders/layer_3@main")
    assert sae_folder(source).name == "layer_3.safetensors"
    assert hub[-1] == ("mwhanna/qwen3-4b-transcoders", "main", False)


def test_files_that_are_gone(hub):
    with pytest.raises(AssetNotFoundError) as raised:
        sae_folder(source_of("layers.7"))
    assert str(raised.value) == (
        "The files of 'release/sae' are not in 'owner/saes' at revision main: no weights in 'layers.7'. "
        "The release may have changed; pin an older one by …@COMMIT, or point to a local folder."
    )


def test_a_source_must_say_where():
    with pytest.raises(PluginError, match="'x/y' names neither a package nor a repository"):
        sae_folder(SAESource("x/y", "owner/model", 1))


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/x", "~/x", "C:/x", "C:x", "a\\..\\x"])
def test_a_path_never_leaves_the_repository(hub, path):
    with pytest.raises(PluginError, match="expected a path inside the repository"):
        sae_folder(source_of(path))
    assert hub == []


def test_a_colon_or_dots_in_a_name_are_no_harm():
    assert "sae_blocks.0_24576:v1/cfg.json" in patterns_of("sae_blocks.0_24576:v1")
    assert "a..b/cfg.json" in patterns_of("a..b")


def test_weights_tell_whether_it_is_there(tmp_path):
    assert not has_weights(tmp_path, "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").touch()
    assert not has_weights(tmp_path, "x")
    (tmp_path / "x" / "n_images_12.pt").touch()
    assert has_weights(tmp_path, "x")
    assert has_weights(tmp_path, str(Path("x", "n_images_12.pt")))


def test_files_of_a_known_sae(tiny_family, tiny_package):
    assert sae_folder(tiny_family.saes[0]) == tiny_package / "tiny_package" / "saes" / "layer_1"


def test_missing_files_of_a_known_sae(tiny_family):
    source = dataclasses.replace(
        tiny_family.saes[0], sae_id="tiny-sae/layer_0", package_path="saes/layer_0"
    )
    with pytest.raises(AssetNotFoundError) as raised:
        sae_folder(source)
    assert str(raised.value) == (
        "The files of 'tiny-sae/layer_0' are missing in tiny_package; reinstall it."
    )
