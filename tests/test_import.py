"""Importing the package is cheap: neither torch nor transformers comes with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import sae_features


def modules_after(statement):
    program = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import sae_features",
        "import sae_features; sae_features.list_families()",
        "from sae_features import list_families, SAEFeaturesError, SAEFeaturesWarning",
        "from sae_features import SAEFeaturizer; repr(SAEFeaturizer())",
        "import sae_features_bert",
        "import sae_features.cli",
        "from sae_features.cli import main; main(['plugins'])",
        "from sae_features.cli import main; main(['inspect', 'minilm-topk-4k/layer_3'])",
        "from sae_features import SAEFeaturizer; SAEFeaturizer().get_feature_names_out()",
        "from sae_features import SAEFeaturizer; SAEFeaturizer().fit(['a'])",
        "from sae_features import ActivationFeaturizer; ActivationFeaturizer().fit(['a'])",
    ],
)
def test_neither_torch_nor_transformers_is_imported(statement):
    assert not {"torch", "transformers"} & modules_after(statement)


GOLDEN = Path(__file__).parent / "golden"
HEADERS = """
import json, sys, warnings
sys.modules["torch"] = None  # importing it fails
from pathlib import Path
from sae_features.releases import find_sae
from sae_features.saes.labels import read_labels
warnings.simplefilter("ignore")
cases, labels = json.loads(sys.argv[1])
failed = {}
for case, place, arguments in cases:
    try:
        find_sae(place, **arguments).header.digest
    except Exception as error:
        failed[case] = f"{type(error).__name__}: {error}"
read_labels(Path(labels), 4)
print(json.dumps(failed))
"""


def test_headers_of_safetensors_and_npz_files_are_read_without_torch(tmp_path):
    cases = [("ours", "minilm-topk-4k/layer_3", {})]
    for about in sorted(GOLDEN.glob("*/*/about.json")):
        told, case = json.loads(about.read_text()), about.parent
        suffixes = {path.suffix for path in (case / "files").rglob("*")}
        given = {name: told["arguments"].get(name) for name in ("k", "norm_scale")}
        if suffixes & {".safetensors", ".npz"}:
            place = str(case / "files" / told["path"])
            cases.append((f"{case.parent.name}/{case.name}", place, given))
    assert len(cases) > 30
    (tmp_path / "labels.csv").write_text("index,label\n0,x\n")
    done = subprocess.run(
        [sys.executable, "-c", HEADERS, json.dumps([cases, str(tmp_path / "labels.csv")])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {}


def test_the_bare_import_brings_no_scientific_stack():
    assert not {"numpy", "scipy", "sklearn"} & modules_after("import sae_features")


@pytest.mark.parametrize("name", sae_features.__all__)
def test_every_public_name_is_there(name):
    assert getattr(sae_features, name) is not None
    assert name in dir(sae_features)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Featurizer'"):
        sae_features.Featurizer  # noqa: B018


def test_every_public_name_is_in_the_api_docs():
    docs = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    assert [name for name in sae_features.__all__ if name not in docs and name != "__version__"] == []
