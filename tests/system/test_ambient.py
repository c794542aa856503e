"""Environment variables that would change what a run computes."""

import pytest

from finetune.errors import UserError
from finetune.system import ambient

AMBIENT = {
    "ACCELERATE_MIXED_PRECISION": ["bf16", "fp16", "fp8", "BF16"],
    "ACCELERATE_USE_CPU": ["true", "1", "yes"],
    "ACCELERATE_USE_FSDP": ["true"],
    "ACCELERATE_USE_DEEPSPEED": ["true"],
    "ACCELERATE_USE_MEGATRON_LM": ["true"],
    "ACCELERATE_USE_PARALLELISM_CONFIG": ["true"],
    "ACCELERATE_USE_SAGEMAKER": ["true"],
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ["4"],
    "ACCELERATE_GRADIENT_CLIPPING": ["0.5"],
    "ACCELERATE_TORCH_DEVICE": ["cpu", "cuda:1", "meta"],
    "ACCELERATE_DYNAMO_BACKEND": ["inductor", "EAGER"],
    "ACCELERATE_DOWNCAST_BF16": ["1"],
    "ACCELERATE_FP8_BACKEND": ["TE"],
    "ACCELERATE_SOMETHING_NEW": ["on"],
    "WORLD_SIZE": ["2", "x"],
    "PMI_SIZE": ["2"],
    "OMPI_COMM_WORLD_SIZE": ["8"],
    "MV2_COMM_WORLD_SIZE": ["2"],
    "RANK": ["1"],
    "TORCHELASTIC_RUN_ID": ["none"],
    "NVIDIA_TF32_OVERRIDE": ["0", "1"],
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": ["1"],
    "CUBLAS_EMULATE_SINGLE_PRECISION": ["1"],
    "HIPBLASLT_ALLOW_TF32": ["1"],
    "ONEDNN_DEFAULT_FPMATH_MODE": ["BF16", "ANY"],
    "DNNL_DEFAULT_FPMATH_MODE": ["BF16"],
    "XLA_USE_BF16": ["1"],
    "XLA_DOWNCAST_BF16": ["1"],
}
# As a shell, a container or `accelerate launch` on one device leaves them: nothing else is computed.
HARMLESS = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
    "ACCELERATE_LOG_LEVEL": "info",
    "ACCELERATE_DISABLE_RICH": "1",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
    "ONEDNN_DEFAULT_FPMATH_MODE": "STRICT",
    "WORLD_SIZE": "1",
    "RANK": "0",
    "MASTER_ADDR": "localhost",
    "OMP_NUM_THREADS": "4",
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in AMBIENT for value in AMBIENT[name]])
def test_a_variable_that_would_change_what_is_computed_is_refused(name: str, value: str) -> None:
    with pytest.raises(UserError) as error:
        ambient.check({}, {name: value, **HARMLESS} | {name: value})
    assert f"{name}={value}" in str(error.value) and f"unset {name}" in str(error.value)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_variable_that_changes_nothing_is_let_through(name: str) -> None:
    ambient.check({}, {name: HARMLESS[name]})
    ambient.check({}, {name: ""})


# As torchrun, accelerate launch and srun set them for the second of two processes.
TORCH = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
LAUNCHERS = {
    "torchrun": {**TORCH, "TORCHELASTIC_RUN_ID": "none", "GROUP_RANK": "0"},
    "accelerate launch": {**TORCH, "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "True"},
    "torchrun on each of two machines, by srun with MPI": {
        **TORCH,
        "TORCHELASTIC_RUN_ID": "7",
        "WORLD_SIZE": "8",
        "PMI_SIZE": "2",
        "PMI_RANK": "1",
    },
    "mpirun with torch's variables": {**TORCH, "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
    "srun": {"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "PMI_RANK": "1"},
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_that_torch_knows_is_let_through(name: str) -> None:
    ambient.check({"use_cpu": True, "bf16": True}, LAUNCHERS[name])


@pytest.mark.parametrize("name", ["LOCAL_RANK", "RANK", "WORLD_SIZE"])
def test_a_launcher_that_says_too_little_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"says {name}=2, as a launcher .* type unset {name}"):
        ambient.check({}, {name: "2"})


def test_a_launcher_that_contradicts_the_configuration_is_refused() -> None:
    with pytest.raises(UserError, match="ACCELERATE_MIXED_PRECISION=bf16"):
        ambient.check({"use_cpu": True}, LAUNCHERS["accelerate launch"])
    with pytest.raises(UserError, match="OMPI_COMM_WORLD_SIZE=4"):
        ambient.check({}, {**TORCH, "OMPI_COMM_WORLD_SIZE": "4"})
    with pytest.raises(UserError, match=r"type unset .* --train\.fsdp true"):
        ambient.check({}, {**TORCH, "ACCELERATE_USE_FSDP": "true"})
