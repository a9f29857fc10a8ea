"""Importing the package is cheap: neither torch nor transformers comes with it."""

from __future__ import annotations

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
