"""What README and docs/ type exists, and what is generated is up to date. ``make docs`` checks the links."""

import json
import re
import shlex
import subprocess
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from transformers import Seq2SeqTrainingArguments

from docs.generate import configuration
from docs.generate.pages import pages
from finetune.attention import VARIANTS
from finetune.cli.main import parser
from finetune.config.identity import flatten
from finetune.config.loading import preset_names, read_preset
from finetune.studies.engines import ENGINES
from finetune.tasks import TASK_TYPES, get_task

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
OF_OTHERS = {  # options of tensorboard, Slurm, ray, accelerate and torchrun
    "logdir", "array", "ntasks", "gpus-per-task", "head", "address", "multi_gpu", "num_processes",
    "nnodes", "nproc-per-node", "rdzv-endpoint", "shutdown_timeout", "signals_to_handle", "use_fsdp",
}  # fmt: skip
document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)


def commands(text: str) -> list[list[str]]:
    """Each command in a document's shell blocks and its ``make ...`` phrases, split into words."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    typed = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    typed += re.findall(r"(?<!`)`(make(?: [^`]+)?)`(?!`)", text)
    return [shlex.split(line.replace("...", ""), comments=True) for line in typed]


def verbs() -> dict[str, set[str]]:
    """Verb of the command -> its options, without their dashes."""
    return {
        verb: {option.lstrip("-") for action in its._actions for option in action.option_strings}
        for verb, its in parser()[1].items()
    }


def configuration_keys() -> set[str]:
    """Every key of the configuration and option of an engine, as it is typed after two dashes."""
    presets = [read_preset(kind, preset) for kind in TASK_TYPES for preset in preset_names(kind)]
    keys = {key for preset in presets for key in flatten(preset)}
    keys |= {f"train.{field.name}" for field in fields(Seq2SeqTrainingArguments)}
    keys |= {f"{each.name}.{field.name}" for each in ENGINES.values() for field in fields(each.options)}
    return keys | {f"attention.parameters.{name}" for each in VARIANTS.values() for name in each.parameters}


@document
def test_a_document_types_targets_and_variables_that_the_makefile_has(path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    for words in commands(path.read_text(encoding="utf-8")):
        for word in words[1:] if words[0] == "make" else ():
            variable, equals, _ = word.partition("=")
            known = f"$({variable})" in makefile if equals else word in targets
            assert known, f"{path.name}: {shlex.join(words)}: the Makefile has no {variable}"
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony and set(phony[1].split()) == targets


def test_folders_and_files_of_the_makefile_may_have_a_space_in_their_names() -> None:
    given = [
        f"{variable}=my {variable}"
        for variable in ("OUTPUT", "DATA", "CONFIG", "MODEL", "STUDY", "RUN", "TASK")
    ]
    for target in ("classify", "pretrain", "compare", "view", "push", "study", "bench"):
        words = ["make", "-n", "-o", ".venv/.ready", target, "TO=me/mine", *given]
        printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        used = re.findall(r"my ([A-Z]+)", printed)
        assert used and shlex.split(printed).count("my") == 0, printed


@document
def test_a_document_types_verbs_and_options_that_the_command_has(path: Path) -> None:
    text, known_verbs = path.read_text(encoding="utf-8"), verbs()
    for words in commands(text):
        if words[0].endswith("finetune"):
            assert words[1] in known_verbs, f"{path.name}: {shlex.join(words)}"
    known = configuration_keys() | OF_OTHERS | set().union(*known_verbs.values())
    code = "\n".join(re.findall(r"```sh\n.*?```|`[^`\n]+`", text, flags=re.DOTALL))
    for option in re.findall(r"(?<![\w-])--([a-z_][\w.-]*\w)(?![\w.]*\*)", code):
        assert option in known, f"{path.name} names --{option}"


@document
def test_runs_that_a_document_begins_from_are_those_that_it_makes(path: Path) -> None:
    """The folder of a pretraining is called after the model of its preset."""
    made, begun = set(), set()
    for words in commands(path.read_text(encoding="utf-8")):
        given = dict(word.split("=", 1) for word in words if "=" in word)
        if words[:2] == ["make", "pretrain"]:
            kind, preset = given.get("OBJECTIVE", "causal"), given.get("PRESET", "quick")
            model = given.get("MODEL", read_preset(kind, preset)["model"]["name"])
            made.add(f"{given.get('OUTPUT', 'runs')}/{given.get('TASK', 'books')}/{model.replace(':', '-')}")
        begun |= set(re.findall(r"pretrained:(?:softmax@)?([\w/-]+)", " ".join(words)))
    assert begun <= made


@pytest.mark.parametrize("file", ["Makefile", "README.md", "docs/quickstart.md"])
def test_the_time_of_a_useful_number_is_that_of_the_kept_runs(file: str) -> None:
    text = " ".join((ROOT / file).read_text(encoding="utf-8").replace("\\", "").split())
    useful = 'PRESET=small DATA=hub ATTENTION="softmax sa-softmax" SEEDS="0 1 2" OUTPUT=runs-small'
    kept = ROOT / "results/cpu/agnews-pretrained/agnews/all-MiniLM-L6-v2"
    records = [file for name in ("softmax", "sa-softmax") for file in kept.glob(f"{name}/*/record.json")]
    minutes = fmean(json.loads(record.read_text())["times"]["total_s"] for record in records) / 60
    assert len(records) == 12 and useful in text
    assert f"about {6 * minutes:.0f} minutes" in text and f"{minutes:.1f} " in text


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_generated_pages_are_up_to_date() -> None:
    stale = [path for path, text in pages() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, "python -m docs.generate makes them anew"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (0, "0"), (0.0, "0.0"), (True, "true"), (None, "null"), ({}, "{}"), ("a", "a")],
)
def test_the_reference_shows_a_value_as_its_preset_has_it(value: object, text: str) -> None:
    assert configuration._value({"key": value}, "key") == f"`{text}`"


def test_the_kept_notebook_holds_no_times() -> None:
    nbformat = pytest.importorskip("nbformat")  # of the extra "docs"
    pytest.importorskip("nbclient")
    from docs.generate.notebook import NOTEBOOK, kept

    def printed(name: str, text: str) -> Any:
        return nbformat.v4.new_output("stream", name=name, text=text)

    log = (
        "  step 2 of 4, about 2 min left, loss 1.2\n  trained to step 4 in 3.5 h; predicting the test rows\n"
    )
    cell = nbformat.v4.new_code_cell(
        outputs=[
            printed("stdout", log[:30]),
            printed("stderr", "50%"),
            printed("stdout", log[30:]),
            printed("stdout", "[1/1] accuracy 79.00% | runs/a | 16 s\n"),
        ]
    )
    (output,) = kept(nbformat.v4.new_notebook(cells=[cell])).cells[0].outputs
    assert output.text == (
        "  step 2 of 4, loss 1.2\n  trained to step 4; predicting the test rows\n"
        "[1/1] accuracy 79.00% | runs/a\n"
    )
    example = nbformat.read(NOTEBOOK, as_version=4)
    assert kept(deepcopy(example)) == example, "python -m docs.generate.notebook --write makes it anew"


def python_block(page: str, holding: str) -> str:
    """The one Python block of a page of docs/ that holds a word."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (block,) = [each for each in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if holding in each]
    return block


def test_the_task_of_the_docs_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(python_block("tasks.md", "finetune.tasks"), encoding="utf-8")
    assert get_task(str(tmp_path / "mine.py")).kind == "classification"
