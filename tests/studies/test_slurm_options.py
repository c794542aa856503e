"""What can be asked of Slurm, and what is read of its answers, without one."""

import os
import shlex
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from finetune.cli.main import main
from finetune.errors import UserError
from finetune.studies import engines
from finetune.studies.executors import slurm as engine
from finetune.studies.executors import slurm_batch, slurm_commands
from finetune.studies.executors.slurm import SlurmOptions
from finetune.studies.executors.slurm_commands import CommandError, Entry
from tests.support.studies import study_of, written


def chosen(folder: Path, **options: Any) -> SlurmOptions:
    options = engines.choose(study_of(folder), {"engine": "slurm", **options}).options
    assert isinstance(options, SlurmOptions)
    return options


def test_options_become_those_of_sbatch(tmp_path: Path) -> None:
    asked = chosen(
        tmp_path, partition="gpu,long", account=1234, gpus=8, nodes=2, cpus=6, memory="64G",
        time="1-12:00:30", constraint="a100&ib", sbatch="exclude=node[7-9]", setup="module load cuda",
    )  # fmt: skip
    assert asked.words() == [
        "--partition=gpu,long", "--account=1234", "--constraint=a100&ib", "--nodes=2", "--ntasks-per-node=4",
        "--gres=gpu:4", "--cpus-per-task=6", "--mem=64G", "--time=2161", "--exclude=node[7-9]",
    ]  # fmt: skip
    assert asked.setup == ("module load cuda",)
    assert chosen(tmp_path).words() == ["--nodes=1", "--ntasks-per-node=1"], "the cluster decides the rest"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"partion": "gpu"}, "unknown key 'slurm.partion': did you mean 'slurm.partition'?"),
        (
            {"partition": "-x"},
            "slurm.partition: a word without blanks or dashes before it, such as gpu, not '-x'",
        ),
        ({"gpus": 0}, "slurm.gpus: input should be greater than or equal to 1, not 0"),
        ({"gpus": 3, "nodes": 2}, "slurm.gpus 3 must be a multiple of slurm.nodes 2"),
        ({"memory": 32}, "slurm.memory: a whole number with its unit, such as 64G, not '32'"),
        ({"memory": "32"}, "slurm.memory: a whole number with its unit, such as 64G, not '32'"),
        ({"time": "8 hours"}, "a duration is written 90s, 90min, 8h, 2d or 1-12:00:00, not '8 hours'"),
        ({"time": "1min"}, "slurm.time 1min must be longer than slurm.save_before 2min"),
        ({"setup": 3}, "slurm.setup"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(
    options: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as raised:
        chosen(tmp_path, **options)
    assert complaint in str(raised.value) and "\n" not in str(raised.value)


def test_without_slurm_a_study_says_where_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["study", str(written(tmp_path)), "--output", str(tmp_path / "runs"), "--on", "slurm"]
    assert main(words) == 2
    assert "no Slurm here: start the study where the command sbatch is" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_jobs_inherit_this_shell_but_for_what_it_says_of_this_machine() -> None:
    variables = {
        "HF_HOME": "/data", "SBATCH_ACCOUNT": "mine", "SLURM_CONF": "/etc/slurm.conf", "SLURM_JOB_ID": "7",
        "SLURM_NTASKS": "3", "SQUEUE_STATES": "R", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2", "RANK": "1",
    }  # fmt: skip
    assert slurm_commands.environment(variables).keys() == {"HF_HOME", "SBATCH_ACCOUNT", "SLURM_CONF"}


def test_the_queue_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("finetune-a-1", "0", "12", "RUNNING", "None", "0", "1-00:00:07", "gpu[1-2]"),
        ("finetune-a-1", "11", "12", "FAILED", "NonZeroExitCode", "19200", "0:09", "gpu3"),
        (
            "somebody's job with a name that is as long as it may be",
            "N/A",
            "9",
            "PENDING",
            "Priority",
            "0",
            "0:00",
            "",
        ),
    ]
    widths = slurm_commands.FIELDS.values()
    printed = "\n".join("".join(v.ljust(w) for v, w in zip(row, widths, strict=True)) for row in rows)
    monkeypatch.setattr(slurm_commands, "ask", lambda words: printed)
    assert slurm_commands.listing() == {
        ("finetune-a-1", 0): Entry("12_0", "RUNNING", "None", None, 86407, "gpu[1-2]"),
        ("finetune-a-1", 11): Entry("12_11", "FAILED", "NonZeroExitCode", 75, 9, "gpu3"),
    }


def test_slurm_may_be_away_for_a_while_wherever_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command fails at first; a look on a worker, and the end of a job, come through."""
    study, asked, failed = study_of(tmp_path), list[str](), set[str]()
    queue = dict[tuple[str, int], Entry]()

    def ask(words: list[str], held: int | None = None) -> str:
        asked.append(words[0])
        if words[0] != "sbatch" and words[0] not in failed:
            failed.add(words[0])
            raise CommandError(f"{words[0]} gave no answer in 120 s")
        if words[0] == "scancel":
            queue.clear()
        if words[0] == "sbatch" and "call" in words[-1]:
            Path(words[-1]).with_suffix(".out").write_text("seen")
        return "MaxArraySize = 8" if words[0] == "scontrol" else "7"

    def listing(users: set[int]) -> dict[tuple[str, int], Entry]:
        assert users <= {os.getuid()}
        ask(["squeue"])
        return dict(queue)

    for module, name, value in [
        (slurm_commands, "ask", ask),
        (slurm_commands, "listing", listing),
        (slurm_commands, "accounted", lambda job: Entry(job, "COMPLETED", exit_status=0)),
        (engine, "TICK_S", 0),
        (engine, "CALL_S", 0),
    ]:
        monkeypatch.setattr(module, name, value)
    slurm_commands.largest_array.cache_clear()
    made = engine.Slurm(study, SlurmOptions())
    assert made.call(["look"]).output == "seen"
    failed.clear()
    made.submit(study.cells, {})
    (batch,) = slurm_batch.kept(study.root)
    queue |= {key: Entry(f"7_{key[1]}", "RUNNING") for key in batch.keys().values()}
    failed.clear()
    again = engine.Slurm(study, SlurmOptions())
    assert len(again.attach(study.cells)) == len(study.cells)
    again.cancel()
    assert failed == {"squeue", "scancel"} and asked.count("scancel") == 2 and again.jobs == []
    slurm_commands.largest_array.cache_clear()


def test_what_is_only_tidied_up_is_no_job_that_cannot_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(tmp_path)
    states = {"COMPLETING": "", "RUNNING": "jobs go on 0 s after scancel, the first is 7_0"}
    monkeypatch.setattr(engine, "GRACE_S", 0)
    monkeypatch.setattr(engine, "TICK_S", 0)
    monkeypatch.setattr(slurm_commands, "cancel", lambda jobs: None)
    made = slurm_batch.Batch("finetune-a-1", (study.cells[0].name,), (0,), "2026-01-01T00:00:00+00:00", "7")
    (study.root / "jobs").mkdir(parents=True)
    slurm_batch.keep(study.root, made)
    for state, complaint in states.items():
        seen = {("finetune-a-1", 0): Entry("7_0", state)}
        monkeypatch.setattr(slurm_commands, "listing", lambda users, seen=seen: seen)
        slurm = engine.Slurm(study, SlurmOptions())
        slurm.attach(study.cells)
        with pytest.raises(UserError, match=complaint) if complaint else nullcontext():
            slurm.cancel()


def test_the_accounting_is_asked_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "7_0": "OUT_OF_MEMORY|0:125|gpu1\n",
        "7_1": "CANCELLED by 1000|0:15|None assigned\n",
        "7_2": "",
    }

    def ask(words: list[str]) -> str:
        (job,) = [word.removeprefix("--jobs=") for word in words if word.startswith("--jobs=")]
        if job not in answers:
            raise CommandError("sacct: Slurm accounting storage is disabled")
        return answers[job]

    monkeypatch.setattr(slurm_commands, "ask", ask)
    found = [slurm_commands.accounted(job) for job in ("7_0", "7_1", "7_2", "8_0")]
    assert [entry and entry.state for entry in found] == ["OUT_OF_MEMORY", "CANCELLED", None, None]


def test_a_damaged_list_of_jobs_is_refused_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "finetune-a-1.json").write_text('{"name": "finetune-a-1"}')
    with pytest.raises(UserError, match="scancel"):
        slurm_batch.kept(tmp_path)


def test_a_job_sees_how_far_its_run_has_come_by_every_kind_of_checkpoint(tmp_path: Path) -> None:
    """Else a run that is told to end between two saves would not be put back into the queue."""
    folder = tmp_path / "a run"
    script = f"{slurm_batch.HEAD}\nfolder={shlex.quote(str(folder))}\necho [$(newest)]"
    seen = []
    for made in ("", "checkpoint-9", "preempted-12", "checkpoint-100"):
        (folder / made).mkdir(parents=True, exist_ok=True)
        seen.append(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert seen == ["[]\n", "[9]\n", "[12]\n", "[100]\n"]
