"""The processes of one run: what launchers say, and what the processes agree on."""

import sys
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.system import world
from tests.support.processes import launch

TORCHRUN = {
    "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a",
    "MASTER_PORT": "1234",
}  # fmt: skip
SRUN = {
    "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "2", "SLURM_STEP_NODELIST": "gpu[07-08,11]",
}  # fmt: skip


def _set(patch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name in {*TORCHRUN, *SRUN}:
        patch.delenv(name, raising=False)
    for name, value in values.items():
        patch.setenv(name, value)


@pytest.mark.parametrize(("values", "place"), [(TORCHRUN, "a"), (SRUN, "gpu07"), ({**SRUN, **TORCHRUN}, "a")])
def test_a_launcher_says_which_process_this_is(
    values: dict[str, str], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, values)
    assert (world.rank(), world.size(), world.local_rank(), world.is_main()) == (3, 4, 1, False)
    assert world.variables()["MASTER_ADDR"] == place and world.launched()


def test_each_step_of_slurm_meets_at_a_port_of_its_own() -> None:
    steps = [
        {**SRUN, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)} for job in (1, 2) for step in (0, 1)
    ]
    assert len({world.variables(step)["MASTER_PORT"] for step in steps}) == 4


@pytest.mark.parametrize("values", [{}, {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}])
def test_without_a_launcher_there_is_one_process_and_nothing_begins(
    values: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, values)
    world.join()
    assert (world.rank(), world.size(), world.is_main(), world.joined()) == (0, 1, True, False)
    assert (world.any_of(True), world.any_of(False), world.gathered("x")) == (True, False, ["x"])
    assert world.first(lambda: 7) == 7 and not world.launched()


def test_a_launcher_that_says_too_little_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, {"WORLD_SIZE": "2"})
    with pytest.raises(UserError, match="has no RANK: start the run by torchrun"):
        world.join()


AGREED = """
import pathlib, sys
from finetune.errors import PeerError, PreemptedError
from finetune.system import world

world.join(cpu=True)
file = pathlib.Path(sys.argv[1])


def made():
    if world.is_main():
        assert not file.exists()
        file.write_text("made")
    return file.read_text() + str(world.rank())


def failing():
    assert world.is_main(), "called after it has failed"
    raise ValueError("no such thing")


assert world.any_of(world.rank() == 1) and not world.any_of(False)
assert world.gathered({"rank": world.rank()}) == [{"rank": 0}, {"rank": 1}]
assert world.from_main(lambda: {"rank": world.rank()}) == {"rank": 0}
assert world.first(made) == f"made{world.rank()}"
try:
    world.first(failing)
except (ValueError, PeerError) as error:
    print(type(error).__name__)
for end in (PreemptedError("SIGTERM"), KeyboardInterrupt()):
    def ending():
        raise end
    try:
        world.from_main(ending)
        raise AssertionError("it goes on")
    except type(end) as error:
        assert str(error) == str(end)
assert not world.any_of(False)
import torch.distributed as dist
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_processes_agree_and_wait_for_the_first(tmp_path: Path) -> None:
    ended = launch([sys.executable, "-c", AGREED, str(tmp_path / "file")], 2, timeout=60)
    assert [each.status for each in ended] == [0, 0], ended
    assert [each.output.split()[-1] for each in ended] == ["ValueError", "PeerError"]
