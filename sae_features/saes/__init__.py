"""Sparse autoencoders: one canonical form, and readers of the files that hold them."""

from __future__ import annotations
