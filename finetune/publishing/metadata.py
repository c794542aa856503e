"""What the Hub reads at the head of a model card: a run's record -> YAML, by the Hub's own names."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune import objectives
from finetune.metrics import registry
from finetune.records.run import Run
from finetune.system.language_codes import language_of
from finetune.system.text import one_line
from finetune.tasks.base import languages

LIBRARY = "softmax-finetune"  # as the Hub lists it: "transformers" would offer code that loads plain softmax
COMMIT = re.compile("[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def front_matter(run: Run) -> str:
    """Writes the YAML at the head of the card. No licence: only the model's maker knows one.

    The sample's figures stay out of it: the Hub would list them like any others.
    """
    run = Run(run.folder, _on_one_line(run.record))  # a line of three dashes would end the head
    task, base, adapters = run.record["task"], base_model(run), has_adapters(run)
    pipeline = objectives.get(run.kind).pipeline_tag
    on_the_hub = is_on_the_hub(run)
    results = [
        EvalResult(
            task_type=pipeline,
            dataset_type=run.data["location"] if on_the_hub else run.task,
            dataset_name=run.title,
            dataset_split="test",
            dataset_revision=run.data["revision"],
            dataset_args={key: run.splits["test"][key] for key in ("rows", "fingerprint")},
            metric_type=registry.get(name).hub_id or name,
            metric_name=registry.get(name).title,
            metric_value=score["value"],
            metric_args={"signature": score["signature"]} if score.get("signature") else None,
        )
        for name, score in run.scores.items()
        if score["value"] is not None and not run.sample
    ]
    marks = [*(["lora"] if adapters else []), *(["sample"] if run.sample else [])]
    card = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if adapters else "finetune") if base else None,
        datasets=[run.data["location"]] if on_the_hub else None,
        eval_results=results or None,
        language=list(map(language_of, languages(task["pair"]))) if task["pair"] else None,
        library_name=LIBRARY,
        metrics=[registry.get(name).hub_id or name for name in run.scores] if results else None,
        model_name=run_name(run),
        pipeline_tag=pipeline,
        tags=[LIBRARY, "attention", run.attention["variant"], *marks],
    )
    if not results:  # huggingface_hub writes the name as part of the results only
        card.pop("model_name")
    return card.to_yaml().rstrip("\n")


def _on_one_line(value: Any) -> Any:
    """Copies ``value`` with every text, and every name, on one line."""
    if isinstance(value, dict):
        return {_on_one_line(key): _on_one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_one_line(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def is_on_the_hub(run: Run) -> bool:
    """Whether the rows came from the Hub, or from its cache, and not from files that may be any."""
    return run.data["kind"] in ("hub", "cache")


def run_name(run: Run) -> str:
    """``sa-softmax on agnews: google-bert/bert-base-uncased, LoRA, seed 0``."""
    model = f"{run.config['model']['name']}{', LoRA' if has_adapters(run) else ''}"
    model += f", {run.position} positions" if run.position else ""
    return f"{run.attention['variant']} on {run.title}: {model}, seed {run.seed}"


def has_adapters(run: Run) -> bool:
    """Whether LoRA adapters were trained, and not the model itself."""
    return bool(run.config["model"]["lora"]["rank"])


def base_model(run: Run) -> str | None:
    """Gives the Hub id of the model that was fine-tuned: one whose commit is known was read from the Hub."""
    name, revision = run.config["model"]["name"], (run.record["model"] or {}).get("revision")
    known = COMMIT.fullmatch(revision or "") and HUB_ID.fullmatch(name)
    in_cache = COMMIT.fullmatch(name)  # as the folders of the Hub's cache are called
    return name if known and not in_cache else None
