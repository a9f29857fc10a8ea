"""Mutators of configurations."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from saes.fuzzing.samples import LEGAL, SAME, Case
from saes.fuzzing.verdicts import CHOICES, COUNTS, NUMBERS, SIZES, SWITCHES


def read_config(text, name):
    """Return what a configuration says, or None where it is none."""
    if name.endswith(".yaml") and (len(text) > 2**14 or b"&" in text):
        return None  # a bomb of ours
    try:
        values = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
    except Exception:  # noqa: BLE001 whatever is wrong with it
        return None
    return values if isinstance(values, dict) else None


def settings(values, prefix=""):
    """Return the settings of a configuration by their place."""
    found = {}
    for name, value in values.items():
        found[f"{prefix}{name}"] = value
        if isinstance(value, dict):
            found |= settings(value, f"{prefix}{name}.")
    return found


def _differences(old, new):
    """Return settings that are not what they were; ``...`` for those that are gone."""
    old, new = settings(old), settings(new)
    names = [name for name in old | new if not _equal(old.get(name, ...), new.get(name, ...))]
    leaves = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    return {name: new.get(name, ...) for name in leaves}


def _equal(one, other):
    return type(one) is type(other) and one == other


def odd_value(rng, old):
    """Return a value that a setting should not have, or another that it may."""
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    wide = {str(n): n for n in range(1000)}
    options = [
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        3,
        7,
        2**31,
        2**63,
        10**30,
        10**400,
        -(10**400),
        0.5,
        1e300,
        -1e300,
        1e-320,
        math.nan,
        math.inf,
        -math.inf,
        "",
        "0",
        "x" * 5000,
        "x" * 300_000,
        "../../../etc/passwd",
        "/etc/passwd",
        "relu",
        "topk",
        "jumprelu",
        "gated",
        "\0",
        "\ud800",
        "é" * 99,
        [],
        {},
        [1],
        ["relu"],
        {"k": 3},
        deep,
        wide,
        [[]] * 1000,
        {"a": deep},
        "none",
        "layer_norm",
        "batchtopk",
        "tanh-relu",
        "standard",
    ]
    if type(old) in (int, float):
        options += [old + 1, old - 1, -old, old * 2, float(old), str(old), old / 2, int(old)] * 2
    return rng.choice(options)


def change_config(rng, sample):
    name = sample.config if sample.config is not None else sample.weights
    text = sample.files[name] if sample.config is not None else sample.first_line
    values = read_config(text, name)
    if values is None:
        return add_config(rng, sample)
    known = settings(values)
    places = sorted(known)
    matters = [
        place
        for place in places
        if place.rsplit(".", 1)[-1] in CHOICES.keys() | SWITCHES | COUNTS | NUMBERS | SIZES
    ]
    changed = json.loads(json.dumps(values))
    for _ in range(rng.choice([1, 1, 1, 2])):
        place = rng.choice(matters if matters and rng.random() < 0.6 else places)
        inner, parts = changed, place.split(".")
        for part in parts[:-1]:
            inner = inner.get(part, {}) if isinstance(inner, dict) else {}
        inner = inner if isinstance(inner, dict) else {}
        if rng.random() < 0.15:
            inner.pop(parts[-1], None)
        else:
            inner[parts[-1]] = odd_value(rng, known[place])
    written = yaml.safe_dump(changed) if name.endswith(".yaml") else json.dumps(changed)
    return _with_config(
        sample,
        f"settings {sorted(_differences(values, changed))}",
        written.encode("utf-8", "surrogatepass"),
    )


def _with_config(sample, title, content, allowed=LEGAL):
    name = sample.config
    old = read_config(sample.files[name] if name is not None else sample.first_line, name or "")
    if name is None:
        raw = sample.files[sample.weights]
        files = {
            **sample.files,
            sample.weights: content.replace(b"\n", b" ") + b"\n" + raw[len(sample.first_line) :],
        }
    else:
        files = {**sample.files, name: content}
    new = read_config(content, name or "")
    changed = _differences(old, new) if new is not None else {"": None}
    return Case(sample, title, files, allowed, changed=changed)


def flip_config(rng, sample):
    text = bytearray(sample.files[sample.config] if sample.config else sample.first_line)
    if not text:
        return add_config(rng, sample)
    for _ in range(rng.choice([1, 1, 3])):
        text[rng.randrange(len(text))] = rng.choice(b'0123456789"{}[],:eE.-ntf \n\\\x00\xff')
    return _with_config(sample, "bytes of the configuration", bytes(text))


def bomb_config(rng, sample):
    text = sample.files[sample.config] if sample.config else sample.first_line
    start = text.rstrip()[:-1] + b', "x": ' if text.startswith(b"{") else text + b"\nx: "
    end = b"}" if text.startswith(b"{") else b"\n"
    twice = text.rstrip()[:-1] + b", " + text.lstrip()[1:]
    bombs = [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        start + b"[" * 900 + b"]" * 900 + end,
        start + b"[[]," * 0 + b"[" + b"[]," * 300_000 + b"[]]" + end,
        start + b"9" * 4000 + end,
        start + b"9" * 100_000 + end,
        start + b'"' + b"x" * 2_000_000 + b'"' + end,
        twice,
        text[: rng.randrange(len(text) + 1)],
        b"\xff\xfe" + text,
        b"null",
        b"[]",
        b"NaN",
        b'"x"',
        b"",
        b"\xef\xbb\xbf" + text,
        start + b"1e999" + end,
        b"a0: &a0 {x: 1}\n"
        + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d]}\n" % (n, n, n - 1, n - 1) for n in range(1, 30)),
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 30)),
        b"!!python/object/apply:os.system ['touch executed']",
        b"x: !!python/name:os.system",
        b"x: !!int ''",
        b"x: !!timestamp x",
        b"x: !!bool x",
        b"{" * 5000,
        b"? [a]\n: b",
        b"x: 2001-99-99",
    ]
    form = rng.randrange(len(bombs))
    if not text:
        return add_config(rng, sample)
    return _with_config(sample, f"a bomb as configuration ({form})", bombs[form])


def add_config(rng, sample):
    """Files beside the weights that another format, or a label, would have."""
    name = rng.choice(
        [
            "cfg.json",
            "config.json",
            "hyperparams.json",
            "config.yaml",
            "sae.json",
            "labels.json",
            "labels.csv",
            "layer4_cfg.json",
        ]
    )
    content = rng.choice(
        [
            b"{}",
            b"{",
            b"[" * 10**5,
            b'{"d_in": 6, "d_sae": 16}',
            b'{"k": 3}',
            b'{"0": "x"}',
            b'{"99": "x"}',
            b'{"0": 1}',
            b"index,label\n0,x\n",
            b"index,label\n99,x\n",
            b'{"format": "sae-features"}',
            b'{"trainer": {}}',
            b'{"act_size": 6, "dict_size": 16}',
            b"\xff",
            b'[{"index": 0, "label": []}]',
            b"[" + b"[]," * 100_000 + b"[]]",
            b'{"0": "' + b"x" * 20_000 + b'"}',
            b'{"d_in": 6, "hook_point_layer": []}',
            b'{"expansion_factor": {}, "norm_activation": []}',
            b'{"trainer": {"dict_class": []}}',
            b"index,label\n" + b"0," + b"x" * 200_000,
        ]
    )
    folder = str(Path(sample.place)) if not Path(sample.place).suffix else str(Path(sample.place).parent)
    path = f"{folder}/{name}" if folder not in (".", "") else name
    if path in sample.files:
        return flip_config(rng, sample)
    return Case(sample, f"{name} added", {**sample.files, path: content}, SAME)
