"""Mutators of checkpoints' pickles: lies, and instructions that would run code."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import torch
from saes.fuzzing.building import dict_pickle, npy_of, number, pickle_of, short, tensor_pickle, zip_of
from saes.fuzzing.samples import MARKER, REFUSAL, SAME, Case, with_weights

_STORAGES = {
    "float32": "FloatStorage",
    "int32": "IntStorage",
    "int64": "LongStorage",
    "bfloat16": "BFloat16Storage",
    "float16": "HalfStorage",
    "float64": "DoubleStorage",
}


def stored(sample, **changed):
    """Return a checkpoint of a sample's tensors whose pickle is written by hand, and other values."""
    items, records = {}, []
    for index, (name, value) in enumerate(sample.content.items()):
        if isinstance(value, torch.Tensor):
            kind = _STORAGES[str(value.dtype).removeprefix("torch.")]
            items[name] = tensor_pickle(
                kind, str(index), value.numel(), 0, value.shape, value.contiguous().stride()
            )
            records.append(
                (
                    f"archive/data/{index}",
                    bytes(value.contiguous().reshape(-1).view(torch.uint8).tolist()),
                )
            )
        else:
            items[name] = (
                pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"").replace(b"q\x01", b"")
                if isinstance(value, str)
                else _plain_pickle(value)
            )
    items.update(changed)
    return items, records


def _plain_pickle(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(short(name) + _plain_pickle(part) for name, part in value.items()) + b"u"
    return short(value) if isinstance(value, str) else number(value)


def checkpoint(sample, content, records):
    parts = [
        ("archive/data.pkl", content),
        ("archive/byteorder", b"little"),
        *records,
        ("archive/version", b"3\n"),
    ]
    return sample.first_line + zip_of(parts)


def lie_in_pickle(rng, sample):
    name = rng.choice([name for name in sample.used if sample.tensors[name].ndim])
    value = sample.tensors[name]
    index, numel = list(sample.content).index(name), value.numel()
    shape, stride = tuple(value.shape), value.contiguous().stride()
    kind = _STORAGES[str(value.dtype).removeprefix("torch.")]
    huge = rng.choice([numel + 1, numel * 2, 2**31, 2**40, 2**61, 2**63, -1, 0])
    lies = [
        (kind, str(index), huge, 0, shape, stride),
        (kind, str(index), numel, huge, shape, stride),
        (kind, str(index), huge, 0, (huge,), (1,)),
        (kind, str(index), numel, 0, shape, (0,) * len(shape)),
        (kind, str(index), numel, 0, (huge, *shape[1:]), (0, *stride[1:])),
        (kind, "99", numel, 0, shape, stride),
        (kind, "../data.pkl", numel, 0, shape, stride),
        (kind, "", numel, 0, shape, stride),
        ("DoubleStorage", str(index), numel, 0, shape, stride),
        ("DoubleStorage", str(index), numel // 2, 0, shape, stride),
        ("IntStorage", str(index), numel, 0, shape, stride),
        ("UntypedStorage", str(index), numel * 4, 0, shape, stride),
        ("QInt8Storage", str(index), numel * 4, 0, shape, stride),
        (kind, str(index), numel, 0, (*shape, 1), stride),
        (kind, str(index), numel, 0, shape[::-1], stride)
        if shape != shape[::-1]
        else (kind, "x", 0, 0, (), ()),
        (kind, str(index), numel, 0, (1,) * 3000, (1,) * 3000),
        (kind, str(index), numel, 0, (2**40, 2**40), (1, 1)),
        (kind, str(index), numel, 1, shape, stride),
        (kind, str(index), numel, 0, shape, (2**62,) * len(shape)),
    ]
    lie = rng.choice(
        [lie for lie, told in enumerate(lies) if told != (kind, str(index), numel, 0, shape, stride)]
    )
    items, records = stored(sample, **{name: tensor_pickle(*lies[lie])})
    return with_weights(
        sample,
        f"lies in a pickle ({lie}) of {name}",
        checkpoint(sample, dict_pickle(items), records),
        REFUSAL,
    )


def attack_values():
    """Return instructions that would run code if they were followed, by name."""
    touch = f"touch {MARKER}"
    python = f"__import__('os').system({touch!r})"
    inner = pickle_of("os.system", touch)
    text = lambda value: b"\x8c" + bytes([len(value)]) + value.encode()
    calls = {
        "os.system": touch,
        "posix.system": touch,
        "subprocess.getoutput": touch,
        "subprocess.Popen": touch,
        "builtins.eval": python,
        "builtins.exec": python,
        "__builtin__.eval": python,
        "builtins.compile": python,
        "timeit.timeit": python,
        "torch.hub.load": ".",
        "pickle.loads": python,
        "torch.load": MARKER,
        "torch.storage._load_from_bytes": touch,
        "pydoc.locate": "os",
        "runpy.run_path": MARKER,
        "torch._utils._import_dotted_name": "os.system",
        "numpy.core.multiarray._reconstruct": "x",
        "torch.serialization.load": MARKER,
        "importlib.import_module": "antigravity",
        "builtins.open": MARKER,
        "code.interact": python,
        "logging.FileHandler": MARKER,
        "io.FileIO": MARKER,
        "torch.jit.load": MARKER,
        "numpy.load": MARKER,
        "pathlib.Path": MARKER,
        "collections.Counter": "ab",
        "builtins.getattr": "x",
    }
    values = {name: pickle_of(name, argument)[2:-1] for name, argument in calls.items()}
    touch_bytes = b"\x85R"
    values |= {
        "STACK_GLOBAL": text("os") + text("system") + b"\x93" + text(touch) + touch_bytes,
        "STACK_GLOBAL from the memo": text("os")
        + b"\x940"
        + text("system")
        + b"\x940h\x00h\x01\x93"
        + text(touch)
        + touch_bytes,
        "STACK_GLOBAL, dotted": text("os")
        + text("path.os.system")
        + b"\x93"
        + text(touch)
        + touch_bytes,
        "INST": b"(" + short(touch) + b"ios\nsystem\n",
        "OBJ": b"(cos\nsystem\n" + short(touch) + b"o",
        "NEWOBJ": b"cos\nsystem\n" + short(touch) + b"\x85\x81",
        "NEWOBJ_EX": b"csubprocess\nPopen\n" + short(touch) + b"\x85}\x92",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "BUILD on a function": b"cos\nsystem\n}" + short("x") + b"K\x01sb",
        "BUILD on a tensor": b"ctorch._tensor\nTensor\n)\x81}"
        + short("__setstate__")
        + b"cos\nsystem\nsb",
        "BUILD of __dict__": b"ccollections\nOrderedDict\n)R}" + short("__class__") + b"cos\nsystem\nsb",
        "torch.load nested": b"ctorch.storage\n_load_from_bytes\n"
        b"B" + struct.pack("<L", len(inner)) + inner + b"\x85R",
        "numpy scalar": b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\n"
        + short("O8")
        + b"\x85RB"
        + struct.pack("<L", len(inner))
        + inner
        + b"\x86R",
        "numpy dtype": b"cnumpy\ndtype\n" + short("O8") + b"\x89\x88\x87R",
        "codecs.encode": b"c_codecs\nencode\n" + short("x") + short("latin1") + b"\x86R",
        "wrapper subclass": b"ctorch._utils\n_rebuild_wrapper_subclass\n(cos\nsystem\ntR",
        "rebuild from type": b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\ncos\nsystem\n("
        + short(touch)
        + b"t}tR",
        "functools.partial": b"cfunctools\npartial\ncos\nsystem\n" + short(touch) + b"\x86R)R",
        "persistent id of a module": b"(" + short("module") + b"cos\nsystem\n" + short(touch) + b"tQ",
        "PERSID": b"Pos.system\n",
        "a frozenset": b"(K\x01\x91",
        "a set": b"\x8f(K\x01\x90",
        "POP": b"cos\nsystem\n" + short(touch) + b"\x85R0N",
        "a global alone": b"cos\nsystem\n",
        "a call of None": b"N)R",
        "a call of a tensor function": b"ctorch._utils\n_rebuild_tensor_v2\n)R",
        "OrderedDict of items": b"ccollections\nOrderedDict\n(("
        + short("a")
        + b"cos\nsystem\ntt"
        + b"\x85R",
        "a huge memo index": b"r\xff\xff\xff\x7fN",
        "memo not set": b"hZ",
        "LONG4": b"\x8b\xff\xff\xff\x7f",
        "BINBYTES8": b"\x8e" + b"\xff" * 7 + b"\x7f",
        "BINUNICODE8": b"\x8d" + b"\xff" * 7 + b"\x7f",
        "FRAME": b"\x95" + b"\xff" * 7 + b"\x7f",
        "LONG": b"L" + b"9" * 5000 + b"L\n",
        "NEXT_BUFFER": b"\x97",
        "a list in itself": b"]q\x00h\x00a",
        "a bomb of tuples": b")" + b"q\x00h\x00\x86" * 1 + b"".join(b"2\x86" for _ in range(60)),
        "a bomb of lists": b"]q\x00"
        + b"".join(
            b"]q" + bytes([n + 1]) + b"(h" + bytes([n]) * 1 + b"h" + bytes([n]) + b"e" for n in range(60)
        ),
        "deep lists": b"]" * 5000 + b"a" * 4999,
    }
    return values


def attack_pickles(value):
    """Return pickles with instructions in all places, by name."""
    tuples = b"(" + b")" + b"".join(b"q\x05h\x05\x86" for _ in range(40)) + b"N"
    return {
        "alone": b"\x80\x02" + value + b".",
        "as a value": b"\x80\x02}" + short("x") + value + b"s.",
        "as a key": b"\x80\x02}" + value + b"K\x01s.",
        "as a state": b"\x80\x02ccollections\nOrderedDict\n)R" + value + b"b.",
        "in protocol 4": b"\x80\x04" + value + b".",
        "in a state_dict": b"\x80\x02}" + short("state_dict") + b"}" + short("x") + value + b"ss.",
        "with a key that takes ever to hash": b"\x80\x02}" + tuples[1:-1] + b"K\x01s" + value + b"0.",
    }


HARMLESS = {"a huge memo index"}
"""Instructions that build nothing: torch and we keep a memo by index, not as long as the largest."""


def attack_pickle(rng, sample):
    """A pickle that would create a file, in each kind of container."""
    values = attack_values()
    named = rng.choice(sorted(values))
    value = values[named]
    form = rng.choice(["beside tensors", "alone", "raw", "raw npy", "raw .pkl", "joined"])
    if form == "beside tensors" and sample.suffix in (".pt", ".pth"):
        items, records = stored(sample)
        place = rng.choice([*items, "x"])
        items[place] = value
        content = dict_pickle(items)
    else:
        pickles = attack_pickles(value)
        content = pickles[rng.choice(sorted(pickles))]
        records = []
    name = f"{named}, {form}"
    if form == "raw npy":
        parts = {"W_enc.npy": npy_of("|O", (1,), content), "b.npy": content}
        body, suffix = zip_of(parts.items()), ".npz"
    elif form.startswith("raw"):
        body, suffix = content, rng.choice([".pt", ".pth"]) if form == "raw" else ".pkl"
    elif form == "joined":
        body, suffix = content + zip_of([("archive/data.pkl", content)]), ".pt"
    else:
        body, suffix = checkpoint(sample, content, records), rng.choice([".pt", ".pth"])
        body = body[len(sample.first_line) :] if suffix == ".pth" else body
    weights = str(Path(sample.weights).with_suffix(suffix))
    files = {key: content for key, content in sample.files.items() if key != sample.weights} | {
        weights: body
    }
    place = weights if sample.place == sample.weights or rng.random() < 0.5 else sample.place
    if form == "raw .pkl":
        place = weights
    return Case(sample, name, files, SAME if named in HARMLESS else REFUSAL, place)
