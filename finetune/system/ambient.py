"""Environment variables that would change what a run computes without its configuration saying so.

A launcher, a shell's profile or a container's image sets them, and torch and accelerate obey silently.
accelerate's ``default_config.yaml`` needs no check: only ``accelerate launch`` reads it, and sets these
variables. Nothing here imports torch.
"""

import os
from collections.abc import Mapping

from finetune.errors import UserError

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


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raises ``UserError`` for a variable that would change what is computed, naming it and what to type."""
    values = {name: value.strip() for name, value in environment.items()}
    launched = [name for name in WORLD if values.get(name, "") not in ("", "0", "1")]
    launched += [name for name in RANK if values.get(name, "") not in ("", "0", "-1")]
    launched += [name for name in LOCAL if values.get(name, "") not in ("", "-1")]
    if launched:
        name = launched[0]
        raise UserError(
            f"the environment says {name}={environment[name]}, as a launcher of several processes does, and "
            "there is one process a run, on one device: start it without torchrun, accelerate launch or "
            f"mpirun, or type unset {name}; further runs go to further GPUs"
        )
    for name, value in sorted(environment.items()):
        off = OFF | {"1"} if name in ONE else PRECISION.get(name, OFF)
        decides = name in PRECISION or (name.startswith(ACCELERATE) and name not in PRINTED)
        if not decides or values[name].lower() in off:
            continue
        option = OPTIONS.get(name, HALF.get(value.lower()))
        instead = f", and {option.format(value)} for the same" if option else ""
        raise UserError(
            f"the environment says {name}={value}, which would change what is computed without the record "
            f"saying so: type unset {name}{instead}"
        )
