"""Which format files are of: by their own evidence, or as the caller says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny import random_sae

from sae_features import SAEFeaturizer, load_sae
from sae_features.discovery import warn_once
from sae_features.errors import AssetNotFoundError, PluginError, SAEFeaturesWarning, SAEFormatError
from sae_features.releases import find_sae
from sae_features.saes import formats
from sae_features.saes.formats import SAEFiles, find_format, writer_of
from sae_features.saes.formats.native import FORMAT
from sae_features.saes.random_control import random_autoencoder


class SuffixFormat:
    """Recognises files by their suffix."""

    def __init__(self, suffix):
        self.suffix = suffix

    def detect(self, files):
        return files.path.suffix == self.suffix


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


def found(path, *arguments):
    """Name and reader, asserting that the files are those that were asked for."""
    name, reader, files = find_format(path, *arguments)
    assert isinstance(files, SAEFiles)
    assert files.path == Path(path)
    return name, reader


def test_the_format_is_detected(readers, tmp_path):
    assert found(file(tmp_path, "sae.two")) == ("second", READERS["second"])
    assert found(str(tmp_path / "sae.two")) == ("second", READERS["second"])


def test_no_format_recognises_the_files(readers, tmp_path):
    path = tmp_path / "sae.safetensors"
    save_file({"a": np.zeros(2)}, path)
    message = (
        f"Got {str(path)!r} with tensors 'a', which none of the formats recognises: sae-features, "
        "first, second, greedy. Put the configuration beside the weights, or name the format with "
        "format=, which says what it lacks."
    )
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
        find_format(path)


def test_an_empty_folder_is_of_no_format(readers, tmp_path):
    with pytest.raises(SAEFormatError, match="got no file of weights; expected one "):
        find_format(tmp_path)


def test_several_formats_recognise_the_files(readers, tmp_path):
    path = file(tmp_path, "sae.one")
    message = ", which several formats recognise: first, greedy. Name one with format=."
    with pytest.raises(SAEFormatError, match=f"{re.escape(message)}$"):
        find_format(path)


@pytest.mark.parametrize("name", ["greedy", "second"])
def test_a_name_overrides_detection(readers, tmp_path, name):
    assert found(file(tmp_path, "sae.one"), name) == (name, READERS[name])


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
    assert found(folder) == ("sae-features", FORMAT)
    assert found(folder, "sae-features") == ("sae-features", FORMAT)


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


def fail(files):
    raise RuntimeError("no such card")


@pytest.mark.parametrize(
    ("reader", "reason"),
    [
        (FailingFormat(fail), "RuntimeError: no such card"),
        (FailingFormat(lambda files: np.zeros(2)), "ValueError: The truth value of an array"),
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
    with pytest.raises(SAEFormatError, match="got a file of another kind"):
        find_format(file(tmp_path, "sae.three"))
    assert found(folder, "odd") == ("odd", reader)


def test_complaints_about_damaged_files_are_said_once(readers, monkeypatch, tmp_path):
    def complain(files):
        raise SAEFormatError("sae.one: got half of it.")

    for name in ("odd", "odder"):
        monkeypatch.setitem(READERS, name, FailingFormat(complain))
    with pytest.raises(SAEFormatError, match=r"^sae\.one: got half of it\.$"):
        find_format(file(tmp_path, "sae.three"))
    assert found(file(tmp_path, "sae.two"))[0] == "second"  # whoever recognises them counts


def test_those_that_can_be_written_are_named():
    with pytest.raises(SAEFormatError) as raised:
        writer_of("openai")
    assert str(raised.value) == (
        "Got format='openai', which can only be read; those that can be written: sae-features, saelens, "
        "sparsify."
    )
    with pytest.raises(
        SAEFormatError, match=r"^Got format='sealens'; expected .*Did you mean 'saelens'"
    ):
        random_autoencoder(3, 4, 2).save("nowhere", format="sealens")


THIRD_PARTY = """
import json
from sae_features.saes.autoencoder import SparseAutoencoder
from sae_features.saes.formats.header import SAEHeader


class Format:
    def detect(self, files):
        return files.config("third.json") is not None

    def read_header(self, files, **overrides):
        shape = files.shape("encoder")
        return SAEHeader(
            format="third", path=files.path, weights=files.weights, architecture="relu",
            d_in=shape[0], d_out=shape[0], n_latents=shape[1], dtype=files.infos["encoder"].dtype,
            conventions={"architecture": "relu", "subtract_b_dec": False},
            metadata={"model": files.config("third.json").get("model")},
        )

    def load(self, files, *, device, dtype, decoder, **overrides):
        import torch

        encoder = files.container.read("encoder").to(device, getattr(torch, dtype))
        return SparseAutoencoder(
            "relu", W_enc=encoder, b_enc=encoder.new_zeros(encoder.shape[1]),
            b_dec=encoder.new_zeros(encoder.shape[0]), subtract_b_dec=False,
        )

    def write(self, sae, folder, dtype):
        from safetensors.torch import save_file

        folder.mkdir()
        save_file({"encoder": sae.W_enc}, folder / "w.safetensors")
        (folder / "third.json").write_text(json.dumps({"model": sae.metadata["model"]}))
        return folder


FORMAT = Format()
"""


@pytest.fixture
def third_party(install):
    """A format of someone else's."""
    install(
        "sae-features-third",
        {formats.GROUP: {"third": "third_party_format:FORMAT"}},
        modules={"third_party_format": THIRD_PARTY},
    )


def test_a_format_of_a_third_party_is_read_and_written(third_party, tmp_path):
    sae = random_sae("relu", d_in=4, n_latents=6, metadata={"model": "owner/name"})
    folder = sae.save(tmp_path / "sae", format="third")
    assert find_format(folder)[0] == "third"
    loaded = load_sae(folder)
    assert torch.equal(loaded.W_enc, sae.W_enc)
    reference = find_sae(folder)
    assert (reference.n_latents, reference.metadata) == (6, {"model": "owner/name"})
    assert load_sae(folder / "w.safetensors", dtype="float64").dtype == torch.float64


def test_a_format_of_a_third_party_serves_the_featurizer(third_party, tiny_bert, tmp_path):
    sae = random_sae("relu", metadata={"model": str(tiny_bert)})
    folder = sae.save(tmp_path / "sae", format="third")
    featurizer = SAEFeaturizer(str(tiny_bert), layer=1, sae=str(folder), cache=False)
    features = featurizer.fit_transform(["a calm sea", "the old road"])
    assert features.shape == (2, 48)
    plain = replace(
        sae, b_enc=torch.zeros(48), b_dec=torch.zeros(32), W_dec=None, subtract_b_dec=False
    ).save(tmp_path / "plain")
    expected = SAEFeaturizer(str(tiny_bert), layer=1, sae=str(plain), cache=False).fit_transform(
        ["a calm sea", "the old road"]
    )
    np.testing.assert_array_equal(features.toarray(), expected.toarray())
    assert features.nnz > 0
    assert featurizer.sae_digest_ == find_sae(folder).header.digest
