"""``python -m sae_features`` is ``sae-features``."""

from __future__ import annotations

import sys

from sae_features.cli import main

sys.exit(main())
