"""Our own format keeps an SAE bit for bit, and every damage to its files ends in a clear word."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import varied_sae

from sae_features import load_sae
from sae_features.errors import AssetNotFoundError, InvalidParameterError, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.parameters import DTYPES
from sae_features.saes import json_files
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.saes.conventions import ARCHITECTURES as ARCHITECTURE_NAMES
from sae_features.saes.formats import SAEFiles
from sae_features.saes.formats.native import FORMAT

D_IN, N_LATENTS = 3, 4
MIN_BYTES = 4 * (3 * 4 + 4 + 3)
"""What encoding needs in float32, without a header."""
POINT = HookPoint(2, "mlp_out")
METADATA = {"model": {"id": "owner/name", "digest": "ab" * 32}, "max_length": 128, "note": "ünï"}
LABELS = {0: "praise", 3: "größe 🌍"}


def make_sae(architecture="topk", dtype=torch.float32, **fields):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    own = {"topk": {"k": 2}, "relu": {}, "jumprelu": {"threshold": draw(N_LATENTS).abs()}}
    weights = {
        "W_enc": draw(D_IN, N_LATENTS),
        "b_enc": draw(N_LATENTS),
        "W_dec": draw(N_LATENTS, D_IN),
        "b_dec": draw(D_IN),
    }
    return SparseAutoencoder(architecture, **{**weights, **own[architecture], **fields})


def header_of(path):
    return FORMAT.read_header(SAEFiles(path))


def detects(path):
    return FORMAT.detect(SAEFiles(path))


def content(folder):
    """All files with their bytes."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rewrite(folder, **fields):
    """Change fields of the header; ``...`` takes one out."""
    path = folder / "sae.json"
    header = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in header.items() if value is not ...}))


def exchange_weights(folder, tensors, **fields):
    """Put other tensors there, with a header that knows of it."""
    save_file(tensors, folder / "other")
    (folder / "other").replace(folder / "sae.safetensors")
    digest = hashlib.sha256((folder / "sae.safetensors").read_bytes()).hexdigest()
    rewrite(folder, weights_sha256=digest, **fields)


def assert_same_sae(loaded, sae):
    assert [name for name, _ in loaded.tensors()] == [name for name, _ in sae.tensors()]
    for (name, tensor), (_, expected) in zip(loaded.tensors(), sae.tensors(), strict=True):
        assert tensor.dtype == expected.dtype, name
        assert torch.equal(tensor, expected), name
    assert loaded.conventions() == sae.conventions()
    assert loaded.hook_point == sae.hook_point
    assert loaded.metadata == sae.metadata
    assert loaded.labels == sae.labels


@pytest.fixture
def folder(tmp_path):
    """An SAE on disk."""
    return make_sae(hook_point=POINT, metadata=METADATA, labels=LABELS).save(tmp_path / "sae")


def refused(folder, message, *, load_only=False):
    """Assert that the files are refused: by the header already, or only where weights are read."""
    if load_only:
        header_of(folder)
    else:
        with pytest.raises(SAEFormatError, match=message):
            header_of(folder)
    with pytest.raises(SAEFormatError, match=message) as caught:
        load_sae(folder)
    assert str(caught.value).count(str(folder)) == 1  # named, and once
    assert len(str(caught.value)) < 600 + len(str(folder))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu"])
def test_an_sae_comes_back_bit_for_bit(tmp_path, architecture, dtype):
    sae = make_sae(
        architecture, getattr(torch, dtype), hook_point=POINT, metadata=METADATA, labels=LABELS
    )
    assert sae.save(tmp_path) == tmp_path
    loaded = load_sae(tmp_path, dtype=dtype)
    assert_same_sae(loaded, sae)
    assert header_of(tmp_path).dtype == dtype
    x = torch.randn(6, D_IN)
    assert torch.equal(loaded.encode(x), sae.encode(x))


def test_weights_at_the_edges_of_their_type_come_back(tmp_path):
    info = torch.finfo(torch.float32)
    edges = torch.tensor([-0.0, info.tiny / 8, info.max, info.eps])
    loaded = load_sae(make_sae(b_enc=edges).save(tmp_path))
    assert loaded.b_enc.view(torch.int32).tolist() == edges.view(torch.int32).tolist()


SHAPES = [{}, {"skip": True}, {"d_out": 4}, {"d_out": 4, "skip": True}, {"subtract_b_dec": False}]
NORMS = ["none", "center", "layer_norm", "rms_norm", "scale"]


@settings(max_examples=60)
@given(
    architecture=st.sampled_from(ARCHITECTURE_NAMES),
    dtype=st.sampled_from(DTYPES),
    shape=st.sampled_from(SHAPES),
    input_norm=st.sampled_from(NORMS),
    norm_scale=st.floats(0.01, 100) | st.sampled_from([2.0**-126, 1 / 3, 3e38]),
    data=st.data(),
)
def test_any_sae_comes_back_bit_for_bit(
    tmp_path_factory, architecture, dtype, shape, input_norm, norm_scale, data
):
    flags = st.booleans()
    sae = varied_sae(
        architecture,
        dtype=getattr(torch, dtype),
        seed=data.draw(st.integers(0, 9999)),
        latent_scale=data.draw(flags),
        selection_scale=architecture == "topk" and data.draw(flags),
        topk_relu=data.draw(flags),
        denormalize=data.draw(flags),
        input_norm=input_norm,
        norm_scale=norm_scale
        if input_norm == "scale" or (input_norm == "center" and data.draw(flags))
        else None,
        hook_point=data.draw(st.sampled_from([None, POINT])),
        hook_point_out=data.draw(st.sampled_from([None, HookPoint(7)])),
        metadata=data.draw(st.sampled_from([{}, METADATA])),
        labels=data.draw(
            st.dictionaries(st.integers(0, 11), st.text(min_size=1, max_size=9), max_size=3)
        ),
        **shape,
        **({"W_dec": None} if data.draw(flags) else {}),
    )
    folder = sae.save(tmp_path_factory.mktemp("sae"))
    loaded = load_sae(folder, dtype=dtype)
    assert_same_sae(loaded, sae)
    assert loaded.hook_point_out == sae.hook_point_out
    header = header_of(folder)
    assert header.conventions == sae.conventions()
    assert header.has_decoder == (sae.W_dec is not None)
    assert (header.d_in, header.d_out, header.n_latents) == (sae.d_in, sae.d_out, sae.n_latents)
    assert (header.hook_point_out, header.labels) == (sae.hook_point_out, sae.labels)
    assert header.digest == loaded.digest
    x = torch.linspace(-2, 2, 3 * sae.d_in).reshape(3, -1)
    latents = sae.encode(x).float().numpy()  # not finite where a scale is extreme
    np.testing.assert_array_equal(loaded.encode(x).float().numpy(), latents)
    encoder = load_sae(folder, dtype=dtype, decoder=False)
    assert (encoder.W_dec, encoder.W_skip, encoder.latent_scale) == (None, None, None)
    np.testing.assert_array_equal(encoder.encode(x).float().numpy(), latents)
    files = content(folder)
    loaded.save(folder / "again")
    assert content(folder / "again") == files


def test_what_older_versions_wrote_is_read(folder):
    """Fields that came later are not written where they say nothing new."""
    header = json.loads((folder / "sae.json").read_text())
    assert set(header) == {
        "format", "schema", "architecture", "d_in", "n_latents", "dtype", "k", "topk_relu",
        "subtract_b_dec", "hook_point", "weights_sha256", "metadata",
    }  # fmt: skip
    assert header["schema"] == 1


@pytest.mark.parametrize(
    ("fields", "added"),
    [
        ({"W_dec": None}, {"tensors": []}),
        ({"latent_scale": torch.ones(N_LATENTS)}, {"tensors": ["W_dec", "latent_scale"]}),
        ({"selection_scale": torch.ones(N_LATENTS)}, {"tensors": ["W_dec", "selection_scale"]}),
        ({"input_norm": "rms_norm"}, {"input_norm": "rms_norm", "denormalize": True}),
        ({"input_norm": "center"}, {"input_norm": "center", "denormalize": True}),
        (
            {"input_norm": "center", "norm_scale": 0.5},
            {"input_norm": "center", "norm_scale": 0.5, "denormalize": True},
        ),
        (
            {"input_norm": "scale", "norm_scale": 0.5, "denormalize": False},
            {"input_norm": "scale", "norm_scale": 0.5, "denormalize": False},
        ),
        ({"hook_point_out": HookPoint(3)}, {"hook_point_out": {"layer": 3, "site": "resid_post"}}),
    ],
)
def test_what_a_header_says_of_conventions(tmp_path, fields, added):
    plain = json.loads((make_sae().save(tmp_path / "plain") / "sae.json").read_text())
    header = json.loads((make_sae(**fields).save(tmp_path / "sae") / "sae.json").read_text())
    new = {name: value for name, value in header.items() if plain.get(name) != value}
    new.pop("weights_sha256", None)
    assert new == added


def test_an_encoder_that_an_older_version_wrote_is_read(tmp_path):
    folder = make_sae(W_dec=None).save(tmp_path)
    rewrite(folder, tensors=...)  # it did not say so
    assert load_sae(folder).W_dec is None


@pytest.mark.parametrize("stated", [[], ["W_dec", "latent_scale"]])
def test_tensors_that_a_header_does_not_name_are_refused(folder, stated):
    rewrite(folder, tensors=stated)
    refused(folder, "tensors", load_only=True)


@pytest.mark.parametrize(
    "fields", [{"topk_relu": False}, {"subtract_b_dec": False}, {"k": 1}, {"W_dec": None}, {}], ids=str
)
def test_conventions_come_back(tmp_path, fields):
    sae = make_sae(**fields)
    assert_same_sae(load_sae(sae.save(tmp_path)), sae)


def test_saving_what_was_loaded_gives_the_same_files(tmp_path, folder):
    load_sae(folder).save(tmp_path / "again")
    assert content(tmp_path / "again") == content(folder)
    assert load_sae(tmp_path / "again").digest == load_sae(folder).digest


def test_half_precision_on_disk_is_computed_in_float32(tmp_path):
    sae = make_sae()
    sae.save(tmp_path / "half", dtype="float16")
    loaded = load_sae(tmp_path / "half")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.W_enc, sae.W_enc.half().float())
    assert header_of(tmp_path / "half").dtype == "float16"
    assert load_file(tmp_path / "half" / "sae.safetensors")["W_dec"].dtype == torch.float16
    full = sae.save(tmp_path / "full") / "sae.safetensors"
    assert full.stat().st_size - (tmp_path / "half" / "sae.safetensors").stat().st_size > 50


def test_the_type_that_is_computed_in_does_not_change_the_digest(folder):
    assert len({load_sae(folder, dtype=dtype).digest for dtype in DTYPES}) == 1


def test_the_digest_of_files_is_of_the_type_that_they_hold(tmp_path):
    sae = make_sae()
    loaded = [load_sae(sae.save(tmp_path / dtype, dtype=dtype)) for dtype in DTYPES]
    assert len({other.digest for other in loaded}) == len(DTYPES)


def test_without_the_decoder(folder):
    sae = load_sae(folder, decoder=False)
    assert sae.W_dec is None
    assert torch.equal(sae.W_enc, make_sae().W_enc)
    assert sae.digest == load_sae(folder).digest


def test_tied_weights_and_views_can_be_saved(tmp_path):
    eye = torch.eye(3)
    buffer = torch.arange(12, dtype=torch.float32)
    sae = SparseAutoencoder(
        "relu", W_enc=eye, b_enc=buffer[::4], b_dec=buffer[:3], W_dec=eye.T, subtract_b_dec=False
    )
    assert_same_sae(load_sae(sae.save(tmp_path)), sae)


def test_weights_in_training_can_be_saved(tmp_path):
    sae = make_sae(b_enc=torch.ones(N_LATENTS, requires_grad=True))
    assert load_sae(sae.save(tmp_path)).b_enc.tolist() == [1, 1, 1, 1]


def test_the_header_is_read_without_weights(folder):
    size = (folder / "sae.safetensors").stat().st_size
    digest = load_sae(folder).digest
    (folder / "sae.safetensors").write_bytes(b"\0" * size)  # nothing in it is looked at
    header = header_of(folder)
    assert (header.format, header.path) == ("sae-features", folder)
    assert (header.architecture, header.d_in, header.n_latents) == ("topk", D_IN, N_LATENTS)
    assert header.conventions == {
        "architecture": "topk", "k": 2, "topk_relu": True, "subtract_b_dec": True
    }  # fmt: skip
    assert header.hook_point == POINT
    assert header.metadata == METADATA
    assert header.labels == LABELS
    assert (header.dtype, header.nbytes, header.digest) == ("float32", size, digest)


@pytest.mark.parametrize("file", ["sae.json", "sae.safetensors"])
def test_either_file_stands_for_the_folder(folder, file):
    assert detects(folder / file)
    assert_same_sae(load_sae(folder / file), load_sae(folder))


def test_another_file_in_the_folder_is_not_taken_for_the_sae(folder):
    save_file({"W_enc": torch.zeros(2)}, folder / "other.safetensors")
    assert not detects(folder / "other.safetensors")
    with pytest.raises(SAEFormatError, match="which none of the formats recognises: "):
        load_sae(folder / "other.safetensors")
    with pytest.raises(SAEFormatError, match=r"expected a folder with sae\.json and sae\.safetensors"):
        load_sae(folder / "other.safetensors", format="sae-features")


def test_the_digest_is_of_weights_and_conventions(tmp_path):
    sae = make_sae(metadata={"a": 1}, labels={0: "x"}, hook_point=POINT)
    digest = load_sae(sae.save(tmp_path / "a")).digest
    described = replace(sae, metadata={}, labels={}, hook_point=None).save(tmp_path / "b")
    assert load_sae(described).digest == digest == header_of(described).digest
    others = [
        replace(sae, k=1),
        replace(sae, topk_relu=False),
        replace(sae, subtract_b_dec=False),
        replace(sae, b_enc=sae.b_enc + 1),
        replace(sae, W_dec=None),
    ]
    digests = {load_sae(s.save(tmp_path / str(i))).digest for i, s in enumerate(others)}
    digests.add(load_sae(sae.save(tmp_path / "half", dtype="float16")).digest)
    assert len(digests | {digest}) == 7


def test_a_changed_copy_does_not_keep_the_digest_of_the_files(folder):
    loaded = load_sae(folder)
    assert replace(loaded, k=1).digest != loaded.digest
    assert replace(loaded, b_enc=loaded.b_enc + 1).digest != loaded.digest


def test_saving_replaces_what_was_there(folder):
    jump = make_sae("jumprelu")
    assert_same_sae(load_sae(jump.save(folder)), jump)
    assert sorted(content(folder)) == ["sae.json", "sae.safetensors"]  # the old labels are gone


def test_files_beside_an_sae_are_left_alone(folder):
    (folder / "README.md").write_text("card")
    make_sae().save(folder)
    assert (folder / "README.md").read_text() == "card"


def test_a_header_can_be_read_by_people(folder):
    text = (folder / "sae.json").read_text(encoding="utf-8")
    assert '"k": 2,\n' in text
    assert '"note": "ünï"' in text
    assert json.loads(text)["hook_point"] == {"layer": 2, "site": "mlp_out"}
    assert json.loads((folder / "labels.json").read_text(encoding="utf-8"))["3"] == "größe 🌍"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_are_as_readable_as_any_that_the_user_writes(folder):
    (folder / "plain").touch()
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


class FullDiskError(Exception):
    """The disk is full."""


def full_disk(*_, **__):
    raise FullDiskError


def circle():
    circle = {}
    circle["self"] = circle
    return circle


NOT_FINITE = "The SAE to be saved: b_dec holds NaN or infinity; expected finite torch.float32 weights."
FAILURES = {
    "NaN": ({"b_dec": torch.tensor([0, np.nan, 0], dtype=torch.float32)}, NOT_FINITE),
    "infinity": ({"b_dec": torch.full((D_IN,), -np.inf)}, NOT_FINITE),
    "layer": (
        {"hook_point": HookPoint(-1)},
        "got hook_point={'layer': -1, 'site': 'resid_post'}; expected a layer counted from 0 and a site",
    ),
    "site": (
        {"hook_point": HookPoint(0, "resid")},
        "got hook_point={'layer': 0, 'site': 'resid'}; expected a layer counted from 0 and a site",
    ),
    "metadata": (
        {"metadata": {"where": Path("a")}},
        "sae.json holds only plain JSON values: Object of type ",
    ),
    "circle": ({"metadata": circle()}, "sae.json holds only plain JSON values: Circular reference"),
    "surrogate": ({"labels": {0: "\ud800"}}, "labels.json holds only plain JSON values: 'utf-8' codec"),
    "high label": ({"labels": {9: "x"}}, "Got a label of latent 9; expected 0 to 3."),
    "low label": ({"labels": {-1: "x"}}, "Got a label of latent -1; expected 0 to 3."),
    "long label": (
        {"labels": {0: "x" * 10_001}},
        "got a label of 10001 characters for latent 0; expected at most 10000.",
    ),
    "no label": ({"labels": {0: None}}, "got '0': None; expected the number of a latent"),
    "convention": ({"subtract_b_dec": 1}, "got subtract_b_dec=1; expected true or false."),
    "dtype": (
        {name: tensor.to(torch.float8_e5m2) for name, tensor in make_sae().tensors()},
        "Got dtype='float8_e5m2'; expected one of float32, bfloat16, float16, float64.",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
@pytest.mark.parametrize("exists", [True, False])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, folder, case, exists):
    fields, message = FAILURES[case]
    before = content(folder)
    place = folder if exists else tmp_path / "new" / "sae"
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}"):
        make_sae(**fields).save(place)
    assert content(folder) == before
    assert not place.is_dir() or exists or not content(place)


def test_weights_too_large_for_their_type_on_disk_are_not_saved(tmp_path):
    sae = make_sae(b_dec=torch.full((D_IN,), 1e5))
    message = (
        r"^The SAE to be saved: b_dec holds NaN or infinity; expected finite torch\.float16 weights\. "
        r"Larger types may hold them\.$"
    )
    with pytest.raises(SAEFormatError, match=message):
        sae.save(tmp_path / "sae", dtype="float16")
    assert not (tmp_path / "sae").exists()


@pytest.mark.parametrize(
    "function",
    [
        "sae_features.saes.formats.writing.save_file",
        "sae_features.saes.formats.native.write_json",
        "sae_features.saes.formats.writing.write_json",
        "hashlib.file_digest",
    ],
)
def test_a_failing_disk_leaves_what_was_there(folder, monkeypatch, function):
    before = content(folder)
    monkeypatch.setattr(function, full_disk)
    with pytest.raises(FullDiskError):
        make_sae("relu").save(folder)
    assert content(folder) == before
    monkeypatch.undo()
    assert_same_sae(load_sae(folder), make_sae(hook_point=POINT, metadata=METADATA, labels=LABELS))


@pytest.mark.parametrize("dtype", ["float8", "int8", "torch.float16", ""])
def test_another_type_on_disk_is_refused(tmp_path, dtype):
    message = f"^Got dtype={dtype!r}; expected one of float32, bfloat16, float16, float64"
    with pytest.raises(InvalidParameterError, match=message):
        make_sae().save(tmp_path / "sae", dtype=dtype)
    assert not (tmp_path / "sae").exists()


def test_a_truncated_file_is_noticed(folder):
    weights = folder / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    message = r"got a file with SHA-256 [0-9a-f]{12}…, which is not what sae\.json says: it was damaged"
    refused(folder, message, load_only=True)


def test_exchanged_weights_are_noticed(folder, tmp_path):
    other = make_sae(b_enc=torch.zeros(N_LATENTS)).save(tmp_path / "other")
    (other / "sae.safetensors").replace(folder / "sae.safetensors")
    refused(folder, "it was damaged or exchanged. Get both files again.", load_only=True)


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_single_bit_is_noticed(folder, position):
    raw = bytearray((folder / "sae.safetensors").read_bytes())
    raw[position] ^= 1
    (folder / "draft").write_bytes(raw)
    (folder / "draft").replace(folder / "sae.safetensors")
    refused(folder, "it was damaged or exchanged. Get both files again.", load_only=True)


def test_an_exchanged_header_is_noticed(folder, tmp_path):
    other = make_sae("relu", b_enc=torch.zeros(N_LATENTS)).save(tmp_path / "other")
    (other / "sae.json").replace(folder / "sae.json")
    refused(folder, "it was damaged or exchanged. Get both files again.", load_only=True)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\0" * 7, b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", b"PK\3\4 a zip file"],
)
def test_what_is_no_safetensors_file_is_refused(folder, raw):
    raw = raw.ljust(MIN_BYTES, b"\0")
    (folder / "draft").write_bytes(raw)
    (folder / "draft").replace(folder / "sae.safetensors")
    rewrite(folder, weights_sha256=hashlib.sha256(raw).hexdigest())
    refused(folder, r"sae\.safetensors: not a whole (safetensors )?file: ", load_only=True)


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"n_latents": 2**31 - 1}, 4 * (3 * (2**31 - 1) + 2**31 - 1 + 3)),
        ({"d_in": 2**31 - 1, "dtype": "float16"}, 2 * ((2**31 - 1) * 4 + 4 + 2**31 - 1)),
        ({"d_in": 2**31 - 1, "n_latents": 2**31 - 1, "dtype": "float64"}, 8 * (2**62 - 1)),
        ({"d_in": 50, "dtype": "bfloat16"}, 2 * (50 * 4 + 4 + 50)),
        (
            {"architecture": "jumprelu", "n_latents": 24, "k": ..., "topk_relu": ...},
            4 * (3 * 24 + 24 + 3 + 24),
        ),
    ],
)  # fmt: skip
def test_a_header_cannot_promise_more_than_the_weights_hold(folder, fields, needed):
    nbytes = (folder / "sae.safetensors").stat().st_size
    rewrite(folder, **fields)
    header = json.loads((folder / "sae.json").read_text())
    refused(
        folder,
        f"sae.safetensors: got {nbytes} bytes; expected at least {needed} for d_in={header['d_in']}, "
        f"n_latents={header['n_latents']} in {header['dtype']}, as sae.json says. Get both files again.",
    )


@pytest.mark.parametrize("size", [0, 1, MIN_BYTES - 1])
def test_weights_that_were_cut_short_are_noticed_by_the_header_alone(folder, size):
    weights = folder / "sae.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    refused(
        folder, f"got {size} bytes; expected at least {MIN_BYTES} for d_in=3, n_latents=4 in float32"
    )


def test_the_name_of_a_blob_in_a_cache_does_not_stand_for_its_bytes(folder):
    """As in a Hugging Face cache, where a file is a link to a blob that is named by its SHA-256."""
    weights, blobs = folder / "sae.safetensors", folder / "blobs"
    blobs.mkdir()
    raw = bytearray(weights.read_bytes())
    blob = blobs / hashlib.sha256(raw).hexdigest()
    raw[-1] ^= 1
    blob.write_bytes(raw)
    weights.unlink()
    weights.symlink_to(blob)
    refused(folder, "it was damaged or exchanged. Get both files again.", load_only=True)


def test_missing_weights(folder):
    (folder / "sae.safetensors").unlink()
    refused(folder, r"sae\.safetensors is missing beside sae\.json\.")


def damaged_tensors():
    tensors = dict(make_sae().tensors())
    integers = torch.zeros(N_LATENTS, dtype=torch.int64)
    known = ["W_dec", "W_enc", "W_skip", "b_dec", "b_enc", "latent_scale", "selection_scale"]
    expected = f"expected {known}."
    yield "missing", {"b_enc": None}, f"got tensors ['W_dec', 'W_enc', 'b_dec']; {expected}"
    yield (
        "extra", {"gate": torch.zeros(1)},
        f"got tensors ['W_dec', 'W_enc', 'b_dec', 'b_enc', 'gate']; {expected}",
    )  # fmt: skip
    yield (
        "another architecture's",
        {"threshold": torch.zeros(4)},
        "got tensors ['W_dec', 'W_enc', 'b_dec'",
    )
    yield "transposed", {"W_enc": torch.zeros(4, 3)}, "got W_enc of shape (4, 3); expected (3, 4)."
    yield "scalar", {"b_dec": torch.tensor(0.0)}, "got b_dec of shape (); expected (3,)."
    yield "empty", {"b_enc": torch.zeros(0)}, "got b_enc of shape (0,); expected (4,)."
    yield (
        "integers",
        {"b_enc": integers},
        "got b_enc of type int64; expected float32, as the header says.",
    )
    yield (
        "another type",
        {"b_enc": torch.zeros(4).half()},
        "got b_enc of type float16; expected float32,",
    )
    yield (
        "8 bits",
        {"b_enc": torch.zeros(4).to(torch.float8_e5m2)},
        "got b_enc of type F8_E5M2; expected float32,",
    )
    yield "complex", {"b_enc": torch.zeros(4).cfloat()}, "got b_enc of type C64; expected float32,"
    for value in (np.nan, np.inf, -np.inf):
        damaged = tensors["W_dec"].clone()
        damaged[1, 2] = value
        yield (
            str(value),
            {"W_dec": damaged},
            "W_dec holds NaN or infinity; expected finite torch.float32",
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [case[1:] for case in damaged_tensors()],
    ids=[c[0] for c in damaged_tensors()],
)
def test_wrong_tensors_are_refused(folder, changes, message):
    tensors = dict(make_sae().tensors()) | changes
    exchange_weights(folder, {n: t.contiguous() for n, t in tensors.items() if t is not None})
    refused(folder, re.escape(f"sae.safetensors: {message}"), load_only=True)


def test_a_jumprelu_needs_its_threshold(folder):
    exchange_weights(folder, dict(make_sae().tensors()), architecture="jumprelu", k=..., topk_relu=...)
    refused(folder, r"got tensors .*; expected \[.*'threshold'\]\.", load_only=True)


def test_damage_in_a_decoder_that_is_not_wanted_does_not_matter(folder):
    tensors = dict(make_sae().tensors()) | {"W_dec": torch.full((N_LATENTS, D_IN), np.nan)}
    exchange_weights(folder, tensors)
    assert load_sae(folder, decoder=False).W_dec is None
    refused(folder, "W_dec holds NaN or infinity", load_only=True)


def test_weights_that_do_not_fit_into_the_wanted_type_are_refused(tmp_path):
    folder = make_sae(b_dec=torch.full((D_IN,), 1e5)).save(tmp_path)
    assert load_sae(folder, dtype="bfloat16").b_dec.dtype == torch.bfloat16
    with pytest.raises(SAEFormatError, match=r"b_dec holds NaN or inf.*finite torch\.float16 weights"):
        load_sae(folder, dtype="float16")


ARCHITECTURES = "expected one of relu, gated, topk, groupmax, jumprelu."
HOOK_POINT = "expected a layer counted from 0 and a site, as in {'layer': 0, 'site': 'resid_post'}."


SIZE = "an integer from 1 to 2147483647"
SCHEMA = "an integer from 0 to 2147483647"
TEXT = "text of at most 4096 characters"
FLAG = "true or false"


def wrong(name, value, expected):
    got = f"no {name}" if value is ... else f"{name}={value!r}"
    return {name: value}, f"got {got}; expected {expected}."


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"schema": 2}, "got schema 2 with unknown fields []; this version reads schema 1. Update"),
        ({"schema": 0}, "got schema 0 with unknown fields []; this version reads schema 1. Update"),
        wrong("schema", ..., SCHEMA),
        wrong("schema", "1", SCHEMA),
        wrong("schema", True, SCHEMA),
        wrong("schema", 1.0, SCHEMA),
        ({"norm": 2}, "got schema 1 with unknown fields ['norm']; this version reads schema 1. Update"),
        ({"format": "other"}, "got format 'other'; expected 'sae-features'."),
        ({"format": ...}, "got format None; expected 'sae-features'."),
        ({"format": ["sae-features"]}, "got format ['sae-features']; expected 'sae-features'."),
        ({"architecture": "swish"}, f"Got architecture='swish'; {ARCHITECTURES}"),
        ({"architecture": "gated"}, "Got k=2 with architecture='gated'; only topk and groupmax have k."),
        wrong("architecture", ..., TEXT),
        wrong("architecture", ["topk"], TEXT),
        wrong("d_in", "3", SIZE),
        wrong("d_in", 3.0, SIZE),
        wrong("d_in", True, SIZE),
        wrong("d_in", ..., SIZE),
        wrong("d_in", 0, SIZE),
        wrong("d_in", -3, SIZE),
        wrong("n_latents", 2**31, SIZE),
        ({"n_latents": None}, f"got n_latents=None; expected {SIZE}."),
        wrong("d_out", 0, SIZE),
        wrong("d_out", "3", SIZE),
        ({"k": ...}, "Got k=None; expected an integer from 1 to 4 (n_latents)."),
        ({"k": 0}, "Got k=0; expected an integer from 1 to 4 (n_latents)."),
        ({"k": 5}, "Got k=5; expected an integer from 1 to 4 (n_latents)."),
        ({"k": "2"}, "Got k='2'; expected an integer from 1 to 4 (n_latents)."),
        ({"k": 2.0}, "Got k=2.0; expected an integer from 1 to 4 (n_latents)."),
        ({"k": True}, "Got k=True; expected an integer from 1 to 4 (n_latents)."),
        ({"architecture": "relu"}, "Got k=2 with architecture='relu'; only topk and groupmax have k."),
        wrong("topk_relu", ..., FLAG),
        wrong("topk_relu", 1, FLAG),
        wrong("subtract_b_dec", "no", FLAG),
        wrong("subtract_b_dec", ..., FLAG),
        ({"dtype": "int8"}, "Got dtype='int8'; expected one of float32, bfloat16, float16, float64."),
        wrong("dtype", 32, TEXT),
        ({"weights_sha256": "ab"}, "got weights_sha256='ab'; expected 64 hex digits."),
        ({"weights_sha256": "G" * 64}, "got weights_sha256='GGGGGGGGGGGG...GGGGGGGGGGGGG'; expected 64"),
        ({"weights_sha256": "0" * 64 + "\n"}, "got weights_sha256='000000000000...00000000000\\n'; exp"),
        wrong("weights_sha256", 0, TEXT),
        wrong("metadata", [], "an object"),
        wrong("metadata", ..., "an object"),
        ({"input_norm": "l2"}, "Got input_norm='l2'; expected one of none, scale, center, layer_norm"),
        (
            {"input_norm": ["none"]},
            "Got input_norm=['none']; expected one of none, scale, center, layer_norm, rms_norm.",
        ),
        (
            {"input_norm": "scale", "denormalize": True},
            "Got norm_scale=None with input_norm='scale'; expected a scale with input_norm='scale', and",
        ),
        (
            {"norm_scale": 2.0},
            "Got norm_scale=2.0 with input_norm='none'; expected a scale with input_norm='scale', and",
        ),
        *(
            (
                {"input_norm": "scale", "norm_scale": scale, "denormalize": True},
                f"Got norm_scale={scale!r}; expected a finite number above 0.",
            )
            for scale in (0, -1.0, float("nan"), float("inf"), True, "2", [1])
        ),
        ({"input_norm": "rms_norm"}, f"got no denormalize; expected {FLAG}."),
        ({"input_norm": "rms_norm", "denormalize": 0}, f"got denormalize=0; expected {FLAG}."),
        (
            {"tensors": ["W_enc"]},
            "got tensors=['W_enc']; expected some of W_dec, W_skip, latent_scale, selection_scale.",
        ),
        ({"tensors": "W_dec"}, "got tensors='W_dec'; expected some of W_dec, W_skip, latent_scale, sel"),
        ({"tensors": [["W_dec"]]}, "got tensors=[['W_dec']]; expected some of W_dec, W_skip, "),
        ({"hook_point_out": {"layer": 1}}, f"got hook_point={{'layer': 1}}; {HOOK_POINT}"),
        ({"hook_point": "resid_post"}, f"got hook_point='resid_post'; {HOOK_POINT}"),
        ({"hook_point": {"layer": 1}}, f"got hook_point={{'layer': 1}}; {HOOK_POINT}"),
        ({"hook_point": [1, "resid_post"]}, f"got hook_point=[1, 'resid_post']; {HOOK_POINT}"),
        ({"hook_point": {"layer": -1, "site": "resid_post"}}, "got hook_point={'layer': -1, "),
        ({"hook_point": {"layer": True, "site": "resid_post"}}, "got hook_point={'layer': True, "),
        ({"hook_point": {"layer": 1.0, "site": "resid_post"}}, "got hook_point={'layer': 1.0, "),
        ({"hook_point": {"layer": 1, "site": "resid"}}, "got hook_point={'layer': 1, 'site': 'resid'}"),
        ({"hook_point": {"layer": 1, "site": []}}, "got hook_point={'layer': 1, 'site': []}; expected"),
        ({"hook_point": {"layer": 1, "site": "mlp_out", "head": 2}}, "got hook_point={'head': 2"),
    ],
)  # fmt: skip
def test_wrong_headers_are_refused(folder, fields, message):
    rewrite(folder, **fields)
    with pytest.raises(SAEFormatError, match=re.escape(f"sae.json: {message}")) as caught:
        header_of(folder)
    assert str(folder) in str(caught.value)
    with pytest.raises(SAEFormatError, match=re.escape(f"sae.json: {message}")):
        load_sae(folder, format="sae-features")


def test_without_a_hook_point(folder):
    rewrite(folder, hook_point=...)
    assert load_sae(folder).hook_point is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "could not be read as JSON: Expecting value"),
        ("{", "could not be read as JSON: Expecting property name"),
        ("{} {}", "could not be read as JSON: Extra data"),
        ("[]", "got a list; expected an object."),
        ('"sae-features"', "got a str; expected an object."),
        ("null", "got a NoneType; expected an object."),
        ("NaN", "got a float; expected an object."),
        ("[" * 100_000, "could not be read as JSON: "),
        ('{"format": ' * 90_000, "could not be read as JSON: "),
        ('{"format": "sae-features", "d_in": ' + "9" * 5000 + "}", "could not be read as JSON: Exceeds"),
    ],
    ids=lambda text: text[:12],
)
def test_what_is_no_json_object_is_refused(folder, text, message):
    (folder / "sae.json").write_text(text, encoding="utf-8")
    assert detects(folder)  # named as ours, so reading it says how it is damaged
    with pytest.raises(SAEFormatError, match=f"sae.json: {re.escape(message)}"):
        load_sae(folder, format="sae-features")


def test_a_byte_order_mark_does_not_matter(folder):
    path = folder / "sae.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert_same_sae(load_sae(folder), make_sae(hook_point=POINT, metadata=METADATA, labels=LABELS))


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / "sae.json").write_bytes(b'{"format": "\xff"}')
    refused(folder, r"sae\.json: could not be read as JSON: 'utf-8' codec can't decode byte 0xff")


def test_a_huge_header_is_not_read(folder, monkeypatch):
    monkeypatch.setitem(json_files.read_json.__kwdefaults__, "max_bytes", 1000)
    rewrite(folder, metadata={"notes": "x" * 1000})
    monkeypatch.setattr(json_files, "_once", full_disk)  # what parsing would call
    refused(folder, r"sae\.json: got more than 1000 bytes\.")


def test_a_header_too_huge_to_be_read_is_not_written(folder, monkeypatch):
    before = content(folder)
    monkeypatch.setitem(json_files.read_json.__kwdefaults__, "max_bytes", 1000)
    with pytest.raises(SAEFormatError, match=r"^got more than 1000 bytes\.$"):
        make_sae(metadata={"notes": "x" * 1000}).save(folder)
    assert content(folder) == before


def test_huge_values_do_not_flood_the_message(folder):
    for fields in ({"architecture": "x" * 9999}, {"d_in": ["x" * 9999] * 99}, {"metadata": "x" * 9999},
                   {"dtype": "y" * 9999}, {"hook_point": {str(i): i for i in range(999)}},
                   {str(i): i for i in range(999)}):  # fmt: skip
        rewrite(folder, **fields)
        refused(folder, r"sae\.json: ")
        rewrite(folder, **dict.fromkeys(fields, ...))
        make_sae().save(folder)


WRONG_METADATA = [
    ({"model": 3}, "Got model=3 in metadata; expected its name, or an object with id, revision and"),
    ({"model": ["m"]}, "Got model=['m'] in metadata; expected its name, or an object with id, rev"),
    ({"model": False}, "Got model=False in metadata; expected its name, or an object with id, rev"),
    ({"model": {"id": 5}}, "Got model's id=5 in metadata; expected text."),
    ({"model": {"id": {"a": 1}}}, "Got model's id={'a': 1} in metadata; expected text."),
    ({"model": {"revision": 1.5}}, "Got model's revision=1.5 in metadata; expected text."),
    ({"model": {"digest": "ab"}}, "Got model's digest='ab' in metadata; expected 64 hex digits."),
    ({"model": {"digest": 12}}, "Got model's digest=12 in metadata; expected 64 hex digits."),
    ({"model": {"digest": "0" * 64 + "\n"}}, "Got model's digest='000000000000...00000000000\\n' in"),
    ({"max_length": 0}, "Got max_length=0 in metadata; expected an integer above 0."),
    ({"max_length": -5}, "Got max_length=-5 in metadata; expected an integer above 0."),
    ({"max_length": "9" * 9999}, "Got max_length='999999999999...9999999999999' in metadata; expected"),
    ({"max_length": 128.0}, "Got max_length=128.0 in metadata; expected an integer above 0."),
    ({"max_length": True}, "Got max_length=True in metadata; expected an integer above 0."),
    ({"prepend_bos": 1}, "Got prepend_bos=1 in metadata; expected true or false."),
    ({"prepend_bos": "no"}, "Got prepend_bos='no' in metadata; expected true or false."),
]


@pytest.mark.parametrize(("metadata", "message"), WRONG_METADATA)
def test_metadata_that_are_acted_on_are_checked(folder, metadata, message):
    rewrite(folder, metadata=metadata)
    refused(folder, re.escape(f"sae.json: {message}"))
    before = content(folder)
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}"):
        make_sae(metadata=metadata).save(folder)
    assert content(folder) == before


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"model": "owner/name", "max_length": 1, "prepend_bos": True},
        {"model": {}, "prepend_bos": False},
        {"model": {"id": "m", "revision": None, "digest": None, "licence": ["x"]}},
        {"model": None, "max_length": None, "prepend_bos": None},
    ],
    ids=str,
)
def test_metadata_may_be_silent(folder, metadata):
    rewrite(folder, metadata=metadata)
    assert load_sae(folder).metadata == metadata


def test_unwanted_values_in_metadata_are_the_users_own(folder):
    rewrite(folder, metadata={"weights_sha256": "x", "k": 7})
    assert load_sae(folder).metadata == {"weights_sha256": "x", "k": 7}
    assert load_sae(folder).k == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"4": "x"}, "got '4': 'x'; expected the number of a latent, from 0 to 3 without"),
        ({"-1": "x"}, "got '-1': 'x'; expected the number of a latent, from 0 to 3 without"),
        ({"01": "x"}, "got '01': 'x'; expected the number of a latent, from 0 to 3 without"),
        ({"1.0": "x"}, "got '1.0': 'x'; expected the number of a latent, from 0 to 3 without"),
        ({"²": "x"}, "got '²': 'x'; expected the number of a latent, from 0 to 3 without"),
        ({"": "x"}, "got '': 'x'; expected the number of a latent, from 0 to 3 without"),
        (
            {"9" * 5000: "x"},
            "got '999999999999...9999999999999': 'x'; expected the number of a latent, from 0 to 3",
        ),
        ({"1": 5}, "got '1': 5; expected the number of a latent, from 0 to 3 without"),
        ({"1": None}, "got '1': None; expected the number of a latent, from 0 to 3 without"),
        (["x"], "got 'x'; expected one of index, latent, feature, latent_index, feature_index with the"),
        ("x", "got a str; expected an object or a list."),
    ],
)
def test_wrong_labels_are_refused(folder, labels, message):
    (folder / "labels.json").write_text(json.dumps(labels))
    refused(folder, re.escape(f"labels.json: {message}"), load_only=True)
    with pytest.raises(SAEFormatError, match=re.escape(f"labels.json: {message}")):
        _ = header_of(folder).labels


def test_labels_can_be_written_by_hand(folder):
    (folder / "labels.json").write_text('{"2": "two", "0": ""}')
    assert load_sae(folder).labels == header_of(folder).labels == {2: "two"}  # empty: none
    (folder / "labels.json").unlink()
    assert load_sae(folder).labels == {}


@pytest.mark.parametrize(("name", "value"), [("k", 2), ("norm_scale", 1.0)])
def test_what_the_files_say_cannot_be_said_again(folder, name, value):
    message = f"^Got {name}={value}; the files of format 'sae-features' say all of it already"
    with pytest.raises(InvalidParameterError, match=message):
        load_sae(folder, **{name: value})


def test_detection(folder, tmp_path):
    assert detects(folder)
    assert not detects(tmp_path)
    assert not detects(tmp_path / "sae.json")
    rewrite(folder, format="another")
    assert not detects(folder)


def test_no_files(tmp_path):
    with pytest.raises(SAEFormatError, match=r"sae\.json: could not be read as JSON: .*No such file"):
        load_sae(tmp_path, format="sae-features")
    with pytest.raises(AssetNotFoundError, match="nothing is there"):
        load_sae(tmp_path / "nowhere")
