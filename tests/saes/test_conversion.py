"""From what files declare to the canonical form: everything is checked before a weight is read."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import varied_sae

from sae_features import SAEFeaturesWarning, load_sae
from sae_features.errors import InvalidParameterError, SAEFormatError
from sae_features.hook_point import HookPoint
from sae_features.parameters import DTYPES
from sae_features.saes import formats
from sae_features.saes.folding import unit_decoder
from sae_features.saes.formats import SAEFiles
from sae_features.saes.formats.conversion import ConvertedFormat, Overrides, Piece, Plan

GOLDEN = Path(__file__).parents[1] / "golden"
D_IN, N_LATENTS = 4, 6
PIECES = {
    "W_enc": Piece("enc", transposed=True),
    "b_enc": Piece("bias"),
    "W_dec": Piece("dec"),
    "b_dec": Piece("offset"),
}


def tensors(dtype=torch.float32):
    sae = varied_sae("relu", d_in=D_IN, n_latents=N_LATENTS, dtype=dtype)
    return {
        "enc": sae.W_enc.T.contiguous(), "bias": sae.b_enc, "dec": sae.W_dec, "offset": sae.b_dec,
        "norms": torch.full((D_IN,), 2.0, dtype=dtype),
    }  # fmt: skip


def written(tmp_path, **changes):
    content = {**tensors(), **changes}
    save_file(
        {key: tensor for key, tensor in content.items() if tensor is not None},
        tmp_path / "w.safetensors",
    )
    return SAEFiles(tmp_path)


def format_of(**fields):
    plan = Plan("relu", D_IN, N_LATENTS, PIECES, unused=frozenset({"norms"}))
    return ConvertedFormat("mine", lambda files: True, lambda files, overrides: replace(plan, **fields))


def load(files, reader, **options):
    return reader.load(files, **{"device": "cpu", "dtype": "float32", "decoder": True, **options})


@pytest.fixture
def names_read(monkeypatch):
    """Names of tensors, as they are read from any safetensors file."""
    from sae_features.saes.formats.containers import SafetensorsFile

    names = []
    read = SafetensorsFile.read

    def spy(self, name):
        names.append(name)
        return read(self, name)

    monkeypatch.setattr(SafetensorsFile, "read", spy)
    return names


def refused(files, reader, message, kind=SAEFormatError, **overrides):
    """Assert that header and weights are refused alike."""
    for call in (partial(reader.read_header, files), partial(load, files, reader)):
        with pytest.raises(kind, match=f"^{re.escape(message)}"):
            call(**overrides)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_plan_is_carried_out(tmp_path, dtype):
    files = written(tmp_path)
    reader = format_of(
        conventions={"subtract_b_dec": False},
        hook_point=HookPoint(3),
        hook_point_out=HookPoint(3, "mlp_out"),
        metadata={"model": "m"},
    )
    sae = load(files, reader, dtype=dtype)
    wanted = getattr(torch, dtype)
    assert torch.equal(sae.W_enc, tensors()["enc"].T.to(wanted))
    for name, key in (("b_enc", "bias"), ("W_dec", "dec"), ("b_dec", "offset")):
        assert torch.equal(getattr(sae, name), tensors()[key].to(wanted))
    assert sae.conventions() == {"architecture": "relu", "subtract_b_dec": False}
    assert (sae.hook_point, sae.hook_point_out) == (HookPoint(3), HookPoint(3, "mlp_out"))
    assert (sae.metadata, sae.labels) == ({"model": "m"}, {})
    header = reader.read_header(files)
    assert (header.format, header.architecture, header.dtype) == ("mine", "relu", "float32")
    assert (header.d_in, header.d_out, header.n_latents) == (D_IN, D_IN, N_LATENTS)
    assert header.conventions == {"architecture": "relu", "subtract_b_dec": False}
    assert header.folded == {"format": "mine"}
    assert (header.path, header.weights) == (tmp_path, tmp_path / "w.safetensors")
    assert header.nbytes == (tmp_path / "w.safetensors").stat().st_size
    assert header.has_decoder
    assert sae.digest == header.digest


def test_a_header_is_read_without_a_weight(tmp_path, names_read):
    reader = format_of(fold=unit_decoder, fold_needs_decoder=True)
    reader.read_header(written(tmp_path))
    assert names_read == []


def test_a_decoder_is_read_only_where_it_is_needed(tmp_path, names_read):
    files = written(tmp_path)
    assert load(files, format_of(), decoder=False).W_dec is None
    assert sorted(names_read) == ["bias", "enc", "offset"]
    names_read.clear()
    load(files, format_of())
    assert sorted(names_read) == ["bias", "dec", "enc", "offset"]


def test_a_decoder_that_the_encoder_is_folded_with_is_read_and_let_go(tmp_path, names_read):
    files = written(tmp_path)
    reader = format_of(fold=unit_decoder, fold_needs_decoder=True)
    sae = load(files, reader, decoder=False)
    assert sorted(names_read) == ["bias", "dec", "enc", "offset"]
    assert sae.W_dec is None
    torch.testing.assert_close(sae.W_enc, tensors()["enc"].T * tensors()["dec"].norm(dim=1))


@pytest.mark.parametrize(
    ("case", "reads"),
    [("sparsify/skip_transcoder/files/layers.3.mlp", False), ("saelens/topk_rescaled/files", True)],
)
def test_formats_read_a_decoder_only_where_it_is_needed(names_read, case, reads):
    place = GOLDEN / case
    if not (place / "cfg.json").is_file():
        (place,) = (path.parent for path in place.rglob("cfg.json"))
    sae = load_sae(place, decoder=False)
    assert (sae.W_dec, sae.W_skip) == (None, None)
    assert ("W_dec" in names_read) == reads
    assert "W_skip" not in names_read
    assert len(names_read) == len(set(names_read))


def test_each_tensor_is_read_once(tmp_path, names_read):
    load(written(tmp_path), format_of(extras={"norms": ("norms", (D_IN,))}, fold=without_norms))
    assert sorted(names_read) == ["bias", "dec", "enc", "norms", "offset"]


def without_norms(given):
    norms = given.pop("norms")
    return given | {"W_enc": given["W_enc"] / norms[:, None]}


def test_extras_are_for_the_fold_alone(tmp_path):
    reader = format_of(extras={"norms": ("norms", (D_IN,))}, fold=without_norms)
    sae = load(written(tmp_path), reader, decoder=False)
    assert torch.equal(sae.W_enc, tensors()["enc"].T / 2)
    assert sae.W_dec is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_is_computed_is_computed_in_float32_or_better(tmp_path, dtype):
    seen = set()

    def fold(given):
        seen.update(tensor.dtype for tensor in given.values())
        return given | {"b_enc": given["b_enc"] / 3}

    halves = {key: tensor.to(dtype) for key, tensor in tensors().items()}
    sae = load(written(tmp_path, **halves), format_of(fold=fold), dtype="float64")
    assert seen == {torch.float32}
    assert torch.equal(sae.b_enc, (halves["bias"].float() / 3).double())
    converted = format_of(pieces=PIECES | {"b_enc": Piece("bias", convert=torch.exp)})
    sae = load(SAEFiles(tmp_path), converted)
    assert torch.equal(sae.b_enc, halves["bias"].float().exp())


def test_constants_stand_for_what_no_file_holds(tmp_path):
    pieces = {name: piece for name, piece in PIECES.items() if name != "b_dec"}
    files = written(tmp_path, offset=None)
    for decoder in (True, False):
        sae = load(files, format_of(pieces=pieces, constants={"b_dec": 0.5}), decoder=decoder)
        assert sae.b_dec.tolist() == [0.5] * D_IN
    reader = format_of(
        architecture="jumprelu", pieces=pieces, constants={"b_dec": 0.0, "threshold": 2.0}
    )
    assert load(files, reader, dtype="bfloat16").threshold.tolist() == [2.0] * N_LATENTS


def test_files_without_a_decoder(tmp_path):
    pieces = {name: piece for name, piece in PIECES.items() if name != "W_dec"}
    files, reader = written(tmp_path, dec=None), format_of(pieces=pieces)
    assert not reader.read_header(files).has_decoder
    assert load(files, reader).W_dec is None


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (
            "enc",
            torch.zeros(4, 6),
            "got enc of shape (4, 6); expected (6, 4), with d_in=4 and n_latents=6.",
        ),
        ("bias", torch.zeros(5), "got bias of shape (5,); expected (6,), with d_in=4 and n_latents=6."),
        (
            "dec",
            torch.zeros(6, 5),
            "got dec of shape (6, 5); expected (6, 4), with d_in=4 and n_latents=6.",
        ),
        ("offset", torch.zeros(1, 4), "got offset of shape (1, 4); expected (4,), with d_in=4 and n_"),
        (
            "offset",
            torch.tensor(0.0),
            "got offset of shape (); expected (4,), with d_in=4 and n_latents=6.",
        ),
        (
            "norms",
            torch.zeros(3),
            "got norms of shape (3,); expected (4,), with d_in=4 and n_latents=6.",
        ),
        (
            "bias",
            torch.zeros(6, dtype=torch.int64),
            "got bias of type int64; expected one of float32, bfloat16, float16, float64.",
        ),
        (
            "dec",
            torch.zeros(6, 4, dtype=torch.int8),
            "got dec of type int8; expected one of float32, bfl",
        ),
        (
            "enc",
            torch.zeros(6, 4, dtype=torch.complex64),
            "got enc of type C64; expected one of float32",
        ),
        (
            "norms",
            torch.zeros(4, dtype=torch.bool),
            "got norms of type bool; expected one of float32, b",
        ),
        ("dec", None, "got tensors 'bias', 'enc', 'norms', 'offset'; expected 'dec' among them."),
        ("norms", None, "got tensors 'bias', 'dec', 'enc', 'offset'; expected 'norms' among them."),
    ],
)
def test_tensors_that_do_not_fit(tmp_path, key, tensor, message):
    files = written(tmp_path, **{key: tensor})
    reader = format_of(extras={"norms": ("norms", (D_IN,))}, fold=without_norms)
    refused(files, reader, f"{tmp_path / 'w.safetensors'}: {message}")


def test_tensors_that_no_piece_stands_for(tmp_path):
    pieces = {"W_enc": PIECES["W_enc"], "W_dec": PIECES["W_dec"]}
    message = f"{tmp_path / 'w.safetensors'}: got no tensors for b_dec, b_enc."
    refused(written(tmp_path), format_of(pieces=pieces), message)
    refused(written(tmp_path), format_of(architecture="jumprelu"), message[:-13] + "threshold.")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"architecture": "topk"}, "Got k=None; expected an integer from 1 to 6 (n_latents)."),
        (
            {"architecture": "groupmax", "conventions": {"k": 4}},
            "Got k=4; expected a divisor of n_latents=6 for groupmax.",
        ),
        ({"conventions": {"k": 4}}, "Got k=4 with architecture='relu'; only topk and groupmax have k."),
        ({"conventions": {"input_norm": "rms"}}, "Got input_norm='rms'; expected one of none, scale, "),
        ({"conventions": {"input_norm": "scale"}}, "Got norm_scale=None with input_norm='scale'; "),
    ],
)
def test_conventions_that_do_not_fit(tmp_path, fields, message):
    refused(written(tmp_path), format_of(**fields), message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["enc", "bias", "dec", "offset"])
def test_weights_that_are_not_finite(tmp_path, key, value):
    damaged = tensors()[key].clone()
    damaged.view(-1)[-1] = value
    files = written(tmp_path, **{key: damaged})
    name = next(name for name, piece in PIECES.items() if piece.key == key)
    message = (
        f"{tmp_path / 'w.safetensors'}: {name} holds NaN or infinity; expected finite torch.float32"
    )
    with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}"):
        load(files, format_of())
    if key == "dec":
        assert load(files, format_of(), decoder=False).W_dec is None
    format_of().read_header(files)  # which does not look at them


def test_large_finite_weights_are_finite(tmp_path):
    large = torch.full((N_LATENTS,), torch.finfo(torch.float32).max)  # their sum is not
    assert torch.equal(load(written(tmp_path, bias=large), format_of()).b_enc, large)


class TestOverrides:
    @pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "2", True, [1.0]])
    def test_what_is_no_scale(self, tmp_path, scale):
        with pytest.raises(
            InvalidParameterError, match=r"^Got norm_scale=.*; expected a finite number above 0"
        ):
            Overrides(norm_scale=scale)

    @pytest.mark.parametrize("k", [0, -3, 2.0, "2", True])
    def test_what_is_no_k(self, tmp_path, k):
        message = f"^Got k={k!r}; expected None or an integer above 0\\.$"
        with pytest.raises(InvalidParameterError, match=message):
            Overrides(k=k)

    @pytest.mark.parametrize(("name", "value"), [("k", 3), ("norm_scale", 0.5)])
    def test_what_no_plan_has_a_use_for(self, tmp_path, name, value):
        files = written(tmp_path)
        message = (
            f"Got {name}={value}, but the files of {str(tmp_path)!r} say all that decides it "
            "(sae-features inspect shows it). Leave it out."
        )
        refused(files, format_of(), message, InvalidParameterError, **{name: value})
        format_of().read_header(files, **{name: None})

    @pytest.mark.parametrize("case", ["sparsify/topk/files/layers.3", "saelens/jumprelu/files"])
    def test_what_the_files_say_cannot_be_said_again(self, case):
        place = GOLDEN / case
        if not (place / "cfg.json").is_file():
            (place,) = (path.parent for path in place.rglob("cfg.json"))
        for given in ({"k": 4}, {"norm_scale": 2.0}):
            with pytest.raises(
                InvalidParameterError,
                match=r"say all that decides it \(sae-features inspect shows it\)\. Leave it out\.$",
            ):
                load_sae(place, **given)

    def test_what_a_plan_settles(self, tmp_path):
        def plan(files, overrides):
            return Plan(
                "topk",
                D_IN,
                N_LATENTS,
                PIECES,
                conventions={"k": overrides.k},
                settled=frozenset({"k"}),
                unused=frozenset({"norms"}),
            )

        reader = ConvertedFormat("mine", lambda files: True, plan)
        files = written(tmp_path)
        assert load(files, reader, k=2).k == 2
        assert reader.read_header(files, k=2).conventions["k"] == 2
        assert reader.read_header(files, k=2).digest != reader.read_header(files, k=3).digest
        refused(files, reader, "Got k=7; expected an integer from 1 to 6 (n_latents).", k=7)


def test_what_is_left_open_is_warned_of_when_it_is_loaded(tmp_path, monkeypatch):
    files = written(tmp_path)
    reader = format_of(warnings=("One thing is open.", "So is another."))
    monkeypatch.setattr(formats, "load_entry_point", lambda group, name: reader)
    monkeypatch.setattr(formats, "names_of_group", lambda group: ("mine",))
    assert reader.read_header(files).warnings == ("One thing is open.", "So is another.")  # no warning
    with pytest.warns(SAEFeaturesWarning) as caught:
        load_sae(tmp_path, format="mine")
    assert [str(warning.message) for warning in caught] == ["One thing is open.", "So is another."]
    assert {warning.filename for warning in caught} == {__file__}  # of whoever called load_sae


def test_a_tensor_that_nothing_is_known_of_is_warned_of(tmp_path):
    files = written(tmp_path, more=torch.zeros(1))
    message = f"The SAE {str(tmp_path)!r} holds tensors that are not known, and were not used: 'more'."
    assert format_of().read_header(files).warnings == (message,)
    with pytest.warns(SAEFeaturesWarning, match=f"^{re.escape(message)}$"):
        load(files, format_of())
    many = SAEFiles(written(tmp_path, **{f"more{i}": torch.zeros(1) for i in range(9)}).path)
    (warning,) = format_of(unused=frozenset()).read_header(many).warnings
    assert warning.endswith("not used: 'more0', 'more1', 'more2', 'more3', 'more4' ….")


@pytest.mark.parametrize("name", ["threshold", "b_gate", "W_skip"])
def test_a_tensor_that_contradicts_the_configuration_is_refused(tmp_path, name):
    message = (
        f"{tmp_path / 'w.safetensors'}: got {name}, which architecture='relu' has no use for; expected "
        "a configuration and tensors of the same SAE."
    )
    refused(written(tmp_path, **{name: torch.zeros(6)}), format_of(), message)


def test_a_fold_that_needs_a_decoder_gets_one(tmp_path):
    pieces = {name: piece for name, piece in PIECES.items() if name != "W_dec"}
    reader = format_of(pieces=pieces, fold=unit_decoder, fold_needs_decoder=True)
    message = f"{tmp_path / 'w.safetensors'}: got no tensors for W_dec."
    refused(written(tmp_path, dec=None), reader, message)


def test_what_is_folded_must_be_finite_before(tmp_path):
    files = written(tmp_path, bias=torch.full((6,), -torch.inf))
    reader = format_of(pieces=PIECES | {"b_enc": Piece("bias", convert=torch.exp)})  # to zeros
    with pytest.raises(SAEFormatError, match="bias holds NaN or infinity"):
        load(files, reader)
    files = written(tmp_path, norms=torch.full((4,), torch.inf))
    with pytest.raises(SAEFormatError, match="norms holds NaN or infinity"):
        load(SAEFiles(tmp_path), format_of(extras={"norms": ("norms", (4,))}, fold=without_norms))


def test_what_is_folded_is_part_of_the_digest(tmp_path):
    files = written(tmp_path)
    digests = {
        format_of(folded=folded).read_header(files).digest
        for folded in ({}, {"scale": 1.0}, {"scale": 2.0})
    }
    assert len(digests) == 3
    other = replace(format_of(), name="other")
    assert other.read_header(files).digest != format_of().read_header(files).digest
