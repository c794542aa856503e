"""Options that say how the work is done: the same losses, weights and answers, dropout included."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from finetune.config.loading import merge
from finetune.training import trainer
from finetune.training.trainer import NonFiniteLossError
from tests.support.cuts import Base, Trained, assert_same_answers, assert_the_same, save_base, texts
from tests.support.small_runs import run

DROPOUT = {"model": {"dropout": 0.2}}
# In steps of 0.05 a T5 makes a difference of 4% out of one of 1e-7 in its weights, within four steps.
TWICE = {"num_train_epochs": 2, "learning_rate": 1e-3}
# How a step is computed, loaded, logged or kept.
SAME: dict[str, dict[str, Any]] = {
    "workers": {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 4},
    "checkpointing": {"activation_checkpointing": True},
    "reentrant": {
        "activation_checkpointing": True,
        "activation_checkpointing_kwargs": {"use_reentrant": True},
    },
    "checkpointing by its old name": {"gradient_checkpointing": True},
    "one device": {"average_tokens_across_devices": False},
    "cache": {"use_cache": True},
    "no cache": {"use_cache": False},
    "logged": {"logging_first_step": True, "logging_nan_inf_filter": False},
    "tokens": {"include_num_input_tokens_seen": "all"},
    "tokens without padding": {"include_num_input_tokens_seen": "non_padding"},
    "evaluated by parts": {"eval_accumulation_steps": 1},
    "saved": {"save_strategy": "steps", "save_steps": 1},
    "deterministic": {"full_determinism": True},
    "memory": {"skip_memory_metrics": False},
}
# What a step is, which no cut of it may change: 32 rows at once or 8 four times.
STEPS: dict[str, tuple[dict[str, Any], int]] = {
    "some steps": ({"max_steps": 3}, 3),
    "more than an epoch": ({"num_train_epochs": 1.5}, 3),
    "clipped": ({"max_grad_norm": 0.05}, 2),
    "in order": ({"train_sampling_strategy": "sequential"}, 2),
    "by length": ({"train_sampling_strategy": "group_by_length"}, 2),
    "smoothed by length": (
        {"train_sampling_strategy": "group_by_length", "label_smoothing_factor": 0.3},
        2,
    ),
    "checkpointed": ({"activation_checkpointing": True, "label_smoothing_factor": 0.1}, 2),
    "with workers": ({"dataloader_num_workers": 1}, 2),
}
FEW = {"workers", "checkpointing", "reentrant", "saved", "evaluated by parts", "clipped", "by length"}
FAMILIES = [("classification", "bert"), ("translation", "t5")]
every_family = pytest.mark.parametrize(("kind", "family"), FAMILIES)


def few_of(names: Any) -> list[Any]:
    """Names of options, of which few are tried every time; a worker is a process that imports torch."""
    slow = {"workers": pytest.mark.slow}
    return [
        pytest.param(name, marks=slow.get(name, ()) if name in FEW else pytest.mark.exhaustive)
        for name in names
    ]


@pytest.fixture(scope="module")
def base_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Base]:
    @cache
    def make(kind: str, family: str, dropout: bool, padding: str = "longest") -> Base:
        folder = tmp_path_factory.mktemp(family)
        save_base(kind, family, folder)
        return Base(kind, folder, merge(DROPOUT if dropout else {}, {"batches": {"padding": padding}}))

    return make


@pytest.fixture(scope="module")
def plain_of(base_of: Any) -> Callable[[str, str], tuple[Trained, Any]]:
    @cache
    def make(kind: str, family: str) -> tuple[Trained, Any]:
        base = base_of(kind, family, dropout=True)
        rows = base.rows(texts(11))
        return base.trained(rows, 4, 2, **TWICE), base.answers(rows)

    return make


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")
@every_family
@pytest.mark.parametrize("name", few_of(SAME))
def test_how_the_work_is_done_moves_no_number(
    kind: str, family: str, name: str, base_of: Any, plain_of: Any
) -> None:
    """Two epochs with dropout, the last batch of each an odd one."""
    base, (trained, answers) = base_of(kind, family, dropout=True), plain_of(kind, family)
    rows = base.rows(texts(11))
    assert_the_same(base.trained(rows, 4, 2, **TWICE, **SAME[name]), trained, 1e-4)
    assert_same_answers(base.answers(rows, **SAME[name]), answers)


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("name", few_of(STEPS))
def test_what_a_step_is_does_not_depend_on_how_it_is_cut(
    kind: str, family: str, name: str, base_of: Any
) -> None:
    base, (train, steps) = base_of(kind, family, dropout=False), STEPS[name]
    rows = base.rows(texts(35))
    whole = base.trained(rows, 32, **train)
    assert len(whole.losses) == steps
    assert_the_same(base.trained(rows, 8, 4, **train), whole)


@pytest.mark.slow
@every_family
def test_padding_to_the_limit_moves_no_number(kind: str, family: str, base_of: Any) -> None:
    near, far = (base_of(kind, family, False, padding) for padding in ("longest", "max_length"))
    rows = near.rows(texts(11))
    assert_the_same(far.trained(rows, 8), near.trained(rows, 8))
    assert_same_answers(far.answers(rows), near.answers(rows))


@pytest.mark.slow
@every_family
def test_half_precision_is_cut_alike_up_to_its_own_rounding(kind: str, family: str, base_of: Any) -> None:
    """Within the 8 bits of bfloat16, where a step too large by its four batches would be three times off."""
    base = base_of(kind, family, dropout=False)
    rows = base.rows(texts(35))
    half = {"bf16": True, "use_cpu": True, "label_smoothing_factor": 0.1}
    whole = base.trained(rows, 32, **half)
    assert_the_same(base.trained(rows, 8, 4, **half), whole, 0.01)
    assert_the_same(whole, base.trained(rows, 32, label_smoothing_factor=0.1), 0.02)


@every_family
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_evaluation_of_no_number_is_no_answer(kind: str, family: str, value: float, base_of: Any) -> None:
    """One row of many is enough: its largest class would be the first one, and a mean of losses a NaN."""
    base = base_of(kind, family, dropout=False)
    rows = base.rows(texts(9))
    longest = max(map(len, rows["input_ids"]))

    def spoilt(module: Any, inputs: Any, keywords: Any, output: Any) -> Any:
        if keywords["input_ids"].shape[1] == longest:
            output["logits"][0] = value
        return output

    hook = base.built.model.register_forward_hook(spoilt, with_kwargs=True)
    try:
        with pytest.raises(NonFiniteLossError, match="an evaluation after 0 steps gave a loss of nan"):
            base.answers(rows, per_device_eval_batch_size=2)
    finally:
        hook.remove()


@pytest.mark.slow
def test_a_rehearsal_leaves_a_loss_that_is_no_number_to_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "summed_loss", lambda logits, *_: logits.sum() * float("nan"))
    assert run("classify", tmp_path, "--attention", "softmax sa-softmax") == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2 and all("an evaluation after 0 steps gave a loss of nan" in line for line in told)
