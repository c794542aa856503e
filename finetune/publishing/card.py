"""A finished run's record -> its model card, the ``README.md`` that the Hub shows of a model.

Made from the record alone, so it can be made again at any time. Paths of one machine are left out, and what a
user named is escaped.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune.attention import PAPER, VARIANTS
from finetune.config.identity import flatten
from finetune.data.synthetic import STAMP
from finetune.metrics import registry
from finetune.publishing.metadata import (
    LIBRARY,
    attention_of,
    data_of,
    front_matter,
    has_adapters,
    run_name,
    scores,
    task_name,
)
from finetune.records.store import Record
from finetune.system.files import write_text
from finetune.system.paths import without_paths
from finetune.system.tables import escape, fence, markdown
from finetune.system.text import visible

FILE = "README.md"
# Settings of training that move no number: what is logged, saved and shown.
SILENT = re.compile(r"(disable_tqdm|report_to|run_name|project|(log|logging|save|hub|trackio|dataloader)_.*)")
USE = {
    "classification": """\
import torch

inputs = tokenizer({text}, return_tensors="pt", truncation=True, max_length={max_length})
with torch.no_grad():
    print(model.config.id2label[int(model(**inputs).logits.argmax(-1))])
""",
    "translation": """\
inputs = tokenizer({text}, return_tensors="pt", truncation=True, max_length={max_length})
print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])
""",
}

OPTIMIZER = ("lr", "weight_decay", "betas", "eps", "momentum", "fused")  # of its settings, what a card tells


def write(folder: Path, record: Record) -> Path:
    """Write the card of a finished run into its folder, over any that Trainer or peft left there."""
    return write_text(folder / FILE, [text(record, folder.as_posix())])


def text(record: Record, place: str) -> str:
    """The card of a finished run that ``finetune.load(place)`` loads: its folder, or its Hub id."""
    record = without_paths(record)
    stamp = [f"> **{STAMP}**\n"] if data_of(record)["sample"] else []
    parts = [
        f"---\n{front_matter(record)}\n---\n",
        f"# {escape(run_name(record))}\n",
        *stamp,
        f"{_summary(record)}\n",
        _loading(record, place),
        _result(record),
        _attention(record),
        _task_and_data(record),
        _training(record),
        _limits(record),
    ]
    return "\n".join(parts)


def _summary(record: Record) -> str:
    model, variant = record["config"]["model"]["name"], attention_of(record)["variant"]
    begun = f"A new model ({escape(model)})" if model.startswith("scratch:") else f"The model {escape(model)}"
    own = "its own softmax attention"
    how = own if variant == "softmax" else f"{escape(variant)} in place of the softmax inside its attention"
    name, score = next(iter(scores(record).items()))
    rows = data_of(record)["splits"]["test"]["rows"]
    return (
        f"{begun} with {how}, fine-tuned on {escape(task_name(record))}: {escape(registry.get(name).title)} "
        f"{_shown(name, score['value'])} on {rows:,} test rows, with one seed."
    )


def _loading(record: Record, place: str) -> str:
    """How to load the model with its attention. The first code block of every card."""
    variant, model = escape(attention_of(record)["variant"]), escape(record["config"]["model"]["name"])
    load = f"import finetune\n\nmodel, tokenizer = finetune.load({json.dumps(place, ensure_ascii=False)})"
    version = escape(str(record["versions"].get(LIBRARY)))
    lines = [f"`finetune` is the package {LIBRARY}, here of version {version}."]
    if variant == "softmax":
        lines.append("Its attention is the model's own, so `from_pretrained` alone computes the same.")
    else:
        lines.append(
            f"**`from_pretrained` alone would give plain softmax instead of {variant}, silently**: a "
            "checkpoint does not keep its attention, and the figures below would not be this model's."
        )
    if has_adapters(record):
        lines.append(f"The adapters are loaded onto {model}.")
    data, kind = record["config"]["data"], record["task"]["kind"]
    example = (data.get("prefix") or "") + ("a text" if kind == "classification" else "a sentence")
    use = USE[kind].format(max_length=data["max_length"], text=json.dumps(example, ensure_ascii=False))
    return "\n".join([fence(load, "python"), " ".join(lines), "", fence(use.rstrip(), "python")])


def _result(record: Record) -> str:
    rows = [
        (registry.get(name).title, _shown(name, score["value"]), score.get("signature") or "")
        for name, score in scores(record).items()
    ]
    untrained = ""
    if before := record["untrained"]:
        name = registry.primary(record["task"]["kind"]).name
        untrained = (
            f"\nBefore training, with the attention already swapped, {registry.get(name).title} was "
            f"{_shown(name, before[name])} on {before['rows']:,} {escape(before['split'])} rows.\n"
        )
    return f"## Result\n\n{markdown([('metric', 'value', 'signature'), *rows], 'l')}{untrained}"


def _attention(record: Record) -> str:
    swapped = attention_of(record)
    known = VARIANTS.get(swapped["variant"])
    layers = ", ".join(f"{count} {kind}" for kind, count in swapped["layers"].items())
    facts = {
        "variant": swapped["variant"],
        "weights": known.equation if known else None,
        "source": known.paper if known else None,
        "parameters": ", ".join(f"{key} {value:g}" for key, value in swapped["parameters"].items()) or "none",
        "start": _start(record),
        "scope": swapped.get("scope"),
        "layers": f"{layers} of {swapped['total']} attention calls, each seen to use it",
        "dropout of weights": swapped["dropout"],
        "kernel": swapped["kernel"],
    }
    return f"## Attention\n\n{_facts(facts)}"


def _start(record: Record) -> str | None:
    """How the model came to the variant, and how close that left it to the one with softmax."""
    asked, begun = record["config"]["attention"], attention_of(record).get("start") or {}
    if asked["variant"] == "softmax":
        return None
    share = f" over {asked['annealing_share']:g} of the steps" if asked["start"] == "annealed" else ""
    cold, so = begun.get("cosine_cold"), begun.get("cosine")
    cosines = [f"{cold:.3f} swapped"] if cold is not None else []
    cosines += [f"{so:.3f} so started"] if so is not None and asked["start"] != "cold" else []
    close = "; cosine of its last hidden states, untrained, with the softmax model's: " if cosines else ""
    return f"{asked['start']}{share}{close}{', '.join(cosines)}"


def _task_and_data(record: Record) -> str:
    data = data_of(record)
    facts = {
        "task": task_name(record),
        "labels": ", ".join(record["task"]["labels"] or []) or None,
        "rows from": f"{data['kind']}, {data['location']}",
        "revision": data["revision"],
        "licence of the data, as its task says": data.get("licence"),
        "put before every text": record["config"]["data"].get("prefix"),
        "tokens of a text, at most": record["config"]["data"]["max_length"],
    }
    splits = [(name, f"{s['rows']:,}", s["fingerprint"]) for name, s in data["splits"].items()]
    return f"## Data\n\n{_facts(facts)}\n{markdown([('split', 'rows', 'fingerprint'), *splits], 'l')}"


def _training(record: Record) -> str:
    config, model, hardware, git = record["config"], record["model"] or {}, record["hardware"], record["git"]
    seconds, memory = (record["times"] or {}).get("train_s"), record["peak_memory_mib"]
    facts = {
        "base model": config["model"]["name"],
        "its revision": model.get("revision"),
        "architecture": model.get("architecture"),
        "parameters": f"{model.get('parameters', 0):,}, of which {model.get('trainable', 0):,} trained",
        "seed": config["seed"],
        "device": ", ".join(str(hardware[key]) for key in ("device", "cpu") if hardware.get(key)),
        **_computed(record),
        "training time": None if seconds is None else f"{seconds:,.0f} s",
        "peak memory": None if memory is None else f"{memory:,.0f} MiB",
        "finished": record["finished"],
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version),
        "commit": f"{git['commit']}{', with changes' if git['dirty'] else ''}" if git else None,
        "configuration": f"{record['config_hash']} (finetune.yaml beside this file)",
    }
    chosen = {"model": {k: config["model"][k] for k in ("dropout", "attention_dropout")}}
    chosen |= {"model.lora": config["model"]["lora"]} if has_adapters(record) else {}
    chosen |= {"generation": config["generation"]} if config["generation"] else {}
    chosen |= {"train": {k: v for k, v in config["train"].items() if not SILENT.fullmatch(k)}}
    settings = [(key, json.dumps(value, ensure_ascii=False)) for key, value in flatten(chosen).items()]
    return (
        f"## Training\n\n{_facts(facts)}\n{markdown([('setting', 'value'), *settings], 'l')}\n"
        f"{fence(visible(record['command']), 'sh')}"
    )


def _computed(record: Record) -> dict[str, Any]:
    """What was computed with, as it was read back; nothing of a record of an earlier version."""
    found = record["computed"]
    if found is None:
        return {}
    precision, batch, schedule = found["precision"], found["batch"], found["scheduler"]
    first = found["optimizer"]["groups"][:1]
    numbers = {
        key: value
        for group in first
        for key, value in group.items()
        if key in OPTIMIZER and value is not None
    }
    return {
        "precision": f"weights {', '.join(precision['weights'])}, matrix products {precision['products']}",
        "optimizer": f"{found['optimizer'].get('class')} ({_pairs(numbers)})",
        "learning rate": f"{schedule.get('rule', schedule.get('class'))} over {schedule.get('steps')} steps",
        "batch": f"{batch.get('total')} rows a step ({_pairs(batch)})",
    }


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _limits(record: Record) -> str:
    variant = attention_of(record)["variant"]
    lines = [
        "One run with one seed says nothing about a method: seeds alone move these figures. Several seeds of "
        "this run and of its softmax baseline, paired, do (`finetune compare`).",
        "The figures hold for the test rows with the fingerprint above, and for no others.",
        "The licence is not stated here: those of the base model and of the data apply.",
    ]
    if variant not in PAPER:
        lines.append(f"{escape(variant)} is not from the Self-Adjust Softmax paper.")
    if record["git"] is None or record["git"]["dirty"]:
        lines.append("The code that made it is no commit as it stands: it cannot be had again for certain.")
    return "## Limits\n\n" + "".join(f"- {line}\n" for line in lines)


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "none"
    metric = registry.get(name)
    return metric.text(metric.reported(value))


def _facts(facts: Mapping[str, Any]) -> str:
    return "".join(f"- {name}: {escape(str(value))}\n" for name, value in facts.items() if value is not None)
