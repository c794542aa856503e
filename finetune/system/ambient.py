"""Environment variables that would change what a run computes without its configuration saying so.

A launcher, a shell's profile or a container's image sets them, and torch and accelerate obey silently.
accelerate's ``default_config.yaml`` needs no check: only ``accelerate launch`` reads it, and sets these
variables. Nothing here imports torch.
"""

import os
from collections.abc import Mapping
from typing import Any

from finetune.errors import UserError
from finetune.system import world

# Values that switch a variable off, in lower case.
OFF = frozenset({"", "0", "no", "none", "false", "off", "n", "f", "default"})

# Every variable of accelerate's counts, also one of a later version, but for those of its output alone.
ACCELERATE = "ACCELERATE_"
PRINTED = frozenset({"ACCELERATE_LOG_LEVEL", "ACCELERATE_ENABLE_RICH", "ACCELERATE_DISABLE_RICH"})
ONE = frozenset({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS"})  # 1 is off
# The option that does the same, where there is one.
OPTIONS: Mapping[str, str] = {
    "ACCELERATE_USE_CPU": "--train.use_cpu true",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "--train.gradient_accumulation_steps {}",
    "ACCELERATE_GRADIENT_CLIPPING": "--train.max_grad_norm {}",
    "ACCELERATE_USE_FSDP": "--train.fsdp true, without --use_fsdp of accelerate launch,",
    "ACCELERATE_TORCH_DEVICE": "--train.use_cpu true for the CPU, or CUDA_VISIBLE_DEVICES for a GPU",
    "NVIDIA_TF32_OVERRIDE": "--train.tf32 true or false",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "--train.tf32 true",
}
HALF = {"bf16": "--train.bf16 true", "fp16": "--train.fp16 true"}  # ACCELERATE_MIXED_PRECISION

# Precision that libraries below torch take from the environment, and the values at which they leave it alone.
PRECISION: Mapping[str, frozenset[str]] = {
    "NVIDIA_TF32_OVERRIDE": frozenset({""}),  # 0 forbids what --train.tf32 true asks for
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": OFF,
    "CUBLAS_EMULATE_SINGLE_PRECISION": OFF,  # float32 out of bfloat16 products
    "HIPBLASLT_ALLOW_TF32": OFF,
    "ONEDNN_DEFAULT_FPMATH_MODE": OFF | {"strict"},
    "DNNL_DEFAULT_FPMATH_MODE": OFF | {"strict"},
    "XLA_USE_BF16": OFF,
    "XLA_DOWNCAST_BF16": OFF,
}
# Set for each process by accelerate, MPI and torchrun: how many share a run, and the number of this one.
WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID")  # with these alone torch sets up a group of processes


def check(train: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> None:
    """Raises ``UserError`` for a variable that would change what is computed, naming it and what to type.

    One that says what ``train``, the section of the configuration, says too does not.
    """
    values = {name: value.strip() for name, value in environment.items()}
    _check_launcher(environment, values)
    agreed = {
        "ACCELERATE_USE_CPU": "true" if train.get("use_cpu") else "",
        "ACCELERATE_MIXED_PRECISION": next((kind for kind in HALF if train.get(kind) is True), ""),
        "ACCELERATE_TORCH_DEVICE": "cpu" if train.get("use_cpu") else "",
    }
    for name, value in sorted(environment.items()):
        off = OFF | {"1"} if name in ONE else PRECISION.get(name, OFF)
        decides = name in PRECISION or (name.startswith(ACCELERATE) and name not in PRINTED)
        if not decides or values[name].lower() in off | {agreed.get(name, "")}:
            continue
        option = OPTIONS.get(name, HALF.get(value.lower()))
        instead = f", and {option.format(value)} for the same" if option else ""
        raise UserError(
            f"the environment says {name}={value}, which would change what is computed without the record "
            f"saying so: type unset {name}{instead}"
        )


def _check_launcher(environment: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Raises ``UserError`` for variables of a launcher that torch does not know, or that are not whole."""
    known = world.variables(values)
    size = known.get("WORLD_SIZE", "")
    if size.isdecimal() and all(known.get(name, "").isdecimal() for name in ("RANK", "LOCAL_RANK")):
        # Under torchrun the other launchers count its own processes, one on each machine.
        unlike = [name for name in WORLD if values.get(name, size) not in ("", size)]
        unlike = [] if values.get("TORCHELASTIC_RUN_ID") else unlike
    else:
        unlike = [name for name in WORLD if values.get(name, "") not in ("", "0", "1")]
        unlike += [name for name in RANK if values.get(name, "") not in ("", "0", "-1")]
        unlike += [name for name in LOCAL if values.get(name, "") not in ("", "-1")]
    if unlike:
        name = unlike[0]
        raise UserError(
            f"the environment says {name}={environment[name]}, as a launcher of several processes does, and "
            "does not say all that torch needs: start the run by torchrun, accelerate launch or srun, or "
            f"type unset {name}"
        )
