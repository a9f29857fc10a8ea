"""ViT, DINOv2 and 3, CLIP and SigLIP: what is read is what transformers computes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from sae_features import ActivationFeaturizer, list_families, load_backbone
from sae_features.architectures import Architecture, Patches
from sae_features.errors import InvalidInputError, InvalidParameterError
from sae_features.families import API_VERSION, ModelFamily, families
from sae_features.hook_point import HookPoint
from sae_features.models import find_model
from sae_features.testing import check_family, parametrize_with_family_checks, write_tiny
from sae_features_vision import FAMILY

SITES = "resid_pre, resid_post, resid_mid, attn_out, attn_z, mlp_in, mlp_normalized, mlp_hidden, mlp_out"
N_PREFIX = {
    "vit": 1, "dinov2": 1, "dinov2_with_registers": 3, "dinov3_vit": 3, "clip_vision_model": 1,
    "siglip_vision_model": 0,
}  # fmt: skip
"""CLS, and two registers in small models that have them."""
EMBEDDINGS = {
    "dinov2": ("pooler_output", 32), "dinov2_with_registers": ("pooler_output", 32),
    "dinov3_vit": ("pooler_output", 32), "clip_vision_model": ("image_embeds", 24),
    "siglip_vision_model": ("pooler_output", 32),
}  # fmt: skip
PICTURES = [
    Image.fromarray(np.random.default_rng(0).integers(0, 256, size).astype(np.uint8))
    for size in ((40, 60, 3), (33, 33, 3), (90, 31, 3))
]


@parametrize_with_family_checks(FAMILY)
def test_conformance(check):
    check()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Folders of small random models, each written once: 28 pixels and patches of 7."""
    root = tmp_path_factory.mktemp("vision")

    def folder(model_type):
        place = root / model_type
        return place if place.is_dir() else write_tiny(FAMILY.architecture(model_type), place)

    return folder


def edit_processor(folder, **changes):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def reference_of(folder, model_type):
    """Load a model with transformers alone."""
    loader = getattr(transformers, FAMILY.architecture(model_type).loader)
    return loader.from_pretrained(folder, dtype=torch.float32).eval()


def run_reference(model, pixels, **options):
    with torch.inference_mode():
        return model(pixel_values=pixels, output_hidden_states=True, **options)


def assert_close(values, expected):
    assert values.shape == expected.shape
    assert np.abs(values - np.asarray(expected)).max() <= 1e-5 * np.abs(np.asarray(expected)).max()


def test_it_is_registered_under_its_own_name():
    record = list_families()["vision"]
    assert (record.distribution, record.value) == ("sae-features-vision", "sae_features_vision:FAMILY")
    assert families()["vision"] is FAMILY
    assert (FAMILY.name, FAMILY.api_version) == ("vision", API_VERSION)
    assert FAMILY.model_types == (
        "vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "clip",
        "siglip_vision_model", "siglip",
    )  # fmt: skip


def test_the_alias_is_made_of_a_package():
    assert FAMILY.aliases["dinov2-small"].asset == "dinov2-small"


@pytest.mark.parametrize("model_type", N_PREFIX)
class TestPatches:
    def test_they_are_hidden_states_behind_cls_and_registers(self, folder_of, model_type):
        folder = folder_of(model_type)
        backbone = load_backbone(folder)
        pixels = backbone.inputs["image"].pixels.values(PICTURES)
        states = run_reference(reference_of(folder, model_type), pixels).hidden_states
        points = [(layer, "resid_post") for layer in range(4)]
        content = backbone.activations(PICTURES, points=points)
        everything = backbone.activations(PICTURES, points=points, tokens="all")
        for layer, site in points:
            expected = states[layer + 1].numpy()  # the last one is before the last norm, too
            assert expected.shape == (3, N_PREFIX[model_type] + 16, 32)
            for i in range(len(PICTURES)):
                assert_close(everything[layer, site][i], expected[i])
                assert_close(content[layer, site][i], expected[i, N_PREFIX[model_type] :])

    def test_all_sites_are_there(self, folder_of, model_type):
        sites = load_backbone(folder_of(model_type)).sites
        extra = ", embedding" if model_type in EMBEDDINGS else ""
        assert ", ".join(sites) == SITES + extra

    def test_widths_are_known_without_weights(self, folder_of, model_type):
        files = find_model(folder_of(model_type))
        assert files.width(HookPoint(0, "mlp_out")) == 32
        hidden = load_backbone(files.folder).activations(PICTURES[:1], layer=0, site="mlp_hidden")
        assert files.width(HookPoint(0, "mlp_hidden")) == hidden.values.shape[1]


@pytest.mark.parametrize("model_type", EMBEDDINGS)
def test_the_embedding_is_the_models_own(folder_of, model_type):
    name, width = EMBEDDINGS[model_type]
    backbone = load_backbone(folder_of(model_type))
    pixels = backbone.inputs["image"].pixels.values(PICTURES)
    expected = getattr(run_reference(reference_of(folder_of(model_type), model_type), pixels), name)
    found = backbone.activations(PICTURES, site="embedding")
    assert found.values.shape == (3, width)
    assert_close(found.values, expected.numpy())
    assert found.grids is None


def test_of_dino_it_is_the_normed_cls(folder_of):
    backbone = load_backbone(folder_of("dinov2"))
    both = backbone.activations(PICTURES, points=["embedding", (3, "resid_post")], tokens="all")
    cls = torch.from_numpy(both[3, "resid_post"].values.reshape(3, 17, 32)[:, 0])
    with torch.inference_mode():
        expected = backbone.model.layernorm(cls)
    assert_close(both[3, "embedding"].values, expected.numpy())


def test_vit_pools_by_a_head_that_checkpoints_lack(folder_of):
    with pytest.raises(InvalidParameterError) as raised:
        load_backbone(folder_of("vit")).activations(PICTURES, site="embedding")
    assert str(raised.value) == (
        "Got site='embedding' for a model whose files do not say how tokens are pooled (modules.json of "
        f"sentence-transformers); it has {SITES}."
    )


class TestDinoV2:
    def test_layer_scale_is_part_of_what_is_added(self, folder_of):
        backbone = load_backbone(folder_of("dinov2"))
        points = [(1, site) for site in ("attn_z", "attn_out", "mlp_in", "mlp_out")]
        read = backbone.activations(PICTURES, points=points, tokens="all")
        x = {site: torch.from_numpy(acts.values) for (_, site), acts in read.items()}
        block = backbone.stack.blocks[1]
        with torch.inference_mode():
            assert_close(x["mlp_out"].numpy(), block.layer_scale2(block.mlp(x["mlp_in"])).numpy())
            scale = block.layer_scale1.lambda1
            assert not torch.allclose(scale, torch.ones_like(scale), atol=0.1)
            name = "o_proj" if hasattr(block.attention, "o_proj") else "output"
            dense = getattr(block.attention, name)
            dense = getattr(dense, "dense", dense)  # transformers 4
            assert_close(x["attn_out"].numpy(), (scale * dense(x["attn_z"])).numpy())

    def test_swiglu(self, tmp_path):
        """As in the giant model."""
        folder = write_tiny(FAMILY.architecture("dinov2"), tmp_path, use_swiglu_ffn=True)
        assert {result.status for result in check_family(FAMILY, folders=[folder])} == {"passed"}
        backbone = load_backbone(folder)
        width = (int(32 * 4 * 2 / 3) + 7) // 8 * 8
        assert backbone.width(HookPoint(0, "mlp_hidden")) == width == 88
        acts = backbone.activations(PICTURES, layer=1, site="mlp_hidden")
        pixels = backbone.inputs["image"].pixels.values(PICTURES)
        model = reference_of(folder, "dinov2")
        taken = []
        ends = {"weights_out", "down_proj"}  # transformers 4 and 5
        mlp = dict(model.get_submodule(_path_of_blocks(model))[1].mlp.named_children())
        (last,) = ends & mlp.keys()
        mlp[last].register_forward_pre_hook(lambda _module, args: taken.append(args[0]))
        run_reference(model, pixels)
        assert_close(acts.values, taken[0][:, 1:].reshape(-1, 88).numpy())


def _path_of_blocks(model):
    return next(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.ModuleList) and len(module) == 4
    )


@pytest.mark.parametrize("model_type", ["clip", "siglip"])
class TestFullCheckpoints:
    """Of models of two towers only the vision tower is loaded."""

    @pytest.fixture
    def both(self, tmp_path, model_type):
        """A folder with both towers, and its model."""
        tower = write_tiny(FAMILY.architecture(f"{model_type}_vision_model"), tmp_path)
        vision = json.loads((tower / "config.json").read_text())
        text = {
            "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
            "vocab_size": 50, "projection_size": 32, "max_position_embeddings": 16, "projection_dim": 24,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        }  # fmt: skip
        config = transformers.AutoConfig.for_model(
            model_type, vision_config=vision, text_config=text, projection_dim=24
        )
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config).eval()
        model.save_pretrained(tower)
        return tower, model

    def test_the_embedding_is_the_image_features(self, both, model_type):
        folder, model = both
        files = find_model(folder)
        assert files.architecture.model_type == model_type
        assert (files.n_layers, files.d_model) == (4, 32)
        backbone = load_backbone(folder)
        assert type(backbone.model).__name__ in {"CLIPVisionModelWithProjection", "SiglipVisionModel"}
        assert not [name for name, _ in backbone.model.named_parameters() if "text" in name]
        found = backbone.activations(PICTURES, site="embedding").values
        assert found.shape == (3, 24 if model_type == "clip" else 32)
        assert files.width(files.parse("embedding")) == found.shape[1]
        with torch.inference_mode():
            pixels = backbone.inputs["image"].pixels.values(PICTURES)
            features = model.get_image_features(pixel_values=pixels)
        features = getattr(features, "pooler_output", features)  # transformers 5 and 4
        assert_close(found, features.numpy())

    def test_they_pass_the_kit(self, both, model_type):
        results = check_family(FAMILY, folders=[both[0]])
        assert {result.status for result in results} == {"passed"}


class TestHeadsThatAreMissing:
    def test_clip_without_its_projection(self, folder_of, tmp_path):
        """``CLIPVisionModel.save_pretrained`` leaves it out."""
        folder = write_tiny(FAMILY.architecture("clip_vision_model"), tmp_path)
        tower = transformers.CLIPVisionModel.from_pretrained(folder)
        tower.save_pretrained(folder)
        backbone = load_backbone(folder)
        assert ", ".join(backbone.sites) == SITES
        for attempt in (backbone.parse, lambda point: backbone.activations(PICTURES, site=point)):
            with pytest.raises(InvalidParameterError) as raised:
                attempt("embedding")
            assert str(raised.value) == (
                "Got site='embedding' for a model whose weights lack the head that pools; it has "
                f"{SITES}."
            )
        whole = load_backbone(folder_of("clip_vision_model"))
        found, expected = (each.activations(PICTURES, layer=2).values for each in (backbone, whole))
        assert_close(found, expected)

    def test_siglip_without_its_head(self, tmp_path):
        folder = write_tiny(FAMILY.architecture("siglip_vision_model"), tmp_path, vision_use_head=False)
        with pytest.raises(InvalidParameterError) as raised:
            load_backbone(folder).activations(PICTURES, site="embedding")
        assert str(raised.value) == "Got site='embedding' for a model that gives no pooler_output."


class TestGrids:
    def test_the_whole_picture_is_squeezed(self, folder_of):
        acts = load_backbone(folder_of("vit")).activations(PICTURES, layer=0)
        boxes = [(0, 0, 60, 40), (0, 0, 33, 33), (0, 0, 31, 90)]
        assert acts.grids == tuple((4, 4, box) for box in boxes)

    def test_the_middle_is_cut_out(self, tmp_path):
        """The shorter edge becomes 28 pixels, and 28 x 28 in the middle are seen."""
        folder = write_tiny(FAMILY.architecture("clip_vision_model"), tmp_path)
        edit_processor(
            folder,
            image_processor_type="CLIPImageProcessor",
            size={"shortest_edge": 28},
            do_center_crop=True,
        )
        acts = load_backbone(folder).activations(PICTURES, layer=0)
        (wide, square, tall) = acts.grids
        assert wide == (4, 4, pytest.approx((10, 0, 50, 40)))  # 60 x 40 -> 42 x 28, minus 7 on each side
        assert square == (4, 4, (0, 0, 33, 33))
        rows = 28 * 90 // 31  # 81; 26 of them are above the crop
        top, bottom = 26 * 90 / rows, 54 * 90 / rows
        assert tall == (4, 4, pytest.approx((0, top, 31, bottom)))

    @pytest.mark.parametrize("model_type", N_PREFIX)
    def test_pictures_that_are_not_square(self, tmp_path, model_type):
        """Positions are interpolated; what is left over at the edges belongs to no patch."""
        folder = write_tiny(FAMILY.architecture(model_type), tmp_path)
        edit_processor(folder, size={"height": 24, "width": 42})
        backbone = load_backbone(folder)
        acts = backbone.activations(PICTURES, layer=2)
        assert acts.grids[0] == (3, 6, (0, 0, 60, pytest.approx(40 * 21 / 24)))
        assert np.diff(acts.offsets).tolist() == [18, 18, 18]
        pixels = backbone.inputs["image"].pixels.values(PICTURES)
        assert pixels.shape == (3, 3, 24, 42)
        own = model_type.startswith("dino")  # always interpolates
        options = {} if own else {"interpolate_pos_encoding": True}
        states = run_reference(reference_of(folder, model_type), pixels, **options).hidden_states
        expected = states[3][:, N_PREFIX[model_type] :].reshape(-1, 32)
        assert_close(acts.values, expected.numpy())

    def test_pictures_of_several_sizes_run_beside_each_other(self, tmp_path):
        folder = write_tiny(FAMILY.architecture("dinov2"), tmp_path)
        edit_processor(folder, do_resize=False)
        backbone = load_backbone(folder)
        acts = backbone.activations(PICTURES, layer=1)
        assert [grid[:2] for grid in acts.grids] == [(5, 8), (4, 4), (12, 4)]
        assert [grid.box for grid in acts.grids] == [(0, 0, 56, 35), (0, 0, 28, 28), (0, 0, 28, 84)]
        for i, picture in enumerate(PICTURES):
            assert_close(acts[i], backbone.activations([picture], layer=1).values)
            assert acts.grids[i].map(acts[i][:, 0]).shape == acts.grids[i][:2]


def test_a_prompt_is_refused(folder_of):
    with pytest.raises(InvalidParameterError) as raised:
        load_backbone(folder_of("vit")).activations(PICTURES, prompt="{}caption")
    assert str(raised.value) == ("Got prompt='{}caption'; this model takes images alone: leave it out.")


def test_tokens_between_cls_and_patches_can_be_declared():
    """DeiT has a distillation token."""
    deit = Architecture("deit", (Patches(n_extra=1),), final_norm=False)
    results = check_family(ModelFamily("more", (deit,)), raises=False)
    assert {result.message for result in results if result.status == "failed"} == set()


def test_an_error_names_the_item_by_its_place(folder_of, tmp_path):
    """Repeats and what the store has do not run, and are counted all the same."""
    notes = tmp_path / "notes.png"
    notes.write_text("notes")
    featurizer = ActivationFeaturizer(str(folder_of("vit"))).fit(PICTURES)
    featurizer.transform(PICTURES[:1])
    with pytest.raises(InvalidInputError, match="^Item 3: The file 'notes.png' is not a picture"):
        featurizer.transform([PICTURES[1], PICTURES[0], PICTURES[1], notes])
