"""Training of sparse autoencoders on activations."""

from __future__ import annotations
