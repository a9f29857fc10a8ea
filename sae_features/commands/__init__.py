"""What the verbs of the command line do that are more than a call of the library."""

from __future__ import annotations
