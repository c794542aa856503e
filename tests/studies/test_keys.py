"""A key by its last part alone: on the command line, in a file over a preset, in a study, in a run's file."""

from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from finetune import objectives
from finetune.cli.main import main
from finetune.cli.train import ALIASES, OPTIONS, SECTIONS, TYPED
from finetune.config.schema import RunConfig
from finetune.errors import UserError
from finetune.studies import axes, cell_file
from finetune.studies.keys import ELSEWHERE, every, unknown_key
from finetune.tasks import TASK_TYPES
from finetune.training.arguments import admitted, check_train
from tests.support.studies import TINY, study_of

KINDS = {kind: task_type.verb for task_type in TASK_TYPES.values() for kind in task_type.kinds}
GIVEN = {"seeds", "variants", "text", "label", "source", "target"}  # in the file of a grid, or of a run


def parts(kind: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Every key of a kind of task with its last part, spelled both ways, where that is no key by itself."""
    for key in every([kind]):
        last = key.rpartition(".")[2]
        for name in sorted({last, last.replace("_", "-")}):
            if name.replace("-", "_") not in known:
                yield key, name


def suggests(error: object, key: str) -> None:
    hint = str(error).partition("did you mean ")[2].partition("? Allowed")[0]
    assert repr(key) in hint.split(" or "), f"{key}: {error}"


@pytest.mark.parametrize("kind", objectives.kinds())
def test_every_key_is_known_by_its_last_part(kind: str) -> None:
    found = list(parts(kind, ()))
    assert {key for key, _ in found} >= {f"train.{field}" for field in admitted(kind)} | {"model.lora.rank"}
    for key, last in found:
        suggests(unknown_key("key", last, ["data"], kinds=[kind], elsewhere={}), key)


@pytest.mark.parametrize("kind", KINDS)
def test_each_verb_names_the_whole_option(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    for key, last in _a_share(parts(kind, SECTIONS | OPTIONS), kind):
        assert main([KINDS[kind], "--objective", kind, f"--{last}", "1"]) == 2
        suggests(capsys.readouterr().err, f"--{TYPED.get(key, key)}")


@pytest.mark.parametrize("kind", KINDS)
def test_each_verb_names_the_whole_key_in_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "mine.yaml"
    for key, last in _a_share(parts(kind, SECTIONS), kind):
        file.write_text(f"{last}: 1\n")
        assert main([KINDS[kind], "--objective", kind, "--config", str(file)]) == 2
        suggests(capsys.readouterr().err, ELSEWHERE.get(key, key))


def _a_share(found: Iterator[tuple[str, str]], kind: str) -> list[tuple[str, str]]:
    """Every twelfth of them, of each kind others: the parser of the command takes its time."""
    return list(found)[list(KINDS).index(kind) :: 3 * len(KINDS)]


def test_so_do_a_study_and_the_file_of_a_run() -> None:
    for key, last in parts("translation", axes.SECTIONS | axes.OWN_KEYS | ELSEWHERE.keys() | GIVEN):
        with pytest.raises(UserError) as error:
            axes.points("mine", {"task": "agnews", last: 1}, Path("runs"))
        suggests(error.value, ELSEWHERE.get(key, key))
    for key, last in parts("translation", RunConfig.__dataclass_fields__.keys() | GIVEN):
        with pytest.raises(UserError) as error:
            cell_file.cell_of({"task": "agnews", last: 1}, Path("runs"))
        suggests(error.value, key)


@pytest.mark.parametrize(
    ("key", "meant"),
    [("model.rank", "model.lora.rank"), ("model.learning_rate", "train.learning_rate")],
)
def test_a_key_in_another_section_is_named_with_its_own(tmp_path: Path, key: str, meant: str) -> None:
    with pytest.raises(UserError) as error:
        study_of(tmp_path, {"mine": {**TINY, key: 1}})
    suggests(error.value, meant)


def test_train_names_the_section_of_another_key() -> None:
    with pytest.raises(UserError) as error:
        check_train("classification", {"rank": 4})
    suggests(error.value, "model.lora.rank")


def test_a_name_of_other_programs_stands_for_the_present_one() -> None:
    for name, key in {"optimizer": "train.optim", "max_seq_length": "data.max_length", **ALIASES}.items():
        suggests(unknown_key("key", name, ["data"]), key)
