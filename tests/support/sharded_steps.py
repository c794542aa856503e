"""Steps of models that two processes share out, against the same steps of whole ones: one process of them.

python -m tests.support.sharded_steps NAME...       prints a JSON list of ``Case``, by the main process

NAME: a family of ``tiny_models``, or ``encodings``.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional

import finetune
from finetune.models import sharding
from finetune.models.builder import weights_fingerprint
from finetune.positions import attach, get_encoding
from finetune.system import world
from finetune.system.shares import own_share, whole
from finetune.training.loop import spoiled
from finetune.training.sharded import whole_weights
from tests.support.tiny_models import FAMILIES, Family, Kind, batch

STEPS = 3
ROWS = 4
# Encodings that learn, one of each way: limits, a table that layers share, single numbers, a network.
ENCODINGS = ("kerple", "t5", "fire", "dapev2-kerple")


@dataclass(frozen=True)
class Case:
    """What one model gave: shared out, beside whole."""

    name: str
    losses: list[list[float]]  # of each step: whole, then shared out
    norms: list[list[float]]  # of the gradients
    weights: float  # the largest difference of any after the steps
    share: float  # of the numbers of all weights that this process held
    alike: bool  # the fingerprint is that of the weights gathered
    spoiled: int  # weights found to be no numbers, once one is in the other process


def cases(name: str) -> Iterator[tuple[str, Family, Callable[[], Any]]]:
    """A name, a family and what makes a model of it, the same one every time."""
    if name == "encodings":
        for each in ENCODINGS:
            yield each, FAMILIES["gpt_neox"], partial(with_encoding, each)
    else:
        for tied in (True, False):
            yield f"{name}, tied: {tied}", FAMILIES[name], partial(built, FAMILIES[name], tied)


def built(family: Family, tied: bool) -> Any:
    """A model of a family with sa-softmax."""
    model = family.build(tie_word_embeddings=tied)
    finetune.swap(model, "sa-softmax")
    return model


def with_encoding(name: str) -> Any:
    """A GPT-NeoX with a positional encoding of which some numbers are to be beyond their limits soon."""
    stock = FAMILIES["gpt_neox"].config_class(**FAMILIES["gpt_neox"].sizes)
    attach.free(stock, name)
    torch.manual_seed(0)
    model = FAMILIES["gpt_neox"].model_class(stock)
    model.set_attn_implementation("eager")
    finetune.swap(model, "sa-softmax")
    attach.attach(model.eval(), *get_encoding(name, {}), seed=1)
    return model


def trained(model: Any, kind: Kind, *, shared: bool) -> tuple[list[float], list[float]]:
    """The losses and the norms of the gradients of some steps on rows that the processes share, or not."""
    inputs = {name: torch.cat([rows, rows[:1].flip(-1)]) for name, rows in batch(kind, padded=False).items()}
    length = inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1]
    labels = torch.randint(0, 5, (ROWS, length), generator=torch.Generator().manual_seed(3))
    if shared:
        mine = slice(world.rank(), None, world.size())
        inputs, labels = {name: rows[mine] for name, rows in inputs.items()}, labels[mine]
    # With a usual eps, Adam would make whole steps of gradients that rounding alone has made.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-2)
    losses, norms = [], []
    for _ in range(STEPS):
        with torch.no_grad():  # an evaluation between two steps
            model(**inputs)
        logits = model(**inputs).logits
        loss = functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="sum") / (
            ROWS * length
        )
        (loss * (world.size() if shared else 1)).backward()
        norms.append(float(whole(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))))
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        if shared:
            dist.all_reduce(total)
        losses.append(float(total))
    return losses, norms


def compared(name: str, family: Family, make: Callable[[], Any]) -> Case:
    """One case."""
    kind = family.kind
    model, other = make(), make()
    sharding.shard(other, on_gpu=False)
    one, two = trained(model, kind, shared=False), trained(other, kind, shared=True)
    before, after = model.state_dict(), whole_weights(other, kept=True)
    print_of = weights_fingerprint(other)
    held = sum(own_share(weight).numel() for weight in other.parameters())
    again = make()
    again.load_state_dict(after)
    with torch.no_grad():
        first = next(other.parameters())
        own_share(first).fill_(float("nan") if world.rank() == 1 else 0.0)
    return Case(
        name,
        [one[0], two[0]],
        [one[1], two[1]],
        max(float((before[key] - after[key]).abs().max()) for key in before),
        held / sum(weight.numel() for weight in model.parameters()),
        weights_fingerprint(again) == print_of,
        len(spoiled(other)),
    )


def main() -> None:
    """Compares all cases, and prints them."""
    warnings.simplefilter("error")
    world.join(cpu=True)
    found = [asdict(compared(*case)) for name in sys.argv[1:] for case in cases(name)]
    if world.is_main():
        print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
