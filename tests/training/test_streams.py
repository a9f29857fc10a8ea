"""A model over a corpus as a source: the rows of a pass, their order, exact skipping, bounded memory."""

from __future__ import annotations

import hashlib
import json
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import BERT, D_MODEL, WORDS

from sae_features import load_backbone
from sae_features.architectures import Architecture, Patches
from sae_features.backbones.backbone import Backbone
from sae_features.errors import (
    InputTypeError,
    InvalidInputError,
    InvalidParameterError,
    SAEFeaturesWarning,
)
from sae_features.families import ModelFamily
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.testing import write_tiny
from sae_features.training.shards import ShardSource, write_activations
from sae_features.training.sources import cut
from sae_features.training.streams import BackboneSource, _within

pytestmark = [
    pytest.mark.usefixtures("tiny_family"),
    # the reference tells of texts without a token
    pytest.mark.filterwarnings("ignore:.*no token that counts:sae_features.errors.SAEFeaturesWarning"),
]
VIT = Architecture("vit", (Patches(),), final_norm=False)


def some_texts(n=60, seed=0, longest=15):
    """Texts of very different lengths, some of them empty."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(0, longest))) for _ in range(n)]


TEXTS = some_texts()


def source_of(texts=TEXTS, **options):
    """A source whose numbers do not depend on which texts run together: one text a time."""
    options = {"layer": 1, "batch_size": 1, "buffer_rows": 100, "max_norm": None} | options
    return BackboneSource("tiny", texts, **options)


def expected_rows(texts=TEXTS, **options):
    options = {"layer": 1, "batch_size": 1, "overflow": "chunk"} | options
    return load_backbone("tiny").activations(texts, **options).values


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def one_pass(source, batch_size, *, number=0, **options):
    n = source.n_batches(batch_size)
    return take(source.batches(batch_size, start=n * number, **options), n)


def assert_same_rows(batches, expected):
    """The same rows, each as often, in any order."""
    found = torch.cat(list(batches)).numpy()
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])


@pytest.mark.parametrize("batch_size", [1, 7, 32, 99, 100, 5000])
@pytest.mark.parametrize("buffer_rows", [1, 50, 100, 10_000])
def test_the_rows_of_a_pass_are_those_of_the_backbone(batch_size, buffer_rows):
    source, expected = source_of(buffer_rows=buffer_rows), expected_rows()
    assert (source.n_rows, source.d_in, source.hook_point) == (len(expected), D_MODEL, HookPoint(1))
    for number in range(2):
        batches = one_pass(source, batch_size, number=number, seed=5)
        assert_same_rows(batches, expected)
        assert all(len(batch) for batch in batches)
    assert all(batch.dtype == torch.float32 and batch.device.type == "cpu" for batch in batches)


def test_a_pass_in_one_block_is_cut_into_equal_batches():
    source = source_of(buffer_rows=10_000)
    sizes = [len(batch) for batch in one_pass(source, 30)]
    assert sizes == np.diff(cut(source.n_rows, 30)).tolist()


def test_batches_of_many_blocks_are_of_about_the_same_size():
    source = source_of(some_texts(300), buffer_rows=400)
    sizes = [len(batch) for batch in one_pass(source, 20)]
    assert min(sizes) >= 18
    assert max(sizes) <= 22


def test_batches_of_the_model_change_rounding_alone():
    expected = expected_rows()
    together = list(source_of(batch_size=None).in_order(40))
    np.testing.assert_allclose(torch.cat(together).numpy(), expected, atol=1e-5)


def test_in_order_gives_item_after_item():
    source, expected = source_of(), expected_rows()
    batches = list(source.in_order(16))
    np.testing.assert_array_equal(torch.cat(batches).numpy(), expected)
    assert len(batches) == source.n_batches(16)
    for start in range(0, len(batches) + 2, 3):
        rest = list(source.in_order(16, start=start))
        assert len(rest) == max(0, len(batches) - start)
        assert all(torch.equal(a, b) for a, b in zip(rest, batches[start:], strict=True))


@pytest.mark.parametrize("max_norm", [None, 1.0, 1.2])
@pytest.mark.parametrize("batch_size", [3, 25, 70])
def test_what_follows_skipped_batches_is_what_would_have_followed(batch_size, max_norm):
    source = source_of(batch_size=None, max_norm=max_norm)
    whole = take(source.batches(batch_size, seed=2), 2 * source.n_batches(batch_size) + 2)
    for start in range(0, len(whole), 1 if batch_size > 20 else 9):
        found = take(source.batches(batch_size, seed=2, start=start), min(3, len(whole) - start))
        for one, other in zip(found, whole[start:], strict=False):
            assert torch.equal(one, other)


def test_skipping_runs_the_model_over_one_block_at_most(monkeypatch):
    source = source_of(buffer_rows=60)
    n_batches = source.n_batches(20)
    ran = []
    genuine = Backbone.run

    def run(backbone, windows, *rest, **options):
        ran.append(int(windows.counts.sum()))
        return genuine(backbone, windows, *rest, **options)

    monkeypatch.setattr(Backbone, "run", run)
    for start in range(3 * n_batches):
        ran.clear()
        next(source.batches(20, start=start))
        assert len(ran) == 1
        assert ran[0] <= 60 + 14


def test_seed_and_pass_decide_the_order():
    source = source_of()
    orders = [
        torch.cat(one_pass(source, 20, number=number, seed=seed)) for seed in (0, 1) for number in (0, 1)
    ]
    for i, one in enumerate(orders):
        assert all(not torch.equal(one, other) for other in orders[i + 1 :])
    assert torch.equal(orders[0], torch.cat(one_pass(source_of(), 20)))


def test_the_rows_of_a_block_are_shuffled_together():
    texts = [f"{word} " * 10 for word in WORDS[:40]]
    source = source_of(texts, buffer_rows=200, layer=0, site="resid_pre")
    item_of = {
        row.tobytes(): item
        for item in range(40)
        for row in expected_rows([texts[item]], layer=0, site="resid_pre")
    }
    items = [len({item_of[row.numpy().tobytes()] for row in batch}) for batch in one_pass(source, 20)]
    assert min(items) >= 8  # one after the other they were of 2 or 3 items


def test_no_more_rows_are_alive_than_said(monkeypatch):
    source = source_of(some_texts(200), buffer_rows=150)
    longest, alive, most = int(source._counts.max()), [], []
    genuine = BackboneSource._run

    def run(self, chosen, name):
        alive[:] = [ref for ref in alive if ref() is not None]
        rows = genuine(self, chosen, name)
        alive.append(weakref.ref(rows))
        most.append(sum(len(ref()) for ref in alive))
        return rows

    monkeypatch.setattr(BackboneSource, "_run", run)
    for _ in take(source.batches(25), 2 * source.n_batches(25)):
        pass
    assert len(most) >= 2 * source.n_rows // (150 + longest)
    assert max(most) <= 150 + longest


def test_batches_do_not_keep_their_block_alive():
    source = source_of(buffer_rows=10_000)
    batch = next(source.batches(25))
    assert batch.untyped_storage().nbytes() == batch.nbytes


def test_a_sample_is_always_the_same_and_of_the_corpus():
    source, expected = source_of(), expected_rows()
    sample = source.sample(50)
    assert sample.shape == (50, D_MODEL)
    assert torch.equal(sample, source_of().sample(50))
    known = {row.tobytes() for row in expected}
    assert all(row.numpy().tobytes() in known for row in sample)
    assert_same_rows([source.sample(10**6)], expected)


def test_a_sample_runs_the_model_over_no_more_than_it_needs(monkeypatch):
    source = source_of()
    ran = []
    genuine = BackboneSource._run
    monkeypatch.setattr(
        BackboneSource,
        "_run",
        lambda self, chosen, name: ran.append(chosen) or genuine(self, chosen, name),
    )
    source.sample(50)
    (chosen,) = ran
    assert 50 <= source._counts[chosen].sum() <= 50 + source._counts.max()


def test_counting_tokens_runs_no_model(monkeypatch):
    monkeypatch.setattr(Backbone, "run", lambda *_, **__: pytest.fail("the model ran"))
    source = source_of()
    assert source.n_rows == sum(len(text.split()) for text in TEXTS)
    assert source.n_batches(50) == round(source.n_rows / 50)


def test_nothing_is_loaded_before_it_is_needed(monkeypatch):
    monkeypatch.setattr(Backbone, "load", lambda *_, **__: pytest.fail("weights were loaded"))
    source = source_of()
    assert (source.d_in, source.hook_point) == (D_MODEL, (1, "resid_post"))
    assert repr(source) == "BackboneSource('tiny', 60 items, layer 1, resid_post)"


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": "all"},
        {"prompt": "query: {}"},
        {"max_length": 6},
        {"layer": -1},
        {"layer": 2, "site": "mlp_hidden"},
        {"layer": 1, "max_length": 8, "tokens": "all"},
    ],
)
def test_parameters_mean_what_they_mean_elsewhere(options):
    source, expected = source_of(**options), expected_rows(**options)
    assert (source.n_rows, source.d_in) == expected.shape
    assert_same_rows(one_pass(source, 40), expected)


def test_layer_and_site_are_found_as_elsewhere():
    assert source_of(layer=None).hook_point == (1, "resid_post")
    assert source_of(layer=None, site="blocks.2.hook_mlp_out").hook_point == (2, "mlp_out")
    with pytest.raises(InvalidParameterError, match=r"^Got layer=7; expected 0 to 2"):
        source_of(layer=7)


def test_texts_that_are_cut_are_told_of():
    texts = ["day " * 20, "night"]
    source = source_of(texts, max_length=10, overflow="truncate")
    with pytest.warns(
        SAEFeaturesWarning, match=r"^1 of 2 texts are longer than 10 tokens and are trunc"
    ):
        assert source.n_rows == 9
    assert source_of(texts, max_length=10).n_rows == 21


def test_attention_sinks_are_left_out(monkeypatch):
    sinks = []

    def with_sinks(self, chosen, name, genuine=BackboneSource._run):
        rows = genuine(self, chosen, name)
        rows[3] *= 1e4
        sinks.append(rows[3].clone())
        return rows

    monkeypatch.setattr(BackboneSource, "_run", with_sinks)
    kept, cleaned = source_of(), source_of(max_norm=10.0)
    n = kept.n_batches(30)
    with_them = one_pass(kept, 30)
    n_blocks = len(sinks)
    assert n_blocks > 2
    assert sum(bool((batch.norm(dim=1) > 1e4).any()) for batch in with_them) == n_blocks
    for batches in (one_pass(cleaned, 30), list(cleaned.in_order(30))):
        assert len(batches) == n
        assert sum(map(len, batches)) == kept.n_rows - n_blocks
        assert torch.cat(batches).norm(dim=1).max() < 100
    assert cleaned.sample(10**6).norm(dim=1).max() < 100


def test_what_is_left_out_is_measured_by_the_median():
    rows = torch.ones(9, 4) * torch.tensor([1, 1, 1, 1, 2, 3, 9.9, 10.1, 50]).sqrt()[:, None]
    assert _within(rows, 2.0, 1).tolist() == [0, 1, 2, 3, 4, 5]  # the median of the norms is 2 * sqrt(2)
    assert _within(rows, None, 1).tolist() == list(range(9))
    assert _within(rows, 1.0, 8).tolist() == list(range(8))  # no batch becomes empty
    assert _within(torch.cat([torch.zeros(5, 4), torch.ones(2, 4)]), 10.0, 1).tolist() == list(range(7))


@given(st.integers(1, 12), st.integers(0, 9), st.floats(1, 3))
def test_no_batch_is_empty_whatever_is_left_out(batch_size, seed, max_norm):
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(np.exp(3 * rng.standard_normal((rng.integers(1, 30), 2))))
    n_batches = len(cut(len(rows), batch_size)) - 1
    kept = _within(rows, max_norm, n_batches)
    assert len(kept) >= n_batches
    assert (np.diff(kept) > 0).all()


def test_metadata_say_what_made_the_rows():
    source = source_of(
        ["a day", "a night"], max_length=12, tokens="all", prompt="query: {}", max_norm=10
    )
    digests = [hashlib.sha256(b"text\0" + text.encode()).digest() for text in ("a day", "a night")]
    assert json.loads(json.dumps(source.metadata)) == {
        "model": find_model("tiny").record,
        "tokens": "all",
        "prompt": "query: {}",
        "max_length": 12,
        "overflow": "chunk",
        "dtype": "float32",
        "max_norm": 10,
        "buffer_rows": 100,
        "corpus": {
            "modality": "text",
            "n_items": 2,
            "digest": hashlib.sha256(b"".join(digests)).hexdigest(),
        },
    }
    assert source_of(["a"]).metadata["max_length"] == find_model("tiny").context


def test_a_corpus_without_a_token_is_an_error():
    source = source_of(["", " ", "\n"])
    message = (
        r"^Got 3 items without a token that counts; expected at least one with a token\. tokens='all' "
        r"counts special tokens, too\.$"
    )
    for ask in (lambda: source.n_rows, lambda: source.batches(3), lambda: source.sample(3)):
        with pytest.raises(InvalidInputError, match=message):
            ask()


def test_a_row_for_each_text_where_an_embedding_is_read(tmp_path):
    from tiny import write_bert

    folder = write_bert(tmp_path / "sentences")
    (folder / "1_Pooling").mkdir()
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
                for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling")])
            ]
        )
    )
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": D_MODEL, "pooling_mode_mean_tokens": True})
    )
    texts = ["a day", "", "a fine night"]
    source = BackboneSource(folder, texts, site="embedding", batch_size=1)
    expected = load_backbone(folder).activations(texts, layer=-1, site="embedding", batch_size=1).values
    assert source.n_rows == 3
    np.testing.assert_array_equal(torch.cat(list(source.in_order(2))).numpy(), expected)


@pytest.fixture
def vit(tmp_path, use_families):
    """The folder of a random vision model, whose family is installed."""
    use_families(ModelFamily("tiny-vit", architectures=(VIT, BERT)))
    return write_tiny(VIT, tmp_path / "vit")


def test_images_are_read_from_their_files(vit, tmp_path, monkeypatch):
    Image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (28, 28, 3), np.uint8)).save(path)
    source = BackboneSource(vit, paths, layer=1, batch_size=1, buffer_rows=40, max_norm=None)
    expected = load_backbone(vit).activations(paths, layer=1, batch_size=1).values
    assert source.n_rows == len(expected) == 9 * 16
    assert_same_rows(one_pass(source, 20), expected)
    assert "max_length" not in source.metadata
    assert source.metadata["corpus"]["modality"] == "image"
    as_arrays = [np.asarray(Image.open(path)) for path in paths]
    in_memory = BackboneSource(vit, as_arrays, layer=1, batch_size=1, buffer_rows=40, max_norm=None)
    assert all(map(torch.equal, one_pass(source, 20), one_pass(in_memory, 20)))
    paths[4].unlink()
    with pytest.raises(InvalidInputError, match=r"^Item 4: The file '4\.png' cannot be opened"):
        one_pass(source, 20)
    with pytest.raises(InvalidParameterError, match=r"^Got max_length=8 with images"):
        BackboneSource(vit, as_arrays, max_length=8).batches(5)


def test_activations_are_written_to_disk_and_read_again(tmp_path):
    source = source_of(max_norm=10.0)
    written = write_activations(source, tmp_path, shard_rows=40)
    np.testing.assert_array_equal(torch.cat(list(written.in_order(30))).numpy(), expected_rows())
    assert written.metadata == source.metadata
    assert written.hook_point == source.hook_point
    assert len(written.index.shards) == source.n_batches(40)


def test_writing_goes_on_where_it_stopped(tmp_path, monkeypatch):
    whole, begun = tmp_path / "whole", tmp_path / "begun"
    write_activations(source_of(batch_size=None), whole, shard_rows=40)
    blocks = []

    def run(self, chosen, name, genuine=BackboneSource._run):
        blocks.append(chosen)
        if len(blocks) == 3:
            raise KeyboardInterrupt
        return genuine(self, chosen, name)

    with monkeypatch.context() as patch:
        patch.setattr(BackboneSource, "_run", run)
        with pytest.raises(KeyboardInterrupt):
            write_activations(source_of(batch_size=None), begun, shard_rows=40)
        n_blocks = len(list(begun.glob("*.safetensors")))
        assert n_blocks > 2
        write_activations(source_of(batch_size=None), begun, shard_rows=40)
    assert len(blocks[3]) == len(blocks[2])  # the first two were not run again
    assert {p.name: p.read_bytes() for p in begun.iterdir()} == {
        p.name: p.read_bytes() for p in whole.iterdir()
    }
    ShardSource(begun).verify()


def test_activations_of_other_texts_are_not_mixed(tmp_path):
    write_activations(source_of(), tmp_path)
    changed = [*TEXTS[:-1], " ".join(reversed(TEXTS[-1].split()))]
    with pytest.raises(
        Exception, match=r"holds activations of another origin: metadata\['corpus'\] is "
    ):
        write_activations(source_of(changed), tmp_path)


def test_progress_is_shown_when_asked_for(capsys):
    source = source_of(buffer_rows=10_000, verbose=True)
    one_pass(source, 30)
    shown = capsys.readouterr().err
    assert "tokens: 100%" in shown
    assert "block 1 of 1: 100%" in shown
    one_pass(source_of(), 30)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "al"}, r"^Got tokens='al'; expected one of content, all\."),
        ({"overflow": "cut"}, r"^Got overflow='cut'; expected one of truncate, chunk\."),
        ({"prompt": "no place"}, r"^Got prompt='no place'; expected 'chat' or a string with"),
        ({"max_length": 0}, r"^Got max_length=0; expected None or an integer above 0\.$"),
        ({"batch_size": 0}, r"^Got batch_size=0; expected None or an integer above 0\.$"),
        ({"buffer_rows": 0}, r"^Got buffer_rows=0; expected None or an integer above 0\.$"),
        ({"buffer_rows": None}, r"^Got buffer_rows=None; expected an integer above 0\.$"),
        ({"max_norm": 0.5}, r"^Got max_norm=0\.5; expected None or a number of at least 1\.$"),
        ({"max_norm": float("nan")}, r"^Got max_norm=nan; expected None or a number of at least 1\.$"),
        ({"dtype": "int8"}, r"^Got dtype='int8'; expected one of float32"),
        ({"device": 3}, r"^Got device=3; expected None or a string"),
    ],
)
def test_parameters_are_checked(options, message):
    with pytest.raises(InvalidParameterError, match=message):
        source_of(**options)


def test_batches_and_samples_are_checked_at_once():
    source = source_of()
    with pytest.raises(
        InvalidParameterError, match=r"^Got batch_size=0; expected an integer above 0\.$"
    ):
        source.batches(0)
    with pytest.raises(
        InvalidParameterError, match=r"^Got start=-1; expected an integer of at least 0\.$"
    ):
        source.in_order(5, start=-1)
    with pytest.raises(InvalidParameterError, match=r"^Got n_rows=0; expected an integer above 0\.$"):
        source.sample(0)
    with pytest.raises(InputTypeError, match=r"^Got a single str; expected a sequence of texts"):
        source_of("a text")
    with pytest.raises(InvalidInputError, match=r"^Got no items; expected at least one text"):
        source_of([])
