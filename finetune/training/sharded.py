"""``train.fsdp``: a run whose model is shared out among its processes, and the checkpoints of it.

Trainer knows a model that came to it shared out and leaves it alone, but writes no checkpoints of one. Here
every process writes its shares of weights and optimizer states into one safetensors file, by torch's
distributed checkpoints, which any number of processes can read, also one without sharding; ``REST`` holds
what is alike in all of them. Neither is a pickle that could run anything.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed
from torch import Tensor
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter
from transformers import TrainingArguments
from transformers.trainer import SCHEDULER_NAME
from transformers.training_args import OptimizerNames

from finetune.errors import UserError, shown, unknown
from finetune.models import sharding
from finetune.system import world
from finetune.system.shares import shared_out, whole

REST = "rest.pt"
"""In a checkpoint: the settings of the optimizer, and all tensors that are not shared out."""
FIELDS = ("fsdp", "fsdp_config")
"""Of ``train``, which are read here alone."""
KEYS = ("version", "reshard_after_forward")
"""Of ``train.fsdp_config``."""
# Other keys of transformers' fsdp_config, and why they are not for a run here.
IDLE: Mapping[str, str] = {
    "activation_checkpointing": "type --train.activation_checkpointing true",
    "cpu_offload": "weights stay on their devices",
    "state_dict_type": "checkpoints are always shared out, and the finished model is always whole",
    **dict.fromkeys(
        ("auto_wrap_policy", "transformer_layer_cls_to_wrap", "min_num_params"),
        "a model's layers are found by their attention, in every family",
    ),
    **dict.fromkeys(
        ("cpu_ram_efficient_loading", "sync_module_states"), "each process reads or draws the same weights"
    ),
}
# Optimizers whose steps treat every number by itself, so that a share of a weight is trained as the whole.
ELEMENTWISE = (
    OptimizerNames.ADAMW_TORCH,
    OptimizerNames.ADAMW_TORCH_FUSED,
    OptimizerNames.SGD,
    OptimizerNames.ADAGRAD,
    OptimizerNames.RMSPROP,
)


@dataclass(frozen=True)
class Sharding:
    """How a model is shared out."""

    reshard: bool  # as ``models.sharding.shard`` has it


def wanted(train: Mapping[str, Any]) -> Sharding | None:
    """What ``train.fsdp`` and ``train.fsdp_config`` ask for; raises ``UserError`` for what cannot be had."""
    asked, settings = train.get("fsdp"), train.get("fsdp_config") or {}
    if not isinstance(asked, bool | None):
        raise UserError(f"train.fsdp takes true or false, not {shown(asked)}: FSDP2 shards everything")
    if not isinstance(settings, Mapping):
        raise UserError(f"train.fsdp_config takes names and values, not {shown(settings)}")
    if not asked:
        if settings:
            raise UserError("train.fsdp_config would have no effect: add --train.fsdp true, or leave it out")
        return None
    for key in settings:
        if key in IDLE:
            raise UserError(f"train.fsdp_config.{key} is not for a run here: {IDLE[key]}; leave it out")
        if key not in KEYS:
            raise unknown("key", f"train.fsdp_config.{key}", [f"train.fsdp_config.{name}" for name in KEYS])
    if settings.get("version", 2) != 2:
        raise UserError(
            f"train.fsdp_config.version is 2 here (FSDP2), not {shown(settings['version'])}: leave it out"
        )
    reshard = settings.get("reshard_after_forward", True)
    if not isinstance(reshard, bool):
        raise UserError(f"train.fsdp_config.reshard_after_forward takes true or false, not {shown(reshard)}")
    return Sharding(reshard)


def check_launched(train: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where a run is to be shared out and there is no launcher.

    A rehearsal, or a step that is timed for a plan, is made without one, by a whole model.
    """
    if wanted(train) is not None and not world.launched():
        raise UserError(
            "train.fsdp true shares a run out among the processes of a launcher, and there is none: start it "
            "by torchrun --nproc-per-node N -m finetune ..., accelerate launch or srun, or leave it out"
        )


def check(arguments: TrainingArguments) -> None:
    """Raises ``UserError`` where a run with ``arguments`` cannot be shared out."""
    if arguments.fp16:
        raise UserError("train.fp16 true scales the loss, which train.fsdp cannot: type --train.bf16 true")
    if arguments.optim not in ELEMENTWISE:
        raise UserError(
            f"train.optim {arguments.optim.value} needs whole weights, and train.fsdp true gives each a "
            f"share: choose {', '.join(name.value for name in ELEMENTWISE)}"
        )


class Sharded:
    """Overrides of Trainer for a model that is shared out; any other goes by the stock methods."""

    args: TrainingArguments
    model: Any
    optimizer: Any
    lr_scheduler: Any
    state: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Not so named by the model itself: the stock Trainer then asks for a run without checkpoints.
        self.is_distributed_loading_by_transformers = sharding.is_sharded(self.model)

    @property
    def _is_sharded(self) -> bool:
        return sharding.is_sharded(self.model)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        """A share lies on its device from the beginning."""
        if not sharding.is_sharded(model):
            super()._move_model_to_device(model, device)  # type: ignore[misc]

    def _defer_fsdp_gradient_reduction(self) -> AbstractContextManager[None]:
        """Gradients are added up after every batch of a step: until its end they would be kept whole."""
        return nullcontext()

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """The norm over the shares of all processes."""
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[misc]
        return whole(norm) if isinstance(norm, Tensor) else norm

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The stock loop; no weights stay gathered after it."""
        output = super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        sharding.let_go(self.model)
        return output

    # Checkpoints

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The whole model, by the main process; of a checkpoint, which holds shares, the folder alone.

        Trainer takes the checkpoint of the best step for the best model's if there is its folder by then.
        """
        if not self._is_sharded:
            super().save_model(output_dir, _internal_call=_internal_call)  # type: ignore[misc]
        elif _internal_call:
            Path(output_dir or self.args.output_dir).mkdir(parents=True, exist_ok=True)
            world.wait()
        else:
            weights = whole_weights(self.model, kept=self.args.should_save)
            if self.args.should_save:
                self._save(output_dir, state_dict=weights)  # type: ignore[attr-defined]

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self._is_sharded:
            return super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
        folder = Path(output_dir)
        shares, rest = _split(self.model, self.optimizer.state_dict())
        distributed.save(shares, storage_writer=HuggingFaceStorageWriter(output_dir, save_distributed=True))
        if self.args.should_save:
            torch.save(rest, folder / REST)
            torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
        return None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        if not self._of_shares(folder):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        _load_weights(self.model, folder)
        return None

    def _load_best_model(self) -> None:
        folder = Path(self.state.best_model_checkpoint)
        if not self._of_shares(folder):
            return super()._load_best_model()  # type: ignore[misc]
        _load_weights(self.model, folder)
        return None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self._of_shares(Path(checkpoint)):
            return super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        folder = Path(checkpoint)
        self.optimizer.load_state_dict(_optimizer_state(self.optimizer, folder))
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))
        return None

    def _of_shares(self, checkpoint: Path) -> bool:
        """Whether a checkpoint holds shares; ``UserError`` for a whole one, which cannot be shared out."""
        if (checkpoint / REST).is_file():
            return True
        if self._is_sharded:
            raise UserError(
                f"{checkpoint} was written without train.fsdp, and a run with it cannot go on from there: "
                "type --train.fsdp false, or remove the checkpoints of the run to begin it anew"
            )
        return False


def whole_weights(model: Any, *, kept: bool) -> dict[str, Tensor]:
    """The state of ``model`` with whole tensors on the CPU, tied ones as one; empty unless ``kept``.

    Every process takes part, one weight after the other, so that none needs memory for two copies.
    """
    seen: dict[int, Tensor] = {}
    gathered = {}
    for name, weight in model.state_dict(keep_vars=True).items():
        if id(weight) not in seen:
            full = whole(weight.detach())
            seen[id(weight)] = full.cpu() if kept else torch.empty(0)
        gathered[name] = seen[id(weight)]
    return gathered if kept else {}


def _weights(model: Any) -> dict[str, Tensor]:
    """The state of ``model`` that training changes: trained weights, tied ones once, and buffers."""
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    named = dict(model.named_parameters(remove_duplicate=False))
    state = model.state_dict(keep_vars=True)
    return weights | {name: value for name, value in state.items() if name not in named}


def _split(model: Any, optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What is shared out, by names, and the rest, of ``model`` and the state of its optimizer."""
    weights = {name: weight.detach() for name, weight in _weights(model).items()}
    shares = {f"model.{name}": weight for name, weight in weights.items() if shared_out(weight)}
    rest: dict[str, Any] = {
        "model": {name: weight for name, weight in weights.items() if not shared_out(weight)},
        "param_groups": optimizer["param_groups"],
        "state": {},
    }
    for index, values in optimizer["state"].items():
        kept = [key for key, value in values.items() if isinstance(value, Tensor) and shared_out(value)]
        shares |= {f"optimizer.{index}.{key}": values[key] for key in kept}
        rest["state"][index] = {key: value for key, value in values.items() if key not in kept}
    return shares, rest


@torch.no_grad()
def _load_weights(model: Any, folder: Path) -> None:
    """Reads the weights of a checkpoint, of however many processes, into ``model``, shared out or whole."""
    sharding.let_go(model)
    weights = {name: weight.detach() for name, weight in _weights(model).items()}
    rest = torch.load(folder / REST, weights_only=True, map_location="cpu")["model"]
    _read({f"model.{name}": weight for name, weight in weights.items() if name not in rest}, folder)
    for name, value in rest.items():
        weights[name].copy_(value)


def _optimizer_state(optimizer: Any, folder: Path) -> dict[str, Any]:
    """The state of ``optimizer`` as a checkpoint holds it, shared out or whole as its weights are."""
    rest = torch.load(folder / REST, weights_only=True, map_location="cpu")
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    shares: dict[str, Tensor] = {}
    for name, held in HuggingFaceStorageReader(os.fspath(folder)).read_metadata().state_dict_metadata.items():
        whose, index, *_ = name.split(".")
        if whose == "optimizer":
            dtype = held.properties.dtype  # type: ignore[union-attr]
            shares[name] = torch.zeros_like(weights[int(index)], dtype=dtype, requires_grad=False)
    _read(shares, folder)
    for name, value in shares.items():
        _, index, key = name.split(".", 2)
        rest["state"][int(index)][key] = value
    return {"state": rest["state"], "param_groups": rest["param_groups"]}


def _read(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fills ``tensors`` in place from the files of shares of a checkpoint."""
    alone = not any(map(shared_out, tensors.values()))  # each process reads all
    distributed.load(tensors, storage_reader=HuggingFaceStorageReader(os.fspath(folder)), no_dist=alone)
