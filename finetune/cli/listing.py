"""The texts of ``finetune tasks`` and ``finetune variants``."""

from finetune.attention import VARIANTS
from finetune.tasks import TASKS


def tasks_text() -> str:
    """One block a task: what it is, where it comes from, its licence."""
    blocks = []
    for name, task in sorted(TASKS.items()):
        where = f"Hub: {task.hub_id} at {task.revision}" if task.hub_id else "local files only (DATA=folder)"
        blocks.append(
            f"{name}: {task.title}\n  {task.shape}\n  {where}\n  licence: {task.licence}; {task.source}"
        )
    return "\n".join(blocks)


def variants_text() -> str:
    """One block a variant: its formula, parameters and paper, and whether it is a control."""
    blocks = []
    for name, variant in VARIANTS.items():
        parameters = ", ".join(f"{key}={value:g}" for key, value in variant.parameters.items()) or "none"
        control = "\n  control, not from the paper on Self-Adjust Softmax" if variant.control else ""
        blocks.append(
            f"{name}: {variant.summary}\n  weights: {variant.equation}\n"
            f"  parameters: {parameters}\n  {variant.paper}{control}"
        )
    return "\n".join(blocks)
