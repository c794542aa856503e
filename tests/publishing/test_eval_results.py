"""The Hub's file of results of a model on a data set: its client reads it, and it claims whole ones alone."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResultEntry, constants, parse_eval_result_entries

from finetune.publishing import eval_results
from finetune.records.run import Run
from tests.support.records import classified, correctness, finish, started, translations

COMMIT = "0123456789" * 4


def made(sample: bool = False, **data: Any) -> Run:
    """A run of 100 test rows, all that there are, of the Hub unless ``data`` says otherwise."""
    entry = finish(started("sa-softmax", 3, sample=sample), classified(correctness(100, 0.9, 0)))
    return Run(Path("run"), with_data(entry, **data))


def with_data(entry: Any, **data: Any) -> Any:
    hub = {"kind": "hub", "location": "fancyzhx/ag_news", "revision": COMMIT}
    return {**entry, "data": {**entry["data"], **hub, **data}}


def parsed(run: Run) -> list[EvalResultEntry]:
    ((path, text),) = eval_results.files(run, "org/run").items()
    assert path.startswith(".eval_results/") and path.endswith(".yaml")
    return parse_eval_result_entries(yaml.safe_load(text))


@pytest.mark.parametrize("kind", ["hub", "cache"])
def test_the_client_of_the_hub_reads_the_result(kind: str) -> None:
    run = made(kind=kind)
    assert parsed(run) == [
        EvalResultEntry(
            dataset_id="fancyzhx/ag_news",
            task_id="default",
            value=0.9,
            dataset_revision=COMMIT,
            date=run.record["finished"],
            source_url=f"{constants.ENDPOINT}/org/run/blob/main/record.json",
            source_name="record of the run",
            notes="accuracy on 100 test rows, attention sa-softmax, seed 3; accuracy|scikit-learn:1.9.1",
        )
    ]
    assert list(eval_results.files(run, "org/run")) == [".eval_results/ag_news.yaml"]


def test_a_language_pair_is_a_task_of_its_own() -> None:
    entry = finish(started("sa-softmax", 0, kind="translation"), translations(20, 0.3, 0))
    (result,) = parsed(Run(Path("run"), with_data(entry, location="IWSLT/iwslt2017")))
    assert (result.task_id, result.dataset_id) == ("de-en", "IWSLT/iwslt2017")
    assert result.value == entry["metrics"]["bleu"]["value"] and "bleu on 100 test rows" in str(result.notes)


@pytest.mark.parametrize(
    "run",
    [
        made(sample=True),
        made(kind="local", location="ag_news"),
        made(splits={"test": {"rows": 100, "of": 7600, "fingerprint": "f" * 16}}),
    ],
    ids=["sample", "local rows", "a part of the test rows"],
)
def test_what_is_not_the_whole_of_a_data_set_of_the_hub_is_not_claimed(run: Run) -> None:
    assert eval_results.files(run, "org/run") == {}
