"""Data sets larger than a disk: no more is fetched than a run reads, with the real client."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.data.test_sources import ROOT, closed_port, parquet
from tests.support.hub_standin import Hub, Repository, serve

PROGRAM = """
import json, sys
from finetune.data import dataset, sources
from finetune.errors import UserError
from finetune.tasks import LanguageTask
from tests.support.configurations import data_config

facts, streamed, changes, train_bytes = json.loads(sys.argv[1])
text = tuple(facts or ["text"])
task = LanguageTask(name="web", title="Web", text=text, hub_id="org/web", streamed=streamed)
try:
    source = sources.resolve(task, None, "hub")
    kind = source.kind
    data = dataset.load(task, None, source, data_config(**changes), train_bytes=train_bytes)
    print(json.dumps({
        "texts": {name: split["text"][:] for name, split in data.splits.items()},
        "documents": {name: split["document"][:] for name, split in data.splits.items()},
        "notes": data.info["notes"], "files": data.info["files"], "revision": source.revision, "kind": kind,
    }))
except UserError as error:
    print(json.dumps({"error": str(error)}))
"""
SHARDS, ROWS = 4, 6
TEXT = "number {}: " + "word " * 50  # about 260 bytes


def shards(split: str, start: int = 0) -> dict[str, bytes]:
    return {
        f"data/{split}-{shard:05}-of-{SHARDS:05}.parquet": parquet(
            [{"text": TEXT.format(start + shard * ROWS + row), "id": f"{shard}-{row}"} for row in range(ROWS)]
        )
        for shard in range(SHARDS)
    }


def ask(
    home: Path,
    hub: Hub,
    *,
    train_bytes: int | None = None,
    facts: Any = None,
    streamed: bool = True,
    **changes: Any,
) -> Any:
    """What a fresh process reads of it; the client takes its settings when it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    kept |= {"HF_HOME": str(home), "HF_ENDPOINT": hub.endpoint, "PYTHONPATH": str(ROOT)}
    kept |= {"NO_PROXY": "127.0.0.1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "FINETUNE_CACHE": str(home / "own")}
    question = json.dumps([facts, streamed, {"validation_rows": 2, "test_rows": 3, **changes}, train_bytes])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, question],
        capture_output=True, text=True, env=kept, cwd=home, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def fetched(hub: Hub) -> set[str]:
    """The shards of which anything was fetched."""
    return {
        line.rpartition("/")[2].partition("?")[0]
        for line in hub.requests
        if line.startswith("GET") and "/resolve/" in line and ".parquet" in line
    }


def numbers(texts: list[str]) -> list[int]:
    return [int(text.partition(":")[0].removeprefix("number ")) for text in texts]


@pytest.mark.slow
def test_no_shard_is_fetched_that_is_not_read(tmp_path: Path) -> None:
    with serve(Hub({"org/web": Repository({"main": shards("train")})})) as hub:
        answer = ask(tmp_path, hub, train_bytes=3 * 260)
        assert numbers(answer["texts"]["test"]) == [0, 1, 2]
        assert numbers(answer["texts"]["validation"]) == [3, 4]
        assert numbers(answer["texts"]["train"]) == [5, 6, 7]
        assert fetched(hub) == {"train-00000-of-00004.parquet", "train-00001-of-00004.parquet"}
        assert [note for note in answer["notes"] if "held out" in note] == [
            "there is no test split: the next 3 rows of train are held out for it",
            "there is no validation split: the next 2 rows of train are held out for it",
        ]
        more = ask(tmp_path, hub, train_rows=12)
        assert numbers(more["texts"]["train"]) == list(range(5, 17))
        assert more["texts"]["test"] == answer["texts"]["test"]
        everything = ask(tmp_path, hub, train_rows=10**6)
        assert numbers(everything["texts"]["train"]) == list(range(5, 24))


@pytest.mark.slow
def test_no_document_is_in_two_splits(tmp_path: Path) -> None:
    """Rows of documents of four, the last row a late part of the first; a row without a name is its own."""
    named = [{"text": TEXT.format(row), "document": f"book {row // 4}"} for row in range(17)]
    named[9]["document"] = None
    named[16]["document"] = "book 0"
    files = {"data/train-00000-of-00001.parquet": parquet(named)}
    with serve(Hub({"org/web": Repository({"main": files})})) as hub:
        answer = ask(tmp_path, hub, train_rows=10**6)
        found = {name: numbers(texts) for name, texts in answer["texts"].items()}
        assert found == {"test": [0, 1, 2], "validation": [4, 5], "train": list(range(8, 16))}
        names = [{*documents} for documents in answer["documents"].values()]
        assert sum(map(len, names)) == len(set.union(*names))
        nothing = ask(tmp_path, hub, train_rows=3, test_rows=10)  # validation takes the last document
        assert "no more rows than are held out of train, documents whole" in nothing["error"]


@pytest.mark.slow
def test_splits_of_their_own_are_read_as_they_are(tmp_path: Path) -> None:
    files = shards("train") | shards("test", 100) | shards("validation", 200)
    with serve(Hub({"org/web": Repository({"main": files})})) as hub:
        answer = ask(tmp_path, hub, train_rows=2, test_rows=None)
        assert numbers(answer["texts"]["train"]) == [0, 1]
        assert numbers(answer["texts"]["test"]) == list(range(100, 124))
        assert numbers(answer["texts"]["validation"]) == [200, 201]
        assert not any("held out" in note for note in answer["notes"])
        assert "train-00001-of-00004.parquet" not in fetched(hub)


@pytest.mark.slow
def test_a_data_set_that_is_fetched_whole_may_lack_a_test(tmp_path: Path) -> None:
    with serve(Hub({"org/web": Repository({"main": shards("train")})})) as hub:
        answer = ask(tmp_path, hub, streamed=False, test_rows=None, test_share=0.25)
        counts = {name: len(texts) for name, texts in answer["texts"].items()}
        assert counts == {"train": 16, "validation": 2, "test": 6}


@pytest.mark.slow
def test_what_cannot_be_streamed(tmp_path: Path) -> None:
    with serve(Hub({"org/web": Repository({"main": shards("train")})})) as hub:
        assert "say how much that is, with --language.train_tokens" in ask(tmp_path, hub)["error"]
        assert "--data.test_rows 1000" in ask(tmp_path, hub, train_rows=2, test_rows=None)["error"]
        lacking = ask(tmp_path, hub, train_rows=2, facts=["body"])["error"]
        assert lacking.startswith(
            "org/web: no column 'body'; task 'web' needs 'body' and the data has 'text', 'id'"
        )


@pytest.mark.slow
def test_rows_are_kept_for_the_next_run_with_or_without_the_hub(tmp_path: Path) -> None:
    with serve(Hub({"org/web": Repository({"main": shards("train")})})) as hub:
        first = ask(tmp_path, hub, train_rows=4)
        hub.requests.clear()
        again = ask(tmp_path, hub, train_rows=4)
        assert again == first
        assert not fetched(hub)
        assert [entry["split"] for entry in first["files"]] == ["test", "validation", "train"]
        (entry,) = (tmp_path / "own" / "streams").iterdir()
        (entry / "train.parquet").write_bytes(b"PAR1")
        assert ask(tmp_path, hub, train_rows=4)["texts"] == first["texts"]
        assert fetched(hub)
        hub.endpoint = closed_port()
        offline = ask(tmp_path, hub, train_rows=4)
        assert (offline["kind"], offline["texts"]) == ("cache", first["texts"])
        other = ask(tmp_path, hub, train_rows=5)["error"]
        assert other.startswith("org/web: the Hub is out of reach, and the cache holds rows of other runs")
