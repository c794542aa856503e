"""What the Hub reads at the head of a model card: a run's record -> YAML, by the Hub's own names."""

import re
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune.metrics import registry
from finetune.records.store import Record
from finetune.system.language_codes import language_of
from finetune.system.text import one_line
from finetune.tasks.base import languages

LIBRARY = "softmax-finetune"  # as the Hub lists it: "transformers" would offer code that loads plain softmax
PIPELINES = {"classification": "text-classification", "translation": "translation"}
COMMIT = re.compile("[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def front_matter(record: Record) -> str:
    """The YAML at the head of the card, which the Hub reads. No licence: only the model's maker knows one.

    The sample's figures stay out of it, where nothing would say what they are.
    """
    record = _on_one_line(record)  # a line of three dashes would end the head
    data, task, base = data_of(record), record["task"], base_model(record)
    variant, adapters = attention_of(record)["variant"], has_adapters(record)
    results = [] if data["sample"] else _eval_results(record)
    marks = ["sample"] if data["sample"] else []
    card = ModelCardData(
        base_model=base,
        base_model_relation=("adapter" if adapters else "finetune") if base else None,
        datasets=[data["location"]] if data["kind"] in ("hub", "cache") else None,
        eval_results=results or None,
        language=list(map(language_of, languages(task["pair"]))) if task["pair"] else None,
        library_name=LIBRARY,
        metrics=[registry.get(name).hub_id or name for name in scores(record)] if results else None,
        model_name=run_name(record),
        pipeline_tag=PIPELINES[task["kind"]],
        tags=[LIBRARY, "attention", variant, *(["lora"] if adapters else []), *marks],
    )
    if not results:
        card.pop("model_name")
    return card.to_yaml().rstrip("\n")


def _eval_results(record: Record) -> list[EvalResult]:
    data, task = data_of(record), record["task"]
    hub = data["kind"] in ("hub", "cache")
    return [
        EvalResult(
            task_type=PIPELINES[task["kind"]],
            dataset_type=data["location"] if hub else task["name"],
            dataset_name=task_name(record),
            dataset_split="test",
            dataset_revision=data["revision"],
            dataset_args={"rows": data["splits"]["test"]["rows"]}
            | {"fingerprint": data["splits"]["test"]["fingerprint"]},
            metric_type=registry.get(name).hub_id or name,
            metric_name=registry.get(name).title,
            metric_value=score["value"],
            metric_args={"signature": score["signature"]} if score.get("signature") else None,
        )
        for name, score in scores(record).items()
        if score["value"] is not None
    ]


def _on_one_line(value: Any) -> Any:
    """A copy in which every text, and every name, is on one line."""
    if isinstance(value, dict):
        return {_on_one_line(key): _on_one_line(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_on_one_line(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


def run_name(record: Record) -> str:
    """``sa-softmax on agnews: google-bert/bert-base-uncased, LoRA, seed 0``."""
    config, adapters = record["config"], ", LoRA" if has_adapters(record) else ""
    variant, task, model = attention_of(record)["variant"], task_name(record), config["model"]["name"]
    return f"{variant} on {task}: {model}{adapters}, seed {config['seed']}"


def task_name(record: Record) -> str:
    """``iwslt2017 de-en``."""
    task = record["task"]
    return f"{task['name']} {task['pair']}" if task["pair"] else str(task["name"])


def data_of(record: Record) -> dict[str, Any]:
    assert record["data"] is not None  # of a finished run
    return record["data"]


def attention_of(record: Record) -> dict[str, Any]:
    assert record["attention"] is not None
    return record["attention"]


def has_adapters(record: Record) -> bool:
    return bool(record["config"]["model"]["lora"]["rank"])


def base_model(record: Record) -> str | None:
    """The Hub id of the model that was fine-tuned: one whose commit is known was read from the Hub."""
    name, revision = record["config"]["model"]["name"], (record["model"] or {}).get("revision")
    known = COMMIT.fullmatch(revision or "") and HUB_ID.fullmatch(name)
    in_cache = COMMIT.fullmatch(name)  # as the folders of the Hub's cache are called
    return name if known and not in_cache else None


def scores(record: Record) -> dict[str, dict[str, Any]]:
    """Metric -> value and signature; the first is the primary one."""
    return {name: score for name, score in (record["metrics"] or {}).items() if name != "per_class"}
