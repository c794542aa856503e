"""What the file of a study asks for: grids and their axes, places of runs; and the files that are shipped."""

import re
from pathlib import Path
from typing import Any

import pytest

from finetune import objectives
from finetune.attention import VARIANTS
from finetune.cli.main import parser
from finetune.config.lineage import SCRATCH
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.models.pretrained import set_dropout
from finetune.studies import cell_file
from finetune.studies.file import load, shipped
from tests.support.scratch_models import stock
from tests.support.studies import TINY, folders, study_of

ROOT = Path(__file__).parents[2]


def test_a_grid_is_the_product_of_its_axes_seed_by_seed_and_the_baseline_first(tmp_path: Path) -> None:
    grid = {**TINY, "variants": ["sa-softmax", "softmax"], "task": ["agnews", "yelp"]}
    study = study_of(tmp_path, {"a": grid, "b": {**grid, "task": "yahoo", "seeds": [5, 1]}}, seeds=[3, 1])
    assert folders(study) == [
        f"{grid}/{task}/scratch-tiny/{arm}/seed-{seed}"
        for seeds in ({"a": 3, "b": 5}, {"a": 1, "b": 1})
        for grid, tasks in (("a", ("agnews", "yelp")), ("b", ("yahoo",)))
        for task in tasks
        for arm, seed in (("softmax", seeds[grid]), ("sa-softmax", seeds[grid]))
    ]


def test_what_the_folder_of_a_run_tells_needs_no_folder_of_its_own(tmp_path: Path) -> None:
    grid = {
        **TINY, "variants": ["softmax", "sa-softmax", "sa-softmax-raw"],
        "model.name": ["scratch:tiny", "scratch:mini"],
        "attention.start": ["cold", "annealed"], "attention.scope": ["all", "encoder"],
        "attention.parameters.eps": [1e-6, 0.1],
    }  # fmt: skip
    found = folders(study_of(tmp_path, {"a": grid}))
    # 2 models x (softmax once, raw without an eps 2 x 2, sa-softmax 2 x 2 x 2)
    assert len(found) == len(set(found)) == 2 * (1 + 4 + 8)
    assert "a/agnews/scratch-mini/sa-softmax-encoder-annealed0.3-eps0.1/seed-0" in found
    assert "a/agnews/scratch-mini/sa-softmax-raw-annealed0.3/seed-0" in found
    assert {path.count("/") for path in found} == {4}


def test_other_axes_are_told_by_a_folder_above_the_runs(tmp_path: Path) -> None:
    grid = {
        **TINY,
        "variants": ["softmax"],
        "train": {"learning_rate": [1e-3, 1e-4]},
        "data.train_rows": [24],
    }
    assert folders(study_of(tmp_path, {"a": grid})) == [
        f"a/train_rows-24_learning_rate-{rate}/agnews/scratch-tiny/softmax/seed-0" for rate in (0.001, 0.0001)
    ]
    alike = {**TINY, "variants": ["softmax"], "model.dropout": [0.1], "model.lora.dropout": [0.2]}
    assert folders(study_of(tmp_path, {"a": alike}))[0].startswith(
        "a/model.dropout-0.1_model.lora.dropout-0.2/"
    )


def test_a_key_that_is_a_list_by_itself_is_no_axis(tmp_path: Path) -> None:
    grid = {**TINY, "variants": ["softmax"], "metrics": ["f1", "recall"]}
    (cell,) = study_of(tmp_path, {"a": grid}).cells
    assert cell.config.metrics == ["f1", "recall"]
    axis = study_of(tmp_path, {"a": {**grid, "metrics": [["f1"], []]}})
    assert [cell.config.metrics for cell in axis.cells] == [["f1"], []]
    assert len({cell.output for cell in axis.cells}) == 2
    modules = study_of(tmp_path, {"a": {**grid, "model.lora.target_modules": ["query", "value"]}})
    assert [cell.config.model.lora.target_modules for cell in modules.cells] == [["query", "value"]]


@pytest.mark.parametrize(
    ("grid", "telling"),
    [
        ({"varaints": ["softmax"]}, "did you mean 'variants'"),
        ({"trian.learning_rate": 0.1}, "unknown key of a grid 'trian': did you mean 'train'"),
        ({"data.train_row": 5}, "did you mean 'data.train_rows'"),
        ({"train.learning_rat": 0.1}, "did you mean 'train.learning_rate'"),
        ({"train.learning_rate": [0.1, "fast"]}, "train.learning_rate takes float, not 'fast'"),
        ({"train.learning_rate": -1.0}, "train.learning_rate must be at least 0"),
        ({"train.num_train_epochs": True}, "train.num_train_epochs takes float"),
        ({"data.max_length": "long"}, "data.max_length"),
        ({"data.train_rows": []}, "data.train_rows is an empty list"),
        ({"variants": ["sa-softmx"]}, "unknown attention variant 'sa-softmx': did you mean 'sa-softmax'"),
        ({"variants": "softmax"}, "variants must be a list of names"),
        ({"variants": ["softmax"], "attention.parameters.eps": 1e-3}, "unknown parameter of softmax 'eps'"),
        ({"attention.start": "warm"}, "attention.start"),
        ({"attention": "sa-softmax"}, "attention must be a mapping"),
        ({"attention.variant": "softmax"}, "use variants"),
        ({"seed": 3}, "use seeds"),
        ({"seeds": [0.5]}, "seeds must be a list of whole numbers"),
        ({"seeds": [-1]}, "seed"),
        ({"seeds": "3-1"}, "seeds takes ranges from the lower number: 1-3, not 3-1"),
        ({"learning_rate": 0.1}, "unknown key of a grid 'learning_rate': did you mean 'train.learning_rate'"),
        ({"preset": "fast"}, "unknown preset 'fast'"),
        ({"preset": ["quick", "small"]}, "preset must be one name"),
        ({"task": "agnew"}, "unknown task 'agnew': did you mean 'agnews'"),
        ({"task": []}, "task must be a name"),
        ({"pair": "de-en"}, "takes no pair"),
        (
            {"train": {"learning_rate": 0.1}, "train.learning_rate": 0.2},
            "'train.learning_rate' is there twice",
        ),
    ],
)
def test_a_mistake_in_a_grid_is_told_with_its_place(
    tmp_path: Path, grid: dict[str, Any], telling: str
) -> None:
    with pytest.raises(UserError, match=re.escape(telling)) as error:
        study_of(tmp_path, {"agnews-x": {**TINY, **grid}})
    assert "mine.yaml" in str(error.value) and "agnews-x" in str(error.value)


@pytest.mark.parametrize(
    ("keys", "telling"),
    [
        ({"worker": 2}, "did you mean 'workers'"),
        ({"workers": 0}, "workers must be auto or a whole number from 1, not 0"),
        ({"workers": "two"}, "workers must be auto"),
        ({"name": "my study"}, "name must be a word"),
        ({"grids": {}}, "at least one grid"),
        ({"grids": {"a": 3}}, "must be a mapping"),
        ({"grids": {"../a": TINY}}, "named by a word"),
        ({"grids": {"logs": TINY}}, "named by a word"),
        ({"grids": {"configs": TINY}}, "named by a word"),
        ({"seeds": None}, "has no seeds"),
        ({"diagnose": [7]}, "diagnose names seed 7, which no grid runs"),
    ],
)
def test_a_mistake_in_a_file_is_told(tmp_path: Path, keys: dict[str, Any], telling: str) -> None:
    with pytest.raises(UserError, match=re.escape(telling)):
        study_of(tmp_path, **keys)


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    for parent in ("one", "two"):
        (tmp_path / parent / "bert").mkdir(parents=True)
    grid = {**TINY, "model.name": [str(tmp_path / "one/bert"), str(tmp_path / "two/bert")]}
    with pytest.raises(UserError, match=r"share the folder .* and differ in model\.name: make two grids"):
        study_of(tmp_path, {"a": grid})


def test_the_shipped_studies_hold_what_the_questions_need() -> None:
    assert shipped() == [
        "ablation",
        "churn",
        "cpu",
        "downstream",
        "language",
        "paper",
        "pretrain-then-finetune",
        "quick",
        "tuned",
    ]
    found = {name: load(name) for name in shipped()}
    for name, study in found.items():
        assert study.name == name and study.root == Path("runs", name)
    paper = {
        (cell.config.task, cell.config.model.name.startswith("scratch")) for cell in found["paper"].cells
    }
    tasks = ("agnews", "dbpedia", "yelp", "yahoo", "amazon-polarity", "iwslt2017")
    assert paper == {(task, scratch) for task in tasks for scratch in (True, False)}
    assert {cell.config.attention.start for cell in found["paper"].cells} == {
        "cold",
        "calibrated",
        "annealed",
    }
    assert {cell.config.attention.variant for cell in found["ablation"].cells} == set(VARIANTS)
    assert {cell.config.attention.scope for cell in found["ablation"].cells} == {
        "all",
        "encoder",
        "decoder",
        "cross",
    }
    assert all(cell.config.data.source == "sample" for cell in found["quick"].cells)


def test_the_help_names_every_shipped_study() -> None:
    (told,) = (each.help for each in parser()[1]["study"]._actions if each.dest == "file")
    assert set(shipped()) <= set(re.findall(r"[\w-]+", told or ""))


@pytest.mark.parametrize(
    ("name", "began"), [("downstream", {"novels", "news"}), ("pretrain-then-finetune", {"encoders"})]
)
def test_classifiers_from_scratch_differ_from_pretrained_ones_in_their_beginning_alone(
    name: str, began: set[str]
) -> None:
    cells = [cell for cell in load(name).cells if cell.config.kind != "causal"]
    assert {cell.origin.grid for cell in cells if cell.origin} == began

    def model(config: RunConfig) -> dict[str, Any]:
        """The configuration of the model from random weights."""
        scratch = objectives.of(config).scratch
        size = scratch.options(config.model.name.removeprefix(SCRATCH), config.kind)
        made = stock(scratch, size, config.model.vocab_size)
        set_dropout(made, config)
        return dict(made.to_dict())

    encoders = [model(cell.config) for cell in cells if cell.grid in began]
    scratch = [cell.config for cell in cells if cell.grid == "scratch"]
    pretrained = [cell.config for cell in cells if cell.origin]
    assert all(model(config) == encoders[0] for config in scratch) and all(
        each == encoders[0] for each in encoders
    )

    def training(config: RunConfig) -> tuple[Any, ...]:
        return config.task, config.seed, config.attention, config.data, config.train, config.batches

    found = {repr(training(config)) for config in pretrained}
    assert found == {repr(training(config)) for config in scratch}


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/studies/*.yaml")), ids=lambda path: path.stem)
def test_every_value_in_a_shipped_study_says_what_it_is(path: Path) -> None:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        setting, _, comment = line.partition("  #")
        if re.match(r"\s*(- |[\w.]+:\s*\S)", setting):
            assert len(comment.strip()) > 2, f"{path.name}, line {number} has no comment: {line}"


def test_long_values_and_values_of_marks_make_cells(tmp_path: Path) -> None:
    names = ["@home", "[x", "a: b", "x" * 400, "x" * 399 + "y"]
    study = study_of(tmp_path, {"one": TINY | {"data.source": names, "variants": ["softmax"]}}, seeds=[0])
    assert len({cell.folder for cell in study.cells}) == len({cell.log for cell in study.cells}) == len(names)
    for cell in study.cells:
        assert all(len(part) <= 255 for part in (*cell.folder.parts, cell.log.name))
    cell_file.write(study.cells)
    for cell in study.cells:
        assert cell_file.read(cell_file.place(cell), cell.output).config == cell.config


def chain(**second: Any) -> dict[str, Any]:
    """Two grids, of which the second begins from the runs of the first."""
    downstream = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    return {"first": TINY, "second": {**downstream, "task": "yelp", "from": "first", **second}}


def test_a_grid_begins_from_the_runs_of_another_by_variant_seed_and_position(tmp_path: Path) -> None:
    grids = chain(**{"from": ["first", "softmax@first"]})
    study = study_of(tmp_path, grids, seeds=[3, 1])
    second = [cell for cell in study.cells if cell.grid == "second"]
    assert len(second) == 8
    for cell in second:
        name, variant = cell.config.model.name, cell.config.attention.variant
        begun = "softmax" if name.startswith("pretrained:softmax@") else variant
        assert name.endswith(f"{study.root}/first") and cell.origin in study.cells
        assert study.cells.index(cell.origin) < study.cells.index(cell)
        assert cell.origin.grid == "first" and cell.origin.config.seed == cell.config.seed
        assert cell.origin.config.attention.variant == begun
    assert len({cell.folder for cell in study.cells}) == 12


def test_the_runs_of_a_later_seed_come_after_those_that_they_begin_from(tmp_path: Path) -> None:
    study = study_of(tmp_path, chain(seeds=[4]), seeds=[0, 2, 4])
    assert [cell.config.seed for cell in study.cells if cell.grid == "first"] == [0, 0, 2, 2, 4, 4]
    for cell in study.cells:
        assert cell.origin is None or study.cells.index(cell.origin) < study.cells.index(cell)


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"from": "frist"}, "did you mean 'first'"),
        ({"from": "second"}, "unknown grid"),
        ({"from": []}, "from must name a grid above it"),
        ({"from": "first", "model.name": "scratch:tiny"}, "leave out model.name"),
        ({"from": ["first", "zero"]}, "unknown grid"),
        ({"seeds": [9]}, "holds no run of softmax, seed 9 (its seeds are 0)"),
        ({"variants": ["softmax", "sa-softmax-raw"]}, "holds no run of sa-softmax-raw, seed 0"),
        ({"from": "softmx@first"}, "did you mean 'softmax'"),
        ({"attention.start": "calibrated"}, "leave it cold"),
        ({"model.revision": "main"}, "leave it null"),
    ],
)
def test_a_beginning_that_there_is_not_is_refused_before_any_run(
    tmp_path: Path, over: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError) as caught:
        study_of(tmp_path, chain(**over))
    assert said in str(caught.value) and "grid 'second'" in str(caught.value)


def test_a_beginning_that_several_runs_are_is_refused_with_what_they_differ_in(tmp_path: Path) -> None:
    grids = chain()
    grids["first"] = {**TINY, "train.learning_rate": [1e-3, 1e-4]}
    with pytest.raises(
        UserError, match=r"holds 2 runs of softmax, seed 0, which differ in train\.learning_rate"
    ):
        study_of(tmp_path, grids)


def test_a_grid_names_its_objective_where_a_task_has_several(tmp_path: Path) -> None:
    grid = {"task": "books", "variants": ["softmax"], "data.source": "sample"}
    (plain,) = study_of(tmp_path, {"a": grid}).cells
    (named,) = study_of(tmp_path, {"a": {**grid, "objective": "causal"}}).cells
    assert plain.config == named.config and named.config.kind == "causal"
    lengths = {**grid, "language.eval_lengths": [16, 64]}  # one list, and no axis
    (cell,) = study_of(tmp_path, {"a": lengths}).cells
    assert cell.config.language is not None and cell.config.language.eval_lengths == [16, 64]
    with pytest.raises(UserError, match="kind is 'guessing', and 'books' is a causal"):
        study_of(tmp_path, {"a": {**grid, "objective": "guessing"}})
    with pytest.raises(UserError, match="kind is 'causal', and 'agnews' is a classification task"):
        study_of(tmp_path, {"a": {**TINY, "objective": "causal"}})
