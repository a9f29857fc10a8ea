"""Shards: what is read is what was written, or nothing."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save
from store.test_codec import VALUES
from store.workload import IDENTITY, WHO, digests_of, is_same, value_of

from sae_features.store.codec import encode
from sae_features.store.shards import Contents, DamagedError, pack, read_items, read_shard

DIGESTS = digests_of(6)


def packed(values, digests=DIGESTS):
    items = [(digest, encode(value)) for digest, value in zip(digests, values, strict=False)]
    return pack(Contents(IDENTITY, WHO, items[0][1].kind), items)


def read(data, wanted, path):
    path.write_bytes(data)
    with path.open("rb", buffering=0) as file:
        return dict(read_items(file, read_shard(file), wanted))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("shards") / "shard.safetensors"


@given(VALUES, st.integers(1, 6))
def test_items_come_back_as_they_were(path, value, n):
    found = read(packed([value] * n), list(enumerate(DIGESTS[:n])), path)
    assert list(found) == DIGESTS[:n]
    assert all(is_same(each, value) for each in found.values())


def test_only_what_is_asked_for_is_read(path):
    values = [value_of(digest) for digest in DIGESTS]
    data = packed(values)
    assert set(read(data, [(4, DIGESTS[4]), (1, DIGESTS[1]), (2, DIGESTS[2])], path)) == {
        DIGESTS[i] for i in (1, 2, 4)
    }
    assert read(data, [], path) == {}
    one = read(data, [(3, DIGESTS[3])], path)[DIGESTS[3]]
    assert is_same(one, values[3])
    assert one.values.flags.writeable
    assert one.values.base is None  # nothing larger stays in memory with it


@pytest.mark.parametrize("position", [-1, 0, 2, 6, 10**9])
def test_a_wrong_position_finds_nothing(path, position):
    assert read(packed([value_of(d) for d in DIGESTS]), [(position, DIGESTS[1])], path) == {}


def test_other_libraries_can_read_a_shard():
    values = [value_of(digest) for digest in DIGESTS]
    tensors = load(packed(values))
    assert set(tensors) == {
        "digests", "checks", "lengths", "numbers", "indices", "values", "token_offsets", "grid",
    }  # fmt: skip
    assert tensors["digests"].tobytes() == b"".join(DIGESTS)
    np.testing.assert_array_equal(tensors["values"], np.concatenate([v.values for v in values]))
    np.testing.assert_array_equal(tensors["lengths"][:, 2], [len(v.token_offsets) for v in values])


def test_every_flipped_bit_loses_items_and_changes_none(path):
    values = [value_of(digest) for digest in DIGESTS]
    data, wanted = packed(values), list(enumerate(DIGESTS))
    rng, n_lost = random.Random(0), 0
    for _ in range(600):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        try:
            found = read(bytes(damaged), wanted, path)
        except DamagedError:
            found = {}
        n_lost += len(found) < len(values)
        assert all(is_same(found[d], v) for d, v in zip(DIGESTS, values, strict=True) if d in found)
    assert n_lost > 500  # what is left are spaces, and who computed


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 600, -1, -8])
def test_a_file_that_ends_early(path, keep):
    data = packed([value_of(digest) for digest in DIGESTS])
    try:
        found = read(data[:keep], list(enumerate(DIGESTS)), path)
    except DamagedError:
        found = {}
    assert len(found) < len(DIGESTS)


def with_header(data, change):
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["values"].update(shape=[2**62]),
        lambda h: h["values"].update(shape=[-1]),
        lambda h: h["values"].update(shape=["3"]),
        lambda h: h["values"].update(shape=None),
        lambda h: h["values"].update(dtype="BF16"),
        lambda h: h["values"].update(dtype=["F32"]),
        lambda h: h["values"].update(data_offsets=[0, 2**70]),
        lambda h: h["values"].update(data_offsets=[-4, 4]),
        lambda h: h["values"].update(data_offsets=[4]),
        lambda h: h["digests"].update(shape=[3, 64]),
        lambda h: h.pop("lengths"),
        lambda h: h.update(values=3),
        lambda h: h["__metadata__"].update(kind="other"),
        lambda h: h["__metadata__"].update(kind="states"),
        lambda h: h["__metadata__"].update(schema="2"),
        lambda h: h.pop("__metadata__"),
    ],
)
def test_headers_that_cannot_be(path, change):
    data = with_header(packed([value_of(digest) for digest in DIGESTS]), change)
    with pytest.raises(DamagedError):
        read(data, list(enumerate(DIGESTS)), path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        (2**24 + 1).to_bytes(8, "little") + bytes(2**24 + 1),
        b"\x02" + bytes(7) + b"[]",
        b"\x04" + bytes(7) + b"null",
        (60_000).to_bytes(8, "little") + b"[" * 60_000,
        b"\x02" + bytes(7) + b"\xff\xfe",
    ],
    ids=["empty", "huge", "large", "list", "null", "deep", "no text"],
)
def test_files_that_are_something_else(path, data):
    with pytest.raises(DamagedError):
        read(data, [(0, DIGESTS[0])], path)


def test_lengths_that_overflow(path):
    tensors = load(packed([value_of(digest) for digest in DIGESTS]))
    for lengths in ([2**62] * 6, [-1, 1, 0, 0, 0, 0], [2**63 - 1, 2, 0, 0, 0, 0]):
        tensors["lengths"] = tensors["lengths"].copy()
        tensors["lengths"][:, 0] = lengths
        data = save(tensors, {"schema": "1", "identity": IDENTITY, "who": "", "kind": "codes"})
        with pytest.raises(DamagedError, match="lengths of indices"):
            read(data, list(enumerate(DIGESTS)), path)


def test_a_shard_of_nothing(path):
    tensors = load(packed([value_of(DIGESTS[0])]))
    empty = {name: column[:0] for name, column in tensors.items()}
    data = save(empty, {"schema": "1", "identity": IDENTITY, "who": "", "kind": "codes"})
    assert read(data, [(0, DIGESTS[0])], path) == {}


def test_the_identity_is_part_of_the_check(path):
    data = packed([value_of(digest) for digest in DIGESTS])
    other = with_header(data, lambda h: h["__metadata__"].update(identity="0" * 64))
    assert read(other, list(enumerate(DIGESTS)), path) == {}


def test_reads_that_come_in_pieces(path):
    class Slow(io.FileIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:7])

    values = [value_of(digest) for digest in DIGESTS]
    path.write_bytes(packed(values))
    with Slow(path) as file:
        found = dict(read_items(file, read_shard(file), list(enumerate(DIGESTS))))
    assert all(is_same(found[d], v) for d, v in zip(DIGESTS, values, strict=True))
