"""Training arguments by the names of other versions of transformers or other programs -> their names here."""

from collections.abc import Mapping

from finetune.errors import UserError

_NOTHING = "nothing: leave it out"
# What transformers 5 has renamed or taken out, arguments of Trainer itself, and names of other programs ->
# what to type after --train., unless it begins with two dashes or says that there is nothing to type.
INSTEAD: Mapping[str, str] = {
    "group_by_length": "train_sampling_strategy group_by_length",
    "evaluation_strategy": "eval_strategy",
    "warmup_ratio": "warmup_steps, where a number below 1 is a share of the steps",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "adafactor": "optim adafactor",
    "no_cuda": "use_cpu",
    "fp16_backend": "fp16 or --train.bf16: the backend is torch's own",
    "half_precision_backend": "fp16 or --train.bf16: the backend is torch's own",
    "torchdynamo": "torch_compile_backend",
    "include_tokens_per_second": "include_num_input_tokens_seen",
    "dispatch_batches": "accelerator_config, which holds it",
    "split_batches": "accelerator_config, which holds it",
    "fsdp_transformer_layer_cls_to_wrap": "fsdp_config, which holds it",
    "fsdp_min_num_params": "fsdp_config, which holds it",
    "include_inputs_for_metrics": _NOTHING,
    "evaluate_during_training": "eval_strategy steps",
    "lr": "learning_rate",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_train_steps": "max_steps",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "grad_clip": "max_grad_norm",
    "label_smoothing": "label_smoothing_factor",
    "max_seq_length": "--data.max_length",
    "tokenizer": "--model, whose own tokenizer is taken",
    "processing_class": "--model, whose own tokenizer is taken",
    "overwrite_output_dir": "nothing: a run folder is never overwritten, remove it by hand",
    "use_mps_device": "nothing: the device is chosen automatically",
    "save_safetensors": "nothing: weights are always saved as safetensors",
    **dict.fromkeys(("push_to_hub_model_id", "push_to_hub_organization"), "--to of finetune push"),
    "push_to_hub_token": "the environment variable HF_TOKEN: every record would show it",
    **dict.fromkeys(
        (
            "fp16_opt_level", "jit_mode_eval", "use_ipex", "past_index", "ray_scope", "mp_parameters",
            "xpu_backend", "tpu_num_cores", "tpu_metrics_debug", "use_legacy_prediction_loop",
        ),
        _NOTHING,
    ),
}  # fmt: skip
WHOLE = ("--", "nothing", "the environment")


def refuse(name: str) -> None:
    """Raises ``UserError`` for the former ``name`` of a field of TrainingArguments, with its present one."""
    if name in INSTEAD:
        instead = INSTEAD[name]
        typed = instead if instead.startswith(WHOLE) else f"--train.{instead}"
        raise UserError(f"train.{name} is no training argument of transformers 5: use {typed}")
