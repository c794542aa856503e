"""Environment variables that would change what a run computes without its configuration saying so.

A launcher, a shell's profile or a container's image sets them, and torch and accelerate obey without a word.
accelerate's ``default_config.yaml`` is none of them: only ``accelerate launch`` reads it, and sets the
variables below. Nothing here imports torch.
"""

import os
from collections.abc import Iterator, Mapping

from finetune.errors import UserError

OFF = frozenset(
    {"", "0", "no", "none", "false", "off", "n", "f", "default"}
)  # what changes nothing, in lower case

# accelerate's own, whatever they are called: of these only what is printed hangs on.
ACCELERATE = "ACCELERATE_"
PRINTED = frozenset({"ACCELERATE_LOG_LEVEL", "ACCELERATE_ENABLE_RICH", "ACCELERATE_DISABLE_RICH"})
ONE = frozenset({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS"})  # 1 is off
# What to type for the same, where there is an option for it.
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
# How many processes share a run, and which of them this is, by accelerate, MPI and torchrun.
WORLD = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
LOCAL = ("LOCAL_RANK", "TORCHELASTIC_RUN_ID")  # with these alone torch sets up a group of processes


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ``UserError`` for a variable that would decide what is computed, naming it and what to type."""
    for name in _launched(environment):
        raise UserError(
            f"the environment says {name}={environment[name]}, as a launcher of several processes does, and "
            "there is one process a run, on one device: start it without torchrun, accelerate launch or "
            f"mpirun, or type unset {name}; further runs go to further GPUs"
        )
    for name in _precision(environment):
        value = environment[name]
        option = OPTIONS.get(name, HALF.get(value.lower()))
        instead = f", and {option.format(value)} for the same" if option else ""
        raise UserError(
            f"the environment says {name}={value}, which would change what is computed without the record "
            f"saying so: type unset {name}{instead}"
        )


def _launched(environment: Mapping[str, str]) -> Iterator[str]:
    yield from (name for name in WORLD if environment.get(name, "").strip() not in ("", "0", "1"))
    yield from (name for name in RANK if environment.get(name, "").strip() not in ("", "0", "-1"))
    yield from (name for name in LOCAL if environment.get(name, "").strip() not in ("", "-1"))


def _precision(environment: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(environment.items()):
        off = OFF | {"1"} if name in ONE else PRECISION.get(name, OFF)
        ours = name.startswith(ACCELERATE) and name not in PRINTED
        if (ours or name in PRECISION) and value.strip().lower() not in off:
            yield name
