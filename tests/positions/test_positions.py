"""The positional encodings: their values, what they see, with a cache and without, saved and loaded."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    SmolLM3Config,
    StaticCache,
    set_seed,
)
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.trainer_pt_utils import get_parameter_names  # noqa: F401  the Trainer's own way

from finetune.attention import VARIANTS
from finetune.attention.kernels import dispatch, reference
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.position_bias import POSITION, Places
from finetune.attention.swap import swap
from finetune.config.schema import LoraConfig
from finetune.errors import UserError
from finetune.models.adapters import adapted_model, load_adapters
from finetune.positions import POSITIONS, get_encoding
from finetune.positions.alibi import Alibi, slopes
from finetune.positions.attach import attach, free, restore, wanted, weight_files
from finetune.positions.t5 import bucket
from tests.support.decoders import HEADS, LENGTH, WIDTH, decoder, stock, tokens

BIASES = [name for name, encoding in POSITIONS.items() if encoding.module]
CONSISTENT = [name for name in POSITIONS if name not in ("own", "dapev2-kerple-published")]
# Of a layer, at 12 heads.
WEIGHTS = {"alibi": 0, "t5": 384, "kerple": 24, "kerple-power": 24, "fire": 462, "dape-kerple": 1220,
           "dapev2-kerple": 3524, "dapev2-kerple-published": 3524}  # fmt: skip


def logits(model, ids, **options):
    with torch.no_grad():
        return model(ids, **options).logits


def module_of(name, heads=HEADS):
    torch.manual_seed(1)
    encoding, constants = get_encoding(name)
    return encoding.bias.build(heads, width=WIDTH, first=None, constants=constants)


def slow_bias(name, module, scores):  # noqa: C901  one case a formula
    """The bias in float64, one number at a time, straight from the papers; ``scores`` (heads, n, n)."""
    weights = {key: value.detach().double().numpy() for key, value in module.state_dict().items()}
    heads, count, _ = scores.shape
    bias = np.zeros((heads, count, count))
    seen = np.tril(np.ones((count, count), bool))
    for h in range(heads):
        for i in range(count):
            for j in range(i + 1):
                d = i - j
                match name:
                    case "alibi":
                        bias[h, i, j] = -slopes(heads)[h] * d
                    case "t5":
                        b = d if d < 16 else min(31, 16 + int(math.log(d / 16) / math.log(128 / 16) * 16))
                        bias[h, i, j] = weights["table"][h, b]
                    case "kerple-power":
                        bias[h, i, j] = -weights["a"][h] * (d ** weights["p"][h] if d else 0)
                    case "fire":
                        phi = lambda x: math.log(abs(weights["c"][0] * x) + 1)  # noqa: E731
                        x = phi(d) / (phi(max(i, abs(weights["m"][0] * 512))) + 1e-6)
                        hidden = np.maximum(
                            weights["network.0.weight"][:, 0] * x + weights["network.0.bias"], 0
                        )
                        bias[h, i, j] = weights["network.2.weight"][h] @ hidden + weights["network.2.bias"][h]
                    case _:
                        bias[h, i, j] = -weights["p"][h] * math.log(1 + weights["a"][h] * d)
    leaky = lambda x: np.where(x > 0, x, 0.01 * x)  # noqa: E731
    both = np.concatenate([scores * seen, bias])
    if name.endswith("published"):  # with a place ahead of the last key too
        both, count = np.pad(both, ((0, 0), (0, 0), (0, 1))), count + 1
    if name == "dape-kerple":
        for i in range(count):
            for j in range(i + 1):
                hidden = leaky(weights["network.0.weight"] @ both[:, i, j] + weights["network.0.bias"])
                bias[:, i, j] += weights["network.2.weight"] @ hidden + weights["network.2.bias"]
    if name.startswith("dapev2"):

        def convolve(values, kernel, offset):  # (channels, n, n), (out, channels, 1, 3)
            padded = np.pad(values, ((0, 0), (0, 0), (1, 1)))
            parts = [
                np.einsum("oc,cij->oij", kernel[:, :, 0, k], padded[:, :, k : k + count]) for k in range(3)
            ]
            return sum(parts) + offset[:, None, None]

        hidden = leaky(convolve(both, weights["first.weight"], weights["first.bias"]))
        hidden = hidden if name.endswith("published") else hidden * seen
        bias += convolve(hidden, weights["second.weight"], weights["second.bias"])[..., : bias.shape[-1]]
    return bias * seen


@pytest.mark.parametrize("name", BIASES)
def test_bias_is_the_papers_formula(name):
    module, count = module_of(name), 150  # beyond T5's farthest bucket
    count = count if name in ("t5", "alibi", "kerple", "kerple-power") else 20
    scores = torch.randn(1, HEADS, count, count)
    steps = torch.arange(count)
    distance = (steps[:, None] - steps).clamp(min=0)[None]
    seen = torch.ones(count, count, dtype=torch.bool).tril()[None, None]
    got = module(Places(distance, steps[None]), scores, seen).expand(1, HEADS, count, count) * seen
    expected = slow_bias(name, module, scores[0].double().numpy())
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got[0].detach().numpy(), expected, rtol=2e-5, atol=2e-6)
    by_distance = module.by_distance(steps.float())
    if by_distance is not None:
        np.testing.assert_allclose(by_distance.detach().numpy(), expected[:, -1, ::-1], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 20, 32])
def test_alibis_slopes_are_those_of_bloom(heads):
    built = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32).view(heads, 2)
    np.testing.assert_allclose(slopes(heads), built[:, 1] - built[:, 0], rtol=1e-6)


def test_t5s_buckets_are_those_of_transformers():
    distance = torch.arange(3000)
    expected = T5Attention._relative_position_bucket(-distance, bidirectional=False)
    assert torch.equal(bucket(distance), expected)


@pytest.mark.parametrize("name", WEIGHTS)
def test_number_of_weights_is_that_of_the_papers(name):
    assert sum(weight.numel() for weight in module_of(name, heads=12).parameters()) == WEIGHTS[name]


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
@pytest.mark.parametrize("name", CONSISTENT)
def test_cache_and_padding_change_nothing(name, variant):
    model, ids = decoder(name, variant), tokens()
    full = logits(model, ids, use_cache=False)

    def generated(pieces, cache=None):
        outputs = []
        with torch.no_grad():
            for piece in ids.split(pieces, dim=1):
                output = model(piece, past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                outputs.append(output.logits)
        return torch.cat(outputs, dim=1)

    steps = [1] * LENGTH
    padding, mask = torch.zeros(2, 4, dtype=torch.long), torch.ones(2, LENGTH, dtype=torch.long)
    ways = {
        "step by step": generated(steps),
        "in chunks": generated([9, 8, 6]),
        "static cache": generated(
            [9, *[1] * (LENGTH - 9)], StaticCache(config=model.config, max_cache_len=40)
        ),
        "padded left": logits(
            model, torch.cat([padding, ids], 1), attention_mask=torch.cat([padding, mask], 1), use_cache=False
        )[:, 4:],
        "padded right": logits(
            model, torch.cat([ids, padding], 1), attention_mask=torch.cat([mask, padding], 1), use_cache=False
        )[:, :LENGTH],
        "shorter": torch.cat([logits(model, ids[:, :11], use_cache=False), full[:, 11:]], 1),
    }
    for way, got in ways.items():
        torch.testing.assert_close(got, full, rtol=0, atol=2e-5, msg=lambda text, way=way: f"{way}: {text}")


@pytest.mark.parametrize("name", [name for name in POSITIONS if name not in ("own", "none")])
def test_encoding_shows_and_the_future_does_not(name):
    model, ids = decoder(name), tokens()
    full = logits(model, ids, use_cache=False)
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    assert torch.equal(logits(model, changed, use_cache=False)[:, :-1], full[:, :-1])
    assert (logits(decoder("none"), ids, use_cache=False) - full).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["kerple", "fire", "dapev2-kerple"])
def test_document_sees_nothing_of_the_one_before_it(name):
    """Two documents in one window, isolated by the mask, are what each is alone."""
    model, ids = decoder(name), tokens(batch=1)
    whole = torch.zeros(1, 1, LENGTH, LENGTH, dtype=torch.bool)
    whole[..., :9, :9] = whole[..., 9:, 9:] = True
    mask = whole & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    packed = logits(model, ids, attention_mask=mask, use_cache=False)
    alone = torch.cat([logits(model, part, use_cache=False) for part in (ids[:, :9], ids[:, 9:])], dim=1)
    torch.testing.assert_close(packed, alone, rtol=0, atol=2e-5)


def test_published_dape_v2_is_refused_for_generation():
    model = decoder("dapev2-kerple-published")
    logits(model, tokens(), use_cache=False)
    with pytest.raises(UserError, match="cannot generate"):
        model.generate(tokens()[:1], max_new_tokens=3, do_sample=False)


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
@pytest.mark.parametrize("name", BIASES)
def test_gradients_reach_every_weight_by_every_kernel(name, variant):
    losses, grads = [], []
    for kernel in ("auto", "reference"):
        model = decoder(name, variant, kernel)
        loss = model(tokens(), labels=tokens(), use_cache=False).loss
        loss.backward()
        losses.append(loss.detach())
        grads.append({key: weight.grad for key, weight in model.named_parameters()})
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-5)
    for key, grad in grads[1].items():
        assert grad is not None and grad.abs().max() > 0, key
        torch.testing.assert_close(
            grads[0][key], grad, rtol=1e-3, atol=1e-5, msg=lambda t, k=key: f"{k}: {t}"
        )


def test_kerple_comes_back_from_its_limits():
    module = module_of("kerple")
    with torch.no_grad():
        module.p.fill_(-1.0)
    module.by_distance(torch.arange(4.0)).sum().backward()
    assert (module.p == 0.01).all()
    assert module.p.grad.abs().min() > 0


@pytest.mark.parametrize("name", BIASES)
def test_bias_is_computed_in_float32_in_a_half_precision_model(name):
    model = decoder(name).bfloat16()
    steps = torch.arange(300)
    module = model.gpt_neox.layers[0].attention.position
    scores = torch.randn(1, HEADS, 300, 300)
    places = Places((steps[:, None] - steps).clamp(min=0)[None], steps[None])
    bias = module(places, scores, torch.ones(300, 300, dtype=torch.bool).tril()[None, None])
    assert bias.dtype == torch.float32
    distinct = bias[0, 0, -1].unique().numel()
    assert distinct == 32 if name == "t5" else distinct > 250


@pytest.mark.parametrize("name", BIASES)
def test_encoding_draws_nothing_from_the_other_weights(name):
    def fresh(encoding):
        config = stock()
        free(config, encoding)
        set_seed(3)
        model = GPTNeoXForCausalLM(config)
        swap(model, "softmax")
        attach(model, *get_encoding(encoding), 3)
        return model, torch.rand(1)

    (one, after), (other, also) = fresh("none"), fresh(name)
    assert torch.equal(after, also)
    for key, weight in one.state_dict().items():
        assert torch.equal(weight, other.state_dict()[key])


@pytest.mark.parametrize("name", BIASES)
def test_checkpoint_gives_the_same_model_back(name, tmp_path):
    model = decoder(name)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"finetune\.load"):  # plain transformers has not its encoding
        logits(again, tokens())
    encoding, constants = wanted(again.config, "own", {})
    assert encoding.name == name
    swap(again, "sa-softmax")
    attach(again, encoding, constants, seed=5)
    restore(again, weight_files(str(tmp_path), {}))
    assert torch.equal(logits(again.eval(), tokens()), logits(model, tokens()))
    assert torch.equal(logits(copy.deepcopy(again), tokens()), logits(model, tokens()))


def test_other_encoding_or_constants_than_a_checkpoints_are_refused(tmp_path):
    model = decoder("fire")
    with pytest.raises(UserError, match=r"trained with the positional encoding fire \(threshold 512\)"):
        wanted(model.config, "fire", {"threshold": 256})
    with pytest.raises(UserError, match="not with alibi"):
        wanted(model.config, "alibi", {})
    assert wanted(model.config, "fire", {})[1] == {"threshold": 512}
    model.save_pretrained(tmp_path)
    kerple = decoder("kerple")
    with pytest.raises(UserError, match="does not hold the weights of its positional encoding"):
        restore(kerple, weight_files(str(tmp_path), {}))


def test_own_encoding_that_stays_active_is_refused():
    llama = LlamaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=16, max_position_embeddings=64)  # fmt: skip
    with pytest.raises(UserError, match="whose own would stay active"):
        free(llama, "kerple")
    llama.rope_parameters = {**llama.rope_parameters, "partial_rotary_factor": 0.0}  # which it ignores
    model = LlamaForCausalLM(llama)
    swap(model, "softmax")
    with pytest.raises(UserError, match="encoding of its own that stays active"):
        attach(model, *get_encoding("kerple"), 0)
    model = GPTNeoXForCausalLM(stock())
    swap(model, "softmax")
    with pytest.raises(UserError, match="encoding of its own that stays active"):
        attach(model, *get_encoding("none"), 0)


SIZES = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
         "pad_token_id": 0}  # fmt: skip


@pytest.mark.parametrize("make", [PhiConfig, SmolLM3Config])
def test_other_decoders_can_be_freed(make):
    config = make(**SIZES)
    free(config, "kerple")
    model = AutoModelForCausalLM.from_config(config)
    swap(model, "sa-softmax")
    attach(model, *get_encoding("kerple"), 0)
    assert model.config.finetune_position["name"] == "kerple"


def test_encoders_and_unknown_names_are_refused():
    with pytest.raises(UserError, match="choose one of gpt_neox, phi, smollm3"):
        free(BertConfig(), "alibi")
    with pytest.raises(UserError, match="did you mean 'kerple'"):
        get_encoding("kerpel")
    with pytest.raises(UserError, match="threshold of 'fire' must be above 0"):
        get_encoding("fire", {"threshold": 0})
    with pytest.raises(UserError, match="has no parameters: remove 'slope'"):
        get_encoding("alibi", {"slope": 1})


def test_rope_turns_the_whole_head():
    config = stock()
    free(config, "rope")
    assert GPTNeoXForCausalLM(config).gpt_neox.layers[0].attention.rotary_ndims == WIDTH // HEADS


@pytest.mark.parametrize("name", ["kerple", "fire", "dapev2-kerple"])
def test_no_adapter_is_put_on_an_encoding(name, tmp_path):
    lora = LoraConfig(rank=2, alpha=4, dropout=0.0, target_modules="all-linear")
    adapted = adapted_model(decoder(name), lora, [], task_type="CAUSAL_LM", head=False)
    trained = [key for key, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained
    assert not [key for key in trained if f".{POSITION}." in key]
    with torch.no_grad():
        for key, weight in adapted.named_parameters():
            weight.add_(0.05 * ("lora" in key))
    adapted.save_pretrained(tmp_path)
    again = load_adapters(decoder(name), tmp_path, lora, [])
    assert torch.equal(logits(again.eval(), tokens()), logits(adapted.eval(), tokens()))


def test_numbers_of_no_dimension_of_an_earlier_version_are_read(tmp_path):
    model, again = decoder("fire"), decoder("fire")
    weights = {name: weight + 0.1 for name, weight in model.state_dict().items() if f".{POSITION}." in name}
    file = tmp_path / "model.safetensors"
    save_file({name: w.reshape(()) if w.numel() == 1 else w for name, w in weights.items()}, file)
    restore(again, [file])
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in weights.items())


def test_a_longer_window_in_the_batch_changes_nothing_of_the_published_form():
    model, ids = decoder("dapev2-kerple-published"), tokens()
    longer = torch.cat([ids, torch.zeros(2, 5, dtype=torch.long)], dim=1)
    full = logits(model, ids, use_cache=False)
    torch.testing.assert_close(logits(model, longer, use_cache=False)[:, :LENGTH], full, rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_bias_is_added_in_float32_to_half_precision_queries(variant):
    """For the baseline's kernel as for the variants'."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 40, 16, generator=generator).bfloat16() for _ in range(3))
    bias = 8 * torch.randn(1, 3, 40, 40, generator=generator)
    inputs = Inputs(query, key, value, None, bias, True, 0.25, 0.0)
    bound = BoundVariant.of(VARIANTS[variant])
    got, _, ran = dispatch.attend(inputs, bound, "auto")
    exact = replace(inputs, query=query.double(), key=key.double(), value=value.double())
    expected, _ = reference.reference(exact, bound)
    assert ran != "reference"
    assert (got.double() - expected).norm() / expected.norm() < 2.5e-3  # bfloat16's rounding of the output


@pytest.mark.parametrize("heads", [4, 12, 32])
def test_alibis_slopes_outlive_half_precision(heads):
    steps = torch.arange(100.0)
    assert torch.equal(Alibi(heads).bfloat16().by_distance(steps), Alibi(heads).by_distance(steps))
