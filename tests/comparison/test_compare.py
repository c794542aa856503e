"""From records to a comparison."""

import json
from pathlib import Path

import pytest

from finetune.comparison.compare import Comparison, compare
from finetune.errors import UserError
from finetune.records import store
from tests.support.comparisons import changed
from tests.support.records import (
    classified,
    save,
    save_accuracies,
    started,
)


def test_records_that_cannot_be_used_are_problems_and_the_rest_goes_on(tmp_path: Path) -> None:
    save_accuracies(tmp_path / "good", "softmax", [0.8])
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / store.FILE).write_text('{"schema": ')
    liar = save(tmp_path / "liar", started("softmax", 0), classified([True]))
    store.write(liar, store.read(liar) | {"metrics": None})
    swapped = changed(started("sa-softmax", 0), "attention", variant="softmax")
    save(tmp_path / "swapped", swapped, classified([True]))
    foreign = started("sa-softmax", 0)
    foreign["config"]["attention"]["new_key"] = 1
    store.write(tmp_path / "foreign", foreign)
    found = compare([tmp_path])
    assert [table.variants[0].finished for table in found.tables] == [1]
    told = "\n".join(found.problems)
    assert len(found.problems) == 4
    for part in ("truncated", "says finished but lacks", "asked for sa-softmax but ran softmax", "new_key"):
        assert part in told


def test_the_same_records_give_the_same_comparison(tmp_path: Path) -> None:
    save_accuracies(tmp_path, "softmax", [0.7, 0.71])
    save_accuracies(tmp_path, "sa-softmax", [0.72, 0.73])
    assert compare([tmp_path]).to_json() == compare([tmp_path]).to_json()


def test_nothing_there(tmp_path: Path) -> None:
    assert compare([tmp_path]) == Comparison([], [])
    with pytest.raises(UserError, match="no folder"):
        compare([tmp_path / "nowhere"])


def test_the_json_has_its_version_and_what_holds_over_tasks(tmp_path: Path) -> None:
    for task in ("agnews", "yelp"):
        for variant, share in (("softmax", 0.5), ("sa-softmax", 0.6)):
            save_accuracies(tmp_path, variant, [share, share + 0.03, share + 0.02], task=task)
    content = json.loads(json.dumps(compare([tmp_path]).to_json(), allow_nan=False))
    assert (content["schema"], content["version"]) == ("finetune-comparison", 2)
    assert [line["arm"] for line in content["overall"]] == ["softmax", "sa-softmax"]
    found = content["tables"][0]["arms"][1]
    assert set(found["difference"]["seeds_needed"]) == {"0.25", "0.5", "1"}
    assert len(found["difference"]["interval"]) == 2
    assert (found["control"], found["untrained"], found["start"]) == (False, None, None)
