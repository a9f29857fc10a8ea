"""What files say of an SAE, and the digest that stands for its numbers."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import edit_json, varied_sae

from sae_features import SAEFeaturesWarning, load_sae
from sae_features.errors import DigestMismatchError, SAEFormatError
from sae_features.parameters import DTYPES
from sae_features.releases import find_sae
from sae_features.saes.conventions import digest_of
from sae_features.saes.formats import SAEHeader

GOLDEN = Path(__file__).parents[1] / "golden"
SCALE_LEFT_OPEN = GOLDEN / "saelens" / "jumprelu_expected_average"


def header(**fields):
    given = {
        "format": "f", "path": Path("p"), "weights": Path("p/w"), "architecture": "relu", "d_in": 3,
        "d_out": 3, "n_latents": 4, "dtype": "float32",
    }  # fmt: skip
    return SAEHeader(**{**given, **fields})


def copied(case, folder):
    """A golden SAE in a folder of its own."""
    place = json.loads((case / "about.json").read_text())["path"]
    return Path(shutil.copytree(case / "files", folder)) / place


@pytest.fixture(
    params=["sparsify/topk", "saelens/jumprelu_bf16", "gemma_scope/residual", "saelens/gated"]
)
def sae_path(request, tmp_path):
    """An SAE of another library."""
    return copied(GOLDEN / request.param, tmp_path / "sae")


def weights_of(path):
    return find_sae(path).header.weights


def test_metadata_can_be_acted_on_in_any_format():
    message = r"^Got max_length='many' in metadata; expected an integer above 0\.$"
    with pytest.raises(SAEFormatError, match=message):
        header(metadata={"max_length": "many"})


def test_it_says_little_where_files_say_little():
    silent = header()
    assert (silent.conventions, silent.folded, silent.metadata, silent.labels) == ({}, {}, {}, {})
    assert (silent.hook_point, silent.hook_point_out, silent.weights_sha256) == (None, None, None)
    assert (silent.has_decoder, silent.nbytes, silent.warnings) == (True, 0, ())


def test_it_is_made_by_names_and_does_not_change():
    with pytest.raises(TypeError):
        SAEHeader("f", Path("p"), Path("p/w"), "relu", 3, 3, 4, "float32")
    with pytest.raises(FrozenInstanceError):
        header().d_in = 4


def test_the_digest_is_read_when_it_is_asked_for(tmp_path):
    (tmp_path / "w").write_bytes(b"weights")
    conventions, folded = {"architecture": "topk", "k": 3}, {"format": "f"}
    made = header(weights=tmp_path / "w", conventions=conventions, folded=folded)
    assert not made.is_digest_known
    sha256 = hashlib.sha256(b"weights").hexdigest()
    assert made.digest == digest_of(conventions | folded, sha256)
    assert replace(made, folded={}).digest == digest_of(conventions, sha256)
    with pytest.raises(FileNotFoundError):
        _ = header(weights=tmp_path / "nowhere").digest


def test_a_digest_that_the_files_declare_is_believed():
    made = header(weights_sha256="ab" * 32)  # no file is there
    assert made.is_digest_known
    assert made.digest == digest_of({}, "ab" * 32)


def test_the_name_of_a_blob_in_a_cache_is_its_digest(tmp_path):
    blob = tmp_path / "blobs" / ("cd" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"not that")
    (tmp_path / "w").symlink_to(blob)
    made = header(weights=tmp_path / "w")
    assert made.is_digest_known
    assert made.digest == digest_of({}, "cd" * 32)


def test_one_digest_however_an_sae_is_loaded(sae_path):
    stated = find_sae(sae_path).header.digest
    assert re.fullmatch("[0-9a-f]{64}", stated)
    for dtype in DTYPES:
        for decoder in (True, False):
            assert load_sae(sae_path, dtype=dtype, decoder=decoder).digest == stated


def test_one_digest_wherever_the_files_are(sae_path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    folder = sae_path if sae_path.is_dir() else sae_path.parent
    other = Path(shutil.copytree(folder, tmp_path / "elsewhere" / sae_path.name))
    other = other if sae_path.is_dir() else other / sae_path.name
    assert load_sae(other).digest == load_sae(sae_path).digest


def test_another_digest_for_other_weights(tmp_path):
    path = copied(GOLDEN / "sparsify" / "topk", tmp_path / "sae")
    before = load_sae(path).digest
    weights = weights_of(path)
    tensors = load_file(weights)
    tensors["b_dec"][0] += 1
    weights.unlink()
    save_file(tensors, weights)
    assert load_sae(path).digest != before


def test_another_digest_for_another_configuration(tmp_path):
    path = copied(GOLDEN / "sparsify" / "topk", tmp_path / "sae")
    digests = {load_sae(path).digest}
    for change in ({"k": 2}, {"transcode": True}, {"activation": "groupmax"}):
        edit_json(path / "cfg.json", **change)
        digests.add(load_sae(path).digest)
    assert len(digests) == 4


def test_another_digest_for_what_the_caller_adds():
    path = SCALE_LEFT_OPEN / "files" / json.loads((SCALE_LEFT_OPEN / "about.json").read_text())["path"]
    with pytest.warns(SAEFeaturesWarning, match="Give norm_scale="):
        digests = [load_sae(path).digest]
    digests += [load_sae(path, norm_scale=scale).digest for scale in (0.5, 0.25, 1)]
    assert len(set(digests)) == 4
    assert (
        load_sae(path, norm_scale=0.5).digest == digests[1] == find_sae(path, norm_scale=0.5).digest(0)
    )

    case = GOLDEN / "qwen_scope" / "topk_k_given"
    place = case / "files" / json.loads((case / "about.json").read_text())["path"]
    assert load_sae(place, k=2).digest == find_sae(place, k=2).digest(0) != load_sae(place, k=3).digest


def test_another_digest_in_another_format(tmp_path):
    sae = varied_sae("relu", dtype=torch.float32)
    folders = [sae.save(tmp_path / name, format=name) for name in ("sae-features", "saelens")]
    assert load_sae(folders[0]).digest != load_sae(folders[1]).digest


def test_a_changed_copy_has_a_digest_of_its_own(sae_path):
    loaded = load_sae(sae_path)
    stated = loaded.digest
    copy = replace(loaded, b_dec=loaded.b_dec + 1)
    assert copy.digest != stated
    assert replace(loaded).digest == replace(load_sae(sae_path)).digest  # of its tensors, as any other
    assert replace(loaded, subtract_b_dec=not loaded.subtract_b_dec).digest != replace(loaded).digest


def test_a_pickled_sae_keeps_its_digest(sae_path):
    loaded = load_sae(sae_path)
    copy = pickle.loads(pickle.dumps(loaded))
    assert copy.digest == loaded.digest
    assert torch.equal(copy.W_enc, loaded.W_enc)


def test_the_digest_is_that_of_the_weights_that_were_read(tmp_path):
    """Where the files go, or hold another SAE, it is not theirs; once told or pickled it is kept."""
    folder = varied_sae("relu", dtype=torch.float32).save(tmp_path / "sae", format="saelens")
    stated = load_sae(folder).digest
    for change in ("replaced", "gone"):
        known, loaded = load_sae(folder), load_sae(folder)
        assert known.digest == stated
        content = pickle.dumps(load_sae(folder))
        kept = {path: path.read_bytes() for path in folder.iterdir()}
        if change == "gone":
            shutil.rmtree(folder)
        else:
            varied_sae("relu", dtype=torch.float32, seed=1).save(folder, format="saelens")
        assert known.digest == pickle.loads(content).digest == stated, change
        with pytest.raises(DigestMismatchError) as raised:
            _ = loaded.digest
        assert str(raised.value) == (
            f"{folder / 'sae_weights.safetensors'} has changed, or is gone, since this SAE was read "
            "from it: its digest can no longer be told. Load it again."
        )
        folder.mkdir(exist_ok=True)
        for path, content in kept.items():
            path.write_bytes(content)
