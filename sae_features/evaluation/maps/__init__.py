"""Maps from rows of one model's features to rows of another's, each fitted on paired rows."""

from __future__ import annotations
