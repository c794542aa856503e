"""Samples the attention of a run: at some steps while it trains (``Diagnosis``), or after (``diagnose``).

Both fill diagnostics.json beside the record, and neither changes a number of the run.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from transformers.utils import logging as transformers_logging

from finetune import objectives
from finetune.attention.diagnostics import statistics
from finetune.attention.diagnostics.recorder import ROWS, Recorder, layers_json
from finetune.config.build import build
from finetune.config.schema import RunConfig
from finetune.data import dataset, sources
from finetune.data.collate import IGNORED, evenly, lengths
from finetune.errors import UserError
from finetune.models import admission
from finetune.publishing.load import open_run
from finetune.records import diagnostics, store
from finetune.records.diagnostics import Diagnostics, LayerSnapshot, Snapshot
from finetune.records.store import Record
from finetune.system import world
from finetune.system.lock import locked
from finetune.system.sheet import Sheet
from finetune.system.text import say
from finetune.tasks import get_task
from finetune.training.trainer import summed_loss

SAMPLES = 10
"""Steps of a training that are looked at, from the first to the last one, evenly spaced."""
KINDS = {"local": "local", "hub": "hub", "cache": "hub", "sample": "sample"}
"""Kind of source in a record -> the value of ``--data`` for it; of local rows, their folder."""
BATCH = 8
"""Rows that pass a finished model at a time; the gradients are those of the mean over all targets."""


class Diagnosis(TrainerCallback, ExportableState):
    """Samples the attention of ``model`` while it trains, into ``file``, after each sample.

    At a sampled step the first micro-batch is looked at, with the loss that is trained on: after
    ``gradient_accumulation_steps`` have divided it, before gradients are clipped. Of several processes it is
    that of rank 0, which holds the first rows of the step; a sample says how many it was of, where they were
    fewer than ``rows``. A resumed run keeps the samples from before its checkpoint.
    """

    def __init__(self, model: Any, file: Path, samples: int = SAMPLES, rows: int = ROWS) -> None:
        self.file, self.samples, self.rows = file, samples, rows
        self.recorder = Recorder(model, rows)
        self.taken = "[]"  # the samples, which belong to every checkpoint; as text, since those sort keys
        self._steps: set[int] = set()
        self._content: Diagnostics
        self._step: int | None = None  # the one that is being looked at
        self._loss_scale = 1.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Plans the steps; writes again what was sampled before the checkpoint that the run goes on from."""
        self._steps = sampled_steps(state.max_steps, self.samples)
        self._content = _new(self.recorder, self.rows, state.max_steps, json.loads(self.taken))
        if self._content["samples"]:
            diagnostics.write(self.file, self._content)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **options: Any
    ) -> None:
        """Starts to look where this step is one of the sample."""
        if state.global_step in self._steps:
            self._step = state.global_step
            scaler = options["optimizer"].scaler if args.fp16 else None
            # Each of several processes computes its share of the loss times their number.
            self._loss_scale = world.size() * (scaler.get_scale() if scaler is not None else 1.0)
            self.recorder.start()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Writes the sample, after the last backward pass of its step."""
        if self._step is None:
            return
        layers = self.recorder.stop(self._loss_scale)
        sample: Any = {"step": self._step, "layers": layers_json(self.recorder, [layers])}
        share = min((layer.share for layer in layers), default=1.0)
        if share < 1.0:
            sample["share"] = share
        rows = max((layer.rows for layer in layers), default=self.rows)
        if rows < self.rows:
            sample["rows"] = rows
        self._content = diagnostics.add(self._content, sample)
        self.taken = json.dumps(self._content["samples"])
        diagnostics.write(self.file, self._content)
        self._step = None

    def state(self) -> dict[str, Any]:
        """The samples so far, which every checkpoint holds."""
        return {"args": {}, "attributes": {"taken": self.taken}}


def sampled_steps(total: int, samples: int) -> set[int]:
    """``samples`` steps of ``total``, counted from 0: the first, the last and evenly between them.

    A look at 8 rows takes about as long as a step of 4: of a training in steps of 32 rows, ten cost less than
    5% from 25 steps on.
    """
    return set(evenly(total, samples))


@dataclass(frozen=True)
class Inspection:
    """Result of ``diagnose``: the file that it wrote, the variant and the sample."""

    file: Path
    variant: str
    sample: Snapshot


def diagnose(
    folder: Path,
    rows: int,
    data_source: str | None,
    task_name: str | None,
    *,
    attention: str | None = None,
    length: int | None = None,
) -> Inspection:
    """Samples a finished run, on ``rows`` evenly spaced rows of its validation split, without dropout.

    Its rows come from where the run had them, or from ``data_source`` (auto, hub, sample or a folder);
    ``task_name`` and ``attention`` name the files of a task and of a variant of the user's own. ``length``
    takes the place of ``data.max_length``, than which it is longer. Raises ``UserError`` for a folder without
    a finished run, for rows that are not to be had, for others than the run had, and for more tokens than
    the model has positions for.
    """
    if not (folder / store.FILE).is_file():
        raise UserError(f"{folder} is not a run folder: it holds no {store.FILE}")
    entry = store.read(folder)
    if entry["status"] != "finished" or entry["data"] is None:
        raise UserError(f"the run {folder} did not finish ({entry['status']}): type its command again first")
    config = build(entry["config"])
    objective = objectives.of(config)
    transformers_logging.disable_progress_bar()
    with locked(folder):
        split = _validation(folder, entry, config, data_source, task_name)
        chosen = evenly(len(split), rows)
        built = open_run(folder, attention=attention)
        recorder = Recorder(built.model.requires_grad_(True), BATCH)
        if length is not None:
            config = _lengthened(config, length, admission.positions(built.model).read)
        tokens = objective.tokenize(split.select(chosen), "rows", built.tokenizer, config)
        tokens = tokens.select(evenly(len(tokens), rows))  # a document has many windows
        longest = int(lengths(tokens).max())
        if length is not None and longest < length:
            say(f"note: none of the rows looked at has {length} tokens, the longest has {longest}")
        passes = list(_passes(recorder, tokens, objective.collator(built.tokenizer, built.model, config)))
        file = folder / diagnostics.FILE
        # The updates that the run made: its learning curve ends there.
        steps = max((int(point["step"]) for point in entry["curve"] if "step" in point), default=0)
        content = diagnostics.read(file) if file.is_file() else _new(recorder, len(chosen), steps, [])
        sample: Any = {
            "step": content["total_steps"],
            "after_training": True,
            "rows": len(tokens),
            "layers": layers_json(recorder, passes),
        }
        if length is not None:
            sample["length"] = length
        diagnostics.write(file, diagnostics.add(content, sample))
        store.write(folder, {**entry, "diagnostics": diagnostics.FILE})
    return Inspection(file, recorder.variant, sample)


def table(inspection: Inspection, width: float = math.inf) -> str:
    """Two tables with a line a layer: the spread of its weights and the gradient that reaches its scores, and
    the sums of rows by the number of keys that they see. Then a sentence on rows with all scores near 0."""
    other = "sa-softmax" if inspection.variant == "softmax" else inspection.variant
    title = (
        f"{inspection.variant}, {inspection.sample['rows']} validation rows, no dropout. From saturated on: "
        f"mean |dLoss/dscore| of {other} / softmax at the same scores; n scores are saturated"
    )
    layers = inspection.sample["layers"]
    rows: list[tuple[str, ...]] = [
        ("layer", "kind", "> .99", "< .01", "entropy", "row sum", "n", *statistics.GROUPS)
    ]
    for layer in layers:
        weights, reach = layer["weights"], layer["reach"]
        pairs = [(reach[other][group], reach["softmax"][group]) for group in statistics.GROUPS]
        ratios = [own / stock if own is not None and stock else None for own, stock in pairs]
        shares = (_share(weights["above"]), _share(weights["below"]))
        sizes = (_figure(weights["entropy"]), _figure(layer["row_sum"]["mean"]))
        counted = str(layer["counts"]["saturated"])
        rows.append((str(layer["layer"]), layer["kind"], *shares, *sizes, counted, *map(_figure, ratios)))
    sums = [{each["start"]: each["row_sum"] for each in layer["by_keys"]} for layer in layers]
    starts = sorted({start for of_layer in sums for start in of_layer})
    by_keys: list[tuple[str, ...]] = [("layer", "kind", *map(str, starts))]
    for layer, of_layer in zip(layers, sums, strict=True):
        figures = (_figure(of_layer.get(start)) for start in starts)
        by_keys.append((str(layer["layer"]), layer["kind"], *figures))
    heading = "Mean row sum of queries that see as many keys, up to twice as many less one"
    sheet = Sheet(width)
    shown = [
        sheet.prose(title),
        sheet.table(rows, "llr", keys=2),
        sheet.prose(heading),
        sheet.table(by_keys, "llr", keys=2),
        sheet.prose(_near_zero(layers, other)),
    ]
    return "\n".join(shown)


def _near_zero(layers: Sequence[LayerSnapshot], other: str) -> str:
    """How many rows see one key, how many are narrow, and the largest gradients of scores."""
    extents = [layer["extent"] for layer in layers]
    rows, single, narrow = (sum(each[name] for each in extents) for name in ("rows", "single", "narrow"))
    least = [each["least"] for each in extents if each["least"] is not None]
    largest = {
        name: [size for layer in layers if (size := layer["largest"][name]) is not None]
        for name in ("softmax", other)
    }
    sizes = ", ".join(f"{name} {_figure(max(found, default=None))}" for name, found in largest.items())
    return (
        f"Of {rows} rows of scores {single} see one key, and in {narrow} all scores are near 0 (M - m below "
        f"{statistics.NARROW:g}; the least is {_figure(min(least, default=None))}). Largest |dLoss/dscore|: "
        f"{sizes}"
    )


def _lengthened(config: RunConfig, length: int, most: int | None) -> RunConfig:
    """The configuration with ``length`` for ``data.max_length``, of a model with ``most`` positions."""
    usual = config.data.max_length
    if length < usual:
        raise UserError(
            f"--length {length} is less than the run's own, {usual} (data.max_length): set it above"
        )
    if most is not None and length > most:
        raise UserError(f"--length {length} is more than the model has positions for, {most}")
    return replace(config, data=replace(config.data, max_length=length))


def _new(recorder: Recorder, rows: int, total_steps: int, samples: list[Snapshot]) -> Diagnostics:
    return {
        "schema": diagnostics.SCHEMA,
        "version": diagnostics.VERSION,
        "variant": recorder.variant,
        "rows": rows,
        "saturated": statistics.SATURATED,
        "suppressed": statistics.SUPPRESSED,
        "faint": statistics.FAINT,
        "narrow": statistics.NARROW,
        "total_steps": total_steps,
        "samples": samples,
    }


def _validation(
    folder: Path, entry: Record, config: RunConfig, wanted: str | None, task_name: str | None
) -> Dataset:
    """The validation rows of the run; ``UserError`` where they cannot be had, or are others by now."""
    known = entry["data"] or {}
    if known["kind"] not in KINDS or "validation" not in known["splits"]:
        raise UserError(
            f"the record of {folder} does not say which validation rows the run had: run it again"
        )
    place = known["location"] if known["kind"] == "local" else KINDS[known["kind"]]
    try:
        task = get_task(task_name or config.task, config.data, config.pair)
    except UserError as error:
        raise UserError(f"{error}; --task names the file of a task of your own") from error
    try:
        source = sources.resolve(task, config.pair, wanted or str(place))
        objective = objectives.get(config.kind)
        loaded = dataset.load(
            task,
            config.pair,
            source,
            config.data,
            objective.sample,
            train_bytes=objective.train_bytes(config),
        )
    except UserError as error:
        raise UserError(f"cannot have the rows of {folder}: {error}; --data says where they are") from error
    now, then = (info["splits"]["validation"]["fingerprint"] for info in (loaded.info, known))
    if now != then:
        raise UserError(
            f"{source.location} holds other validation rows than the run {folder} had: --data says where "
            "its rows are"
        )
    return loaded.splits["validation"]


def _passes(recorder: Recorder, tokens: Dataset, collate: Any) -> Iterator[Sequence[Any]]:
    """One forward and backward pass for every ``BATCH`` rows; the loss is the mean over all their targets."""
    model = recorder.model.to("cuda" if torch.cuda.is_available() else "cpu")
    count = sum(int(np.count_nonzero(np.asarray(label) != IGNORED)) for label in tokens["labels"])
    for start in range(0, len(tokens), BATCH):
        rows = [tokens[index] for index in range(start, min(start + BATCH, len(tokens)))]
        batch: Mapping[str, torch.Tensor] = collate(rows)
        recorder.start()
        there = {name: tensor.to(model.device) for name, tensor in batch.items()}
        loss = summed_loss(model(**there).logits, there["labels"], smoothing=0.0)
        (loss / count).backward()
        yield recorder.stop()
        model.zero_grad()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
