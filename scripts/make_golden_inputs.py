"""Write ``tests/golden/embeddings.npz`` and ``pixels.npz``: what the original libraries compute.

For developers; the tests read the files and need none of these libraries.  Each part runs in a virtual
environment of its own, because torchvision wants a torch of several GB::

    python -m venv st
    st/bin/pip install torch==2.13.0 sentence-transformers==6.2.0 transformers==5.24.0
    st/bin/python scripts/make_golden_inputs.py embeddings

    python -m venv tv
    tv/bin/pip install torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 pillow
    tv/bin/python scripts/make_golden_inputs.py pixels
    tv/bin/python scripts/make_golden_inputs.py backends

``backends`` writes nothing; it prints how far Pillow and torchvision are apart.

``embeddings`` and ``backends`` read the folders of the packages ``minilm``, ``e5-small`` and ``textile``
(``--assets``, by default where ``python -m sae_features.packaged_assets`` puts them).  The pictures of
``pixels`` are made by :func:`picture`, from whose formula the tests make them, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
ASSETS = Path.home() / ".cache" / "sae-features" / "assets"
TEXTS = [
    "The film is a delight from start to finish.",
    "rain",
    "",
    "query: Where do cats live?",
    "¿Dónde viven los gatos, y por qué?",
    "猫は一日中寝ています。",
    "Кошки спят весь день — и ночью тоже. 🐈",
    " ".join(f"Sentence {i} says that {i * i} is the square of {i}." for i in range(200)),
]
"""With an empty one, several languages, and one that is longer than any window."""
SIZES = [(37, 61), (64, 64), (300, 200), (28, 28), (9, 5)]
"""Width and height of the pictures."""
DINOV3 = {
    "do_rescale": True, "rescale_factor": 1 / 255, "do_resize": True, "resample": 2,
    "size": {"height": 224, "width": 224}, "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
}  # fmt: skip
"""The usual ``preprocessor_config.json`` of DINOv3."""


def picture(width: int, height: int) -> np.ndarray:
    """Return a picture with edges, ramps and fine grain, (height, width, 3), uint8, by whole numbers."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    red = (x * x + 3 * y * x + 7 * y) % 256
    green = np.where((x // 5 + y // 3) % 2 == 0, 230, 20)
    blue = (x * 255 // max(width - 1, 1) + y * 255 // max(height - 1, 1)) // 2
    return np.stack([red, green, blue], axis=-1).astype(np.uint8)


def summary(pixels: np.ndarray) -> np.ndarray:
    """Return sums of pixel values by channel and 8 x 8 tiles, and by channel with alternating signs."""
    values = np.asarray(pixels, np.float64)
    channels, height, width = values.shape
    tiles = values.reshape(channels, 8, height // 8, 8, width // 8).mean(axis=(2, 4))
    signs = (-1.0) ** np.add.outer(np.arange(height), np.arange(width))
    return np.concatenate([tiles.reshape(-1), (values * signs).mean(axis=(1, 2))])


def write_embeddings(assets: Path) -> None:
    """Write what sentence-transformers makes of the texts, with the models' own limits."""
    from sentence_transformers import SentenceTransformer

    found = {}
    for name in ("minilm", "e5-small"):
        model = SentenceTransformer(str(assets / name), device="cpu", local_files_only=True)
        # One at a time: nothing is padded.
        found[name] = np.stack([model.encode(text, convert_to_numpy=True) for text in TEXTS])
    _write("embeddings.npz", texts=np.array(TEXTS), **found)


def write_pixels() -> None:
    """Write what transformers' processor of DINOv3 makes of the pictures, with torchvision."""
    from transformers import DINOv3ViTImageProcessor

    found = {}
    for width, height in SIZES:
        name = f"{width}x{height}"
        small = _pixels(DINOv3ViTImageProcessor(**DINOV3 | {"size": {"height": 28, "width": 28}}),
                        picture(width, height))  # fmt: skip
        usual = _pixels(DINOv3ViTImageProcessor(**DINOV3), picture(width, height))
        found |= {f"{name}/28": small, f"{name}/224": summary(usual)}
    _write("pixels.npz", **found)


def print_backends(assets: Path) -> None:
    """Print how far pixel values by Pillow and by torchvision are apart, after normalisation."""
    import PIL.Image
    import transformers

    folder = assets / "textile" / "images"
    photos = [np.asarray(PIL.Image.open(path)) for path in sorted(folder.rglob("*.jpg"))[::100][:20]]
    groups = {
        "textile photos, 250 x 250": photos,
        "synthetic, 37 x 61 to 300 x 200": [picture(*size) for size in SIZES],
        "synthetic, 1024 x 768": [picture(1024, 768)],
    }
    clip = {"image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711]}  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {
        "BitImageProcessor": {
            "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3,
            "image_mean": DINOV3["image_mean"], "image_std": DINOV3["image_std"],
        },
        "SiglipImageProcessor": {
            "size": {"height": 224, "width": 224}, "resample": 3,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        },
        "CLIPImageProcessor": {
            "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "resample": 3,
            **clip,
        },
    }  # fmt: skip
    for kind, options in kinds.items():
        by_pillow = getattr(transformers, f"{kind}Pil")(**options)
        by_torchvision = getattr(transformers, kind)(**options)
        for group, pictures in groups.items():
            pairs = [(_pixels(by_pillow, p), _pixels(by_torchvision, p)) for p in pictures]
            off = np.concatenate([np.abs(a - b).reshape(-1) for a, b in pairs])
            step = 1 / 255 / min(options["image_std"])
            print(json.dumps({
                "processor": kind, "pictures": group, "n": len(pictures),
                "largest": round(float(off.max()), 4), "mean": round(float(off.mean()), 5),
                "share_different": round(float((off > 1e-4).mean()), 4),
                "largest_in_grey_levels": round(float(off.max() / step), 2),
            }))  # fmt: skip


def _pixels(processor: Any, pixels: np.ndarray) -> np.ndarray:
    import PIL.Image

    given = processor(images=[PIL.Image.fromarray(pixels)], return_tensors="np")
    return np.asarray(given["pixel_values"][0], np.float32)


def _write(name: str, **arrays: np.ndarray) -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(GOLDEN / name, **arrays)
    print(f"{GOLDEN / name}: {(GOLDEN / name).stat().st_size:,} bytes")


def main(arguments: list[str] | None = None) -> int:
    """Run the part that is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=["embeddings", "pixels", "backends"])
    parser.add_argument("--assets", type=Path, default=ASSETS, metavar="FOLDER")
    given = parser.parse_args(arguments)
    if given.part == "embeddings":
        write_embeddings(given.assets)
    elif given.part == "pixels":
        write_pixels()
    else:
        print_backends(given.assets)
    return 0


if __name__ == "__main__":
    sys.exit(main())
