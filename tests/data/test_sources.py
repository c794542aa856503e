"""Where rows come from, with the real client against a stand-in of the Hub on the loopback address.

The client reads its settings when it is imported, so what is asked under other settings is put in a process
of its own.
"""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.data import hub as hub_module
from finetune.data import sources
from finetune.errors import UserError
from finetune.tasks import TASKS
from finetune.tasks.base import PARQUET_BRANCH
from tests.support.hub_standin import Hub, Repository, serve

ROOT = Path(__file__).parents[2]
Question = tuple[str, str | None, str, str | None]
"""Task, pair, source and revision, as they are asked for."""
PROGRAM = """
import dataclasses, json, sys
from finetune.data import hub, sources
from finetune.errors import UserError
from finetune import objectives
from finetune.tasks import get_task
asked, ask = [], hub._ask

def count(*words):
    asked.append(words)
    return ask(*words)

hub._ask = count
for name, pair, wanted, revision in json.loads(sys.argv[1]):
    task = get_task(name)
    if revision:
        task = dataclasses.replace(task, revision=revision)
    answer = {}
    try:
        found = sources.resolve(task, pair, wanted)
        answer = {"kind": found.kind, "revision": found.revision, "line": found.describe()}
        answer["asked"] = len(asked)
        raw = sources.read(found, task, pair, objectives.get(task.kind).sample)
        answer |= {"rows": {k: len(v) for k, v in raw.tables.items()}}
        answer |= {"first": raw.tables["test"].to_pylist()[0], "files": raw.files}
    except UserError as error:
        answer["error"] = str(error)
    print(json.dumps(answer))
    asked.clear()
"""


def parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def news(count: int, word: str = "news") -> bytes:
    return parquet([{"text": f"{word} item {i}", "label": i % 4} for i in range(count)])


def talks(pair: str) -> dict[str, bytes]:
    """One configuration on the parquet branch, laid out as the Hub does."""
    first, second = pair.split("-")
    files = {}
    for split, count in (("train", 9), ("validation", 3), ("test", 4)):
        rows = [{"translation": {first: f"{first} {i}", second: f"{second} {i}"}} for i in range(count)]
        files[f"iwslt2017-{pair}/{split}/0000.parquet"] = parquet(rows)
    return files


def repositories() -> dict[str, Repository]:
    files = {
        "README.md": b"---\nlicense: other\n---\n# News\n",
        "data/train-00000-of-00002.parquet": news(6),
        "data/train-00001-of-00002.parquet": news(5, "more"),
        "data/test-00000-of-00001.parquet": news(7, "exam"),
    }
    older = {**files, "data/test-00000-of-00001.parquet": news(3, "older")}
    commit = str(TASKS["agnews"].revision)
    return {
        "fancyzhx/ag_news": Repository({commit: files, "old": older}),
        "IWSLT/iwslt2017": Repository(
            {"main": {"iwslt2017.py": b"raise"}, PARQUET_BRANCH: {**talks("de-en"), **talks("en-fr")}}
        ),
    }


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve(Hub(repositories())) as running:
        yield running


def ask(home: Path, endpoint: str, task: str, wanted: str, pair: str | None = None, **extra: Any) -> Any:
    """What a fresh process makes of a source. ``extra``: revision, and environment variables in capitals."""
    question = (task, pair, wanted, extra.pop("revision", None))
    (answer,) = ask_all(home, endpoint, [question], **extra)
    return answer


def ask_all(home: Path, endpoint: str, questions: list[Question], **variables: str) -> list[Any]:
    """What one fresh process makes of several. ``variables``: of its environment."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))
    }
    environment |= {
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "PYTHONPATH": str(ROOT),
        "NO_PROXY": "127.0.0.1",
    }
    environment |= {"HF_UPDATE_DOWNLOAD_COUNTS": "0"} | variables
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(questions)],
        capture_output=True, text=True, env=environment, cwd=home, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(questions)
    return answers


def closed_port() -> str:
    """An address at which nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.fixture
def silent_port() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_rows_from_the_hub_then_from_its_cache(hub: Hub, tmp_path: Path) -> None:
    commit = TASKS["agnews"].revision
    online = ask(tmp_path, hub.endpoint, "agnews", "hub")
    assert online["kind"] == "hub"
    assert online["revision"] == commit
    assert online["rows"] == {"train": 11, "test": 7}
    assert online["first"] == {"row": 0, "text": "exam item 0", "label": 0}
    files = hub.repositories["fancyzhx/ag_news"].revisions[str(commit)]
    expected = {
        name: (len(content), hashlib.sha256(content).hexdigest())
        for name, content in files.items()
        if name.endswith(".parquet")
    }
    fetched = [entry for entry in online["files"] if entry["split"] is None]
    assert {entry["name"]: (entry["bytes"], entry["sha256"]) for entry in fetched} == expected
    made = [entry for entry in online["files"] if entry["split"]]
    assert {(entry["split"], len(entry["sha256"])) for entry in made} == {("train", 64), ("test", 64)}
    for extra in ({}, {"HF_HUB_OFFLINE": "1"}):
        questions: list[Question] = [("agnews", None, wanted, None) for wanted in ("hub", "auto")]
        for offline in ask_all(tmp_path, closed_port(), questions, **extra):
            assert offline["kind"] == "cache"
            assert offline["revision"] == commit
            assert offline["rows"] == online["rows"]
            assert offline["first"] == online["first"]
            assert offline["files"] == online["files"]
            assert offline["asked"] == (0 if extra else 1)
            assert ("HF_HUB_OFFLINE is set" in offline["line"]) == bool(extra)


@pytest.mark.slow
def test_the_parquet_branch_is_read_one_pair_at_a_time(hub: Hub, tmp_path: Path) -> None:
    pairs = ("de-en", "en-fr")
    answers = ask_all(tmp_path, hub.endpoint, [("iwslt2017", pair, "hub", None) for pair in pairs])
    for pair, answer in zip(pairs, answers, strict=True):
        assert answer["rows"] == {"train": 9, "validation": 3, "test": 4}
        assert answer["first"] == {"row": 0, "source": f"{pair[:2]} 0", "target": f"{pair[3:]} 0"}
        assert len(answer["revision"]) == 40
    fetched = [line for line in hub.requests if line.startswith("GET") and line.endswith(".parquet")]
    assert fetched
    assert all("main" not in line for line in fetched)
    questions: list[Question] = [
        ("iwslt2017", "de-en", "auto", None),
        ("iwslt2017", "en-de", "hub", None),
    ]
    cached, missing = ask_all(tmp_path, closed_port(), questions)
    assert (cached["kind"], cached["first"]) == (
        "cache",
        {"row": 0, "source": "de 0", "target": "en 0"},
    )
    assert "not in the cache" in missing["error"]


@pytest.mark.slow
def test_a_pinned_revision_is_not_replaced_by_another_in_the_cache(hub: Hub, tmp_path: Path) -> None:
    older = ask(tmp_path, hub.endpoint, "agnews", "hub", revision="old")
    assert older["first"]["text"] == "older item 0"
    assert "not in the cache" in ask(tmp_path, closed_port(), "agnews", "hub")["error"]
    hub.cut = "test-00000"
    answer = ask(tmp_path, hub.endpoint, "agnews", "hub")
    assert answer["error"].startswith("cannot read fancyzhx/ag_news from the Hub: ")


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["hub", "auto"])
def test_404_is_an_error_and_never_the_sample(hub: Hub, tmp_path: Path, wanted: str) -> None:
    questions: list[Question] = [("dbpedia", None, wanted, None), ("agnews", None, wanted, "gone")]
    missing, revision = ask_all(tmp_path, hub.endpoint, questions)
    assert "has no data set 'fancyzhx/dbpedia_14'" in missing["error"]
    assert "'fancyzhx/ag_news' at revision 'gone'" in revision["error"]


@pytest.mark.slow
def test_a_cut_connection_is_one_sentence_and_the_next_try_succeeds(hub: Hub, tmp_path: Path) -> None:
    hub.cut = "train-00001"
    answer = ask(tmp_path, hub.endpoint, "agnews", "hub")
    assert answer["error"].startswith("cannot read fancyzhx/ag_news from the Hub: ")
    assert "\n" not in answer["error"]
    hub.cut = ""
    assert ask(tmp_path, hub.endpoint, "agnews", "hub")["rows"] == {"train": 11, "test": 7}


@pytest.mark.slow
def test_no_network_is_noticed_within_seconds(tmp_path: Path, silent_port: str) -> None:
    """A refused connection, and one that is taken and never answered: one question, of bounded time."""
    assert hub_module.PROBE_SECONDS < 5
    refused = ask(tmp_path, closed_port(), "agnews", "auto")
    questions: list[Question] = [("agnews", None, "auto", None), ("agnews", None, "hub", None)]
    unanswered, strict = ask_all(tmp_path, silent_port, questions)
    for answer in (refused, unanswered):
        assert answer["kind"] == "sample"
        assert answer["asked"] == 1
        assert "out of reach" in answer["line"]
        assert "SAMPLE" in answer["line"]
    assert strict["error"].startswith("cannot reach the Hub for fancyzhx/ag_news")


def test_offline_asks_nothing(hub: Hub, tmp_path: Path) -> None:
    answer = ask(tmp_path, hub.endpoint, "agnews", "auto", HF_HUB_OFFLINE="1")
    assert answer["kind"] == "sample"
    assert hub.requests == []


def test_a_local_folder_comes_first_and_serves_both_directions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "agnews").mkdir(parents=True)
    (tmp_path / "data" / "iwslt2017-de-en").mkdir()
    assert sources.resolve(TASKS["agnews"], None, "auto").location == str(Path("data", "agnews"))
    found = sources.resolve(TASKS["iwslt2017"], "en-de", "auto")
    assert (found.kind, found.location) == ("local", str(Path("data", "iwslt2017-de-en")))
    assert "found here" in found.describe()


def test_strict_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.resolve(TASKS["agnews"], None, "sample").kind == "sample"
    with pytest.raises(UserError, match="there is no data folder 'nowhere'; give auto, hub, sample"):
        sources.resolve(TASKS["agnews"], None, "nowhere")
    with pytest.raises(UserError, match=r"'amazon' is not on the Hub; use TASK=amazon-polarity.*data/amazon"):
        sources.resolve(TASKS["amazon"], None, "hub")
    with pytest.raises(UserError, match="data/multi30k-de-en"):
        sources.resolve(TASKS["multi30k"], "de-en", "hub")
    assert "this task is not on the Hub" in sources.resolve(TASKS["amazon"], None, "auto").describe()


@pytest.mark.parametrize(
    ("name", "task", "other"),
    [
        ("agnews", "yelp", "agnews"),
        ("amazon", "amazon-polarity", "amazon"),
        ("amazon-polarity", "amazon", "amazon-polarity"),
        ("Yelp-polarity", "yelp-polarity", None),
        ("agnews-2024", "agnews", None),
        ("agnews", "agnews-text", None),  # the same data set
        ("agnews-text", "agnews", None),
        ("reviews", "yelp", None),
    ],
)
def test_a_folder_that_is_called_as_another_task_is_said(
    tmp_path: Path, name: str, task: str, other: str | None
) -> None:
    rows = [{"text": "a", "title": "b", "content": "c", "label": number} for number in (0, 1)]
    folder = tmp_path / name
    folder.mkdir()
    for split in ("train", "test"):
        pq.write_table(
            pa.Table.from_pylist(rows[:: 1 if split == "train" else -1]), folder / f"{split}.parquet"
        )
    raw = sources.read(sources.resolve(TASKS[task], None, str(folder)), TASKS[task], None)
    said = [note for note in raw.notes if "by its name the folder" in note]
    assert said == ([] if other is None else [
        f"by its name the folder {name} holds the data of {other}, and it is read as that of {task}"
    ])  # fmt: skip
