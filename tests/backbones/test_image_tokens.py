"""Images and a prompt for a vision-language model: which tokens it sees, and which of them count."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sae_features.architectures import Architecture, ImageTokens, Text
from sae_features.backbones.backbone import Backbone
from sae_features.backbones.image_tokens import ImageTokenInput
from sae_features.backbones.loading import load_config
from sae_features.backbones.tokens import TokenPolicy
from sae_features.errors import CheckpointError, InvalidInputError, InvalidParameterError
from sae_features.images import check_images
from sae_features.testing import write_tiny

PALIGEMMA = Architecture(
    "paligemma",
    (ImageTokens("PaliGemmaProcessor", image_first=True),),
    tower="language_model",
    config="text_config",
)
GEMMA3 = Architecture(
    "gemma3",
    (Text(first_token_is_sink=True), ImageTokens("Gemma3Processor")),
    tower="language_model",
    config="text_config",
    tiny={"text_config": {"model_type": "gemma3_text"}},
)
BOS, IMAGE, START, END = 1, 4, 5, 6
"""Ids of the small tokenizer; every byte has one, too."""
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}user: {% if message['content'] is string %}"
    "{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<start_of_image>{% endif %}{% endfor %}{% endif %}!{% endfor %}"
)
PICTURES = [np.zeros((40, 60, 3), np.uint8), np.full((33, 33, 3), 9, np.uint8)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of small models, by type; Gemma 3 has a chat template."""
    root = tmp_path_factory.mktemp("image-tokens")
    found = {kind.model_type: write_tiny(kind, root / kind.model_type) for kind in (PALIGEMMA, GEMMA3)}
    (found["gemma3"] / "chat_template.jinja").write_text(TEMPLATE)
    return found


def reader_of(folder, architecture):
    declared = architecture.input_of("image")
    return ImageTokenInput.load(folder, declared, architecture, load_config(folder))


@pytest.fixture
def paligemma(folders):
    return reader_of(folders["paligemma"], PALIGEMMA)


@pytest.fixture
def gemma3(folders):
    return reader_of(folders["gemma3"], GEMMA3)


def ids_of(reader, prompt=None):
    windows = reader.windows(check_images(PICTURES[:1]), TokenPolicy(1, prompt=prompt))
    return windows.ids[0].tolist()


def bytes_of(reader, text):
    return reader.processor.tokenizer(text, add_special_tokens=False)["input_ids"]


class TestLayout:
    def test_of_paligemma_the_image_is_first_then_bos_prompt_and_newline(self, paligemma):
        newline = bytes_of(paligemma, "\n")
        assert ids_of(paligemma) == [IMAGE] * 16 + [BOS] + newline
        prompt = bytes_of(paligemma, "caption en")
        assert ids_of(paligemma, "{}caption en") == [IMAGE] * 16 + [BOS] + prompt + newline

    def test_of_gemma_3_bos_is_first_and_the_image_is_framed(self, gemma3):
        lines = bytes_of(gemma3, "\n\n")
        framed = [*lines, START, *[IMAGE] * 4, END, *lines]
        assert ids_of(gemma3) == [BOS, *framed]
        before, after = bytes_of(gemma3, "see "), bytes_of(gemma3, " here")
        assert ids_of(gemma3, "see {} here") == [BOS, *before, *framed, *after]

    def test_of_a_chat(self, gemma3):
        lines = bytes_of(gemma3, "\n\n")
        before, after = bytes_of(gemma3, "user: "), bytes_of(gemma3, "!")
        expected = [BOS, *before, *lines, START, *[IMAGE] * 4, END, *lines, *after]
        assert ids_of(gemma3, "chat") == expected

    def test_a_chat_of_a_text_and_of_an_image_have_the_same_frame(self, folders):
        backbone = Backbone.load(folders["gemma3"], GEMMA3, device="cpu", dtype="float32")
        assert backbone.activations(["rain"], layer=1, prompt="chat").values.shape == (4, 32)
        assert backbone.activations(PICTURES, layer=1, prompt="chat").offsets.tolist() == [0, 4, 8]

    def test_a_chat_without_a_template(self, paligemma):
        with pytest.raises(InvalidParameterError) as raised:
            ids_of(paligemma, "chat")
        assert str(raised.value) == (
            "Got prompt='chat', but this model has no chat template. Give one with {} instead."
        )

    def test_nothing_goes_before_an_image_that_is_first(self, paligemma):
        with pytest.raises(InvalidParameterError) as raised:
            ids_of(paligemma, "see {}")
        assert str(raised.value) == (
            "Got prompt='see {}'; this model takes the image first: begin with '{}'."
        )


class TestWindows:
    @pytest.mark.parametrize("tokens", ["content", "all"])
    def test_the_tokens_of_the_image_are_content(self, gemma3, tokens):
        policy = TokenPolicy(1, tokens=tokens, prompt="see {} here")
        windows = gemma3.windows(check_images(PICTURES), policy)
        assert (len(windows), windows.items, windows.modality) == (2, [0, 1], "image")
        for ids, counted in zip(windows.ids, windows.counted, strict=True):
            expected = ids == IMAGE if tokens == "content" else np.ones(len(ids), bool)
            np.testing.assert_array_equal(counted, expected)
        assert windows.grids == [(2, 2, (0, 0, 60, 40)), (2, 2, (0, 0, 33, 33))]

    def test_all_run_together(self, paligemma):
        windows = paligemma.windows(check_images(PICTURES), TokenPolicy(1))
        assert paligemma.shape(windows, 0) == paligemma.shape(windows, 1)

    def test_only_headers_are_read(self, paligemma, tmp_path, monkeypatch):
        path = tmp_path / "picture.png"
        Image.fromarray(PICTURES[0]).save(path)
        genuine = Image.Image.load

        def load(picture):
            assert not getattr(picture, "filename", "").endswith("picture.png"), "it was decoded"
            return genuine(picture)

        Image.init()  # which makes pictures of its own
        monkeypatch.setattr(Image.Image, "load", load)
        assert paligemma.windows(check_images([path]), TokenPolicy(1)).grids[0].box == (0, 0, 60, 40)

    def test_what_is_no_picture_names_its_item(self, paligemma, tmp_path):
        path = tmp_path / "notes.png"
        path.write_text("notes")
        pictures = check_images([PICTURES[0], path])
        for positions, position in ((None, 1), ([2, 7], 7)):
            with pytest.raises(
                InvalidInputError, match=f"^Item {position}: The file 'notes.png' is not a picture"
            ):
                paligemma.windows(pictures, TokenPolicy(1), positions)

    def test_a_number_that_is_no_square(self, folders):
        reader = reader_of(folders["paligemma"], PALIGEMMA)
        reader.processor.image_seq_length = 6
        with pytest.raises(CheckpointError) as raised:
            reader.windows(check_images(PICTURES), TokenPolicy(1))
        assert str(raised.value) == "The processor gives 6 tokens an image; expected a square number."


class TestModelInputs:
    def test_they_are_the_processors_own(self, gemma3):
        windows = gemma3.windows(check_images(PICTURES), TokenPolicy(1, prompt="see {} here"))
        found = gemma3.model_inputs(windows, np.array([1, 0]), None)
        texts = ["<s>see <start_of_image> here"] * 2
        pictures = [[Image.fromarray(picture)] for picture in PICTURES[::-1]]
        expected = gemma3.processor(
            images=pictures, text=texts, return_tensors="np", add_special_tokens=False
        )
        assert found.keys() == {"input_ids", "attention_mask", "token_type_ids", "pixel_values"}
        for name, value in found.items():
            np.testing.assert_array_equal(value, np.asarray(expected[name]))

    def test_there_are_no_labels(self, paligemma):
        windows = paligemma.windows(check_images(PICTURES), TokenPolicy(1))
        found = paligemma.model_inputs(windows, np.array([0]), None)
        assert "labels" not in found
        assert found["pixel_values"].shape == (1, 3, 28, 28)

    @pytest.mark.parametrize("positions", [None, [7, 8]])
    def test_damaged_files_name_their_items(self, paligemma, tmp_path, positions):
        path = tmp_path / "picture.png"
        noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[:-600])
        windows = paligemma.windows(check_images([PICTURES[0], path]), TokenPolicy(1))
        position = 1 if positions is None else 8
        with pytest.raises(
            InvalidInputError, match=f"^Item {position}: The file 'picture.png' is damaged"
        ):
            paligemma.model_inputs(windows, np.array([0, 1]), positions)


class TestLoading:
    def test_a_folder_without_an_image_processor(self, folders, tmp_path):
        for path in folders["paligemma"].iterdir():
            if path.name != "preprocessor_config.json":
                (tmp_path / path.name).write_bytes(path.read_bytes())
        with pytest.raises(CheckpointError, match=f"^{tmp_path} has no preprocessor_config.json"):
            reader_of(tmp_path, PALIGEMMA)

    def test_a_folder_without_a_tokenizer(self, folders, tmp_path):
        for name in ("config.json", "preprocessor_config.json"):
            (tmp_path / name).write_bytes((folders["paligemma"] / name).read_bytes())
        with pytest.raises(CheckpointError, match=f"^{tmp_path} has no tokenizer"):
            reader_of(tmp_path, PALIGEMMA)

    def test_parts_that_do_not_fit_together(self, folders, tmp_path):
        """A tokenizer that knows no images."""
        write_tiny(Architecture("llama", (Text(first_token_is_sink=True),)), tmp_path)
        for name in ("config.json", "preprocessor_config.json"):
            (tmp_path / name).write_bytes((folders["gemma3"] / name).read_bytes())
        with pytest.raises(
            CheckpointError, match=f"^The processor in {tmp_path} cannot be put together: "
        ):
            reader_of(tmp_path, GEMMA3)
