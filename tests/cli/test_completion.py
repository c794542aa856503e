"""The script that completes what is typed, as a shell runs it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from finetune.attention import VARIANTS
from finetune.cli.completion import SHELLS, script
from finetune.cli.main import main, parser
from finetune.config.loading import preset_names
from finetune.studies.engines import ENGINES
from finetune.studies.file import shipped
from finetune.studies.keys import ELSEWHERE, every

ASK = """
ask() {
    COMP_WORDS=(finetune "$@"); COMP_CWORD=$#; COMPREPLY=()
    _shtab_finetune finetune "${!#}" "${COMP_WORDS[$#-1]}"
    echo "${COMPREPLY[@]}"
}
"""


@pytest.fixture(scope="module")
def bash() -> str:
    return script("bash", parser()[0])


def completed(bash: str, folder: Path, *asked: str) -> list[set[str]]:
    """What bash offers for the last word of each of ``asked``."""
    lines = [bash, ASK, *(f"ask {words}" for words in asked)]
    command = [shutil.which("bash") or "bash", "--norc", "-s"]
    done = subprocess.run(
        command, input="\n".join(lines), capture_output=True, text=True, check=True, cwd=folder
    )
    assert done.stderr == ""
    return [set(line.split()) for line in done.stdout.splitlines()]


def test_bash_completes_verbs_options_and_names(bash: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    (tmp_path / "my-runs").mkdir()
    expected = {
        '""': set(parser()[1]),
        "classify --preset ''": set(preset_names("classification")),
        "classify --attention sa-softmax-r": {name for name in VARIANTS if name.startswith("sa-softmax-r")},
        "classify --task agn": {"agnews"},
        "translate --task iw": {"iwslt2017"},
        "translate --pair de": {"de-en"},
        "classify --lr 3 --train.lear": {"--train.learning_rate"},
        "classify --attention.scope ''": {"all", "encoder", "decoder", "cross"},
        "pretrain --model.position fi": {"fire"},
        "study --on ''": set(ENGINES),
        "study --slurm.partit": {"--slurm.partition"},
        "study quick --dry": {"--dry-run"},
        "study mi": {"mine.yaml"},
        "study qu": {"quick"},
        "classify --config mi": {"mine.yaml"},
        "compare my": {"my-runs"},
        "completion ''": set(SHELLS),
    }
    assert dict(zip(expected, completed(bash, tmp_path, *expected), strict=True)) == expected
    assert completed(bash, tmp_path, "study ''")[0] >= {*shipped(), "mine.yaml"}


def test_every_key_is_completed_that_the_command_takes(bash: str, tmp_path: Path) -> None:
    (offered,) = completed(bash, tmp_path, "translate --")
    keys = {f"--{key}" for key in every(["translation"]) if key not in ELSEWHERE}
    assert offered >= keys | {"--lr", "--batch-size"}
    assert not offered & {f"--{key}" for key in ELSEWHERE}


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_can_read_its_script(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    done = subprocess.run(
        [program, "-n"], input=script(shell, parser()[0]), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "csh"]) == 2
    assert "bash" in capsys.readouterr().err
