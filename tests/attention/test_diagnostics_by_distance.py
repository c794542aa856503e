"""Attention by the distance of a key and by the keys that a query sees, in models of language."""

import itertools
import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForMaskedLM

from finetune.attention.diagnostics import distances
from finetune.attention.diagnostics.recorder import Recorder, layers_json
from finetune.attention.diagnostics.statistics import compared, row_statistics, summarize, take
from finetune.attention.kernels.inputs import Inputs
from finetune.attention.swap import attention_layers, swap
from finetune.positions import POSITIONS
from tests.attention.test_diagnostics import SA, SOFTMAX, call, mean, numbers, row_by_hand, terms_of_entropy
from tests.support.decoders import HEADS, LENGTH, decoder, tokens

CLOSE = {"rel": 2e-4, "abs": 1e-6}


def bucket_of(number):
    """The least number of its bucket."""
    return next(start for start in (64, 32, 16, 8, 4, 2, 1, 0) if start <= number)


def test_buckets_double():
    starts = [distances.start(int(number)) for number in distances.bucket(torch.arange(20))]
    assert starts == [bucket_of(number) for number in range(20)]
    far = torch.tensor([2**20 - 1, 2**20, 2**24 + 1, 2**40 - 1, 2**40])
    assert [distances.start(int(n)) for n in distances.bucket(far)] == [2**19, 2**20, 2**24, 2**39, 2**40]
    values = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    buckets = torch.tensor([[0, 2, 2], [1, 0, 1]])
    assert distances.sums(values, buckets).tolist() == [[1, 0, 6], [16, 40, 0]]
    assert distances.sums(values[:0], buckets[:0]).shape == (0, 0)


def rows_by_hand(inputs, upstream, table, decodes):
    """Of each row that counts: the place of its query, the keys it sees, and what ``row_by_hand`` says."""
    for b, h, i in itertools.product(range(3), range(4), (0, 2, 4, 6, 8)):
        seen = [j for j in range(9) if inputs.allowed[b, 0, 0, j] and (j <= i or not decodes)]
        if len(seen) > 1 and i in seen:
            key, value = inputs.key[b, h // 2, seen], inputs.value[b, h // 2, seen]
            x = key @ inputs.query[b, h, i] * inputs.scaling + table[h, [abs(i - j) for j in seen]]
            yield h, i, seen, row_by_hand(x.tolist(), (value @ upstream[b, i, h]).tolist())


@pytest.mark.parametrize(
    ("kind", "written_out"), list(itertools.product(["decoder", "encoder"], [True, False]))
)
def test_numbers_by_distance_are_those_of_single_rows(kind, written_out):
    """With grouped keys, a bias by distance, padded keys and thinned queries, row by row in plain Python."""
    allowed = torch.ones(3, 1, 1, 9, dtype=torch.bool)
    allowed[1, ..., 6:] = False
    table = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    whole = table[:, (torch.arange(9)[:, None] - torch.arange(9)).abs()][None]
    line = torch.cat([table.flip(-1), table[:, 1:]], dim=-1)
    inputs, upstream = call(
        query_len=9, key_len=9, allowed=allowed, causal=kind == "decoder", scale=4.0,
        **{"bias": whole} if written_out else {"by_distance": line},
    )  # fmt: skip
    found = numbers(inputs, upstream, kind=kind, queries=5)
    pairs, rows, of_keys = (defaultdict(lambda: defaultdict(list)) for _ in range(3))
    for h, i, seen, (p, weights, gradients) in rows_by_hand(inputs, upstream, table, kind == "decoder"):
        terms, sums = terms_of_entropy(weights), defaultdict(lambda: [0.0] * 3)
        for k, j in enumerate(seen):
            start = bucket_of(abs(i - j))
            pairs[start]["bias"].append(float(table[h, abs(i - j)]))
            for name, gradient in gradients.items():
                pairs[start][name].append(abs(gradient[k]))
            sums[start] = [s + t for s, t in zip(sums[start], (weights[k], p[k], terms[k]), strict=True)]
        for start, values in sums.items():
            for name, value in zip(("weight", "softmax", "entropy"), values, strict=True):
                rows[start][name].append(value)
        apart = sum(abs(w / sum(weights) - q) for w, q in zip(weights, p, strict=True)) / 2
        for name, value in (("row_sum", sum(weights)), ("entropy", sum(terms)), ("to_softmax", apart)):
            of_keys[bucket_of(len(seen))][name].append(value)
    assert [each["start"] for each in found["by_distance"]] == sorted(rows)
    for each in found["by_distance"]:
        there, by_row = pairs[each["start"]], rows[each["start"]]
        assert (each["keys"], each["rows"]) == (len(there["bias"]), len(by_row["weight"]))
        for name in by_row:
            assert each[name] == pytest.approx(mean(by_row[name]), **CLOSE), (each["start"], name)
        assert each["bias"] == pytest.approx(mean(there["bias"]), **CLOSE)
        for name, key in (("softmax", "softmax"), ("sa-softmax", "sa")):
            assert each["reach"][name] == pytest.approx(mean(there[key]), **CLOSE), (each["start"], name)
    assert [each["start"] for each in found["by_keys"]] == sorted(of_keys)
    for each in found["by_keys"]:
        by_row = of_keys[each["start"]]
        assert each["rows"] == len(by_row["row_sum"])
        for name in by_row:
            assert each[name] == pytest.approx(mean(by_row[name]), **CLOSE), (each["start"], name)


def made(bias, variant=SA):
    """Numbers of one head whose scores are ``bias`` by distance, and nothing else; no loss."""
    count = bias.shape[-1]
    zeros = torch.zeros(1, 1, count, 2)
    line = torch.cat([bias.flip(-1), torch.zeros(count - 1)])[None].float()
    inputs = Inputs(zeros, zeros, zeros, None, None, True, 1.0, 0.0, line)
    variants = compared([variant])
    return summarize(row_statistics(take(inputs, "decoder", 1, count), None, variant, variants), variants)


def test_sa_softmax_tends_to_softmax_with_length_under_alibi_and_not_under_kerple():
    """Of scores -s d a row of sa-softmax sums to 1 - E[d] / (n - 1), and E[d] is 1 / (e^s - 1) at most; of
    -log(1 + d) it is 1 - E[log(1 + d)] / log n, which tends to a half."""
    steps = torch.arange(1024, dtype=torch.float64)
    alibi, kerple = made(-0.5 * steps), made(-torch.log1p(steps))
    for found, scores in ((alibi, -0.5 * steps), (kerple, -torch.log1p(steps))):
        for each in found["by_keys"]:
            sums = []
            for n in range(each["start"], min(2 * each["start"], 1025)):
                p = scores[:n].softmax(0)
                sums.append(float(1 - (p * scores[:n]).sum() / scores[n - 1]))
            assert each["row_sum"] == pytest.approx(mean(sums), rel=1e-4)
    last = alibi["by_keys"][-1], kerple["by_keys"][-1]
    assert [each["start"] for each in last] == [1024, 1024]
    assert last[0]["row_sum"] == pytest.approx(1 - 1 / math.expm1(0.5) / 1023, abs=1e-4)
    assert 0.4 < last[1]["row_sum"] < 0.6
    assert last[0]["to_softmax"] < 0.01 and last[1]["to_softmax"] > 0.1
    plain = made(-0.5 * steps, SOFTMAX)
    assert all(each["row_sum"] == pytest.approx(1.0) for each in plain["by_keys"])
    assert all(each["to_softmax"] == pytest.approx(0.0, abs=1e-6) for each in plain["by_keys"])


def looked(model, inputs, labels):
    """One pass of ``model``: what is recorded of its layers, and the weights of those by the definition."""
    recorder = Recorder(model)
    recorder.start()
    loss = nn.functional.cross_entropy(model(**inputs).logits.flatten(0, 1), labels.flatten())
    loss.backward()
    layers = layers_json(recorder, [recorder.stop()])
    with torch.no_grad():
        attentions = model(**inputs, output_attentions=True).attentions
    return layers, attentions


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "sa-softmax-raw"])
@pytest.mark.parametrize("name", POSITIONS)
def test_every_encoding_of_a_decoder(name, variant):
    """What is recorded are the weights that the model computes, bias and all; and it has a gradient."""
    model, ids = decoder(name, variant), tokens()
    layers, attentions = looked(model, {"input_ids": ids}, tokens(1))
    steps = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).expand(2, HEADS, -1, -1)[:, :, 1:]
    for layer, whole in zip(layers, attentions, strict=True):
        weights = whole[:, :, 1:]  # the first query sees one key
        assert layer["row_sum"]["mean"] == pytest.approx(float(weights.sum(-1).mean()), rel=1e-4)
        assert [each["start"] for each in layer["by_distance"]] == [0, 1, 2, 4, 8, 16]
        for each in layer["by_distance"]:
            there = (steps >= each["start"]) & (steps < max(2 * each["start"], 1))
            rows = there.any(-1)
            assert (each["keys"], each["rows"]) == (int(there.sum()), int(rows.sum()))
            expected = float((weights * there).sum() / rows.sum())
            assert each["weight"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
            assert ("bias" in each) is bool(POSITIONS[name].module)
        assert layer["norm"]["softmax"]["all"] > 0 and layer["norm"][variant]["all"] > 0
        assert all(norm > 0 for norm in layer["gradient"].values())


@pytest.mark.parametrize(("name", "expected"), [
    ("kerple", {"p": HEADS, "a": HEADS}), ("kerple-power", {"p": HEADS, "a": HEADS}),
    ("dape-kerple", {"p": HEADS, "a": HEADS}), ("fire", {"c": 1, "m": 1}),
    ("alibi", None), ("t5", None), ("rope", None),
])  # fmt: skip
def test_learned_numbers_of_an_encoding(name, expected):
    model = decoder(name)
    layers, _ = looked(model, {"input_ids": tokens()}, tokens(1))
    for index, layer in enumerate(layers):
        found = layer.get("learned")
        assert (found and {key: len(values) for key, values in found.items()}) == expected
        position = getattr(model.gpt_neox.layers[index].attention, "position", None)
        for key, values in (found or {}).items():
            assert values == pytest.approx(getattr(position, key).detach().flatten().tolist())


def test_a_number_of_an_encoding_that_is_none():
    model = decoder("fire")
    with torch.no_grad():
        model.gpt_neox.layers[0].attention.position.c.fill_(math.nan)
    recorder = Recorder(model)
    recorder.start()
    model(tokens())
    assert layers_json(recorder, [recorder.stop()])[0]["learned"]["c"] == [None]


@pytest.mark.parametrize("variant", ["softmax", "sa-softmax"])
def test_masked_language_models(variant):
    """Every query sees before and behind it; padding takes no part."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        initializer_range=0.3,
    )  # fmt: skip
    model = BertForMaskedLM(config).eval()
    swap(model, variant)
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    mask[1, 17:] = 0
    labels = torch.where(mask.bool() & (torch.arange(LENGTH) % 5 == 0), tokens(1), -100)
    layers, attentions = looked(model, {"input_ids": tokens(), "attention_mask": mask}, labels)
    steps = (torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)).abs()
    real = (mask[:, None, :, None] & mask[:, None, None]).bool().expand(2, 3, -1, -1)
    for layer, weights in zip(layers, attentions, strict=True):
        assert layer["kind"] == "encoder"
        assert [(each["start"], each["rows"]) for each in layer["by_keys"]] == [(16, 3 * (LENGTH + 17))]
        for each in layer["by_distance"]:
            there = real & (steps >= each["start"]) & (steps < max(2 * each["start"], 1))
            assert (each["keys"], each["rows"]) == (int(there.sum()), int(there.any(-1).sum()))
            expected = float((weights * there).sum() / there.any(-1).sum())
            assert each["weight"] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_cross_attention_has_no_distances():
    inputs, upstream = call(query_len=7, key_len=7)
    found = numbers(inputs, upstream, kind="cross")
    assert "by_distance" not in found and found["by_keys"][0]["start"] == 4


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that is made."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        base = result.untyped_storage().nbytes() // result.element_size() if isinstance(result, Tensor) else 0
        self.count = max(self.count, base)
        return result


def test_memory_is_linear_in_the_length():
    """A bias by distance and a causal mask are written out for the chosen queries of one batch row alone."""
    length, queries = 3000, 9
    inputs, upstream = call(batch=2, query_len=length, key_len=length, causal=True,
                            by_distance=-torch.rand(4, 2 * length - 1))  # fmt: skip
    with Largest() as largest:
        part = take(inputs, "decoder", 2, queries)
        kept = part.of_output(upstream)
        for row, one in enumerate(part.by_row()):
            row_statistics(one, kept[row : row + 1], SA, compared([SA]))
    assert largest.count <= 2 * 4 * queries * length < length * length


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler looks at what torch warns of
def test_a_compiled_model_is_looked_at_uncompiled():
    """No hook hears of tensors inside a compiled graph."""
    model, ids, labels = decoder("kerple"), tokens(), tokens(1).flatten()
    expected, _ = looked(model, {"input_ids": ids}, tokens(1))
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    compiled, recorder = torch.compile(model, backend=backend), Recorder(model)

    def passed():
        nn.functional.cross_entropy(compiled(ids).logits.flatten(0, 1), labels).backward()

    passed()
    before = len(graphs)
    recorder.start()
    passed()
    found = layers_json(recorder, [recorder.stop()])
    assert len(graphs) == before > 0
    for one, other in zip(found, expected, strict=True):
        assert one["gradient"] == pytest.approx(other["gradient"], rel=1e-4)
    assert not any(layer.watchers for layer in attention_layers(model).values())
    passed()
    torch._dynamo.reset()
