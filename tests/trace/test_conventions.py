"""Inputs where none are given: by the conventions of Lightning, timm and transformers, said in a note."""

import pytest
import torch
from torch import nn

import archcost
from archcost import InputError


def notes(model):
    """The first note of the model's analysis: what was assumed."""
    analysis = archcost.analyze(model)
    assert analysis.total.macs > 0
    return analysis.notes[0]


# Lightning: example_input_array


class Two(nn.Module):
    def __init__(self, example):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.example_input_array = example

    def forward(self, x, y=None):
        return self.layer(x if y is None else x + y)


X = torch.rand(5, 3)


@pytest.mark.parametrize("example", [X, (X, X), [X, X], {"x": X, "y": X}])
def test_a_model_with_an_example_is_called_as_lightning_calls_it(example):
    analysis = archcost.analyze(Two(example))
    assert analysis.notes == ("inputs from the model's example_input_array",)
    assert analysis.input_text.count("5x3") == (1 if example is X else 2)


def test_an_example_that_does_not_fit_is_not_replaced_by_a_guess():
    with pytest.raises(
        InputError, match=r"\(inputs from the model's example_input_array; pass inputs or inp"
    ):
        archcost.analyze(Two(torch.rand(5, 7)))


def test_inputs_that_are_given_come_before_the_example():
    assert archcost.analyze(Two(X), input_size=(2, 3)).input_text == "2x3 float32"


def test_dummy_inputs_are_tried_where_nothing_else_tells():
    class Odd(nn.Module):
        dummy_inputs = {"x": torch.rand(2, 3)}

        def forward(self, x):
            return x @ x.mT

    assert notes(Odd()) == "inputs from the model's dummy_inputs"


# timm: pretrained_cfg is that of the weights, also where the model was built for another size


@pytest.mark.parametrize(
    ("name", "options", "size", "source"),
    [
        ("resnet18", {}, "1x3x224x224", "the model's pretrained_cfg"),
        ("resnet18", {"in_chans": 1}, "1x1x224x224", "the model's pretrained_cfg and first layer"),
        ("resnet18", {"in_chans": 2, "features_only": True}, "1x2x224x224",
         "the model's pretrained_cfg and first layer"),
        ("vit_tiny_patch16_224", {"img_size": 96}, "1x3x96x96", "the model's img_size"),
        ("vit_tiny_patch16_224", {"img_size": (64, 96), "in_chans": 4}, "1x4x64x96",
         "the model's img_size and first layer"),
        ("mixer_s16_224", {"img_size": 96}, "1x3x96x96", "the model's img_size"),
        ("tresnet_m", {}, "1x3x224x224", "the model's pretrained_cfg"),
    ],
)  # fmt: skip
def test_timm_models_get_the_size_for_which_they_were_built(name, options, size, source):
    timm = pytest.importorskip("timm")
    analysis = archcost.analyze(timm.create_model(name, **options).eval())
    assert analysis.notes == (f"input size {size} from {source}",)


# transformers: what the config and the forward's arguments say

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
HALVES = {
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
}
CNN = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 8, 8, 8]}
FRAMES = {**SMALL, "num_frames": 4, "image_size": 32}
T5 = {"d_model": 32, "d_ff": 64, "num_layers": 1, "num_heads": 2, "d_kv": 16}

HUGGING_FACE = [
    ("ViTModel", "ViTConfig", {**SMALL, "image_size": 96}, "input pixel_values 1x3x96x96"),
    ("ViTModel", "ViTConfig", {**SMALL, "image_size": (32, 64)}, "input pixel_values 1x3x32x64"),
    ("ConvNextForImageClassification", "ConvNextConfig", {**CNN, "num_channels": 1},
     "input pixel_values 1x1x224x224"),
    ("BertForMaskedLM", "BertConfig", {**SMALL, "max_position_embeddings": 64}, "input input_ids 1x64"),
    ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 32, "n_layer": 1, "n_head": 2}, "input input_ids 1x128"),
    ("CLIPVisionModel", "CLIPVisionConfig", SMALL, "input pixel_values 1x3x224x224"),
    ("CLIPModel", "CLIPConfig", {"text_config": {**SMALL, "vocab_size": 50000}, "vision_config": SMALL},
     "inputs input_ids 1x77, pixel_values 1x3x224x224"),
    ("T5ForConditionalGeneration", "T5Config", T5, "inputs input_ids 1x128, decoder_input_ids 1x128"),
    ("WhisperModel", "WhisperConfig", HALVES, "inputs input_features 1x80x3000, decoder_input_ids 1x128"),
    ("Wav2Vec2Model", "Wav2Vec2Config", SMALL, "input input_values 1x16000"),
    ("ASTModel", "ASTConfig", {**SMALL, "max_length": 64}, "input input_values 1x64x128"),
    ("VideoMAEModel", "VideoMAEConfig", FRAMES, "input pixel_values 1x4x3x32x32"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "config", "options", "inputs"), HUGGING_FACE)
def test_transformers_models_are_analysed_by_their_config(name, config, options, inputs):
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, name)(getattr(transformers, config)(**options)).eval()
    assert notes(model) == f"{inputs} assumed from the model's config"


def test_a_config_without_an_image_size_leaves_it_to_the_first_layer():
    transformers = pytest.importorskip("transformers")
    model = transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, **CNN)).eval()
    first = "the first layer, embedder.embedder.convolution (Conv2d), takes 3 channels"
    assert notes(model) == f"input size 1x3x224x224 assumed: {first}"


def test_a_model_that_sees_images_only_through_tokens_is_analysed_as_one_of_words():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SMALL),
        text_config=transformers.LlamaConfig(**SMALL, vocab_size=33000),
    )
    assert (
        notes(transformers.LlavaModel(config).eval())
        == "input input_ids 1x128 assumed from the model's config"
    )


def test_the_dtype_asked_for_is_that_of_images_and_not_of_token_ids():
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(text_config={**SMALL, "vocab_size": 50000}, vision_config=SMALL)
    model = transformers.CLIPModel(config).eval().half()
    analysis = archcost.analyze(model, dtype="half")
    assert analysis.input_text == "1x77 int64, 1x3x224x224 float16"


def test_a_model_with_a_setting_of_another_kind_is_left_to_its_first_layer():
    class Config:
        image_size = "large"

        def to_dict(self):
            return {}

    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    model.config, model.main_input_name = Config(), "pixel_values"
    assert notes(model).startswith("input size 1x3x224x224 assumed: the first layer, 0 (Conv2d)")
