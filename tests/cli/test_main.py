"""The command: quick help, one clear line and status 2 for every mistake, and nothing written or lost."""

import errno
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

import finetune
import finetune.cli.train
from finetune.attention import VARIANTS
from finetune.cli.main import main, parser
from finetune.cli.train import ALIASES, TYPES
from finetune.config.loading import preset_names, read_preset
from finetune.records import store
from finetune.studies.grid import Cell
from finetune.studies.state import look
from finetune.system import files, hints
from finetune.system.text import is_quiet
from finetune.tasks import TASK_TYPES, TASKS
from tests.support.records import classified, save, started
from tests.support.small_runs import COMMON, folder, run
from tests.support.trained import GRID, Trained

SAMPLE = ["--data", "sample"]
HEAVY = ["torch", "transformers", "datasets", "jsonargparse", "numpy", "scipy", "sklearn"]


@pytest.fixture(autouse=True)
def own_folder(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Work in an empty folder; rows that ``datasets`` prepares go elsewhere, and its log is silent.

    The command silences that log itself, but only before ``datasets`` is first imported.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    before = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    yield
    datasets.logging.set_verbosity(before)


def contents(root: Path) -> dict[str, bytes | None]:
    """Every path below ``root`` with what it holds; None for a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(root.rglob("*"))}


def check_one_line(status: int, error: str, *telling: str) -> None:
    assert status == 2, error
    assert error.startswith("finetune: error: ") and error.endswith("\n") and error.count("\n") == 1, error
    assert "Traceback" not in error
    for words in telling:
        assert words in error


def check_mistake(capsys: pytest.CaptureFixture[str], words: list[str], *telling: str) -> None:
    """``finetune WORDS`` says what is wrong in one line, and leaves the working folder as it was."""
    before = contents(Path.cwd())
    status = main(words)
    check_one_line(status, capsys.readouterr().err, *telling)
    assert contents(Path.cwd()) == before


def planned(monkeypatch: pytest.MonkeyPatch, *words: str) -> list[Cell]:
    """The grid that ``finetune WORDS`` would run."""
    grids: list[list[Cell]] = []

    def keep(cells: list[Cell], *_: str) -> int:
        grids.append(cells)
        return 0

    monkeypatch.setattr(finetune.cli.train, "run_grid", keep)
    monkeypatch.setattr(finetune.cli.train, "compare_grid", lambda _: None)
    assert main(list(words)) == 0
    return grids[0]


# Help


def without_heavy_imports(*words: str) -> subprocess.CompletedProcess[str]:
    """``finetune WORDS`` in a process of its own, of which no heavy module was imported."""
    code = (
        "import sys\nfrom finetune.cli.main import main\n"
        "try: status = main(sys.argv[2:])\nexcept SystemExit as end: status = end.code\n"
        "found = set(sys.argv[1].split()) & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else status)"
    )
    command = [sys.executable, "-c", code, " ".join(HEAVY), *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "imported" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("words", [["classify", "--lr", "3e-4"], ["study", "downstream"]])
def test_a_dry_run_imports_nothing_heavy_and_begins_nothing(words: list[str]) -> None:
    done = without_heavy_imports(*words, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "") and "none was begun" in done.stdout
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["classify", "--help"], ["compare", "--help"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    done = without_heavy_imports(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: finetune")


@pytest.mark.parametrize(
    ("words", "telling"),
    [
        (["classify", "--task", "agnewz"], "did you mean 'agnews'?"),
        (["classify", "--trian.max_steps", "3"], "did you mean '--train'?"),
    ],
)
def test_a_misspelt_word_is_told_before_anything_heavy_is_imported(words: list[str], telling: str) -> None:
    done = without_heavy_imports(*words)
    check_one_line(done.returncode, done.stderr, telling)


def test_the_help_of_each_verb_with_arguments_ends_with_examples_that_it_reads() -> None:
    command, verbs = parser()
    for name, verb in verbs.items():
        shown = re.findall(r"^  (finetune .*)$", verb.epilog or "", flags=re.MULTILINE)
        assert shown or name in ("tasks", "variants", "env"), name
        for example in shown:
            words = shlex.split(re.split(r" {4,}| > ", example)[0])[1:]
            options, rest = command.parse_known_args(words)
            assert options.verb == name and (not rest or name in TYPES)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"finetune {finetune.__version__}\n"


@pytest.mark.parametrize("words", [["--quiet", "classify"], ["classify", "-q"]])
def test_quiet_prints_the_result_alone(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    assert main([*words, *COMMON, "--attention", "softmax", "--train.max_steps", "1"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("agnews · scratch:tiny · SAMPLE") and not printed.err
    assert not is_quiet()


def test_quiet_and_verbose_are_opposites(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quiet", "classify", "--verbose", "--plan"]) == 2
    assert "--quiet and --verbose ask for opposites" in capsys.readouterr().err


def test_a_table_of_the_user_s_own_needs_no_declaration(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [f"{('bad', 'good')[i % 2]} thing {i},{('one', 'five')[i % 2]}" for i in range(90)]
    Path("reviews.csv").write_text("\n".join(["review,stars", *rows]))
    table = ["--data", "reviews.csv", "--text", "review", "--label", "stars"]
    short = ["--attention", "softmax", "--train.max_steps", "1", "--data.validation_rows", "10"]
    assert main(["classify", "--task", "csv", *table, *short]) == 0
    (kept,) = Path("runs/reviews").rglob("finetune.yaml")
    assert store.read(kept.parent)["task"]["labels"] == ["five", "one"]
    assert "--output runs-full --text review --label stars" in capsys.readouterr().out
    assert main(["run", str(kept), "--data", "reviews.csv"]) == 0
    assert "finished already, skipped" in capsys.readouterr().out
    check_mistake(capsys, ["classify", "--name", "mine", *table], "give --task csv")


# What the verbs print


def test_tasks_lists_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tasks"]) == 0
    printed = capsys.readouterr().out
    for task in TASKS.values():
        assert f"{task.name}: {task.title}\n" in printed
        assert task.licence in printed and (task.hub_id or "local files only") in printed
    assert "4 classes from text" in printed and "de-en" in printed


def test_variants_lists_every_variant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["variants"]) == 0
    printed = capsys.readouterr().out
    for variant in VARIANTS.values():
        assert f"{variant.name}: {variant.summary}\n" in printed
        assert variant.equation in printed and variant.paper in printed
    assert "eps=1e-06" in printed and "2502.18277" in printed
    controls = [name for name, variant in VARIANTS.items() if variant.control]
    assert printed.count("  control, not from the paper") == len(controls) >= 6


def test_env_is_json_with_versions_and_hardware(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["torch"] and found["versions"]["transformers"]
    assert found["hardware"]["cores"] >= 1


def test_validate_checks_every_preset_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    presets = [f"preset {kind} {name}: ok" for kind in TASK_TYPES for name in preset_names(kind)]
    assert lines == presets + [f"task {name}: ok" for name in sorted(TASKS)]
    assert main(["validate", "--task", "agnews", *SAMPLE]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("task agnews: ok, ")


# Options


def test_overrides_are_read_as_yaml_is(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--train.learning_rate 3e-5 --data.train_rows null --model.lora.alpha=8 --train.save_strategy no"
    words += (
        " --model.lora.target_modules=[query,value] --attention.parameters.eps .5e-3 --train.warmup_steps=5"
    )
    grid = planned(monkeypatch, "classify", *SAMPLE, *words.split())
    config = grid[1].config
    assert config.train["learning_rate"] == 3e-5 and config.train["warmup_steps"] == 5
    assert config.train["save_strategy"] == "no"
    assert config.data.train_rows is None
    assert (config.model.lora.alpha, config.model.lora.target_modules) == (8, ["query", "value"])
    assert config.attention.parameters == {"eps": 0.0005}
    assert grid[0].config.attention.parameters == {}  # softmax has none
    epochs = read_preset("classification", "quick")["train"]["num_train_epochs"]
    assert config.train["num_train_epochs"] == epochs


def test_the_grid_is_variants_times_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = planned(monkeypatch, "classify", *SAMPLE, "--attention", "softmax sa-softmax", "--seeds", "0, 2,0")
    cells = [(run.config.seed, run.config.attention.variant) for run in grid]
    assert cells == [(0, "softmax"), (0, "sa-softmax"), (2, "softmax"), (2, "sa-softmax")]
    assert [run.folder.as_posix() for run in grid][-1] == "runs/agnews/scratch-tiny/sa-softmax/seed-2"


def test_seeds_may_be_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = planned(monkeypatch, "classify", *SAMPLE, "--attention", "softmax", "--seeds", "0-2,7 5-5")
    assert [run.config.seed for run in grid] == [0, 1, 2, 7, 5]


@pytest.mark.parametrize("dash", ["_", "-"])
def test_names_of_other_programs_are_short_for_keys(monkeypatch: pytest.MonkeyPatch, dash: str) -> None:
    words = ["--lr", "3e-4", "--epochs", "1.5", f"--batch{dash}size", "7"]
    train = planned(monkeypatch, "classify", *SAMPLE, *words)[0].config.train
    wanted = {"learning_rate": 3e-4, "num_train_epochs": 1.5, "per_device_train_batch_size": 7}
    assert wanted.items() <= train.items() and list(ALIASES.values()) == [f"train.{key}" for key in wanted]


def test_later_files_and_then_options_win(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("one.yaml").write_text("seeds: [7]\ntrain: {max_steps: 1, learning_rate: 1e-3}\n")
    Path("two.yaml").write_text("train: {max_steps: 2, weight_decay: 0}\ndata: {source: hub}\n")
    files = ["--config", "one.yaml", "--config", "two.yaml"]
    grid = planned(monkeypatch, "classify", *files, *SAMPLE, "--train.learning_rate", "-0.0")
    config = grid[0].config
    assert (config.seed, config.data.source) == (7, "sample")
    assert {"max_steps": 2, "weight_decay": 0, "learning_rate": 0}.items() <= config.train.items()


def test_nothing_is_made_before_the_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    planned(monkeypatch, "translate", *SAMPLE, "--pair", "en-fr")
    assert list(Path.cwd().iterdir()) == []


def test_ctrl_c_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune.cli.train, "run_grid", interrupt)
    assert main(["classify"]) == 130
    assert capsys.readouterr().err.startswith("finetune: interrupted; the same command goes on")


# Mistakes on the command line

MISTAKES = [
    ("", "VERB", "--help"),
    ("clasify", "did you mean 'classify'?"),
    ("classify --task agnew", "unknown task 'agnew'", "did you mean 'agnews'?"),
    ("classify --task mine.py", "no task file 'mine.py'"),
    ("classify --task iwslt2017", "translation task", "use finetune translate"),
    ("translate --task agnews", "classification task", "use finetune classify"),
    ("translate --pair en-frr", "'en-frr'", "did you mean 'en-fr'?"),
    ("classify --pair de-en", "takes no pair"),
    ("classify --attention softmax,sa-sofmax", "'sa-sofmax'", "did you mean 'sa-softmax'?"),
    ("classify --attention ,", "variants must be a list"),
    ("classify --preset quik", "did you mean 'quick'?"),
    ("classify --model scratch:tny", "scratch size for classification 'tny'", "did you mean 'tiny'?"),
    ("translate --model scratch:iwslt14", "did you mean 'iwslt'?"),
    ("classify --model ./nowhere", "no model folder './nowhere'"),
    ("classify --model some/where/else", "no model folder"),
    ("classify --model org/nothing", "cannot load the model 'org/nothing'"),
    ("classify --data nowhere", "no data folder 'nowhere'"),
    ("classify --data hub --task amazon", "amazon-polarity"),
    ("classify --data hub", "cannot reach the Hub", "DATA=sample"),
    ("classify --seeds -1", "--seeds takes whole numbers from 0", "'-1'"),
    ("classify --seeds 0,one", "'one'"),
    ("classify --seeds 0.5", "'0.5'"),
    ("classify --seeds ²", "'²'"),
    ("classify --seeds 5-2", "--seeds takes ranges from the lower number: 2-5, not 5-2"),
    ("classify --seeds 0-", "ranges such as 0-5, not '0-'"),
    ("classify --seeds 0-99999999", "that is 100,000,000 runs"),
    ("classify --seeds 4294967296", "less than 4294967296"),
    ("classify --seeds", "--seeds", "expected one argument", "--help"),
    ("compare .", "there is no run in .", "--output"),
    ("classify --learning_rate 3e-5", "did you mean '--train.learning_rate'?"),
    ("classify --steps 2", "did you mean '--train.max_steps'?"),
    ("classify --lr fast", "train.learning_rate takes float", "'fast'"),
    ("classify --lr 1 --train.learning_rate 2", "--lr is short for --train.learning_rate: give one of them"),
    (
        "classify --model scratch:tiny --model.name org/x",
        "--model is short for --model.name: give one of them",
    ),
    ("pretrain --eval_lengths 64 --language.eval_lengths=[64]", "--eval_lengths is short for"),
    ("classify --train_rows 100", "did you mean '--data.train_rows'?"),
    ("classify --train.num_train_epochs 0", "trains nothing", "--train.max_steps"),
    ("classify --train.learning_rat 3e-5", "did you mean 'train.learning_rate'?"),
    ("classify --train.learning_rate", "--train.learning_rate needs a value"),
    ("classify --train.learning_rate=", "--train.learning_rate needs a value"),
    ("classify --train.learning_rate --train.max_steps 2", "--train.learning_rate needs a value"),
    ("classify --train.learning_rate fast", "train.learning_rate takes float", "'fast'"),
    ("classify --train.learning_rate -1e-3", "train.learning_rate must be at least 0"),
    ("classify --train.max_steps 2.5", "train.max_steps takes int", "2.5"),
    ("classify --train.load_best_model_at_end no", "takes bool", "'no'"),
    ("classify --train.per_device_train_batch_size 0", "at least 1"),
    ("classify --train.eval_strategy sometimes", "unknown value of train.eval_strategy 'sometimes'", "epoch"),
    ("classify --train.lr_scheduler_type liner", "'linear'"),
    ("classify --train.output_dir x", "train.output_dir is set by the run", "--output"),
    ("classify --train.hub_token x", "HF_TOKEN"),
    ("classify --train 5", "train: input should be a mapping"),
    ("classify --trian.max_steps 5", "unknown option '--trian'", "did you mean '--train'?"),
    ("classify --outpt x", "did you mean '--output'?"),
    ("classify --out x", "unknown option '--out'"),  # no guessing at what a shortened option means
    ("classify extra", "cannot make sense of 'extra'"),
    ("classify agnews", "type --task agnews"),
    ("classify --data.train_row 5", "did you mean 'data.train_rows'?"),
    ("classify --data.train_rows many", "data.train_rows", "valid integer", "'many'"),
    ("classify --data.train_rows true", "data.train_rows", "valid integer"),
    ("classify --data.train_rows 0", "data.train_rows: input should be greater than or equal to 1"),
    ("classify --data.validation_rows 0", "data.validation_rows: input should be greater than or equal to 1"),
    ("classify --data.split_seed -3", "data.split_seed"),
    ("classify --data.max_length 0", "data.max_length"),
    ("classify --data.source [", "cannot read the value '['"),
    ("classify --model.lora.rnk 4", "did you mean 'model.lora.rank'?"),
    ("classify --model.lora.rank 4", "adapts a pretrained model", "leave its rank at 0"),
    ("classify --model.dropout 1.5", "model.dropout", "less than 1"),
    ("classify --attention.scope crss", "'cross'", "'crss'"),
    ("classify --attention.variant softmax", "use --attention"),
    ("classify --attention.parameters.epsilon 1", "did you mean 'eps'?"),
    ("classify --attention.parameters.eps -1", "attention.parameters.eps", "greater than 0"),
    ("classify --attention.parameters 3", "attention must hold scope, kernel and parameters"),
    ("classify --generation.num_beams 3", "a classification task has none"),
    ("translate --generation null", "needs generation.num_beams"),
    ("classify --early_stopping_patience 2", "--train.load_best_model_at_end true"),
    ("classify --config nowhere.yaml", "nowhere.yaml", "No such file"),
    ("compare", "no folder runs"),
    ("compare nowhere", "no folder nowhere"),
    ("compare --bogus x", "takes no '--bogus'"),
    ("tasks --data sample", "finetune tasks takes no '--data'"),
    ("env x", "finetune env takes no 'x'"),
    ("validate --task agnew", "did you mean 'agnews'?"),
    ("validate --pair de-en", "give --task"),
]


@pytest.mark.parametrize(("words", "telling"), [(case[0], case[1:]) for case in MISTAKES])
def test_mistake_on_the_command_line(
    capsys: pytest.CaptureFixture[str], words: str, telling: tuple[str, ...]
) -> None:
    trains = words.startswith(("classify", "translate")) and "--data " not in words
    check_mistake(
        capsys, words.split() + (SAMPLE if trains and not words.endswith("seeds") else []), *telling
    )


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        ("a: [1,\nb: }\n", "bad.yaml is not valid YAML"),
        ("train: {max_steps: 1\n", "line 1"),
        ("train: {max_steps: 1}\ntrain: {max_steps: 2}\n", "the key 'train' is there twice"),
        ("data:\n  train_rows: 1\n  train_rows: 2\n", "the key 'train_rows' is there twice"),
        ("- a list\n", "must hold a mapping"),
        ("", "must hold a mapping"),
        ("\x00", "binary, not UTF-8 text"),
        ("seeds: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("trian: {max_steps: 3}\n", "unknown key 'trian': did you mean 'train'?"),
        ("data: {train_row: 3}\n", "did you mean 'data.train_rows'?"),
        ("train: {learning_rat: 3e-5}\n", "did you mean 'train.learning_rate'?"),
        ("train: {learning_rate: '3e-5'}\n", "train.learning_rate takes float, not '3e-5'"),
        ("model: {lora: {rank: '8'}}\n", "model.lora.rank"),
        ("attention: sa-softmax\n", "attention must hold"),
        ("variants: softmax\n", "variants must be a list of names"),
        ("variants: [softmax, sa-sofmax]\n", "did you mean 'sa-softmax'?"),
        ("seeds: [-1]\n", "seed: input should be greater than or equal to 0"),
        ("seeds: [true]\n", "seeds must be a list of whole numbers"),
        ("seeds: []\n", "seeds must be a list of whole numbers"),
        ("task: yelp\n", "unknown key 'task'"),
    ],
)
def test_mistake_in_a_file(capsys: pytest.CaptureFixture[str], content: str, telling: str) -> None:
    Path("bad.yaml").write_text(content)
    check_mistake(capsys, ["classify", *SAMPLE, "--config", "bad.yaml"], telling)


# Mistakes in the data

ROWS = [{"text": f"words of row {i}", "label": i % 4} for i in range(12)]
TEST = '{"text": "words", "label": 1}\n'


def lines(*changed: dict[str, Any]) -> str:
    """Sound rows of AG News, and then the given ones."""
    return "".join(json.dumps(row) + "\n" for row in [*ROWS, *changed])


Files = dict[str, str | bytes | None]
BAD_DATA: list[tuple[Files, tuple[str, ...]]] = [
    ({"test.jsonl": None}, ("no train split", "it holds nothing")),
    ({}, ("no train split", "train.parquet", "it holds test.jsonl")),
    ({"train.jsonl": lines(), "test.jsonl": None}, ("no test split",)),
    (
        {"train.jsonl": '{"txt": "a", "label": 0}\n'},
        ("no column 'text'", "needs 'text', 'label'", "has 'txt', 'label'"),
    ),
    ({"train.jsonl": '{"text": "a"}\n'}, ("no column 'label'", "has 'text'")),
    ({"train.jsonl": lines({"text": "a", "label": 4})}, ("label 4 in row 12", "labels 0 to 3")),
    ({"train.jsonl": lines({"text": "a", "label": -1})}, ("label -1 in row 12",)),
    ({"train.jsonl": '{"text": "a", "label": "Sprts"}\n'}, ("'Sprts'", "did you mean 'Sports'?")),
    ({"train.jsonl": lines({"text": "a", "label": None})}, ("without a label", "row 12")),
    ({"train.jsonl": lines({"text": " \t", "label": 1})}, ("empty text", "row 12", "--data.drop_empty true")),
    ({"train.jsonl": '{"text": 3, "label": 1}\n'}, ("column 'text'", "not text")),
    ({"train.jsonl": lines({"text": 3, "label": 1})}, ("several types", "line 13")),
    ({"train.jsonl": lines(), "test.jsonl": ""}, ("test.jsonl is empty",)),
    ({"train.csv": "text,label\n"}, ("a header and no rows",)),
    ({"train.jsonl": lines()}, ("data.validation_rows takes 200",)),
    ({"train.parquet": b"PAR1 rubbish"}, ("cannot read", "train.parquet as parquet")),
    ({"train.csv": 'text,label\n"unclosed,1\n'}, ("cannot read", "train.csv as csv")),
    ({"train.csv": b"text,label\n\xff\xfe\x00,1\n"}, ("cannot read", "train.csv as csv")),
    ({"train.jsonl": '{"text": "a", "lab\n'}, ("cannot read", "train.jsonl as jsonl")),
    ({"train.jsonl": lines(), "train.csv": "text,label\na,1\n"}, ("more than once",)),
]


def write_data(files: Files) -> None:
    """A data folder with ``files``, and with a sound test split where they say nothing about it."""
    Path("mine").mkdir()
    for name, content in ({"test.jsonl": TEST} | files).items():
        if content is not None:
            Path("mine", name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(("files", "telling"), BAD_DATA)
def test_mistake_in_the_data(
    capsys: pytest.CaptureFixture[str], files: Files, telling: tuple[str, ...]
) -> None:
    write_data(files)
    check_mistake(capsys, ["classify", "--data", "mine"], *telling)


@pytest.mark.slow
def test_corrupt_parquet_is_one_line_of_the_whole_process() -> None:
    write_data({"train.parquet": b"PAR1 rubbish"})
    command = [sys.executable, "-m", "finetune", "classify", "--data", "mine"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    check_one_line(done.returncode, done.stderr, "cannot read mine/train.parquet as parquet")


# What lies in the way in the folder of the runs

CLASSIFY = ["classify", *SAMPLE, "--attention", "softmax"]
PLACE = Path("runs/agnews/scratch-tiny/softmax/seed-0")


def saved_run(**over: Any) -> Path:
    """A finished run with the configuration of CLASSIFY, on rows of its own; ``over`` changes it."""
    entry = started("softmax", 0, sample=True, data={"source": "sample"} | over.pop("data", {}), **over)
    return save(Path("runs"), entry, classified([True, False, True]))


def test_a_finished_run_is_skipped_and_untouched(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained("classify", *GRID), tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    assert run("classify", tmp_path, *GRID) == 0
    assert "finished already, skipped" in capsys.readouterr().out
    assert contents(tmp_path) == before


def test_a_finished_run_on_other_rows_is_kept_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert saved_run() == PLACE
    check_mistake(capsys, CLASSIFY, str(PLACE), "the train rows, the test rows have changed")


def test_another_configuration_names_the_differing_keys(capsys: pytest.CaptureFixture[str]) -> None:
    saved_run(data={"train_rows": 99}, train={"learning_rate": 0.5})
    told = "differs in data.train_rows, train.learning_rate: choose another folder with --output"
    check_mistake(capsys, CLASSIFY, str(PLACE), told)


def test_one_bad_folder_stops_the_grid_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    saved_run(data={"train_rows": 99})
    check_mistake(capsys, ["classify", *SAMPLE, "--attention", "sa-softmax,softmax"], "data.train_rows")


@pytest.mark.parametrize(
    ("content", "telling"),
    [
        ('{"schema": "finetune-record", "version": 1, "status": "fini', "truncated"),
        ("", "truncated"),
        ('{"some": "other program"}', "no record of this program"),
        ("[1, 2]", "no record of this program"),
        ('{"schema": "finetune-record", "version": 99}', "version 99"),
    ],
)
def test_a_damaged_record_is_kept_and_named(
    capsys: pytest.CaptureFixture[str], content: str, telling: str
) -> None:
    saved_run()
    (PLACE / store.FILE).write_text(content)
    check_mistake(capsys, CLASSIFY, str(PLACE / store.FILE), telling)
    assert main(["compare", "runs"]) == 0
    assert telling in capsys.readouterr().out.replace("\n", " ")
    assert (PLACE / store.FILE).read_text() == content


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors", "folder/x"])
def test_a_foreign_file_is_kept(capsys: pytest.CaptureFixture[str], name: str) -> None:
    (PLACE / name).parent.mkdir(parents=True)
    (PLACE / name).write_text("mine")
    check_mistake(capsys, CLASSIFY, str(PLACE), "holds no run", "--output")


def test_what_a_killed_first_write_leaves_is_no_foreign_file(monkeypatch: pytest.MonkeyPatch) -> None:
    PLACE.mkdir(parents=True)
    (PLACE / f".{store.FILE}.x1.tmp").write_text("{")
    assert look(planned(monkeypatch, *CLASSIFY)[0]).state == "missing"


@pytest.mark.parametrize("place", ["runs", "runs/agnews", str(PLACE)])
def test_a_file_in_the_way_of_the_folder(capsys: pytest.CaptureFixture[str], place: str) -> None:
    Path(place).parent.mkdir(parents=True, exist_ok=True)
    Path(place).write_text("mine")
    check_mistake(capsys, CLASSIFY, place)
    if place == "runs":
        check_mistake(capsys, [*CLASSIFY, "--output", "runs/below"], "cannot write runs to runs/below")
        check_mistake(capsys, ["compare", "runs"], "no folder runs")


def test_a_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permission bits do not bind root, so the system's answer is made up."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    check_mistake(capsys, CLASSIFY, "cannot write runs to runs", "no permission")


def test_a_report_that_cannot_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    saved_run()
    Path("file").write_text("mine")
    check_mistake(capsys, ["compare", "runs", "--output", "file"], "report.json", "file")


# A full disk


UNWRITTEN = "finetune: error: cannot write record.json in the folder"
FULL_MOMENTS = {  # when the second run of the grid cannot write, and how the command says so
    "first": (lambda file, text: file.name == store.FILE, UNWRITTEN),
    "predictions": (lambda file, text: file.name == store.PREDICTIONS, "[2/2] failed: the disk is full"),
    "last": (lambda file, text: file.name == store.FILE and '"status": "finished"' in text, UNWRITTEN),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", FULL_MOMENTS)
def test_a_full_disk_loses_nothing_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    fails, start = FULL_MOMENTS[moment]
    grid = ["--attention", "softmax,sa-softmax", "--train.num_train_epochs", "1"]
    assert run("classify", tmp_path, *grid, "--attention", "softmax") == 0
    before = contents(folder("classify", tmp_path))
    capsys.readouterr()
    real = os.replace

    def full(source: Any, target: Any) -> None:
        unfinished = files.UNFINISHED.fullmatch(Path(source).name)
        if unfinished and fails(Path(target), Path(source).read_text(encoding="utf-8", errors="replace")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert run("classify", tmp_path, *grid) == 75
    error = capsys.readouterr().err
    assert error.startswith(start) and error.count("\n") == 1, error
    assert "No space left on device" in error and "Traceback" not in error
    assert contents(folder("classify", tmp_path)) == before

    monkeypatch.setattr(os, "replace", real)
    assert run("classify", tmp_path, *grid) == 0
    assert store.read(folder("classify", tmp_path, "sa-softmax"))["status"] == "finished"
    assert contents(folder("classify", tmp_path)) == before


def test_the_full_command_is_the_verb_where_make_knows_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A target of the Makefile works in its folder alone."""
    monkeypatch.setenv("MAKELEVEL", "1")
    monkeypatch.chdir(hints.MAKEFILE.parent)
    planned(monkeypatch, "classify", *SAMPLE)
    assert "make classify TASK=agnews PRESET=full OUTPUT=runs-full" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    planned(monkeypatch, "classify", *SAMPLE)
    expected = "finetune classify --task agnews --preset full --output runs-full"
    assert expected in capsys.readouterr().out


def test_a_home_that_no_shell_has_filled_in(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """make hands it on between quotes, whatever it is the path of."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in (["study", "~/mine.yaml"], ["compare", "~/runs"], ["classify", "--task", "~/mine.py"],
                  ["classify", "--data=~/rows"], ["classify", "--model", "~/model"]):  # fmt: skip
        assert main(words) == 2
        told = capsys.readouterr().err
        assert str(tmp_path / words[-1].rpartition("~/")[2]) in told and "~/" not in told, told
