"""The declarations, finding them, and a user's own."""

import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune import tasks
from finetune.errors import UserError
from finetune.tasks import TASKS, check_pair, get_task
from finetune.tasks.base import PARQUET_BRANCH, ClassificationTask, Task, TranslationTask, languages

MINE = """
from finetune.tasks import ClassificationTask

{name} = ClassificationTask(name="{task}", title="Mine", text=("body",), label="kind", labels=("ham", "spam"))
"""


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_every_task_of_the_study_is_declared() -> None:
    names = [
        "agnews",
        "dbpedia",
        "yelp",
        "yelp-polarity",
        "yahoo",
        "amazon",
        "amazon-polarity",
        "iwslt2017",
        "multi30k",
        "books",
        "arxiv",
        "wikitext",
        "wikitext-2",
        "fineweb",
        "agnews-text",
    ]
    assert set(names) <= set(TASKS)
    assert {task.name for task in TASKS.values()} == set(TASKS)
    counts = {name: len(TASKS[name].labels) for name in names if isinstance(TASKS[name], ClassificationTask)}
    assert counts == {
        "agnews": 4, "dbpedia": 14, "yelp": 5, "yelp-polarity": 2, "yahoo": 10, "amazon": 5,
        "amazon-polarity": 2,
    }  # fmt: skip


def test_a_task_file_is_found_by_itself() -> None:
    """Every module beside base declares at least one task, and nothing else lists them."""
    modules = {path.stem for path in Path(tasks.__file__).parent.glob("*.py")} - {"__init__", "base"}
    assert modules >= {"agnews", "amazon", "dbpedia", "iwslt2017", "multi30k", "yahoo", "yelp"}
    for name in modules:
        module = importlib.import_module(f"finetune.tasks.{name}")
        assert any(isinstance(value, Task) for value in vars(module).values()), name


def test_hub_data_sets_are_pinned() -> None:
    for task in TASKS.values():
        assert (task.hub_id is None) == (task.revision is None), task.name
        assert task.licence != "unknown" and task.source != "unknown", task.name
    assert TASKS["iwslt2017"].revision == PARQUET_BRANCH
    assert TASKS["amazon"].hub_id is None


def test_iwslt_pairs_come_in_both_directions() -> None:
    task = TASKS["iwslt2017"]
    assert isinstance(task, TranslationTask)
    assert len(task.pairs) == 24
    assert {"-".join(reversed(languages(pair))) for pair in task.pairs} == set(task.pairs)
    assert task.hub_config is not None
    assert task.hub_config.format(pair="en-fr") == "iwslt2017-en-fr"


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown task 'agnew': did you mean 'agnews'\?"):
        get_task("agnew")


def test_pairs_are_checked() -> None:
    assert check_pair(TASKS["iwslt2017"], None) == "de-en"
    assert check_pair(TASKS["iwslt2017"], "fr-en") == "fr-en"
    assert check_pair(TASKS["agnews"], None) is None
    with pytest.raises(UserError, match="did you mean 'en-fr'"):
        check_pair(TASKS["iwslt2017"], "en-frr")
    with pytest.raises(UserError, match="takes no pair"):
        check_pair(TASKS["agnews"], "de-en")


def test_a_users_own_file(tmp_path: Path) -> None:
    path = write(tmp_path, MINE.format(name="TASK", task="mail"))
    assert get_task(path).name == "mail"
    assert get_task(f"{path}:TASK").name == "mail"


def test_a_users_file_may_start_from_a_known_task(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "import dataclasses\nfrom finetune.tasks.agnews import AGNEWS\n"
        "TASK = dataclasses.replace(AGNEWS, name='news', labels=('a', 'b', 'c', 'd'))\n",
    )
    assert get_task(path).name == "news"


FROM_AGNEWS = """
import dataclasses
from tasks.agnews import AGNEWS
TASK = dataclasses.replace(AGNEWS, name="mail")
"""
NAMED = [  # by what it needs, so that a package of the same name is told apart
    "from tasks.base import ClassificationTask",
    "from tasks import ClassificationTask",
    "from tasks import agnews as _; from tasks import ClassificationTask",
]
WHOLE = {
    "import tasks.base\nClassificationTask = tasks.base.ClassificationTask": "import finetune.tasks.base",
    "import tasks.base as base\nClassificationTask = base.ClassificationTask": "import finetune.tasks.base",
    "import tasks\nClassificationTask = tasks.ClassificationTask": "import finetune.tasks",
    "from tasks import base\nClassificationTask = base.ClassificationTask": "from finetune.tasks import base",
    "from tasks.base import *": "from finetune.tasks.base import *",
}


def declared(imports: str) -> str:
    text = MINE.format(name="TASK", task="mail")
    return text.replace("from finetune.tasks import ClassificationTask", imports)


@pytest.mark.parametrize(
    ("imports", "advice"), [(NAMED[0], "from finetune.tasks import ClassificationTask"), *WHOLE.items()]
)
def test_the_old_name_of_the_package_still_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], imports: str, advice: str
) -> None:
    path = write(tmp_path, declared(imports))
    before = sys.modules.keys() & {"tasks", "tasks.base"}
    with pytest.warns(DeprecationWarning, match=f"{re.escape(advice)}$") as warned:
        assert get_task(path).name == "mail"
        assert get_task(path).name == "mail"
    assert warned[0].filename == path
    old = " ".join(imports.split()[:2])
    assert capsys.readouterr().err == f"note: {path} says {old}: write {advice}\n"  # once
    assert sys.modules.keys() & {"tasks", "tasks.base"} == before


THEIRS = """
OWNER = "somebody else"
class Task: pass
"""


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Somebody else's package of the old name, first in the path."""
    folder = tmp_path / "site"
    (folder / "tasks").mkdir(parents=True)
    (folder / "tasks" / "__init__.py").write_text(THEIRS)
    (folder / "tasks" / "base.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        monkeypatch.delitem(sys.modules, name)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        del sys.modules[name]


@pytest.mark.parametrize("text", [*map(declared, NAMED), FROM_AGNEWS])
def test_the_old_name_works_beside_a_package_that_has_it(others: Path, tmp_path: Path, text: str) -> None:
    with pytest.warns(DeprecationWarning, match=r"write from finetune\.tasks"):
        assert get_task(write(tmp_path, text)).name == "mail"


@pytest.mark.parametrize(
    "imports",
    [
        "import tasks\nassert tasks.OWNER == 'somebody else'",
        "from tasks import OWNER\nassert OWNER == 'somebody else'",
        "from tasks import *\nassert OWNER == 'somebody else'",
        "from tasks.base import Task\nassert Task.__module__ == 'tasks.base'",
        "from tasks import base\nassert base.OWNER == 'somebody else'",
        "def look():\n    import tasks.base\n    return tasks.base.OWNER\nassert look() == 'somebody else'",
    ],
)
def test_a_file_that_means_the_other_package_gets_it(others: Path, tmp_path: Path, imports: str) -> None:
    text = f"{imports}\n{MINE.format(name='TASK', task='mail')}"
    assert get_task(write(tmp_path, text)).name == "mail"


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("from tasks.base import Nothing", "cannot import name 'Nothing' from 'tasks.base'"),
        ("import tasks.nowhere", "No module named 'tasks.nowhere'"),
        ("from tasks.broken import Task", "No module named 'a_library_of_theirs'"),
    ],
)
def test_what_neither_package_has_is_python_s_own_error(
    others: Path, tmp_path: Path, statement: str, message: str
) -> None:
    (others / "tasks" / "broken.py").write_text("import a_library_of_theirs\n")
    with pytest.raises(UserError, match=message):
        get_task(write(tmp_path, f"{statement}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "declares no task"),
        ("import nowhere_at_all\n", "ModuleNotFoundError"),
        ("def (\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "failed to run: SystemExit"),
        (
            MINE.format(name="A", task="one") + MINE.format(name="B", task="two"),
            "declares 2 tasks; choose one",
        ),
        (MINE.format(name="A", task="agnews"), "is built in; give it another name"),
        (MINE.format(name="A", task="My Mail"), "lower-case letters"),
        (MINE.format(name="A", task="mail").replace('("body",)', '("body")'), r"text must be a tuple"),
        (MINE.format(name="A", task="mail").replace('"ham", "spam"', '"ham", "ham"'), "one thing twice"),
        (MINE.format(name="A", task="mail").replace('"ham", "spam"', '"ham",'), "at least 2"),
        (MINE.format(name="A", task="mail").replace("title=", "titel="), "titel"),
    ],
)
def test_a_faulty_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task(write(tmp_path, text))


def test_several_tasks_in_one_file_are_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, MINE.format(name="A", task="one") + MINE.format(name="B", task="two"))
    assert get_task(f"{path}:B").name == "two"
    with pytest.raises(UserError, match="unknown task variable"):
        get_task(f"{path}:C")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no task file"):
        get_task(str(tmp_path / "none.py"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default_pair": "fr-en"}, "not among its pairs"),
        ({"pairs": ("de_en",), "default_pair": "de_en"}, "source-target"),
        ({"pairs": ("de-de",), "default_pair": "de-de"}, "source-target"),
        ({"pairs": ()}, "tuple of strings"),
    ],
)
def test_a_faulty_translation_task(changes: dict[str, object], message: str) -> None:
    task = TranslationTask(name="t", title="T", pairs=("de-en", "en-de"), default_pair="de-en")
    with pytest.raises(UserError, match=message):
        dataclasses.replace(task, **changes)  # type: ignore[arg-type]


def test_declarations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TASKS["agnews"].name = "other"  # type: ignore[misc]
