"""What counts as content in real texts and pictures, and what scikit-learn gets of it."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from originals import LANGUAGES, textile_pictures
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from sae_features import SAEFeaturizer
from sae_features.datasets import load_movie_snippets
from sae_features.images import ORIENTATION, PatchGrid

TOLERANCE = 1e-5
SIDEWAYS = 6
"""EXIF: turn the picture by 90 degrees to the right."""
TEXTS = ["The cat sat on the mat.", "Hello", "Is it 5 o'clock?"]


def assert_close(found, expected):
    assert found.shape == expected.shape
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(found - expected) <= TOLERANCE * largest).all()


def only(*aliases):
    """Run a test on some of the models."""
    return pytest.mark.parametrize("original", aliases, indirect=True, scope="module")


@only("smollm2")
def test_the_first_token_of_a_decoder_without_bos_is_context_unless_it_is_alone(original, backbone):
    assert backbone.tokenizer("Hello").input_ids[0] != backbone.tokenizer.bos_token_id
    acts = backbone.activations(TEXTS, layer=4)
    everything = backbone.activations(TEXTS, layer=4, tokens="all")
    for i, text in enumerate(TEXTS):
        expected = original.all_states(text)[5]
        assert len(expected) == len(original.prepare(text).input_ids)
        assert_close(everything[i], expected)
        assert_close(acts[i], expected[1:] if len(expected) > 1 else expected)
    assert len(acts[1]) == 1


@only("smollm2")
def test_the_tokens_of_a_chat_template_are_context(original, backbone):
    turn = [{"role": "user", "content": TEXTS[0]}]
    rendered = original.prepare.apply_chat_template(turn, tokenize=False)
    ids = original.prepare(rendered, add_special_tokens=False).input_ids
    own = original.prepare(TEXTS[0]).input_ids
    (start,) = [i for i in range(len(ids)) if ids[i : i + len(own)] == own]
    assert start > 10, "a system prompt goes before"
    assert len(ids) > start + len(own), "an end of turn follows"
    expected = original.all_states(ids)[5]
    acts = backbone.activations(TEXTS[:1], layer=4, prompt="chat")
    # Behind a template the first token is no sink, and counts.
    assert_close(acts[0], expected[start : start + len(own)])
    whole = backbone.activations(TEXTS[:1], layer=4, prompt="chat", tokens="all")
    assert_close(whole[0], expected)


@only("smollm2")
@pytest.mark.parametrize("max_length", [16, 17])
def test_chunks_of_a_long_text_count_every_token_once_but_the_first(original, backbone, max_length):
    text = " ".join(load_movie_snippets().data[:4])
    ids = original.prepare(text).input_ids
    assert len(ids) > 5 * max_length
    acts = backbone.activations([text, "Hello"], layer=3, max_length=max_length, overflow="chunk")
    assert np.diff(acts.offsets).tolist() == [len(ids) - 1, 1]
    step = max_length - 1  # each window begins with the last token of the one before
    windows = [ids[start : start + max_length] for start in range(0, len(ids) - 1, step)]
    assert_close(acts[0], np.concatenate([original.all_states(window)[4][1:] for window in windows]))


@only("minilm")
def test_chunks_of_a_long_text_have_cls_and_sep_each(original, backbone):
    text = " ".join(load_movie_snippets().data[:4])
    cls, *ids, sep = original.prepare(text).input_ids
    acts = backbone.activations([text], layer=2, max_length=32, overflow="chunk")
    windows = [[cls, *ids[start : start + 30], sep] for start in range(0, len(ids), 30)]
    assert len(windows) > 3
    assert_close(acts[0], np.concatenate([original.all_states(window)[3][1:-1] for window in windows]))


@only("e5")
def test_content_of_texts_in_many_languages_is_what_stands_between_s_and_s(original, backbone):
    acts = backbone.activations(LANGUAGES, layer=7)
    everything = backbone.activations(LANGUAGES, layer=7, tokens="all")
    for i, text in enumerate(LANGUAGES):
        ids = original.prepare(text).input_ids
        assert original.prepare.convert_ids_to_tokens([ids[0], ids[-1]]) == ["<s>", "</s>"]
        expected = original.all_states(text)[8]
        assert_close(everything[i], expected)
        assert_close(acts[i], expected[1:-1])


@only("e5")
@pytest.mark.parametrize("prompt", ["query: {}", "passage: {}"])
def test_the_prompt_of_e5_is_seen_but_does_not_count(original, backbone, prompt):
    texts = LANGUAGES[1:]
    acts = backbone.activations(texts, layer=7, prompt=prompt)
    for i, text in enumerate(texts):
        encoded = original.prepare(prompt.format(text), return_offsets_mapping=True)
        ends = np.array([end for _, end in encoded.offset_mapping])
        is_text = ends > len(prompt.format(""))  # <s> and </s> end at 0
        assert 3 <= is_text.argmax() <= 5, "the tokens of the prompt go before"
        assert_close(acts[i], original.all_states(prompt.format(text))[8][is_text])


@only("dinov2-small")
def test_content_of_a_picture_is_its_patches(original, backbone):
    pictures = textile_pictures(2)
    acts = backbone.activations(pictures, layer=5)
    assert acts.grids == (PatchGrid(16, 16, (15.625, 15.625, 234.375, 234.375)),) * 2  # of 250 x 250
    everything = backbone.activations(pictures, layer=5, tokens="all")
    for i, path in enumerate(pictures):
        expected = original.all_states(path)[6]
        assert acts[i].shape == (256, 384)
        assert_close(everything[i], expected)
        assert_close(acts[i], expected[1:])


@only("dinov2-small")
def test_every_form_of_a_picture_gives_the_same(original, backbone, tmp_path):
    path = textile_pictures(1)[0]
    pixels = np.asarray(PIL.Image.open(path).crop((0, 0, 250, 170)))
    upright = PIL.Image.fromarray(pixels)
    files = {kind: tmp_path / f"upright.{kind}" for kind in ("png", "tiff", "bmp")}
    for file in files.values():
        upright.save(file)
    turned = upright.transpose(PIL.Image.Transpose.ROTATE_90)
    assert turned.size == (170, 250)
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = SIDEWAYS
    for kind in ("png", "tiff"):
        files[f"turned {kind}"] = tmp_path / f"turned.{kind}"
        turned.save(files[f"turned {kind}"], exif=exif)
    forms = [
        upright,
        pixels,
        *files.values(),
        str(files["png"]),
        PIL.Image.open(files["turned png"]),
        PIL.Image.open(files["turned tiff"]),
        upright.convert("RGBA"),
    ]
    acts = backbone.activations(forms, layer=3)
    expected = backbone.activations([upright], layer=3, batch_size=1)
    for i in range(len(forms)):
        assert_close(acts[i], expected[0])
        assert acts.grids[i] == expected.grids[0]
    featurizer = SAEFeaturizer("dinov2-small", layer=3, sae="random:512:16", cache=False, batch_size=1)
    rows = featurizer.transform([upright, files["turned png"], files["turned tiff"]]).toarray()
    np.testing.assert_array_equal(rows[1:], rows[[0, 0]])


@only("dinov2-small")
def test_a_grey_picture_is_the_coloured_one_of_equal_channels(original, backbone):
    grey = PIL.Image.open(textile_pictures(1)[0]).convert("L")
    pixels = np.asarray(grey)
    forms = [grey, pixels, pixels[:, :, None], np.stack([pixels] * 3, axis=-1), grey.convert("RGB")]
    acts = backbone.activations(forms, layer=3)
    for i in range(1, len(forms)):
        assert_close(acts[i], acts[0])


@pytest.mark.parametrize(
    ("model", "layer"), [("minilm", 3), ("e5", 6), ("smollm2", 8), ("dinov2-small", 5)]
)
def test_cross_validation(model, layer):
    if model == "dinov2-small":
        X = textile_pictures(12)
        y = ["global", "nominal"] * 6
    else:
        data = load_movie_snippets()
        X, y = data.data[:16], [int(len(text) > 100) for text in data.data[:16]]
        assert 4 <= sum(y) <= 12
    featurizer = SAEFeaturizer(model, sae="random:512:16", layer=layer, pooling="sum")
    pipeline = make_pipeline(featurizer, MaxAbsScaler(), LogisticRegression())
    scores = cross_val_score(pipeline, X, y, cv=2, error_score="raise")
    assert scores.mean() > 0.6  # how long a text is shows in any sum; how a textile looks, in DINOv2
    again = pipeline.fit(X, y)[0]
    assert (again.layer_, again.site_, again.n_features_out_) == (layer, "resid_post", 512)
    rows = again.transform(X)
    assert rows.shape == (len(X), 512)
    fresh = SAEFeaturizer(**featurizer.get_params()).set_params(cache=False)
    np.testing.assert_array_equal(fresh.transform(X).toarray(), rows.toarray())
