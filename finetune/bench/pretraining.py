"""Tokens per second of causal pretraining: whole optimizer steps of this toolkit and of the stock recipe."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from datasets import Dataset
from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from finetune import objectives
from finetune.attention import PAPER
from finetune.attention.interface import LAYER
from finetune.attention.kernels import dispatch
from finetune.attention.swap import attention_layers
from finetune.bench import recipes, rows
from finetune.bench.cases import CONTROLS
from finetune.bench.recipes import BASELINE, STOCK, Prepared, Say, Setup
from finetune.bench.settings import Settings
from finetune.bench.timing import spread
from finetune.config.lineage import SCRATCH
from finetune.config.schema import RunConfig
from finetune.data import dataset, windows
from finetune.errors import UserError
from finetune.models.pretrained import explain, files_of
from finetune.models.workload import Strategy
from finetune.objectives.language import BYTES_A_TOKEN, section
from finetune.positions.attach import SWITCHES
from finetune.system.allocation import out_of_memory
from finetune.system.memory import release_memory

TASK = "books"
ENCODINGS = ("rope", "kerple", "dapev2-kerple")  # a bias of none, by distance, and by the scores
OF_STOCK = "rope"  # the only one that transformers has itself
STEPS = 2  # optimizer steps, whose time is taken together
CHARACTERS = 200_000  # of text, for the tokenizer and the windows; more would change no speed
VOCABULARY = 8000  # entries at most, as in the preset small
MARGIN = 1.5  # times the memory that a step keeps on paper: what a layer needs for a moment comes on top


def setups(device: str) -> list[Setup]:
    """The stock recipe, softmax on both kernels, and every other variant of the paper, as a run has them."""
    others = [Setup("toolkit", name, "auto") for name in PAPER if name != BASELINE.variant]
    return [STOCK, BASELINE, control(device), *others]


def control(device: str) -> Setup:
    """Softmax on the fast kernel that a device has for the other variants."""
    chosen = CONTROLS[device]
    return Setup("toolkit", chosen.variant, chosen.kernel)


def measure(chosen: Settings, say: Say, keep: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The part ``pretraining`` of a result. ``say`` gets a line before a step, ``keep`` the part so far."""
    transformers_logging.disable_progress_bar()
    check_model(chosen.decoder)
    groups = list(product(chosen.windows, ENCODINGS))
    configs = [configuration(chosen, BASELINE, length, position) for length, position in groups]
    loaded = rows.load(chosen.data, configs[0])
    loaded = replace(loaded, splits={"train": beginning(loaded.splits["train"], CHARACTERS)})
    part: dict[str, Any] = {
        "model": chosen.decoder, "data": {"source": loaded.info["kind"]}, "steps": STEPS,
        "bf16": configs[0].train["bf16"], "rows": [], "absent": [],
    }  # fmt: skip
    for number, ((length, position), config) in enumerate(zip(groups, configs, strict=True), start=1):
        title = f"pretraining {number}/{len(groups)}: {position}, windows of {length} tokens"
        reason = _shortage(config)
        try:
            if reason is None:
                part["rows"] += _group(chosen, loaded, length, position, title, say)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            reason = f"a step does not fit into the memory of the {chosen.device}"
        release_memory()
        if reason is not None:
            part["absent"].append({"length": length, "position": position, "reason": reason})
        keep(part)
    return part


def check_model(name: str) -> None:
    """Raises ``UserError`` for a model of an architecture that encodings cannot be put into."""
    if name.startswith(SCRATCH):
        return
    with explain(name):
        kind = AutoConfig.from_pretrained(name, **files_of(name, None), trust_remote_code=False).model_type
    if kind not in SWITCHES:
        raise UserError(
            f"--model {name} is a model of {kind}: pretraining is measured with scratch:SIZE, or a decoder "
            f"that positional encodings can be put into ({', '.join(sorted(SWITCHES))})"
        )


def configuration(chosen: Settings, setup: Setup, length: int, position: str) -> RunConfig:
    """The recipe of windows of ``length`` tokens; a step has about ``chosen.step_tokens``."""
    batch = max(1, chosen.batch_tokens // length)
    batches = max(1, round(chosen.step_tokens / (batch * length)))
    changes = {
        "data": {"train_rows": None, "max_length": length},
        "model": {
            "name": chosen.decoder,
            "vocab_size": VOCABULARY,
            "position": OF_STOCK if setup.is_stock else position,
        },
        "language": {
            "train_tokens": CHARACTERS // BYTES_A_TOKEN,  # of a stream no more is read
            "tokens_per_step": batches * batch * length,
            "eval_lengths": [],
        },
        "train": {"per_device_train_batch_size": batch},
    }
    return recipes.configuration(chosen, setup, TASK, changes)


def beginning(split: Dataset, characters: int) -> Dataset:
    """The first rows of a split, as many as have ``characters`` of text; the last one is cut to that."""

    def taken() -> Iterator[dict[str, Any]]:
        left = characters
        for row in split:
            yield {**row, "text": row["text"][:left]}
            left -= len(row["text"])
            if left <= 0:
                return

    return Dataset.from_list(list(taken()))


def token_rows(loaded: dataset.Data, setup: Setup, tokenizer: Any, config: RunConfig) -> recipes.Splits:
    """The windows of ``STEPS`` steps: a run's or, for the stock recipe, with labels that the model shifts."""
    tokens = windows.documents(loaded.splits["train"], tokenizer).tokens
    tokens = np.resize(tokens, STEPS * section(config).tokens_per_step)  # a short text over and over
    stream = windows.Documents.of([tokens])
    made = windows.train(stream, tokenizer.eos_token_id, config.data.max_length, config.data.split_seed)
    if setup.is_stock:
        ids = made["input_ids"][:]
        made = Dataset.from_dict({
            "input_ids": ids, "attention_mask": np.ones_like(ids).tolist(), "labels": ids
        })  # fmt: skip
    return {"train": made, "validation": made}


def _shortage(config: RunConfig) -> str | None:
    """Why a step is not tried on a CPU, where want of memory would end the process; None if there is enough.

    On paper, and so of scratch models alone.
    """
    workload = objectives.get(config.kind).workload(config)
    if workload is None or not config.train["use_cpu"]:
        return None
    rows = workload.amount.batch
    kept = workload.state_bytes(Strategy.ONE) + workload.activation_bytes(rows, checkpointing=False)
    needed = MARGIN * kept
    if needed < psutil.virtual_memory().available:
        return None
    return f"a step may take {needed / 2**30:.1f} GiB, and less memory is free"


def _group(  # noqa: PLR0917
    chosen: Settings, loaded: dataset.Data, length: int, position: str, title: str, say: Say
) -> list[dict[str, Any]]:
    """Measures all setups with one encoding at one length.

    The stock recipe, with its own encoding, takes part in every round, for all speeds are compared with it;
    it has a row beside that encoding.
    """
    say(f"{title}: warm-up")
    make_rows = partial(token_rows, loaded)
    prepared = [
        recipes.prepare(setup, configuration(chosen, setup, length, position), loaded, make_rows)
        for setup in setups(chosen.device)
    ]
    in_control = next(each for each in prepared if each.setup == control(chosen.device))
    for name, layer in attention_layers(in_control.built.model).items():
        module = in_control.built.model.get_submodule(name)
        setattr(module, LAYER, replace(layer, kernel=dispatch.CONTROL))
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:

        def speeds_of(each: Prepared) -> dict[str, float]:
            _, seconds = recipes.train(each, Path(folder), chosen.device)
            return {"tokens": len(each.splits["train"]) * length / seconds}

        for each in prepared:
            recipes.train(each, Path(folder), chosen.device, steps=1)
        # Softmax is on that kernel already, or it cannot compute this: then there is nothing to compare.
        usual = next(each.computes for each in prepared if each.setup == BASELINE)
        if in_control.computes == usual:
            prepared.remove(in_control)
        speeds = recipes.rounds(
            prepared, speeds_of, most=chosen.rounds, seconds=chosen.windows_seconds, title=title, say=say
        )
    return [
        {
            "length": length,
            "position": position,
            **recipes.about(each),
            "parameters": each.built.info["parameters"],
            "batch": each.config.train["per_device_train_batch_size"],
            "step_tokens": section(each.config).tokens_per_step,
            "tokens_per_s": spread(speeds[each.setup]["tokens"]),
            **recipes.ratios(speeds, each.setup, "tokens"),
        }
        for each in prepared
        if not each.setup.is_stock or position == OF_STOCK
    ]
