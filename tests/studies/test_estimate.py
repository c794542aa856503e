"""What a study will cost."""

from dataclasses import replace
from pathlib import Path

from finetune.studies import estimate
from finetune.studies.grid import Cell
from finetune.studies.state import look
from finetune.system.durations import duration
from tests.support.studies import TINY, folders, keep, study_of


def test_the_cost_is_the_median_of_the_nearest_runs(tmp_path: Path) -> None:
    same = {**TINY, "variants": ["softmax", "sa-softmax", "sa-softmax-raw"]}
    grids = {"a": same, "b": {**same, "task": "yelp"}, "c": {**same, "model.name": "scratch:mini"}}
    grids["d"] = {**same, "task": "yahoo"}
    study = study_of(tmp_path, grids, seeds=[0, 1, 2, 3])
    cells = dict(zip(folders(study), study.cells, strict=True))

    def cell(grid: str, arm: str, seed: int) -> Cell:
        task = {"b": "yelp", "d": "yahoo"}.get(grid, "agnews")
        size = "mini" if grid == "c" else "tiny"
        return cells[f"{grid}/{task}/scratch-{size}/{arm}/seed-{seed}"]

    for seed, seconds in enumerate((10.0, 30.0, 50.0)):
        keep(cell("a", "softmax", seed), seconds=seconds)
    keep(cell("a", "sa-softmax", 0), seconds=80.0)
    resumed = {"train_s": None, "predict_s": 1.0, "total_s": 1.0}
    keep(cell("a", "sa-softmax", 1), times=resumed)
    keep(cell("a", "sa-softmax", 2), "failed", times={"train_s": 1.0, "total_s": 1.0})
    keep(cell("b", "softmax", 0), seconds=900.0)
    costs = estimate.Costs()
    for each in study.cells:
        costs.add(each, look(each).run)
    assert costs.expected(cell("a", "softmax", 3)) == 30.0, "of its own arm"
    assert costs.expected(cell("a", "sa-softmax", 3)) == 80.0, "but for a resumed and a failed one"
    assert costs.expected(cell("a", "sa-softmax-raw", 3)) == 40.0, "of its task, model and grid"
    assert costs.expected(cell("d", "softmax", 3)) == 50.0, "of its kind of task and model"
    assert costs.expected(cell("c", "softmax", 3)) is None
    keep(replace(cell("c", "softmax", 0), folder=study.root / "elsewhere"), seconds=700.0)
    costs.add_others(study.root, study.cells)
    assert costs.expected(cell("c", "softmax", 3)) == 700.0
    assert costs.expected(cell("d", "softmax", 3)) == 50.0, "no run is counted twice"


def test_the_rest_is_shared_by_the_workers() -> None:
    assert estimate.rest([60.0, 120.0, None], 2) == (90.0, 1)
    assert estimate.rest_text([60.0, 120.0], 1) == "about 3 min"
    assert estimate.rest_text([60.0, None], 2) == "about 30 s and 1 run of unknown length"
    assert estimate.rest_text([None, None], 2) == "2 runs of unknown length"
    assert [duration(s) for s in (89, 91, 7200, 200_000)] == ["89 s", "2 min", "2.0 h", "2.3 days"]
