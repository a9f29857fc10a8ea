"""Save the SAEs of ``tests/golden`` in other libraries' formats, to let these libraries read them.

python scripts/export_golden_saes.py OUT
python scripts/make_golden_saes.py saelens-check OUT/saelens     # where sae-lens is installed
python scripts/make_golden_saes.py sparsify-check OUT/sparsify   # where sparsify is
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

from safetensors.torch import load_file, save_file

from sae_features import load_sae
from sae_features.errors import SAEFormatError

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"
FORMATS = ("saelens", "sparsify")


def main() -> None:
    """Save what each format can express, and print what it cannot."""
    warnings.simplefilter("ignore")  # of what the files leave open
    out = Path(sys.argv[1])
    saved = dict.fromkeys(FORMATS, 0)
    for about in sorted(GOLDEN.glob("*/*/about.json")):
        told = json.loads(about.read_text())
        given = {name: value for name, value in told["arguments"].items() if name in ("k", "norm_scale")}
        sae = load_sae(about.parent / "files" / told["path"], **given)
        x = load_file(about.parent / "expected.safetensors")["x"]
        latents, reconstruction = sae.forward(x)
        expected = {
            "x": x,
            "latents": latents.contiguous(),
            "reconstruction": reconstruction.contiguous(),
        }
        for name in FORMATS:
            folder = out / name / f"{about.parent.parent.name}-{about.parent.name}"
            try:
                sae.save(folder, format=name)
            except SAEFormatError as error:
                print(f"{name}: {folder.name}: {error}")
                continue
            save_file(expected, folder / "expected.safetensors")
            saved[name] += 1
    print(", ".join(f"{count} saved for {name}" for name, count in saved.items()))


if __name__ == "__main__":
    main()
