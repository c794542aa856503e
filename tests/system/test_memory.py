"""Memory of a long evaluation, in a process of its own."""

import ctypes
import subprocess
import sys

import pytest

from finetune.system import memory, world

# As an evaluation does: large tensors, freed, and a few small ones of each batch, kept.
BATCHES = """
import torch
from finetune.system.memory import peak_memory_mib, return_freed_memory
from finetune.training.trainer import FREED_AFTER
torch.set_num_threads(1)
large = torch.zeros(33_000_000 // 4)  # once it is freed, glibc keeps blocks of this size
del large
kept = []
for batch in range(1, 6 * FREED_AFTER + 1):
    logits = torch.zeros(16, 128, 4000)
    kept.append(logits.log_softmax(-1).sum())
    kept += [torch.zeros(size) for size in (10, 300, 7000)]
    del logits
    if batch % FREED_AFTER == 0:
        return_freed_memory()
    if batch == 2 * FREED_AFTER:
        before = peak_memory_mib()
print(peak_memory_mib() - before)
"""


def test_the_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def everywhere(own: tuple[str, int]) -> list[tuple[str, int]]:
        return [own, own, ("other", own[1]), ("other", own[1]), ("other", own[1])]

    free = memory.available_bytes()
    monkeypatch.setattr(world, "gathered", everywhere)
    assert memory.available_bytes() == pytest.approx(free / 3, rel=0.5)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator alone")
def test_batches_leave_no_memory_behind():
    # A batch has two tensors of 31 MiB; left to glibc 2.36, 32 of them leave 2 GiB behind.
    done = subprocess.run([sys.executable, "-c", BATCHES], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 300
