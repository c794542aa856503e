"""A study whose runs are killed, hang, find a disk full and fail: ``tests.faults`` in its small form."""

from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.studies import logs
from finetune.studies.state import look
from finetune.system import lock
from tests import faults
from tests.support.disks import resize, small_disk


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_run_twice(tmp_path: Path) -> None:
    trial = faults.Trial(tmp_path, 60, seed=1)
    board = trial.run(faults.local(6))
    assert trial.wrong(board) == []
    assert sum(board.attempts.values()) == 9, "six faults, and three of the second attempt"
    begun = trial.begun()
    trial.run(faults.local(6))
    again = {name for name, times in trial.begun().items() if times != begun[name]}
    assert again == {name for name, each in trial.faults.items() if each[-1] in faults.OWN}
    assert all(look(cell).state == "done" for cell in trial.study.cells)


def test_a_log_that_finds_no_room_is_not_held(tmp_path: Path) -> None:
    """While somebody still looks at the error, as in a notebook."""
    with small_disk(tmp_path / "logs", 64) as folder:
        (folder / "other").write_bytes(bytes(64 * 1024))
        with pytest.raises(UserError, match=r"cannot write the log .*No space left") as error:
            logs.claim(folder / "run.log", ["x" * 8000])
        assert not lock.held(folder / "run.log"), error
        resize(folder, 256)
        log = logs.claim(folder / "run.log", ["x" * 8000])
        assert log is not None
        log.close()
