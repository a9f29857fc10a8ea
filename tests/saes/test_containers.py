"""What a container declares, reads and refuses, compared with the libraries that wrote it."""

from __future__ import annotations

import io
import json
import re
import struct
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from sae_features.errors import SAEFormatError
from sae_features.saes.formats import archives, pickles
from sae_features.saes.formats.containers import NpzFile, SafetensorsFile, TensorInfo, open_container
from sae_features.saes.formats.torch_files import TorchFile

FLOATS = ["float64", "float32", "float16", "bfloat16"]
INTEGERS = ["int64", "int32", "int16", "int8", "uint8", "bool"]


def draw(*shape, dtype="float32"):
    generator = torch.Generator().manual_seed(sum(shape))
    return (10 * torch.randn(shape, generator=generator)).to(getattr(torch, dtype))


def refused(path, message):
    with pytest.raises(SAEFormatError, match=rf"^{re.escape(str(path))}: {message}"):
        open_container(path)


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


class TestSafetensors:
    @pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
    def test_what_is_declared_and_read(self, dtype, tmp_path):
        tensors = {"a": draw(3, 4, dtype=dtype), "b.c": draw(5, dtype=dtype), "d": draw(dtype=dtype)}
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file(tensors, path)
        file = open_container(path)
        assert isinstance(file, SafetensorsFile)
        assert file.infos == {
            "a": TensorInfo((3, 4), dtype),
            "b.c": TensorInfo((5,), dtype),
            "d": TensorInfo((), dtype),
        }
        assert file.values == {}
        for name, tensor in tensors.items():
            assert torch.equal(file.read(name), tensor)
            assert file.read(name).dtype == tensor.dtype

    def test_a_type_that_is_not_known_is_declared_in_the_words_of_the_file(self, tmp_path):
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"a": torch.zeros(2).to(torch.float8_e4m3fn)}, path)
        assert open_container(path).infos == {"a": TensorInfo((2,), "F8_E4M3")}

    def test_a_header_of_odd_length(self, tmp_path):
        """Numbers then start where their type may not; what is read starts where it may."""
        values = struct.pack("<3f", 1, 2, 3)
        text = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
        assert len(text) % 4
        path = tmp_path / "x.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text + values)
        read = open_container(path).read("a")
        assert read.tolist() == [1, 2, 3]
        assert read.data_ptr() % 4 == 0

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not a whole safetensors file: got a header of 0 bytes in a file of 0"),
            (
                b"\5\0\0\0\0\0\0\0",
                "not a whole safetensors file: got a header of 5 bytes in a file of 8",
            ),
            (struct.pack("<Q", 2) + b"[]", "not a whole safetensors file: "),
            (struct.pack("<Q", 3) + b"\xff{}", "not a whole safetensors file: "),
            (struct.pack("<Q", 2**63) + b"{}", "not a whole safetensors file: got a header of 9223372"),
            (
                struct.pack("<Q", 90_000) + b"[" * 90_000,
                "not a whole safetensors file: maximum recursion",
            ),
        ],
    )
    def test_damage(self, content, message, tmp_path):
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        refused(path, message)

    def test_a_header_of_more_than_a_megabyte(self, tmp_path):
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"x": "y" * 2**20})
        refused(path, r"not a whole .* expected at most 1048576\. Get it again\.$")

    def test_names_and_shapes_that_no_message_could_show(self, tmp_path):
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"a" * 300: torch.zeros(1)}, path)
        refused(path, r"got 'a{60}' with 1 dimensions; expected a name of at most 256 characters")
        safetensors.torch.save_file({"a": torch.zeros([1] * 9)}, path)
        refused(path, r"got 'a' with 9 dimensions; .* at most 8 dimensions\.$")

    def test_cut_after_it_was_opened(self, tmp_path):
        path = tmp_path / "x.safetensors"
        safetensors.torch.save_file({"a": torch.zeros(100)}, path)
        file = open_container(path)
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(SAEFormatError, match=r"not a whole safetensors file: .* Get it again\.$"):
            file.read("a")


class TestNpz:
    @pytest.mark.parametrize(
        ("save", "dtype"),
        [(np.savez, dtype) for dtype in ("float64", "float32", "float16", *INTEGERS)]
        + [(np.savez_compressed, dtype) for dtype in ("float64", "float32", "float16")],
    )
    def test_what_is_declared_and_read(self, save, dtype, tmp_path):
        arrays = {"a": draw(30, 4, dtype=dtype).numpy(), "b.c": draw(5, dtype=dtype).numpy()}
        path = tmp_path / "x.npz"
        save(path, **arrays)
        file = open_container(path)
        assert isinstance(file, NpzFile)
        assert file.infos == {"a": TensorInfo((30, 4), dtype), "b.c": TensorInfo((5,), dtype)}
        assert file.values == {}
        with np.load(path) as expected:
            for name in expected:
                np.testing.assert_array_equal(file.read(name).numpy(), expected[name], strict=True)

    @settings(max_examples=30)
    @given(shape=array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4), fortran=st.booleans())
    def test_any_shape_and_order(self, shape, fortran, tmp_path_factory):
        path = tmp_path_factory.getbasetemp() / "any.npz"
        array = np.arange(np.prod(shape, dtype=int), dtype="float32").reshape(shape)
        np.savez(path, a=np.asarray(array, order="F" if fortran else "C"))
        file = open_container(path)
        assert file.infos["a"].shape == shape
        np.testing.assert_array_equal(file.read("a").numpy(), array, strict=True)

    def test_the_newer_version_of_the_header(self, tmp_path):
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.ones(3), version=(2, 0))
        path = zipped(tmp_path / "x.npz", {"a.npy": stream.getvalue()})
        assert open_container(path).read("a").tolist() == [1, 1, 1]

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.array([None]), r"got 'a\.npy' of type object; expected numbers\."),
            (np.array(["x"]), r"got 'a\.npy' of type <U1; expected numbers\."),
            (np.array(["2020"], "M8[D]"), r"got 'a\.npy' of type datetime64\[D\]; expected numbers\."),
            (np.zeros(2, [("x", "f4")]), r"got 'a\.npy' of type \[\('x', '<f4'\)\]; expected numbers\."),
        ],
    )
    def test_what_is_no_array_of_numbers(self, array, message, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, a=array)
        refused(path, message)

    def test_numbers_in_the_other_order_of_bytes_are_declared_so(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, a=np.ones(2, ">f4"))
        assert open_container(path).infos == {"a": TensorInfo((2,), ">f4")}  # no type that is taken

    def test_members_that_are_no_arrays(self, tmp_path):
        path = zipped(tmp_path / "x.npz", {"a.txt": b"x"})
        refused(path, r"got 'a\.txt' inside; expected \.npy arrays\.$")

    @pytest.mark.parametrize("content", [b"", b"x", b"\x93NUMPY", b"\x93NUMPY\1\0\xff\xff{}"])
    def test_headers_that_are_not_whole(self, content, tmp_path):
        refused(zipped(tmp_path / "x.npz", {"a.npy": content}), "not a whole file: ValueError: ")

    def test_a_header_that_promises_more_than_is_there(self, tmp_path):
        stream = io.BytesIO()
        np.save(stream, np.ones(3))
        path = zipped(tmp_path / "x.npz", {"a.npy": stream.getvalue()[:-8]})
        refused(
            path, r"got 144 bytes for 'a\.npy'; expected 152, as its own header says\. Get the file ag"
        )

    def test_numbers_whose_checksum_is_another(self, tmp_path):
        path = tmp_path / "x.npz"
        np.savez(path, a=np.full(5, 7.0))
        path.write_bytes(path.read_bytes().replace(struct.pack("<d", 7), struct.pack("<d", 8), 1))
        with pytest.raises(SAEFormatError, match=r"not a whole file: BadZipFile: Bad CRC-32"):
            open_container(path).read("a")


class TestTorch:
    def save(self, tmp_path, content, name="x.pt"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    @pytest.mark.parametrize("name", ["x.pt", "x.pth"])
    @pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
    def test_what_is_declared_and_read(self, dtype, name, tmp_path):
        tensors = {"a": draw(3, 4, dtype=dtype), "b.c": draw(5, dtype=dtype), "d": draw(dtype=dtype)}
        path = self.save(tmp_path, tensors, name)
        file = open_container(path)
        assert isinstance(file, TorchFile)
        assert file.infos == {
            name: TensorInfo(tuple(tensor.shape), dtype) for name, tensor in tensors.items()
        }
        assert file.values == {}
        assert file.first_line == b""
        for key, expected in torch.load(path, weights_only=True).items():
            assert torch.equal(file.read(key), expected)
            assert file.read(key).dtype == expected.dtype

    def test_declaring_needs_no_torch_load(self, tmp_path, monkeypatch):
        path = self.save(tmp_path, {"a": torch.ones(2), "k": 3})
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("weights were read"))
        file = open_container(path)
        assert (file.infos, file.values) == ({"a": TensorInfo((2,), "float32")}, {"k": 3})

    def test_tensors_that_are_not_contiguous(self, tmp_path):
        base = draw(6, 8)
        tensors = {
            "transposed": base.T,
            "strided": base[::2, 1::3],
            "row": base[2],
            "diagonal": base.diagonal(),
            "empty": base[:0],
            "one": base[1, 1],
        }
        file = open_container(self.save(tmp_path, tensors))
        for name, tensor in tensors.items():
            assert file.infos[name].shape == tensor.shape
            assert torch.equal(file.read(name), tensor)

    def test_tied_weights_share_a_storage(self, tmp_path):
        tied = draw(6, 8)
        file = open_container(self.save(tmp_path, {"encoder": tied, "decoder": tied.T}))
        assert torch.equal(file.read("decoder"), tied.T)

    def test_a_storage_that_more_tensors_share_than_memory_is_taken_for(self, tmp_path):
        tied = draw(100, 100)
        path = self.save(tmp_path, {str(index): tied for index in range(9)})
        refused(path, r"got tensors of 360000 bytes in a file of \d+; expected fewer\.$")

    def test_what_modules_save(self, tmp_path):
        module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        file = open_container(self.save(tmp_path, module.state_dict()))
        assert torch.equal(file.read("0.weight"), module[0].weight)
        assert file.infos["1.num_batches_tracked"] == TensorInfo((), "int64")
        parameters = dict(module.named_parameters())  # Parameter, not Tensor
        file = open_container(self.save(tmp_path, OrderedDict(parameters)))
        assert torch.equal(file.read("0.weight"), module[0].weight)
        assert not file.read("0.weight").requires_grad

    def test_plain_values_and_a_state_dict_within(self, tmp_path):
        values = {
            "k": 3,
            "name": "x",
            "scale": 0.5,
            "none": None,
            "on": True,
            "big": 2**40,
            "list": [1, "a"],
        }
        content = {"state_dict": {"a": torch.ones(2)}, **values, "inner": {"k": 1, "size": (2, 3)}}
        file = open_container(self.save(tmp_path, content))
        assert file.values == {**values, "inner": {"k": 1, "size": (2, 3)}}
        assert file.read("a").tolist() == [1, 1]

    def test_a_name_within_a_state_dict_and_beside_it(self, tmp_path):
        path = self.save(tmp_path, {"state_dict": {"a": torch.ones(2)}, "a": torch.zeros(2)})
        refused(path, r"got names twice, in state_dict and beside it\.$")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (torch.ones(2), "got a tensor; expected a dictionary of tensors by name"),
            ([torch.ones(2)], "got a list; expected a dictionary of tensors by name"),
            ({1: torch.ones(2)}, "got names that are no text"),
            (torch.nn.Linear(2, 2), r"got a pickle that needs 'torch\.nn\.modules\.linear\.Linear'"),
            ({"a": np.ones(2)}, r"got a pickle that needs 'numpy\._core\.multiarray\._reconstruct'"),
            (
                {"a": torch.ones(2).to_sparse()},
                r"got a pickle that needs 'torch\._utils\._rebuild_sparse",
            ),
            (
                {"a": torch.ones(2, dtype=torch.complex64)},
                "got a pickle that needs 'torch.ComplexFloatSt",
            ),
            ({"a": torch.ones(1).expand(5)}, "got a pickle that needs a tensor with a stride of 0"),
            (
                {"a": torch.ones(9).unfold(0, 3, 1)},
                "got a pickle that needs a tensor .* overlaps itself",
            ),
            ({(1, 2): 3}, "got a pickle that needs a key of type tuple"),
            ({"a": {1, 2}}, "got a pickle that needs '__builtin__.set'"),
            ({"a": 1 + 2j}, "got a pickle that needs '__builtin__.complex'"),
            ({"a": "x" * 2**18}, r"got a pickle of \d+ bytes; expected at most 262144"),
        ],
        ids=lambda value: value[-30:] if isinstance(value, str) else type(value).__name__,
    )
    def test_what_is_more_than_tensors_by_name(self, content, message, tmp_path):
        refused(self.save(tmp_path, content), message)

    def test_a_checkpoint_of_before_torch_1_6(self, tmp_path):
        path = tmp_path / "x.pt"
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
        message = (
            "got a file of another kind; expected .safetensors, .npz, or a .pt or .pth file written by "
            "torch.save since torch 1.6. Pickles (.pkl, older .pt) could run code and are not opened: "
            "load the file with the library that wrote it, and save its tensors with "
            "safetensors.torch.save_file."
        )
        refused(path, re.escape(message) + "$")

    @pytest.mark.parametrize("version", ["2.9.1", "2.6.0+cu124", "1.13.0"])
    def test_torch_before_2_10_opens_no_checkpoints(self, version, tmp_path, monkeypatch):
        path = self.save(tmp_path, {"a": torch.ones(2)})
        monkeypatch.setattr(torch, "__version__", version)
        message = (
            f"{path}: got torch {version}; expected 2.10 or newer to open .pt files, whose reader has "
            "known holes before it. Update torch, or convert the file elsewhere: load the file with the "
            "library that wrote it, and save its tensors with safetensors.torch.save_file."
        )
        with pytest.raises(SAEFormatError, match=f"^{re.escape(message)}$"):
            open_container(path).read("a")

    @pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0+git1", "3.0.0+cu140"])
    def test_later_ones_do(self, version, tmp_path, monkeypatch):
        path = self.save(tmp_path, {"a": torch.ones(2)})
        monkeypatch.setattr(torch, "__version__", version)
        assert open_container(path).read("a").tolist() == [1, 1]

    def test_it_is_only_opened_with_weights_only(self, tmp_path, monkeypatch):
        path, genuine, options = self.save(tmp_path, {"a": torch.ones(2)}), torch.load, []
        monkeypatch.setattr(
            torch, "load", lambda *args, **given: options.append(given) or genuine(*args, **given)
        )
        open_container(path).read("a")
        assert options == [{"map_location": "cpu", "weights_only": True, "mmap": True}]

    def test_what_torch_reads_is_what_was_declared(self, tmp_path, monkeypatch):
        path = self.save(tmp_path, {"a": torch.ones(2)})
        monkeypatch.setattr(torch, "load", lambda *_, **__: {"a": torch.ones(3)})
        with pytest.raises(
            SAEFormatError, match=r"got 'a' as .*\(3,\).*; expected .*\(2,\).*, as declared"
        ):
            open_container(path).read("a")

    def test_the_first_line_of_saev(self, tmp_path):
        stream = io.BytesIO()
        torch.save({"a": draw(3, 4)}, stream)
        path = tmp_path / "sae.pt"
        path.write_bytes(b'{"schema": 5}\n' + stream.getvalue())
        file = open_container(path)
        assert isinstance(file, TorchFile)
        assert file.first_line == b'{"schema": 5}\n'
        assert file.infos == {"a": TensorInfo((3, 4), "float32")}
        assert torch.equal(file.read("a"), draw(3, 4))

    @pytest.mark.parametrize("line", [b"{", b"{}", b"{}\n", b'{"schema": 5}\n\n'])
    def test_a_first_line_and_no_checkpoint_after_it(self, line, tmp_path):
        path = tmp_path / "sae.pt"
        path.write_bytes(line)
        refused(path, "not a whole file: ")

    def test_records_that_are_not_of_torch(self, tmp_path):
        path = self.save(tmp_path, {"a": torch.ones(2)})
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        for name in ("x/code/a.py", "x/constants.pkl", "x/data/a", "y/version", "x"):
            refused(zipped(tmp_path / "y.pt", {**members, name: b"x"}), "got a zip file with ")
        refused(
            zipped(tmp_path / "y.pt", {**members, "x/data/7": b"x"}), "got 2 records of numbers; expe"
        )
        members["x/byteorder"] = b"big"
        refused(
            zipped(tmp_path / "y.pt", members), "got numbers with another byteorder; expected 'little'"
        )


class TestArchives:
    """What all readers of zip files must find the same."""

    def archive(self, tmp_path):
        return zipped(tmp_path / "x.zip", {"a": b"1" * 10, "b/c": b"2" * 20})

    def test_members(self, tmp_path):
        path = self.archive(tmp_path)
        raw, members = path.read_bytes(), archives.read_members(path)
        assert {name: member.info.file_size for name, member in members.items()} == {"a": 10, "b/c": 20}
        assert all(raw[member.start :][:5] in (b"11111", b"22222") for member in members.values())
        assert archives.read_member(path, "b/c") == b"2" * 20

    def test_after_other_bytes(self, tmp_path):
        path = self.archive(tmp_path)
        path.write_bytes(b"{}\n" + path.read_bytes())
        assert archives.read_members(path, start=3).keys() == {"a", "b/c"}
        with pytest.raises(
            SAEFormatError, match="directory does not end where it says; expected it last"
        ):
            archives.read_members(path)

    @pytest.mark.parametrize(("offset", "size"), [(4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)])
    def test_an_end_that_says_otherwise(self, offset, size, tmp_path):
        path = self.archive(tmp_path)
        raw = bytearray(path.read_bytes())
        raw[len(raw) - 22 + offset] += 1
        path.write_bytes(raw)
        with pytest.raises(SAEFormatError, match="directory|members"):
            archives.read_members(path)

    @pytest.mark.parametrize("offset", [8, 10, 20, 24, 28, 42, 46])
    def test_a_directory_that_says_otherwise(self, offset, tmp_path):
        path = self.archive(tmp_path)
        raw = bytearray(path.read_bytes())
        raw[raw.find(b"PK\1\2") + offset] ^= 1
        path.write_bytes(raw)
        with pytest.raises(SAEFormatError):
            archives.read_members(path)

    @pytest.mark.parametrize("offset", [0, 6, 8, 18, 22, 26, 28, 30])
    def test_a_member_that_says_otherwise(self, offset, tmp_path):
        path = self.archive(tmp_path)
        raw = bytearray(path.read_bytes())
        raw[offset] ^= 1
        path.write_bytes(raw)
        with pytest.raises(
            SAEFormatError, match="not where, or what, the directory says|overlap|encrypted"
        ):
            archives.read_members(path)

    def test_names_twice(self, tmp_path):
        path = zipped(tmp_path / "x.zip", {"a": b"", "A": b""})
        with pytest.raises(SAEFormatError, match=r"members of the same name, .* expected each once\.$"):
            archives.read_members(path)

    def test_more_members_than_a_file_of_tensors_has(self, tmp_path):
        path = zipped(tmp_path / "x.zip", {str(index): b"" for index in range(archives.MAX_MEMBERS + 1)})
        with pytest.raises(
            SAEFormatError, match=r"got 4097 members in a directory of \d+ bytes; expected at"
        ):
            archives.read_members(path)

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_compressed_members(self, method, tmp_path):
        content = np.random.default_rng(0).bytes(1000)
        path = zipped(tmp_path / "x.zip", {"a": content}, compression=method)
        with pytest.raises(
            SAEFormatError, match="got compressed or encrypted members; expected plain ones"
        ):
            archives.read_members(path)
        if method == zipfile.ZIP_DEFLATED:
            assert archives.read_members(path, compressed=True).keys() == {"a"}

    def test_members_that_grow_more_than_weights_do(self, tmp_path):
        path = zipped(tmp_path / "x.zip", {"a": bytes(10_000)}, compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(
            SAEFormatError, match=r"got members that declare 10000 bytes in a file of \d+"
        ):
            archives.read_members(path, compressed=True)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, content):
        with pytest.raises(SAEFormatError):
            pickles.read_pickle(content)


class TestPickles:
    def test_tensors_and_values(self):
        stream = io.BytesIO()
        torch.save({"a": torch.ones(2, 3)[:, 1:], "k": [1, (2.5, None)]}, stream)
        with zipfile.ZipFile(stream) as archive:
            declared = pickles.read_pickle(archive.read("archive/data.pkl"))
        storage = pickles.Storage("float32", 4, "0", 6)
        assert storage.nbytes == 24
        assert declared == {"a": pickles.StoredTensor(storage, 1, (2, 2), (3, 1)), "k": [1, (2.5, None)]}
        assert declared["a"].nbytes == 16

    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02" + b")" * 100_000 + b"(t" * 70_000 + b".",
            b"\x80\x02" + b"(" * 130_000 + b"t" * 130_000 + b".",
            b"\x80\x02]q\x00(" + b"N" * 100_000 + b"h\x00e.",
            b"\x80\x02}q\x00" + b"".join(b"K%ch\x00s" % index for index in range(250)) + b".",
            b"\x80\x02(" + b"N" * 100_000 + b"tq\x00" + b"(" + b"h\x00" * 70_000 + b"t.",
        ],
    )
    def test_none_takes_long(self, content):
        started = time.perf_counter()
        with pytest.raises(SAEFormatError):
            pickles.read_pickle(content)
        assert time.perf_counter() - started < 2


class TestOpen:
    @pytest.mark.parametrize("name", ["x.pkl", "x.bin", "x.ckpt", "x", "x.zip", "x.PT", "x.pth.tar"])
    def test_other_kinds_of_files(self, name, tmp_path):
        path = tmp_path / name
        torch.save({"a": torch.ones(2)}, path)
        refused(
            path, r"got a file of another kind; expected \.safetensors, \.npz, or a \.pt or \.pth file"
        )

    @pytest.mark.parametrize("name", ["x.safetensors", "x.npz", "x.pt"])
    def test_one_that_cannot_be_read(self, name, tmp_path):
        refused(tmp_path / name, "not a whole file: FileNotFoundError: ")

    def test_large_files_are_not_read_to_be_opened(self, tmp_path):
        """64 MiB of holes in each container: opening takes a moment, and so no pass over them."""
        n = 2**24
        safetensors_file, npz, pt = (tmp_path / f"x{end}" for end in (".safetensors", ".npz", ".pt"))
        header = json.dumps({"a": {"dtype": "F32", "shape": [n], "data_offsets": [0, 4 * n]}}).encode()
        with safetensors_file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(header)) + header)
            stream.truncate(8 + len(header) + 4 * n)
        np.savez(npz, a=np.zeros(n, "float32"))
        torch.save({"a": torch.zeros(n)}, pt)
        for path in (safetensors_file, npz, pt):
            started = time.process_time()
            assert open_container(path).infos["a"] == TensorInfo((n,), "float32")
            assert time.process_time() - started < 0.05
