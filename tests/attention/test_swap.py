"""Swapping attention in every supported family: equal to eager, no leaks, all layers counted or refused."""

import copy
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

from finetune.attention import PAPER, VARIANTS
from finetune.attention.interface import LAYER, attention
from finetune.attention.kernels import proof
from finetune.attention.kernels.native import build, native_attention
from finetune.attention.swap import calls_by_kernel, swap
from finetune.errors import UserError
from tests.support import tiny_models
from tests.support.tiny_models import FAMILIES, FEW, VOCAB, batch, kept_logits, names

every_family = pytest.mark.parametrize("family", FAMILIES)
CONTROLS = [name for name in VARIANTS if name not in PAPER]
every_variant = pytest.mark.parametrize("variant", PAPER)
every_control = pytest.mark.parametrize("variant", CONTROLS)
FAST = ("blocked", "native", "triton")
# Families that stand for all in Triton's interpreter, which is slow: padding, grouped keys and a causal mask,
# a position bias and cross-attention, in as few layers and heads as have them.
SLOWLY = {
    "bert": {"num_hidden_layers": 1},
    "llama": {"num_hidden_layers": 1},
    "t5": {"num_layers": 1, "num_decoder_layers": 1, "num_heads": 2},
}


@pytest.fixture(autouse=True)
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel is proved first: here each is held against more, and the interpreter takes seconds for it."""
    monkeypatch.setattr(proof, "fault", lambda attend, kind: None)


def slow_with(family: str, kernel: str) -> list[Any]:
    """The mark of a case: in Triton's interpreter one family is fast, on the other kernels a few are."""
    fast = family == "bert" if kernel == "triton" else family in FEW
    return [] if fast else [pytest.mark.slow]


def with_kernels(*families: str) -> Any:
    """Every family with every variant of the paper on every kernel, in Triton's interpreter a few; and a
    few with every control."""
    kernels = {name: ("auto", "reference") + (FAST if name != "softmax" else ()) for name in PAPER}
    cases: list[Any] = [
        pytest.param(family, variant, kernel, marks=slow_with(family, kernel))
        for family in families
        for variant, chosen in kernels.items()
        for kernel in chosen
        if kernel != "triton" or (family in SLOWLY and variant == "sa-softmax")
    ]
    cases += [(family, control, "reference") for family in families if family in FEW for control in CONTROLS]
    return pytest.mark.parametrize(("family", "variant", "kernel"), cases)


def built_for(family: str, kernel: str) -> Any:
    """The family's model, of one layer where it is to run in Triton's interpreter."""
    return FAMILIES[family].build(**(SLOWLY.get(family, {}) if kernel == "triton" else {}))


def swap_to(model: Any, variant: str, kernel: str) -> None:
    """Swap, and hold that the kernel asked for is the one that runs; skip where this machine has none."""
    ran = swap(model, variant, kernel=kernel).kernel
    if kernel == "triton" and ran != "triton":
        pytest.skip("triton is not installed")
    assert kernel == "auto" or {kernel, "sdpa"} & set(ran.split("+"))


def every_kernel() -> list[Any]:
    """Every family on every kernel; in Triton's interpreter, most of them with the exhaustive tests."""
    cases = []
    for family in FAMILIES:
        for variant, kernels in (("sa-softmax", FAST), ("sa-softmax-raw", FAST[:2])):
            for kernel in kernels:
                left_out = kernel == "triton" and family not in SLOWLY
                marks = [pytest.mark.exhaustive] if left_out else slow_with(family, kernel)
                cases.append(pytest.param(family, variant, kernel, marks=marks))
    return cases


LAYERS = {
    "encoder": {"encoder": 3},
    "decoder": {"decoder": 3},
    "seq2seq": {"encoder": 3, "decoder": 2, "cross": 2},
}


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    """The gradient of every parameter that has one."""
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours: dict[str, Tensor], expected: dict[str, Tensor], kernel: str) -> None:
    """Within 1e-3, and 1e-5 of the model's largest gradient."""
    assert ours.keys() == expected.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    for name, gradient in ours.items():
        torch.testing.assert_close(
            gradient, expected[name], rtol=1e-3, atol=1e-5 * largest, msg=f"{kernel} {name}"
        )


def weighted(logits: Tensor) -> Tensor:
    """A loss that depends on every logit in its own way."""
    return (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum()


@every_family
@pytest.mark.parametrize("padded", [False, True])
def test_our_softmax_equals_eager_in_values_and_gradients(family: str, padded: bool) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build(), batch(kind, padded)
    expected = kept_logits(model, inputs, kind)
    expected_gradients = gradients(model, weighted(expected))
    by_distance = family == "t5" and build.why_not() is None  # its position bias is a function of distance
    fused = "native" if by_distance else "sdpa"
    for kernel, runs in (("auto", fused), ("reference", "reference")):
        assert swap(model, "softmax", kernel=kernel).kernel == runs
        logits = kept_logits(model, inputs, kind)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        assert_same_gradients(gradients(model, weighted(logits)), expected_gradients, kernel)


@every_family
@pytest.mark.parametrize("variant", ["sa-softmax", "sa-softmax-raw"])
def test_another_variant_changes_the_outputs(family: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build(), batch(kind)
    expected = kept_logits(model, inputs, kind)
    assert swap(model, variant, kernel="reference").kernel == "reference"
    logits = kept_logits(model, inputs, kind)
    assert (logits - expected).abs().max() > 0.05
    assert all(g.isfinite().all() for g in gradients(model, weighted(logits)).values())


@pytest.mark.parametrize("family", FEW)
@every_control
def test_a_control_runs_step_by_step_in_a_model(family: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build(), batch(kind)
    plain = kept_logits(model, inputs, kind)
    report = swap(model, variant)
    assert (report.kernel, report.layers) == ("reference", LAYERS[kind])
    assert report.parameters == VARIANTS[variant].parameters
    logits = kept_logits(model, inputs, kind)
    assert (logits - plain).abs().max() > 1e-3
    assert all(g.isfinite().all() for g in gradients(model, weighted(logits)).values())
    outputs = model(**inputs, output_attentions=True)
    hidden = (inputs["attention_mask"] == 0)[:, None, None]
    for weights in outputs.get("encoder_attentions") or outputs.attentions:
        assert not weights[hidden.expand(weights.shape)].any() and weights.any()


@pytest.mark.parametrize("family", ["llama", "t5"])
@every_control
def test_a_cache_changes_nothing_for_a_control(family: str, variant: str) -> None:
    """Some count the keys of a row, and a cache of fixed size holds keys that are not written yet."""
    inputs = {key: value for key, value in batch(FAMILIES[family].kind).items() if "decoder" not in key}
    model = FAMILIES[family].build()
    swap(model, variant)
    plain, growing, fixed = (
        model.generate(
            **inputs, **cache, max_new_tokens=4, do_sample=False, pad_token_id=tiny_models.PAD,
            return_dict_in_generate=True, output_scores=True,
        )
        for cache in (
            {"use_cache": False},
            {"use_cache": True},
            {"cache_implementation": "static", "disable_compile": True},
        )
    )  # fmt: skip
    for cached in (growing, fixed):
        assert torch.equal(plain.sequences, cached.sequences)
        for ours, expected in zip(cached.scores, plain.scores, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("family", "variant", "kernel"), every_kernel())
def test_every_kernel_equals_the_reference_in_values_and_gradients(
    family: str, variant: str, kernel: str
) -> None:
    kind = FAMILIES[family].kind
    model, inputs = built_for(family, kernel), batch(kind)
    swap(model, variant, kernel="reference")
    expected = kept_logits(model, inputs, kind)
    expected_gradients = gradients(model, weighted(expected))
    swap_to(model, variant, kernel)
    logits = kept_logits(model, inputs, kind)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert_same_gradients(gradients(model, weighted(logits)), expected_gradients, kernel)
    assert calls_by_kernel(model, variant).keys() == {kernel}


def test_a_model_with_sa_softmax_equals_one_computed_by_hand() -> None:
    """One layer of BERT, its attention written out: scores, mask, map, values, heads in place."""
    model = FAMILIES["bert"].build(num_hidden_layers=1)
    swap(model, "sa-softmax", parameters={"eps": 0.1})
    inputs = batch("encoder")
    module = model.bert.encoder.layer[0].attention.self
    seen: list[Tensor] = []
    module.register_forward_hook(lambda _, given, output: seen.extend((given[0], output[0])))
    model(**inputs)
    hidden, output = seen
    split = [layer(hidden).view(3, 9, 3, 6) for layer in (module.query, module.key, module.value)]
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        query, key, value = (part[row, :length].transpose(0, 1) for part in split)
        x = query @ key.mT / 6**0.5
        low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
        weights = (x - low) / (high - low + 0.1) * x.softmax(-1)
        expected = (weights @ value).transpose(0, 1).reshape(length, 18)
        torch.testing.assert_close(output[row, :length], expected, rtol=1e-4, atol=1e-5)


@with_kernels(*names("decoder", "seq2seq"))
@pytest.mark.parametrize("padded", [False, True])
def test_no_decoder_sees_the_future(family: str, variant: str, kernel: str, padded: bool) -> None:
    kind = FAMILIES[family].kind
    model, inputs = built_for(family, kernel), batch(kind, padded)
    swap_to(model, variant, kernel)
    name = "decoder_input_ids" if kind == "seq2seq" else "input_ids"
    changed = {**inputs, name: inputs[name].clone()}
    cut = inputs[name].shape[1] - 2
    changed[name][:, cut:] = (changed[name][:, cut:] - 3 + 7) % (VOCAB - 3) + 3
    before, after = model(**inputs).logits, model(**changed).logits
    kept = inputs["attention_mask"][:, :cut].bool() if kind == "decoder" else ...
    torch.testing.assert_close(before[:, :cut][kept], after[:, :cut][kept], rtol=0, atol=1e-6)
    assert (before[:, cut:] - after[:, cut:]).abs().max() > 0.01


@with_kernels(*FAMILIES)
def test_no_query_sees_padding(family: str, variant: str, kernel: str) -> None:
    kind = FAMILIES[family].kind
    model, inputs = built_for(family, kernel), batch(kind)
    swap_to(model, variant, kernel)
    hidden = inputs["attention_mask"] == 0
    ids = inputs["input_ids"]
    changed = {**inputs, "input_ids": torch.where(hidden, (ids + 5) % 2 + tiny_models.PAD + 11, ids)}
    if family in ("roberta", "m2m100"):  # they take positions from the padding token itself
        changed["inputs_embeds"] = model.get_input_embeddings()(changed.pop("input_ids"))
        inputs = {**inputs, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}
        del inputs["input_ids"]
    before, after = kept_logits(model, inputs, kind), kept_logits(model, changed, kind)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)
    unhidden = {**changed, "attention_mask": torch.ones_like(hidden).long()}
    assert (model(**unhidden).logits - model(**changed).logits).abs().max() > 0.01


@with_kernels(*names("seq2seq"))
def test_no_decoder_query_sees_decoder_padding(family: str, variant: str, kernel: str) -> None:
    model, inputs = built_for(family, kernel), batch("seq2seq")
    swap_to(model, variant, kernel)
    mask = torch.ones_like(inputs["decoder_input_ids"])
    mask[:, 1:3] = 0  # in the middle, where causality alone does not hide it
    changed = inputs["decoder_input_ids"].clone()
    changed[:, 1:3] = 7
    kept = mask.bool()
    before = model(**inputs, decoder_attention_mask=mask).logits[kept]
    after = model(**{**inputs, "decoder_input_ids": changed}, decoder_attention_mask=mask).logits[kept]
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


@every_family
@every_variant
def test_every_attention_layer_is_counted(family: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    model = FAMILIES[family].build()
    report = swap(model, variant)
    assert report.layers == LAYERS[kind]
    assert report.total == sum(LAYERS[kind].values())
    assert report.variant == variant
    assert report.scope == "all"
    assert report.parameters == VARIANTS[variant].parameters
    modules = [module for module in model.modules() if hasattr(module, LAYER)]
    assert len(modules) == (1 if family == "albert" else report.total)  # ALBERT's layers share one module


@pytest.mark.parametrize("family", names("seq2seq"))
@pytest.mark.parametrize("scope", ["encoder", "decoder", "cross"])
def test_a_scope_swaps_its_own_attention_only(family: str, scope: str) -> None:
    model, inputs = FAMILIES[family].build(), batch("seq2seq")
    swap(model, "softmax")
    plain = model(**inputs, output_attentions=True)
    report = swap(model, "sa-softmax", scope=scope)
    assert report.layers == {scope: LAYERS["seq2seq"][scope]}
    assert report.total == 7
    swapped = model(**inputs, output_attentions=True)
    sums = {
        "encoder": [w.sum(-1)[inputs["attention_mask"].bool()[:, None].expand(w.shape[:3])]
                    for w in swapped.encoder_attentions],
        "decoder": [w.sum(-1) for w in swapped.decoder_attentions],
        "cross": [w.sum(-1) for w in swapped.cross_attentions],
    }  # fmt: skip
    for kind, layers in sums.items():
        for layer in layers:
            is_softmax = torch.allclose(layer, torch.ones_like(layer), atol=1e-5)
            assert is_softmax == (kind != scope), (kind, scope)
    assert (swapped.logits - plain.logits).abs().max() > 0.01


@pytest.mark.parametrize(("family", "scope"), [("bert", "decoder"), ("bert", "cross"), ("gpt2", "encoder")])
def test_a_scope_without_layers_is_refused(family: str, scope: str) -> None:
    model = FAMILIES[family].build()
    with pytest.raises(UserError, match=f"has no {scope} attention"):
        swap(model, "sa-softmax", scope=scope)
    assert model.config._attn_implementation == "eager"


_REFUSED = {
    "deberta": (hf.DebertaConfig, hf.DebertaForSequenceClassification, {}),
    "deberta-v2": (hf.DebertaV2Config, hf.DebertaV2ForSequenceClassification, {}),
    "mpnet": (hf.MPNetConfig, hf.MPNetForSequenceClassification, {}),
    "xlnet": (
        hf.XLNetConfig,
        hf.XLNetForSequenceClassification,
        {"d_model": 12, "n_layer": 2, "n_head": 3, "d_inner": 7},
    ),
}


@pytest.mark.parametrize("family", _REFUSED)
def test_a_model_that_would_ignore_the_swap_is_refused(family: str) -> None:
    config_class, model_class, sizes = _REFUSED[family]
    bert = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 7}
    model = model_class(config_class(vocab_size=VOCAB, **(sizes or bert))).eval()
    before = model.config._attn_implementation
    ids = torch.arange(3, 9)[None]
    logits = model(input_ids=ids).logits
    with pytest.raises(
        UserError, match=rf"{model_class.__name__} .*never calls it. Supported: BERT, RoBERTa"
    ):
        swap(model, "sa-softmax")
    assert model.config._attn_implementation == before
    assert not any(hasattr(module, LAYER) for module in model.modules())
    assert torch.equal(model(input_ids=ids).logits, logits)


_SMALL = {"vocab_size": VOCAB, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
_GROUPED = {**_SMALL, "intermediate_size": 11, "num_key_value_heads": 2, "head_dim": 6, "pad_token_id": 0}
_EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
_VIT = {**_SMALL, "intermediate_size": 11, "image_size": 8, "patch_size": 4}
del _VIT["vocab_size"]


@pytest.mark.parametrize(
    ("config", "model_class", "reason"),
    [
        (hf.Gemma2Config(**_GROUPED), hf.Gemma2ForCausalLM, "Gemma2Attention asks its attention for softcap"),
        (hf.GptOssConfig(**_GROUPED, **_EXPERTS), hf.GptOssForCausalLM, "asks its attention for s_aux"),
        (
            hf.ViTConfig(**_VIT),
            hf.ViTForImageClassification,
            "reads pixel_values, and the proof runs it",
        ),
        (
            hf.LongT5Config(vocab_size=VOCAB, d_model=12, d_kv=5, d_ff=7, num_layers=2, num_heads=2),
            hf.LongT5ForConditionalGeneration,
            "makes 4 of its 6 attention calls",
        ),
    ],
)
def test_a_model_that_needs_more_than_the_map_is_refused(config: Any, model_class: Any, reason: str) -> None:
    model = model_class(config)
    before = model.config._attn_implementation
    with pytest.raises(UserError, match=reason):
        swap(model, "sa-softmax")
    assert model.config._attn_implementation == before


def test_two_models_in_one_are_swapped_together() -> None:
    bert = hf.BertConfig(**_SMALL, intermediate_size=11)
    model = hf.EncoderDecoderModel(hf.EncoderDecoderConfig.from_encoder_decoder_configs(bert, bert))
    report = swap(model, "sa-softmax", scope="cross")
    assert (report.layers, report.total) == ({"cross": 2}, 6)
    assert {model.encoder.config._attn_implementation, model.decoder.config._attn_implementation} == {
        "finetune"
    }
    with pytest.raises(UserError, match="unknown attention scope"):
        swap(model, "sa-softmax", scope="crss")


def test_a_model_that_uses_it_in_some_layers_only_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, hidden: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
            return hidden, None

    model = FAMILIES["bert"].build()
    model.bert.encoder.layer[1].attention.self = Silent()
    with pytest.raises(UserError, match="makes 2 of its 3 attention calls"):
        swap(model, "sa-softmax")


def test_a_refused_swap_leaves_an_earlier_one_in_place() -> None:
    model, inputs = FAMILIES["t5"].build(), batch("seq2seq")
    swap(model, "sa-softmax", scope="cross")
    before = model(**inputs).logits
    for wrong in (
        {"scope": "crss"},
        {"kernel": "fast"},
        {"parameters": {"epz": 1.0}},
        {"parameters": {"eps": 0.0}},
    ):
        with pytest.raises(UserError):
            swap(model, "sa-softmax", **wrong)
    assert torch.equal(model(**inputs).logits, before)


def test_a_kernel_that_fails_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["bert"].build()
    before = model.config._attn_implementation

    def fail(*_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(native_attention, "attend", fail)
    with pytest.raises(UserError):
        swap(model, "sa-softmax")
    assert model.config._attn_implementation == before
    assert not any(LAYER in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"variant": "sa-softmx"}, "unknown attention variant 'sa-softmx': did you mean 'sa-softmax'"),
        ({"scope": "encodr"}, "unknown attention scope 'encodr': did you mean 'encoder'"),
        ({"kernel": "referense"}, "unknown attention kernel 'referense': did you mean 'reference'"),
        ({"parameters": {"epz": 1.0}}, "did you mean 'eps'"),
        ({"parameters": {"eps": 0.0}}, "must be a finite number of at least"),
        ({"parameters": {"eps": float("nan")}}, "must be a finite number of at least"),
        ({"variant": "softmax", "parameters": {"eps": 1e-6}}, "'softmax' has no parameters: remove 'eps'"),
    ],
)
def test_a_wrong_name_or_value_is_one_clear_sentence(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        swap(FAMILIES["bert"].build(), **{"variant": "sa-softmax", **keywords})


def test_swapping_changes_nothing_else() -> None:
    model = FAMILIES["bart"].build(encoder_layerdrop=1.0, decoder_layerdrop=1.0)
    model.train()
    model.model.encoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    random = torch.get_rng_state()
    report = swap(model, "sa-softmax")
    assert report.layers == LAYERS["seq2seq"]
    assert report.dropout == pytest.approx(0.1)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert model.model.encoder.layerdrop == 1.0
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_swapping_again_replaces_the_variant(family: str) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build(), batch(kind)
    expected = kept_logits(model, inputs, kind)
    for variant in ("sa-softmax", "sa-softmax-raw", "sa-softmax", "softmax"):
        swap(model, variant)
    torch.testing.assert_close(kept_logits(model, inputs, kind), expected, rtol=1e-4, atol=1e-4)


@every_family
@every_variant
def test_output_attentions_are_the_weights_at_call_time(family: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build(), batch(kind, padded=False)
    expected = model(**inputs, output_attentions=True)
    swap(model, variant)
    outputs = model(**inputs, output_attentions=True)
    torch.testing.assert_close(outputs.logits, model(**inputs).logits, rtol=1e-4, atol=1e-4)
    keys = [key for key in outputs if key.endswith("attentions")]
    assert keys == [key for key in expected if key.endswith("attentions")] != []
    for key in keys:
        assert len(outputs[key]) == len(expected[key])
        for ours, eager in zip(outputs[key], expected[key], strict=True):
            assert ours.shape == eager.shape
            if variant == "softmax":
                torch.testing.assert_close(ours, eager, rtol=1e-3, atol=1e-5)
    if variant == "sa-softmax":
        assert all((w >= 0).all() and (w.sum(-1) < 1 + 1e-5).all() for key in keys for w in outputs[key])


def test_the_configuration_must_not_ask_for_attentions() -> None:
    model = FAMILIES["bert"].build(output_attentions=True)
    with pytest.raises(UserError, match="pass output_attentions=True to the call"):
        swap(model, "softmax")


# transformers has no gradient checkpointing for ALBERT.
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_gradient_checkpointing_changes_nothing(family: str, variant: str) -> None:
    kind = FAMILIES[family].kind
    no_dropout = {
        key: 0.0 for key in vars(FAMILIES[family].build().config) if "drop" in key and "path" not in key
    }
    model = FAMILIES[family].build(**{k: v for k, v in no_dropout.items() if k != "use_dropout"})
    inputs = batch(kind)
    swap(model, variant)
    model.train()
    plain = gradients(model, weighted(kept_logits(model, inputs, kind, **_no_cache(kind))))
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    swap(model, variant)  # the dry run must not stumble over checkpointing either
    ours = gradients(model, weighted(kept_logits(model, inputs, kind, **_no_cache(kind))))
    assert model.training
    for name, gradient in plain.items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-5 * max(1, largest), msg=name)


def _no_cache(kind: str) -> dict[str, bool]:
    return {} if kind == "encoder" else {"use_cache": False}


@pytest.mark.parametrize("family", ["bert", "llama", "t5", "marian"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@every_variant
def test_models_of_other_types_run(family: str, dtype: torch.dtype, variant: str) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build().to(dtype), batch(kind)
    swap(model, variant)
    logits = kept_logits(model, inputs, kind)
    assert logits.dtype == dtype
    assert all(gradient.isfinite().all() for gradient in gradients(model, weighted(logits)).values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", ["auto", "reference"])
@every_variant
def test_half_precision_inputs_are_computed_in_float32(variant: str, kernel: str, dtype: torch.dtype) -> None:
    """At the level of one call: through a whole model rounding may flip a lone key's score around 0."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4).to(dtype) for _ in range(3))
    allowed = torch.rand(2, 1, 5, 5) < 0.7
    module = _Module(False, kernel, variant)
    expected, _ = attention(module, query.float(), key.float(), value.float(), allowed)
    output, _ = attention(module, query, key, value, allowed)
    assert output.dtype == dtype
    if kernel == "auto" and variant == "softmax":  # torch's kernel rounds on its way
        torch.testing.assert_close(output.float(), expected, rtol=0.02, atol=0.01)
    else:
        torch.testing.assert_close(output, expected.to(dtype))


@every_variant
def test_the_reference_is_float32_under_autocast(variant: str) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4) for _ in range(3))
    module = _Module(False, "reference", variant)
    expected, _ = attention(module, query, key, value, None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, weights = attention(module, query, key, value, None)
    assert torch.equal(output, expected)
    assert weights is not None
    assert weights.dtype == torch.float32
    model = FAMILIES["bert"].build()
    swap(model, variant)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weighted(model(**batch("encoder")).logits.float()).backward()


def test_dropout_comes_after_the_map_and_is_reported() -> None:
    model = FAMILIES["bert"].build(attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    assert swap(model, "sa-softmax").dropout == 0.5
    inputs = batch("encoder", padded=False)
    clean = model(**inputs, output_attentions=True).attentions[0]
    torch.manual_seed(0)
    dropped = model.train()(**inputs, output_attentions=True).attentions[0]
    kept = dropped != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(dropped[kept], (clean * 2)[kept])


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_a_swapped_model_saves_and_loads(family: str, tmp_path: Any) -> None:
    kind = FAMILIES[family].kind
    model, inputs = FAMILIES[family].build(), batch(kind)
    swap(model, "sa-softmax")
    expected = kept_logits(model, inputs, kind)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert loaded.config._attn_implementation == "sa-softmax"  # by the variant's name, as yet without proof
    torch.testing.assert_close(kept_logits(loaded, inputs, kind), expected)
    swap(loaded, "sa-softmax")
    torch.testing.assert_close(kept_logits(loaded, inputs, kind), expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft asks for it
def test_a_swapped_model_can_be_copied_and_adapted_with_lora() -> None:
    peft = pytest.importorskip("peft")
    model, inputs = FAMILIES["bert"].build(), batch("encoder")
    swap(model, "sa-softmax")
    expected = kept_logits(model, inputs, "encoder")
    assert torch.equal(kept_logits(copy.deepcopy(model), inputs, "encoder"), expected)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["query", "value"])).eval()
    torch.testing.assert_close(kept_logits(adapted, inputs, "encoder"), expected)


@pytest.mark.parametrize(
    ("model_class", "family"),
    [
        (hf.BertForSequenceClassification, "bert"),
        (hf.BertModel, "bert"),
        (hf.ModernBertForSequenceClassification, "modernbert"),
        (hf.ElectraForSequenceClassification, "electra"),
        (hf.GPT2ForSequenceClassification, "gpt2"),
        (hf.LlamaModel, "llama"),
        (hf.BartForSequenceClassification, "bart"),
        (hf.T5Model, "t5"),
    ],
)
def test_bodies_and_other_heads_can_be_swapped(model_class: Any, family: str) -> None:
    model = FAMILIES[family].build(model_class=model_class)
    report = swap(model, "sa-softmax")
    assert report.layers == LAYERS[FAMILIES[family].kind]


@pytest.mark.parametrize(
    "keyword", ["softcap", "s_aux", "head_mask", "cache", "cu_seq_lens_q", "something_new"]
)
def test_a_keyword_that_would_be_ignored_is_refused(keyword: str) -> None:
    model = FAMILIES["bert"].build()
    swap(model, "softmax")
    module = model.bert.encoder.layer[0].attention.self
    query = torch.randn(1, 3, 4, 6)
    attention(module, query, query, query, None, **{keyword: None}, use_cache=True)
    with pytest.raises(UserError, match=f"BertSelfAttention asks its attention for {keyword}"):
        attention(module, query, query, query, None, **{keyword: torch.ones(1)})


def test_the_name_without_a_swap_raises() -> None:
    model = FAMILIES["bert"].build()
    model.set_attn_implementation("finetune")
    with pytest.raises(UserError, match=r"has no attention variant: load a run by finetune\.load, or call"):
        model(**batch("encoder"))


class _Module(nn.Module):
    """A bare attention module with a setting."""

    def __init__(self, causal: bool, kernel: str, variant: str = "softmax") -> None:
        super().__init__()
        self.is_causal = causal
        model = FAMILIES["bert"].build()
        swap(model, variant, kernel=kernel)
        setattr(self, LAYER, getattr(model.bert.encoder.layer[0].attention.self, LAYER))
        self.eval()


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 5), (1, 5)])
def test_without_a_mask_causality_is_honoured(kernel: str, causal: bool, queries: int, keys: int) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, queries, 4), torch.randn(2, 3, keys, 4), torch.randn(2, 3, keys, 4)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril() if causal and queries > 1 else None
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)
    output, _ = attention(_Module(causal, kernel), query, key, value, None)
    torch.testing.assert_close(output, expected)
    output, _ = attention(_Module(not causal, kernel), query, key, value, None, is_causal=causal)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ("variant", "kernel"),
    [("softmax", "auto"), *((name, "reference") for name in ("softmax", "sa-softmax", *CONTROLS))],
)
@pytest.mark.parametrize(
    "minimum", [-torch.inf, torch.finfo(torch.float32).min, torch.finfo(torch.bfloat16).min]
)
def test_an_additive_mask_blocks_and_biases(variant: str, kernel: str, minimum: float) -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 4, 3, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    blocked = torch.rand(2, 1, 3, 5) < 0.4
    blocked[..., 0] = False
    bias = torch.randn(2, 1, 3, 5)
    additive = bias.masked_fill(blocked, minimum)
    repeated = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
    weights = VARIANTS[variant].weigh(query @ repeated[0].mT * 0.3 + bias, ~blocked)
    expected = (weights @ repeated[1]).transpose(1, 2)
    module = _Module(True, kernel, variant)
    output, _ = attention(module, query, key, value, additive, scaling=0.3)
    torch.testing.assert_close(output, expected)
    output, _ = attention(module, query, key, value, ~blocked, scaling=0.3, position_bias=bias)
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("kernel", ["auto", "reference"])
@pytest.mark.parametrize("biased", [False, True])
def test_a_query_without_an_allowed_key_gives_zero(kernel: str, biased: bool) -> None:
    query = torch.randn(2, 3, 4, 5, requires_grad=True)
    allowed = torch.ones(2, 1, 4, 4, dtype=torch.bool)
    allowed[1, :, 2] = False
    bias = torch.randn(1, 3, 4, 4) if biased else None
    output, _ = attention(_Module(False, kernel), query, query, query, allowed, position_bias=bias)
    assert (output[1, 2] == 0).all()
    output.sum().backward()
    assert query.grad is not None
    assert query.grad.isfinite().all()


def test_an_integer_mask_is_refused() -> None:
    query = torch.randn(1, 1, 2, 2)
    with pytest.raises(UserError, match="must be bool or floating"):
        attention(_Module(False, "auto"), query, query, query, torch.ones(1, 1, 2, 2, dtype=torch.long))


def test_the_report_is_plain_json() -> None:
    model = FAMILIES["marian"].build()
    report = swap(model, "sa-softmax", scope="encoder", kernel="native", parameters={"eps": 1e-4})
    assert report.to_json() == {
        "variant": "sa-softmax",
        "parameters": {"eps": 1e-4},
        "scope": "encoder",
        "kernel": "native",
        "layers": {"encoder": 3},
        "total": 7,
        "dropout": 0.1,
    }
