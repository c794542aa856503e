"""Reads back what a run computes with from the Trainer and the Accelerator that were built for it.

The environment, the device and transformers' own rules can make something else of a configuration. The
record keeps under ``computed`` what was there when the first step began.
"""

from collections.abc import Mapping
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from finetune.attention.swap import attention_layers
from finetune.config.schema import HALF
from finetune.errors import UserError
from finetune.models.sharding import is_sharded
from finetune.system import world
from finetune.training.effects import optimizer_arguments


class ReadBack(TrainerCallback):
    """Reads what the first step is about to compute with into ``facts``, and holds it against ``train.*``.

    The training ends there with ``UserError`` where the two differ.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.facts = trainer, dict[str, Any]()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.facts = read(self.trainer)
        check(self.trainer.args, self.facts)


def read(trainer: Any) -> dict[str, Any]:
    """Plain values of everything that moves a number and is no weight: the same for runs of every seed.

    ``trainer`` is prepared for training. ``precision.products`` is the type that a matrix product comes out
    in; sizes of a batch are rows, of one process and in ``total`` of all; steps are the optimizer's.
    """
    args, accelerator = trainer.args, trainer.accelerator
    model = accelerator.unwrap_model(trainer.model)
    # Newer versions of transformers warn of the name is_gradient_checkpointing; older ones have no other.
    activation = getattr(model, "is_activation_checkpointing", None)
    return {
        "device": args.device.type,
        "precision": _precision(accelerator, model),
        "optimizer": _optimizer(trainer.optimizer, trainer.optimizer_built),
        "scheduler": {
            **_scheduler(trainer.lr_scheduler, trainer.schedule_built),
            "steps": trainer.state.max_steps,
        },
        "batch": {
            "rows": trainer._train_batch_size,
            "accumulated": args.gradient_accumulation_steps,
            "total": trainer._train_batch_size * args.gradient_accumulation_steps * args.world_size,
            "sampler": trainer.order,
        },
        "parallelism": {
            "distributed": accelerator.distributed_type.value,
            "processes": accelerator.num_processes,
            "devices": max(1, args.n_gpu) * args.world_size,
            "fsdp": is_sharded(trainer.model),
            "deepspeed": bool(trainer.is_deepspeed_enabled),
        },
        "layers": {"linear": "torch", "dropout": "torch"} | getattr(trainer.layers, "facts", {}),
        "compiled": accelerator.state.dynamo_plugin.backend.value.lower(),
        "gradient_checkpointing": bool(model.is_gradient_checkpointing if activation is None else activation),
        "gradient_clipping": args.max_grad_norm if args.max_grad_norm > 0 else None,
        "label_smoothing": args.label_smoothing_factor,
        "embedding_noise": args.neftune_noise_alpha,
        "determinism": {
            "algorithms": torch.are_deterministic_algorithms_enabled(),
            "cudnn": torch.backends.cudnn.deterministic,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
        },
    }


def attention(model: Any) -> dict[str, Any]:
    """The kernels that have computed attention so far, by variant, and those that SDPA may choose from."""
    kernels: dict[str, set[str]] = {}
    for layer in attention_layers(model).values():
        kernels.setdefault(layer.variant.name, set()).update(layer.ran)
    cuda = torch.backends.cuda
    allowed = {
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return {
        "kernels": {name: sorted(ran) for name, ran in kernels.items()},
        "sdpa": [name for name, enabled in allowed.items() if enabled],
    }


def check(args: TrainingArguments, facts: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where ``facts``, as ``read`` gives them, are not what ``args`` ask for."""
    half = next((kind for option, kind in HALF.items() if getattr(args, option)), "float32")
    asked = {
        "products of matrices": (half, facts["precision"]["products"]),
        "train.gradient_accumulation_steps": (
            args.gradient_accumulation_steps,
            facts["batch"]["accumulated"],
        ),
        "rows of a batch": (args.per_device_train_batch_size, facts["batch"]["rows"]),
        "processes": (world.size(), facts["parallelism"]["processes"]),
        "devices": (world.size(), facts["parallelism"]["devices"]),
        "train.torch_compile": (
            args.torch_compile_backend if args.torch_compile else "no",
            facts["compiled"],
        ),
        "train.activation_checkpointing": (
            bool(args.activation_checkpointing),
            facts["gradient_checkpointing"],
        ),
    }
    for what, (wanted, actual) in asked.items():
        if wanted != actual:
            raise UserError(f"{what}: {wanted} is asked for and {actual} would be computed; no step was made")
    _check_optimizer(args, facts["optimizer"])


def _check_optimizer(args: TrainingArguments, facts: Mapping[str, Any]) -> None:
    """Raises ``UserError`` where rate, decay or an entry of ``optim_args`` did not reach the optimizer."""
    groups, name = facts["groups"], facts["class"].rpartition(".")[2]
    rates = {group["lr"] for group in groups}
    if rates != {args.learning_rate}:
        raise UserError(f"train.learning_rate is {args.learning_rate}, and {name} has {_listed(rates)}")
    decay = groups[0].get("weight_decay", 0.0)
    if decay != args.weight_decay:
        raise UserError(f"train.weight_decay is {args.weight_decay}, and {name} decays by {decay}")
    for key, value in optimizer_arguments(args.optim_args).items():
        values = [group[key] for group in groups if key in group]
        if not values:
            raise UserError(
                f"train.optim_args {key}={value}: {name}, which is train.optim {args.optim.value}, has no "
                f"{key}; it has {', '.join(sorted(groups[0]))}"
            )
        if not any(_same(value, there) for there in values):
            raise UserError(
                f"train.optim_args {key}={value} would have no effect: {name} has {key} {_listed(values)}; "
                f"if there is an option --train.{key}, it decides"
            )


def _same(text: str, value: Any) -> bool:
    """Whether a setting reads as it was typed: true for True, 1e-3 for 0.001."""
    if isinstance(value, bool):
        return (text.lower() in ("true", "1", "yes")) == value
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return text == str(value).removeprefix("torch.")


def _listed(values: Any) -> str:
    return " and ".join(sorted({str(value) for value in values}))


def _precision(accelerator: Any, model: torch.nn.Module) -> dict[str, Any]:
    """The types of weights and products, and how far the device may round within float32."""
    kinds = {name: _kind(weights.dtype) for name, weights in model.named_parameters()}
    trained = {kinds[name] for name, weights in model.named_parameters() if weights.requires_grad}
    one = torch.ones(1, 1, device=accelerator.device)
    with accelerator.autocast():  # as the forward pass of a step is
        products = _kind((one @ one).dtype)
    return {
        "mixed": accelerator.mixed_precision if accelerator.native_amp else "no",
        "products": products,
        "weights": sorted(set(kinds.values())),
        "trained_weights": sorted(trained),
        "default": _kind(torch.get_default_dtype()),
        "loss_scaled": accelerator.scaler is not None,
        "float32_products": torch.get_float32_matmul_precision(),  # highest: in float32; high: TF32 on a GPU
        "tf32": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
    }


def _optimizer(wrapped: Any, built: list[dict[str, Any]]) -> dict[str, Any]:
    """The class, and the settings of each group as ``built``: ``lr`` is the rate before the schedule."""
    optimizer: Optimizer = wrapped.optimizer if isinstance(wrapped, AcceleratedOptimizer) else wrapped
    groups = []
    for group in built:
        plain = {key: _plain(value) for key, value in group.items() if key != "initial_lr"}
        groups.append({**plain, "lr": _plain(group.get("initial_lr", group["lr"]))})
    return {"class": _name(optimizer), "groups": groups}


def _scheduler(wrapped: Any, built: Mapping[str, Any]) -> dict[str, Any]:
    """The class, and what the rate goes by: a rule with its arguments, or its settings as built."""
    scheduler = wrapped.scheduler if isinstance(wrapped, AcceleratedScheduler) else wrapped
    facts: dict[str, Any] = {"class": _name(scheduler)}
    if isinstance(scheduler, LambdaLR):
        rule: Any = scheduler.lr_lambdas[0]
        bound = getattr(rule, "keywords", {})  # transformers binds the arguments with functools.partial
        name = getattr(rule, "func", rule).__name__.removeprefix("_get_")
        return facts | {"rule": name.removesuffix("_lambda").removesuffix("_lr"), **_plain(bound)}
    hidden = ("_", "last", "num_bad", "best", "mode_worse", "cooldown_counter")  # its state, no setting
    own = {key: value for key, value in built.items() if not key.startswith(hidden)}
    return facts | {key: value for key, value in own.items() if isinstance(value, int | float | str)}


def _name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _plain(value: Any) -> Any:
    """Numbers, texts, lists and mappings as they are; anything else by its name."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
