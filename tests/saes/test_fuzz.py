"""Files that no one should trust end in a clear error, or in the SAE that they hold.

Hundreds of random cases of :mod:`saes.fuzzing`, and by name each attack that must never work.
``benchmarks/sae_fuzz.py`` runs thousands, with bounds on memory and time.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saes import fuzzing
from saes.fuzzing.building import dict_pickle, npy_of, pickle_of, short, tensor_pickle, zip_of, zip_parts
from saes.fuzzing.pickles import attack_pickles, attack_values, checkpoint, stored
from saes.fuzzing.samples import MARKER, write_files

from sae_features import SAEFeaturesWarning, load_sae
from sae_features.errors import SAEFormatError

SAMPLES = fuzzing.golden_samples()
BY_NAME = {sample.name: sample for sample in SAMPLES}
ONE_PER_FORMAT = list({sample.format: sample for sample in SAMPLES}.values())
WITH_JSON = [sample for sample in ONE_PER_FORMAT if (sample.config or "").endswith(".json")]
OF_SUFFIX = {sample.suffix: sample for sample in SAMPLES}
GOOD = {"error", "correct", "told"}
CHECKPOINT = BY_NAME["goodfire/relu"]
CHECKPOINT_KEY = "encoder_linear.weight"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; what is run would write into the one beside it."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "case"


def refused(sample, folder, match, weights=None, *, settings=None, suffix=None, **arguments):
    """Expect an error of a sample with other weights, or other settings in its configuration."""
    files = dict(sample.files)
    if settings is not None:
        config = {**json.loads(files[sample.config]), **settings}
        files[sample.config] = json.dumps(config).encode()
    name = sample.weights
    if suffix is not None:
        files.pop(name)
        name = name.rsplit(".", 1)[0] + suffix
    if weights is not None:
        files[name] = weights
    write_files(files, folder)
    place = folder / (name if suffix or sample.place == sample.weights else sample.place)
    with pytest.raises(SAEFormatError, match=match):
        load_sae(place, **sample.arguments, **arguments)
    assert not (folder / MARKER).exists()
    assert not any(folder.parent.rglob(MARKER))


class TestRandomCases:
    @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(rng=st.randoms(use_true_random=True))
    def test_a_clear_error_or_a_correct_load(self, rng, tmp_path_factory):
        folder = tmp_path_factory.getbasetemp() / "fuzz"
        case, mutator = fuzzing.draw_case(rng, SAMPLES)
        fuzzing.empty(folder)
        outcome = fuzzing.judge(case, folder, decoder=rng.random() < 0.75)
        assert outcome.kind in GOOD, (mutator, case.sample.name, case.name, outcome)

    @pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
    def test_what_is_not_damaged_is_loaded(self, sample, folder):
        assert fuzzing.judge(fuzzing.Case(sample, "as it is", sample.files), folder).kind == "correct"


class TestNumbers:
    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("sample", ONE_PER_FORMAT, ids=lambda sample: sample.format)
    def test_what_is_not_finite_is_refused_in_every_tensor(self, sample, value, folder):
        for name in sample.used:
            tensor = sample.tensors[name].clone(memory_format=torch.contiguous_format)
            if tensor.is_floating_point():
                tensor.view(-1)[-1] = value
                content = sample.written({**sample.tensors, name: tensor})
                fuzzing.empty(folder)
                refused(sample, folder, "NaN or infinity|one finite number|finite number above", content)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64, torch.uint8])
    @pytest.mark.parametrize("sample", ONE_PER_FORMAT, ids=lambda sample: sample.format)
    def test_weights_that_are_no_floats_are_refused(self, sample, dtype, folder):
        name = next(name for name in sample.used if sample.tensors[name].ndim == 2)
        with warnings.catch_warnings(action="ignore"):
            content = sample.written({**sample.tensors, name: sample.tensors[name].to(dtype)})
        kind = str(dtype).removeprefix("torch.")
        match = f"got {name} of type {kind}; expected one of float32" if kind == "int32" else "got "
        refused(sample, folder, match, content)

    @pytest.mark.parametrize("sample", ONE_PER_FORMAT, ids=lambda sample: sample.format)
    def test_a_transposed_matrix_is_refused(self, sample, folder):
        name = next(name for name in sample.used if sample.tensors[name].ndim == 2)
        content = sample.written({**sample.tensors, name: sample.tensors[name].mT.contiguous()})
        refused(sample, folder, "expected", content)

    @pytest.mark.parametrize("k", [0, -1, 17, 2.0, "3", True, None, [3], 10**30])
    def test_k_is_a_number_of_latents(self, k, folder):
        refused(BY_NAME["sparsify/topk"], folder, "k=", settings={"k": k})

    def test_numbers_that_no_type_holds_are_refused(self, folder):
        settings = {"jump_relu_threshold": 10**400}
        refused(BY_NAME["llama_scope/residual"], folder, "jump_relu_threshold=", settings=settings)


class TestHostilePickles:
    """``os.system`` and its like in a pickle create no file, whatever they stand in."""

    @pytest.mark.parametrize("called", ["os.system", "builtins.eval", "STACK_GLOBAL", "INST", "OBJ"])
    def test_they_would_if_they_were_run(self, called, folder):
        pickle.loads(b"\x80\x02" + attack_values()[called] + b".")
        assert any(folder.parent.rglob(MARKER))

    @pytest.mark.parametrize("named", sorted(attack_values()))
    def test_in_a_checkpoint(self, named, folder):
        value, suffix = attack_values()[named], ".pt" if len(named) % 2 else ".pth"
        items, records = stored(CHECKPOINT)
        for content in (*attack_pickles(value).values(), dict_pickle({**items, "x": value})):
            weights = checkpoint(CHECKPOINT, content, records)
            fuzzing.empty(folder)
            if named == "a huge memo index":
                write_files({f"sae{suffix}": weights}, folder)
                with pytest.raises(SAEFormatError):
                    load_sae(folder / f"sae{suffix}", format="overcomplete")
            else:
                refused(
                    CHECKPOINT,
                    folder,
                    "got a (pickle that needs|damaged pickle|zip)",
                    weights,
                    suffix=suffix,
                )

    def test_the_message_names_what_it_needs_and_how_to_convert(self, folder):
        weights = checkpoint(CHECKPOINT, pickle_of("os.system", "touch"), [])
        match = (
            r"got a pickle that needs 'os\.system'; expected nothing but tensors and plain values, "
            r"since more than that could run code\. .* safetensors\.torch\.save_file\.$"
        )
        refused(CHECKPOINT, folder, match, weights)

    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".bin"])
    @pytest.mark.parametrize("named", ["os.system", "torch.load nested", "STACK_GLOBAL"])
    def test_without_a_zip_file_around_it(self, named, suffix, folder):
        content = b"\x80\x02" + attack_values()[named] + b"."
        match = r"got a file of another kind; .* could run code and are not opened: load the file with"
        refused(CHECKPOINT, folder, match, content, suffix=suffix)

    def test_a_checkpoint_of_before_torch_1_6(self, folder):
        stream = io.BytesIO()
        torch.save(CHECKPOINT.content, stream, _use_new_zipfile_serialization=False)
        match = r"written by torch\.save since torch 1\.6\. .*safetensors\.torch\.save_file\.$"
        refused(CHECKPOINT, folder, match, stream.getvalue())

    def test_in_an_array_of_objects(self, folder):
        sample = BY_NAME["gemma_scope/residual"]
        parts = dict(zip_parts(sample.files[sample.weights]))
        parts["W_enc.npy"] = npy_of("|O", (6, 20), pickle_of("os.system", f"touch {MARKER}"))
        refused(sample, folder, r"'W_enc\.npy' of type object; expected numbers", zip_of(parts.items()))

    def test_in_a_second_member_of_almost_the_same_name(self, folder):
        weights = CHECKPOINT.files[CHECKPOINT.weights]
        parts = zip_parts(weights)
        attack = pickle_of("os.system", f"touch {MARKER}")
        for name in ("archive/DATA.PKL", "data.pkl", "archive/x/data.pkl", "archive/constants.pkl"):
            fuzzing.empty(folder)
            root = parts[0][0].split("/")[0]
            added = (name.replace("archive", root), attack)
            refused(CHECKPOINT, folder, "members|zip file with", zip_of([added, *parts]))

    def test_in_a_configuration(self, folder):
        sample = BY_NAME["transcoder/relu"]
        files = {**sample.files, "config.yaml": b"!!python/object/apply:os.system ['touch executed']"}
        write_files(files, folder)
        with pytest.raises(SAEFormatError, match=r"config\.yaml: could not be read as YAML"):
            load_sae(folder / sample.place)
        assert not any(folder.parent.rglob(MARKER))

    def test_before_torch_2_10_checkpoints_are_refused(self, folder, monkeypatch):
        monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was opened"))
        match = r"got torch 2\.9\.1\+cu128; expected 2\.10 or newer to open \.pt files, .*save_file\.$"
        refused(CHECKPOINT, folder, match)


class TestSizes:
    """What is declared is compared with what is there, before memory is taken for it."""

    @pytest.fixture(autouse=True)
    def _little_memory(self):
        tracemalloc.start()
        yield
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 32 * 2**20

    @pytest.mark.parametrize("length", [0, 3, 10**5, 2**31, 2**40, 2**63, 2**64 - 1])
    def test_the_length_of_a_safetensors_header(self, length, folder):
        sample = BY_NAME["saelens/standard"]
        raw = sample.files[sample.weights]
        refused(sample, folder, "not a whole safetensors file", struct.pack("<Q", length) + raw[8:])

    @pytest.mark.parametrize("offsets", [[0, 24], [-4, 20], [20, 0], [0, 2**63], [100, 124], [1, 25]])
    def test_offsets_that_overlap_or_leave_the_file(self, offsets, folder):
        sample = BY_NAME["saelens/standard"]
        raw = sample.files[sample.weights]
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        header["b_dec"]["data_offsets"] = offsets
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + raw[8 + size :]
        refused(sample, folder, "not a whole safetensors file", content)

    def test_a_name_twice_in_a_safetensors_header(self, folder):
        sample = BY_NAME["saelens/standard"]
        raw = sample.files[sample.weights]
        size = int.from_bytes(raw[:8], "little")
        text = raw[8 : 8 + size].rstrip()
        again = json.dumps({"b_dec": json.loads(text)["b_dec"]}).encode()
        text = text[:-1] + b"," + again[1:]
        content = struct.pack("<Q", len(text)) + text + raw[8 + size :]
        refused(sample, folder, "a name twice in its header", content)

    @pytest.mark.parametrize("compress", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
    @pytest.mark.parametrize("suffix", [".npz", ".pt"])
    def test_a_bomb(self, suffix, compress, folder):
        sample = OF_SUFFIX[suffix]
        parts = dict(zip_parts(sample.files[sample.weights][len(sample.first_line) :]))
        name = next(name for name in parts if name.endswith(".npy") or "/data/" in name)
        nbytes = 8 * 2**20
        parts[name] = npy_of("<f4", (nbytes // 4,), b"") + bytes(nbytes)
        bomb = sample.first_line + zip_of(parts.items(), compress=compress)
        refused(sample, folder, "declare|compressed", bomb)

    def test_members_that_share_their_content(self, folder):
        raw = bytearray(CHECKPOINT.files[CHECKPOINT.weights])
        first = raw.find(b"PK\1\2")
        second = raw.find(b"PK\1\2", first + 4)
        raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
        refused(CHECKPOINT, folder, "overlap|not where, or what", bytes(raw))

    def test_a_directory_that_is_not_last(self, folder):
        refused(
            CHECKPOINT, folder, "ends with its directory", CHECKPOINT.files[CHECKPOINT.weights] + b"\0"
        )

    def test_something_before_a_zip_file(self, folder):
        raw = b"PK\0\0" + CHECKPOINT.files[CHECKPOINT.weights]
        refused(CHECKPOINT, folder, "does not end where it says|two directories", raw)

    @pytest.mark.parametrize("shape", [(6, 21), (2**31, 2**31), (10**30,), (-6, -20), (0, 20), (6,)])
    def test_the_shape_in_an_npy_header(self, shape, folder):
        sample = BY_NAME["gemma_scope/residual"]
        parts = dict(zip_parts(sample.files[sample.weights]))
        parts["W_enc.npy"] = npy_of("<f4", shape, bytes(4 * 6 * 20))
        match = r"got \d+ bytes for 'W_enc\.npy'; expected -?\d+, as its own header says"
        refused(sample, folder, match, zip_of(parts.items()))

    @pytest.mark.parametrize("header", [b"(" * 60_000, b"-" * 60_000 + b"1", b"__import__('os')"])
    def test_an_npy_header_that_is_no_dictionary(self, header, folder):
        sample = BY_NAME["gemma_scope/residual"]
        parts = dict(zip_parts(sample.files[sample.weights]))
        parts["W_enc.npy"] = npy_of(header, (), b"")
        refused(sample, folder, "not a whole file: ValueError", zip_of(parts.items()))

    @pytest.mark.parametrize(
        ("numel", "offset", "shape", "stride", "match"),
        [
            (96, 0, (16, 6), (0, 0), "a stride of 0"),
            (96, 0, (2**40, 6), (0, 1), "a stride of 0"),
            (96, 0, (2**40, 2**40), (1, 1), "that its storage lacks"),
            (96, 0, (16, 6), (1, 1), "that overlaps itself"),
            (96, 1, (16, 6), (6, 1), "that its storage lacks"),
            (96, 0, (16, 7), (7, 1), "that its storage lacks"),
            (97, 0, (97,), (1,), r"got 384 bytes in data/\d+; expected 388"),
            (2**40, 0, (2**40,), (1,), r"got 384 bytes in data/\d+; expected 4398046511104"),
            (2**62, 0, (16, 6), (6, 1), "else than a storage"),
            (-96, 0, (16, 6), (6, 1), "else than a storage"),
            (96, 0, (16, 6, 1), (6, 1), "else than a storage"),
        ],
    )
    def test_a_tensor_that_its_storage_does_not_hold(self, numel, offset, shape, stride, match, folder):
        key = str(list(CHECKPOINT.content).index(CHECKPOINT_KEY))
        lie = tensor_pickle("FloatStorage", key, numel, offset, shape, stride)
        items, records = stored(CHECKPOINT, **{CHECKPOINT_KEY: lie})
        refused(CHECKPOINT, folder, match, checkpoint(CHECKPOINT, dict_pickle(items), records))

    def test_a_storage_of_another_record(self, folder):
        lie = tensor_pickle("FloatStorage", "99", 96, 0, (16, 6), (6, 1))
        items, records = stored(CHECKPOINT, **{CHECKPOINT_KEY: lie})
        match = "got 4 records of numbers; expected one per storage"
        refused(CHECKPOINT, folder, match, checkpoint(CHECKPOINT, dict_pickle(items), records))

    def test_few_bytes_that_stand_for_many_values(self, folder):
        bombs = {
            name: value for name, value in attack_values().items() if "bomb" in name or "itself" in name
        }
        assert len(bombs) == 3
        for value in bombs.values():
            fuzzing.empty(folder)
            weights = checkpoint(CHECKPOINT, dict_pickle({"x": value}), [])
            refused(CHECKPOINT, folder, "too many values|damaged|plain values", weights)


class TestConfigurations:
    @pytest.mark.parametrize(
        "text", [b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 5000 + b"}"]
    )
    def test_json_that_is_too_deep_or_too_long(self, text, folder):
        sample = BY_NAME["saelens/standard"]
        write_files({**sample.files, sample.config: text}, folder)
        with pytest.raises(SAEFormatError, match=r"cfg\.json: could not be read as JSON"):
            load_sae(folder / sample.place)

    def test_json_of_more_bytes_than_any_has(self, folder):
        text = b'{"a": "' + b"x" * 2**20 + b'"}'
        sample = BY_NAME["saelens/standard"]
        write_files({**sample.files, sample.config: text}, folder)
        with pytest.raises(SAEFormatError, match="got more than 1048576 bytes"):
            load_sae(folder / sample.place)

    def test_a_setting_twice(self, folder):
        sample = BY_NAME["sparsify/topk"]
        text = sample.files[sample.config].rstrip()[:-1] + b', "k": 3}'
        write_files({**sample.files, sample.config: text}, folder)
        with pytest.raises(SAEFormatError, match="got a name twice in one object"):
            load_sae(folder / sample.place)

    @pytest.mark.parametrize("text", [b"{" * 60_000, b"[a," * 20_000, b"- " * 30_000, b"? " * 30_000])
    def test_yaml_that_is_deep_takes_no_time(self, text, folder):
        sample = BY_NAME["transcoder/relu"]
        write_files({**sample.files, sample.config: text}, folder)
        started = time.process_time()
        with pytest.raises(SAEFormatError, match="too deep values"):
            load_sae(folder / sample.place)
        assert time.process_time() - started < 5  # all of it takes minutes

    def test_labels_of_more_bytes_than_latents_have(self, folder):
        sample = BY_NAME["saelens/standard"]
        labels = b"[" + b"[]," * 2**19 + b"[]]"
        path = f"{sample.place}/labels.json"
        write_files({**sample.files, path: labels}, folder)
        with pytest.warns(SAEFeaturesWarning, match=r"labels\.json: got more than 1114112 bytes"):
            assert load_sae(folder / sample.place).labels == {}

    @pytest.mark.parametrize("line", [b"a%d: &a%d [*a%d, *a%d]\n", b"a%d: &a%d {<<: [*a%d, *a%d]}\n"])
    def test_yaml_whose_aliases_make_billions(self, line, folder):
        text = b"a0: &a0 {x: 1}\n" + b"".join(line % (n, n, n - 1, n - 1) for n in range(1, 40))
        sample = BY_NAME["transcoder/relu"]
        write_files({**sample.files, sample.config: text}, folder)
        with pytest.raises(SAEFormatError, match="got an alias"):
            load_sae(folder / sample.place)

    @pytest.mark.parametrize("sample", WITH_JSON, ids=lambda sample: sample.format)
    @pytest.mark.parametrize("value", [[], {"a": []}, 10**400, "x" * 100_000, -1])
    def test_settings_of_any_type(self, sample, value, folder):
        known = json.loads(sample.files[sample.config])
        for name in known:
            config = json.dumps({**known, name: value}).encode()
            case = fuzzing.Case(sample, name, {**sample.files, sample.config: config}, "any SAE")
            fuzzing.empty(folder)
            outcome = fuzzing.judge(case, folder)
            assert outcome.kind in GOOD, (name, outcome)

    def test_tensors_that_a_configuration_has_no_use_for(self, folder):
        sample = BY_NAME["saelens/jumprelu"]
        match = r"got threshold, which architecture='relu' has no use for; expected a configuration and"
        refused(sample, folder, match, settings={"architecture": "standard"})


def test_numbers_are_those_of_numpy_whatever_the_container(folder):
    """One SAE, written by hand in every container, gives the same latents."""
    sample = BY_NAME["goodfire/relu"]
    items, records = stored(sample)
    weights = checkpoint(sample, dict_pickle(items), records)
    write_files({"by_hand.pth": weights}, folder)
    sae = load_sae(folder / "by_hand.pth")
    W, b = (sample.tensors[f"encoder_linear.{part}"].numpy() for part in ("weight", "bias"))
    expected = np.maximum(sample.x.numpy() @ W.T + b, 0)
    np.testing.assert_allclose(sae.encode(sample.x).numpy(), expected, rtol=1e-5, atol=1e-6)
    assert short("x") == b"X\x01\x00\x00\x00x"
