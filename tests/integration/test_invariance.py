"""Losses, gradients and predictions do not depend on how rows are cut into batches."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.trainer_pt_utils import LabelSmoother

from finetune.attention import calibrate
from finetune.data.collate import longest_first
from finetune.models import warm_start
from finetune.training.trainer import summed_loss
from tests.support.cuts import CASES, Base, assert_same_answers, assert_the_same, save_base, texts

ROWS = 11
# One of each way to make a decoder's inputs, to pool, and to count positions; the others are exhaustive.
FEW = [
    ("classification", "roberta"),
    ("classification", "gpt2"),
    ("classification", "bart"),
    ("translation", "t5"),
    ("translation", "mbart"),
    ("translation", "m2m100"),
]


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Base]:
    @cache
    def make(kind: str, family: str, variant: str = "softmax", rank: int = 0) -> Base:
        folder = tmp_path_factory.mktemp(family)
        save_base(kind, family, folder)
        return Base(kind, folder, {"attention": {"variant": variant}, "model": {"lora": {"rank": rank}}})

    return make


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family"), FEW)
def test_a_step_does_not_depend_on_how_it_is_cut(kind: str, family: str, base_of: Any) -> None:
    """Two steps, the second of 3 rows, whose last batch has one; targets are of unequal lengths."""
    base = base_of(kind, family)
    rows = base.rows(texts(ROWS))
    for smoothing in (0.0, 0.1):
        whole = base.trained(rows, 8, label_smoothing_factor=smoothing)
        assert len(whole.losses) == 2
        assert_the_same(base.trained(rows, 2, 4, label_smoothing_factor=smoothing), whole)


@pytest.mark.exhaustive
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("count", [35, 97])
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_cut_of_every_family(
    kind: str, family: str, count: int, smoothing: float, base_of: Any
) -> None:
    """Steps of 32 rows, the last one of 3 rows, or of a single one."""
    base = base_of(kind, family, "sa-softmax")
    rows = base.rows(texts(count))
    order = "random" if count == 35 else "group_by_length"
    train = {"label_smoothing_factor": smoothing, "train_sampling_strategy": order}
    whole = base.trained(rows, 32, **train)
    assert len(whole.losses) == -(-count // 32)
    for per_batch, accumulated in ((8, 4), (2, 16)):
        assert_the_same(base.trained(rows, per_batch, accumulated, **train), whole)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`")
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_cut_of_adapters(kind: str, family: str, base_of: Any) -> None:
    base = base_of(kind, family, rank=2)
    rows = base.rows(texts(35))
    for smoothing in (0.0, 0.1):
        whole = base.trained(rows, 32, label_smoothing_factor=smoothing)
        assert_the_same(base.trained(rows, 8, 4, label_smoothing_factor=smoothing), whole)


@pytest.mark.parametrize(("kind", "family"), FEW)
def test_what_is_predicted_does_not_depend_on_the_evaluation(kind: str, family: str, base_of: Any) -> None:
    _hold_evaluations(base_of(kind, family), ROWS)


@pytest.mark.exhaustive
@pytest.mark.parametrize("variant", ["softmax", "sa-softmax", "sa-softmax-raw", "entmax15", "ssmax"])
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_evaluation_of_every_family(kind: str, family: str, variant: str, base_of: Any) -> None:
    _hold_evaluations(base_of(kind, family, variant), 40)


def _hold_evaluations(base: Base, count: int) -> None:
    """Batches of 1, 7 and all rows, in their order and longest first: loss, and logits or translations."""
    rows = base.rows(texts(count))
    wanted = base.answers(rows, per_device_eval_batch_size=1, label_smoothing_factor=0.1)
    for size in (7, 64):
        for order in (rows, longest_first(rows)):
            found = base.answers(order, per_device_eval_batch_size=size, label_smoothing_factor=0.1)
            assert_same_answers(found, wanted)


@pytest.mark.parametrize(("kind", "family"), FEW)
def test_a_calibration_does_not_depend_on_how_it_is_cut(kind: str, family: str, base_of: Any) -> None:
    """Row sums and mean states, in batches of 1, 5 and all rows: padding takes no part in either."""
    base = base_of(kind, family, "sa-softmax")
    rows = base.rows(texts(ROWS))
    found = []
    for size in (32, 5, 1):
        config = base.config(per_device_train_batch_size=size)
        batches = warm_start._batches(config, base.objective, base.built, rows)
        sums = calibrate.row_sums(base.built.base, batches)
        found.append((sums, calibrate.pooled(base.built.base, batches, 1.0)))
    for sums, states in found[1:]:
        assert sums == {name: pytest.approx(each, rel=1e-4) for name, each in found[0][0].items()}
        torch.testing.assert_close(states, found[0][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(7,), (3, 5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_one_batch_is_the_library_s(shape: tuple[int, ...], smoothing: float) -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(*shape, 9), torch.randint(0, 9, shape)
    labels.view(-1)[1] = -100
    wanted = LabelSmoother(smoothing)({"logits": logits}, labels)
    if not smoothing:
        torch.testing.assert_close(wanted, functional.cross_entropy(logits.view(-1, 9), labels.view(-1)))
    torch.testing.assert_close(summed_loss(logits, labels, smoothing) / (labels.numel() - 1), wanted)
