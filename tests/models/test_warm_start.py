"""Starts of a swapped model: what calibration measures and folds, how annealing ends, what a run keeps."""

import re
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

import finetune
from finetune.attention import VARIANTS, Variant, calibrate, functions
from finetune.attention.annealing import Annealing
from finetune.attention.swap import attention_layers, blend, swap
from finetune.errors import UserError
from finetune.records import store
from tests.support.resumed import kept_at, same_end
from tests.support.small_runs import folder, predict, run
from tests.support.tiny_models import FAMILIES, PAD, batch, kept_logits, names
from tests.support.trained import GRID

SA = ["--attention", "sa-softmax"]
CALIBRATED = [*SA, "--attention.start", "calibrated"]
ANNEALED = [*SA, "--attention.start", "annealed", "--attention.annealing_share", "0.5"]


def scaled_softmax(scores, allowed=None):
    """softmax with rows that sum to another number in every head: what calibration can undo exactly."""
    heads = scores.shape[1]
    return functions.softmax(scores, allowed) * torch.linspace(0.4, -1.7, heads).reshape(-1, 1, 1)


@pytest.fixture
def scaled(monkeypatch):
    variant = Variant("scaled", scaled_softmax, "none", "none", "none")
    monkeypatch.setitem(VARIANTS, "scaled", variant)


def built(family, variant="sa-softmax"):
    model = FAMILIES[family].build()
    swap(model, variant)
    return model


@pytest.mark.parametrize("family", names())
def test_calibration_undoes_what_is_only_a_matter_of_scale(family, scaled):
    """Heads apart, grouped keys, transposed and shared projections: the outputs are softmax's again."""
    kind = FAMILIES[family].kind
    inputs = batch(kind)
    wanted = kept_logits(built(family, "softmax"), inputs, kind)
    model = built(family, "scaled")
    assert not torch.allclose(kept_logits(model, inputs, kind), wanted, rtol=1e-2, atol=1e-2)
    sums = calibrate.row_sums(model, [inputs])
    assert sums.keys() == attention_layers(model).keys()
    for values in sums.values():
        assert values == pytest.approx(torch.linspace(0.4, -1.7, len(values)).tolist(), rel=1e-5)
    calibrate.fold(model, sums)
    torch.testing.assert_close(kept_logits(model, inputs, kind), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "llama", "marian"])
def test_row_sums_are_those_of_tokens_under_softmax(family):
    """Padding does not count, the model computes softmax meanwhile, and nothing is left behind."""
    kind = FAMILIES[family].kind
    model = built(family).train()
    inputs = batch(kind)
    found = calibrate.row_sums(model, [inputs, inputs])
    assert model.training
    assert all(s.blend.share == 1.0 and s.watchers == [] for s in attention_layers(model).values())
    model.eval()
    blend(model, 0.0)
    calls = watched(model)
    totals, counts = {name: torch.zeros(len(values)) for name, values in found.items()}, Counter()
    for row in range(len(inputs["input_ids"])):
        kept = inputs["attention_mask"][row].bool()
        alone = {key: value[row : row + 1] for key, value in inputs.items()}
        model(**alone | {key: alone[key][:, kept] for key in ("input_ids", "attention_mask")})
        for name, setting in attention_layers(model).items():
            call = calls[name]
            keys = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], 1)
            scores = call.query @ keys.transpose(-1, -2) * call.scaling
            totals[name] += setting.variant.weigh(scores, call.all_allowed()).sum((0, 2, 3)).detach()
            counts[name] += scores.shape[-2]
    for name, values in found.items():
        assert values == pytest.approx((totals[name] / counts[name]).tolist(), rel=1e-4), name


def test_row_sums_of_a_decoder_leave_out_padded_targets():
    """Trainer gives a decoder no mask: a batch says by its labels which targets are padding."""
    model, inputs = built("marian"), batch("seq2seq")
    kept = [6, 4, 1]
    targets = inputs["decoder_input_ids"]
    labels = targets.masked_fill(torch.arange(targets.shape[1]) >= torch.tensor(kept)[:, None], -100)
    together = calibrate.row_sums(model, [inputs | {"labels": labels}])
    other = targets.masked_fill(labels < 0, PAD + 5)
    again = calibrate.row_sums(model, [inputs | {"labels": labels, "decoder_input_ids": other}])
    without = calibrate.row_sums(model, [inputs])
    for name, values in together.items():
        assert again[name] == pytest.approx(values, rel=1e-5), name
        assert (".encoder." in name) == (without[name] == pytest.approx(values, rel=1e-5)), name


def watched(model):
    """The inputs of each attention module's latest call, filled in as the model is called."""
    calls = {}
    for name, setting in attention_layers(model).items():
        setting.watchers.append(lambda inputs, output, name=name: calls.update({name: inputs}))
    return calls


def test_calibration_brings_the_model_nearer_to_its_origin():
    model, inputs = built("bert"), batch("encoder")
    origin, cold = (calibrate.pooled(model, [inputs], share) for share in (0.0, 1.0))
    calibrate.fold(model, calibrate.row_sums(model, [inputs]))
    started = calibrate.pooled(model, [inputs], 1.0)
    assert calibrate.cosine(cold, origin) < calibrate.cosine(started, origin) < 1


def test_pooled_states_leave_out_padding():
    model, inputs = built("bert"), batch("encoder")
    other = {**inputs, "input_ids": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, PAD + 5)}
    states = [calibrate.pooled(model, [given], 1.0) for given in (inputs, other)]
    torch.testing.assert_close(*states)


def test_a_row_sum_near_zero_is_not_inverted():
    model = built("bert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sums = calibrate.row_sums(model, [batch("encoder")])
    name = next(reversed(sums))
    with pytest.raises(UserError, match=r"mean row sum 0\.01 of a head of .*2.*use cold or annealed"):
        calibrate.fold(model, sums | {name: [0.5, -0.7, 0.01]})
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("variant", ["sa-softmax", "sa-softmax-raw"])
def test_the_blend_goes_from_softmax_to_exactly_the_variant(family, variant):
    kind = FAMILIES[family].kind
    inputs, model = batch(kind), built(family, variant)
    exactly = kept_logits(model, inputs, kind)
    blend(model, 0.0)
    wanted = kept_logits(built(family, "softmax"), inputs, kind)
    torch.testing.assert_close(kept_logits(model, inputs, kind), wanted, rtol=1e-5, atol=1e-5)
    blend(model, 1.0)
    assert torch.equal(kept_logits(model, inputs, kind), exactly)


def test_a_blend_mixes_the_weights():
    inputs, model = batch("encoder"), built("bert")
    first = {}
    for share in (0.0, 1.0, 0.25):
        blend(model, share)
        first[share] = model(**inputs, output_attentions=True).attentions[0]
    torch.testing.assert_close(first[0.25], 0.25 * first[1.0] + 0.75 * first[0.0])


def test_annealing_follows_the_number_of_the_step():
    model, callback, shares = built("bert"), Annealing(0.3), []
    for step in range(10):
        callback.on_step_begin(None, SimpleNamespace(global_step=step, max_steps=10), None, model=model)
        shares.append(next(iter(attention_layers(model).values())).blend.share)
    assert shares == pytest.approx([0, 1 / 3, 2 / 3, *[1] * 7]) and shares[3:] == [1.0] * 7
    callback.on_step_begin(None, SimpleNamespace(global_step=0, max_steps=1), None, model=model)
    callback.on_train_end(None, None, None, model=model)
    assert {setting.blend.share for setting in attention_layers(model).values()} == {1.0}


@pytest.fixture(scope="module")
def starts(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("starts")
    shutil.copytree(trained("classify", *GRID), root, dirs_exist_ok=True)
    for options in (CALIBRATED, ANNEALED):
        assert run("classify", root, *options) == 0
    return root


ARMS = ("softmax", "sa-softmax", "sa-softmax-calibrated", "sa-softmax-annealed0.5")


@pytest.mark.slow
def test_a_run_records_its_start_and_what_the_untrained_model_scores(starts):
    found = {arm: store.read(folder("classify", starts, arm)) for arm in ARMS}
    for entry in found.values():
        assert entry["untrained"]["split"] == "validation" and entry["untrained"]["rows"] == 12
        assert 0 <= entry["untrained"]["accuracy"] <= 1 and 1 < entry["untrained"]["loss"] < 2
    begun = {arm: entry["attention"]["start"] for arm, entry in found.items()}
    assert begun["softmax"] is None
    kinds = [begun[arm]["kind"] for arm in ARMS[1:]]
    assert kinds == ["cold", "calibrated", "annealed"]
    assert len({str(begun[arm]["row_sums"]) for arm in ARMS[1:]}) == 1  # measured before anything is folded
    assert len({begun[arm]["cosine_cold"] for arm in ARMS[1:]}) == 1
    assert begun["sa-softmax"]["cosine"] == begun["sa-softmax"]["cosine_cold"] < 1
    assert begun["sa-softmax-annealed0.5"]["cosine"] == pytest.approx(1)
    assert all(0 < value < 1 for values in begun["sa-softmax"]["row_sums"].values() for value in values)
    losses = {entry["untrained"]["loss"] for arm, entry in found.items()}
    assert len(losses) == 3  # softmax; cold and, swapped at once, annealed; calibrated
    assert len({entry["model"]["initial_weights"] for entry in found.values()}) == 1  # all can be paired


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS[2:])
def test_a_started_run_loads_as_exactly_the_variant(starts, arm):
    where = folder("classify", starts, arm)
    model, answers = predict(where)
    assert answers == {row["row"]: row["prediction"] for row in store.read_predictions(where)}
    assert {s.blend.share for s in attention_layers(model).values()} == {1.0}
    assert {s.variant.name for s in attention_layers(model).values()} == {"sa-softmax"}


@pytest.mark.slow
def test_calibrated_adapters_load_with_their_calibration(trained, tmp_path):
    base = folder("classify", trained("classify", *GRID))
    lora = ["--model", str(base), "--model.lora.rank", "3", "--train.learning_rate", "1e-2"]
    assert run("classify", tmp_path / "lora", *CALIBRATED, *lora) == 0
    where = next((tmp_path / "lora").glob("*/*lora3/sa-softmax-calibrated/seed-0"))
    model, answers = predict(where)
    assert answers == {row["row"]: row["prediction"] for row in store.read_predictions(where)}
    sums = store.read(where)["attention"]["start"]["row_sums"]
    first, values = next(iter(sums.items()))
    loaded = calibrate.output_projections(model.get_base_model())[first].weight
    plain = finetune.load(base)[0].get_submodule("bert.encoder.layer.0.attention.output.dense").weight
    width = plain.shape[1] // len(values)
    torch.testing.assert_close(loaded[:, :width], plain[:, :width] / values[0])


@pytest.mark.slow
def test_a_killed_annealed_run_resumes_to_the_same_numbers(tmp_path, monkeypatch):
    """Killed while the weights are still a blend."""
    options = [*ANNEALED, "--train.save_strategy", "steps", "--train.save_steps", "5"]
    arm = "sa-softmax-annealed0.5"
    whole, killed = (folder("classify", tmp_path / name, arm) for name in ("whole", "killed"))
    kept_at(5, whole, killed, monkeypatch)
    assert run("classify", tmp_path / "whole", *options) == 0
    assert store.read(killed)["status"] == "running"
    assert run("classify", tmp_path / "killed", *options) == 0
    same_end(whole, killed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attention.start", "warm"], "cold.*calibrated.*annealed"),
        (["--attention.start", "annealed", "--attention.annealing_share", "null"], "needs .*annealing_share"),
        (["--attention.start", "annealed", "--attention.annealing_share", "0"], "annealing_share: .*greater"),
        (
            ["--attention.start", "annealed", "--train.load_best_model_at_end", "true"],
            "annealed ends at the variant",
        ),
    ],
)
def test_a_start_that_cannot_be_is_one_line(tmp_path, capsys, options, message):
    assert run("classify", tmp_path, *SA, *options, "--train.save_strategy", "epoch") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error), error
