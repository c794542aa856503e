"""Pushing a run to the Hub and loading it from there: the real client against a stand-in on the loopback.

The client reads its settings when it is imported, so all that is pushed is pushed by one process of its own.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from transformers import AutoModelForSequenceClassification

from finetune import load
from finetune.cli.main import main
from finetune.config.loading import merge
from finetune.errors import UserError
from finetune.models.checkpoint import CONFIG_FILE
from finetune.publishing import push as push_module
from finetune.publishing.push import push
from finetune.records import store
from tests.support.hub_standin import Hub, Repository, serve
from tests.support.records import classified, correctness, save, started
from tests.support.small_runs import COMMON, run

ROOT = Path(__file__).parents[2]
TOKENS = torch.tensor([[2, 40, 41, 57, 3]])
PROGRAM = """
import contextlib, io, json, sys
from pathlib import Path
import torch
from huggingface_hub import HfApi, constants
from finetune import load
from finetune.records import store as record
from finetune.cli.main import main
from finetune.errors import UserError

def type_(*words):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(list(words))
    return [status, said.getvalue().strip()]

def logits(name, revision=None):
    try:
        with torch.no_grad():
            return load(name, revision)[0](input_ids=torch.tensor(TOKENS)).logits.tolist()
    except UserError as error:
        return str(error)

def set_(name, value):
    setattr(constants, name, value)

for action, *words in json.loads(sys.argv[1]):
    print(json.dumps({"type": type_, "load": logits, "set": set_}[action](*words)))
"""


def logits(model: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits.tolist()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs on rows of a local folder, which lies at an absolute path."""
    root = tmp_path_factory.mktemp("here")
    words = ["up", "down", "left"] * 40
    rows = [{"text": f"{word} story {i}", "label": i % 4} for i, word in enumerate(words)]
    (root / "secret").mkdir()
    for name, part in (("train", rows[:80]), ("test", rows[80:])):
        (root / "secret" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    assert run("classify", root / "runs", "--attention", "softmax,sa-softmax", *real(root)) == 0
    return root


def real(root: Path) -> list[str]:
    return ["--data", str(root / "secret"), "--train.max_steps", "3", "--attention.kernel", "reference"]


def folder(root: Path, variant: str, model: str = "scratch-tiny") -> Path:
    return root / "runs" / "agnews" / model / variant / "seed-0"


@pytest.fixture(scope="module")
def told(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each step of one process gave, and the Hub afterwards."""
    variant, plain = str(folder(runs, "sa-softmax")), str(folder(runs, "softmax"))
    lora = folder(runs, "sa-softmax", "org--plain-lora2")
    train = ["classify", "--output", str(runs / "runs"), *COMMON, *real(runs), "--attention", "sa-softmax"]
    steps: dict[str, list[Any]] = {
        "pushed": ["type", "push", variant, "--to", "org/variant"],
        "loaded": ["load", "org/variant"],
        "no xet": ["set", "HF_HUB_DISABLE_XET", True],
        "pushed by LFS": ["type", "push", plain, "--to", "org/plain", "--private"],
        "loaded by LFS": ["load", "org/plain"],
        "adapters trained": ["type", *train, "--model", "org/plain", "--model.lora.rank", "2"],
        "adapters pushed": ["type", "push", str(lora), "--to", "org/replaced"],
        "adapters loaded": ["load", "org/replaced"],
        "adapters here": ["load", str(lora)],
        "replaced": ["type", "push", variant, "--to", "org/replaced"],
        "replaced loaded": ["load", "org/replaced"],
        "foreign": ["type", "push", plain, "--to", "org/foreign"],
        "foreign loaded": ["load", "org/foreign"],
        "public": ["type", "push", plain, "--to", "org/variant", "--private"],
        "forbidden": ["type", "push", plain, "--to", "other/run"],
        "unknown": ["load", "org/nothing"],
        "unknown revision": ["load", "org/variant", "v2"],
        "gone": ["set", "ENDPOINT", "http://127.0.0.1:9"],
        "pushed to nowhere": ["type", "push", variant, "--to", "org/variant"],
        "offline": ["set", "HF_HUB_OFFLINE", True],
        "pushed offline": ["type", "push", variant, "--to", "org/variant"],
        "loaded offline": ["load", "org/variant"],
        "unknown offline": ["load", "org/nothing"],
    }
    foreign = Repository({"main": {"model.safetensors": b"1", "README.md": b"Mine"}})
    before = contents(runs)
    with serve(Hub({}, models={"org/foreign": foreign}, large=("org/plain",))) as hub:
        answers = tell(hub, tmp_path_factory.mktemp("hf"), list(steps.values()))
    assert {name: contents(runs)[name] for name in before} == before  # a push changes no run
    return dict(zip(steps, answers, strict=True)) | {"hub": hub}


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def tell(hub: Hub, cache: Path, steps: list[Any]) -> list[Any]:
    settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": hub.token}
    program = PROGRAM.replace("TOKENS", str(TOKENS.tolist()))
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(steps)],
        env={**os.environ, **settings, "HF_HOME": str(cache)},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def published(told: dict[str, Any], name: str) -> dict[str, bytes]:
    files: dict[str, bytes] = told["hub"].models[name].files("main")
    return files


@pytest.mark.slow
def test_a_pushed_run_comes_back_with_its_attention(told: dict[str, Any], runs: Path) -> None:
    status, said = told["pushed"]
    assert status == 0, said
    assert said.splitlines()[1] == 'load it with: finetune.load("org/variant")'
    here = folder(runs, "sa-softmax")
    assert told["loaded"] == told["loaded offline"] == logits(load(here)[0])
    plain = AutoModelForSequenceClassification.from_pretrained(here).eval()
    assert told["loaded"] != logits(plain)  # what from_pretrained alone makes of the same weights


def test_a_run_leaves_a_card_whose_code_runs(runs: Path) -> None:
    text = (folder(runs, "sa-softmax") / "README.md").read_text()
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(code, names)
    assert logits(names["model"]) == logits(load(folder(runs, "sa-softmax"))[0])
    assert names["inputs"]["input_ids"].shape[0] == 1


@pytest.mark.slow
def test_only_what_loads_and_explains_it_is_pushed(told: dict[str, Any]) -> None:
    assert set(published(told, "org/variant")) == {
        "README.md", "record.json", "finetune.yaml", "origin.yaml", "config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.slow
def test_no_path_of_this_machine_is_pushed(told: dict[str, Any], runs: Path) -> None:
    files = published(told, "org/variant")
    assert not [name for name, content in files.items() if str(runs).encode() in content]
    entry = json.loads(files["record.json"])
    assert entry["data"]["location"] == "secret" and "--data secret" in entry["command"]
    local = store.read(folder(runs, "sa-softmax"))
    assert entry["metrics"] == local["metrics"] and entry["task"] == local["task"]
    for name in ("predictions", "probabilities", "diagnostics"):
        assert entry[name] is None  # a file that is not there
    assert yaml.safe_load(files["finetune.yaml"])["attention"]["variant"] == "sa-softmax"


@pytest.mark.slow
def test_the_card_of_a_pushed_run_names_the_repository(told: dict[str, Any]) -> None:
    text = published(told, "org/variant")["README.md"].decode()
    assert 'finetune.load("org/variant")' in text
    assert ModelCard(text).data.eval_results[0].metric_type == "accuracy"
    assert text in told["hub"].cards  # the Hub was asked whether its head is right


@pytest.mark.slow
def test_large_files_go_by_lfs_into_a_private_repository(told: dict[str, Any], runs: Path) -> None:
    assert told["pushed by LFS"][0] == 0, told["pushed by LFS"][1]
    assert published(told, "org/plain")["model.safetensors"] in told["hub"].objects.values()
    assert told["hub"].models["org/plain"].private and not told["hub"].models["org/variant"].private
    assert told["loaded by LFS"] == logits(load(folder(runs, "softmax"))[0])


@pytest.mark.slow
def test_adapters_come_back_on_their_base_model(told: dict[str, Any], runs: Path) -> None:
    assert told["adapters trained"][0] == told["adapters pushed"][0] == 0, told["adapters pushed"]
    assert told["adapters loaded"] == told["adapters here"]
    card = (folder(runs, "sa-softmax", "org--plain-lora2") / "README.md").read_text()
    assert "library_name: softmax-finetune" in card  # in the place of the one that peft writes
    assert "The adapters are loaded onto org/plain." in card


@pytest.mark.slow
def test_a_push_replaces_the_run_that_was_there(told: dict[str, Any]) -> None:
    assert told["replaced"][0] == 0
    assert "adapter_config.json" not in published(told, "org/replaced")
    assert told["replaced loaded"] == told["loaded"] != told["adapters loaded"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("foreign", "org/foreign holds something else (model.safetensors)"),
        ("public", "org/variant is there already and public"),
        ("forbidden", "You have no rights to create a model under other; set HF_TOKEN"),
        ("pushed to nowhere", "cannot push to org/variant: ConnectError"),
        ("pushed offline", "HF_HUB_OFFLINE is set: unset it to push"),
    ],
)
def test_a_push_that_cannot_be_is_one_line(told: dict[str, Any], step: str, said: str) -> None:
    status, error = told[step]
    assert status == 2 and error.startswith("finetune: error: ") and said in error
    assert "\n" not in error and "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("foreign loaded", "org/foreign on the Hub is not a run: it holds no finetune.yaml"),
        ("unknown", "has no model 'org/nothing' that you may read"),
        ("unknown revision", "has no model 'org/variant' at revision 'v2'"),
        ("unknown offline", "'org/nothing' is no folder here, the Hub is out of reach (HF_HUB_OFFLINE"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(told: dict[str, Any], step: str, said: str) -> None:
    assert said in told[step] and "\n" not in told[step]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"sample": True}}, "trained on the synthetic SAMPLE"),
        ({"status": "running"}, "is running: only a finished one is pushed"),
        ({"status": "failed", "reason": "loss became NaN"}, "is failed (loss became NaN): only a finished"),
        ({"config": {"model": {"name": "models/mine", "lora": {"rank": 8}}}}, "adapters of models/mine"),
    ],
)
def test_only_a_finished_run_on_real_data_is_pushed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], said: str
) -> None:
    where = save(tmp_path, started("sa-softmax", 0), classified(correctness(9, 0.5, 0)))
    entry = store.read(where)
    store.write(where, merge(entry, change))
    assert main(["push", str(where), "--to", "org/run"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["push", "nowhere", "--to", "org/run"], "nowhere is no run folder: it holds no record.json"),
        (["push", "RUN", "--to", "run"], "--to takes the id of a Hub repository, such as org/name, not"),
        (["push", "RUN", "--to", "a/b/c"], "such as org/name, not 'a/b/c'"),
        (["push", "RUN"], "--to"),
        (["push", "RUN", "--to", "org/run", "--public"], "finetune push takes no '--public'"),
    ],
)
def test_what_was_typed_wrong(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    run_folder = str(folder(runs, "sa-softmax"))
    assert main([run_folder if word == "RUN" else word for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_nobody_logged_in(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match=r"nobody is logged in to .*: set HF_TOKEN"):
        push(folder(runs, "sa-softmax"), "org/run", private=False)


def test_a_folder_is_loaded_before_it_is_pushed(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_writes")
    shutil.copytree(folder(runs, "sa-softmax"), tmp_path / "run")
    (tmp_path / "run" / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match="cannot be loaded as it would be published"):
        push(tmp_path / "run", "org/run", private=False)


def test_a_revision_is_of_a_repository(runs: Path) -> None:
    with pytest.raises(UserError, match="a revision is one of a repository on the Hub"):
        load(folder(runs, "sa-softmax"), revision="main")
    with pytest.raises(UserError, match=f"is not a run folder: it holds no {CONFIG_FILE}"):
        load(Path("org/run"))


def test_a_result_on_a_whole_data_set_of_the_hub_is_pushed_beside_the_card(
    runs: Path, tmp_path: Path
) -> None:
    here = folder(runs, "sa-softmax")
    entry = store.read(here)
    assert entry["data"] is not None
    test = entry["data"]["splits"]["test"]
    test["of"] = test["rows"]
    entry["data"] = {**entry["data"], "kind": "hub", "location": "org/rows", "revision": "0" * 40}
    push_module._lay_out(here, entry, "org/run", tmp_path)
    (result,) = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results/rows.yaml").read_text()))
    assert entry["metrics"] is not None
    assert (result.dataset_id, result.value) == ("org/rows", entry["metrics"]["accuracy"]["value"])
