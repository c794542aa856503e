"""``pretrained:FOLDER`` -> the run of a variant, a seed and a position that another one begins from."""

from pathlib import Path
from typing import Any

import pytest

from finetune.config.folders import model_slug
from finetune.config.lineage import source_of
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.records import pretraining, store
from finetune.records.run import Run
from tests.support.records import run_config, save_accuracies, started

RUNS = "agnews/scratch-tiny"


def begin(place: Path | str, variant: str = "softmax", seed: int = 0, **over: Any) -> RunConfig:
    """The configuration of a run that begins from a run below ``model``."""
    values = {"name": f"pretrained:{place}", **over.pop("model", {})}
    return run_config(variant, seed, task="dbpedia", model=values, **over)


def pretrain(root: Path, *variants: str, **over: Any) -> None:
    for variant in variants:
        save_accuracies(root, variant, [0.8, 0.81], **over)


def refused(config: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        pretraining.resolve(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("below", ["", "agnews", RUNS])
def test_each_variant_and_seed_begins_from_its_own_run(tmp_path: Path, below: str) -> None:
    pretrain(tmp_path, "softmax", "sa-softmax")
    for variant in ("softmax", "sa-softmax"):
        for seed in (0, 1):
            run = pretraining.resolve(begin(tmp_path / below, variant, seed))
            assert run is not None
            assert run.folder == tmp_path / RUNS / variant / f"seed-{seed}"
            link = pretraining.link(run, "0" * 16)
            assert (link["variant"], link["seed"], link["folder"]) == (variant, seed, str(run.folder))


def test_a_variant_that_is_named_gives_all_variants_its_checkpoint(tmp_path: Path) -> None:
    pretrain(tmp_path, "softmax", "sa-softmax")
    run = pretraining.resolve(begin(f"softmax@{tmp_path}", "sa-softmax", 1))
    assert run is not None and run.folder.parts[-2:] == ("softmax", "seed-1")
    assert "did you mean 'softmax'?" in refused(begin(f"softmx@{tmp_path}", "sa-softmax", 1))


def test_parameters_of_a_variant_are_a_part_of_it_and_its_start_is_not(tmp_path: Path) -> None:
    pretrain(tmp_path, "sa-softmax", attention={"parameters": {"eps": 1e-5}, "start": "calibrated"})
    assert pretraining.resolve(begin(tmp_path, "sa-softmax", attention={"parameters": {"eps": 1e-5}}))
    assert "it has sa-softmax-eps1e-05" in refused(begin(tmp_path, "sa-softmax"))


def test_a_position_chooses_where_runs_differ_in_it(tmp_path: Path) -> None:
    pretrain(tmp_path / "position-kerple", "softmax", model={"position": "kerple"})
    pretrain(tmp_path / "position-rope", "softmax", model={"position": "rope"})
    run = pretraining.resolve(begin(tmp_path, model={"position": "rope"}))
    assert run is not None and "position-rope" in run.folder.parts
    assert refused(begin(tmp_path)).endswith("say which by model.position (kerple, rope)")
    assert refused(begin(tmp_path, model={"position": "fire"})).endswith("it has kerple, rope")


def test_what_cannot_be_begun_from_is_refused_in_a_line(tmp_path: Path) -> None:
    assert "there is no folder" in refused(begin(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    assert "holds no runs to begin from" in refused(begin(tmp_path / "empty"))
    pretrain(tmp_path / "runs", "softmax")
    missing = refused(begin(tmp_path / "runs", "sa-softmax", 7))
    assert missing.endswith("--attention sa-softmax --seeds 7") and "it has softmax" in missing
    assert "its seeds are 0, 1" in refused(begin(tmp_path / "runs", "softmax", 7))
    pretrain(tmp_path / "two", "softmax")
    pretrain(tmp_path / "two" / "faster", "softmax", train={"learning_rate": 0.5})
    assert "differ in train.learning_rate: name the folder" in refused(begin(tmp_path / "two"))
    pretrain(tmp_path / "adapters", "softmax", model={"lora": {"rank": 4}})
    assert "LoRA adapters and no whole model" in refused(begin(tmp_path / "adapters"))


@pytest.mark.parametrize(("status", "said"), [("running", "unfinished"), ("failed", "is failed: no memory")])
def test_a_run_that_is_not_finished_is_named(tmp_path: Path, status: Any, said: str) -> None:
    entry = started("softmax", 0) | {"status": status, "reason": "no memory" if status == "failed" else None}
    store.write(tmp_path / "softmax" / "seed-0", entry)
    message = refused(begin(tmp_path))
    assert said in message and str(tmp_path / "softmax" / "seed-0") in message


def test_runs_that_begin_from_a_folder_do_not_stand_in_its_way(tmp_path: Path) -> None:
    pretrain(tmp_path, "softmax")
    store.write(tmp_path / "later", started("softmax", 0, model={"name": f"pretrained:{tmp_path}"}))
    run = pretraining.resolve(begin(tmp_path))
    assert run is not None and run.task == "agnews" and run.finished


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (
            {"attention": {"start": "calibrated"}},
            "leave it cold, or begin from one variant's: pretrained:soft",
        ),
        ({"model": {"revision": "main"}}, "leave it null"),
        ({"model": {"name": "pretrained:"}}, "names no folder of runs"),
        ({"model": {"name": "pretrained:softmax@"}}, "names no folder of runs"),
    ],
)
def test_settings_without_a_meaning_are_refused(over: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        begin("runs", "sa-softmax", **over)


def test_a_swapped_one_may_start_warm() -> None:
    assert (
        begin("softmax@runs", "sa-softmax", attention={"start": "calibrated"}).attention.start == "calibrated"
    )


@pytest.mark.parametrize(
    ("name", "slug", "shown"),
    [
        ("pretrained:runs/books/small", "pretrained-books--small", "pretrained:runs/books/small"),
        ("pretrained:/a/b/books/small", "pretrained-books--small", "pretrained:books/small"),
        ("pretrained:softmax@/a/b/c", "pretrained-softmax-b--c", "pretrained:softmax@b/c"),
        ("pretrained:runs@home/x", "pretrained-runs-home--x", "pretrained:runs@home/x"),
        ("pretrained:./runs@home/x", "pretrained-runs-home--x", "pretrained:./runs@home/x"),
    ],
)
def test_names(name: str, slug: str, shown: str, tmp_path: Path) -> None:
    source = source_of(name)
    assert source is not None and source_of(source.name) == source
    config = run_config(model={"name": name})
    assert model_slug(config.model) == slug
    assert Run(tmp_path, started("softmax", 0, model={"name": name})).model == shown
