"""The machine's GPUs and cores, shared by the workers."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from finetune.studies import devices


def test_gpus_are_those_that_may_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-ab"}) == ["2", "GPU-ab"]
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": ""}) == devices.gpus({"CUDA_VISIBLE_DEVICES": "-1,0"}) == []
    listing = (
        "GPU 0: NVIDIA A (UUID: GPU-1)\nGPU 1: NVIDIA A (UUID: GPU-2)\n"
        "  MIG 1g.10gb Device 0: (UUID: MIG-3)\n  MIG 1g.10gb Device 1: (UUID: MIG-4)\n"
    )
    assert devices.parse_listing(listing) == ["0", "MIG-3", "MIG-4"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, listing))
    assert devices.gpus({}) == ["0", "MIG-3", "MIG-4"]
    assert devices.workers(None, {}) == 3 and devices.workers(7, {}) == 7


def test_a_worker_has_one_gpu_and_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 7)
    cpu = {"CUDA_VISIBLE_DEVICES": ""}
    assert devices.slots(1, cpu) == [{}], "torch's own choice"
    assert devices.slots(3, cpu) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert devices.slots(9, cpu) == [{"OMP_NUM_THREADS": "1"}] * 9
    assert devices.slots(2, cpu | {"OMP_NUM_THREADS": "5"}) == [{}, {}]
    gpus = devices.slots(3, {"CUDA_VISIBLE_DEVICES": "4,6", "OMP_NUM_THREADS": "5"})
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in gpus] == ["4", "6", "4"]
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("memory", (), {"available": 9 * 2**30}))
    assert devices.workers(None, cpu) == 2, "by memory"
    monkeypatch.setattr(devices, "cores", lambda: 1)
    assert devices.workers(None, cpu) == 1, "by cores"


def test_a_size_that_is_not_known_is_none() -> None:
    table = "0, GPU-ab, NVIDIA GB10, [N/A]\n1, GPU-cd, NVIDIA A100-SXM4-40GB, 40960\n"
    whole = devices.Gpu("NVIDIA A100-SXM4-40GB", 40.0)
    assert devices.parse_memory(table, ["0", "GPU-c"]) == [devices.Gpu("NVIDIA GB10", None), whole]
    assert devices.parse_memory(table, ["MIG-1"]) == [devices.Gpu("MIG part", None)]
    assert devices.parse_memory("No devices were found", ["2"]) == [devices.Gpu("GPU", None)]
    assert devices.parse_memory(table, []) == []


def test_a_run_is_on_the_cpu_for_certain_where_no_driver_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "parse_listing", lambda _: [])
    monkeypatch.setattr(sys, "platform", "linux")
    assert devices.cpu_alone({}, tmp_path)
    (tmp_path / "kfd").touch()
    assert not devices.cpu_alone({}, tmp_path), "an AMD GPU"
    assert devices.cpu_alone({"CUDA_VISIBLE_DEVICES": ""}, tmp_path), "hidden"
    assert not devices.cpu_alone({"CUDA_VISIBLE_DEVICES": "MIG-1"}, tmp_path)
