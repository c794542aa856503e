"""Models of images and speech, which a swap proves on the inputs that it is given: tiny ones."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

from finetune.attention.kernels import proof
from finetune.attention.swap import swap
from finetune.errors import UserError

LAYERS = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 11}
VISION = {**LAYERS, "image_size": 8, "patch_size": 4}
TEXT = {
    **LAYERS, "num_hidden_layers": 3, "vocab_size": 37, "max_position_embeddings": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SPEECH = {
    **LAYERS, "vocab_size": 37, "conv_dim": (8, 8), "conv_stride": (3, 2), "conv_kernel": (4, 3),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.9, "mask_time_prob": 0.5, "mask_time_length": 2,
}  # fmt: skip
WHISPER = {
    "vocab_size": 37, "d_model": 12, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 3,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 11, "decoder_ffn_dim": 11, "max_source_positions": 10,
    "num_mel_bins": 6, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
    "max_target_positions": 16, "attention_dropout": 0.1,
}  # fmt: skip
IMAGES = {"pixel_values": torch.linspace(-2, 2, 2 * 3 * 64).sin().view(2, 3, 8, 8)}
WORDS = {
    "input_ids": torch.tensor([[5, 6, 7, 2], [4, 2, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}
SOUND = {"input_values": torch.linspace(0, 50, 180).sin().view(2, 90)}
MEL = {"input_features": torch.linspace(0, 90, 240).sin().view(2, 6, 20)}
SPOKEN = {**MEL, "decoder_input_ids": torch.tensor([[1, 5, 6], [1, 7, 2]])}

# model, configuration, inputs, and the calls by kind: a causal text tower is a decoder
FAMILIES: dict[str, tuple[Any, Callable[[], Any], dict[str, Tensor], dict[str, int]]] = {
    "vit": (hf.ViTForImageClassification, lambda: hf.ViTConfig(**VISION), IMAGES, {"encoder": 2}),
    "deit": (hf.DeiTModel, lambda: hf.DeiTConfig(**VISION), IMAGES, {"encoder": 2}),
    "dinov2": (hf.Dinov2Model, lambda: hf.Dinov2Config(**VISION), IMAGES, {"encoder": 2}),
    "clip": (
        hf.CLIPModel, lambda: hf.CLIPConfig(text_config=TEXT, vision_config=VISION), {**IMAGES, **WORDS},
        {"encoder": 2, "decoder": 3},
    ),
    "siglip": (
        hf.SiglipModel, lambda: hf.SiglipConfig(text_config=TEXT, vision_config=VISION), {**IMAGES, **WORDS},
        {"encoder": 5},
    ),
    "wav2vec2": (hf.Wav2Vec2Model, lambda: hf.Wav2Vec2Config(**SPEECH), SOUND, {"encoder": 2}),
    "whisper": (
        hf.WhisperForConditionalGeneration, lambda: hf.WhisperConfig(**WHISPER), SPOKEN,
        {"encoder": 2, "decoder": 3, "cross": 3},
    ),
    "whisper-encoder": (
        hf.WhisperForAudioClassification, lambda: hf.WhisperConfig(**WHISPER), MEL, {"encoder": 2}
    ),
}  # fmt: skip
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels are held to the definition elsewhere."""
    monkeypatch.setattr(proof, "fault", lambda attend, kind: None)


def build(family: str) -> Any:
    """A model of the family, whose weights are so large that attention matters."""
    architecture, configuration, _, _ = FAMILIES[family]
    torch.manual_seed(0)
    model = architecture._from_config(configuration()).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0 if parameter.ndim > 1 else 1.0)
    return model


def outputs(model: Any, family: str) -> Tensor:
    with torch.no_grad():
        found = model(**FAMILIES[family][2])
    return torch.cat([value.flatten() for value in found.to_tuple() if isinstance(value, Tensor)])


@every_family
def test_every_layer_is_proved(family: str) -> None:
    model, (_, _, inputs, layers) = build(family), FAMILIES[family]
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].tolist()
    before = outputs(model, family)
    report = swap(model, "sa-softmax", example_inputs=inputs)
    assert (report.layers, report.total) == (layers, sum(layers.values()))
    assert torch.equal(torch.get_rng_state(), state) and np.random.get_state()[1].tolist() == numbers
    assert not torch.allclose(outputs(model, family), before, atol=1e-4)


@every_family
def test_softmax_is_the_library_s_own_and_kernels_agree(family: str) -> None:
    model, inputs = build(family), FAMILIES[family][2]
    expected = outputs(model, family)
    swap(model, "softmax", example_inputs=inputs)
    torch.testing.assert_close(outputs(model, family), expected, rtol=1e-4, atol=1e-5)
    found = []
    for kernel in ("reference", "blocked"):
        swap(model, "sa-softmax", kernel=kernel, example_inputs=inputs)
        found.append(outputs(model, family))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@every_family
def test_a_checkpoint_comes_back_by_its_name_with_its_parameters(family: str, tmp_path: Path) -> None:
    model = build(family)
    swap(model, "sa-softmax", parameters={"eps": 0.5}, example_inputs=FAMILIES[family][2])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["attn_implementation"] == "sa-softmax"
    loaded = type(model).from_pretrained(tmp_path).eval()
    torch.testing.assert_close(outputs(loaded, family), outputs(model, family))


@pytest.mark.parametrize(
    ("family", "wanted"),
    [
        ("vit", r'ViTForImageClassification reads .*{"pixel_values": torch\.zeros\(1, 3, 8, 8\)}'),
        ("clip", r'CLIPModel reads input_ids, pixel_values, .*{"input_ids": \.\.\., "pixel_values": \.\.\.}'),
        ("wav2vec2", r'Wav2Vec2Model reads input_values, .*{"input_values": torch\.zeros\(1, 16000\)}'),
        ("whisper", r'reads input_features, .*example_inputs={"input_features": \.\.\.}'),
    ],
)  # fmt: skip
def test_a_refusal_names_what_to_pass(family: str, wanted: str) -> None:
    with pytest.raises(UserError, match=wanted):
        swap(build(family), "sa-softmax")


def test_inputs_that_do_not_fit_or_do_not_tell_the_kinds_apart_are_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be swapped: .* example_inputs pixels"):
        swap(build("vit"), "sa-softmax", example_inputs={"pixels": torch.zeros(1)})
    alike = {**MEL, "decoder_input_ids": torch.ones(2, 10, dtype=torch.long)}
    with pytest.raises(UserError, match="its encoder and its decoder both read 10 places"):
        swap(build("whisper"), "sa-softmax", example_inputs=alike)


def test_an_attention_of_torch_s_own_is_named(caplog: pytest.LogCaptureFixture) -> None:
    swap(build("siglip"), "sa-softmax", example_inputs=FAMILIES["siglip"][2])
    assert "SiglipModel keeps torch's own softmax attention in vision_model.head.attention" in caplog.text
