"""What all model families share: tokens, hook points, early stop."""

from __future__ import annotations
