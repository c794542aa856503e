"""What the page of clusters says in numbers of more devices than were measured."""

from docs.generate.markdown import table
from finetune.models.communication import LINKS, Link, Step
from finetune.models.scale import DEVICES, Shape
from finetune.models.sizes import DECODERS, size_of
from finetune.models.workload import Strategy
from finetune.studies.on_paper import USUAL

VOCABULARY = 50_257  # GPT-2's
LENGTH = 2048  # tokens of a window
STEP_TOKENS = {"125m": 2**19, "2.7b": 2**20}  # of GPT-3 at these sizes (Brown et al., 2020, table 2.1)
GPUS = (8, 64)
DEVICE = next(device for device in DEVICES if device.title == "H100 SXM")


def steps() -> list[tuple[str, Step]]:
    """The steps that are tabulated, each with the name of its model."""
    found = []
    for name, tokens in STEP_TOKENS.items():
        shape = Shape(*size_of(DECODERS[name]), VOCABULARY)
        for gpus in GPUS:
            step = Step(shape, LENGTH, tokens, gpus, tflops=DEVICE.tflops, mfu=USUAL.mfu)
            found.append((name, step))
    return found


def scaling() -> str:
    """Tabulates computing and exchange of a step by model, GPUs and strategy."""
    rows = []
    for name, step in steps():
        for strategy in (Strategy.DDP, Strategy.FSDP):
            at, computing = f"{step.tokens // step.devices:,}", _time(step.computing_s)
            cells = [_cell(step, strategy, link) for link in LINKS]
            rows.append([f"`{name}`", str(step.devices), at, computing, strategy.value, *cells])
    heading = ["model", "GPUs", "tokens a GPU", "computing", "strategy", *(link.title for link in LINKS)]
    return table(heading, rows)


def _cell(step: Step, strategy: Strategy, link: Link) -> str:
    """``23 ms: 88 to 100%``."""
    if link.within is not None and step.devices > link.within:
        return "none"
    least, most = step.efficiency(strategy, link)
    return f"{_time(step.exchanging_s(strategy, link))}: {100 * least:.0f} to {most:.0%}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"
