"""The four real models, each as transformers alone runs it: the yardstick for our own reading."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import transformers

from sae_features.datasets import load_movie_snippets
from sae_features.packaged_assets import fetch

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

ASSETS = {"minilm": "minilm", "e5": "e5-small", "smollm2": "smollm2", "dinov2-small": "dinov2-small"}
"""By alias: the folder that it is read from."""
LANGUAGES = [
    "query: ¿Dónde viven los gatos?",
    "Кошки спят весь день.",
    "猫は一日中寝ています。",
    "القطط تنام طوال اليوم",
    "बिल्लियाँ पूरे दिन सोती हैं।",
    "Zürich – à bientôt! 🐈",
    "猫",
]


@dataclass
class Original:
    """A model, its tokenizer or image processor, and nothing of ours between them.

    One item is run at a time, without padding.
    """

    alias: str
    model: Any
    prepare: Any
    known: dict[Any, list[np.ndarray]] = field(default_factory=dict)

    @classmethod
    def load(cls, alias: str) -> Original:
        folder = fetch(ASSETS[alias])
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        if alias == "dinov2-small":
            # Pillow's resampling, as we always take it, also where torchvision is installed.
            pil = getattr(transformers, "BitImageProcessorPil", transformers.BitImageProcessor)
            return cls(alias, model, pil.from_pretrained(folder))
        return cls(alias, model, transformers.AutoTokenizer.from_pretrained(folder))

    @property
    def is_vision(self) -> bool:
        return self.alias == "dinov2-small"

    @property
    def blocks(self) -> Any:
        if self.alias == "smollm2":
            return self.model.layers
        encoder = self.model.encoder
        return encoder.layer if hasattr(encoder, "layer") else encoder.layers

    @cached_property
    def items(self) -> list[Any]:
        """Items of very different lengths; of images, paths."""
        if self.is_vision:
            return textile_pictures(3)
        one, two, three = load_movie_snippets().data[:3]
        if self.alias == "smollm2":  # 30 blocks
            one, two = (" ".join(text.split()[:9]) for text in (one, two))
        items = [one, two, three, "Yes.", "The", f"{one} {two}"]
        return items + LANGUAGES if self.alias == "e5" else items

    def states(self, item: Any) -> list[np.ndarray]:
        """Return ``hidden_states`` of one item's content tokens, (tokens, d) each."""
        if item not in self.known:
            states = self.all_states(item)
            first = 0 if self.alias == "smollm2" and len(states[0]) == 1 else 1
            last = -1 if self.alias in {"minilm", "e5"} else None  # SEP
            self.known[item] = [state[first:last] for state in states]
        return self.known[item]

    def states_in_batch(self) -> list[list[np.ndarray]]:
        """Return what :meth:`states` does, of all texts of a decoder run together, padded on the right.

        Products of other shapes round differently: by 1.07e-5 of the largest value on an AMD EPYC.
        """
        self.prepare.pad_token = self.prepare.pad_token or self.prepare.eos_token
        inputs = self.prepare(self.items, return_tensors="pt", padding=True, padding_side="right")
        with torch.inference_mode():
            states = self.model(**inputs, output_hidden_states=True).hidden_states
        found = []
        for i, n in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            found.append([state[i, min(1, n - 1) : n].numpy() for state in states])
        return found

    def all_states(self, item: Any) -> list[np.ndarray]:
        """Return ``hidden_states`` of all tokens of a text, of ids, or of an image."""
        if self.is_vision:
            import PIL.Image

            inputs = self.prepare(PIL.Image.open(item), return_tensors="pt")
        elif isinstance(item, list):
            inputs = {"input_ids": torch.tensor([item])}
        else:
            inputs = self.prepare(item, return_tensors="pt")
        with torch.inference_mode():
            output = self.model(**inputs, output_hidden_states=True)
        return [state[0].numpy() for state in output.hidden_states]


def textile_pictures(n: int, *, split: str = "test") -> list[Path]:
    """Return pictures of the ``textile`` asset, the classes in turn."""
    folder = fetch("textile")
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == split]
    classes = {
        label: [folder / r["file"] for r in rows if r["label"] == label]
        for label in ("global", "nominal")
    }
    return [path for pair in zip(*classes.values(), strict=False) for path in pair][:n]
