"""What is saved is what was measured: every family, trained whole or by adapters, comes back as it was."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import Trainer

import finetune.run
from finetune import checkpoint, record
from finetune.config import RunConfig, build, merge, read_preset
from finetune.errors import UserError
from finetune.model import build_model
from finetune.scratch import train_tokenizer
from small_runs import folder, run
from tiny_models import FAMILIES, names

TEXTS = ["one two three four five", "six seven eight nine ten", "eleven twelve"] * 5
LABELS = ("a", "b", "c")
CASES = [
    *[("classification", name) for name in (*names("encoder", "decoder"), "t5", "bart", "mbart")],
    *[("translation", name) for name in names("seq2seq")],
]


def pretrained(family: str, kind: str, where: Path, **overrides: Any) -> Path:
    """A base model of a family without a head for the task, and its tokenizer."""
    seq2seq = FAMILIES[family].kind == "seq2seq"  # which reads rows that end in </s>, whatever the task
    tokenizer = train_tokenizer("translation" if seq2seq else kind, iter(TEXTS), 290)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    ids |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    if seq2seq:
        ids["decoder_start_token_id"] = tokenizer.pad_token_id
    FAMILIES[family].build(**{**ids, **overrides}).save_pretrained(where)
    tokenizer.save_pretrained(where)
    return where


def configuration(kind: str, model: str, rank: int) -> RunConfig:
    values = {k: v for k, v in read_preset(kind, "quick").items() if k not in ("variants", "seeds")}
    pair = "de-en" if kind == "translation" else None
    values |= {"kind": kind, "task": "any", "pair": pair, "seed": 0}
    own = {"dropout": None, "attention_dropout": None}
    changes = {
        "model": {"name": model, "lora": {"rank": rank}, **own},
        "attention": {"variant": "sa-softmax"},
    }
    return build(merge(values, changes))


def batch(tokenizer: Any, kind: str) -> dict[str, Any]:
    """Four rows of unequal length, with their classes or their translations."""
    texts = ["one two three", "four", "five six seven eight nine ten", "eleven twelve"]
    inputs = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    if kind == "classification":
        return {**inputs, "labels": torch.tensor([0, 1, 2, 1])}
    return {**inputs, "labels": tokenizer(texts[::-1], padding=True, return_tensors="pt")["input_ids"]}


def trained(config: RunConfig, where: Path) -> torch.Tensor:
    """Train two steps, save as a run does, and give the logits of the trained model."""
    labels = LABELS if config.kind == "classification" else None
    built = build_model(config, iter(TEXTS), labels)
    inputs = batch(built.tokenizer, config.kind)
    weights = [p for p in built.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        built.model(**inputs).loss.backward()
        optimizer.step()
    where.mkdir(parents=True)
    checkpoint.save_origin(config, labels, None, where)
    Trainer(built.model, processing_class=built.tokenizer).save_model(str(where))
    return logits(built.model, built.tokenizer, config.kind)


@torch.no_grad()
def logits(model: Any, tokenizer: Any, kind: str) -> torch.Tensor:
    found: torch.Tensor = model.eval()(**batch(tokenizer, kind)).logits
    return found


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`")
@pytest.mark.parametrize("rank", [0, 2], ids=["full", "lora"])
@pytest.mark.parametrize(("kind", "family"), CASES)
def test_a_model_comes_back_as_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, family: str, rank: int
) -> None:
    """The base model is given by a relative path, and loaded from another working folder and another seed."""
    pretrained(family, kind, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    measured = trained(configuration(kind, "base", rank), tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    torch.manual_seed(1234)
    model, tokenizer = finetune.load("../run")
    assert torch.equal(logits(model, tokenizer, kind), measured)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model, ``base``, and adapters of it, ``run``, made from a relative path."""
    root = tmp_path_factory.mktemp("adapters")
    pretrained("bert", "classification", root / "base")
    with pytest.MonkeyPatch.context() as there:
        there.chdir(root)
        trained(configuration("classification", "base", 2), root / "run")
    return root


def test_a_base_model_may_move_with_its_adapters(adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(adapters, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved/base/", ignore_errors=True)
    finetune.load(tmp_path / "moved/run")  # the one that stayed
    shutil.move(adapters / "base", tmp_path / "moved/base")
    try:
        finetune.load(tmp_path / "moved/run")  # the one beside it
        with pytest.raises(UserError, match=r"the base model of .*run is not at .*base: put it back there"):
            finetune.load(adapters / "run")
        origin = adapters / "run/origin.yaml"
        said = yaml.safe_load(origin.read_text())
        said["base"] = {"path": str(tmp_path / "moved/base")}
        shutil.copy(origin, tmp_path / "origin.yaml")
        origin.write_text(yaml.safe_dump(said))
        finetune.load(adapters / "run")
        shutil.copy(tmp_path / "origin.yaml", origin)
    finally:
        shutil.move(tmp_path / "moved/base", adapters / "base")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_base_model_that_changed_is_named(adapters: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(adapters, tmp_path / "all")
    origin = tmp_path / "all/run/origin.yaml"
    said = yaml.safe_load(origin.read_text())
    said["base"]["path"] = str(tmp_path / "all/base")
    origin.write_text(yaml.safe_dump(said))
    changed = tmp_path / "all/base" / file
    content = bytearray(changed.read_bytes())
    content[-3] ^= 1  # the size stays
    changed.write_bytes(content)
    with pytest.raises(UserError, match=rf"{tmp_path}/all/base has changed .* \({file}\)"):
        finetune.load(tmp_path / "all/run")


def test_adapters_of_an_earlier_version_load_or_say_what_is_missing(adapters: Path, tmp_path: Path) -> None:
    """They lack the place of the base model, and a new module that was not saved is gone."""
    shutil.copytree(adapters, tmp_path / "all")
    where = tmp_path / "all/run"
    (where / "origin.yaml").write_text(yaml.safe_dump({"labels": list(LABELS), "revision": None}))
    with pytest.raises(UserError, match=r"the base model of .* is not at base"):
        finetune.load(where)
    config = yaml.safe_load((where / "finetune.yaml").read_text())
    config["model"]["name"] = str(tmp_path / "all/base")
    (where / "finetune.yaml").write_text(yaml.safe_dump(config))
    finetune.load(where)
    weights = load_file(where / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, where / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks weights of its model .*bert.pooler.dense"):
        finetune.load(where)


def test_adapters_do_not_go_on_upon_another_base_model(adapters: Path, tmp_path: Path) -> None:
    shutil.copytree(adapters, tmp_path / "all")
    where, config = tmp_path / "all/run", configuration("classification", str(tmp_path / "all/base"), 2)
    (where / "checkpoint-1").mkdir()
    checkpoint.save_origin(config, LABELS, None, where)
    with (tmp_path / "all/base/config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"has changed since .* \(config.json\)"):
        checkpoint.save_origin(config, LABELS, None, where)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("origin.yaml", "{labels: [a, b, c], revision: null, base: 5}", "must say 'base: {path"),
        ("origin.yaml", "{labels: [a, b, c], revision: null, base: {}}", "must say 'base: {path"),
        ("calibration.json", "{", "no JSON"),
        ("adapter_model.safetensors", "cut off", "cannot load the adapters"),
    ],
)
def test_a_damaged_file_beside_the_adapters_is_named(
    adapters: Path, tmp_path: Path, file: str, content: str, said: str
) -> None:
    shutil.copytree(adapters / "run", tmp_path / "run")
    (tmp_path / "run" / file).write_text(content)
    with pytest.raises(UserError, match=said):
        finetune.load(tmp_path / "run")


def test_a_whole_model_of_which_a_weight_is_missing_is_refused(tmp_path: Path) -> None:
    pretrained("bert", "classification", tmp_path / "base")
    trained(configuration("classification", str(tmp_path / "base"), 0), tmp_path / "run")
    weights = load_file(tmp_path / "run/model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "run/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack .*classifier\.weight"):
        finetune.load(tmp_path / "run")


# Whole runs

QUICK = ["--attention", "sa-softmax", "--train.max_steps", "2"]


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained("bart", "classification", tmp_path_factory.mktemp("bart") / "base")


def test_a_finished_run_says_that_it_was_loaded(bart: Path, tmp_path: Path) -> None:
    lora = ["--model", str(bart), "--model.lora.rank", "2", "--data.max_length", "16"]
    assert run("classify", tmp_path, *QUICK, *lora) == 0
    where = next(tmp_path.glob("*/*/sa-softmax/seed-0"))
    assert record.read(where)["model"]["reloaded"] == {"rows": 16, "equal": True, "ties": 0}


@pytest.mark.parametrize(
    ("verb", "spoilt"),
    [("classify", "weights"), ("classify", "tokenizer"), ("translate", "predictions")],
)
def test_a_run_whose_folder_holds_another_model_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    verb: str,
    spoilt: str,
) -> None:
    fit = finetune.run.train.fit

    def spoiling(config: Any, built: Any, splits: Any, where: Path, *others: Any, **named: Any) -> Any:
        outcome = fit(config, built, splits, where, *others, **named)
        if spoilt == "weights":
            weights = load_file(where / "model.safetensors")
            next(iter(weights.values())).view(-1)[0] += 1e-3
            save_file(weights, where / "model.safetensors", metadata={"format": "pt"})
        elif spoilt == "tokenizer":
            train_tokenizer(config.kind, iter(TEXTS), 270).save_pretrained(where)
        else:
            other = dict.fromkeys(outcome.predictions, -1)
            held = replace(outcome.held, predictions=other)
            return replace(outcome, predictions=other, held=held)
        return outcome

    monkeypatch.setattr(finetune.run.train, "fit", spoiling)
    short = ["--generation.max_new_tokens", "4"] if verb == "translate" else []
    assert run(verb, tmp_path, *QUICK, *short) == 1
    where = folder(verb, tmp_path, "sa-softmax")
    entry = record.read(where)
    said = {"weights": "its weights are others", "tokenizer": "other tokens", "predictions": "test row"}
    assert entry["status"] == "failed" and said[spoilt] in entry["reason"]
    assert entry["metrics"] is None and "is not the one that was measured" in capsys.readouterr().err
    assert not (where / record.PREDICTIONS).exists()
