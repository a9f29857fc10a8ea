"""Make a new plugin from this template.

python plugins/_template/instantiate.py NAME MODEL_TYPE [--out DIR]

NAME is the new family's, in lower case; MODEL_TYPE is what ``config.json`` of its models says.  The
plugin is written to ``DIR/sae-features-NAME`` (by default here, in the current folder).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

TEMPLATE = Path(__file__).parent
LEFT_OUT = {"instantiate.py", "__pycache__"}


def instantiate(name: str, model_type: str, out: Path) -> Path:
    """Write the template's files with the names filled in, and return their folder.

    Raises
    ------
    ValueError
        If a name cannot be one.
    FileExistsError
        If the folder is there.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        message = f"Got NAME={name!r}; expected lower-case letters, digits and _, such as 'olmo'."
        raise ValueError(message)
    if (TEMPLATE.parent / f"sae-features-{name}").exists():
        raise ValueError(f"Got NAME={name!r}, which is a family of this project; choose another name.")
    if not re.fullmatch(r"[\w-]+", model_type, re.ASCII):
        message = f"Got MODEL_TYPE={model_type!r}; expected what config.json says, such as 'olmo2'."
        raise ValueError(message)

    def fill(text: str) -> str:
        return text.replace("NAME", name).replace("MODEL_TYPE", model_type)

    target = out / f"sae-features-{name}"
    target.mkdir(parents=True)
    for source in sorted(TEMPLATE.rglob("*")):
        relative = source.relative_to(TEMPLATE)
        if source.is_dir() or LEFT_OUT & set(relative.parts):
            continue
        place = target / fill(str(relative))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(fill(source.read_text(encoding="utf-8")), encoding="utf-8")
    return target


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("name", metavar="NAME", help="of the new family, in lower case")
    parser.add_argument("model_type", metavar="MODEL_TYPE", help="what config.json of its models says")
    parser.add_argument("--out", type=Path, default=Path(), help="parent folder (default: this one)")
    options = parser.parse_args(argv)
    try:
        target = instantiate(options.name, options.model_type, options.out)
    except (ValueError, FileExistsError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    check = f"sae-features plugins --check --family {options.name}"
    sys.stdout.write(f"{target}\nNext: pip install -e {target} && {check}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
