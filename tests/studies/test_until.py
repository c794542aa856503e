"""Seeds that are added by a plan until a difference is known."""

from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.comparison.claims import Difference
from finetune.comparison.compare import compare
from finetune.errors import UserError
from finetune.records import store
from finetune.statistics.over_seeds import ALPHA
from finetune.statistics.sequential import Looks
from finetune.studies.file import Study, grown, load
from finetune.studies.grid import Cell
from finetune.studies.run import plan_text
from tests.support.records import classified, correctness, finish
from tests.support.studies import TINY, keep, study_of, written

PLAN = {"margin": 0.5, "most": 8}


def end(cell: Cell, accuracy: float, noise: int = 0) -> None:
    """Leaves a finished run of 200 test rows; runs of the same ``noise`` have the same rows right."""
    keep(cell)
    entry, rows = store.read(cell.folder), classified(correctness(200, accuracy, noise))
    assert entry["attention"] is not None
    entry["attention"]["variant"] = cell.config.attention.variant
    finish(entry, rows)
    store.write(cell.folder, entry)
    store.write_predictions(cell.folder, rows)


def seeds(study: Study) -> dict[str, list[int]]:
    """The seeds of each variant that are due."""
    found: dict[str, list[int]] = {}
    for cell in study.cells:
        found.setdefault(cell.config.attention.variant, []).append(cell.config.seed)
    return found


def test_a_difference_that_is_not_known_has_the_seeds_of_the_next_look(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=[0, 1, 4], until=PLAN)
    assert seeds(study) == {"softmax": [0, 1, 4], "sa-softmax": [0, 1, 4]} and len(study.later) == 10
    for cell in study.cells:
        assert grown(study) == study, "a look is judged once all of its runs have ended"
        end(cell, 0.8, noise=hash((cell.config.attention.variant, cell.config.seed)))
    larger = grown(study)
    assert seeds(larger) == {"softmax": [0, 1, 4, 5, 6], "sa-softmax": [0, 1, 4, 5, 6]}
    end(larger.cells[-1], 0.8)
    assert seeds(grown(study)) == seeds(larger), "a look that is half done is not looked at"


def test_what_is_known_has_no_more_seeds_and_a_budget_ends(tmp_path: Path) -> None:
    grid = {**TINY, "variants": ["softmax", "sa-softmax", "sa-softmax-raw", "ssmax"]}
    study = study_of(tmp_path, {"a": grid}, seeds=[0, 1, 2], until={**PLAN, "step": 5})
    for _ in range(2):
        for cell in study.cells:
            variant = cell.config.attention.variant
            worse, other = variant == "sa-softmax-raw", variant == "ssmax"  # all others are softmax
            end(cell, 0.5 if worse else 0.8, noise=1000 + cell.config.seed if other else 0)
        study = grown(study)
    assert seeds(study) == {
        "softmax": [*range(8)],
        "sa-softmax": [0, 1, 2],
        "sa-softmax-raw": [0, 1, 2],
        "ssmax": [*range(8)],
    }
    table = compare(tmp_path / "runs").tables[0]
    looks = Looks(3, 8, 5)
    found = {each.name: each.difference for each in table.variants if each.difference}
    assert found["sa-softmax"].level == looks.levels[0] and found["ssmax"].level == looks.levels[-1]
    assert table.margin == 0.5 and table.until == {"margin": 0.5, "first": 3, "step": 5, "most": 8}


def test_failed_runs_count_for_the_level_and_nothing_follows_without_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path, seeds=[0, 1, 2], until=PLAN)
    for cell in study.cells:
        variant, seed = cell.config.attention.variant, cell.config.seed
        if (variant, seed) == ("sa-softmax", 1):
            keep(cell, "failed", reason="the loss became nan at step 3", attention=None)
        else:
            end(cell, 0.8, noise=hash((variant, seed)))
    judged: list[float] = []
    known = Difference.is_known
    monkeypatch.setattr(
        Difference, "is_known", lambda self, margin: (judged.append(self.level), known(self, margin))[1]
    )
    later = [cell for cell in grown(study).cells if cell not in study.cells]
    assert len(later) == 4
    for cell in later:
        end(cell, 0.8, noise=hash((cell.config.attention.variant, cell.config.seed)))
    grown(study)
    looks = Looks(3, 8)
    assert judged == [looks.levels[0], looks.levels[0], looks.levels[1]]
    for cell in study.cells:
        if cell.config.attention.variant == "softmax":
            keep(cell, "failed", reason="the loss became nan at step 3", attention=None)
    assert grown(study) == study


def test_intervals_and_p_are_adjusted_for_looks(tmp_path: Path) -> None:
    """The same runs with a plan, and without one."""
    results = []
    for name, keys in (("planned", {"until": PLAN}), ("plain", {})):
        (tmp_path / name).mkdir()
        study = study_of(tmp_path / name, seeds=[0, 1, 2], **keys)
        for cell in study.cells:
            better = cell.config.attention.variant != "softmax"
            end(cell, 0.8 + (0.02 + 0.03 * cell.config.seed) * better, noise=cell.config.seed)
        table = compare(tmp_path / name / "runs").tables[0]
        results.append(next(each.difference for each in table.variants if each.difference))
    planned, plain = results
    assert plain.level == ALPHA and planned.level == Looks(3, 8).levels[0]
    assert planned.p == pytest.approx(min(1.0, (plain.p or 0) * ALPHA / planned.level))
    assert planned.interval and plain.interval
    assert planned.interval[0] < plain.interval[0] and planned.interval[1] > plain.interval[1]
    assert (planned.detectable or 0) > (plain.detectable or 0)


def test_runs_that_others_begin_from_are_due_with_them(tmp_path: Path) -> None:
    base = {**TINY, "variants": ["softmax"]}
    downstream = {key: value for key, value in TINY.items() if key != "model.vocab_size"}
    grids = {"first": base, "second": {**downstream, "task": "yelp", "from": "softmax@first"}}
    study = study_of(tmp_path, grids, seeds=[0, 1], until={"margin": 0.5, "most": 3, "step": 1})
    for cell in study.cells:
        end(cell, 0.8, noise=hash((cell.config.attention.variant, cell.config.seed)))
    added = grown(study).cells[len(study.cells) :]
    assert [(cell.grid, cell.config.seed) for cell in added] == [("first", 2), ("second", 2), ("second", 2)]


@pytest.mark.parametrize(
    ("until", "seeds_", "complaint"),
    [
        ({"margin": 0.5}, [0, 1], "needs a margin and a budget"),
        ({"most": 5}, [0, 1], "needs a margin and a budget"),
        ({"margin": 0, "most": 5}, [0, 1], "until.margin: input should be greater than 0"),
        ({"margin": 0.5, "most": 2}, [0, 1], "must be above the 2 that are run first"),
        ({"margin": 0.5, "most": 5}, [0], "until.first: input should be greater than or equal to 2"),
        ({"margin": 0.5, "most": 5, "looks": 2}, [0, 1], "until has the keys margin, most and step"),
        (0.5, [0, 1], "until has the keys margin, most and step"),
    ],
)
def test_plans_that_are_none_are_refused(
    until: Any, seeds_: list[int], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        study_of(tmp_path, seeds=seeds_, until=until)


def test_the_command_line_says_it_over_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, seeds=[0, 1, 2], until=PLAN)
    study = load(str(path), tmp_path / "runs", {"margin": 0.12345678, "most": 5})
    assert study.cells[0].config.until is not None and study.cells[0].config.until.margin == 0.12345678
    assert study.command("--rehearse")[-5:] == ["--until", "0.12345678", "--most-seeds", "5", "--rehearse"]
    words = ["study", str(path), "--plan", "--output", str(tmp_path / "runs")]
    assert main([*words, "--until", "0.25"]) == 0
    assert "up to 10 more runs" in capsys.readouterr().out
    assert main([*words, "--until", "none"]) == 2
    assert "--until takes a difference in the units of the metric" in capsys.readouterr().err
    assert main(["classify", "--until", "0.5", "--dry-run"]) == 2
    assert "give --until to finetune study" in capsys.readouterr().err
    assert "up to 10 more runs" in plan_text(study_of(tmp_path, seeds=[0, 1, 2], until=PLAN), 1)
