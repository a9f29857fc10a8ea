"""What was computed once is kept, by who computed it and by the digest of the item."""

from __future__ import annotations

from sae_features.store.protocol import Store

__all__ = ["Store"]
