"""Mutators of what files declare: lengths, offsets, members, headers."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
from saes.fuzzing.building import npy_of, pickle_of, zip_of, zip_parts
from saes.fuzzing.samples import MARKER, REFUSAL, SAME, with_weights


def lie_in_safetensors(rng, sample):
    raw = sample.files[sample.weights]
    size = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + size]), raw[8 + size :]
    name = rng.choice([name for name in header if name != "__metadata__"])
    entry = header[name]
    start, end = entry["data_offsets"]
    huge = rng.choice([2**31, 2**32, 2**62, 2**63, 2**64, 10**40, -1])
    lie = rng.randrange(13)
    changes = [
        {"data_offsets": [start, end + huge]},
        {"data_offsets": [huge, end]},
        {"data_offsets": [end, start]},
        {"data_offsets": [0, end]},
        {"data_offsets": [start, end - 4]},
        {"shape": [huge, huge]},
        {"shape": [*entry["shape"], 0]},
        {"shape": [2**32, 2**32]},
        {"dtype": rng.choice(["F64", "I8", "BOOL", "F8_E4M3", "X"])},
        {"shape": None},
        {"dtype": None, "shape": "x"},
        {"data_offsets": [start / 2, end]},
        {"shape": [True, -6]},
    ]
    header[name] = {**entry, **changes[lie]}
    text = json.dumps(header).encode()
    form = rng.randrange(8)
    if form == 0:  # the same name twice, with other words of it
        twice = json.dumps({name: {**entry, "shape": entry["shape"][::-1]}})[1:-1]
        original = json.dumps({**header, name: entry})
        text = (
            original[:-1] + ", " + twice + "}"
            if rng.random() < 0.5
            else "{" + twice + ", " + original[1:]
        ).encode()
    length = len(text)
    if form == 1:
        length = rng.choice([0, 1, length - 1, length + 1, len(raw), 2**20 + 1, 2**32, 2**63, 2**64 - 1])
    if form == 2:
        text = b"[" * rng.choice([100, 100_000])
        length = len(text)
    if form == 3:
        text = json.dumps(
            {**header, name: entry, "__metadata__": rng.choice([[], {"a": 1}, "x" * 10**6, {"a": {}}])}
        ).encode()
        length = len(text)
    return with_weights(
        sample, f"lies in a header ({form}, {lie})", struct.pack("<Q", length % 2**64) + text + data
    )


def lie_in_zip(rng, sample):
    raw = bytearray(sample.files[sample.weights])
    entries, place = [], raw.find(b"PK\1\2")
    while place >= 0:
        entries.append(place)
        place = raw.find(b"PK\1\2", place + 4)
    ends = [
        (raw.rfind(b"PK\5\6") + offset, size)
        for offset, size in ((4, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2))
    ]
    if b"PK\6\6" in raw:
        ends += [(raw.rfind(b"PK\6\6") + offset, 8) for offset in (24, 32, 40, 48)] + [
            (raw.rfind(b"PK\6\7") + 8, 8)
        ]
    entry = rng.choice(entries)
    local = int.from_bytes(raw[entry + 42 : entry + 46], "little") + len(sample.first_line)
    fields = [
        (entry + offset, size)
        for offset, size in (
            (8, 2),
            (10, 2),
            (16, 4),
            (20, 4),
            (24, 4),
            (28, 2),
            (30, 2),
            (32, 2),
            (42, 4),
        )
    ]
    fields += [
        (local + offset, size)
        for offset, size in ((6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2))
    ]
    fields += ends
    for _ in range(rng.choice([1, 1, 2])):
        start, size = rng.choice(fields)
        old = int.from_bytes(raw[start : start + size], "little")
        values = [
            0,
            1,
            old + 1,
            old - 1,
            old * 2,
            2 ** (8 * size) - 1,
            2 ** (8 * size - 1),
            rng.getrandbits(8 * size),
        ]
        others = [int.from_bytes(raw[other + 42 : other + 46], "little") for other in entries]
        raw[start : start + size] = (rng.choice(values + others) % 2 ** (8 * size)).to_bytes(
            size, "little"
        )
    return with_weights(sample, "lies in a zip directory", bytes(raw))


def lie_in_members(rng, sample):
    """Names twice, names that lead elsewhere, members that are no tensors, bombs."""
    raw = sample.files[sample.weights][len(sample.first_line) :]
    parts = zip_parts(raw)
    name, content = rng.choice(parts)
    root = name.split("/")[0]
    attack = pickle_of("os.system", "cat")
    form = rng.randrange(12)
    extra = [
        (name, content),
        (name.upper(), content),
        (f"../{MARKER}", b"x"),
        (f"/tmp/{MARKER}", b"x"),
        (f"{root}/../{MARKER}", b"x"),
        (f"{root}/sub/data.pkl", attack),
        (f"{root}/DATA.PKL", attack),
        (f"{root}/constants.pkl", attack),
        (f"{root}/code/x.py", b"x"),
        ("data.pkl", attack),
        (f"{name}\0x", content),
        (f"{root}/data/99", b"\0" * 64),
    ][form]
    parts = [extra, *parts] if rng.random() < 0.5 else [*parts, extra]
    compress = rng.choice(
        [
            zipfile.ZIP_STORED,
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
            zipfile.ZIP_BZIP2,
            zipfile.ZIP_LZMA,
        ]
    )
    return with_weights(
        sample, f"members of a zip file ({form})", sample.first_line + zip_of(parts, compress=compress)
    )


def zip_bomb(rng, sample):
    raw = sample.files[sample.weights][len(sample.first_line) :]
    parts = dict(zip_parts(raw))
    name = rng.choice(sorted(parts))
    size = rng.choice([10**6, 30 * 10**6])
    body = (npy_of("<f4", (size // 4,), b"") if name.endswith(".npy") else b"") + b"\0" * size
    parts[name] = body
    bomb = zip_of(
        parts.items(),
        compress=rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]),
    )
    free = "/." in name or name.endswith("/version")
    return with_weights(sample, f"{name} is a bomb", sample.first_line + bomb, SAME if free else REFUSAL)


def lie_in_npy(rng, sample):
    parts = dict(zip_parts(sample.files[sample.weights]))
    name = rng.choice(sorted(parts))
    array = np.load(io.BytesIO(parts[name]))
    huge = rng.choice([2**31, 2**40, 2**62, 2**64, 10**30, -1, -6])
    data = array.tobytes()
    parts[name] = rng.choice(
        [
            npy_of("<f4", (huge,), data),
            npy_of("<f4", (huge, huge), data),
            npy_of("<f4", (*array.shape[::-1], 1), data),
            npy_of("<f8", array.shape, data),
            npy_of("<f8", array.shape, data + data[:-8]),
            npy_of("<i4", array.shape, data),
            npy_of("|O", array.shape, pickle_of("os.system", f"touch {MARKER}")),
            npy_of("<U1", array.shape, data),
            npy_of("|V4", array.shape, data),
            npy_of(">f4", array.shape, data),
            npy_of([("a", "<f4")], array.shape, data),
            npy_of("<c8", array.shape, data + data),
            npy_of(b"(" * 5000, (), data),
            npy_of(b"-" * 1000 + b"1", (), data),
            npy_of(b"{}", (), data),
            npy_of(b"__import__('os')", (), data),
            npy_of("<f4", array.shape, data, version=(3, 0)),
            npy_of("<f4", array.shape, data, length=2**16 - 1),
            npy_of("<f4", array.shape, data, version=(2, 0), length=2**32 - 1),
            npy_of("<f4", array.shape, data, version=(9, 9)),
            npy_of("(1000000,)<f4", (1,), data),
            b"",
            b"\x93NUMPY",
            data,
        ]
    )
    return with_weights(sample, f"lies in {name}", zip_of(parts.items()), REFUSAL)
