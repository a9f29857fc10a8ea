"""Gemma 1 to 3 and PaliGemma: what is read is what transformers computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from sae_features import list_families, load_backbone
from sae_features.errors import InputTypeError, InvalidParameterError
from sae_features.families import API_VERSION, families
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.testing import parametrize_with_family_checks, write_tiny
from sae_features_gemma import FAMILY

SITES = "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_normalized, mlp_hidden, mlp_out"
TOWERS = {"paligemma": {"text_config": {"model_type": "gemma"}}, "paligemma2": {}, "gemma3": {}}
"""Configurations: PaliGemma with the text tower of Gemma 1, with that of Gemma 2, and Gemma 3."""
TOKENS = {"paligemma": 16, "paligemma2": 16, "gemma3": 4}


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Folders of small random models, each written once."""
    root = tmp_path_factory.mktemp("gemma")

    def folder(name):
        place = root / name
        if not place.is_dir():
            model_type = "paligemma" if name.startswith("paligemma") else name
            write_tiny(FAMILY.architecture(model_type), place, **TOWERS.get(name, {}))
        return place

    return folder


@pytest.fixture(scope="module")
def pictures():
    """Three random pictures, none of the size that the model takes."""
    generator = np.random.default_rng(0)
    sizes = ((40, 60, 3), (33, 33, 3), (90, 31, 3))
    return [Image.fromarray(generator.integers(0, 256, size).astype(np.uint8)) for size in sizes]


def processor_of(folder, name):
    """Put transformers' own processor together, without any code of ours."""
    kind = "Gemma3" if name == "gemma3" else "Siglip"
    slow = getattr(transformers, f"{kind}ImageProcessorPil", None)  # transformers 5
    slow = slow or getattr(transformers, f"{kind}ImageProcessor")
    parts = [each.from_pretrained(folder) for each in (slow, transformers.AutoTokenizer)]
    if name == "gemma3":
        return transformers.Gemma3Processor(*parts, image_seq_length=4)
    return transformers.PaliGemmaProcessor(*parts)


def expected_states(folder, name, picture, text):
    """Return input ids and hidden states, (n_layers + 1, tokens, d), by transformers alone."""
    given = processor_of(folder, name)(images=[picture], text=[text], return_tensors="np")
    inputs = {key: torch.from_numpy(value) for key, value in given.items() if key != "labels"}
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states
    return inputs["input_ids"][0].numpy(), torch.stack(states)[:, 0].numpy()


def assert_close(values, expected):
    assert values.shape == expected.shape
    assert np.abs(values - expected).max() <= 1e-5 * np.abs(expected).max()


def test_it_is_registered_under_its_own_name():
    record = list_families()["gemma"]
    assert (record.distribution, record.value) == ("sae-features-gemma", "sae_features_gemma:FAMILY")
    assert families()["gemma"] is FAMILY
    assert (FAMILY.name, FAMILY.api_version) == ("gemma", API_VERSION)
    assert FAMILY.model_types == ("gemma", "gemma2", "gemma3_text", "gemma3", "paligemma")


class TestSites:
    """By the arithmetic of the block: Gemma 2 and 3 have norms behind attention and MLP, Gemma 1 not."""

    @pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3_text", "paligemma", "paligemma2"])
    def test_what_is_added_to_the_stream(self, folder_of, pictures, model_type):
        backbone = load_backbone(folder_of(model_type))
        assert ", ".join(backbone.sites) == SITES
        items = pictures if "image" in backbone.architecture.modalities else ["a calm sea", "rain"]
        found = backbone.activations(items, points=[(1, site) for site in backbone.sites], tokens="all")
        x = {site: values.values for (_, site), values in found.items()}
        assert_close(x["resid_pre"] + x["attn_out"], x["resid_mid"])
        assert_close(x["resid_mid"] + x["mlp_out"], x["resid_post"])
        block = backbone.stack.blocks[1]
        has_post_norms = model_type not in {"gemma", "paligemma"}
        with torch.inference_mode():
            added = block.mlp(torch.from_numpy(x["mlp_in"]))
            if has_post_norms:
                added = block.post_feedforward_layernorm(added)
        assert_close(added.numpy(), x["mlp_out"])
        norm = block.pre_feedforward_layernorm if has_post_norms else block.post_attention_layernorm
        gain = 1 + norm.weight.numpy()  # Gemma's norms multiply by 1 + weight
        assert_close(gain * x["mlp_normalized"], x["mlp_in"])
        rms = np.sqrt(np.square(x["mlp_normalized"].astype(np.float64)).mean(axis=1))
        np.testing.assert_allclose(rms, 1, atol=1e-3)

    def test_widths(self, folder_of):
        files = find_model(folder_of("gemma2"))
        widths = {site: files.width(HookPoint(0, site)) for site in SITES.split(", ")}
        assert widths == dict.fromkeys(widths, 32) | {"attn_z": 24, "mlp_hidden": 48}


class TestNames:
    """Hook points by the names in Gemma Scope's files."""

    @pytest.mark.parametrize("model_type", ["gemma2", "gemma3_text", "gemma3"])
    @pytest.mark.parametrize(
        ("name", "site"),
        [
            ("model.layers.2.output", "resid_post"),
            ("model.layers.2.post_feedforward_layernorm.output", "mlp_out"),
            ("model.layers.2.pre_feedforward_layernorm.output", "mlp_in"),
            ("model.layers.2.self_attn.o_proj.input", "attn_z"),
            ("model.language_model.layers.2.post_attention_layernorm", "attn_out"),
            ("blocks.2.ln2.hook_normalized", "mlp_normalized"),
        ],
    )
    def test_they_stand_for_sites(self, folder_of, model_type, name, site):
        files = find_model(folder_of(model_type))
        assert files.parse(name) == load_backbone(files.folder).parse(name) == HookPoint(2, site)

    def test_the_output_of_gemma_2s_mlp_is_no_site(self, folder_of):
        """A norm stands between it and the residual stream."""
        with pytest.raises(InvalidParameterError) as raised:
            find_model(folder_of("gemma2")).parse("layers.2.mlp")
        assert str(raised.value) == (
            "Got the hook point 'layers.2.mlp', which no site of this model stands for; expected a name "
            "such as 'blocks.3.hook_resid_post' or 'model.layers.3.output', or a pair (layer, site) "
            f"with one of {SITES}."
        )

    def test_of_gemma_1_it_is(self, folder_of):
        assert find_model(folder_of("gemma")).parse("layers.2.mlp") == HookPoint(2, "mlp_out")


@pytest.mark.parametrize("name", TOWERS)
class TestImageTokens:
    def test_they_are_the_hidden_states_of_transformers_own_processor(self, folder_of, pictures, name):
        mark = "<s><start_of_image>" if name == "gemma3" else "<image>"
        text = f"{mark}caption en"
        if name == "gemma3":  # its processor adds a BOS of its own
            text = text.removeprefix("<s>")
        folder = folder_of(name)
        backbone = load_backbone(folder)
        for picture in pictures:
            ids, states = expected_states(folder, name, picture, text)
            is_image = ids == 4
            assert is_image.sum() == TOKENS[name]
            options = {"prompt": "{}caption en"}
            points = [(layer, "resid_post") for layer in range(3)]
            of_image = backbone.activations([picture], points=points, **options)
            of_all = backbone.activations([picture], points=points, tokens="all", **options)
            for layer, site in points:
                assert_close(of_image[layer, site].values, states[layer + 1][is_image])
                assert_close(of_all[layer, site].values, states[layer + 1])

    def test_the_grid_is_the_whole_picture(self, folder_of, pictures, name):
        acts = load_backbone(folder_of(name)).activations(pictures)
        side = int(TOKENS[name] ** 0.5)
        boxes = [(0, 0, 60, 40), (0, 0, 33, 33), (0, 0, 31, 90)]
        assert acts.grids == tuple((side, side, box) for box in boxes)
        assert acts.offsets.tolist() == [0, *(TOKENS[name] * (i + 1) for i in range(3))]

    def test_a_prompt_behind_the_image(self, folder_of, pictures, name):
        """In PaliGemma image tokens see it; in Gemma 3 they see one another and what is ahead."""
        backbone = load_backbone(folder_of(name))
        plain = backbone.activations(pictures, layer=2)
        prompted = backbone.activations(pictures, layer=2, prompt="{}caption en")
        assert plain.offsets.tolist() == prompted.offsets.tolist()
        is_same = np.allclose(plain.values, prompted.values, atol=1e-4)
        assert is_same == (name == "gemma3")


class TestPrompts:
    @pytest.mark.parametrize("name", ["paligemma", "paligemma2"])
    def test_nothing_goes_before_the_image_in_paligemma(self, folder_of, pictures, name):
        with pytest.raises(InvalidParameterError) as raised:
            load_backbone(folder_of(name)).activations(pictures, prompt="a {}")
        assert str(raised.value) == (
            "Got prompt='a {}'; this model takes the image first: begin with '{}'."
        )

    def test_in_gemma_3_it_may(self, folder_of, pictures):
        folder = folder_of("gemma3")
        ids, states = expected_states(folder, "gemma3", pictures[0], "look: <start_of_image> caption")
        acts = load_backbone(folder).activations(pictures[:1], layer=1, prompt="look: {} caption")
        assert_close(acts.values, states[2][ids == 4])

    def test_a_chat_needs_a_template(self, folder_of, pictures):
        with pytest.raises(InvalidParameterError) as raised:
            load_backbone(folder_of("gemma3")).activations(pictures, prompt="chat")
        assert str(raised.value) == (
            "Got prompt='chat', but this model has no chat template. Give one with {} instead."
        )


class TestGemma3TakesBoth:
    """A string is a text, a Path is an image."""

    @pytest.fixture
    def backbone(self, folder_of):
        return load_backbone(folder_of("gemma3"))

    def test_a_string_is_a_text_even_where_it_names_a_file(self, backbone, pictures, tmp_path):
        path = tmp_path / "picture.png"
        pictures[0].save(path)
        text = backbone.activations([str(path)], layer=0)
        assert text.grids is None
        assert len(text.values) == len(str(path).encode())  # the small tokenizer has a token for each
        image = backbone.activations([path], layer=0)
        assert image.grids == ((2, 2, (0, 0, 60, 40)),)
        assert_close(image.values, backbone.activations(pictures[:1], layer=0).values)

    def test_texts_are_those_of_the_text_tower(self, backbone, folder_of):
        model = transformers.AutoModel.from_pretrained(folder_of("gemma3")).eval()
        encoded = backbone.tokenizer(["a calm sea"], return_tensors="pt")
        with torch.inference_mode():
            states = model.language_model(
                input_ids=encoded["input_ids"], output_hidden_states=True
            ).hidden_states
        assert_close(backbone.activations(["a calm sea"], layer=1).values, states[2][0, 1:].numpy())

    def test_not_both_at_once(self, backbone, pictures):
        with pytest.raises(InputTypeError) as raised:
            backbone.activations([pictures[0], "a text"])
        assert str(raised.value) == (
            "Got a text as item 1 among images; expected items of one kind. Give paths of images as "
            "pathlib.Path."
        )

    def test_texts_alone_are_refused_by_paligemma(self, folder_of):
        with pytest.raises(ValueError, match="This model takes images; texts need a text model.$"):
            load_backbone(folder_of("paligemma2")).activations(["a text"])
