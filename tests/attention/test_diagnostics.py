"""Looking at attention: the numbers are right, they cover every kind of call, and looking changes nothing."""

import itertools
import json
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from finetune.attention import VARIANTS
from finetune.attention.diagnostics.recorder import Layer, Recorder, layers_json
from finetune.attention.diagnostics.statistics import (
    GROUPS,
    compared,
    row_statistics,
    score_gradient,
    summarize,
    take,
)
from finetune.attention.interface import LAYER, LayerAttention, attention
from finetune.attention.kernels.inputs import BoundVariant, Inputs
from finetune.attention.swap import attention_layers, swap
from tests.support import tiny_models
from tests.support.nested import flat

SA, RAW, SOFTMAX = (BoundVariant.of(VARIANTS[name]) for name in ("sa-softmax", "sa-softmax-raw", "softmax"))


def call(*, batch=3, heads=4, key_heads=2, query_len=7, key_len=7, scale=3.0, **options):
    """Random inputs of one call, scores with a standard deviation of about ``scale``; and dLoss/dOutput."""
    draw = torch.Generator().manual_seed(5)
    query = torch.randn(batch, heads, query_len, 6, generator=draw) * scale
    key, value = (torch.randn(batch, key_heads, key_len, width, generator=draw) for width in (6, 5))
    defaults = {"allowed": None, "bias": None, "causal": False, "scaling": 6**-0.5, "dropout": 0.0}
    upstream = torch.randn(batch, query_len, heads, 5, generator=draw)
    return Inputs(query, key, value, **{**defaults, **options}), upstream


def numbers(inputs, upstream, variant=SA, *, kind="encoder", rows=8, queries=128):
    """The statistics of one call."""
    part = take(inputs, kind, rows, queries)
    variants = compared([variant])
    kept = None if upstream is None else part.of_output(upstream)
    return summarize(row_statistics(part, kept, variant, variants), variants)


def row_by_hand(x, da):
    """Of one row of scores x and dLoss/dweights: softmax, the weights of sa-softmax, and dLoss/dx by both."""
    p = [math.exp(v - max(x)) / sum(math.exp(u - max(x)) for u in x) for v in x]
    low, high = min(*x, 0.0), max(*x, 0.0)
    size = high - low + 1e-6
    g = [(v - low) / size for v in x]
    a = [s * t for s, t in zip(g, p, strict=True)]
    d1, d0 = (sum(w * d for w, d in zip(weights, da, strict=True)) for weights in (a, p))
    plain = [q * (d - d0) for q, d in zip(p, da, strict=True)]
    sa = [q * (d * (1 / size + h) - d1) for q, d, h in zip(p, da, g, strict=True)]
    for k, v in enumerate(x):
        sa[k] += (d1 - d0) / size if v == min(x) < 0 else 0.0
        sa[k] -= d1 / size if v == max(x) > 0 else 0.0
    return p, a, {"softmax": plain, "sa": sa}


def by_hand(rows):
    """The same from a list of (scores, dLoss/dweights) of single rows, by the formulas, for sa-softmax."""
    found = {"reach": {n: {g: [] for g in GROUPS} for n in ("softmax", "sa")}}
    found |= {"sums": [], "entropy": [], "above": 0, "below": 0, "ranges": []}
    for x, da in rows:
        p, a, gradients = row_by_hand(x, da)
        for k, q in enumerate(p):
            there = {"saturated": q > 0.99, "suppressed": q < 0.01, "faint": q * len(x) < 0.01, "all": True}
            for name, group in itertools.product(gradients, GROUPS):
                found["reach"][name][group] += [abs(gradients[name][k])] * there[group]
        found["sums"].append(sum(a))
        found["ranges"].append(max(x) - min(x))
        found["above"] += sum(w > 0.99 for w in a)
        found["below"] += sum(w < 0.01 for w in a)
        found["entropy"].append(sum(terms_of_entropy(a)))
    return found


def terms_of_entropy(weights):
    shares = [w / sum(weights) for w in weights]
    return [-s * math.log(s) if s > 0 else 0.0 for s in shares]


def mean(values):
    return sum(values) / len(values)


def same(one, other):
    """Equal but for rounding in another order."""
    first, second = flat(one), flat(other)
    gaps = [{name for name, value in each.items() if value is None} for each in (first, second)]
    filled = [{name: value or 0.0 for name, value in each.items()} for each in (first, second)]
    return gaps[0] == gaps[1] and filled[0] == pytest.approx(filled[1], rel=1e-5, abs=2e-6)


def test_statistics_are_those_of_the_formulas():
    """With grouped keys, a bias, a causal mask and padded keys, row by row in plain Python."""
    allowed = torch.ones(3, 1, 1, 7, dtype=torch.bool)
    allowed[1, ..., 5:] = False
    bias = torch.randn(1, 4, 7, 7, generator=torch.Generator().manual_seed(2))
    inputs, upstream = call(allowed=allowed, bias=bias, causal=True, scale=6.0)
    rows = []
    for b in range(3):
        for h in range(4):
            for i in range(1, 5 if b == 1 else 7):  # the first query sees one key only
                key, value = inputs.key[b, h // 2, : i + 1], inputs.value[b, h // 2, : i + 1]
                scores = key @ inputs.query[b, h, i] * inputs.scaling + bias[0, h, i, : i + 1]
                rows.append((scores.tolist(), (value @ upstream[b, i, h]).tolist()))
    found, expected = numbers(inputs, upstream, kind="decoder"), by_hand(rows)
    every = [value for x, _ in rows for value in x]
    close = {"rel": 1e-3, "abs": 1e-6}
    assert found["counts"] == {g: len(v) for g, v in expected["reach"]["softmax"].items()}
    assert min(found["counts"].values()) > 10
    assert found["weights"]["above"] == pytest.approx(expected["above"] / len(every), **close)
    assert found["weights"]["below"] == pytest.approx(expected["below"] / len(every), **close)
    assert found["weights"]["negative"] == 0.0
    assert found["weights"]["entropy"] == pytest.approx(mean(expected["entropy"]), **close)
    sums = torch.tensor(expected["sums"])
    assert found["row_sum"]["mean"] == pytest.approx(float(sums.mean()), **close)
    assert found["row_sum"]["sd"] == pytest.approx(float(sums.std(correction=0)), **close)
    assert found["row_sum"]["quantiles"][::3] == pytest.approx(
        [float(sums.min()), float(sums.median()), float(sums.max())], rel=0.02
    )
    assert found["row_sum"]["quantiles"] == sorted(found["row_sum"]["quantiles"])
    assert [found["score"]["min"], found["score"]["max"]] == pytest.approx([min(every), max(every)], **close)
    assert found["score"]["range"] == pytest.approx(mean(expected["ranges"]), **close)
    for name, key in (("softmax", "softmax"), ("sa-softmax", "sa")):
        for group, values in expected["reach"][key].items():
            assert found["reach"][name][group] == pytest.approx(mean(values), **close), (name, group)
            norm = math.hypot(*values)
            assert found["norm"][name][group] == pytest.approx(norm, **close), (name, group)


def test_raw_weights_can_be_negative_and_keep_their_gradient_where_softmax_loses_it():
    inputs, upstream = call(scale=12.0)
    found = numbers(inputs, upstream, RAW)
    assert set(found["reach"]) == {"softmax", "sa-softmax", "sa-softmax-raw"}
    assert 0.02 < found["weights"]["negative"] < 0.98
    scores = inputs.query @ inputs.key.repeat_interleave(2, 1).transpose(-1, -2) * inputs.scaling
    shares = nn.functional.normalize(scores * scores.softmax(-1), p=1, dim=-1).abs()
    entropy = torch.special.entr(shares).sum(-1).mean()
    assert found["weights"]["entropy"] == pytest.approx(float(entropy), rel=1e-4)
    assert found["reach"]["sa-softmax-raw"]["saturated"] > 20 * found["reach"]["softmax"]["saturated"]


def test_the_gradient_of_scores_is_that_of_the_whole_attention():
    """dO V^T through the weights, against autograd through scores, weights and values."""
    inputs, upstream = call(key_heads=4)
    scores = (inputs.query @ inputs.key.transpose(-1, -2) * inputs.scaling).requires_grad_()
    output = (SA.weigh(scores, None) @ inputs.value).transpose(1, 2)
    (expected,) = torch.autograd.grad(output, scores, upstream)
    to_weights = upstream.transpose(1, 2) @ inputs.value.transpose(-1, -2)
    found = score_gradient(SA, scores, torch.ones_like(scores, dtype=torch.bool), to_weights)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_padding_does_not_count(kind):
    """A padded batch gives the numbers of its rows without padding; decoders' padding may be unmasked."""
    inputs, upstream = call(batch=1, query_len=5, key_len=5, causal=kind == "decoder")
    padded, more = call(batch=1, query_len=9, key_len=9, causal=kind == "decoder")
    for name in ("query", "key", "value"):
        getattr(padded, name)[:, :, :5] = getattr(inputs, name)
    more[:, :5] = upstream
    if kind == "encoder":
        object.__setattr__(padded, "allowed", (torch.arange(9) < 5)[None, None, None])
    else:
        more[:, 5:] = 0.0
    assert same(numbers(padded, more, kind=kind), numbers(inputs, upstream, kind=kind))
    if kind == "encoder":  # of which cross-attention has no such thing
        assert not same(numbers(padded, more, kind="cross"), numbers(inputs, upstream, kind=kind))


def test_rows_without_a_choice_do_not_count():
    inputs, upstream = call(query_len=1, key_len=4, allowed=torch.tensor([[[[True, False, False, False]]]]))
    found = numbers(inputs, upstream, kind="cross")
    assert found["counts"] == dict.fromkeys(GROUPS, 0)
    assert found["by_keys"] == [] and "by_distance" not in found
    assert found["extent"]["rows"] == found["extent"]["single"] == 3 * 4
    values = [v for part in ("weights", "score", "reach", "norm") for v in found[part].values()]
    values += found["row_sum"]["quantiles"] + [
        v for part in ("reach", "norm") for v in found[part]["softmax"].values()
    ]
    assert {v for v in values if not isinstance(v, dict)} == {None}
    json.dumps(found, allow_nan=False)


def test_narrow_rows_and_rows_of_one_key_are_counted_apart():
    """A decoder of two heads, the second with scores of 0; the first query of each sees one key."""
    inputs, upstream = call(batch=1, heads=2, key_heads=2, query_len=5, key_len=5, causal=True)
    inputs.query[:, 1] = 0.0
    inputs.query[0, 1, 4] = inputs.key[0, 1, 2] * 1e-4  # M - m is then above 0, and far below a thousandth
    upstream[:, 3] = 0.0  # padding
    found = numbers(inputs, upstream, kind="decoder")
    assert found["extent"] == {"rows": 8, "single": 2, "narrow": 4, "narrow_single": 1, "least": 0.0}
    assert found["counts"]["all"] == 2 * (2 + 3 + 5)
    scores = (inputs.query @ inputs.key.transpose(-1, -2) * inputs.scaling)[0]
    for variant in (SOFTMAX, SA):
        to_weights = upstream[0].transpose(0, 1) @ inputs.value[0].transpose(-1, -2)
        past = torch.ones(5, 5, dtype=torch.bool).tril()
        sizes = score_gradient(variant, scores, past, to_weights).abs()
        assert found["largest"][variant.name] == pytest.approx(float(sizes.max()), rel=1e-4)
    assert found["largest"]["softmax"] < 10 and found["largest"]["sa-softmax"] > 1e5
    whole = torch.linspace(-3e-4, 6e-4, 5).expand(1, 2, 5, 5)  # as a bias: what the scores then are
    found = numbers(*call(batch=1, heads=2, query_len=5, key_len=5, scale=0.0, bias=whole))
    assert found["extent"] == {
        "rows": 10, "single": 0, "narrow": 10, "narrow_single": 0, "least": pytest.approx(9e-4)
    }  # fmt: skip


def test_long_texts_are_thinned_to_evenly_spaced_queries():
    inputs, upstream = call(query_len=9, key_len=9, bias=torch.randn(1, 1, 9, 9), causal=True)
    part = take(inputs, "decoder", rows=2, queries=3)
    assert part.chosen.tolist() == [0, 4, 8]
    thin = numbers(inputs, upstream, kind="decoder", rows=2, queries=3)
    assert thin["counts"]["all"] == 2 * 4 * (5 + 9)  # the first query sees one key only
    upstream[:, [1, 2, 3, 5, 6, 7]] = 0.0  # in a decoder, what no loss depends on is padding
    assert same(numbers(inputs, upstream, kind="decoder", rows=2), thin)


def test_without_a_gradient_the_weights_are_still_looked_at():
    inputs, upstream = call()
    without, found = numbers(inputs, None), numbers(inputs, upstream)
    assert without["reach"]["softmax"] == without["norm"]["softmax"] == dict.fromkeys(GROUPS)
    gradients = {"reach": None, "norm": None, "largest": None}
    assert set(without["largest"].values()) == {None}
    for each in (*without["by_distance"], *found["by_distance"]):
        assert list(each.pop("reach")) == ["softmax", "sa-softmax", "sa-softmax-raw"]
    assert without | gradients == found | gradients


def passing(model, kind, recorder=None, scale=1.0, seed=3):
    """Loss and gradients of one training pass with dropout, and the layers where there is a recorder."""
    torch.manual_seed(seed)
    model.train()
    model.zero_grad()
    if recorder:
        recorder.start()
    inputs = tiny_models.batch(kind)
    output = model(**inputs)
    loss = output.logits.float().square().mean()
    (loss * scale).backward()
    layers = recorder.stop(scale) if recorder else []
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, layers, torch.get_rng_state()


FAMILIES = {"bert": 3, "albert": 3, "gpt2": 3, "llama": 3, "t5": 3 + 4, "bart": 3 + 4}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_recorded_pass_is_the_same_to_the_last_bit(family):
    chosen = tiny_models.FAMILIES[family]
    model = chosen.build()
    swap(model, "sa-softmax")
    recorder = Recorder(model)
    plain = passing(model, chosen.kind)
    loss, gradients, layers, state = passing(model, chosen.kind, recorder)
    assert torch.equal(loss, plain[0]) and torch.equal(state, plain[3])
    assert gradients.keys() == plain[1].keys()
    assert all(torch.equal(gradients[name], plain[1][name]) for name in gradients)
    assert not any(setting.watchers for setting in attention_layers(model).values())
    assert not model._forward_hooks

    found = layers_json(recorder, [layers])
    assert [layer["layer"] for layer in found] == list(range(FAMILIES[family]))
    kinds = {layer["kind"] for layer in found}
    assert kinds == ({"encoder", "decoder", "cross"} if chosen.kind == "seq2seq" else {chosen.kind})
    for layer in found:
        assert layer["module"] in attention_layers(model)
        assert all(norm > 0 for norm in layer["gradient"].values()), layer
        assert layer["counts"]["all"] > 0 and layer["reach"]["softmax"]["all"] > 0
    assert len({str(layer["gradient"]) for layer in found}) == len(found)


@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
def test_gradient_norms_are_those_of_autograd(family):
    chosen = tiny_models.FAMILIES[family]
    model = chosen.build()
    swap(model, "sa-softmax-raw")
    kept = []

    def keep(inputs, output):
        tensors = (inputs.query, inputs.key, inputs.value, output)
        for tensor in tensors:
            tensor.retain_grad()
        kept.append(tensors)

    for setting in attention_layers(model).values():
        setting.watchers.append(keep)
    recorder = Recorder(model)
    layers = passing(model, chosen.kind, recorder)[2]
    for layer, tensors in zip(layers_json(recorder, [layers]), kept, strict=True):
        assert list(layer["gradient"].values()) == pytest.approx([float(t.grad.norm()) for t in tensors])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["bert", "llama", "bart"])
def test_activation_checkpointing_gives_the_same_numbers(family, reentrant):
    """A layer runs again: in the reentrant form without a gradient the first time."""
    chosen = tiny_models.FAMILIES[family]
    model = chosen.build()
    swap(model, "sa-softmax")
    recorder = Recorder(model)
    expected = layers_json(recorder, [passing(model, chosen.kind, recorder)[2]])
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    found = layers_json(recorder, [passing(model, chosen.kind, recorder)[2]])
    for one, other in zip(found, expected, strict=True):
        named = {"module": other["module"], "kind": other["kind"]}
        assert {name: one[name] for name in named} == named
        assert same({**one, **dict.fromkeys(named)}, {**other, **dict.fromkeys(named)})


class Twice(nn.Module):
    """One attention module that is called twice, each time in a layer of its own."""

    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant, self.is_causal = nn.Linear(4, 4), reentrant, False
        setattr(self.inner, LAYER, LayerAttention(SA, "encoder", "reference"))

    def layer(self, x):
        heads = self.inner(x)[:, None]
        return attention(self.inner, heads, heads, x[:, None], None, is_causal=False)[0][:, :, 0].exp()

    def forward(self, x):
        for _ in range(2):
            layer = partial(checkpoint, self.layer, use_reentrant=True) if self.reentrant else self.layer
            x = layer(x)
        return x


def test_two_calls_of_one_module_that_run_again():
    found = []
    for reentrant in (False, True):
        torch.manual_seed(0)
        model = Twice(reentrant)
        recorder = Recorder(model)
        recorder.start()
        model(torch.randn(2, 5, 4, requires_grad=True)).square().sum().backward()
        found.append(layers_json(recorder, [recorder.stop()]))
    assert [layer["module"] for layer in found[1]] == ["inner", "inner"]
    assert found[0] == found[1]
    assert found[0][0]["gradient"] != found[0][1]["gradient"]


def test_a_scaled_loss_is_scaled_back():
    model = tiny_models.FAMILIES["bert"].build()
    swap(model, "sa-softmax")
    recorder = Recorder(model)
    one, other = (layers_json(recorder, [passing(model, "encoder", recorder, s)[2]]) for s in (1.0, 1024.0))
    assert one == other


def test_bfloat16_under_autocast():
    model = tiny_models.FAMILIES["bert"].build()
    swap(model, "sa-softmax")
    recorder = Recorder(model)
    expected = layers_json(recorder, [passing(model, "encoder", recorder)[2]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layers_json(recorder, [passing(model, "encoder", recorder)[2]])
    for one, other in zip(expected, found, strict=True):
        assert one["row_sum"]["mean"] == pytest.approx(other["row_sum"]["mean"], rel=0.05)
        assert one["gradient"]["output"] == pytest.approx(other["gradient"]["output"], rel=0.2)


def test_frozen_layers_and_a_scope():
    """Below what is trained no gradient comes back; outside of the scope plain softmax is looked at."""
    chosen = tiny_models.FAMILIES["bart"]
    model = chosen.build()
    swap(model, "sa-softmax", scope="decoder", parameters={"eps": 0.5})
    for parameter in [*model.model.shared.parameters(), *model.model.encoder.parameters()]:
        parameter.requires_grad_(False)
    recorder = Recorder(model)
    assert recorder.variant == "sa-softmax" and recorder.variants["sa-softmax"].parameters == {"eps": 0.5}
    found = layers_json(recorder, [passing(model, "seq2seq", recorder)[2]])
    for layer in found:
        plain = layer["kind"] != "decoder"
        assert (layer["row_sum"]["mean"] == pytest.approx(1.0)) is plain
        assert (layer["gradient"]["output"] is None) is (layer["kind"] == "encoder")
        assert layer["gradient"]["key"] is None or layer["kind"] != "encoder"
        assert layer["weights"]["entropy"] > 0


def test_layers_of_several_passes_are_one_sample():
    inputs, upstream = call(batch=4)
    model = nn.Module()
    recorder = Recorder(model)
    variants = recorder.variants
    layers = []
    for rows in (slice(0, 1), slice(1, 4), slice(0, 4)):
        part = {name: getattr(inputs, name)[rows] for name in ("query", "key", "value")}
        taken = take(Inputs(**part, allowed=None, bias=None, causal=False, scaling=0.4, dropout=0.0),
                     "encoder", 8, 128)  # fmt: skip
        columns = row_statistics(taken, upstream[rows], SOFTMAX, variants)
        layers.append(Layer("a", "encoder", 5, 1.0, {"query": 3.0 + (rows.start or 0)}, columns))
    (parts,), (whole,) = layers_json(recorder, [layers[:1], layers[1:2]]), layers_json(recorder, [layers[2:]])
    assert parts["gradient"]["query"] == 5.0 and parts["gradient"]["key"] is None
    for name in ("weights", "row_sum", "score", "counts", "reach", "norm", "by_keys", "by_distance"):
        assert same(parts[name], whole[name])
