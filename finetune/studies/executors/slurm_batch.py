"""A batch: cells that are submitted to Slurm together, as one job array, and the script that runs each.

What a batch holds is written down before it is submitted, under a name that no other has. So its jobs are
known again in ``squeue`` by any process that has the folder, whatever became of the one that submitted them.
"""

import os
import re
import shlex
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

from finetune.errors import UserError
from finetune.records.store import CHECKPOINTS
from finetune.studies import logs
from finetune.studies.executors.base import log_of
from finetune.studies.executors.slurm_commands import Key
from finetune.studies.file import JOBS
from finetune.studies.grid import Cell
from finetune.system.files import write_text
from finetune.system.parsing import UnreadableError, fitted, read_json

LONGEST_NAME = 40  # letters of the study's name in that of a batch
SRUN_FAILED = os.EX_OSERR
"""The exit status of ``srun`` where itself, not the run, has failed: 71, which no command of ours has."""
HEAD = f"""\
#!/bin/bash
# Written by finetune, which has handed it to Slurm: to change it here changes nothing.
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=${{OMP_NUM_THREADS:-${{SLURM_CPUS_PER_TASK:-1}}}}
export SLURM_EXIT_ERROR={SRUN_FAILED}
newest() {{
  for one in "$folder"/{{{",".join(CHECKPOINTS)}}}*; do
    [ -d "$one" ] && echo "${{one##*-}}"
  done | sort -n | tail -n 1
}}
"""
# A mistake of the user's, status 2; but not within what a line sources: much of a profile may fail.
SETUP_FAILED = f"""\
status=$? line=$LINENO; if [ ${{#BASH_SOURCE[@]}} = 1 ]; then \
echo "{logs.MISTAKE}a line of setup failed (status $status): $(sed -n "${{line}}p" "$0")"; exit 2; fi"""
# Without --output, srun's own messages would stand between the lines of the run, and after its last one.
# Slurm 22.05 and newer do not hand the CPUs of a task on from the job to its step.
RUN = """\
step=(srun --quiet --mpi=none --input=none --kill-on-bad-exit=1)
step+=(--open-mode=append --output="$log" --error="$log")
step+=(${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK})
before=$(newest) ended= told= tries=0
# SIGTERM: Slurm ends this job and the run in it, or has put it back into the queue itself. SIGUSR1: the time
# of the job is nearly over; srun hands that on, and the run saves what it has. Either cuts a wait short.
trap 'again=1 ended=1' TERM
trap 'again=1 told=1; kill -USR1 "$run"' USR1
while true; do
  "${step[@]}" "${words[@]}" &
  run=$! again=1
  while [ -n "$again" ]; do again=; wait "$run"; status=$?; done
  # Where srun itself fails, nothing has begun. It does so while Slurm's controller is restarted.
  [ "$status" = "$SLURM_EXIT_ERROR" ] && [ -z "$ended" ] && [ $((tries += 1)) -le 6 ] || break
  sleep $((5 * tries))
done
# 75: it has stopped, and the same command goes on with it: this job, if the run has come further in it. Of
# several processes, srun ends (143) the one that is the last to leave.
[ "$told$status" != 1143 ] || status=75
if [ "$status" = 75 ] && [ -z "$ended" ] && [ "$(newest)" != "$before" ]; then
  scontrol requeue "$SLURM_JOB_ID" && exec sleep 600  # until Slurm takes the job away
fi
exit "$status"
"""


@dataclass(frozen=True, config=ConfigDict(extra="ignore"))
class Batch:
    """A job array. ``job``: its number, None until Slurm has taken it, or where nobody wrote that down."""

    name: str
    cells: tuple[str, ...]  # their names, in the order of the array
    starts: tuple[int, ...]  # where in the log of each this attempt begins, in bytes
    began: str  # ISO 8601, UTC
    job: str | None = None

    def keys(self) -> dict[str, Key]:
        """The key of each cell's job."""
        return {cell: (self.name, index) for index, cell in enumerate(self.cells)}

    def attempt(self, cell: Cell) -> logs.Attempt:
        """The output of a cell's run."""
        return logs.Attempt(log_of(cell), self.starts[self.cells.index(cell.name)], self.began)


def new_name(study: str) -> str:
    """``finetune-ablation-1f3a9c2e``, which no other batch has."""
    return f"finetune-{re.sub('[^A-Za-z0-9._-]', '-', study)[:LONGEST_NAME]}-{uuid.uuid4().hex[:8]}"


def file_of(root: Path, name: str, ending: str) -> Path:
    """A file of a batch: ``json`` what it holds, ``sh`` its script, ``out`` what Slurm itself says,
    ``cancelled`` that somebody wanted it to end."""
    return root / JOBS / f"{name}.{ending}"


def keep(root: Path, batch: Batch) -> None:
    """Writes down what a batch holds."""
    write_text(file_of(root, batch.name, "json"), [SHAPE.dump_json(batch, indent=1).decode()])


def owners(root: Path) -> set[int]:
    """The numbers of the users who have submitted batches of a study."""
    users = set()
    for file in (root / JOBS).glob("finetune-*.sh"):  # which nobody writes again
        with suppress(FileNotFoundError):
            users.add(file.stat().st_uid)
    return users


def kept(root: Path) -> list[Batch]:
    """All batches of a study, the oldest first. Raises ``UserError`` for a damaged one."""
    batches = []
    for file in (root / JOBS).glob("finetune-*.json"):
        content = read_json(file, "the list of jobs", ADVICE)
        try:
            batches.append(fitted(SHAPE, content))
        except UnreadableError as error:
            raise UserError(f"the list of jobs {file} is {error}: {ADVICE}") from error
    return sorted(batches, key=lambda batch: batch.began)


SHAPE = TypeAdapter(Batch)
ADVICE = "end its jobs with scancel --name=NAME-OF-THE-FILE, then remove it"


def script(cells: Sequence[Cell], commands: Mapping[Cell, Sequence[str]], setup: Sequence[str]) -> str:
    """The script of an array: each element runs the command of one cell, by ``srun``."""
    cases = []
    for index, cell in enumerate(cells):
        log, folder = (shlex.quote(os.path.abspath(path)) for path in (str(cell.log), cell.folder))
        cases.append(f"{index}) log={log} folder={folder} words=({shlex.join(commands[cell])}) ;;")
    chosen = ["case $SLURM_ARRAY_TASK_ID in", *cases, "esac"]
    return "\n".join([HEAD + "\n".join(chosen), *prepared(setup), RUN])


def prepared(setup: Sequence[str]) -> list[str]:
    """The lines that prepare a worker, such as ``module load cuda``, and what they print, into the log."""
    return ["{", *guarded(setup), '} >> "$log" 2>&1'] if setup else []


def guarded(setup: Sequence[str]) -> list[str]:
    """Lines of shell of which the first that fails ends the job: what it was to prepare is not there."""
    return [f"trap {shlex.quote(SETUP_FAILED)} ERR", *setup, "trap - ERR"] if setup else []


def script_of_call(words: Sequence[str], setup: Sequence[str]) -> str:
    """The script of one command that is waited for; what it prints is the job's own output."""
    return "\n".join([HEAD, *guarded(setup), f"exec {shlex.join(words)}", ""])
