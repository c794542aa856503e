"""What is saved is what was measured: every family, trained whole or by adapters, comes back as it was."""

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import Trainer

import finetune.training.run
from finetune import objectives
from finetune.config.build import build
from finetune.config.loading import merge, read_preset
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.models import checkpoint
from finetune.models.builder import build_model
from finetune.models.scratch import BERT, MARIAN, train_tokenizer
from finetune.records import store
from finetune.training.reloaded import ReloadError
from tests.support.small_runs import folder, run
from tests.support.tiny_models import FAMILIES, names

OWN_DROPOUT = ["--model.dropout", "null", "--model.attention_dropout", "null"]
TEXTS = ["one two three four five", "six seven eight nine ten", "eleven twelve"] * 5
LABELS = ("a", "b", "c")
CASES = [
    *[("classification", name) for name in (*names("encoder", "decoder"), "t5", "bart", "mbart")],
    *[("translation", name) for name in names("seq2seq")],
]
# What the families differ in here: a pooler, a score without bias, fused projections, a head over an
# encoder-decoder, an embedding that is tied to the output, positions in no file.
SMALL = [
    ("classification", "bert", 2),
    ("classification", "gpt2", 2),
    ("classification", "llama", 0),
    ("classification", "t5", 2),
    ("classification", "bart", 2),
    ("translation", "t5", 0),
    ("translation", "marian", 2),
]


def cases() -> list[Any]:
    """Every family, trained whole and by adapters; the small ones in every test run."""
    return [
        pytest.param(
            kind,
            family,
            rank,
            id=f"{kind}-{family}-{'lora' if rank else 'full'}",
            marks=[] if (kind, family, rank) in SMALL else [pytest.mark.exhaustive],
        )
        for kind, family in CASES
        for rank in (0, 2)
    ]


def pretrained(family: str, kind: str, where: Path, **overrides: Any) -> Path:
    """A base model of a family without a head for the task, and its tokenizer."""
    seq2seq = FAMILIES[family].kind == "seq2seq"  # which reads rows that end in </s>, whatever the task
    tokenizer = train_tokenizer((MARIAN if seq2seq else BERT).recipe, iter(TEXTS), 290)
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
    built = build_model(config, objectives.get(config.kind), iter(TEXTS), labels)
    inputs = batch(built.tokenizer, config.kind)
    weights = [p for p in built.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        built.model(**inputs).loss.backward()
        optimizer.step()
    where.mkdir(parents=True)
    checkpoint.save_origin(config, labels, {"revision": None}, where)
    Trainer(built.model, processing_class=built.tokenizer).save_model(str(where))
    return logits(built.model, built.tokenizer, config.kind)


@torch.no_grad()
def logits(model: Any, tokenizer: Any, kind: str) -> torch.Tensor:
    found: torch.Tensor = model.eval()(**batch(tokenizer, kind)).logits
    return found


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`")
@pytest.mark.parametrize(("kind", "family", "rank"), cases())
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
    checkpoint.save_origin(config, LABELS, {"revision": None}, where)
    with (tmp_path / "all/base/config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(UserError, match=r"has changed since .* \(config.json\)"):
        checkpoint.save_origin(config, LABELS, {"revision": None}, where)


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
SHORT = ["--generation.max_new_tokens", "4", "--data.max_target_length", "16"]
RUNS = {
    "whole": ("classify", "bert", []),
    "adapters": ("classify", "bart", ["--model.lora.rank", "2", "--attention.start", "calibrated"]),
    "embeddings": (
        "classify",
        "llama",
        ["--model.lora.rank", "2", "--model.lora.target_modules", "[embed_tokens]"],
    ),
    "translator": ("translate", "bart", [*SHORT, "--model.lora.rank", "2"]),
}


class Kept:
    """What a finished run was held to: the arguments of ``reloaded.check``, and a copy of its folder."""

    def __init__(self, root: Path, name: str) -> None:
        verb, family, options = RUNS[name]
        pretrained(family, "classification", root / "base")
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")  # as it should
            patch.setattr(finetune.training.run.reloaded, "check", self._keep)
            model = ["--model", str(root / "base"), "--data.max_length", "16", "--data.test_rows", "5"]
            assert run(verb, root / "runs", *QUICK, *model, *OWN_DROPOUT, *options) == 0

    def _keep(self, *arguments: Any, **rows: Any) -> dict[str, Any]:
        *self.arguments, self.folder = arguments
        self.rows = rows
        return check(*arguments, **rows)

    def copy(self, where: Path) -> Path:
        shutil.copytree(self.folder, where)
        return where

    def check(self, folder: Path) -> dict[str, Any]:
        return check(*self.arguments, folder, **self.rows)


check = finetune.training.run.reloaded.check


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Kept]:
    return {name: Kept(tmp_path_factory.mktemp(name), name) for name in RUNS}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_finished_run_says_that_it_was_loaded(kept: dict[str, Kept], name: str) -> None:
    entry = store.read(kept[name].folder)
    assert entry["model"]["reloaded"] == {"rows": 5, "equal": True, "ties": 0}


def in_weights(file: str, part: str) -> Any:
    """A weight of ``file`` whose name holds ``part`` is moved by a thousandth."""

    def spoil(folder: Path) -> None:
        weights = load_file(folder / file)
        next(weights[key] for key in sorted(weights) if part in key).view(-1)[0] += 1e-3
        save_file(weights, folder / file, metadata={"format": "pt"})

    return spoil


def in_text(file: str, before: str, after: str) -> Any:
    def spoil(folder: Path) -> None:
        text = (folder / file).read_text()
        assert before in text
        (folder / file).write_text(text.replace(before, after, 1))

    return spoil


def other_tokenizer(folder: Path) -> None:
    train_tokenizer(BERT.recipe, iter(TEXTS), 270).save_pretrained(folder)


def without(file: str) -> Any:
    return lambda folder: (folder / file).unlink()


WHOLE, ADAPTERS = "model.safetensors", "adapter_model.safetensors"
SPOILT = [
    ("whole", in_weights(WHOLE, "classifier"), "its weights are others"),
    ("whole", in_weights(WHOLE, "embeddings.word"), "its weights are others"),
    ("whole", other_tokenizer, "other tokens of the test rows"),
    ("whole", without(WHOLE), "no file named"),
    ("whole", in_text("config.json", '"gelu"', '"relu"'), "its loss on"),
    ("whole", in_text("config.json", '"num_attention_heads": 3', '"num_attention_heads": 9'), "its loss on"),
    ("whole", in_text("config.json", '"intermediate_size": 11', '"intermediate_size": 12'), "has the shape"),
    ("whole", in_text("finetune.yaml", "variant: sa-softmax", "variant: softmax"), "its loss on"),
    ("adapters", in_weights(ADAPTERS, "lora_B"), "its weights are others"),
    ("adapters", in_weights(ADAPTERS, "classification_head"), "its weights are others"),
    ("adapters", without("calibration.json"), "its weights are others"),
    ("adapters", without("adapter_config.json"), "adapter_config.json"),
    ("adapters", in_text("adapter_config.json", '"lora_alpha": 16', '"lora_alpha": 19'), "lora_alpha is 19"),
    ("embeddings", in_weights(ADAPTERS, "lora_embedding_B"), "its weights are others"),
    ("translator", in_weights(ADAPTERS, "lora_A"), "its weights are others"),
    ("translator", in_text("finetune.yaml", "max_new_tokens: 4", "max_new_tokens: 2"), "it predicts"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "spoil", "said"), SPOILT)
def test_a_folder_that_holds_another_model_is_told(
    kept: dict[str, Kept], tmp_path: Path, name: str, spoil: Any, said: str
) -> None:
    folder = kept[name].copy(tmp_path / "run")
    assert kept[name].check(folder)["equal"]
    spoil(folder)
    with pytest.raises((ReloadError, UserError), match=re.escape(said)):
        kept[name].check(folder)


@pytest.mark.slow
def test_a_run_whose_folder_holds_another_model_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = finetune.training.run.loop.fit

    def spoiling(*arguments: Any, **named: Any) -> Any:
        outcome = fit(*arguments, **named)
        where: Path = arguments[-1]
        in_weights(WHOLE, "")(where)
        return outcome

    monkeypatch.setattr(finetune.training.run.loop, "fit", spoiling)
    assert run("classify", tmp_path, *QUICK) == 1
    where = folder("classify", tmp_path, "sa-softmax")
    entry = store.read(where)
    assert entry["status"] == "failed" and "its weights are others" in entry["reason"]
    assert entry["metrics"] is None and "is not the one that was measured" in capsys.readouterr().err
    assert not (where / store.PREDICTIONS).exists()
