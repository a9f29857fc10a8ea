"""The verb ``cache``: where values are kept, how many, whether they are whole."""

from __future__ import annotations

import json

import platformdirs
import pytest
from store.workload import IDENTITY, digests_of, value_of

from sae_features import cli
from sae_features.store.settings import disk_store

DIGESTS = digests_of(12)
WHO = """{"model": "7031cbd6af", "hook_point": [3, "resid_post"], "kept": "codes, float32",
          "sae": "43557f1234", "tokens": "all", "dtype": "float32", "max_length": 256}"""


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.delenv("SAE_FEATURES_CACHE", raising=False)
    monkeypatch.delenv("SAE_FEATURES_CACHE_SIZE", raising=False)
    store = disk_store(tmp_path / "store")
    store.put_many(IDENTITY, {digest: value_of(digest) for digest in DIGESTS}, WHO)
    yield store
    store.close()


def run(capsys, *arguments):
    status = cli.main(["cache", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def run_json(capsys, *arguments):
    status, out, err = run(capsys, *arguments, "--json")
    assert (status, err) == (0, "")
    return json.loads(out)


def test_path(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    default = str(tmp_path / "sae-features" / "codes")
    monkeypatch.delenv("SAE_FEATURES_CACHE", raising=False)
    assert run(capsys, "path") == (0, default + "\n", "")
    monkeypatch.setenv("SAE_FEATURES_CACHE", "off")
    assert run_json(capsys, "path") == {"folder": default}
    monkeypatch.setenv("SAE_FEATURES_CACHE", str(tmp_path / "named"))
    assert run_json(capsys, "path") == {"folder": str(tmp_path / "named")}
    assert run_json(capsys, "path", "--cache", tmp_path / "given") == {"folder": str(tmp_path / "given")}
    assert list(tmp_path.iterdir()) == []


def test_stats(capsys, store):
    found = run_json(capsys, "stats", "--cache", store.folder)
    assert (found["items"], found["shards"], found["claims"]) == (12, 1, 0)
    assert found["identities"][0]["who"] == json.loads(WHO)
    status, out, _ = run(capsys, "stats", "--cache", store.folder)
    assert status == 0
    assert out.splitlines() == [
        f"folder: {store.folder}",
        "items: 12 in 1 shards",
        "size: 0.0 MiB of 20,480.0 MiB",
        "claims: 0",
        f"  {IDENTITY[:12]}  12 items, 0.0 MiB: codes, float32, layer 3 resid_post, model 7031cbd6, "
        "sae 43557f12, tokens=all, max_length=256",
    ]


@pytest.mark.parametrize("action", ["stats", "verify", "clear"])
def test_where_there_is_no_store_nothing_is_done(capsys, tmp_path, action):
    mine = tmp_path / "shards" / "ab" / f"{'ab' * 16}.safetensors"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for folder in (tmp_path, tmp_path / "nothing"):
        status, out, err = run(capsys, action, "--cache", folder)
        assert (status, out) == (1, "")
        assert err.startswith(f"sae-features: error: {folder} holds no store")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    status, _, err = run(capsys, action, "--cache", "")
    assert status == 1
    assert "Got --cache ''; expected a folder" in err


def test_verify(capsys, store):
    assert run_json(capsys, "verify", "--cache", store.folder) == {
        "folder": str(store.folder), "shards": 1, "items": 12, "damaged": 0, "missing_files": 0,
        "orphans": 0,
    }  # fmt: skip
    (path,) = store.folder.glob("shards/*/*")
    path.write_bytes(path.read_bytes()[:-100])
    path.with_name("f" * 32 + ".safetensors").write_bytes(b"")
    status, out, _ = run(capsys, "verify", "--cache", store.folder)
    assert status == 0
    assert out == (
        f"{store.folder}: 0 items in 1 shards are right; removed 12 damaged ones, 0 missing shards and "
        "1 files that belonged to nothing.\n"
    )


def test_clear(capsys, store):
    status, out, _ = run(capsys, "clear", "--cache", store.folder)
    assert (status, out) == (0, f"{store.folder}: removed 12 items in 1 shards, 0.0 MiB.\n")
    assert run_json(capsys, "clear", "--cache", store.folder)["items"] == 0
    assert list(store.folder.glob("shards/*/*")) == []
    assert store.get_many(IDENTITY, DIGESTS) == {}


def test_errors_take_one_line(capsys, store, tmp_path):
    store.index.run(lambda db: db.execute("PRAGMA user_version = 9").fetchall())
    store.close()
    status, out, err = run(capsys, "stats", "--cache", store.folder)
    assert (status, out) == (1, "")
    assert err == (
        f"sae-features: error: The store {store.folder} has schema 9; this version of sae-features "
        "reads schema 1. Upgrade sae-features, or name another folder.\n"
    )
    (tmp_path / "file").write_text("x")
    status, _, err = run(capsys, "clear", "--cache", tmp_path / "file")
    assert status == 1
    assert "is a file; expected a folder" in err
    assert (tmp_path / "file").read_text() == "x"


def test_an_action_is_needed(capsys):
    for arguments in (["cache"], ["cache", "burn"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2
    assert "stats" in capsys.readouterr().err
