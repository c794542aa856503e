"""Tuning at equal budget: what is planned before and after trials, and what is refused."""

import functools
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.comparison.caveats import NoteKind
from finetune.comparison.compare import compare
from finetune.config.identity import config_hash
from finetune.errors import UserError
from finetune.records import store
from finetune.records.run import find_runs
from finetune.report.formats import saved
from finetune.studies import dry_run, engines, search
from finetune.studies.executors.base import Called, Engine, Executor, Job, Options
from finetune.studies.file import Study, grown, load
from finetune.studies.grid import Cell
from finetune.studies.run import commands, plan_text, run_study
from finetune.studies.search import Outcome
from finetune.studies.state import RunState, Status, look
from tests.support.records import classified, computed, correctness, finish
from tests.support.studies import TINY, keep, study_of, written

RATES = [1e-4, 3e-4, 1e-3]
TUNE = {"train.learning_rate": RATES}
VARIANTS = ("softmax", "sa-softmax")


def tuned_study(folder: Path, tune: Any = TUNE, **keys: Any) -> Study:
    return study_of(folder, {"a": {**TINY, "tune": tune}}, **{"seeds": [0, 1], **keys})


def end(cell: Cell, accuracy: float | None) -> None:
    """Leaves the record of a run that has this accuracy; ``None``: of one that has failed."""
    if accuracy is None:
        keep(cell, "failed", reason="the loss became nan at step 3")
        return
    keep(cell)
    entry, rows = store.read(cell.folder), classified(correctness(200, accuracy, 7 * cell.config.seed))
    assert entry["attention"] is not None
    entry["attention"]["variant"] = cell.config.attention.variant
    entry["computed"] = computed(cell.config)
    finish(entry, rows)
    store.write(cell.folder, entry)
    store.write_predictions(cell.folder, rows)


def end_all(study: Study, scores: Mapping[str, Sequence[float | None]]) -> None:
    """Ends every trial, by variant in the order of the values that they try, and every other run."""
    count = dict.fromkeys(scores, 0)
    for cell in study.cells:
        variant = cell.config.attention.variant
        if cell.config.trial:
            end(cell, scores[variant][count[variant] % len(scores[variant])])
            count[variant] += 1
        else:
            end(cell, 0.8)


def chosen(study: Study) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {}
    for cell in study.cells:
        if cell.config.tuning:
            found.setdefault(cell.config.attention.variant, set()).add(cell.config.train["learning_rate"])
    return found


def trials(study: Study) -> list[Cell]:
    return [cell for cell in study.cells if cell.config.trial]


def test_every_variant_has_the_same_trials_of_seeds_that_the_comparison_has_not(tmp_path: Path) -> None:
    study = tuned_study(tmp_path, {**TUNE, "train.weight_decay": [0.2, 0.1], "seeds": [7, 8]})
    tried = {
        variant: [
            (cell.config.train["learning_rate"], cell.config.train["weight_decay"], cell.config.seed)
            for cell in trials(study)
            if cell.config.attention.variant == variant
        ]
        for variant in VARIANTS
    }
    assert tried["softmax"] == tried["sa-softmax"]
    assert tried["softmax"] == [(r, d, seed) for r in RATES for d in (0.2, 0.1) for seed in (7, 8)]
    assert study.cells[: len(trials(study))] == tuple(trials(study)), "they come first"
    folder = trials(study)[0].folder.relative_to(study.root)
    assert folder.parts[:3] == ("tune", "a", "learning_rate-0.0001_weight_decay-0.2")
    others = [cell for cell in (*study.cells, *study.awaited) if not cell.config.trial]
    assert {cell.config.seed for cell in others} == {0, 1} and len(study.awaited) == 4
    assert len(grown(study).cells) == len(study.cells)


def test_runs_that_are_not_tuned_keep_their_hash(tmp_path: Path) -> None:
    """The common setting is that of the same grid without ``tune``, and its runs are in the same folders."""
    plain, tuned = study_of(tmp_path, {"a": TINY}), tuned_study(tmp_path, seeds=[0])
    common = [cell for cell in tuned.cells if not cell.config.trial]
    assert [config_hash(cell.config) for cell in common] == [config_hash(cell.config) for cell in plain.cells]
    assert [cell.folder for cell in common] == [cell.folder for cell in plain.cells]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ({"softmax": [0.5, 0.7, 0.6], "sa-softmax": [0.5, 0.6, 0.9]}, {"softmax": 3e-4, "sa-softmax": 1e-3}),
        ({"softmax": [0.7, 0.7, 0.6], "sa-softmax": [0.5, 0.5, 0.5]}, {"softmax": 1e-4, "sa-softmax": 1e-4}),
        (
            {"softmax": [None, 0.2, None], "sa-softmax": [0.5, None, 0.6]},
            {"softmax": 3e-4, "sa-softmax": 1e-3},
        ),
        ({"softmax": [0.5, 0.7, 0.6], "sa-softmax": [None, None, None]}, {"softmax": 3e-4}),
    ],
)
def test_the_best_on_validation_rows_is_chosen_the_first_of_equal_ones_and_no_failed_one(
    tmp_path: Path, scores: dict[str, list[float | None]], best: dict[str, float]
) -> None:
    study = tuned_study(tmp_path)
    end_all(study, scores)
    after = grown(study)
    assert chosen(after) == {variant: {rate} for variant, rate in best.items()}
    assert not after.awaited and {*study.cells} < {*after.cells}, "they are the same cells"
    assert chosen(tuned_study(tmp_path)) == chosen(after), "and the same again"
    assert len(after.notes) == len(best) and len(after.untuned) == 2 - len(best)
    for line in after.untuned:
        assert (
            "sa-softmax: all 3 trials have failed, so that it has no tuned run (the loss became nan" in line
        )
    sections = {json.dumps(cell.config.tuning.keys) for cell in after.cells if cell.config.tuning}
    assert len(sections) == 1


def test_a_variant_waits_for_all_of_its_own_trials(tmp_path: Path) -> None:
    """Whatever has become of the others, and of the runs with common values."""
    study = tuned_study(tmp_path)
    mine = [cell for cell in trials(study) if cell.config.attention.variant == "sa-softmax"]
    for cell in mine[:-1]:
        end(cell, 0.5)
    for status in ("running", "preempted"):
        keep(mine[-1], status)
        assert not chosen(grown(study)) and len(grown(study).awaited) == 4
    end(mine[-1], 0.6)
    assert chosen(grown(study)) == {"sa-softmax": {1e-3}} and len(grown(study).awaited) == 2
    assert look(mine[-1]).state is RunState.DONE
    end(mine[-1], None)
    assert look(mine[-1]).state is RunState.DONE, "a failed trial is spent"


def test_a_plan_shows_the_runs_of_both_phases(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tuned_study(tmp_path)
    lines = [" ".join(line.split()) for line in plan_text(study, 2).splitlines()]
    assert lines[0] == f"study mine: 14 runs in {study.root}"
    assert lines[2:8] == [
        f"{place} agnews scratch-tiny {variant} {many} {many} unknown"
        for place, many in (("tune/a", 3), ("a", 2), ("a/tuned", 2))
        for variant in VARIANTS
    ]
    assert lines[8].startswith("14 missing; ")
    assert len(commands(study)) == 10
    assert "4 more begin from runs that are not done, or follow from them" in capsys.readouterr().err
    end_all(study, {name: [0.5, 0.6, 0.7] for name in VARIANTS})
    assert len(commands(grown(study))) == 4


def test_trials_begin_from_runs_of_their_own_seeds(tmp_path: Path) -> None:
    below = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    grids = {
        "first": {**TINY, "variants": ["softmax"]},
        "second": {**below, "task": "yelp", "from": "softmax@first", "tune": TUNE},
    }
    with pytest.raises(UserError, match=r"trials of tune have seed 1000, .* add 1000 to the seeds of first"):
        study_of(tmp_path, grids)
    grids["first"]["seeds"] = [0, 1000]
    study = study_of(tmp_path, grids)
    assert "second/tuned" in plan_text(study, 1)
    begun = [cell for cell in (*study.cells, *study.awaited) if cell.grid == "second"]
    assert len(begun) == 10
    assert all(cell.origin and cell.origin.config.seed == cell.config.seed for cell in begun)


def test_a_plan_counts_further_seeds_of_tuned_runs_apart(tmp_path: Path) -> None:
    study = tuned_study(tmp_path, until={"margin": 0.5, "most": 3})
    planned = plan_text(study, 1)
    assert len(study.awaited) == 4 and planned.startswith("study mine: 14 runs")
    assert "up to 4 more runs, of further seeds" in planned
    assert "10 runs in" in (listed := dry_run.text(study, {})) and "and 4 more follow from trials" in listed
    end_all(study, {name: [0.5, 0.6, 0.7] for name in VARIANTS})
    assert len(grown(study).later) == 4 and not grown(study).awaited_later


def test_trials_that_have_no_finite_score_are_failed_ones(tmp_path: Path) -> None:
    study = tuned_study(tmp_path)
    end_all(study, {name: [0.5, 0.6, 0.7] for name in VARIANTS})
    for cell in trials(study):
        entry = store.read(cell.folder)
        assert entry["metrics"] is not None
        entry["metrics"]["accuracy"]["value"] = None
        store.write(cell.folder, entry)
    lines = grown(study).untuned
    assert len(lines) == 2 and "(it has finished without a finite accuracy; remove" in lines[0]


class Ended(Executor):
    """Ends each job at once: by the record of a finished run, or as ``fates`` says of its folder."""

    capacity = 3

    def __init__(self, fates: Mapping[str, Sequence[str]]) -> None:
        self.fates = {part: list(each) for part, each in fates.items()}
        self.jobs, self.seen = list[Job](), list[str]()

    def submit(self, cells: Sequence[Cell], after: Mapping[Cell, Job]) -> list[Job | Status]:
        started = [Job(cell, str(len(self.seen))) for cell in cells]
        self.jobs += started
        self.seen += [cell.name for cell in cells]
        return list(started)

    def watch(self) -> list[tuple[Job, Status]]:
        if not self.jobs:
            return []
        job = self.jobs.pop(0)
        fates = next((each for part, each in self.fates.items() if part in job.cell.name and each), None)
        fate = fates.pop(0) if fates else "done"
        if fate == "lost":
            return [(job, Status(RunState.FAILED, "killed by signal 9", lost=True))]
        end(job.cell, None if fate == "failed" else 0.5 + 100 * job.cell.config.train["learning_rate"])
        return [(job, look(job.cell, claimed=True))]

    def cancel(self) -> None:
        """Nothing: none is left."""

    def call(self, words: Sequence[str]) -> Called:
        return Called(0, "")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a study on an engine that trains nothing; the exit status, and the names of what it was given."""

    def run_on(study: Study, fates: Mapping[str, Sequence[str]]) -> tuple[int, list[str]]:
        made: list[Ended] = []

        def make(*_: Any) -> Ended:
            made.append(Ended(fates))
            return made[-1]

        monkeypatch.setattr(engines, "ENGINES", {"stub": Engine("stub", "", Options, make)})
        monkeypatch.setattr("finetune.studies.run._tried", lambda *_: 0)
        status = run_study(grown(study), None, engines.choose(study, {"engine": "stub", "retries": 0}))
        return status, [name for each in made for name in each.seen]

    return run_on


def test_a_study_goes_through_both_phases_and_twice_does_nothing(
    tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    status, seen = run(tuned_study(tmp_path), {})
    assert status == 0 and len(seen) == len(set(seen)) == 14
    assert [name.startswith("tune--") for name in seen] == [True] * 6 + [False] * 8
    assert all(name.startswith("a--tuned--") for name in seen[-4:])
    said = capsys.readouterr().out
    assert "8 more follow from trials" not in said and "; 4 more follow from trials" in said
    assert "grid a, softmax: train.learning_rate 0.001, by accuracy 60.00% on validation rows" in said
    assert run(tuned_study(tmp_path), {}) == (0, [])


def test_a_failed_trial_is_spent_and_a_lost_one_is_not(
    tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A killed process says nothing of the values that it tried: the next command makes that trial."""
    best = "learning_rate-0.001--agnews--scratch-tiny--softmax"
    status, seen = run(
        tuned_study(tmp_path), {best: ["failed"], best.replace("softmax", "sa-softmax"): ["lost"]}
    )
    assert status == 1 and len(seen) == 12, "sa-softmax waits for a trial"
    assert "softmax: train.learning_rate 0.0003, by" in (said := capsys.readouterr().out)
    assert "the best of 3 trials, of which 1 failed" in said and "killed by signal 9" in said
    status, seen = run(tuned_study(tmp_path), {})
    assert status == 0 and len(seen) == 3 and "sa-softmax" in seen[0] and seen[0].startswith("tune--")
    assert chosen(tuned_study(tmp_path)) == {"softmax": {3e-4}, "sa-softmax": {1e-3}}


def test_a_variant_whose_trials_all_fail_has_no_tuned_run_and_the_others_go_on(
    tmp_path: Path, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = ("0.0001", "0.0003", "0.001")
    fates = {f"learning_rate-{rate}--agnews--scratch-tiny--sa-softmax": ["failed"] for rate in rates}
    status, seen = run(tuned_study(tmp_path), fates)
    assert status == 1 and len(seen) == 12
    assert "sa-softmax: all 3 trials have failed, so that it has no tuned run" in capsys.readouterr().out
    assert run(tuned_study(tmp_path), {}) == (1, [])


def test_a_study_goes_on_where_it_was_stopped_in_either_phase(tmp_path: Path, run: Any) -> None:
    study = tuned_study(tmp_path)
    for cell in trials(study)[:4]:
        end(cell, 0.5 + 100 * cell.config.train["learning_rate"])
    status, seen = run(load(study.file, study.root), {"a--tuned": ["lost", "done", "lost"]})
    assert status == 1 and len(seen) == 10
    status, seen = run(load(study.file, study.root), {})
    assert status == 0 and len(seen) == 2 and all(name.startswith("a--tuned") for name in seen)


def test_trials_are_no_results(tmp_path: Path) -> None:
    study = tuned_study(tmp_path)
    end_all(study, {name: [0.9, 0.6, 0.7] for name in VARIANTS})
    runs, problems = find_runs(study.root)
    assert not problems and len(runs) == 4 and not any(run.trial for run in runs)
    assert len(compare(study.root).tables) == 1


def test_variants_with_values_of_their_own_are_pairs_where_their_budgets_are_equal(tmp_path: Path) -> None:
    study = tuned_study(tmp_path)
    end_all(study, {"softmax": [0.5, 0.7, 0.6], "sa-softmax": [0.5, 0.6, 0.9]})
    for cell in grown(study).cells:
        if cell.config.tuning:
            end(cell, 0.85)
    tables = {table.apart: table for table in compare(study.root).tables}
    assert len(tables) == 2
    words = "train.learning_rate over 0.0001, 0.0003, 0.001; 3 trials a variant by accuracy"
    tuned = tables[f"tuned = {words}, trial seed 1000"]
    assert tuned.variants[1].difference is not None and tuned.variants[1].difference.seeds == [0, 1]
    assert not tuned.refused and not tuned.missing
    assert "train.learning_rate = 0.001" in tables and tables["train.learning_rate = 0.001"].tuning is None
    assert tuned.tuning is not None and tuned.tuning["chosen"]["sa-softmax"] == {
        "values": {"train.learning_rate": 1e-3},
        "edge": ["train.learning_rate"],
        "tried": [
            [{"train.learning_rate": rate}, score] for rate, score in zip(RATES, (50, 60, 90), strict=True)
        ],
    }
    notes = [note.text for note in tuned.notes if note.kind is NoteKind.TUNED]
    assert notes[0] == (
        "softmax: train.learning_rate 0.0003 was chosen by 3 trials on validation rows "
        "(accuracy: 0.0001: 50.00%, 0.0003: 70.00%, 0.001: 60.00%)"
    )
    assert notes[1].endswith(
        "0.001: 90.00%); the best value of train.learning_rate is at the edge of what was tried, and a "
        "better one may lie beyond"
    )
    report = study.root / saved.FILE
    report.write_text(saved.as_json(compare(study.root)))
    assert [table.tuning for table in saved.read(report).tables] == [
        t.tuning for t in compare(study.root).tables
    ]
    # Another budget for one of them is another setting.
    for cell in grown(study).cells:
        if cell.config.tuning and cell.config.attention.variant == "sa-softmax":
            entry = store.read(cell.folder)
            entry["config"]["tuning"]["seeds"] = [1000, 1001]
            store.write(cell.folder, entry)
    apart = [table for table in compare(study.root).tables if "tuned" in table.setting]
    assert len(apart) == 2 and all(table.variants[-1].difference is None for table in apart)
    assert any("they differ in" in line and "tuned (" in line for table in apart for line in table.refused)


def test_a_note_says_what_trials_leave_open(tmp_path: Path) -> None:
    """Failures, equal scores, trials that are not there or that would have another choice."""
    study = tuned_study(tmp_path)
    end_all(study, {"softmax": [0.7, None, 0.7], "sa-softmax": [0.5, 0.9, 0.6]})
    for cell in grown(study).cells:
        if cell.config.tuning:
            end(cell, 0.85)

    def notes() -> list[str]:
        tables = compare(study.root).tables
        return [note.text for table in tables for note in table.notes if note.kind is NoteKind.TUNED]

    first, second = notes()
    assert "0.0003: failed, 0.001: 70.00%); the first of 2 equal ones; the best value" in first
    assert "edge" not in second
    end(next(cell for cell in trials(study) if "0.001--agnews--scratch-tiny--sa" in cell.name), 0.95)
    assert "by these records another value is the best" in notes()[1]
    shutil.rmtree(study.root / "tune")
    assert "whose records are not among these" in notes()[1] and len(compare(study.root).tables) == 2


@pytest.mark.parametrize(
    ("tune", "complaint"),
    [
        ([1e-4], "tune must hold keys and the values to try, e.g. tune: {train.learning_rate: ["),
        ({}, "tune names no key"),
        ({"seeds": [9]}, "tune names no key"),
        ({"train.lerning_rate": RATES}, "did you mean 'train.learning_rate'?"),
        ({"learning_rate": RATES}, "did you mean 'train.learning_rate'?"),
        ({"train.num_train_epochs": [1, 2]}, "cannot be tuned, since variants are compared on the same rows"),
        ({"data.max_length": [1, 2]}, "cannot be tuned"),
        ({"train.learning_rate": 1e-4}, "takes two values or more"),
        ({"train.learning_rate": [1e-4]}, "takes two values or more"),
        ({"train.learning_rate": [1e-4, 1e-4]}, "has the value 0.0001 twice"),
        ({"train.learning_rate": [1e-4, -1]}, "train.learning_rate must be at least 0, not -1"),
        ({**TUNE, "seeds": [1, 2]}, "tune: seed 1 is one of the comparison"),
        ({**TUNE, "seeds": "all"}, "seeds of tune takes whole numbers"),
        ({**TUNE, "trials": 0}, "trials must be a whole number from 1, not 0"),
        ({"train.learning_rate": {"low": 1e-5, "high": 1e-3}}, "say by how many trials"),
        ({"train.learning_rate": {"low": 1e-3, "high": 1e-5}, "trials": 3}, "must reach from a low to"),
        ({"train.learning_rate": {"low": 0, "high": 1e-5, "log": True}, "trials": 3}, "a low above 0"),
        ({"train.learning_rate": {"low": -1, "high": 1}, "trials": 3}, "must be at least 0, not -1"),
        ({"train.learning_rate": {"low": 0, "hihg": 1}, "trials": 3}, "train.learning_rate.high"),
        ({"attention.parameters.eps": [1e-6, 1e-3]}, "attention.parameters.eps changes nothing of softmax"),
        ({"attention.parameters.eps": [1e-6, 1e-3], "trials": 4}, "tune a key that it has"),
        ({**TUNE, "attention.parameters.eps": [1e-6, 1e-3]}, "give trials: N, of which each variant has"),
        ({"attention.annealing_share": [0.1, 0.3]}, "attention.annealing_share changes nothing of softmax"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tune: Any, complaint: str
) -> None:
    path = written(tmp_path, {"a": {**TINY, "tune": tune}}, seeds=[0, 1])
    assert main(["study", str(path), "--plan", "--output", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        ({"train.learning_rate": [1e-4, 1e-3], "tune": TUNE}, "is an axis of the grid: tune it, or vary it"),
        ({"tuning": {"trials": 3}}, "unknown key of a grid 'tuning"),
        ({"trial": True}, "unknown key of a grid 'trial"),
    ],
)
def test_a_grid_tunes_no_axis_and_sets_no_trial_by_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], grid: dict[str, Any], complaint: str
) -> None:
    path = written(tmp_path, {"a": {**TINY, **grid}}, seeds=[0, 1])
    assert main(["study", str(path), "--plan", "--output", str(tmp_path / "runs")]) == 2
    assert complaint in capsys.readouterr().err


def test_a_grid_begins_from_no_tuned_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which has two runs of each variant and seed."""
    second = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    path = written(tmp_path, {"a": {**TINY, "tune": TUNE}, "b": {**second, "task": "yelp", "from": "a"}})
    assert main(["study", str(path), "--plan", "--output", str(tmp_path / "runs")]) == 2
    assert "the grid a is tuned, and has two runs of each" in capsys.readouterr().err


def test_trials_begin_from_runs_of_their_own_seed(tmp_path: Path) -> None:
    second = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    grids = {"a": {**TINY, "seeds": [0, 1000]}, "b": {**second, "task": "yelp", "from": "a", "tune": TUNE}}
    study = study_of(tmp_path, grids)
    origins = {cell.origin.config.seed if cell.origin else None for cell in trials(study)}
    assert origins == {1000} and len(trials(study)) == 6


RANGES = {
    "train.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "train.lr_scheduler_type": ["linear", "cosine"],
    "trials": 12,
}


def test_a_search_gives_every_variant_as_many_trials_and_always_the_same(tmp_path: Path) -> None:
    """Also where one has a key of its own; the first are known at once, the others one by one."""
    pytest.importorskip("optuna")
    study = tuned_study(tmp_path, {**RANGES, "attention.parameters.eps": [1e-6, 1e-3]})
    assert len(trials(study)) == 2 * search.STARTUP and len(study.awaited) == 2 * 2 + 4
    tried: list[list[str]] = []
    for _ in range(3):
        for cell in trials(study):
            if look(cell).state is not RunState.DONE:
                end(cell, min(0.9, 0.5 + 30 * cell.config.train["learning_rate"]))
        study = grown(study)
        tried.append([cell.name for cell in trials(study)])
    count = {
        variant: sum(cell.config.attention.variant == variant for cell in trials(study))
        for variant in VARIANTS
    }
    assert count == {"softmax": 12, "sa-softmax": 12} and not study.awaited
    assert not any(cell.config.attention.parameters for cell in trials(study) if "--softmax--" in cell.name)
    assert [cell.name for cell in trials(load(study.file, study.root))] == tried[-1]
    sections = {json.dumps(json.loads(json.dumps(cell.config.tuning, default=vars)), sort_keys=True)
                for cell in study.cells if cell.config.tuning}  # fmt: skip
    assert len(sections) == 1


def test_a_search_finds_what_is_good(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    tune = tuned_study(tmp_path, RANGES)  # is read, and checked
    del tune
    from finetune.config.schema import SearchRange

    ranges = {"x": SearchRange(1e-5, 1e-1, True)}
    closeness = functools.cache(lambda x: -abs(math.log10(x / 1e-3)))
    found = search.points(ranges, 25, lambda values: Outcome(closeness(values["x"])), higher_is_better=True)
    assert len(found) == 25 and max(closeness(values["x"]) for values in found) > -0.3
    assert all(1e-5 <= values["x"] <= 1e-1 for values in found)
    again = search.points(ranges, 25, lambda values: Outcome(closeness(values["x"])), higher_is_better=True)
    assert found == again


def test_a_search_without_optuna_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    path = written(tmp_path, {"a": {**TINY, "tune": RANGES}})
    assert main(["study", str(path), "--plan", "--output", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert "pip install 'softmax-finetune[tune]'" in error and error.count("\n") == 1
