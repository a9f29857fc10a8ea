"""What is declared of a kind of model, and what a configuration makes of it."""

from __future__ import annotations

import pickle

import pytest

from sae_features.architectures import Architecture, ImageTokens, Patches, Text, Variant
from sae_features.errors import InvalidParameterError

TEXT = Text(first_token_is_sink=True)
IMAGE = ImageTokens("SomeProcessor")
SEQUENTIAL = Variant({"use_parallel_residual": False}, {"resid_mid": ("norm:in",)}, "pre_norm")
BIASED = Variant({"use_bias": True, "n_groups": 2}, {"mlp_out": ("bias:out",), "attn_out": ()})
NEOX = Architecture(
    "gpt_neox",
    (TEXT,),
    residual="parallel",
    sites={"resid_mid": (), "mlp_out": ("mlp:out",)},
    variants=(SEQUENTIAL, BIASED),
)


class TestInputs:
    def test_a_text_model_is_the_default(self):
        architecture = Architecture("bert")
        assert architecture.inputs == (Text(first_token_is_sink=False),)
        assert architecture.modalities == ("text",)

    def test_several(self):
        architecture = Architecture("gemma3", (TEXT, IMAGE))
        assert architecture.modalities == ("text", "image")
        assert architecture.input_of("text") is TEXT
        assert architecture.input_of("image") is IMAGE

    def test_each_says_its_modality_and_who_reads_it(self):
        kinds = (Text(), Patches(), IMAGE)
        assert [kind.modality for kind in kinds] == ["text", "image", "image"]
        for kind in kinds:
            module, _, name = kind.reader.partition(":")
            assert hasattr(__import__(module, fromlist=[name]), name)


class TestSizes:
    def test_of_the_whole_configuration(self):
        config = {"hidden_size": 8, "text_config": {"hidden_size": 4}}
        assert Architecture("bert").sizes(config) is config

    def test_of_a_tower(self):
        architecture = Architecture("clip", config="vision_config")
        config = {"hidden_size": 8, "vision_config": {"hidden_size": 4}}
        assert architecture.sizes(config) == {"hidden_size": 4}

    def test_of_a_tower_that_was_loaded_alone(self):
        config = {"hidden_size": 8}
        assert Architecture("clip", config="vision_config").sizes(config) is config

    @pytest.mark.parametrize("damaged", [None, 3, "small", []])
    def test_of_a_damaged_configuration_there_are_none(self, damaged):
        architecture = Architecture("clip", config="vision_config")
        assert architecture.sizes({"vision_config": damaged}) == {}


class TestVariants:
    @pytest.mark.parametrize(
        ("config", "sites", "residual"),
        [
            ({}, NEOX.sites, "parallel"),
            ({"use_parallel_residual": True}, NEOX.sites, "parallel"),
            (
                {"use_parallel_residual": False},
                {"resid_mid": ("norm:in",), "mlp_out": ("mlp:out",)},
                "pre_norm",
            ),
            ({"use_bias": True}, NEOX.sites, "parallel"),  # all entries must be equal
            (
                {"use_bias": True, "n_groups": 2},
                {"resid_mid": (), "mlp_out": ("bias:out",), "attn_out": ()},
                "parallel",
            ),
            (
                {"use_bias": True, "n_groups": 2, "use_parallel_residual": False},
                {"resid_mid": ("norm:in",), "mlp_out": ("bias:out",), "attn_out": ()},
                "pre_norm",
            ),
        ],
    )
    def test_they_depend_on_the_configuration(self, config, sites, residual):
        assert NEOX.exceptions(config) == sites
        assert NEOX.residual_of(config) == residual

    def test_of_a_tower_its_own_configuration_decides(self):
        architecture = Architecture(
            "paligemma",
            (IMAGE,),
            config="text_config",
            variants=(Variant({"model_type": "gemma2"}, {"mlp_out": ("norm:out",)}),),
        )
        assert architecture.exceptions({"model_type": "gemma2", "text_config": {}}) == {}
        config = {"model_type": "paligemma", "text_config": {"model_type": "gemma2"}}
        assert architecture.exceptions(config) == {"mlp_out": ("norm:out",)}

    def test_asking_changes_nothing(self):
        NEOX.exceptions({"use_parallel_residual": False})["mlp_in"] = ()
        assert NEOX.sites == {"resid_mid": (), "mlp_out": ("mlp:out",)}


@pytest.mark.parametrize(
    ("depth", "n_layers", "layer"),
    [(0.5, 6, 3), (0.5, 12, 6), (0.5, 5, 2), (0.5, 1, 0), (0.0, 6, 0), (1.0, 6, 5), (0.75, 24, 18)],
)
def test_the_block_that_is_read_where_none_is_named(depth, n_layers, layer):
    assert Architecture("bert", default_depth=depth).default_layer(n_layers) == layer


@pytest.mark.parametrize("architecture", [NEOX, Architecture("gemma3", (TEXT, IMAGE))])
def test_they_pickle_and_are_plain_values(architecture):
    assert pickle.loads(pickle.dumps(architecture)) == architecture
    with pytest.raises(AttributeError):
        architecture.model_type = "other"


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ({"resid_middle": ("mlp:in",)}, "my_type: Got site='resid_middle'; expected one of .*resid_mid"),
        ({"embedding": ("mlp:in",)}, "my_type: Got site='embedding'; expected one of "),
        ({"mlp_out": ("mlp",)}, r"my_type: got mlp_out=\('mlp',\); expected a tuple of places such as "),
        ({"mlp_out": "mlp:out"}, "my_type: got mlp_out='mlp:out'; expected a tuple of places such as "),
        ({"mlp_out": ("mlp:output",)}, "my_type: got mlp_out="),
    ],
)
def test_declarations_are_checked_where_they_are_made(sites, message):
    with pytest.raises(InvalidParameterError, match=message):
        Architecture("my_type", sites=sites)
    with pytest.raises(InvalidParameterError, match=message):
        Architecture("my_type", variants=(Variant({}, sites),))


def test_an_unknown_residual_is_refused():
    with pytest.raises(
        InvalidParameterError, match="^my_type: Got residual='post'; expected one of pre_norm"
    ):
        Architecture("my_type", residual="post")
