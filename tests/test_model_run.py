from __future__ import annotations

import pytest

from sae_features.computation import Means, Wish
from sae_features.items import Items
from sae_features.model_run import Lost, ModelRun, cost_of
from sae_features.store.disk import DiskStore
from sae_features.store.memory import MemoryStore

TEXTS = ["x" * n for n in (10, 50_000, 300, 20_000, 7, 90_000, 15_000)]


def blocks_of(texts, store):
    items = Items("text", texts)
    positions = {bytes([i]): i for i in range(len(texts))}
    run = ModelRun((), items, positions, wish=Wish(), means=Means(store), lost=Lost())
    return [[len(texts[positions[digest]]) for digest in block] for block in run.blocks(list(positions))]


@pytest.mark.parametrize("store", [None, MemoryStore()])
def test_one_block_where_nobody_shares_the_work(store):
    assert blocks_of(TEXTS, store) == [sorted(map(len, TEXTS), reverse=True)]
    assert len(blocks_of(TEXTS * 5, store)) == 4  # 250,000 characters each, or a bit more


def test_several_where_processes_share_it(tmp_path):
    found = blocks_of(TEXTS, DiskStore(tmp_path))
    assert found == [[90_000], [50_000], [20_000, 15_000], [300, 10, 7]]
    assert blocks_of(TEXTS[:1], DiskStore(tmp_path)) == [[10]]
    assert blocks_of([], DiskStore(tmp_path)) == []


def test_an_image_costs_as_much_as_a_short_text():
    assert cost_of("a text") == 6
    assert cost_of(object()) == 1000
