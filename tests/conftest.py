from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

from sae_features import discovery, families, pooled_rows, weights
from sae_features.families import ModelFamily, ModelSource, SAESource
from sae_features.models import ModelFiles
from sae_features.store import memory, session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sae_features.backbones.backbone import Backbone

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # huggingface_hub reads it when it is imported
sys.path.append(str(Path(__file__).parent))  # tests import tiny.py from here
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _fresh_process() -> Iterator[None]:
    """Let no test meet weights or codes that another one left."""
    yield
    weights.release_weights()
    memory.SHARED.clear()
    pooled_rows.DERIVED.clear()
    session.release()


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random BERT: 3 blocks, 32 wide, 64 positions."""
    from tiny import write_bert

    return write_bert(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_xlmr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random XLM-R of the same size."""
    from tiny import write_xlmr

    return write_xlmr(tmp_path_factory.mktemp("models") / "tiny-xlmr")


@pytest.fixture(scope="session")
def bert(tiny_bert: Path) -> Backbone:
    """The backbone in ``tiny_bert``, shared by all tests: leave it as it is."""
    from tiny import BERT

    from sae_features.backbones.backbone import Backbone

    return Backbone.load(tiny_bert, BERT, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def xlmr(tiny_xlmr: Path) -> Backbone:
    """The backbone in ``tiny_xlmr``, shared by all tests: leave it as it is."""
    from tiny import XLMR

    from sae_features.backbones.backbone import Backbone

    return Backbone.load(tiny_xlmr, XLMR, device="cpu", dtype="float32")


@pytest.fixture
def tiny_sae_folder(tmp_path: Path, tiny_bert: Path) -> Callable[..., Path]:
    """Write a random SAE for ``tiny_bert`` into a new folder; it records its model and hook point."""
    from tiny import random_sae

    def write(architecture: str = "topk", **options: Any) -> Path:
        options.setdefault("metadata", {"model": _record_of(tiny_bert)})
        folder = tmp_path / f"sae-{sum(1 for _ in tmp_path.glob('sae-*'))}"
        return random_sae(architecture, **options).save(folder)

    return write


@pytest.fixture(scope="session")
def tiny_package(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, tiny_xlmr: Path) -> Path:
    """A folder for ``sys.path`` with a package of models and SAEs that must not be imported."""
    from tiny import random_sae

    from sae_features.hook_point import HookPoint

    root = tmp_path_factory.mktemp("site-packages")
    package = root / "tiny_package"
    shutil.copytree(tiny_bert, package / "bert")
    shutil.copytree(tiny_xlmr, package / "xlmr")
    (package / "__init__.py").write_text("raise RuntimeError('a package of files was imported')\n")
    for layer, architecture in ((1, "topk"), (2, "relu")):
        random_sae(
            architecture,
            point=HookPoint(layer),
            metadata={"model": {**_record_of(tiny_bert), "id": "tests/tiny-bert"}},
        ).save(package / "saes" / f"layer_{layer}")
    return root


@pytest.fixture
def use_families(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let these be the families that are installed, and no other."""
    genuine = discovery.load_working

    def use(*installed: ModelFamily) -> None:
        monkeypatch.setattr(
            discovery,
            "load_working",
            lambda group: (
                {family.name: family for family in installed}
                if group == families.GROUP
                else genuine(group)
            ),
        )

    return use


@pytest.fixture
def tiny_family(
    tiny_package: Path, monkeypatch: pytest.MonkeyPatch, use_families: Callable[..., None]
) -> ModelFamily:
    """The only family: models ``tiny`` (default SAE at layer 1, another at 2) and ``tiny-xlmr``."""
    from tiny import BERT, XLMR

    monkeypatch.syspath_prepend(tiny_package)
    family = ModelFamily(
        name="tiny-family",
        architectures=(BERT, XLMR),
        aliases={
            "tiny": ModelSource("tests/tiny-bert", "a" * 40, "tiny_package", "bert"),
            "tiny-xlmr": ModelSource("tests/tiny-xlmr", "b" * 40, "tiny_package", "xlmr"),
        },
        saes=tuple(
            SAESource(
                sae_id=f"tiny-sae/layer_{layer}",
                model="tiny",
                layer=layer,
                package="tiny_package",
                package_path=f"saes/layer_{layer}",
                is_default=layer == 1,
            )
            for layer in (1, 2)
        ),
    )
    use_families(family)
    return family


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list of the texts that reach a tokenizer, and with it a model."""
    from sae_features.backbones.backbone import Backbone

    texts_seen: list[Any] = []
    genuine = Backbone.windows

    def windows(self: Backbone, items: Any, *rest: Any) -> Any:
        texts_seen.extend(items.values)
        return genuine(self, items, *rest)

    monkeypatch.setattr(Backbone, "windows", windows)
    return texts_seen


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Install a distribution for the length of a test: modules and ``.dist-info`` on ``sys.path``."""
    root = tmp_path / "installed"
    root.mkdir()
    monkeypatch.syspath_prepend(root)
    installed: list[str] = []

    def write(
        name: str,
        entry_points: Mapping[str, Mapping[str, str]],
        *,
        version: str = "1.0",
        modules: Mapping[str, str] | None = None,
    ) -> Path:
        info = root / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(
            "".join(
                f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in entries.items())
                for group, entries in entry_points.items()
            )
        )
        for module, source in (modules or {}).items():
            (root / f"{module}.py").write_text(source)
            installed.append(module)
        discovery.refresh()
        return root

    yield write
    for module in installed:
        sys.modules.pop(module, None)
    discovery.refresh()


def _record_of(folder: Path) -> dict[str, str]:
    """Return what an SAE's metadata say of the model in a folder."""
    files = ModelFiles(str(folder), folder, ModelFamily("any", ()))
    return {"id": str(folder), "digest": files.weights_digest}
