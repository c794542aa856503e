"""A finished run's record -> its model card, the ``README.md`` that the Hub shows of a model.

Made from the record alone, so it can be made again at any time. Paths of one machine are left out. The words
of the card are in ``card.md.jinja``; here are the values, which come out as text whatever a user named.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from finetune import objectives
from finetune.attention import PAPER, VARIANTS
from finetune.config.identity import flatten
from finetune.config.lineage import SCRATCH
from finetune.config.schema import BASELINE
from finetune.data.synthetic import STAMP
from finetune.metrics import registry
from finetune.positions import POSITIONS
from finetune.publishing.metadata import LIBRARY, front_matter, has_adapters, run_name
from finetune.records.pretraining import label
from finetune.records.run import Run
from finetune.records.schema import Link
from finetune.records.store import Record
from finetune.system import tables
from finetune.system.files import write_text
from finetune.system.paths import without_paths
from finetune.system.tables import Markup
from finetune.system.text import visible

FILE = "README.md"
# Settings of training that move no number: what is logged, saved and shown.
SILENT = re.compile(r"(disable_tqdm|report_to|run_name|project|(log|logging|save|hub|trackio|dataloader)_.*)")
OPTIMIZER = ("lr", "weight_decay", "betas", "eps", "momentum", "fused")  # settings of it that a card shows


def write(folder: Path, record: Record) -> Path:
    """Writes the card of a finished run into its folder, over any that Trainer or peft left there."""
    return write_text(folder / FILE, [text(record, folder.as_posix())])


def text(record: Record, place: str) -> str:
    """Renders the card of a finished run that ``finetune.load(place)`` loads: its folder, or its Hub id."""
    run = Run(Path(place), without_paths(record))
    record, config, variant = run.record, run.config, run.attention["variant"]
    primary = run.metric
    code = f"import finetune\n\nmodel, tokenizer = finetune.load({json.dumps(place, ensure_ascii=False)})"
    scores = [
        (registry.get(name).title, _value(run, name), score.get("signature") or "")
        for name, score in run.scores.items()
    ]
    new, language = config["model"]["name"].startswith(SCRATCH), config.get("language") or {}
    unit = "window" if language else "text"
    encoding = POSITIONS[run.encoding]
    biased = bool(encoding.module)  # which stock models do not compute
    chosen = {
        "model": {key: config["model"][key] for key in ("dropout", "attention_dropout")}
        | ({"vocab_size": config["model"]["vocab_size"]} if new else {}),
        "language": {key: value for key, value in language.items() if value not in (None, [])},
        "model.lora": config["model"]["lora"] if has_adapters(run) else {},
        "generation": config["generation"] or {},
        "train": {key: value for key, value in config["train"].items() if not SILENT.fullmatch(key)},
    }
    chosen = {name: section for name, section in chosen.items() if section}
    settings = [(key, json.dumps(value, ensure_ascii=False)) for key, value in flatten(chosen).items()]
    return _template().render(
        head=Markup(front_matter(run)),
        name=run_name(run),
        run=run,
        record=record,
        base=config["model"]["name"],
        new=new,
        adapters=has_adapters(run),
        variant=variant,
        asked=label(config["attention"]),
        swapped=variant != BASELINE,
        trained="trained" if new else "trained further" if language else "fine-tuned",
        encoding=encoding.name if biased else "",
        lacking=" and ".join(
            [variant] * (variant != BASELINE) + [f"the positional encoding {encoding.name}"] * biased
        ),
        paper=PAPER,
        stamp=STAMP,
        library=LIBRARY,
        primary=f"{primary.title} {_value(run, primary.name)}",
        loading=code,
        snippet=objectives.get(run.kind).snippet(config),
        scores=[("metric", "value", "signature"), *scores],
        attention=_attention(run)
        | {"positional encoding": f"{run.position or encoding.name}: {encoding.paper}" if biased else None},
        data={
            "task": run.title,
            "labels": ", ".join(record["task"]["labels"] or []) or None,
            "rows from": f"{run.data['kind']}, {run.data['location']}",
            "revision": run.data["revision"],
            "licence of the data, as its task says": run.data.get("licence"),
            "put before every text": config["data"].get("prefix"),
            f"tokens of a {unit}, at most": config["data"]["max_length"],
        },
        splits=_splits(run),
        training=_training(run),
        settings=[("setting", "value"), *settings],
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        finalize=lambda value: value if isinstance(value, Markup) else tables.escape(str(value)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": lambda code, language: Markup(tables.fence(visible(code), language)),
        "table": lambda rows: Markup(tables.markdown(rows, "l").rstrip("\n")),
        "facts": lambda facts: Markup(
            "\n".join(
                f"- {name}: {tables.escape(str(fact))}" for name, fact in facts.items() if fact is not None
            )
        ),
    }
    return environment.get_template("card.md.jinja")


def _value(run: Run, metric: str) -> str:
    return registry.get(metric).text(run.metrics[metric]) if metric in run.metrics else "none"


def _splits(run: Run) -> list[tuple[str, ...]]:
    """Lists the rows of each split; of a language model the tokens too that it was trained or scored on."""
    read = run.data.get("tokens") or {}
    counted = {name: counts for name, counts in read.items() if "document_tokens" in counts}
    rows = [("split", "rows", *(("documents", "tokens") if counted else ()), "fingerprint")]
    for name, split in run.splits.items():
        counts = counted.get(name, {})
        tokens = counts.get("trained_tokens", counts.get("document_tokens", 0))
        of_text = (f"{counts.get('documents', 0):,}", f"{tokens:,}") if counted else ()
        rows.append((name, f"{split['rows']:,}", *of_text, split["fingerprint"]))
    return rows


def _attention(run: Run) -> dict[str, Any]:
    """Lists the variant, how the model started with it, and where it was swapped in."""
    swapped, asked, begun = run.attention, run.config["attention"], run.start or {}
    known = VARIANTS.get(swapped["variant"])
    start = None
    if asked["variant"] != BASELINE:
        start = asked["start"]
        start += f" over {asked['annealing_share']:g} of the steps" if start == "annealed" else ""
        # Any other start is shown beside the cold one: the difference of the cosines is what it gained.
        cold, cosine = begun.get("cosine_cold"), begun.get("cosine")
        cosines = [f"{cold:.3f} swapped"] if cold is not None else []
        cosines += [f"{cosine:.3f} so started"] if cosine is not None and asked["start"] != "cold" else []
        if cosines:
            start += "; cosine of its last hidden states, untrained, with the softmax model's: "
            start += ", ".join(cosines)
    layers = ", ".join(f"{count} {kind}" for kind, count in swapped["layers"].items())
    return {
        "variant": swapped["variant"],
        "weights": known.equation if known else None,
        "source": known.paper if known else None,
        "parameters": ", ".join(f"{key} {value:g}" for key, value in swapped["parameters"].items()) or "none",
        "start": start,
        "scope": swapped.get("scope"),
        "layers": f"{layers} of {swapped['total']} attention calls, each seen to use it",
        "dropout of weights": swapped["dropout"],
        "kernel": swapped["kernel"],
    }


def _training(run: Run) -> dict[str, Any]:
    """Lists what was trained, on what and how, as it was read back from the trainer."""
    record, git = run.record, run.record["git"]
    unit = "windows" if run.config.get("language") else "rows"
    model, hardware, memory = record["model"] or {}, record["hardware"], run.peak_memory_mib
    computed = {}
    if record["computed"] is not None:  # a record of an earlier version has none
        precision, batch = record["computed"]["precision"], record["computed"]["batch"]
        optimizer, schedule = record["computed"]["optimizer"], record["computed"]["scheduler"]
        # Its groups of parameters differ in weight decay only; the first one has it.
        first = optimizer["groups"][0] if optimizer["groups"] else {}
        numbers = {key: value for key, value in first.items() if key in OPTIMIZER and value is not None}
        weights, rule = ", ".join(precision["weights"]), schedule.get("rule", schedule.get("class"))
        computed = {
            "precision": f"weights {weights}, matrix products {precision['products']}",
            "optimizer": f"{optimizer.get('class')} ({_pairs(numbers)})",
            "learning rate": f"{rule} over {schedule.get('steps')} steps",
            "batch": f"{batch.get('total')} {unit} a step ({_pairs(batch)})",
        }
    began = run.pretrained
    return {
        "base model": run.config["model"]["name"],
        "pretrained as": began and _pretraining(began),
        "its revision": model.get("revision"),
        "architecture": model.get("architecture"),
        "parameters": f"{model.get('parameters', 0):,}, of which {model.get('trainable', 0):,} trained",
        "seed": run.seed,
        "device": ", ".join(str(hardware[key]) for key in ("device", "cpu") if hardware.get(key)),
        **computed,
        "training time": None if run.train_s is None else f"{run.train_s:,.0f} s",
        "peak memory": None if memory is None else f"{memory:,.0f} MiB",
        "finished": record["finished"],
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items() if version),
        "commit": f"{git['commit']}{', with changes' if git['dirty'] else ''}" if git else None,
        "configuration": f"{record['config_hash']} (finetune.yaml beside this file)",
    }


def _pretraining(began: Link) -> str:
    """Says in a line what the run was, whose checkpoint was fine-tuned."""
    stamp = ", on the synthetic SAMPLE" if began["sample"] else ""
    return (
        f"{began['variant']} on {began['task']}: {began['model']}, seed {began['seed']}, position "
        f"{began['position']}{stamp}; configuration {began['config_hash']}, weights {began['weights']}"
    )


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
