"""Models that bring code, kernels or another model with them: refused in one line, or read without it."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from finetune import load
from finetune.cli.main import main
from finetune.errors import UserError
from finetune.models.builder import weights_fingerprint
from finetune.models.pretrained import build_tokenizer, load_pretrained
from finetune.models.scratch import BERT
from tests.support import pretrained_models
from tests.support.pretrained_models import change_json
from tests.support.records import run_config
from tests.support.small_runs import COMMON

CLASSES = ("AutoConfig", "AutoModel", "AutoModelForSequenceClassification", "AutoModelForSeq2SeqLM")
AUTO_MAP = dict.fromkeys(CLASSES, "mine.Mine")
OWN_TOKENIZER = {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}
LABELS = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
ONE_STEP = ("--attention", "softmax", "--train.max_steps", "1")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pretrained_models.save("bert", tmp_path_factory.mktemp("pretrained") / "bert")


@pytest.fixture
def model(pretrained: Path, tmp_path: Path) -> Path:
    """A model's folder that may be spoilt, with code beside it that would leave a mark."""
    folder = tmp_path / "model"
    shutil.copytree(pretrained, folder)
    for name in ("mine.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Mine: ...\n")
    return folder


def pickled(mark: Path) -> bytes:
    """What makes the folder ``mark`` where it is unpickled, in the protocol that torch writes."""
    return pickle.dumps(Mark(mark), protocol=2)


class Mark:
    """Unpickled, it makes a folder."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def trained(model: Path, *options: str) -> int:
    return main(
        [
            "classify",
            "--output",
            str(model.parent / "runs"),
            *COMMON,
            *ONE_STEP,
            "--model",
            str(model),
            *options,
        ]
    )


def is_refused(model: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    """In one line, before a run is begun, and nothing has been run."""
    capsys.readouterr()
    assert trained(model) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("finetune: ")]
    assert len(told) == 1 and words in told[0] and "weights_only" not in told[0], told
    assert not (model.parent / "ran").exists() and not (model.parent / "runs").exists()


def read(model: Path) -> Any:
    """Model and tokenizer, by what every verb reads them with."""
    config = run_config(model={"name": str(model)})
    loaded = load_pretrained(config, AutoModelForSequenceClassification, str(model), None, LABELS)
    return loaded.model, build_tokenizer(config, BERT.recipe, iter(()))


def _config(**values: Any) -> Callable[[Path], None]:
    return lambda model: change_json(model / "config.json", **values)


def _tokenizer(**values: Any) -> Callable[[Path], None]:
    return lambda model: change_json(model / "tokenizer_config.json", **values)


def _without_a_type(model: Path) -> None:
    content = json.loads((model / "config.json").read_text())
    del content["model_type"]
    (model / "config.json").write_text(json.dumps({**content, "auto_map": AUTO_MAP}))


def _parts(model: Path) -> None:
    content = json.loads((model / "config.json").read_text())
    own = {**content, "auto_map": AUTO_MAP, "_name_or_path": str(model)}
    change_json(model / "config.json", model_type="encoder-decoder", encoder=content, decoder=own)


def _nameless_tokenizer(model: Path) -> None:
    _config(auto_map=OWN_TOKENIZER)(model)
    (model / "tokenizer_config.json").write_text("{}")


def _adapters(model: Path) -> None:
    own = {"base_model_class": "Mine", "parent_library": "mine"}
    content = {"peft_type": "LORA", "base_model_name_or_path": "org/other", "auto_mapping": own}
    (model / "adapter_config.json").write_text(json.dumps(content))


def _adapters_alone(model: Path) -> None:
    _adapters(model)
    (model / "config.json").unlink()


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "a type of its own": (_config(auto_map=AUTO_MAP, model_type="mine"), "auto_map in its config.json"),
    "trusted by itself": (
        _config(auto_map=AUTO_MAP, model_type="mine", trust_remote_code=True),
        "auto_map in its config.json",
    ),
    "no type": (_without_a_type, "auto_map in its config.json"),
    "in a part": (_parts, "in a part of its config.json"),
    "tokenizer": (_tokenizer(auto_map=OWN_TOKENIZER, tokenizer_class="Mine"), "the tokenizer of"),
    "tokenizer, as a list": (
        _tokenizer(auto_map=["mine.Mine", None], tokenizer_class="Mine"),
        "the tokenizer of",
    ),
    "tokenizer in config.json": (_nameless_tokenizer, "the tokenizer of"),
    "adapters beside a model": (_adapters, "holds adapters"),
    "adapters alone": (_adapters_alone, "holds adapters"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_model_that_brings_code_or_another_model_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    change, words = REFUSED[kind]
    change(model)
    is_refused(model, capsys, words)


READ: dict[str, Callable[[Path], None]] = {
    "known type": _config(auto_map=AUTO_MAP, trust_remote_code=True),
    "known tokenizer": _tokenizer(auto_map=OWN_TOKENIZER),
    "generation": lambda model: (model / "generation_config.json").write_text(
        json.dumps({"custom_generate": str(model), "trust_remote_code": True})
    ),
    "processor": lambda model: (model / "preprocessor_config.json").write_text(
        json.dumps({"auto_map": {"AutoProcessor": "mine.Mine"}, "processor_class": "Mine"})
    ),
    **{
        f"{key} {value}": _config(**{key: value})
        for key in ("_attn_implementation", "attn_implementation", "_experts_implementation")
        for value in ("org/kernel", "flash_attention_2", "nonsense", {"": "org/kernel"})
    },
}


@pytest.mark.parametrize("kind", READ)
def test_what_else_would_run_is_not_looked_at(pretrained: Path, model: Path, kind: str) -> None:
    READ[kind](model)
    wanted, found = read(pretrained), read(model)
    for each, other in zip(wanted[0].base_model.parameters(), found[0].base_model.parameters(), strict=True):
        assert torch.equal(each, other)
    assert type(found[0]).__module__.startswith("transformers.")
    assert found[1]("one two").input_ids == wanted[1]("one two").input_ids
    assert not (model.parent / "ran").exists()


# Pickles in a model's folder


def _alone(model: Path, name: str) -> None:
    """Take away what is read before ``name``."""
    taken = "model.safetensors" if name.startswith(("pytorch", "adapter")) else "tokenizer.json"
    if not name.endswith((".json", ".jinja")):
        (model / taken).unlink()


PICKLED = {
    "pytorch_model.bin": "not read", "adapter_model.bin": "model.safetensors",
    "config.json": "config.json", "tokenizer_config.json": "tokenizer_config.json",
    "tokenizer.json": "tokenizer.json", "special_tokens_map.json": "special_tokens_map.json",
    "added_tokens.json": "added_tokens.json", "vocab.json": "", "chat_template.jinja": "chat_template.jinja",
    "spiece.model": "", "sentencepiece.bpe.model": "", "tokenizer.model": "", "source.spm": "",
    "vocab.txt": "", "vocab.pkl": "",
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickle_in_a_model_is_refused_in_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    _alone(model, name)
    if name == "vocab.json":
        (model / "tokenizer.json").unlink()
    (model / name).write_bytes(pickled(model.parent / "ran"))
    is_refused(model, capsys, PICKLED[name])


def test_a_pickle_in_the_shards_of_a_model_is_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    shard = "pytorch_model-00001-of-00001.bin"
    index = {"metadata": {"total_size": 0}, "weight_map": dict.fromkeys(weights, shard)}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (model / shard).write_bytes(pickled(model.parent / "ran"))
    is_refused(model, capsys, "not read")


@pytest.mark.parametrize(
    "name", ["tokenizer.pkl", "training_args.bin", "optimizer.pt", "generation_config.json"]
)
def test_a_pickle_that_no_model_needs_changes_nothing(pretrained: Path, model: Path, name: str) -> None:
    (model / name).write_bytes(pickled(model.parent / "ran"))
    read(model)
    assert not (model.parent / "ran").exists()


# Adapters of a run


@pytest.fixture(scope="module")
def adapters(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of LoRA."""
    root = tmp_path_factory.mktemp("adapters")
    words = ["classify", "--output", str(root), *COMMON, *ONE_STEP, "--model", str(pretrained)]
    assert main([*words, "--model.lora.rank", "2"]) == 0
    return next(root.rglob("adapter_config.json")).parent


ASKED: list[dict[str, Any]] = [
    {"megatron_config": {"a": 1}, "megatron_core": "megatron.mine"},
    {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
    {"corda_config": {"cache_file": "/tmp/mine"}},
    {"layer_replication": [[0, 2], [0, 2]]},
    {"lora_alpha": 99},
    {"r": 3},
    {"init_lora_weights": "pissa"},
]


@pytest.mark.parametrize("values", ASKED, ids=[next(iter(values)) for values in ASKED])
def test_adapters_whose_settings_are_not_the_run_s_are_refused(
    adapters: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    copied = tmp_path / "run"
    shutil.copytree(adapters, copied)
    change_json(copied / "adapter_config.json", **values)
    with pytest.raises(UserError, match=f"is not what the run wrote: {min(values)} is "):
        load(copied)


def test_where_adapters_say_that_they_come_from_is_not_followed(adapters: Path, tmp_path: Path) -> None:
    copied = tmp_path / "run"
    shutil.copytree(adapters, copied)
    own = {"base_model_class": "Mine", "parent_library": "mine"}
    change_json(copied / "adapter_config.json", base_model_name_or_path="org/other", auto_mapping=own)
    assert weights_fingerprint(load(copied)[0]) == weights_fingerprint(load(adapters)[0])
